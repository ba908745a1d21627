/* SPDX-License-Identifier: BSD-2-Clause */
/* Why a program cannot be executed: what a person would look for after "No such file or directory". */
#include "runtime/clusterd/clusterd.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

static void add(struct gw_error *why, const char *fmt, ...) GW_PRINTF(2, 3);
static void add(struct gw_error *why, const char *fmt, ...)
{
	size_t n = strlen(why->text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why->text + n, sizeof(why->text) - n, fmt, ap);
	va_end(ap);
}

/* "#!/usr/bin/python9 -x" of a script, or "" */
static void interpreter_of(const char *path, char *buf, size_t cap)
{
	char line[300] = "";
	FILE *f = fopen(path, "re");
	char *name;

	buf[0] = '\0';
	if (!f)
		return;
	if (fgets(line, sizeof(line), f) && strncmp(line, "#!", 2) == 0) {
		name = line + 2 + strspn(line + 2, " \t");
		name[strcspn(name, " \t\r\n")] = '\0';
		snprintf(buf, cap, "%s", name);
	}
	fclose(f);
}

static bool is_in_path(const char *program, const char *search)
{
	char path[PATH_MAX];

	for (const char *at = search; *at; at += strcspn(at, ":"), at += *at == ':') {
		int n = (int)strcspn(at, ":");

		if (snprintf(path, sizeof(path), "%.*s/%s", n, at, program) < (int)sizeof(path) && access(path, F_OK) == 0)
			return true;
	}
	return false;
}

int explain_exec(struct gw_error *why, int code, const char *program, const char *cwd, char *const *envp)
{
	bool has_slash = strchr(program, '/');
	char path[PATH_MAX], interpreter[300];
	const char *search = "";
	struct stat st;

	if (!strstr(why->text, "cannot run"))
		return -EIO;
	for (; *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			search = *envp + 5;
	if (code == -EACCES && !has_slash && !is_in_path(program, search)) /* a directory of PATH that is closed to us */
		code = gw_fail(why, -ENOENT, "cannot run '%s': %s", program, strerror(ENOENT));
	snprintf(path, sizeof(path), "%s%s%s", program[0] == '/' ? "" : cwd, program[0] == '/' ? "" : "/", program);
	if (code == -ENOENT && !has_slash) {
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
			add(why, "; it is not in PATH, but in this directory: './%s'?", program);
		else
			add(why, "; it is not in PATH%s", *search ? "" : ", which is empty for the ranks (-genvnone, -genvlist)");
		return code;
	}
	if (!has_slash || stat(path, &st) < 0)
		return code;
	if (code == -ENOENT) { /* the file is there: what it needs to run is not */
		interpreter_of(path, interpreter, sizeof(interpreter));
		add(why, interpreter[0] ? "; the interpreter '%s' that it names is missing" : "; a file that it needs to run is missing%s",
		    interpreter);
	} else if (S_ISDIR(st.st_mode)) {
		add(why, "; it is a directory");
	} else if (code == -EACCES && !(st.st_mode & 0111)) {
		add(why, "; it is not executable: chmod +x '%s'?", program);
	}
	return code;
}
