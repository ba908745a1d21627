/* SPDX-License-Identifier: BSD-2-Clause */
/* What the programs that the tests move have in common. */
#ifndef CT_VICTIM_H
#define CT_VICTIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

uint64_t now_ns(clockid_t id);
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...); /* one line on standard output */
bool hear(char *line, size_t cap);                                    /* one line from standard input; false at its end */

/* victim_events.c: programs, as main would return */
int timers(void);
int polls(void);

/* victim_files.c */
int memories(void);
int nameless(const char *dir);
int gone(const char *dir);
int reserved(void); /* 2 when there are no huge pages */

/* victim_handles.c */
int locks(const char *dir, bool is_shared);
int handles(const char *dir);
int pairs(void);

/* victim_traits.c */
int traits(void);
int moments(void);
int mutexes(void);
int chosen(void); /* 2 where there is one processor */

/* victim_regions.c */
int mappings(void);
int extents(void);
int locked(void);

/* victim_fetch.c */
int fetched(unsigned mib, const char *path); /* @path: made when something is wrong; NULL: it is only said */

/* victim_sysv.c */
int sysv(int set, int queue, int segment);

/* victim_sections.c */
int sections(void);

/* victim_waits.c */
int waits_all(void);

/* victim_memory.c */
int dirty(unsigned seed);

#endif
