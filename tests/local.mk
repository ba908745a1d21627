# SPDX-License-Identifier: BSD-2-Clause
# tests: system tests. Scripts speak TAP and end in .sh; MPI programs that they start are check_PROGRAMS only.
EXTRA_DIST += %D%/tap.h
# check_PROGRAMS += %D%/storm
# %C%_storm_SOURCES = %D%/storm.c
# %C%_storm_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
# %C%_storm_LDADD = $(MPI_LIBS)
# TESTS += %D%/test_storm.sh
# dist_check_SCRIPTS += %D%/test_storm.sh
