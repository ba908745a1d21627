/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of mpirun's options, and what their handlers share: options.c, options_env.c, options_help.c. Nobody else's. */
#ifndef RT_OPTIONS_TABLE_H
#define RT_OPTIONS_TABLE_H

#include "runtime/launcher/options.h"

struct parser {
	struct job_spec *spec;
	char **argv;             /* argv[at .. end): not read yet */
	int at, end;
	const char *word;        /* the option as it was typed */
	char *inlined;           /* VALUE of -option=VALUE, until it is taken */
	bool is_file;            /* reading the configuration file: the command line wins */
	struct gw_error *why;
};

struct option {
	const char *names;       /* separated by blanks; the first is the one that is explained */
	const char *values;      /* as help shows them; NULL: none */
	int (*set)(struct parser *p, const char *value);
	const char *help;        /* NULL: accepted, not explained */
	bool is_local;           /* of one program, not of the job */
	bool takes_more;         /* its handler takes values itself */
};

extern const struct option options_table[]; /* a row with help only is a heading */
extern const size_t options_table_rows;

static inline struct app *options_app(struct parser *p) /* the one whose options are read */
{
	return &p->spec->apps[p->spec->n_apps - 1];
}

static inline char *options_next_value(struct parser *p)
{
	char *value = p->inlined;

	p->inlined = NULL;
	return value ? value : p->at < p->end ? p->argv[p->at++] : NULL;
}

/* ---- options_env.c: variables of the ranks, and what they inherit ---- */
int options_set_env(struct parser *p, const char *v);
int options_set_genv(struct parser *p, const char *v);
int options_set_x(struct parser *p, const char *v);
int options_set_envall(struct parser *p, const char *v);
int options_set_envnone(struct parser *p, const char *v);
int options_set_envlist(struct parser *p, const char *v);
int options_set_genvall(struct parser *p, const char *v);
int options_set_genvnone(struct parser *p, const char *v);
int options_set_genvlist(struct parser *p, const char *v);

/* ---- options_help.c ---- */
int options_show_help(struct parser *p, const char *v);
int options_show_version(struct parser *p, const char *v);

#endif
