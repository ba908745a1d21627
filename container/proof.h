/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/proof.h: the inside of the proof that files are the same. files.h is what others see of it.
 *
 * files.c  the exchange, the contents, the flush      same.c  the rule, pure
 * marks.c  where marks are made and looked for        helper.c  children of the daemon
 * carry.c  files that travel
 *
 * Helpers do with files what may take long, or what must be undone when the daemon dies. A helper is forked, keeps nothing of the daemon but memory and one socket, and ends when that socket does. The guard
 * makes marks and removes them, and flushes files; the reader computes what is in files. Plain memory and system calls
 * only: it is a fork of a process that may have had other threads.
 */
#ifndef CT_PROOF_H
#define CT_PROOF_H

#include <sys/vfs.h>

#include "container/files.h"
#include "container/rank.h"

struct ct_helper { int fd; pid_t pid; }; /* fd -1: none */

void ct_helper_end(struct ct_helper *h); /* its socket is closed: it undoes what it has to, and ends */
void ct_helpers_reap(void);

/* What a file is called by the kernel, and when it was last changed; and what was in it then. */
struct ct_contents {
	uint64_t dev, ino, size;
	int64_t mtime_s, mtime_ns, ctime_s, ctime_ns;
	uint64_t hash[2];
};
void ct_contents_key(struct ct_contents *c, const struct stat *st);
int ct_contents_read(const char *path, struct ct_contents *out); /* all of it, now; -EAGAIN: it was being written */

/* ---- reader ---- */
struct ct_contents_done { int32_t code; uint32_t pad; struct ct_contents c; }; /* one for each path, in their order */
int ct_contents_start(struct ct_helper *h, const char *const *paths, size_t n);

/* ---- guard ---- */
struct ct_try { uint32_t group, file, prefix; uint64_t mount; }; /* a directory where a mark of @group might be made */
struct ct_guard {
	const char *const *paths;    /* by file */
	const struct ct_try *tries;  /* in the order of preference */
	size_t n_tries, groups;
	const uint8_t (*nonces)[16]; /* by group */
	const uint32_t *flush;       /* files whose data is to be flushed */
	size_t n_flush;
};
struct ct_mark_made { int32_t code; uint32_t file, prefix, pad; uint64_t ino; }; /* one for each group, at once */
struct ct_flushed { int32_t code; uint32_t file; };                            /* the answer to FLUSH */
enum { CT_GUARD_UNMARK = 'u', CT_GUARD_FLUSH = 'f' };                           /* what it is told, one byte each */

int ct_guard_start(struct ct_helper *h, const struct ct_guard *g);
/* its name; @cap CT_MARK_PATH. Return: false when it is too long */
bool ct_mark_path(char *out, const char *path, uint32_t prefix, const uint8_t nonce[16]);
#define CT_MARK_PATH 4200

/* ---- keeper ---- */
/** ct_keeper_start - keep @fd open until ct_keeper_end(), or, should we be killed, until the process of @pidfd has ended */
int ct_keeper_start(struct ct_helper *h, int pidfd, int fd);
void ct_keeper_end(struct ct_helper *h);

/* ---- collapser ---- */
/** ct_collapser_start - make huge pages again of small ones in @spans of process @pid, where all of one is there; it ends by itself */
int ct_collapser_start(struct ct_helper *h, pid_t pid, int pidfd, const struct ct_vec *spans);

uint64_t ct_mount_of(const char *path, struct stat *st); /* also of the last component's link; 0 with errno */

/* ---- the rule ---- */
struct ct_sight { /* of a file at the destination */
	int error;               /* errno: it cannot be looked at */
	bool is_far;
	uint64_t dev, ino, size, rdev;
	uint32_t mode, mtime_ns;
	int64_t mtime_s;
	uint64_t ino_there;      /* what the source calls it */
	bool is_of_kernel, is_network; /* its file system */
	bool has_mark;           /* there is one on its mount at the source */
	bool may_carry, may_replace; /* it may travel; what is there now is the job's own older copy */
	bool is_mark_seen, is_mount_same, is_ino_comparable, is_beside_mark;
};
enum ct_verdict { CT_FILE_SAME, CT_FILE_BY_CONTENTS, CT_FILE_MISSING, CT_FILE_OTHER_KIND, CT_FILE_OF_HOST, CT_FILE_DIFFERS,
                  CT_FILE_TOO_LARGE, CT_FILE_UNPROVED, CT_FILE_CARRY, CT_FILE_IN_THE_WAY };
enum ct_verdict ct_file_judge(const struct ct_img_file *file, const struct ct_sight *s);
bool ct_file_is_marked(const struct ct_sight *s);
int ct_file_refuse(const struct ct_img_file *file, const char *path, enum ct_verdict v, const struct ct_sight *s, const char *here,
                   const char *there, struct gw_error *why); /* the sentence of a verdict */
bool ct_fs_is_of_kernel(const struct statfs *f);
bool ct_fs_is_network(const struct statfs *f);
int ct_question_parse(const void *bytes, size_t len, const struct ct_snapshot *s, struct ct_img_question *q, struct ct_vec *marks,
                      struct ct_vec *mark_of);
int ct_answer_parse(const void *bytes, size_t len, const struct ct_snapshot *s, struct ct_img_answer *a, struct ct_vec *claims);

/* ---- one side's part in one session ---- */
struct ct_files {
	struct ct_snapshot snap;     /* files and strings of the needs */
	bool is_source, is_far, may_carry;
	char host[64], other[64];    /* this one, and that of the other side */
	struct ct_vec bytes;         /* the question, or the answer */
	struct ct_vec claims;        /* struct ct_img_claim: at the destination ours, at the source theirs */
	struct ct_vec ask;           /* uint32_t: those claims, by index, whose contents are being read */
	struct ct_vec input;         /* unsigned char: what the helper has said and is not a whole yet */
	struct ct_helper guard, reader;
	struct ct_vec marks;         /* struct ct_img_mark */
	struct ct_vec mark_of;       /* uint32_t by file */
	struct ct_vec places;        /* struct ct_img_mark: at the destination, of what will travel */
	uint32_t answered;           /* of ask */
	bool is_flushing;
};

static inline struct ct_img_file *ct_files_at(const struct ct_files *f, size_t i)
{
	return CT_AT(struct ct_img_file, &f->snap.files, i);
}

static inline const char *ct_files_path(const struct ct_files *f, size_t i)
{
	return ct_snapshot_text(&f->snap, ct_files_at(f, i)->path);
}

bool ct_carried_may_replace(const char *path, const struct stat *st); /* carried away from here, unchanged, used by nobody */
void ct_carried_left(const char *path);
int ct_marks_make(struct ct_files *f, struct gw_error *why); /* and the guard of them, and of what is to be flushed */
int ct_places_make(struct ct_files *f, struct gw_error *why); /* at the destination: empty files for what will travel */
struct ct_mark_seen { uint64_t mount; bool is_seen, is_ino_same; };
void ct_mark_look(const struct ct_files *f, const struct ct_img_mark *m, struct ct_mark_seen *out);

#endif
