/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What parallel debuggers look for in the process that starts a job (the MPIR process acquisition interface): a table of
 * processes by these names, and a function where they set a breakpoint. The numbers are those of each host, outside the
 * containers, by which "gdb -p" attaches; they stay true when ranks move.
 */
#include <stdlib.h>

#include "runtime/launcher/head.h"

struct MPIR_PROCDESC { /* the interface has these names and this order */
	char *host_name;
	char *executable_name;
	int pid;
};

#define MPIR_NULL          0
#define MPIR_DEBUG_SPAWNED 1
#define FOR_DEBUGGERS      __attribute__((used, visibility("default")))

extern struct MPIR_PROCDESC *MPIR_proctable;
extern int MPIR_proctable_size;
extern volatile int MPIR_debug_state, MPIR_being_debugged;
extern int MPIR_i_am_starter, MPIR_partial_attach_ok;
void MPIR_Breakpoint(void);

FOR_DEBUGGERS struct MPIR_PROCDESC *MPIR_proctable;
FOR_DEBUGGERS int MPIR_proctable_size;
FOR_DEBUGGERS volatile int MPIR_debug_state = MPIR_NULL;
FOR_DEBUGGERS volatile int MPIR_being_debugged; /* written by the debugger */
FOR_DEBUGGERS int MPIR_i_am_starter, MPIR_partial_attach_ok = 1;

FOR_DEBUGGERS __attribute__((noinline)) void MPIR_Breakpoint(void)
{
	__asm__ volatile("" ::: "memory"); /* a call that nobody optimizes away */
}

static void describe(struct head *h, uint32_t rank)
{
	struct MPIR_PROCDESC *p = &MPIR_proctable[rank];

	p->host_name = h->hosts[h->clusters[h->ranks[rank].cluster].host].name;
	p->executable_name = h->spec->apps[h->ranks[rank].app].argv.n ? h->spec->apps[h->ranks[rank].app].argv.list[0] : "";
	p->pid = (int)h->ranks[rank].pid;
}

void debug_moved(struct head *h, uint32_t rank)
{
	if (MPIR_proctable && rank < (uint32_t)MPIR_proctable_size)
		describe(h, rank);
}

void debug_launched(struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_WAITING)
			return;
	if (!MPIR_proctable)
		MPIR_proctable = calloc(h->room, sizeof(*MPIR_proctable)); /* what is not used is never touched */
	if (!MPIR_proctable)
		return;
	for (uint32_t r = 0; r < h->size; r++)
		describe(h, r);
	MPIR_proctable_size = (int)h->size;
	MPIR_debug_state = MPIR_DEBUG_SPAWNED;
	if (MPIR_being_debugged)
		MPIR_Breakpoint();
}

void debug_fini(void)
{
	free(MPIR_proctable);
	MPIR_proctable = NULL;
	MPIR_proctable_size = 0;
}
