# SPDX-License-Identifier: BSD-2-Clause
# migration: sessions.
# noinst_LTLIBRARIES += libmig.la
# libmig_la_SOURCES = %D%/session.c
