/* SPDX-License-Identifier: BSD-2-Clause */
/* Manifests, read and written. Apart from what compresses, which mpirun need not have in its address space. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cold/cold.h"

static int hash_manifest(const json_t *m, char hash[COLD_HASH_MAX])
{
	gw_autofree char *text = json_dumps(m, JSON_COMPACT | JSON_SORT_KEYS);
	XXH128_hash_t h;

	if (!text)
		return -ENOMEM;
	h = XXH3_128bits(text, strlen(text));
	snprintf(hash, COLD_HASH_MAX, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
	return 0;
}

int cold_manifest_write(int dirfd, const char *cut, json_t *m, struct gw_error *why)
{
	static const char name[] = COLD_LEFTOVER COLD_MANIFEST;
	gw_autoclose int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char hash[COLD_HASH_MAX];

	if (fd < 0)
		return gw_fail(why, -errno, "the manifest cannot be made: %s", strerror(errno));
	json_object_set_new(m, "directory", json_string(cut));
	json_object_del(m, "hash");
	if (hash_manifest(m, hash) < 0)
		return gw_fail(why, -ENOMEM, "the manifest cannot be made: what it should say is not text, or out of memory");
	json_object_set_new(m, "hash", json_string(hash));
	errno = EIO;
	if (json_dumpfd(m, fd, JSON_INDENT(1)) < 0 || fsync(fd) < 0 || renameat(dirfd, name, dirfd, COLD_MANIFEST) < 0) {
		int code = -errno;

		unlinkat(dirfd, name, 0);
		return gw_fail(why, code, "the manifest cannot be written: %s", strerror(-code));
	}
	return fsync(dirfd) < 0;
}

int cold_manifest_read(int dirfd, const char *dir, json_t **out, struct gw_error *why)
{
	gw_autoclose int fd = openat(dirfd, COLD_MANIFEST, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char hash[COLD_HASH_MAX], said[COLD_HASH_MAX];
	json_error_t error;
	const char *text;
	struct stat st;
	json_t *m;

	if (fd < 0)
		return gw_fail(why, -errno, errno == ENOENT ? "%s holds no complete checkpoint: there is no " COLD_MANIFEST
		               "; name the directory that 'godwit checkpoint' or 'mpirun -checkpoint-dir' was given%s" :
		               "%s/" COLD_MANIFEST " cannot be read: %s", dir, errno == ENOENT ? "" : strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return gw_fail(why, -EBADMSG, "%s/" COLD_MANIFEST " is damaged: it is not a file", dir);
	m = json_loadfd(fd, 0, &error);
	text = json_string_value(json_object_get(m, "hash"));
	snprintf(said, sizeof(said), "%s", text ? text : "");
	json_object_del(m, "hash");
	if (!m || !said[0] || hash_manifest(m, hash) < 0 || strcmp(hash, said) != 0) {
		json_decref(m);
		return gw_fail(why, -EBADMSG, "%s/" COLD_MANIFEST " is damaged: %s", dir, m ? "it has been changed, or cut" : error.text);
	}
	if (json_integer_value(json_object_get(m, "format")) != COLD_FORMAT) {
		json_decref(m);
		return gw_fail(why, -EPROTONOSUPPORT, "%s/" COLD_MANIFEST " is of another version of Godwit", dir);
	}
	*out = m;
	return 0;
}
