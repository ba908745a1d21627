# SPDX-License-Identifier: BSD-2-Clause
# examples: MPI programs to read. Built with the tree by plain $(CC) and MPICH's flags.
# -ffp-contract=off: a product and a sum must round twice wherever they are compiled, so that gcc's and clang's programs
# print the same checksums, on any CPU. Never -ffast-math.
EXAMPLES_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
EXAMPLES_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
EXAMPLES_LDADD = $(MPI_LIBS) -lm

noinst_PROGRAMS += %D%/jacobi %D%/fast %D%/friendly %D%/gauss %D%/is %D%/kmeans %D%/lu %D%/tsp %D%/drift

%C%_jacobi_SOURCES = %D%/jacobi.c %D%/example.h
%C%_jacobi_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_jacobi_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_jacobi_LDADD = $(EXAMPLES_LDADD)

%C%_friendly_SOURCES = %D%/friendly.c %D%/example.h
%C%_friendly_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_friendly_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_friendly_LDADD = $(EXAMPLES_LDADD)

%C%_gauss_SOURCES = %D%/gauss.c %D%/example.h
%C%_gauss_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_gauss_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_gauss_LDADD = $(EXAMPLES_LDADD)

%C%_kmeans_SOURCES = %D%/kmeans.c %D%/example.h
%C%_kmeans_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_kmeans_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_kmeans_LDADD = $(EXAMPLES_LDADD)

%C%_drift_SOURCES = %D%/drift.c %D%/example.h
%C%_drift_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_drift_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_drift_LDADD = $(EXAMPLES_LDADD)

%C%_fast_SOURCES = %D%/fast.c %D%/example.h
%C%_fast_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_fast_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_fast_LDADD = $(EXAMPLES_LDADD)

%C%_is_SOURCES = %D%/is.c %D%/example.h
%C%_is_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_is_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_is_LDADD = $(EXAMPLES_LDADD)

%C%_lu_SOURCES = %D%/lu.c %D%/example.h
%C%_lu_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_lu_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_lu_LDADD = $(EXAMPLES_LDADD)

%C%_tsp_SOURCES = %D%/tsp.c %D%/example.h
%C%_tsp_CPPFLAGS = $(EXAMPLES_CPPFLAGS)
%C%_tsp_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_tsp_LDADD = $(EXAMPLES_LDADD)

# Machines for mpirun -machine; in the build tree it looks for them beside itself.
machinesdir = $(pkgdatadir)/machines
dist_machines_DATA = %D%/machines/mppa256 %D%/machines/torus4x4 %D%/machines/mesh3x4 %D%/machines/tree2x4
noinst_DATA = machines
CLEANFILES += machines
machines:
	$(LN_S) $(abs_top_srcdir)/%D%/machines $@

EXTRA_DIST += %D%/demo.sh %D%/slurm.sbatch %D%/requeue.sbatch

# The programming interface (doc/interface.md); the test compiles the one in Fortran.
noinst_PROGRAMS += %D%/moments
%C%_moments_SOURCES = %D%/moments.c
%C%_moments_CPPFLAGS = $(EXAMPLES_CPPFLAGS) -I$(top_srcdir)/mpi-shim
%C%_moments_CFLAGS = $(EXAMPLES_CFLAGS)
%C%_moments_LDADD = libgodwit_mpix.a $(EXAMPLES_LDADD)
EXTRA_DIST += %D%/moments.f90
