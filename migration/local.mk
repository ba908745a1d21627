# SPDX-License-Identifier: BSD-2-Clause
# migration: sessions.
noinst_LTLIBRARIES += libmig.la
libmig_la_SOURCES = \
	%D%/migration.h \
	%D%/session.h \
	%D%/wire.h \
	%D%/cost.c \
	%D%/destination.c \
	%D%/hurry.c \
	%D%/measures.c \
	%D%/pack.c \
	%D%/peer.c \
	%D%/postcopy.c \
	%D%/precopy.c \
	%D%/gentle.c \
	%D%/session.c \
	%D%/source.c \
	%D%/table.c \
	%D%/wire.c
libmig_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(LZ4_CFLAGS)
libmig_la_LIBADD = $(LZ4_LIBS)

# test_session moves real containers between three daemons; test_mover is what it moves, a program like any other.
check_PROGRAMS += %D%/test_table %D%/test_gentle %D%/test_session %D%/test_mover
TESTS += %D%/test_table %D%/test_gentle %D%/test_session
%C%_test_mover_SOURCES = %D%/test_mover.c
%C%_test_mover_CFLAGS = -O2 -g -Wall -Wextra -fno-sanitize=all
%C%_test_mover_LDFLAGS =
%C%_test_table_SOURCES = %D%/test_table.c
%C%_test_table_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_test_table_LDADD = libmig.la libct.la libgw-loop.la libgw-base.la $(JANSSON_LIBS)
%C%_test_gentle_SOURCES = %D%/test_gentle.c
%C%_test_gentle_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_test_gentle_LDADD = libmig.la libct.la libgw-loop.la libgw-base.la $(JANSSON_LIBS)
%C%_test_session_SOURCES = %D%/test_session.c %D%/test_world.h %D%/test_daemon.h
%C%_test_session_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_test_session_LDADD = libmig.la libct.la libgw-loop.la libgw-base.la $(JANSSON_LIBS)
