/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mpi-shim/interface.h: between the calls of godwit.h in a program (mpix.c) and libgodwit.so in the same process (interface.c).
 *
 * The program is not linked with libgodwit.so: under another MPI there is none. It looks for this table in what has been loaded.
 * Number and order of entries never change; new ones come at the end, with a larger size.
 */
#ifndef SHIM_INTERFACE_H
#define SHIM_INTERFACE_H

#include <stdint.h>

#define INTERFACE_LIBRARY "libgodwit.so.0"
#define INTERFACE_SYMBOL  "godwit_interface_1"

struct interface {
	uint32_t size; /* of this struct */
	/* -ENOTCONN: not one of mpirun's, or not between MPI_Init and MPI_Finalize */
	int (*where)(int *cluster, int *host, int *moves);
	/* @what: enum ct_wish. 0; negative errno with a sentence in @text */
	int (*ask)(int what, const char *where, uint32_t timeout_ms, char *text, uint32_t size);
	int (*moment)(void); /* 1: somebody waits for it, so ask */
	void (*load)(double processors);
	int (*hooks)(int (*before)(int, void *), void (*after)(int, void *), void *arg);
	int (*is_hook)(void); /* does the runtime's own thread call? */
};

#endif
