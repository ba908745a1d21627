/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/probe.h: what this host lets this user do, and what follows from it, for 'godwit doctor' and for messages.
 *
 * Everything is found out by doing it, once, in this process and in children that end with the call. Nothing is asked of
 * version numbers: distributions carry features back, and filters take them away.
 */
#ifndef CT_PROBE_H
#define CT_PROBE_H

#include <stdbool.h>

#include "runtime/base/base.h"

/* Each 0, or the negative errno that the trial met */
struct ct_trials {
	int namespaces;      /* PID and mount, as ranks would get them: in a user namespace when not root */
	int userns, timens;
	int clone3, set_tid; /* thread ids that are chosen */
	int ptrace;          /* of a child */
	int vm, mem_file;    /* its memory: process_vm_readv and _writev; /proc/PID/mem */
	int pidfd, kcmp;     /* its descriptors: fetched; compared */
	int pagemap_scan, wp_async, soft_dirty;
	int userfault, userfault_full; /* missing pages: of user code; of the kernel on its behalf too */
	int userfault_events; /* it tells of forks, and of memory that is moved or given back */
	int membarrier, memfd, rseq;
	int timers, mm_map;  /* CONFIG_CHECKPOINT_RESTORE: /proc/PID/timers; PR_SET_MM_MAP */
};
const struct ct_trials *ct_host_try(void);

/* can ranks leave and arrive? */
static inline bool ct_trials_can_move(const struct ct_trials *t)
{
	return t->namespaces == 0 && t->set_tid == 0 && t->ptrace == 0 && t->pidfd == 0 && (t->vm == 0 || t->mem_file == 0);
}

enum ct_verdict { CT_FINE, CT_DEGRADED, CT_MISSING }; /* nothing to do; something is slower or refused; no job runs */

struct ct_finding {
	const char *name;
	enum ct_verdict verdict;
	char what[256];      /* what there is, or is not, and what that means for running and for moving */
	char mend[256];      /* what to do; "" for nothing */
};

/** ct_host_findings - one for each mechanism of the kernel; returns how many, at most @cap */
size_t ct_host_findings(struct ct_finding *out, size_t cap);

#endif
