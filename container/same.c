/* SPDX-License-Identifier: BSD-2-Clause */
/* The rule: when is a file the same at the other side? Pure functions of what was seen, and of what the other side has said. */
#include "container/proof.h"

#include <linux/magic.h>
#include <sys/stat.h>

#define COMPARE_MAX (1ull << 30)  /* bytes of one file: above that its contents are not compared */

bool ct_file_is_marked(const struct ct_sight *s)
{
	return s->is_mark_seen && s->is_mount_same && (s->is_ino_comparable ? s->ino == s->ino_there : s->is_beside_mark);
}

static enum ct_verdict judge(const struct ct_img_file *file, const struct ct_sight *s)
{
	bool is_reg = S_ISREG(file->mode);

	if (s->error)
		return CT_FILE_MISSING;
	if ((s->mode & S_IFMT) != (file->mode & S_IFMT))
		return CT_FILE_OTHER_KIND;
	if (file->flags == CT_IMG_FILE_CWD)
		return CT_FILE_SAME; /* a directory is what its path says */
	if (S_ISCHR(file->mode))
		return s->rdev == file->size ? CT_FILE_SAME : CT_FILE_OTHER_KIND;
	if (!s->is_far && s->dev == file->dev && s->ino == file->ino)
		return CT_FILE_SAME;
	if (s->is_of_kernel)
		return CT_FILE_OF_HOST;
	if (ct_file_is_marked(s))
		return CT_FILE_SAME;
	if (!is_reg)
		return CT_FILE_UNPROVED;
	/* where nothing can be written that could be seen: all that a server says of it, and its contents */
	if ((file->flags & CT_IMG_FILE_WRITES) &&
	    (s->has_mark || !s->is_network || s->ino != file->ino || s->mtime_s != file->mtime_s || s->mtime_ns != file->mtime_ns))
		return CT_FILE_UNPROVED;
	if (s->size != file->size)
		return CT_FILE_DIFFERS;
	return s->size > COMPARE_MAX ? CT_FILE_TOO_LARGE : CT_FILE_BY_CONTENTS;
}

/* What travels is open and not mapped: mappings are made before the contents come. */
enum ct_verdict ct_file_judge(const struct ct_img_file *file, const struct ct_sight *s)
{
	enum ct_verdict v = judge(file, s);
	bool can = s->may_carry && S_ISREG(file->mode) && (file->flags & CT_IMG_FILE_OPEN) && !(file->flags & CT_IMG_FILE_MAPPED);

	if (file->flags & CT_IMG_FILE_DELETED)
		return can ? CT_FILE_CARRY : CT_FILE_UNPROVED;
	if (!can || v == CT_FILE_SAME || v == CT_FILE_BY_CONTENTS || v == CT_FILE_OF_HOST)
		return v;
	if (v == CT_FILE_MISSING)
		return s->error == ENOENT ? CT_FILE_CARRY : v;
	return s->may_replace ? CT_FILE_CARRY : file->flags & CT_IMG_FILE_WRITES ? CT_FILE_IN_THE_WAY : v;
}

/* The classes of files that tell of this host, or of its kernel, whatever their path. */
bool ct_fs_is_of_kernel(const struct statfs *f)
{
	static const uint32_t magic[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC,
		CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, BPF_FS_MAGIC, PSTOREFS_MAGIC, EFIVARFS_MAGIC, NSFS_MAGIC };

	for (size_t i = 0; i < GW_ARRAY_LEN(magic); i++)
		if ((uint32_t)f->f_type == magic[i])
			return true;
	return false;
}

/* NFS, CIFS, SMB2, FUSE (sshfs, GlusterFS, ...), 9p, Lustre, GPFS, Ceph, AFS, OCFS2, GFS2, BeeGFS, Panasas */
bool ct_fs_is_network(const struct statfs *f)
{
	static const uint32_t magic[] = { 0x6969, 0xff534d42, 0xfe534d42, 0x65735546, 0x01021997, 0x0bd00bd0, 0x47504653,
		0x00c36400, 0x5346414f, 0x7461636f, 0x01161970, 0x19830326, 0xaad7aaea };

	for (size_t i = 0; i < GW_ARRAY_LEN(magic); i++)
		if ((uint32_t)f->f_type == magic[i])
			return true;
	return false;
}

int ct_file_refuse(const struct ct_img_file *file, const char *path, enum ct_verdict v, const struct ct_sight *s, const char *here,
                   const char *there, struct gw_error *why)
{
	switch (v) {
	case CT_FILE_MISSING:
		return gw_fail(why, -ENOENT, "the %s '%s', which the rank uses, is not on host %s: %s; put it there, or on a file "
		               "system that both hosts share%s", S_ISDIR(file->mode) ? "directory" : "file", path, here, strerror(s->error),
		               file->flags & CT_IMG_FILE_WRITES ? ", or let it travel with --carry-files" : "");
	case CT_FILE_OTHER_KIND:
		return gw_fail(why, -ENOENT, "'%s', which the rank uses, is of another kind on host %s than on %s; put the same there",
		               path, here, there);
	case CT_FILE_OF_HOST:
		return gw_fail(why, -EBUSY, "the rank has '%s' open, which tells of the host that it is on; close it, or keep the rank "
		               "on host %s with 'godwit pin'", path, there);
	case CT_FILE_DIFFERS:
		return gw_fail(why, -ENOENT, "the file '%s', which the rank uses, differs on host %s (%llu bytes) from that on %s (%llu); "
		               "install the same one", path, here, (unsigned long long)s->size, there, (unsigned long long)file->size);
	case CT_FILE_TOO_LARGE:
		return gw_fail(why, -EFBIG, "the file '%s', which the rank reads, is not seen to be the same one on the hosts %s and %s, "
		               "and with %llu bytes too large to be compared (at most %llu); put it on a file system that both share",
		               path, there, here, (unsigned long long)file->size, COMPARE_MAX);
	case CT_FILE_IN_THE_WAY:
		return gw_fail(why, -EEXIST, "the file '%s' of host %s is to travel with the rank, but host %s has another one there, and "
		               "that is not replaced; move it away there, or use a file system that both share", path, there, here);
	default:
		if (S_ISDIR(file->mode))
			return gw_fail(why, -EBUSY, "the directory '%s', which the rank has open, is host %s's own: another one is there on "
			               "host %s; close it, or use one on a file system that both share", path, there, here);
		return gw_fail(why, -EBUSY, "the file '%s', which the rank writes, is host %s's own: host %s would not see what is in it; "
		               "put it on a file system that both share, or let it travel with --carry-files", path, there, here);
	}
}

/* ---- what the other side has said ------------------------------------------------------------------------------- */

int ct_question_parse(const void *bytes, size_t len, const struct ct_snapshot *s, struct ct_img_question *q, struct ct_vec *marks,
                      struct ct_vec *mark_of)
{
	const unsigned char *p = bytes;

	if (len < sizeof(*q))
		return -EPROTO;
	memcpy(q, p, sizeof(*q));
	if (q->version != CT_IMG_FILES_VERSION || q->files != s->files.n || q->marks > q->files || !memchr(q->host, 0, sizeof(q->host)) ||
	    len != sizeof(*q) + (size_t)q->marks * sizeof(struct ct_img_mark) + (size_t)q->files * sizeof(uint32_t))
		return -EPROTO;
	marks->n = mark_of->n = 0;
	p += sizeof(*q);
	if (ct_vec_append(marks, p, q->marks) < 0 || ct_vec_append(mark_of, p + q->marks * sizeof(struct ct_img_mark), q->files) < 0)
		return -ENOMEM;
	for CT_EACH(const struct ct_img_mark, m, marks)
		if (m->file >= s->files.n ||
		    m->prefix > strlen(ct_snapshot_text(s, CT_AT(struct ct_img_file, &s->files, m->file)->path)))
			return -EPROTO;
	for CT_EACH(const uint32_t, n, mark_of)
		if (*n > q->marks)
			return -EPROTO;
	return 0;
}

int ct_answer_parse(const void *bytes, size_t len, const struct ct_snapshot *s, struct ct_img_answer *a, struct ct_vec *claims)
{
	const unsigned char *p = bytes;

	if (len < sizeof(*a))
		return -EPROTO;
	memcpy(a, p, sizeof(*a));
	if (a->version != CT_IMG_FILES_VERSION || a->claims > s->files.n || !memchr(a->host, 0, sizeof(a->host)) ||
	    len != sizeof(*a) + (size_t)a->claims * sizeof(struct ct_img_claim))
		return -EPROTO;
	claims->n = 0;
	if (ct_vec_append(claims, p + sizeof(*a), a->claims) < 0)
		return -ENOMEM;
	for CT_EACH(const struct ct_img_claim, c, claims)
		if (c->file >= s->files.n || !S_ISREG(CT_AT(struct ct_img_file, &s->files, c->file)->mode))
			return -EPROTO;
	return 0;
}
