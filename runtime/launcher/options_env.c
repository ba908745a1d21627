/* SPDX-License-Identifier: BSD-2-Clause */
/* Options of mpirun that set variables of the ranks, or say what they inherit. */
#include "runtime/launcher/options_table.h"

static int add_pair(struct parser *p, struct strings *to, const char *key, size_t key_len, const char *value)
{
	gw_autofree char *pair = NULL;

	if (key_len == 0)
		return gw_fail(p->why, -EINVAL, "'%s' of '%s' is not the name of a variable", key, p->word);
	if (asprintf(&pair, "%.*s=%s", (int)key_len, key, value) < 0) {
		pair = NULL;
		return gw_fail(p->why, -ENOMEM, "out of memory");
	}
	return strings_add(to, pair);
}

/* "K V" or "K=V" */
static int add_variable(struct parser *p, struct strings *to)
{
	const char *key = options_next_value(p), *equals, *value;

	if (!key)
		return gw_fail(p->why, -EINVAL, "the option '%s' needs a value: the name of a variable", p->word);
	equals = strchr(key, '=');
	if (equals)
		return add_pair(p, to, key, (size_t)(equals - key), equals + 1);
	value = options_next_value(p);
	if (!value)
		return gw_fail(p->why, -EINVAL, "'%s' needs a name and a value; the value of '%s' is missing", p->word, key);
	return add_pair(p, to, key, strlen(key), value);
}

int options_set_env(struct parser *p, const char *v) { (void)v; return add_variable(p, &options_app(p)->env); }
int options_set_genv(struct parser *p, const char *v) { (void)v; return add_variable(p, &p->spec->genv); }
int options_set_x(struct parser *p, const char *v)
{
	const char *equals = strchr(v, '=');

	/* a name alone: it is passed on as everything is */
	return equals ? add_pair(p, &p->spec->genv, v, (size_t)(equals - v), equals + 1) : 0;
}

static int set_inherit(struct parser *p, enum env_policy *policy, const char **list, enum env_policy now, const char *names)
{
	if (*policy != ENV_UNSAID && *policy != now)
		return gw_fail(p->why, -EINVAL, "'%s' contradicts an earlier option on what the ranks inherit; keep one of them",
		               p->word);
	*policy = now;
	*list = names;
	return 0;
}
/* @is_local: of this program only */
static int inherit(struct parser *p, bool is_local, enum env_policy now, const char *names)
{
	struct app *app = options_app(p);

	return is_local ? set_inherit(p, &app->inherit, &app->inherit_list, now, names)
	                : set_inherit(p, &p->spec->inherit, &p->spec->inherit_list, now, names);
}

int options_set_envall(struct parser *p, const char *v) { return inherit(p, true, ENV_ALL, v); }
int options_set_envnone(struct parser *p, const char *v) { return inherit(p, true, ENV_NONE, v); }
int options_set_envlist(struct parser *p, const char *v) { return inherit(p, true, ENV_LIST, v); }
int options_set_genvall(struct parser *p, const char *v) { return inherit(p, false, ENV_ALL, v); }
int options_set_genvnone(struct parser *p, const char *v) { return inherit(p, false, ENV_NONE, v); }
int options_set_genvlist(struct parser *p, const char *v) { return inherit(p, false, ENV_LIST, v); }
