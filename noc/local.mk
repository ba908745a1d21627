# SPDX-License-Identifier: BSD-2-Clause
# noc: names, inboxes, channels, bulk transfers. One core, for ranks and daemons; daemons use its segment part only.
noinst_LTLIBRARIES += libnoc.la
libnoc_la_SOURCES = %D%/segment.h %D%/channel.h %D%/local.h %D%/segment.c %D%/inbox.c %D%/channel.c %D%/bulk.c \
	%D%/member.c %D%/noc.h %D%/public.h %D%/public.c %D%/mailbox.c %D%/portal.c %D%/sync.c

check_PROGRAMS += %D%/test_segment %D%/test_inbox %D%/test_channel %D%/test_public
TESTS += %D%/test_segment %D%/test_inbox %D%/test_channel %D%/test_public
%C%_test_segment_SOURCES = %D%/test_segment.c
%C%_test_segment_LDADD = libnoc.la libct-rank.la libgw-base.la
%C%_test_inbox_SOURCES = %D%/test_inbox.c
%C%_test_inbox_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
%C%_test_channel_SOURCES = %D%/test_channel.c
%C%_test_channel_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
%C%_test_public_SOURCES = %D%/test_public.c
%C%_test_public_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
include_HEADERS += %D%/noc.h
dist_man_MANS += doc/noc.3
