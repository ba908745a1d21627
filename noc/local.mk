# SPDX-License-Identifier: BSD-2-Clause
# noc: names, inboxes, channels, bulk transfers. One core, for ranks and daemons; daemons use its segment part only.
noinst_LTLIBRARIES += libnoc.la
libnoc_la_SOURCES = %D%/segment.h %D%/channel.h %D%/local.h %D%/segment.c %D%/inbox.c %D%/channel.c %D%/bulk.c \
	%D%/member.c

check_PROGRAMS += %D%/test_segment %D%/test_inbox %D%/test_channel
TESTS += %D%/test_segment %D%/test_inbox %D%/test_channel
%C%_test_segment_SOURCES = %D%/test_segment.c
%C%_test_segment_LDADD = libnoc.la libct-rank.la libgw-base.la
%C%_test_inbox_SOURCES = %D%/test_inbox.c
%C%_test_inbox_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
%C%_test_channel_SOURCES = %D%/test_channel.c
%C%_test_channel_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
