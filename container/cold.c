/* SPDX-License-Identifier: BSD-2-Clause */
/* Files of ranks that are continued later: what they are known by, and whether they are still so. */
#include "container/cold.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/proof.h"

#define CONTENTS_MAX (64ll << 20) /* bytes of a mapped file without a build-id that are read; above, its time of change counts */
#define KNOWN_MAX    4096

/* ---- what a file is known by ------------------------------------------------------------------------------------------ */

struct known { struct ct_contents key; struct ct_cold_id id; }; /* the key without a hash */
static struct ct_vec known; /* of this process: ranks of a job map the same libraries */

static bool note_print(const unsigned char *at, size_t len, struct ct_cold_id *id)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		size_t name, desc;

		memcpy(&n, at, sizeof(n));
		name = ((size_t)n.n_namesz + 3) & ~(size_t)3;
		desc = ((size_t)n.n_descsz + 3) & ~(size_t)3;
		if (name + desc > len - sizeof(n))
			return false;
		at += sizeof(n);
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && memcmp(at, "GNU", 4) == 0 && n.n_descsz && n.n_descsz <= 64) {
			int used = snprintf(id->text, sizeof(id->text), "build-id ");

			for (size_t i = 0; i < n.n_descsz; i++)
				used += snprintf(id->text + used, sizeof(id->text) - (size_t)used, "%02x", at[name + i]);
			return true;
		}
		at += name + desc;
		len -= sizeof(n) + name + desc;
	}
	return false;
}

/* Foreign bytes: what does not fit is as if it were not there. */
static bool build_id(const unsigned char *bytes, size_t len, struct ct_cold_id *id)
{
	Elf64_Ehdr e;

	if (len < sizeof(e))
		return false;
	memcpy(&e, bytes, sizeof(e));
	if (memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64 || e.e_phentsize != sizeof(Elf64_Phdr) ||
	    e.e_phoff > len || e.e_phnum > (len - e.e_phoff) / sizeof(Elf64_Phdr))
		return false;
	for (size_t i = 0; i < e.e_phnum; i++) {
		Elf64_Phdr p;

		memcpy(&p, bytes + e.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_NOTE && p.p_offset <= len && p.p_filesz <= len - p.p_offset &&
		    note_print(bytes + p.p_offset, p.p_filesz, id))
			return true;
	}
	return false;
}

static int identify(const char *path, const struct stat *st, struct ct_cold_id *id)
{
	gw_autoclose int fd = -1;
	struct ct_contents c;
	void *bytes;
	int code;

	id->text[0] = '\0';
	if (st->st_size == 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return errno == EACCES ? 0 : -errno; /* as a program that may be executed and not read */
	bytes = mmap(NULL, (size_t)st->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes != MAP_FAILED) {
		bool has = build_id(bytes, (size_t)st->st_size, id);

		munmap(bytes, (size_t)st->st_size);
		if (has)
			return 0;
	}
	if (st->st_size > CONTENTS_MAX)
		return 0;
	code = ct_contents_read(path, &c);
	if (code == 0)
		snprintf(id->text, sizeof(id->text), "contents %016llx%016llx", (unsigned long long)c.hash[1], (unsigned long long)c.hash[0]);
	return code;
}

static int id_of(const char *path, const struct stat *st, struct ct_cold_id *id)
{
	struct known k = { 0 };
	int code;

	ct_contents_key(&k.key, st);
	for CT_EACH(const struct known, old, &known)
		if (memcmp(&old->key, &k.key, offsetof(struct ct_contents, hash)) == 0) {
			*id = old->id;
			return 0;
		}
	code = identify(path, st, id);
	if (code < 0)
		return code;
	k.id = *id;
	known.size = sizeof(k);
	known.n = known.n < KNOWN_MAX ? known.n : 0; /* begins anew: what is still used will be read once more */
	ct_vec_append(&known, &k, 1); /* without memory, too */
	return 0;
}

/* A mapping that others may change is not what it was in any case. */
static bool is_judged_by_id(const struct ct_img_file *f)
{
	return S_ISREG(f->mode) && (f->flags & CT_IMG_FILE_MAPPED) && !(f->flags & CT_IMG_FILE_SHARED);
}

/* The files of a needs blob: @s is the caller's to end, in any case. */
static int needs_read(const struct ct_needs *needs, struct ct_snapshot *s, struct gw_error *why)
{
	struct ct_reader d;
	int rc;

	ct_snapshot_init(s);
	ct_reader_init(&d, NULL, NULL, s);
	rc = ct_reader_feed(&d, needs->blob, needs->blob_len, why);
	if (rc == 0 && (!d.is_complete || !d.is_needs))
		rc = gw_fail(why, -EBADMSG, "what was written down of its files is damaged");
	ct_reader_fini(&d);
	return rc;
}

int ct_cold_ids(const struct ct_needs *needs, struct ct_cold_id **out, struct gw_error *why)
{
	struct ct_cold_id *ids = NULL;
	struct ct_snapshot s;
	int rc = needs_read(needs, &s, why);

	if (rc == 0) {
		ids = calloc(s.files.n + 1, sizeof(*ids));
		rc = ids ? 0 : gw_fail(why, -ENOMEM, "no memory for a list of files");
	}
	for (size_t i = 0; rc == 0 && i < s.files.n; i++) {
		const struct ct_img_file *f = CT_AT(struct ct_img_file, &s.files, i);
		const char *path = ct_snapshot_text(&s, f->path);
		struct stat st;

		if (!is_judged_by_id(f))
			continue;
		if (stat(path, &st) < 0 || st.st_dev != f->dev || st.st_ino != f->ino)
			rc = gw_fail(why, -ENOENT, "the file '%s', which it has mapped, cannot be found by its path any more; it could not be "
			             "continued without it", path);
		else if ((rc = id_of(path, &st, &ids[i])) < 0)
			gw_fail(why, rc, "the file '%s', which it has mapped, cannot be read: %s", path, strerror(-rc));
	}
	ct_snapshot_fini(&s);
	if (rc < 0)
		free(ids);
	else
		*out = ids;
	return rc;
}

/* ---- is it still so? --------------------------------------------------------------------------------------------------- */

static int look_mapped(const struct ct_img_file *f, const char *path, const struct stat *st, const struct ct_cold_id *was,
                       struct gw_error *why)
{
	struct ct_cold_id is = { "" };
	int rc = was->text[0] ? id_of(path, st, &is) : 0;

	if (rc < 0)
		return gw_fail(why, rc, "the file '%s', which it has mapped, cannot be read: %s", path, strerror(-rc));
	if (was->text[0] ? strcmp(was->text, is.text) != 0 : (uint64_t)st->st_size != f->size || st->st_mtim.tv_sec != f->mtime_s ||
	    (uint32_t)st->st_mtim.tv_nsec != f->mtime_ns)
		return gw_fail(why, -ENOENT, "the file '%s', which it has mapped, is not the one of then (%s); install that one", path,
		               was->text[0] ? was->text : "by its length and its time of change");
	return 0;
}

static int look_one(const struct ct_img_file *f, const char *path, const struct ct_cold_id *was, struct gw_error *why)
{
	const char *kind = S_ISDIR(f->mode) ? "directory" : "file";
	struct stat st;

	if (stat(path, &st) < 0)
		return gw_fail(why, -ENOENT, "the %s '%s', which it uses, is not here: %s; bring it back, or restart where it is", kind, path,
		               strerror(errno));
	if ((st.st_mode & S_IFMT) != (f->mode & S_IFMT) || (S_ISCHR(f->mode) && st.st_rdev != f->size))
		return gw_fail(why, -ENOENT, "'%s', which it uses, is of another kind here", path);
	if (!S_ISREG(f->mode))
		return 0;
	if (is_judged_by_id(f) && look_mapped(f, path, &st, was, why) < 0)
		return why->code;
	if ((uint64_t)st.st_size < f->size)
		return gw_fail(why, -ENODATA, "the file '%s', which it uses, has %llu bytes and had %llu; bring back what it was", path,
		               (unsigned long long)st.st_size, (unsigned long long)f->size);
	return 0;
}

static int say_host(struct gw_error *why)
{
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	return gw_fail_more(why, "host %s: ", host);
}

int ct_cold_still(const struct ct_needs *needs, const struct ct_rank *r, struct gw_error *why)
{
	struct ct_snapshot s;
	int rc = needs_read(needs, &s, why);

	for CT_EACH(const struct ct_img_file, f, &r->snap.files) {
		bool is_known = !is_judged_by_id(f);

		for CT_EACH(const struct ct_img_file, old, &s.files)
			is_known |= is_judged_by_id(old) && old->dev == f->dev && old->ino == f->ino &&
			            strcmp(ct_snapshot_text(&s, old->path), ct_snapshot_text(&r->snap, f->path)) == 0;
		if (rc == 0 && !is_known)
			rc = gw_fail(why, -EAGAIN, "it mapped '%s' while it was being looked at; try again", ct_snapshot_text(&r->snap, f->path));
	}
	ct_snapshot_fini(&s);
	return rc;
}

int ct_cold_look_open(const struct ct_rank *r, struct gw_error *why)
{
	for CT_EACH(const struct ct_img_file, f, &r->snap.files)
		if (!is_judged_by_id(f) && look_one(f, ct_snapshot_text(&r->snap, f->path), NULL, why) < 0)
			return say_host(why);
	return 0;
}

int ct_cold_look(const struct ct_needs *needs, const struct ct_cold_id *ids, size_t n, struct gw_error *why)
{
	struct ct_snapshot s;
	int rc = needs_read(needs, &s, why);

	if (rc == 0 && s.files.n != n)
		rc = gw_fail(why, -EBADMSG, "what was written down of its files is damaged");
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct ct_img_file *f = CT_AT(struct ct_img_file, &s.files, i);

		rc = look_one(f, ct_snapshot_text(&s, f->path), &ids[i], why);
		if (rc < 0)
			say_host(why);
	}
	ct_snapshot_fini(&s);
	return rc;
}

int ct_cold_written(const struct ct_rank *r, ct_cold_written_fn *each, void *ctx, struct gw_error *why)
{
	int rc = 0;

	for CT_EACH(const struct ct_img_fd, fd, &r->snap.fds) {
		const struct ct_img_file *f;

		if (rc != 0 || fd->kind != CT_FD_FILE || fd->file >= r->snap.files.n)
			continue;
		f = CT_AT(struct ct_img_file, &r->snap.files, fd->file);
		if (S_ISREG(f->mode) && (fd->status_flags & O_ACCMODE) != O_RDONLY && !(fd->status_flags & O_PATH) &&
		    ((fd->status_flags & O_APPEND) || (fd->status_flags & O_ACCMODE) == O_WRONLY))
			rc = each(ctx, ct_snapshot_text(&r->snap, f->path), f->ino, f->size, why);
	}
	return rc;
}
