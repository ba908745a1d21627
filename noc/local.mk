# SPDX-License-Identifier: BSD-2-Clause
# noc: names, inboxes, channels, bulk transfers. One core, for ranks and daemons; daemons use its segment part only.
noinst_LTLIBRARIES += libnoc.la
libnoc_la_SOURCES = %D%/segment.h %D%/channel.h %D%/local.h %D%/segment.c %D%/inbox.c %D%/net.h %D%/channel.c %D%/path.c %D%/bulk.c \
	%D%/copy.h %D%/copy.c %D%/bell.c %D%/guests.c %D%/seats.c \
	%D%/member.c %D%/noc.h %D%/public.h %D%/public.c %D%/mailbox.c %D%/portal.c %D%/sync.c

# The network interface, for ranks only. Its keyed hash is linked in whole from libsodium.a: a shared library more would be
# five mappings more in every rank, which each move pays for.
noc_fabric_sources = %D%/fabric.h %D%/fabric.c %D%/conn.h %D%/conn.c %D%/limit.c %D%/meet.c %D%/core.c %D%/tcp.h %D%/tcp.c %D%/tcp_cm.c \
	%D%/descriptors.c
noinst_LTLIBRARIES += libnoc-fabric.la
libnoc_fabric_la_SOURCES = $(noc_fabric_sources)
libnoc_fabric_la_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)

check_PROGRAMS += %D%/test_net
TESTS += %D%/test_net
%C%_test_net_SOURCES = %D%/test_net.c %D%/test_traffic.h $(noc_fabric_sources)
%C%_test_net_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_test_net_LDADD = libnoc.la libct-rank.la libgw-base.la $(FABRIC_LIBS) $(SODIUM_LIBS) -lpthread
%C%_test_net_LDFLAGS = $(AM_LDFLAGS) -Wl,-rpath,$(MPICH_PREFIX)/lib

check_PROGRAMS += %D%/test_strays
TESTS += %D%/test_strays
%C%_test_strays_SOURCES = %D%/test_strays.c $(noc_fabric_sources)
%C%_test_strays_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_test_strays_LDADD = libnoc.la libct-rank.la libgw-base.la $(FABRIC_LIBS) $(SODIUM_LIBS) -lpthread
%C%_test_strays_LDFLAGS = $(AM_LDFLAGS) -Wl,-rpath,$(MPICH_PREFIX)/lib

check_PROGRAMS += %D%/test_switch
TESTS += %D%/test_switch
%C%_test_switch_SOURCES = %D%/test_switch.c $(noc_fabric_sources)
%C%_test_switch_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_test_switch_LDADD = libnoc.la libct-rank.la libgw-base.la $(FABRIC_LIBS) $(SODIUM_LIBS) -lpthread
%C%_test_switch_LDFLAGS = $(AM_LDFLAGS) -Wl,-rpath,$(MPICH_PREFIX)/lib

check_PROGRAMS += %D%/test_frame
TESTS += %D%/test_frame
%C%_test_frame_SOURCES = %D%/test_frame.c
%C%_test_frame_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread

check_PROGRAMS += %D%/test_segment %D%/test_inbox %D%/test_channel %D%/test_public
TESTS += %D%/test_segment %D%/test_inbox %D%/test_channel %D%/test_public
%C%_test_segment_SOURCES = %D%/test_segment.c
%C%_test_segment_LDADD = libnoc.la libct-rank.la libgw-base.la
%C%_test_inbox_SOURCES = %D%/test_inbox.c
%C%_test_inbox_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
%C%_test_channel_SOURCES = %D%/test_channel.c %D%/test_traffic.h
%C%_test_channel_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
%C%_test_public_SOURCES = %D%/test_public.c
%C%_test_public_LDADD = libnoc.la libct-rank.la libgw-base.la -lpthread
check_PROGRAMS += %D%/test_seats
TESTS += %D%/test_seats
%C%_test_seats_SOURCES = %D%/test_seats.c
%C%_test_seats_LDADD = libnoc.la libct-rank.la libgw-base.la
include_HEADERS += %D%/noc.h
dist_man_MANS += doc/noc.3
