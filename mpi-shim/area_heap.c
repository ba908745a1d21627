/* SPDX-License-Identifier: BSD-2-Clause */
/* The user area's calls over malloc: what it is compared with (mpi-shim/area_bench.c). Blocks lie where the program's heap has room. */
#include "container/agent.h"

#include <stdlib.h>

static size_t used;

void *ct_area_alloc(size_t size)
{
	used += size;
	return malloc(size);
}

void *ct_area_zalloc(size_t size)
{
	used += size;
	return calloc(1, size);
}

void ct_area_free(void *p, size_t size)
{
	used -= p ? size : 0;
	free(p);
}

size_t ct_area_used(void)
{
	return used;
}
