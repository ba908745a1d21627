/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines of a file, within bounds. */
#include "runtime/report/lines.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int lines_open(struct lines *l, const char *path, struct gw_error *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a pipe without a writer is not waited for */
	struct stat st = { 0 };

	*l = (struct lines){ .path = path };
	if (fd < 0)
		return gw_fail(why, -errno, "cannot read '%s': %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return gw_fail(why, -EINVAL, "'%s' is %s; a history is an ordinary file, for it is read twice", path,
		               S_ISDIR(st.st_mode) ? "a directory" : S_ISFIFO(st.st_mode) ? "a pipe" : "no file with an end");
	}
	l->f = fdopen(fd, "r");
	if (!l->f) {
		close(fd);
		return gw_fail(why, -ENOMEM, "cannot read '%s': out of memory", path);
	}
	return 0;
}

static int room(struct lines *l)
{
	size_t cap = l->cap ? 2 * l->cap : 4096;
	char *bigger = realloc(l->text, cap);

	if (!bigger)
		return -ENOMEM;
	l->text = bigger;
	l->cap = cap;
	return 0;
}

int lines_next(struct lines *l, struct gw_error *why)
{
	bool is_begun = false;
	int c;

	l->n = 0;
	l->is_too_long = false;
	while ((c = getc_unlocked(l->f)) != EOF) {
		is_begun = true;
		if (c == '\n')
			break;
		if (l->n == LINE_MAX_BYTES) {
			l->is_too_long = true;
			continue;
		}
		if (l->n + 1 >= l->cap && room(l) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a line of '%s'", l->path);
		l->text[l->n++] = (char)c;
	}
	if (ferror(l->f))
		return gw_fail(why, -EIO, "cannot read '%s' to its end: %s", l->path, strerror(errno));
	if (!is_begun)
		return 0;
	if (!l->text && room(l) < 0)
		return gw_fail(why, -ENOMEM, "no memory for a line of '%s'", l->path);
	l->text[l->n] = '\0';
	return 1;
}

int lines_rewind(struct lines *l, struct gw_error *why)
{
	if (fseeko(l->f, 0, SEEK_SET) < 0)
		return gw_fail(why, -EIO, "'%s' cannot be read a second time: %s", l->path, strerror(errno));
	return 0;
}

void lines_close(struct lines *l)
{
	fclose(l->f);
	free(l->text);
	*l = (struct lines){ .path = NULL };
}
