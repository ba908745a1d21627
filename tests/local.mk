# SPDX-License-Identifier: BSD-2-Clause
# tests: system tests. Scripts speak TAP and end in .sh; MPI programs that they start are check_PROGRAMS only.
EXTRA_DIST += %D%/tap.h

# The moving storm: an MPI program that checks every byte it exchanges. See storm/storm.h.
check_PROGRAMS += %D%/storm/storm
%C%_storm_storm_SOURCES = %D%/storm/storm.h %D%/storm/storm.c %D%/storm/body.c %D%/storm/p2p.c %D%/storm/coll.c \
	%D%/storm/rma.c %D%/storm/alone.c
%C%_storm_storm_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_storm_storm_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
%C%_storm_storm_LDADD = $(MPI_LIBS)

# Benchmarks: compiled by bench.py with each MPI's own wrapper; built here too, so that they stay clean.
EXTRA_DIST += %D%/traces/drift-loads.json %D%/snapshots/drift-four-shares.json %D%/snapshots/jacobi-two-clusters.json %D%/snapshots/uneven-two-clusters.json
EXTRA_DIST += %D%/bench/balance.py %D%/bench/commplace.py %D%/bench/base.py %D%/bench/bench.py %D%/bench/hosts.py %D%/bench/measure.py %D%/bench/migrate.py %D%/bench/moves.py %D%/bench/slowlink.py %D%/bench/net.py \
	%D%/bench/onehost.py %D%/bench/turns.py %D%/bench/onesided.py %D%/bench/start.py %D%/bench/picture.py %D%/bench/area.py
noinst_PROGRAMS += %D%/bench/onehost %D%/bench/pingpong %D%/bench/onesided %D%/bench/downtime %D%/bench/pause %D%/bench/crowd \
	%D%/bench/copy %D%/bench/start %D%/bench/contents %D%/bench/ring
%C%_bench_copy_SOURCES = %D%/bench/copy.c
%C%_bench_ring_SOURCES = %D%/bench/ring.c %D%/bench/halo.h
%C%_bench_start_SOURCES = %D%/bench/start.c %D%/bench/base.h
%C%_bench_start_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_start_LDADD = $(MPI_LIBS)
%C%_bench_onehost_SOURCES = %D%/bench/onehost.c %D%/bench/base.h %D%/bench/halo.h
%C%_bench_onehost_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_onehost_LDADD = $(MPI_LIBS)
%C%_bench_pingpong_SOURCES = %D%/bench/pingpong.c %D%/bench/base.h
%C%_bench_pingpong_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_pingpong_LDADD = $(MPI_LIBS)
%C%_bench_onesided_SOURCES = %D%/bench/onesided.c %D%/bench/base.h
%C%_bench_onesided_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_onesided_LDADD = $(MPI_LIBS)
%C%_bench_downtime_SOURCES = %D%/bench/downtime.c
%C%_bench_downtime_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_downtime_LDADD = $(MPI_LIBS)
%C%_bench_contents_SOURCES = %D%/bench/contents.c
%C%_bench_contents_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_contents_LDADD = $(MPI_LIBS)
%C%_bench_pause_SOURCES = %D%/bench/pause.c
%C%_bench_pause_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_pause_LDADD = $(MPI_LIBS)
%C%_bench_crowd_SOURCES = %D%/bench/crowd.c
%C%_bench_crowd_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_bench_crowd_LDADD = $(MPI_LIBS)

# Programs that behave, and end, in every way; and what drives jobs and moves their ranks.
check_PROGRAMS += %D%/programs/conduct
%C%_programs_conduct_SOURCES = %D%/programs/conduct.c
%C%_programs_conduct_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_conduct_LDADD = $(MPI_LIBS) -lpthread
check_PROGRAMS += %D%/programs/deny
%C%_programs_deny_SOURCES = %D%/programs/deny.c
# Watches its clocks while it is moved.
check_PROGRAMS += %D%/programs/clocks
%C%_programs_clocks_SOURCES = %D%/programs/clocks.c
%C%_programs_clocks_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_clocks_LDADD = $(MPI_LIBS) -lpthread
# Ranks that hold something that cannot move.
check_PROGRAMS += %D%/programs/held
%C%_programs_held_SOURCES = %D%/programs/held.c
%C%_programs_held_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_held_LDADD = $(MPI_LIBS) -lpthread -lrt
# Half of its ranks have more to do.
check_PROGRAMS += %D%/programs/uneven
%C%_programs_uneven_SOURCES = %D%/programs/uneven.c %D%/programs/until.h
%C%_programs_uneven_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_uneven_LDADD = $(MPI_LIBS)
# Makes the calls of godwit.h.
check_PROGRAMS += %D%/programs/asker
%C%_programs_asker_SOURCES = %D%/programs/asker.c
%C%_programs_asker_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/mpi-shim $(MPI_CPPFLAGS)
%C%_programs_asker_LDADD = libgodwit_mpix.a $(MPI_LIBS) -lpthread -lm
EXTRA_DIST += %D%/driver/interface.py
# Ranks that talk to their neighbours in a grid.
check_PROGRAMS += %D%/programs/neighbours
%C%_programs_neighbours_SOURCES = %D%/programs/neighbours.c %D%/programs/until.h
%C%_programs_neighbours_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_neighbours_LDADD = $(MPI_LIBS)
# Ranks that write one file with MPI-IO.
check_PROGRAMS += %D%/programs/mpiio
%C%_programs_mpiio_SOURCES = %D%/programs/mpiio.c
%C%_programs_mpiio_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_mpiio_LDADD = $(MPI_LIBS)
# Random datatypes beside a plain reference.
check_PROGRAMS += %D%/programs/types
%C%_programs_types_SOURCES = %D%/programs/types.c
%C%_programs_types_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_types_LDADD = $(MPI_LIBS)
# Ranks that start others.
check_PROGRAMS += %D%/programs/spawner
%C%_programs_spawner_SOURCES = %D%/programs/spawner.c
%C%_programs_spawner_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_spawner_LDADD = $(MPI_LIBS)
EXTRA_DIST += %D%/driver/spawn.py %D%/driver/tools.py %D%/programs/tools/count.c
check_PROGRAMS += %D%/programs/everyone
%C%_programs_everyone_SOURCES = %D%/programs/everyone.c
%C%_programs_everyone_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_everyone_LDADD = $(MPI_LIBS)
EXTRA_DIST += %D%/driver/movable.py %D%/driver/crowd.py %D%/driver/wear.py
dist_check_SCRIPTS += %D%/test_crowd.sh %D%/test_wear.sh
# A rank that keeps files open while it moves.
check_PROGRAMS += %D%/programs/scribe
%C%_programs_scribe_SOURCES = %D%/programs/scribe.c
check_PROGRAMS += %D%/programs/edits
%C%_programs_edits_SOURCES = %D%/programs/edits.c
%C%_programs_edits_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
%C%_programs_edits_LDADD = $(MPI_LIBS)
EXTRA_DIST += %D%/driver/godwit.py %D%/driver/storm.py %D%/driver/move.py %D%/driver/examples.py \
	%D%/driver/programs.py %D%/driver/faults.py %D%/driver/busy.py %D%/driver/soak.py %D%/driver/launch.py \
	%D%/driver/abi.py %D%/driver/manners.py %D%/driver/remote.py %D%/driver/room.py %D%/driver/unnamed.py %D%/driver/files.py %D%/driver/cut.py \
	%D%/driver/grow.py %D%/driver/grow_hosts.py %D%/driver/grow_storm.py %D%/driver/balance.py %D%/driver/report.py %D%/driver/history.py %D%/driver/top.py %D%/driver/machine.py %D%/driver/cold.py %D%/driver/checkpoint.py %D%/driver/schedule.py %D%/driver/restart.py %D%/driver/cost.py %D%/driver/hung.py
# Compiled by the test with other people's wrappers.
EXTRA_DIST += %D%/programs/abi/ring.c %D%/programs/abi/ring.cc %D%/programs/abi/ring.f %D%/programs/abi/ring08.f90 \
	%D%/programs/abi/heat.f90
EXTRA_DIST += %D%/driver/pool.py %D%/driver/pool_hosts.py %D%/driver/connect_hosts.py doc/pool.md %D%/driver/denied.py
SYSTEM_TESTS = %D%/test_pool.sh %D%/test_denied.sh %D%/test_pool_hosts.sh %D%/test_connect_hosts.sh %D%/test_programs.sh %D%/test_movable.sh %D%/test_abi.sh %D%/test_launch.sh %D%/test_move.sh %D%/test_busy.sh %D%/test_examples.sh \
	%D%/test_faults.sh %D%/test_storm.sh %D%/test_storm_hosts.sh %D%/test_hosts.sh %D%/test_files.sh %D%/test_cut.sh %D%/test_soak.sh %D%/test_manners.sh %D%/test_room.sh %D%/test_unnamed.sh \
	%D%/test_grow.sh %D%/test_grow_hosts.sh %D%/test_grow_storm.sh %D%/test_balance.sh %D%/test_report.sh %D%/test_top.sh %D%/test_machine.sh %D%/test_cold.sh %D%/test_checkpoint.sh %D%/test_schedule.sh %D%/test_restart.sh %D%/test_cost.sh %D%/test_hung.sh
dist_check_SCRIPTS += $(SYSTEM_TESTS)
if !GW_SANITIZE
# A sanitizer's shadow memory does not move: sanitizers are for unit tests.
TESTS += $(SYSTEM_TESTS)
endif

# Jobs in allocations of a real Slurm.
EXTRA_DIST += %D%/driver/slurm.py %D%/driver/preempt.py
SYSTEM_TESTS += %D%/test_slurm.sh %D%/test_preempt.sh

# The calls of godwit.h.
SYSTEM_TESTS += %D%/test_interface.sh
# Tools of libfabric.
SYSTEM_TESTS += %D%/test_fabric.sh
EXTRA_DIST += %D%/driver/fabric.py

# MPICH's own suite: all lists, unmoved, and with a random rank moved every 100 ms. SUITE_SEED=17 replays a choice of moves,
# SUITE_LISTS=coll,f90/coll takes some lists only.
EXTRA_DIST += %D%/driver/mpich.py %D%/mpich/suite %D%/mpich/expected %D%/mpich/different %D%/mpich/quick
SYSTEM_TESTS += %D%/test_mpich.sh %D%/test_spawn.sh %D%/test_tools.sh
SUITE_LISTS = all
.PHONY: check-mpich check-mpich-moves
# The guide, typed as it stands
EXTRA_DIST += %D%/driver/guide.py doc/guide.md
dist_check_SCRIPTS += %D%/test_guide.sh
.PHONY: check-guide
check-guide: all
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_guide.sh
check-mpich: all
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_mpich.sh --lists $(SUITE_LISTS) --jobs 2 --stacks
check-mpich-moves: all
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_mpich.sh --lists $(SUITE_LISTS) --moves --until-moved 5 --stacks

# The long storm: at least 200 moves, and on until a rank was caught in everything that it does. A seed replays it:
# make check-storm STORM_SEED=17
.PHONY: check-storm
check-storm: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_storm.sh --moves 250 --counts --seconds 400

# The same, and every named fault, over three hosts that this machine plays; and a host that vanishes at every edge of a move
# to or from it: make check-hosts STORM_SEED=17
.PHONY: check-hosts
check-hosts: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_storm_hosts.sh --moves 1000 --ranks 6 --hosts 3 --clusters 6 --pace-ms 150 \
		--at-once 3 --compute-ms 300 --huge 64 --huge-moves 3 --pairs --cut-ms 300 --seconds 500
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_grow_storm.sh --changes 120 --seconds 400
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_grow_storm.sh --balance --seconds 120
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_faults.sh --hosts --every --deadline 1500
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_cut.sh --storm
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_pool_hosts.sh --long
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_connect_hosts.sh --long
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_slurm.sh --cancels 25
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_preempt.sh --long

# What parses bytes of others is fed with such bytes: make check-fuzz FUZZ_SECONDS=600 FUZZ="link pool"
EXTRA_DIST += %D%/fuzz/check-fuzz %D%/fuzz/fuzz_trust.c %D%/fuzz/fuzz_frame.c %D%/fuzz/fuzz_session.c %D%/fuzz/fuzz_image.c \
	%D%/fuzz/fuzz_link.c %D%/fuzz/fuzz_pool.c %D%/fuzz/fuzz_machine.c %D%/fuzz/pool.dict %D%/fuzz/machine.dict
FUZZ_SECONDS = 120
FUZZ =
.PHONY: check-fuzz
check-fuzz: all
	$(AM_TESTS_ENVIRONMENT) $(srcdir)/%D%/fuzz/check-fuzz $(FUZZ_SECONDS) $(FUZZ)

# Fifty checkpoints in a row during a storm of moves and messages, over memory and over a network, and on from the last of each:
# one storm with forty lives, and all of test_restart to more numbers of clusters and hosts: make check-cold CHECKPOINTS=50 STORM_SEED=17
CHECKPOINTS = 50
.PHONY: check-cold
check-cold: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_restart.sh --storm $(CHECKPOINTS) --lives 40
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_restart.sh --everywhere

# Many ranks on four real hosts of a rig, each of which sends to each; and a storm over three of them, by ssh
CROWD = 200
.PHONY: check-crowd
check-crowd: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_crowd.sh --ranks $(CROWD)

# Ten thousand jobs in a row, and more than a thousand that are killed; the seed in the output replays the choices:
# make check-starts STARTS=100 KILLS=0 MOVED_KILLS=0 SEED="--seed 17"
STARTS = 10000
KILLS = 1000
MOVED_KILLS = 200
.PHONY: check-starts
check-starts: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_soak.sh --starts $(STARTS) --kills $(KILLS) \
		--moved-kills $(MOVED_KILLS) $(SEED)

# Ten thousand moves of one rank, and a fifth of that between hosts: nobody holds more of anything than after the first tenth
WEAR = 10000
.PHONY: check-wear
check-wear: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_wear.sh --moves $(WEAR)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_wear.sh --moves $$(($(WEAR) / 5)) --hosts

# Emulated hosts: what tests of several hosts run in. It knows nothing of Godwit, nor Godwit of it: see doc/rig.md.
EXTRA_DIST += doc/rig.md %D%/rig/hosts.sh %D%/rig/rig %D%/driver/rig.py %D%/driver/rig_slurm.py %D%/driver/rig_mpi.py \
	%D%/driver/hosts.py %D%/driver/hosts_slurm.py
dist_check_SCRIPTS += %D%/test_rig.sh
TESTS += %D%/test_rig.sh

include tests/model/local.mk
include tests/sim/local.mk

# All kernels of CAP Bench over the twenty clusters of a Kalray MPPA-256, with random moves.
.PHONY: check-machines
check-machines: all $(check_PROGRAMS)
	$(AM_TESTS_ENVIRONMENT) bash $(srcdir)/%D%/test_machine.sh --long
