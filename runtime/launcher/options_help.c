/* SPDX-License-Identifier: BSD-2-Clause */
/* What mpirun says of itself: the table of its options, and its version. */
#include "runtime/launcher/options_table.h"

static void print_row(const char *left, const char *text)
{
	const char *at = text;
	int column = printf("  %-22s ", left);

	if (column > 25)
		column = printf("\n%25s", "") - 1;
	while (*at) { /* break at blanks, before column 110 */
		size_t n = strlen(at), room = 85;

		if (n > room)
			for (n = room; n && at[n] != ' '; n--)
				;
		if (n == 0)
			n = strlen(at);
		printf("%.*s\n", (int)n, at);
		at += n;
		at += strspn(at, " ");
		if (*at)
			printf("%25s", "");
	}
}

int options_show_help(struct parser *p, const char *v)
{
	(void)p; (void)v;
	puts("usage: mpirun [options] [-n N] PROGRAM [ARG...] [: [-n N] [options] PROGRAM [ARG...]]...\n"
	     "Run N processes of an MPI program on the clusters of this machine, or of several hosts; any of them can be moved with 'godwit migrate'.");
	for (size_t i = 0; i < options_table_rows; i++) {
		const struct option *o = &options_table[i];
		char left[80] = "";
		int len = 0;

		if (!o->names && o->help)
			printf("\n%s\n", o->help);
		if (!o->names || !o->help)
			continue;
		for (const char *name = o->names; *name && len < 22; name += strcspn(name, " "), name += *name == ' ') {
			int n = (int)strcspn(name, " ");

			if (len && n > 3)
				continue; /* synonyms that are short, as -l */
			len += snprintf(left + len, sizeof(left) - (size_t)len, "%s-%.*s", len ? ", " : "", n, name);
		}
		if (o->values)
			snprintf(left + len, sizeof(left) - (size_t)len, " %s", o->values);
		print_row(left, o->help);
	}
	puts("\nRank i of n starts on cluster i * clusters / n (rounded down). Options may also begin with two dashes.\n"
	     "The exit status is that of the first rank that failed: its own, or 128 + the signal that ended it. See mpirun(1).");
	return 1;
}

int options_show_version(struct parser *p, const char *v)
{
	(void)p; (void)v;
	puts("Godwit " PACKAGE_VERSION);
	return 1;
}
