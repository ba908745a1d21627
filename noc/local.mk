# SPDX-License-Identifier: BSD-2-Clause
# noc: names, inboxes, channels, bulk transfers. One core, for ranks and daemons; daemons use its segment part only.
# noinst_LTLIBRARIES += libnoc.la
# libnoc_la_SOURCES = %D%/segment.h %D%/segment.c %D%/channel.h %D%/channel.c
