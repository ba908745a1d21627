# SPDX-License-Identifier: BSD-2-Clause
# container: libct.la is the daemon's side, libct-rank.la the rank's (gate, agent, user area).
# noinst_LTLIBRARIES += libct.la
# libct_la_SOURCES = %D%/container.h %D%/image.h %D%/spawn.c
# noinst_LTLIBRARIES += libct-rank.la
# libct_rank_la_SOURCES = %D%/agent.h %D%/ctl.h %D%/agent.c %D%/area.c
