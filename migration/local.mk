# SPDX-License-Identifier: BSD-2-Clause
# migration: sessions.
noinst_LTLIBRARIES += libmig.la
libmig_la_SOURCES = %D%/migration.h %D%/session.h %D%/wire.h %D%/session.c %D%/source.c %D%/destination.c %D%/peer.c \
	%D%/wire.c %D%/measures.c
libmig_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
