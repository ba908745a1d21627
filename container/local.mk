# SPDX-License-Identifier: BSD-2-Clause
# container: libct.la is the daemon's side, libct-rank.la the rank's (gate, agent, user area).
# noinst_LTLIBRARIES += libct.la
# libct_la_SOURCES = %D%/container.h %D%/image.h %D%/spawn.c

noinst_LTLIBRARIES += libct-rank.la
libct_rank_la_SOURCES = %D%/agent.h %D%/ctl.h %D%/agent.c %D%/area.c %D%/gate.c
check_PROGRAMS += %D%/test_gate
TESTS += %D%/test_gate
%C%_test_gate_SOURCES = %D%/test_gate.c
%C%_test_gate_LDADD = libct-rank.la libgw-base.la -lpthread
