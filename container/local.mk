# SPDX-License-Identifier: BSD-2-Clause
# container: libct.la is the daemon's side, libct-rank.la the rank's (gate, agent, user area).
EXTRA_DIST += doc/container.md doc/state.md

noinst_LTLIBRARIES += libct.la
libct_la_SOURCES = \
	%D%/cold.h \
	%D%/container.h \
	%D%/cpu.h \
	%D%/files.h \
	%D%/image.h \
	%D%/probe.h \
	%D%/places.h \
	%D%/proof.h \
	%D%/rank.h \
	%D%/room.h \
	%D%/spans.h \
	%D%/affinity.c \
	%D%/around.c \
	%D%/capture.c \
	%D%/carry.c \
	%D%/cgroup.c \
	%D%/check.c \
	%D%/clocks.c \
	%D%/cold.c \
	%D%/cpu.c \
	%D%/fds.c \
	%D%/fetch.c \
	%D%/findings.c \
	%D%/files.c \
	%D%/fit.c \
	%D%/follow.c \
	%D%/freeze.c \
	%D%/handles.c \
	%D%/helper.c \
	%D%/holds.c \
	%D%/image.c \
	%D%/init.c \
	%D%/inject.c \
	%D%/locks.c \
	%D%/marks.c \
	%D%/memfile.c \
	%D%/memory.c \
	%D%/numa.c %D%/own.c \
	%D%/pages.c \
	%D%/pairs.c \
	%D%/places.c \
	%D%/plumb.c \
	%D%/polls.c \
	%D%/probe.c \
	%D%/proc.c \
	%D%/regs.c \
	%D%/restore.c \
	%D%/restore_fds.c \
	%D%/restore_maps.c \
	%D%/restore_threads.c \
	%D%/room.c \
	%D%/same.c \
	%D%/serve.c \
	%D%/shell.c \
	%D%/sockets.c \
	%D%/spans.c \
	%D%/spawn.c \
	%D%/sysv.c \
	%D%/timers.c \
	%D%/traits.c \
	%D%/vdso.c \
	%D%/vmas.c \
	%D%/xstate.c

# The program that the tests move is one like any other: no sanitizer, none of our libraries.
check_PROGRAMS += %D%/victim %D%/test_files %D%/test_image %D%/test_move %D%/test_move_user %D%/test_fetch %D%/bench_move
TESTS += %D%/test_files %D%/test_image %D%/test_move %D%/test_move_user %D%/test_fetch
%C%_test_files_SOURCES = %D%/test_files.c
%C%_test_files_LDADD = libct.la libgw-base.la
%C%_test_image_SOURCES = %D%/test_image.c
%C%_test_image_LDADD = libct.la libgw-base.la
check_PROGRAMS += %D%/test_room %D%/test_cpu %D%/test_spans %D%/test_places %D%/test_vdso
TESTS += %D%/test_room %D%/test_cpu %D%/test_spans %D%/test_places %D%/test_vdso
%C%_test_vdso_SOURCES = %D%/test_vdso.c
%C%_test_vdso_LDADD = libct.la libgw-base.la
%C%_test_places_SOURCES = %D%/test_places.c
%C%_test_places_LDADD = libct.la libgw-base.la
%C%_test_spans_SOURCES = %D%/test_spans.c
%C%_test_spans_LDADD = libct.la libgw-base.la
%C%_test_cpu_SOURCES = %D%/test_cpu.c
%C%_test_cpu_LDADD = libct.la libgw-base.la
%C%_test_room_SOURCES = %D%/test_room.c
%C%_test_room_LDADD = libct.la libgw-base.la
%C%_victim_SOURCES = %D%/victim.c %D%/victim.h %D%/victim_events.c %D%/victim_fetch.c %D%/victim_files.c \
	%D%/victim_handles.c %D%/victim_memory.c %D%/victim_regions.c %D%/victim_sections.c %D%/victim_sysv.c %D%/victim_traits.c %D%/victim_waits.c
%C%_victim_CFLAGS = -O2 -g -Wall -Wextra -fno-sanitize=all
%C%_victim_LDFLAGS =
%C%_victim_LDADD = -lpthread -lrt
%C%_test_move_SOURCES = %D%/test_move.c %D%/test_hops.h %D%/test_pair.h
%C%_test_move_LDADD = libct.la libgw-base.la
%C%_test_move_user_SOURCES = %D%/test_move_user.c
%C%_test_move_user_LDADD = libct.la libgw-base.la
%C%_test_fetch_SOURCES = %D%/test_fetch.c %D%/test_hops.h %D%/test_pair.h
%C%_test_fetch_LDADD = libct.la libgw-base.la
# compiled by the test, which skips what the compilers here cannot do
EXTRA_DIST += %D%/victim_cxx.cc %D%/victim_omp.c
check_PROGRAMS += %D%/test_affinity
TESTS += %D%/test_affinity
%C%_test_affinity_SOURCES = %D%/test_affinity.c
%C%_test_affinity_LDADD = libct.la libgw-base.la

check_PROGRAMS += %D%/test_numa
TESTS += %D%/test_numa
%C%_test_numa_SOURCES = %D%/test_numa.c
%C%_test_numa_LDADD = libct.la libgw-base.la
check_PROGRAMS += %D%/test_state %D%/test_state_user
TESTS += %D%/test_state %D%/test_state_user
check_PROGRAMS += %D%/test_fetch_user
TESTS += %D%/test_fetch_user
%C%_test_fetch_user_SOURCES = %D%/test_fetch_user.c
%C%_test_fetch_user_LDADD = libct.la libgw-base.la
%C%_test_state_SOURCES = %D%/test_state.c
%C%_test_state_LDADD = libct.la libgw-base.la
%C%_test_state_user_SOURCES = %D%/test_state_user.c
%C%_test_state_user_LDADD = libct.la libgw-base.la
%C%_bench_move_SOURCES = %D%/bench_move.c %D%/test_pair.h
%C%_bench_move_LDADD = libct.la libgw-base.la

noinst_LTLIBRARIES += libct-rank.la
libct_rank_la_SOURCES = %D%/agent.h %D%/ctl.h %D%/wish.h %D%/agent.c %D%/area.c %D%/gate.c %D%/wish.c
check_PROGRAMS += %D%/test_gate
TESTS += %D%/test_gate
%C%_test_gate_SOURCES = %D%/test_gate.c
%C%_test_gate_LDADD = libct-rank.la libgw-base.la -lpthread

check_PROGRAMS += %D%/test_agent
TESTS += %D%/test_agent
%C%_test_agent_SOURCES = %D%/test_agent.c
%C%_test_agent_LDADD = libct-rank.la libgw-base.la -lpthread
