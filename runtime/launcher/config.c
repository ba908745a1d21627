/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration file of -configfile: a command line in a file, one program a line. */
#include <stdlib.h>

#include "runtime/launcher/options.h"

int options_split(const char *line, struct strings *words)
{
	gw_autofree char *word = malloc(strlen(line) + 1);
	const char *at = line;

	while (word) {
		size_t n = 0;
		char quote = '\0';

		at += strspn(at, " \t\r\n");
		if (!*at || *at == '#')
			return 0;
		for (; *at && (quote || !strchr(" \t\r\n", *at)); at++) {
			if (quote ? *at == quote : *at == '\'' || *at == '"')
				quote = quote ? '\0' : *at;
			else if (*at == '\\' && quote != '\'' && at[1])
				word[n++] = *++at;
			else
				word[n++] = *at;
		}
		if (quote)
			return -EINVAL;
		word[n] = '\0';
		if (strings_add(words, word) < 0)
			return -ENOMEM;
	}
	return -ENOMEM;
}

/* Programs that are separated by ':' on a command line are on lines of their own here. */
int options_read_config(struct job_spec *spec, struct gw_error *why)
{
	FILE *f = fopen(spec->config, "re");
	gw_autofree char *line = NULL;
	size_t cap = 0, number = 0;
	int code = 0;
	ssize_t n;

	if (!f)
		return gw_fail(why, -errno, "the configuration file '%s' cannot be read: %s", spec->config, strerror(errno));
	while (code == 0 && (n = getline(&line, &cap, f)) >= 0) {
		size_t before = spec->words.n;

		number++;
		while (n >= 2 && line[n - 1] == '\n' && line[n - 2] == '\\') { /* goes on in the next line */
			gw_autofree char *rest = NULL;
			size_t rest_cap = 0;
			ssize_t more = getline(&rest, &rest_cap, f);
			char *joined;

			line[n - 2] = '\0'; /* where nothing follows, the backslash goes as well */
			joined = more < 0 ? NULL : realloc(line, (size_t)(n + more));
			if (!joined)
				break;
			line = joined;
			cap = (size_t)(n + more);
			memcpy(line + n - 2, rest, (size_t)more + 1);
			n += more - 2;
			number++;
		}
		if (before && strcmp(spec->words.list[before - 1], ":") != 0)
			code = strings_add(&spec->words, ":");
		before = spec->words.n;
		if (code == 0)
			code = options_split(line, &spec->words);
		if (code == -EINVAL)
			gw_fail(why, code, "'%s', line %zu: a quote is not closed", spec->config, number);
	}
	if (code == 0 && ferror(f))
		code = gw_fail(why, -errno, "the configuration file '%s' cannot be read: %s", spec->config, strerror(errno));
	fclose(f);
	while (spec->words.n && strcmp(spec->words.list[spec->words.n - 1], ":") == 0) /* empty lines at the end */
		free(spec->words.list[--spec->words.n]);
	if (code == 0 && spec->words.n == 0)
		return gw_fail(why, -EINVAL, "the configuration file '%s' names no program", spec->config);
	return code == -ENOMEM ? gw_fail(why, code, "out of memory") : code;
}
