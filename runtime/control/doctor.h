/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime/control/doctor: what godwit doctor finds on this host, and what of other hosts differs from it. */
#ifndef RT_DOCTOR_H
#define RT_DOCTOR_H

#include <jansson.h>

#include "container/probe.h"
#include "runtime/launcher/options.h"

#define DOCTOR_FINDINGS 64

/* What one host says of itself */
struct doctor_host {
	const char *name;        /* as it was called */
	struct ct_finding findings[DOCTOR_FINDINGS];
	size_t n;
	json_t *self;            /* hostname, release, version, build, vdso, cpu; NULL: it has not answered */
	json_t *paths;           /* of --look: path -> size, -1 where it is not there */
	int64_t ahead_ns;        /* its time of day minus ours, when its answer came */
	char trouble[900];       /* why it has not answered */
	json_t *texts;           /* holds what @findings points to, of a host that is not this one */
};

/** doctor_say - one more finding; @mend: what to do, "" for nothing */
void doctor_say(struct doctor_host *h, const char *name, enum ct_verdict verdict, const char *mend, const char *fmt, ...)
	GW_PRINTF(5, 6);

/** doctor_look - at this host; @look: paths to tell of */
void doctor_look(struct doctor_host *h, const struct strings *look);

/** doctor_ask - the other hosts of @spec, all at once, through the launcher of @spec; each answers or has a @trouble */
int doctor_ask(struct doctor_host *hosts, const struct job_spec *spec, const struct strings *look, struct gw_error *why);
void doctor_report(const struct doctor_host *h); /* as doctor_ask reads it */

/** doctor_compare - add to @other what differs from @here and matters for jobs that have both */
void doctor_compare(struct doctor_host *other, const struct doctor_host *here);

void doctor_fini(struct doctor_host *h);

#endif
