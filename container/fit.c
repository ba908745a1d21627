/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Does a rank fit here? What the destination proves in PREPARE, before anything of the rank stops: one table.
 *
 * A check looks at what the source has said of the rank and at this host, changes neither, and refuses with a sentence that
 * names what is needed and what there is. They are made in the order of the table; the first that fails ends the move.
 */
#include "container/rank.h"

#include <sys/stat.h>
#include <unistd.h>

static int fit_owner(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;

	if (n->uid != geteuid() || n->gid != getegid())
		return gw_fail(why, -EPERM, "the rank belongs to user %u, group %u, and this daemon to %u, %u", n->uid, n->gid,
		               geteuid(), getegid());
	return 0;
}

static int fit_cpu(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	struct ct_cpu wanted, here;
	char text[CT_CPU_TEXT];

	if (ct_cpu_parse(&wanted, ct_snapshot_text(f->hint, n->features)) < 0)
		return gw_fail(why, -ENOTSUP, "the rank may use processor features that are not known here; use the same version of Godwit");
	ct_cpu_host(&here);
	wanted = ct_cpu_without(wanted, here);
	if (ct_cpu_is_none(wanted))
		return 0;
	if (n->is_baseline)
		return gw_fail(why, -ENOTSUP, "this processor lacks %s of the baseline that the job was started at; move it to one that has "
		               "it", ct_cpu_print(&wanted, text));
	return gw_fail(why, -ENOTSUP, "this processor lacks %s, and the rank may have chosen its code by that; move it to one that has "
	               "it, or start the job with 'mpirun -cpu-baseline auto' and this host among its hosts", ct_cpu_print(&wanted, text));
}

static int fit_vdso(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_img_needs *n = &f->reader->needs;
	uint64_t start, end, hash;
	int rc = ct_vdso_own(&start, &end, &hash);

	if (rc < 0)
		return gw_fail(why, rc, "this daemon's own vdso cannot be found: %s", strerror(-rc));
	if (hash != n->vdso_hash || end - start != n->vdso_end - n->vdso_start)
		return gw_fail(why, -ENOTSUP, "this kernel's vdso differs from that of the rank's host; use the same kernel");
	return 0;
}

/* What takes long, and needs an answer of the source, was done before (container/files.h). Without that only what device and
 * inode prove counts, as between clusters of one host. */
static int fit_files(const struct ct_fit *f, struct gw_error *why)
{
	const struct ct_snapshot *s = f->hint;

	for CT_EACH(const struct ct_img_file, file, &s->files) {
		const char *path = ct_snapshot_text(s, file->path);
		struct stat st;

		if (f->are_files_proved)
			break;
		if (stat(path, &st) < 0)
			return gw_fail(why, -ENOENT, "the file '%s', which the rank uses, is not here: %s; put it there, or on a file "
			               "system that both sides share", path, strerror(errno));
		if (st.st_dev != file->dev || st.st_ino != file->ino)
			return gw_fail(why, -ENOENT, "'%s' is another file here; put it on a file system that both sides share", path);
	}
	return 0;
}

static const struct {
	const char *name; /* of what is looked at; for the log */
	int (*check)(const struct ct_fit *f, struct gw_error *why);
} checks[] = {
	{ "owner", fit_owner },
	{ "processor", fit_cpu },
	{ "vdso", fit_vdso },
	{ "addresses", ct_fit_addresses },
	{ "limits", ct_fit_limits },
	{ "descriptors", ct_fit_descriptors },
	{ "processes", ct_fit_processes },
	{ "memory", ct_fit_memory },
	{ "commitment", ct_fit_commit },
	{ "files", fit_files },
	{ "handles", ct_fit_handles },
};

int ct_fit(const struct ct_fit *f, struct gw_error *why)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(checks); i++) {
		int rc = checks[i].check(f, why);

		if (rc < 0) {
			char host[256] = "";

			gethostname(host, sizeof(host) - 1);
			gw_log(GW_DEBUG, "it does not fit: %s", checks[i].name);
			return gw_fail_more(why, "host %s: ", host);
		}
	}
	return 0;
}
