/* SPDX-License-Identifier: BSD-2-Clause */
/* Marks: where the source makes them, that they are made, and how the destination looks for them. */
#include "container/proof.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MARK_FROM   (64ull << 20) /* a larger file is worth a mark, if that spares reading it on both hosts */
#define MARK_WAIT_MS 2000
#define TRIES_MAX   64

struct plan { /* of marks; one group for each mount */
	struct ct_vec mounts;     /* uint64_t by group */
	struct ct_vec tries;      /* struct ct_try */
	struct ct_vec flush;      /* uint32_t */
	const char **paths;       /* by file */
	uint8_t (*nonces)[16];
};

static bool is_worth_a_mark(const struct ct_img_file *file)
{
	return (file->flags & CT_IMG_FILE_WRITES) || (S_ISDIR(file->mode) && file->flags != CT_IMG_FILE_CWD) ||
	       (S_ISREG(file->mode) && file->size >= MARK_FROM);
}

/* The directories of a file, from its own upwards, as long as they are on its mount. */
static int plan_tries(struct plan *p, const char *path, uint32_t file, bool is_dir, uint32_t group, uint64_t mount)
{
	uint32_t prefix = (uint32_t)strlen(path);
	char dir[4096];
	struct stat st;

	if (prefix >= sizeof(dir))
		return 0;
	memcpy(dir, path, prefix + 1u);
	while (p->tries.n < TRIES_MAX) {
		struct ct_try t = { .group = group, .file = file, .mount = mount };

		if (!is_dir) {
			while (prefix && dir[prefix] != '/')
				prefix--;
			dir[prefix] = '\0';
		}
		is_dir = false;
		if (ct_mount_of(prefix ? dir : "/", &st) != mount)
			break;
		t.prefix = prefix;
		if (access(prefix ? dir : "/", W_OK | X_OK) == 0 && ct_vec_append(&p->tries, &t, 1) < 0)
			return -ENOMEM;
		if (!prefix)
			break;
	}
	return 0;
}

static int plan_make(struct ct_files *f, struct plan *p, struct gw_error *why)
{
	uint64_t *mount = calloc(f->snap.files.n + 1, sizeof(*mount));
	int rc = 0;

	p->paths = calloc(f->snap.files.n + 1, sizeof(*p->paths));
	if (!mount || !p->paths)
		rc = -ENOMEM;
	for (uint32_t i = 0; rc == 0 && i < f->snap.files.n; i++) {
		struct stat st;

		p->paths[i] = ct_files_path(f, i);
		mount[i] = ct_mount_of(p->paths[i], &st);
		if (st.st_ino != ct_files_at(f, i)->ino || st.st_dev != ct_files_at(f, i)->dev)
			mount[i] = 0; /* replaced just now: no mark can speak for it */
	}
	/* what is written decides where marks are made first */
	for (int pass = 0; pass < 2; pass++)
		for (uint32_t i = 0; rc == 0 && i < f->snap.files.n; i++) {
			const struct ct_img_file *file = ct_files_at(f, i);
			bool is_written = file->flags & CT_IMG_FILE_WRITES;
			uint32_t group = 0;

			if (is_written == (pass != 0) || !is_worth_a_mark(file) || !mount[i])
				continue;
			if (is_written && S_ISREG(file->mode))
				rc = ct_vec_append(&p->flush, &i, 1);
			while (group < p->mounts.n && *CT_AT(uint64_t, &p->mounts, group) != mount[i])
				group++;
			if (rc == 0 && group == p->mounts.n)
				rc = ct_vec_append(&p->mounts, &mount[i], 1);
			if (rc == 0)
				rc = plan_tries(p, p->paths[i], i, S_ISDIR(file->mode), group, mount[i]);
		}
	for (uint32_t i = 0; rc == 0 && i < f->snap.files.n; i++)
		for (uint32_t group = 0; group < p->mounts.n; group++)
			if (mount[i] && *CT_AT(uint64_t, &p->mounts, group) == mount[i])
				*CT_AT(uint32_t, &f->mark_of, i) = group + 1;
	free(mount);
	p->nonces = rc == 0 ? calloc(p->mounts.n + 1, sizeof(*p->nonces)) : NULL;
	if (!p->nonces || getrandom(p->nonces, p->mounts.n * 16, 0) != (ssize_t)(p->mounts.n * 16))
		rc = -ENOMEM;
	return rc < 0 ? gw_fail(why, rc, "no memory for a list of files") : 0;
}

static int read_whole(int fd, void *buf, size_t len, uint64_t deadline_ns)
{
	size_t at = 0;

	while (at < len) {
		uint64_t now = gw_now_ns();
		struct pollfd p = { fd, POLLIN, 0 };
		ssize_t n;

		if (now >= deadline_ns || poll(&p, 1, (int)((deadline_ns - now) / 1000000) + 1) == 0)
			return -ETIMEDOUT;
		n = read(fd, (char *)buf + at, len - at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		at += (size_t)n;
	}
	return 0;
}

int ct_marks_make(struct ct_files *f, struct gw_error *why)
{
	struct plan p = { 0 };
	uint32_t *number = NULL; /* of the mark of each group, from 1 */
	int rc;

	ct_vec_init(&p.mounts, sizeof(uint64_t));
	ct_vec_init(&p.tries, sizeof(struct ct_try));
	ct_vec_init(&p.flush, sizeof(uint32_t));
	rc = plan_make(f, &p, why);
	if (rc == 0 && p.mounts.n) {
		struct ct_guard g = { p.paths, p.tries.at, p.tries.n, p.mounts.n, (const uint8_t (*)[16])p.nonces, p.flush.at, p.flush.n };
		uint64_t until = gw_now_ns() + MARK_WAIT_MS * 1000000ull;

		number = calloc(p.mounts.n + 1, sizeof(*number));
		rc = number ? ct_guard_start(&f->guard, &g) : -ENOMEM;
		if (rc < 0)
			gw_fail(why, rc, "no process could be made that watches over its files: %s", strerror(-rc));
		for (uint32_t i = 0; rc == 0 && i < p.mounts.n; i++) {
			struct ct_img_mark mark = { 0 };
			struct ct_mark_made made;

			rc = read_whole(f->guard.fd, &made, sizeof(made), until);
			if (rc < 0) {
				gw_fail(why, rc, "the file systems of its files do not answer on host %s (%s): '%s' is on one of them", f->host,
				        strerror(-rc), p.tries.n ? p.paths[CT_AT(struct ct_try, &p.tries, 0)->file] : "?");
				break;
			}
			if (made.code < 0)
				continue; /* nobody may write there: it is proved in another way, or not */
			mark = (struct ct_img_mark){ .file = made.file, .prefix = made.prefix, .ino = made.ino };
			memcpy(mark.nonce, p.nonces[i], sizeof(mark.nonce));
			if (ct_vec_append(&f->marks, &mark, 1) < 0)
				rc = gw_fail(why, -ENOMEM, "no memory for a list of files");
			number[i + 1] = (uint32_t)f->marks.n;
		}
		for (size_t i = 0; rc == 0 && i < f->mark_of.n; i++)
			*CT_AT(uint32_t, &f->mark_of, i) = number[*CT_AT(uint32_t, &f->mark_of, i)];
	}
	free(number);
	free(p.paths);
	free(p.nonces);
	ct_vec_fini(&p.mounts);
	ct_vec_fini(&p.tries);
	ct_vec_fini(&p.flush);
	return rc;
}

/* At the destination: an empty file for each that will travel, beside its place. Its guard removes them, unless they have
 * got their names by then. */
int ct_places_make(struct ct_files *f, struct gw_error *why)
{
	const char **paths = calloc(f->snap.files.n + 1, sizeof(*paths));
	uint64_t until = gw_now_ns() + MARK_WAIT_MS * 1000000ull;
	uint8_t (*nonces)[16] = NULL;
	struct ct_vec tries;
	uint32_t n = 0;
	int rc;

	ct_vec_init(&tries, sizeof(struct ct_try));
	for (size_t i = 0; paths && i < f->snap.files.n; i++)
		paths[i] = ct_files_path(f, i);
	rc = paths ? 0 : -ENOMEM;
	for CT_EACH(const struct ct_img_claim, c, &f->claims) {
		const char *path = ct_files_path(f, c->file);
		struct ct_try t = { .group = n, .file = c->file, .prefix = (uint32_t)(strrchr(path, '/') - path) };
		char dir[4096];
		struct stat st;

		if (!c->is_carried || rc < 0)
			continue;
		n++;
		snprintf(dir, sizeof(dir), "%.*s", t.prefix ? (int)t.prefix : 1, path);
		t.mount = ct_mount_of(dir, &st);
		rc = ct_vec_append(&tries, &t, 1);
	}
	if (rc == 0 && n) {
		nonces = calloc(n, sizeof(*nonces));
		rc = nonces && getrandom(nonces, n * 16, 0) == (ssize_t)(n * 16) ? 0 : -ENOMEM;
	}
	if (rc == 0 && n) {
		struct ct_guard g = { paths, tries.at, tries.n, n, (const uint8_t (*)[16])nonces, NULL, 0 };

		rc = ct_guard_start(&f->guard, &g);
	}
	if (rc < 0)
		gw_fail(why, rc, "files that travel cannot be prepared: %s", strerror(-rc));
	for (uint32_t i = 0; rc == 0 && i < n; i++) {
		const struct ct_try *t = CT_AT(struct ct_try, &tries, i);
		struct ct_img_mark place = { .file = t->file, .prefix = t->prefix };
		struct ct_mark_made made = { 0 };

		rc = read_whole(f->guard.fd, &made, sizeof(made), until);
		rc = rc < 0 ? rc : made.code;
		if (rc < 0)
			gw_fail(why, rc, "the file '%s' is to travel with the rank, but none can be made there on host %s: %s",
			        paths[t->file], f->host, strerror(-rc));
		memcpy(place.nonce, nonces[i], sizeof(place.nonce));
		if (rc == 0 && ct_vec_append(&f->places, &place, 1) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of files");
	}
	free(paths);
	free(nonces);
	ct_vec_fini(&tries);
	return rc;
}

/* Seen, it has done its work: it is removed from this side too, in case the other cannot any more. */
void ct_mark_look(const struct ct_files *f, const struct ct_img_mark *m, struct ct_mark_seen *out)
{
	char path[CT_MARK_PATH];
	struct stat st;

	*out = (struct ct_mark_seen){ 0 };
	if (!ct_mark_path(path, ct_files_path(f, m->file), m->prefix, m->nonce))
		return;
	out->mount = ct_mount_of(path, &st);
	out->is_seen = out->mount && S_ISREG(st.st_mode) && st.st_size == 0;
	out->is_ino_same = out->is_seen && st.st_ino == m->ino;
	if (out->is_seen)
		unlink(path);
}
