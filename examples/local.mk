# SPDX-License-Identifier: BSD-2-Clause
# examples: MPI programs to read. Built with the tree by plain $(CC) and MPICH's flags.
# noinst_PROGRAMS += %D%/jacobi
# %C%_jacobi_SOURCES = %D%/jacobi.c
# %C%_jacobi_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
# %C%_jacobi_LDADD = $(MPI_LIBS) -lm
