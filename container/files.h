/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/files.h: are the files of a rank the same files at the place that it is to move to?
 *
 * struct ct_files is one side's part in the proof of one session. Nothing of the rank stops for it:
 *
 *   source                                                     destination
 *   ct_files_ask    to another host: marks where it writes
 *                   question: marks  ----- with the needs -->  ct_files_look   same by place, by mark, by contents?
 *   ct_files_check  marks go  <--------- answer: claims -----                  (or a refusal that names the path)
 *                   contents compared here
 *   ct_files_still  the rank stands: has it opened others meanwhile?
 *   ct_files_flush  what it wrote reaches the shared file system, before it is given away
 *
 * On one host a file is the same when device and inode are. On two hosts it is the same file when a mark, an empty file
 * of a random name that the source has made in its file system, is seen through the same path at the destination, and
 * both call the file by one inode number there; and it is as good as the same when the rank only reads it and the contents
 * are equal. A file that the rank writes must be the same file. doc/container.md has the whole rule.
 *
 * What may take long or must outlive this process is done by a helper, a child: it removes the marks when told, and when
 * its daemon dies. Called by the daemon's main thread; only ct_files_ask may wait, for local file operations, at most 2 s.
 */
#ifndef CT_FILES_H
#define CT_FILES_H

#include "container/container.h"

struct ct_files;

/** ct_files_ask - at the source, after ct_rank_check. @is_far: the destination is another host. @may_carry: as to
 * ct_rank_may_carry. @pid: of the rank here */
int ct_files_ask(struct ct_files **out, const struct ct_needs *needs, pid_t pid, bool is_far, bool may_carry, struct gw_error *why);

/** ct_files_look - at the destination; @question as ct_files_bytes gave it there. Return: as ct_files_go_on */
int ct_files_look(struct ct_files **out, const struct ct_needs *needs, const void *question, size_t len,
                  struct gw_error *why);

/** ct_files_bytes - the question (source) or, when the look has come to its end, the answer (destination) */
const void *ct_files_bytes(const struct ct_files *f, size_t *len);

/** ct_files_check - at the source: the destination has answered. Removes the marks. Return: as ct_files_go_on */
int ct_files_check(struct ct_files *f, const void *answer, size_t len, struct gw_error *why);

/**
 * ct_files_go_on - ct_files_fd is readable
 * Return: 0 it is done, and proved; 1 not yet; negative errno with @why: they are not the same, or no helper could run.
 */
int ct_files_go_on(struct ct_files *f, struct gw_error *why);
int ct_files_fd(const struct ct_files *f); /* of the helper that computes, or flushes; -1: none does */

/** ct_files_still - at the source, the rank frozen: -EAGAIN when it uses a file that was not proved */
int ct_files_still(const struct ct_files *f, const struct ct_rank *r, struct gw_error *why);

/** ct_files_flush - bring to the shared file systems what the rank wrote. Return: 0 nothing to do; 1 go on at ct_files_fd */
int ct_files_flush(struct ct_files *f, struct gw_error *why);

/* Files that travel, where that is wanted: the destination has said which. */
int ct_files_carry(const struct ct_files *f, struct ct_rank *r);    /* source, before the freeze: they go into the image */
void ct_files_left(const struct ct_files *f);                       /* source, TAKEN came: what stays here is an older copy */
int ct_files_expect(const struct ct_files *f, struct ct_rank *shell, struct gw_error *why); /* destination: they will come;
                                                                      * @f must live until ct_rank_settle_files */

void ct_files_free(struct ct_files *f); /* the helper, and with it the marks, go. NULL ok */
void ct_files_reap(void);               /* helpers that have ended; when SIGCHLD came */

#endif
