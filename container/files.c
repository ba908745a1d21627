/* SPDX-License-Identifier: BSD-2-Clause */
/* Whether the files of a rank are the same at the other side: the exchange of question and answer, the contents, the flush. */
#include "container/proof.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CACHE_MAX 4096

/* What files of this host contain, so that a library is read once: of this whole process, as it is true for all ranks. */
static struct ct_vec known;

/* ---- making one -------------------------------------------------------------------------------------------------- */

void ct_files_free(struct ct_files *f)
{
	if (!f)
		return;
	ct_helper_end(&f->guard);
	ct_helper_end(&f->reader);
	ct_snapshot_fini(&f->snap);
	ct_vec_fini(&f->bytes);
	ct_vec_fini(&f->claims);
	ct_vec_fini(&f->ask);
	ct_vec_fini(&f->input);
	ct_vec_fini(&f->marks);
	ct_vec_fini(&f->mark_of);
	ct_vec_fini(&f->places);
	free(f);
}

void ct_files_reap(void)
{
	ct_helpers_reap();
}

static int files_new(struct ct_files **out, const struct ct_needs *needs, struct gw_error *why)
{
	struct ct_files *f = calloc(1, sizeof(*f));
	struct ct_reader d;
	struct utsname u;
	int rc;

	if (!f)
		return gw_fail(why, -ENOMEM, "no memory for a list of files");
	f->guard.fd = f->reader.fd = -1;
	ct_snapshot_init(&f->snap);
	ct_vec_init(&f->bytes, 1);
	ct_vec_init(&f->claims, sizeof(struct ct_img_claim));
	ct_vec_init(&f->ask, sizeof(uint32_t));
	ct_vec_init(&f->input, 1);
	ct_vec_init(&f->marks, sizeof(struct ct_img_mark));
	ct_vec_init(&f->mark_of, sizeof(uint32_t));
	ct_vec_init(&f->places, sizeof(struct ct_img_mark));
	if (uname(&u) == 0)
		snprintf(f->host, sizeof(f->host), "%.63s", u.nodename);
	ct_reader_init(&d, NULL, NULL, &f->snap);
	rc = ct_reader_feed(&d, needs->blob, needs->blob_len, why);
	if (rc == 0 && (!d.is_complete || !d.is_needs))
		rc = gw_fail(why, -EBADMSG, "what the source said about the rank is damaged");
	ct_reader_fini(&d);
	if (rc == 0 && f->snap.files.n && !ct_vec_add(&f->mark_of, f->snap.files.n))
		rc = gw_fail(why, -ENOMEM, "no memory for a list of files");
	if (rc < 0)
		ct_files_free(f);
	else
		*out = f;
	return rc;
}

const void *ct_files_bytes(const struct ct_files *f, size_t *len)
{
	*len = f->bytes.n;
	return f->bytes.at;
}

int ct_files_fd(const struct ct_files *f)
{
	return f->is_flushing ? f->guard.fd : f->reader.fd;
}

/* ---- the source asks --------------------------------------------------------------------------------------------- */

/* Memory that is shared with another process here would be two memories on two hosts. */
static int sharers_refuse(const struct ct_files *f, pid_t pid, struct gw_error *why)
{
	struct ct_vec pids;
	struct ct_maps maps = { 0 };
	bool is_any = false;
	int rc = 0;

	for CT_EACH(const struct ct_img_file, file, &f->snap.files)
		is_any |= (file->flags & CT_IMG_FILE_SHARED) != 0;
	if (!is_any)
		return 0;
	ct_vec_init(&pids, sizeof(int));
	ct_vec_init(&maps.list, sizeof(struct ct_map));
	ct_proc_ids(getpid(), "../", &pids);
	for CT_EACH(const int, other, &pids) {
		if (rc < 0 || *other == pid || ct_maps_read(&maps, *other, false) < 0)
			continue; /* one that we may not look at is not of this user, or has ended */
		for CT_EACH(const struct ct_map, m, &maps.list)
			for (size_t i = 0; rc == 0 && m->is_shared && i < f->snap.files.n; i++) {
				const struct ct_img_file *file = ct_files_at(f, i);

				if ((file->flags & CT_IMG_FILE_SHARED) && m->ino == file->ino && strcmp(m->name, ct_files_path(f, i)) == 0)
					rc = gw_fail(why, -EBUSY, "process %d on host %s has the file '%s' mapped too, which the rank writes through "
					             "memory: from another host neither would see what the other writes; end it, or keep the rank "
					             "with 'godwit pin'", *other, f->host, ct_files_path(f, i));
			}
	}
	ct_maps_fini(&maps);
	ct_vec_fini(&pids);
	return rc;
}

int ct_files_ask(struct ct_files **out, const struct ct_needs *needs, pid_t pid, bool is_far, bool may_carry, struct gw_error *why)
{
	struct ct_img_question q = { .version = CT_IMG_FILES_VERSION,
		.flags = (is_far ? CT_IMG_ASK_FAR : 0) | (may_carry ? CT_IMG_ASK_CARRY : 0) };
	struct ct_files *f;
	int rc = files_new(&f, needs, why);

	if (rc < 0)
		return rc;
	f->is_source = true;
	f->is_far = is_far;
	f->may_carry = may_carry;
	rc = is_far ? sharers_refuse(f, pid, why) : 0;
	if (rc == 0 && is_far)
		rc = ct_marks_make(f, why);
	memcpy(q.host, f->host, sizeof(q.host));
	q.marks = (uint32_t)f->marks.n;
	q.files = (uint32_t)f->mark_of.n;
	if (rc == 0 && (ct_vec_append(&f->bytes, &q, sizeof(q)) < 0 ||
	                ct_vec_append(&f->bytes, f->marks.at, f->marks.n * f->marks.size) < 0 ||
	                ct_vec_append(&f->bytes, f->mark_of.at, f->mark_of.n * f->mark_of.size) < 0))
		rc = gw_fail(why, -ENOMEM, "no memory for a list of files");
	if (rc < 0)
		ct_files_free(f);
	else
		*out = f;
	return rc;
}

/* ---- the destination looks --------------------------------------------------------------------------------------- */

static bool is_beside(const struct ct_files *f, const struct ct_img_mark *m, const char *path)
{
	const char *name = strrchr(path, '/');

	return name && (size_t)(name - path) == m->prefix && memcmp(path, ct_files_path(f, m->file), m->prefix) == 0;
}

static void sight_of(const struct ct_files *f, uint32_t i, const struct ct_mark_seen *seen, struct ct_sight *s)
{
	uint32_t mark = *CT_AT(uint32_t, &f->mark_of, i);
	const char *path = ct_files_path(f, i);
	struct statfs fs;
	uint64_t mount;
	struct stat st;

	*s = (struct ct_sight){ .is_far = f->is_far, .ino_there = ct_files_at(f, i)->ino, .has_mark = mark != 0,
		.may_carry = f->may_carry };
	mount = ct_mount_of(path, &st);
	if (!mount) {
		s->error = errno ? errno : EIO;
		return;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	s->size = (uint64_t)st.st_size;
	s->rdev = st.st_rdev;
	s->mode = st.st_mode;
	s->mtime_s = st.st_mtim.tv_sec;
	s->mtime_ns = (uint32_t)st.st_mtim.tv_nsec;
	s->may_replace = f->may_carry && ct_carried_may_replace(path, &st);
	if (statfs(path, &fs) == 0) {
		s->is_of_kernel = ct_fs_is_of_kernel(&fs);
		s->is_network = ct_fs_is_network(&fs);
	}
	if (mark) {
		s->is_mark_seen = seen[mark - 1].is_seen;
		s->is_mount_same = seen[mark - 1].mount == mount;
		s->is_ino_comparable = seen[mark - 1].is_ino_same;
		s->is_beside_mark = is_beside(f, CT_AT(struct ct_img_mark, &f->marks, mark - 1), path);
	}
}

/* ---- contents ---------------------------------------------------------------------------------------------------- */

static const struct ct_contents *known_find(const struct stat *st)
{
	struct ct_contents key;

	ct_contents_key(&key, st);
	for CT_EACH(const struct ct_contents, c, &known)
		if (memcmp(c, &key, offsetof(struct ct_contents, hash)) == 0)
			return c;
	return NULL;
}

static void known_add(const struct ct_contents *c)
{
	known.size = sizeof(*c);
	if (known.n >= CACHE_MAX)
		known.n = 0; /* begins anew: what is still used will be read once more */
	for CT_EACH(struct ct_contents, k, &known)
		if (k->dev == c->dev && k->ino == c->ino) {
			*k = *c;
			return;
		}
	ct_vec_append(&known, c, 1); /* without memory it is read again */
}

/* What the contents of claim @i are here: told to the other side, or compared with what that has told. */
static int contents_take(struct ct_files *f, size_t i, const struct ct_contents *c, struct gw_error *why)
{
	struct ct_img_claim *claim = CT_AT(struct ct_img_claim, &f->claims, i);

	if (!f->is_source) {
		memcpy(claim->hash, c->hash, sizeof(claim->hash));
		return 0;
	}
	if (memcmp(claim->hash, c->hash, sizeof(claim->hash)) != 0)
		return gw_fail(why, -ENOENT, "the file '%s', which the rank uses, has other contents on host %s than on %s; install the "
		               "same one", ct_files_path(f, claim->file), f->other, f->host);
	return 0;
}

static int answer_end(struct ct_files *f, struct gw_error *why)
{
	struct ct_img_answer a = { .version = CT_IMG_FILES_VERSION, .claims = (uint32_t)f->claims.n };

	if (f->is_source)
		return 0;
	memcpy(a.host, f->host, sizeof(a.host));
	if (ct_vec_append(&f->bytes, &a, sizeof(a)) < 0 ||
	    ct_vec_append(&f->bytes, f->claims.at, f->claims.n * f->claims.size) < 0)
		return gw_fail(why, -ENOMEM, "no memory for a list of files");
	return 0;
}

/* all claims: what is known is taken at once, the rest is read by a helper */
static int contents_begin(struct ct_files *f, struct gw_error *why)
{
	const char **paths = calloc(f->claims.n + 1, sizeof(*paths));
	int rc = paths ? 0 : gw_fail(why, -ENOMEM, "no memory for a list of files");

	for (uint32_t i = 0; rc == 0 && i < f->claims.n; i++) {
		const char *path = ct_files_path(f, CT_AT(struct ct_img_claim, &f->claims, i)->file);
		const struct ct_contents *c;
		struct stat st;

		if (CT_AT(struct ct_img_claim, &f->claims, i)->is_carried)
			continue;
		c = stat(path, &st) == 0 ? known_find(&st) : NULL;
		if (c) {
			rc = contents_take(f, i, c, why);
			continue;
		}
		paths[f->ask.n] = path;
		if (ct_vec_append(&f->ask, &i, 1) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of files");
	}
	if (rc == 0 && f->ask.n) {
		rc = ct_contents_start(&f->reader, paths, f->ask.n);
		rc = rc < 0 ? gw_fail(why, rc, "no process could be made that reads its files: %s", strerror(-rc)) : 1;
	}
	free(paths);
	return rc == 0 ? answer_end(f, why) : rc;
}

/* whole records of @size at the front of what the helper said */
static int input_take(struct ct_files *f, int fd, void *out, size_t size)
{
	char buf[8192];
	ssize_t n;

	if (f->input.n < size) {
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		if (ct_vec_append(&f->input, buf, (size_t)n) < 0)
			return -ENOMEM;
		if (f->input.n < size)
			return 0;
	}
	memcpy(out, f->input.at, size);
	f->input.n -= size;
	memmove(f->input.at, (char *)f->input.at + size, f->input.n);
	return 1;
}

static int flushed(struct ct_files *f, struct gw_error *why)
{
	struct ct_flushed done;
	int rc = input_take(f, f->guard.fd, &done, sizeof(done));

	if (rc == 0)
		return 1;
	f->is_flushing = false;
	if (rc < 0)
		return gw_fail(why, rc, "the process that writes its files back on host %s has ended; try again", f->host);
	if (done.code < 0)
		return gw_fail(why, done.code, "what the rank wrote to '%s' could not be brought to the file system: %s; it would be "
		               "missing on host %s", done.file < f->snap.files.n ? ct_files_path(f, done.file) : "?",
		               strerror(-done.code), f->other);
	return 0;
}

int ct_files_go_on(struct ct_files *f, struct gw_error *why)
{
	struct ct_contents_done done;
	int rc = 0;

	if (f->is_flushing)
		return flushed(f, why);
	while (f->answered < f->ask.n) {
		uint32_t claim = *CT_AT(uint32_t, &f->ask, f->answered);
		const char *path = ct_files_path(f, CT_AT(struct ct_img_claim, &f->claims, claim)->file);

		rc = input_take(f, f->reader.fd, &done, sizeof(done));
		if (rc == 0)
			return 1;
		if (rc < 0)
			return gw_fail(why, rc, "the process that reads the rank's files on host %s has ended; try again", f->host);
		f->answered++;
		if (done.code == -EAGAIN)
			return gw_fail(why, -EBUSY, "the file '%s', which the rank uses, is not seen to be the same one on host %s, and was "
			               "written while it was compared; try again", path, f->host);
		if (done.code < 0)
			return gw_fail(why, done.code, "the file '%s', which the rank uses, cannot be read on host %s: %s; so it cannot be "
			               "compared with the other host's", path, f->host, strerror(-done.code));
		known_add(&done.c);
		rc = contents_take(f, claim, &done.c, why);
		if (rc < 0)
			return rc;
	}
	ct_helper_end(&f->reader);
	return answer_end(f, why);
}

int ct_files_look(struct ct_files **out, const struct ct_needs *needs, const void *question, size_t len,
                  struct gw_error *why)
{
	struct ct_img_question q = { 0 };
	struct ct_mark_seen *seen = NULL;
	struct ct_files *f;
	int rc = files_new(&f, needs, why);

	if (rc < 0)
		return rc;
	rc = ct_question_parse(question, len, &f->snap, &q, &f->marks, &f->mark_of);
	if (rc == 0)
		seen = calloc(f->marks.n + 1, sizeof(*seen));
	if (rc < 0 || !seen)
		rc = gw_fail(why, rc ? rc : -ENOMEM, "what the source asks about the rank's files is %s", rc ? "damaged" : "too long");
	if (rc == 0) {
		memcpy(f->other, q.host, sizeof(f->other));
		f->is_far = q.flags & CT_IMG_ASK_FAR;
		f->may_carry = q.flags & CT_IMG_ASK_CARRY;
	}
	for (uint32_t i = 0; rc == 0 && i < f->marks.n; i++)
		ct_mark_look(f, CT_AT(struct ct_img_mark, &f->marks, i), &seen[i]);
	for (uint32_t i = 0; rc == 0 && i < f->snap.files.n; i++) {
		struct ct_img_claim claim = { .file = i };
		enum ct_verdict v;
		struct ct_sight s;

		sight_of(f, i, seen, &s);
		v = ct_file_judge(ct_files_at(f, i), &s);
		claim.is_carried = v == CT_FILE_CARRY;
		if (v == CT_FILE_BY_CONTENTS || v == CT_FILE_CARRY)
			rc = ct_vec_append(&f->claims, &claim, 1) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of files") : 0;
		else if (v != CT_FILE_SAME)
			rc = ct_file_refuse(ct_files_at(f, i), ct_files_path(f, i), v, &s, f->host, f->other, why);
	}
	free(seen);
	if (rc == 0)
		rc = ct_places_make(f, why);
	if (rc == 0)
		rc = contents_begin(f, why);
	if (rc < 0)
		ct_files_free(f);
	else
		*out = f;
	return rc;
}

/* ---- the source again -------------------------------------------------------------------------------------------- */

static void guard_tell(struct ct_files *f, char what)
{
	if (f->guard.fd >= 0 && send(f->guard.fd, &what, 1, MSG_NOSIGNAL) < 0)
		gw_log(GW_DEBUG, "the guard of files has ended: %s", strerror(errno));
}

int ct_files_check(struct ct_files *f, const void *answer, size_t len, struct gw_error *why)
{
	struct ct_img_answer a;
	int rc;

	guard_tell(f, CT_GUARD_UNMARK);
	rc = ct_answer_parse(answer, len, &f->snap, &a, &f->claims);
	if (rc < 0)
		return gw_fail(why, rc, "what the destination says of the rank's files is damaged");
	memcpy(f->other, a.host, sizeof(f->other));
	for CT_EACH(const struct ct_img_claim, c, &f->claims) {
		const struct ct_img_file *file = ct_files_at(f, c->file);
		struct statfs fs;

		if (c->is_carried && (!f->may_carry || !(file->flags & CT_IMG_FILE_OPEN) || (file->flags & CT_IMG_FILE_MAPPED)))
			return gw_fail(why, -EPROTO, "the destination wants '%s' to travel, which cannot", ct_files_path(f, c->file));
		if (c->is_carried)
			continue;

		/* the destination was content with what its server says; that is worth nothing when ours is a disk */
		if ((file->flags & CT_IMG_FILE_WRITES) && (statfs(ct_files_path(f, c->file), &fs) < 0 || !ct_fs_is_network(&fs)))
			return gw_fail(why, -EBUSY, "the file '%s', which the rank writes, is host %s's own: host %s would not see what is in "
			               "it; put it on a file system that both share", ct_files_path(f, c->file), f->host, f->other);
	}
	return contents_begin(f, why);
}

int ct_files_still(const struct ct_files *f, const struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_file, file, &r->snap.files) {
		const char *path = ct_snapshot_text(&r->snap, file->path);
		bool is_known = !f->is_far && !(file->flags & CT_IMG_FILE_DELETED);

		for (size_t i = 0; !is_known && i < f->snap.files.n; i++) {
			const struct ct_img_file *old = ct_files_at(f, i);

			is_known = old->dev == file->dev && old->ino == file->ino && !(file->flags & ~old->flags & (CT_IMG_FILE_WRITES | CT_IMG_FILE_DELETED)) &&
			           strcmp(ct_files_path(f, i), path) == 0;
		}
		if (!is_known)
			return gw_fail(why, -EAGAIN, "it opened '%s' after its files were compared with those of host %s; try again", path,
			               f->other);
	}
	return 0;
}

int ct_files_flush(struct ct_files *f, struct gw_error *why)
{
	char what = CT_GUARD_FLUSH;

	if (f->guard.fd < 0)
		return 0;
	f->input.n = 0;
	f->is_flushing = true;
	if (send(f->guard.fd, &what, 1, MSG_NOSIGNAL) != 1)
		return gw_fail(why, -errno, "the process that writes its files back on host %s has ended; try again", f->host);
	return 1;
}

/* ---- what travels ------------------------------------------------------------------------------------------------ */

int ct_files_carry(const struct ct_files *f, struct ct_rank *r)
{
	for CT_EACH(const struct ct_img_claim, c, &f->claims) {
		struct ct_carried carried = { .dev = ct_files_at(f, c->file)->dev, .ino = ct_files_at(f, c->file)->ino, .fd = -1 };

		if (c->is_carried && ct_vec_append(&r->carried, &carried, 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

void ct_files_left(const struct ct_files *f)
{
	for CT_EACH(const struct ct_img_claim, c, &f->claims)
		if (c->is_carried && !(ct_files_at(f, c->file)->flags & CT_IMG_FILE_DELETED))
			ct_carried_left(ct_files_path(f, c->file));
}

int ct_files_expect(const struct ct_files *f, struct ct_rank *shell, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_mark, p, &f->places) {
		const struct ct_img_file *file = ct_files_at(f, p->file);
		struct ct_carried c = { .dev = file->dev, .ino = file->ino, .is_deleted = file->flags & CT_IMG_FILE_DELETED };
		char temp[CT_MARK_PATH];

		if (!ct_mark_path(temp, ct_files_path(f, p->file), p->prefix, p->nonce))
			return gw_fail(why, -ENAMETOOLONG, "'%s' is too long a path", ct_files_path(f, p->file));
		c.path = strdup(ct_files_path(f, p->file));
		c.temp = strdup(temp);
		c.fd = open(temp, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
		if (!c.path || !c.temp || c.fd < 0 || ct_vec_append(&shell->carried, &c, 1) < 0) {
			gw_fail(why, -errno, "the file '%s', which is to travel, cannot be written: %s", ct_files_path(f, p->file), strerror(errno));
			if (c.fd >= 0)
				close(c.fd);
			free(c.path);
			free(c.temp);
			return why->code ? why->code : -ENOMEM;
		}
	}
	return 0;
}
