# SPDX-License-Identifier: BSD-2-Clause
# runtime: the base that all use, and the programs godwitd, mpirun and godwit.

# Safe inside a rank: allocates nothing, starts nothing.
noinst_LTLIBRARIES += libgw-base.la
libgw_base_la_SOURCES = %D%/base/base.c %D%/base/base.h

# For daemons and tools: event loop and framed connections.
noinst_LTLIBRARIES += libgw-loop.la
libgw_loop_la_SOURCES = %D%/base/loop.c %D%/base/loop.h %D%/base/link.c %D%/base/link.h
libgw_loop_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libgw_loop_la_LIBADD = libgw-base.la $(JANSSON_LIBS)

# Connections between hosts. The keyed hash is linked in whole, as in noc/local.mk.
noinst_LTLIBRARIES += libgw-trust.la
libgw_trust_la_SOURCES = %D%/base/trust.c %D%/base/trust.h %D%/base/tcp.c %D%/base/tcp.h
libgw_trust_la_CPPFLAGS = $(AM_CPPFLAGS) -DPACKAGE_VERSION='"$(PACKAGE_VERSION)"'

# What mpirun, godwitd and godwit share: names of sockets, events. PMI is a pure library; its other user is its test.
noinst_LTLIBRARIES += libgw-rt.la
libgw_rt_la_SOURCES = %D%/wire.c %D%/wire.h %D%/state.c %D%/state.h %D%/elf.c %D%/elf.h %D%/base/event.c %D%/base/event.h %D%/metrics.c %D%/metrics.h mpi-shim/pmi.c \
	mpi-shim/pmi.h
libgw_rt_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libgw_rt_la_LIBADD = libgw-loop.la $(JANSSON_LIBS)

# Checkpoints on disk.
noinst_LTLIBRARIES += libgw-cold.la
libgw_cold_la_SOURCES = %D%/cold/cold.h %D%/cold/reader.c %D%/cold/writer.c %D%/cold/verify.c %D%/cold/manifest.c %D%/cold/dir.c
libgw_cold_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(ZSTD_CFLAGS)
libgw_cold_la_LIBADD = libgw-base.la $(JANSSON_LIBS) $(ZSTD_LIBS)

# What decides which ranks move: pure functions.
noinst_LTLIBRARIES += libgw-balance.la
libgw_balance_la_SOURCES = %D%/balance/balance.h %D%/balance/inner.h %D%/balance/machine.h %D%/balance/neighbours.h %D%/balance/snapshot.c \
	%D%/balance/neighbours.c %D%/balance/machine.c %D%/balance/machine_file.c \
	%D%/balance/predict.h %D%/balance/predict.c %D%/balance/trend.h %D%/balance/trend.c %D%/balance/work.c %D%/balance/plan.c %D%/balance/greedy.c %D%/balance/refine.c %D%/balance/consolidate.c
libgw_balance_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(SCOTCH_CFLAGS)
libgw_balance_la_LIBADD = libgw-base.la $(JANSSON_LIBS) $(SCOTCH_LIBS) -lm
if GW_SCOTCH
libgw_balance_la_SOURCES += %D%/balance/comm.c
else
libgw_balance_la_SOURCES += %D%/balance/comm_without.c
endif
check_PROGRAMS += %D%/balance/test_balance
TESTS += %D%/balance/test_balance
%C%_balance_test_balance_SOURCES = %D%/balance/test_balance.c %D%/balance/made.h tests/tap.h
%C%_balance_test_balance_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_balance_test_balance_LDADD = libgw-balance.la libgw-base.la $(JANSSON_LIBS) -lm
check_PROGRAMS += %D%/balance/test_predict
TESTS += %D%/balance/test_predict
%C%_balance_test_predict_SOURCES = %D%/balance/test_predict.c tests/tap.h
%C%_balance_test_predict_LDADD = libgw-balance.la libgw-base.la -lm
noinst_PROGRAMS += %D%/balance/replay_balance
%C%_balance_replay_balance_SOURCES = %D%/balance/replay.c %D%/balance/made.h
%C%_balance_replay_balance_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_balance_replay_balance_LDADD = libgw-balance.la libgw-base.la $(JANSSON_LIBS) -lm
noinst_PROGRAMS += %D%/balance/bench_balance
%C%_balance_bench_balance_SOURCES = %D%/balance/bench_balance.c %D%/balance/made.h
%C%_balance_bench_balance_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_balance_bench_balance_LDADD = libgw-balance.la libgw-base.la $(JANSSON_LIBS) -lm

# Keepers: in godwitd.
POOL_CORE_SOURCES = %D%/pool/core.h %D%/pool/inner.h %D%/pool/core.c %D%/pool/words.c %D%/pool/members.c %D%/pool/owned.c \
	%D%/pool/directory.c %D%/pool/leaving.c
POOL_SOURCES = $(POOL_CORE_SOURCES) %D%/pool/pool.h %D%/pool/keeper.h %D%/pool/keeper.c %D%/pool/clients.c %D%/pool/names.c \
	$(STARTER_SOURCES)
STARTER_SOURCES = %D%/launcher/starter.h %D%/launcher/starter.c %D%/launcher/strings.c

check_PROGRAMS += %D%/pool/test_core
TESTS += %D%/pool/test_core
%C%_pool_test_core_SOURCES = %D%/pool/test_core.c $(POOL_CORE_SOURCES)
%C%_pool_test_core_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_pool_test_core_LDADD = libgw-base.la $(JANSSON_LIBS)

# What has happened in a job, as a page. Its style and its script are files of their own, of which the build makes strings.
noinst_LTLIBRARIES += libgw-report.la
libgw_report_la_SOURCES = %D%/report/report.h %D%/report/html.h %D%/report/lines.h %D%/report/lines.c %D%/report/history.h %D%/report/history.c \
	%D%/report/history_fields.c %D%/report/history_job.c %D%/report/history_loads.c %D%/report/history_moves.c %D%/report/history_ranks.c \
	%D%/report/html.c %D%/report/digest.c %D%/report/page.c %D%/report/places.c %D%/report/loads.c %D%/report/traffic.c %D%/report/moves.c \
	%D%/report/plans.c %D%/report/trace.c
$(libgw_report_la_OBJECTS): %D%/report/page.css.h %D%/report/page.js.h
libgw_report_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
libgw_report_la_LIBADD = libgw-base.la $(JANSSON_LIBS) $(SODIUM_LIBS) -lm
EXTRA_DIST += %D%/report/page.css %D%/report/page.js
CLEANFILES += %D%/report/page.css.h %D%/report/page.js.h
REPORT_STRING = $(AM_V_GEN)$(MKDIR_P) %D%/report && sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^[[:space:]]*/"/' -e 's/$$/\\n"/'
%D%/report/page.css.h: %D%/report/page.css
	$(REPORT_STRING) $(srcdir)/%D%/report/page.css >$@
%D%/report/page.js.h: %D%/report/page.js
	$(REPORT_STRING) $(srcdir)/%D%/report/page.js >$@

bin_PROGRAMS += godwitd mpirun mpiexec godwit
godwitd_SOURCES = %D%/clusterd/clusterd.h %D%/clusterd/main.c %D%/clusterd/ranks.c %D%/clusterd/launch.c %D%/clusterd/explain.c \
	%D%/clusterd/streams.c %D%/clusterd/agent.c %D%/clusterd/pmi_port.c %D%/clusterd/guard.c %D%/clusterd/moves.c \
	%D%/clusterd/requests.c %D%/clusterd/movable.c %D%/clusterd/measure.c %D%/clusterd/quota.c %D%/clusterd/quota.h %D%/clusterd/join.c %D%/clusterd/far.c %D%/clusterd/hex.c \
	$(POOL_SOURCES) %D%/clusterd/inherit.c %D%/clusterd/probe.c %D%/clusterd/place.c %D%/clusterd/network.c %D%/clusterd/pace.c %D%/clusterd/suspend.c \
	%D%/clusterd/checkpoint.c %D%/clusterd/restart.c %D%/clusterd/leave.c %D%/clusterd/worlds.c %D%/topology.c %D%/topology.h
godwitd_SOURCES += %D%/clusterd/wishes.c %D%/clusterd/guests.c
godwitd_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(HWLOC_CFLAGS) -DGODWIT_SYSCONFDIR='"$(sysconfdir)"'
godwitd_LDADD = libgw-cold.la libmig.la libct.la libnoc.la libct-rank.la libgw-rt.la libgw-trust.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) \
	$(SODIUM_LIBS) $(HWLOC_LIBS) -lm
check_PROGRAMS += %D%/clusterd/test_quota
TESTS += %D%/clusterd/test_quota
%C%_clusterd_test_quota_SOURCES = %D%/clusterd/test_quota.c %D%/clusterd/quota.c %D%/clusterd/quota.h
%C%_clusterd_test_quota_LDADD = -lm

mpirun_SOURCES = %D%/launcher/head.h %D%/launcher/main.c %D%/launcher/options.h %D%/launcher/options.c \
	%D%/launcher/options_table.h %D%/launcher/options_env.c %D%/launcher/options_help.c %D%/launcher/config.c \
	%D%/launcher/core.h %D%/launcher/core.c %D%/launcher/limits.c %D%/launcher/sink.c %D%/sigqueue.h \
	%D%/launcher/env.c %D%/launcher/baseline.c %D%/launcher/baseline.h %D%/launcher/libraries.c %D%/launcher/job.c \
	%D%/launcher/clusters.c %D%/launcher/hosts.c %D%/launcher/layout.c %D%/launcher/slurm.c %D%/launcher/launchers.c %D%/launcher/remote.c \
	%D%/launcher/inherit.c %D%/launcher/doors.c $(STARTER_SOURCES) %D%/launcher/pool.c %D%/pool/names.c \
	%D%/launcher/reports.c %D%/launcher/verdict.c %D%/launcher/signals.c %D%/launcher/output.c \
	%D%/launcher/input.c %D%/launcher/pmi_head.c %D%/launcher/tools.c %D%/launcher/moves.c \
	%D%/launcher/balance.c %D%/launcher/survey.c %D%/launcher/metrics.c %D%/launcher/ledger.c %D%/launcher/grow.c %D%/launcher/drain.c %D%/launcher/notice.c %D%/launcher/pins.c %D%/launcher/record.h %D%/launcher/record.c %D%/launcher/record_traffic.c \
	%D%/launcher/errand.h %D%/launcher/errand.c %D%/launcher/scribe.h %D%/launcher/scribe.c %D%/launcher/scribe_file.c %D%/launcher/spawn.c %D%/launcher/debug.c %D%/launcher/suspend.c %D%/launcher/checkpoint.c %D%/launcher/checkpoint_words.c \
	%D%/launcher/restart.c %D%/launcher/restart.h %D%/launcher/remember.c %D%/launcher/again.c %D%/launcher/schedule.c %D%/cold/manifest.c %D%/cold/dir.c %D%/topology.c %D%/topology.h
mpirun_SOURCES += %D%/launcher/wishes.c %D%/launcher/guests.c %D%/launcher/friends.c %D%/launcher/friends.h %D%/launcher/meet.c %D%/launcher/lookup.c
mpirun_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(HWLOC_CFLAGS) -DGODWIT_PKGLIBDIR='"$(pkglibdir)"' -DGODWIT_PKGDATADIR='"$(pkgdatadir)"' \
	-DPACKAGE_VERSION='"$(PACKAGE_VERSION)"'
mpirun_LDADD = libgw-balance.la libct.la libgw-rt.la libgw-trust.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) $(HWLOC_LIBS) $(SODIUM_LIBS)
mpiexec_SOURCES = $(mpirun_SOURCES)
mpiexec_CPPFLAGS = $(mpirun_CPPFLAGS)
mpiexec_LDADD = $(mpirun_LDADD)

TOP_PAGE_SOURCES = %D%/control/top_pen.h %D%/control/top_pen.c %D%/control/top_table.c %D%/control/top_draw.c
TOP_SOURCES = %D%/control/top.h %D%/control/top.c %D%/control/top_data.c $(TOP_PAGE_SOURCES)
if GW_NCURSES
TOP_SOURCES += %D%/control/top_screen.c
else
TOP_SOURCES += %D%/control/top_plain.c
endif
godwit_SOURCES = %D%/control/main.c %D%/control/status.c %D%/control/migrate.c %D%/control/pin.c %D%/control/rebalance.c %D%/control/report.c $(TOP_SOURCES) %D%/control/metrics.c %D%/control/suspend.c %D%/control/checkpoint.c %D%/control/restart.c \
	%D%/control/doctor.h %D%/control/doctor.c %D%/control/doctor_here.c %D%/control/doctor_far.c \
	%D%/control/grow.c %D%/control/pool.h %D%/control/pool.c %D%/control/up.c %D%/pool/names.c $(STARTER_SOURCES) %D%/launcher/hosts.c %D%/balance/predict.c %D%/control/control.h
godwit_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(NCURSES_CFLAGS) -DPACKAGE_VERSION='"$(PACKAGE_VERSION)"' \
	-DGODWIT_PKGLIBDIR='"$(pkglibdir)"'
godwit_LDADD = libgw-report.la libgw-cold.la libct.la libgw-rt.la libgw-trust.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) $(SODIUM_LIBS) $(NCURSES_LIBS) -lm

check_PROGRAMS += %D%/control/test_top
TESTS += %D%/control/test_top
%C%_control_test_top_SOURCES = %D%/control/test_top.c %D%/control/top.h %D%/control/top_data.c $(TOP_PAGE_SOURCES) tests/tap.h
%C%_control_test_top_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
%C%_control_test_top_LDADD = $(JANSSON_LIBS) -lm

check_PROGRAMS += %D%/base/test_base %D%/base/test_loop %D%/base/test_link
TESTS += %D%/base/test_base %D%/base/test_loop %D%/base/test_link
%C%_base_test_base_SOURCES = %D%/base/test_base.c tests/tap.h
%C%_base_test_base_LDADD = libgw-base.la
%C%_base_test_loop_SOURCES = %D%/base/test_loop.c tests/tap.h
%C%_base_test_loop_LDADD = libgw-loop.la libgw-base.la
%C%_base_test_link_SOURCES = %D%/base/test_link.c tests/tap.h
%C%_base_test_link_LDADD = libgw-loop.la libgw-base.la

check_PROGRAMS += %D%/base/test_trust
TESTS += %D%/base/test_trust
%C%_base_test_trust_SOURCES = %D%/base/test_trust.c tests/tap.h
%C%_base_test_trust_CPPFLAGS = $(AM_CPPFLAGS) -DPACKAGE_VERSION='"$(PACKAGE_VERSION)"'
%C%_base_test_trust_LDADD = libgw-trust.la libgw-loop.la libgw-base.la $(SODIUM_LIBS)

check_PROGRAMS += %D%/test_topology %D%/test_elf mpi-shim/test_pmi
TESTS += %D%/test_topology %D%/test_elf mpi-shim/test_pmi
%C%_test_elf_SOURCES = %D%/test_elf.c
%C%_test_elf_LDADD = libgw-rt.la libgw-loop.la libgw-base.la $(JANSSON_LIBS)
%C%_test_topology_SOURCES = %D%/test_topology.c %D%/topology.c
%C%_test_topology_CPPFLAGS = $(AM_CPPFLAGS) $(HWLOC_CFLAGS)
%C%_test_topology_LDADD = libgw-base.la $(HWLOC_LIBS)
mpi_shim_test_pmi_SOURCES = mpi-shim/test_pmi.c
mpi_shim_test_pmi_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
mpi_shim_test_pmi_LDADD = libgw-rt.la libgw-loop.la libgw-base.la $(JANSSON_LIBS)

check_PROGRAMS += %D%/launcher/test_words %D%/launcher/test_slurm %D%/launcher/test_scribe %D%/launcher/test_errand
TESTS += %D%/launcher/test_words %D%/launcher/test_slurm %D%/launcher/test_scribe %D%/launcher/test_errand
%C%_launcher_test_errand_SOURCES = %D%/launcher/test_errand.c %D%/launcher/errand.h %D%/launcher/errand.c tests/tap.h
%C%_launcher_test_errand_LDADD = libgw-rt.la libgw-trust.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) $(SODIUM_LIBS)
%C%_launcher_test_scribe_SOURCES = %D%/launcher/test_scribe.c %D%/launcher/errand.h %D%/launcher/errand.c %D%/launcher/scribe.h %D%/launcher/scribe.c %D%/launcher/scribe_file.c tests/tap.h
%C%_launcher_test_scribe_LDADD = libgw-rt.la libgw-trust.la libgw-loop.la libgw-base.la $(JANSSON_LIBS) $(SODIUM_LIBS)
%C%_launcher_test_words_SOURCES = %D%/launcher/test_words.c %D%/launcher/core.c %D%/launcher/config.c %D%/launcher/options.c \
	%D%/launcher/options_env.c %D%/launcher/options_help.c %D%/launcher/hosts.c %D%/launcher/layout.c \
	%D%/launcher/checkpoint_words.c %D%/launcher/slurm.c %D%/launcher/env.c %D%/launcher/strings.c \
	%D%/launcher/libraries.c %D%/elf.c
%C%_launcher_test_words_CPPFLAGS = $(mpirun_CPPFLAGS)
%C%_launcher_test_words_LDADD = libgw-balance.la libgw-base.la
%C%_launcher_test_slurm_SOURCES = %D%/launcher/test_slurm.c %D%/launcher/config.c %D%/launcher/options.c \
	%D%/launcher/options_env.c %D%/launcher/options_help.c %D%/launcher/hosts.c %D%/launcher/layout.c \
	%D%/launcher/checkpoint_words.c %D%/launcher/slurm.c %D%/launcher/env.c %D%/launcher/strings.c %D%/launcher/libraries.c %D%/elf.c
%C%_launcher_test_slurm_CPPFLAGS = $(mpirun_CPPFLAGS)
%C%_launcher_test_slurm_LDADD = libgw-balance.la libgw-base.la

TESTS += %D%/test_launch.sh %D%/test_moves.sh %D%/test_user.sh
dist_check_SCRIPTS += %D%/test_launch.sh %D%/test_moves.sh %D%/test_user.sh
dist_man_MANS += doc/mpirun.1 doc/godwit.1 doc/godwitd.1 doc/mpicc.1
# Completion: bash-completion looks there, by the name of the command.
bashcompdir = $(datadir)/bash-completion/completions
dist_bashcomp_DATA = %D%/completion/mpirun %D%/completion/mpiexec %D%/completion/godwit
EXTRA_DIST += doc/events.md doc/runtime.md doc/checkpoint.md %D%/test_launch.py %D%/test_moves.py
