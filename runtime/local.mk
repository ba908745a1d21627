# SPDX-License-Identifier: BSD-2-Clause
# runtime: the base that all use, and the programs godwitd, mpirun and godwit.

# Safe inside a rank: allocates nothing, starts nothing.
noinst_LTLIBRARIES += libgw-base.la
libgw_base_la_SOURCES = %D%/base/base.c %D%/base/base.h

# For daemons and tools: event loop and framed connections.
noinst_LTLIBRARIES += libgw-loop.la
libgw_loop_la_SOURCES = %D%/base/loop.c %D%/base/loop.h %D%/base/link.c %D%/base/link.h
libgw_loop_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libgw_loop_la_LIBADD = libgw-base.la $(JANSSON_LIBS)

# bin_PROGRAMS += godwitd mpirun godwit
# godwitd_SOURCES = %D%/godwitd.c
# godwitd_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(HWLOC_CFLAGS) -DGODWIT_PKGLIBDIR='"$(pkglibdir)"'
# godwitd_LDADD = libmig.la libct.la libnoc.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) $(HWLOC_LIBS)
check_PROGRAMS += %D%/base/test_base %D%/base/test_loop %D%/base/test_link
TESTS += %D%/base/test_base %D%/base/test_loop %D%/base/test_link
%C%_base_test_base_SOURCES = %D%/base/test_base.c tests/tap.h
%C%_base_test_base_LDADD = libgw-base.la
%C%_base_test_loop_SOURCES = %D%/base/test_loop.c tests/tap.h
%C%_base_test_loop_LDADD = libgw-loop.la libgw-base.la
%C%_base_test_link_SOURCES = %D%/base/test_link.c tests/tap.h
%C%_base_test_link_LDADD = libgw-loop.la libgw-base.la
