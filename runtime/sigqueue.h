/* SPDX-License-Identifier: BSD-2-Clause */
/* Signals that wait, in the order in which they came: for a rank that is on its way, or not started yet. */
#ifndef RT_SIGQUEUE_H
#define RT_SIGQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct rt_sigqueue {
	uint8_t n, list[95];
};

static inline bool rt_sigqueue_has(const struct rt_sigqueue *q, int sig)
{
	return memchr(q->list, sig, q->n) != NULL;
}

/* A full queue keeps one of each kind, as the kernel does with standard signals; there are fewer kinds than places. */
static inline void rt_sigqueue_add(struct rt_sigqueue *q, int sig)
{
	if (q->n == sizeof(q->list)) {
		struct rt_sigqueue once = { 0 };

		for (uint8_t i = 0; i < q->n; i++)
			if (!rt_sigqueue_has(&once, q->list[i]))
				once.list[once.n++] = q->list[i];
		*q = once;
	}
	if (sig > 0 && sig < 65)
		q->list[q->n++] = (uint8_t)sig;
}

#endif
