# SPDX-License-Identifier: BSD-2-Clause
# The simulation: real channels and connections over a simulated libfabric, in an order that a seed decides. A short run is
# part of make check; make check-sim SIM_SECONDS=600 SIM_FROM=1000000 searches on.
check_PROGRAMS += %D%/sim
TESTS += %D%/sim
%C%_sim_SOURCES = %D%/story.h %D%/story.c %D%/sim.h %D%/sim.c %D%/traffic.c %D%/wire.h %D%/wire.c %D%/nics.c
%C%_sim_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_sim_LDADD = libnoc.la libct-rank.la libgw-base.la $(SODIUM_LIBS) -lpthread
%C%_sim_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=gw_now_ns,--wrap=gw_log,--wrap=nanosleep

# Real sessions (migration/) between daemons whose sockets, hosts, head and containers are simulated. Always built: who adds a
# call of container/ to a session sees at once that bodies.c must answer it too.
noinst_PROGRAMS += %D%/moves
TESTS += %D%/moves
%C%_moves_SOURCES = %D%/story.h %D%/story.c %D%/moves.h %D%/moves.c %D%/scheduler.c %D%/sockets.c %D%/bodies.c \
	%D%/proofs.c
%C%_moves_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_moves_LDADD = libmig.la libgw-base.la $(JANSSON_LIBS)
%C%_moves_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=gw_now_ns,--wrap=gw_log,--wrap=gw_fault,--wrap=poll,--wrap=setsockopt \
	-Wl,--wrap=setpriority,--wrap=signalfd,--wrap=read,--wrap=close

SIM_SECONDS = 60
SIM_FROM = $$(date +%s)000
.PHONY: check-sim
check-sim: all %D%/sim %D%/moves
	nice %D%/sim --from $(SIM_FROM) --seconds $(SIM_SECONDS)
	nice %D%/moves --from $(SIM_FROM) --seconds $(SIM_SECONDS)
