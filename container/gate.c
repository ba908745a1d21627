/* SPDX-License-Identifier: BSD-2-Clause */
/* The gate: who owns the provider's state, a program thread inside or the agent; see agent.h. */
#include "container/agent.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct ct_gate ct_the_gate;

static void futex_wait_private(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_private(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void ct_gate_enter_slow(void)
{
	struct ct_gate *g = &ct_the_gate;
	uint32_t shut;

	do {
		atomic_store_explicit(&g->is_inside, 0, memory_order_release);
		while ((shut = atomic_load_explicit(&g->shut, memory_order_acquire)) & CT_GATE_CLOSED)
			futex_wait_private(&g->shut, shut);
		atomic_store_explicit(&g->is_inside, 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
	} while (atomic_load_explicit(&g->shut, memory_order_acquire) & CT_GATE_CLOSED);
}

/* Every thread of the process has passed a full barrier on return. The registration is lost by exec and by a move that
 * could not carry it, so it is renewed where it is missed. */
static bool barrier_everywhere(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0 ||
	       (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 &&
	        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0) ||
	       syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0; /* slow (milliseconds), needs no registration */
}

void ct_gate_probe(void)
{
	if (!barrier_everywhere())
		atomic_fetch_or_explicit(&ct_the_gate.shut, CT_GATE_FENCE, memory_order_relaxed);
}

int ct_gate_close(uint64_t deadline_ms)
{
	struct ct_gate *g = &ct_the_gate;
	uint64_t end = gw_now_ns() + deadline_ms * 1000000u;
	uint32_t shut = atomic_fetch_or_explicit(&g->shut, CT_GATE_CLOSED, memory_order_relaxed);

	/* Pairs with the two plain stores and the load of ct_gate_enter(): after this either the program thread has seen
	 * the word, or we see is_inside. */
	if (shut & CT_GATE_FENCE) {
		atomic_thread_fence(memory_order_seq_cst); /* pairs with that of whoever enters */
	} else if (!barrier_everywhere()) {
		/* a rank that came from a kernel that has it: who enters from now on pays, but one may be inside unseen */
		atomic_fetch_or_explicit(&g->shut, CT_GATE_FENCE, memory_order_relaxed);
		ct_gate_open();
		return -EAGAIN;
	}
	for (unsigned tries = 0; atomic_load_explicit(&g->is_inside, memory_order_acquire); tries++) {
		if (gw_now_ns() > end) {
			ct_gate_open();
			return -ETIMEDOUT;
		}
		if (tries < 64) {
			__builtin_ia32_pause();
		} else if (tries < 128) {
			sched_yield();
		} else { /* it was preempted inside: leave it the core */
			struct timespec t = { .tv_nsec = 20000 };

			nanosleep(&t, NULL);
		}
	}
	return 0;
}

void ct_gate_open(void)
{
	atomic_fetch_and_explicit(&ct_the_gate.shut, ~CT_GATE_CLOSED, memory_order_release);
	futex_wake_private(&ct_the_gate.shut);
}
