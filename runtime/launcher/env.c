/* SPDX-License-Identifier: BSD-2-Clause */
/* The environment of the ranks: the user's, what MPICH needs to run over our provider, what spares start-up time. */
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

extern char **environ;

/* Why each: doc/runtime.md, "The environment of a rank". */
static const struct { const char *name, *value; bool is_forced; } settings[] = {
	{ "FI_PROVIDER", "godwit", true },
	{ "MPIR_CVAR_NOLOCAL", "1", true },
	{ "MPIR_CVAR_CH4_OFI_MAX_EAGAIN_RETRY", "-1", true },
	{ "GFORTRAN_UNBUFFERED_PRECONNECTED", "y", false },
	{ "MPIR_CVAR_ENABLE_GPU", "0", false },
	{ "MPIR_CVAR_CH4_OFI_MAX_NICS", "1", false },
	{ "MPIR_CVAR_CH4_NUM_VCIS", "1", false },
	{ "MPIR_CVAR_ASYNC_PROGRESS", "0", false },
	{ "MPIR_CVAR_DEVICE_COLLECTIVES", "none", false },
	{ "IPATH_NO_BACKTRACE", "1", false },
	{ "HFI_NO_BACKTRACE", "1", false },
};

/* Of the launcher and its daemons, or of a job around this one: a rank must not see them. */
static const char *const removed[] = { "GODWIT_EVENTS", "GODWIT_CTL_FD", "GODWIT_PROC", "GODWIT_JOB", "GODWIT_CPU_BASELINE", "GODWIT_CPU_HIDE", "PMI_FD", "PMI_RANK",
	                               "PMI_SIZE", "PMI_SPAWNED", "PMI_PORT", "PMI_ID" };

static bool has_name(const char *pair, const char *name)
{
	size_t n = strlen(name);

	return strncmp(pair, name, n) == 0 && pair[n] == '=';
}

const char *env_find(const struct strings *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (has_name(s->list[i], name))
			return s->list[i] + strlen(name) + 1;
	return NULL;
}

/* @pair: NAME=VALUE; replaces a value that is there */
static int set_pair(struct strings *s, const char *pair)
{
	size_t n = strcspn(pair, "=") + 1;

	for (size_t i = 0; i < s->n; i++)
		if (strncmp(s->list[i], pair, n) == 0) {
			char *copy = strdup(pair);

			if (!copy)
				return -ENOMEM;
			free(s->list[i]);
			s->list[i] = copy;
			return 0;
		}
	return strings_add(s, pair);
}

int env_set(struct strings *s, const char *name, const char *value)
{
	gw_autofree char *pair = NULL;

	if (asprintf(&pair, "%s=%s", name, value) < 0) {
		pair = NULL;
		return -ENOMEM;
	}
	return set_pair(s, pair);
}

int own_path(char *buf, size_t cap, const char *name)
{
	ssize_t n = readlink("/proc/self/exe", buf, cap - 1);
	char *slash;

	if (n < 0) { /* no /proc, as in a bare chroot: the path that execve() was given */
		const char *given = (const char *)getauxval(AT_EXECFN);
		gw_autofree char *real = given ? realpath(given, NULL) : NULL;

		if (!real || strlen(real) >= cap)
			return real ? -ENAMETOOLONG : -ENOENT;
		n = (ssize_t)strlen(real);
		memcpy(buf, real, (size_t)n);
	}
	buf[n] = '\0';
	slash = strrchr(buf, '/');
	if (!slash || (size_t)(slash - buf) + strlen(name) + 2 > cap)
		return -ENAMETOOLONG;
	strcpy(slash + 1, name);
	return 0;
}

/* In the build tree the provider is in .libs beside this program; installed, in <libdir>/godwit. */
static int provider_dir(char *buf, size_t cap)
{
	static const char *const places[] = { ".libs", "../lib/godwit", "../lib/x86_64-linux-gnu/godwit" };
	char path[4200];

	for (size_t i = 0; i < GW_ARRAY_LEN(places); i++) {
		int code = own_path(buf, cap, places[i]);

		if (code < 0)
			return code;
		snprintf(path, sizeof(path), "%s/libgodwit-fi.so", buf);
		if (access(path, R_OK) == 0)
			return 0;
	}
	snprintf(buf, cap, "%s", GODWIT_PKGLIBDIR);
	return access(GODWIT_PKGLIBDIR "/libgodwit-fi.so", R_OK) == 0 ? 0 : -ENOENT;
}

/* Is @pair of mpirun's environment for the ranks of @app? */
static bool is_inherited(const char *pair, const struct job_spec *spec, const struct app *app)
{
	bool is_own = app->inherit != ENV_UNSAID;
	enum env_policy policy = is_own ? app->inherit : spec->inherit;
	size_t len = strcspn(pair, "=");

	if (policy != ENV_LIST)
		return policy != ENV_NONE;
	for (const char *at = is_own ? app->inherit_list : spec->inherit_list; *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == len && strncmp(at, pair, len) == 0)
			return true;
	return false;
}

size_t env_overridden(const struct job_spec *spec, char *buf, size_t cap)
{
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < GW_ARRAY_LEN(settings); i++) {
		const char *value = getenv(settings[i].name), *given = env_find(&spec->genv, settings[i].name);

		for (uint32_t a = 0; a < spec->n_apps && !given; a++)
			given = env_find(&spec->apps[a].env, settings[i].name);
		value = given ? given : value;
		if (!settings[i].is_forced || !value || strcmp(value, settings[i].value) == 0)
			continue;
		at += (size_t)snprintf(buf + at, cap - at, "%s%s=%s", at ? ", " : "", settings[i].name, value);
		if (at >= cap)
			return cap - 1;
	}
	return at;
}

int env_build(struct strings *out, const struct job_spec *spec, const struct app *app, uint32_t threads,
              struct gw_error *why)
{
	char number[16];
	char dir[4096];
	int code = 0;

	for (char **e = environ; *e && code == 0; e++) {
		bool is_removed = false;

		for (size_t i = 0; i < GW_ARRAY_LEN(removed); i++)
			is_removed |= has_name(*e, removed[i]);
		if (!is_removed && strchr(*e, '=') && is_inherited(*e, spec, app))
			code = set_pair(out, *e);
	}
	for (size_t i = 0; i < spec->genv.n && code == 0; i++)
		code = set_pair(out, spec->genv.list[i]);
	for (size_t i = 0; i < app->env.n && code == 0; i++)
		code = set_pair(out, app->env.list[i]);
	for (size_t i = 0; i < GW_ARRAY_LEN(settings) && code == 0; i++)
		if (settings[i].is_forced || !env_find(out, settings[i].name))
			code = env_set(out, settings[i].name, settings[i].value);
	snprintf(number, sizeof(number), "%u", threads);
	if (code == 0 && threads && !env_find(out, "OMP_NUM_THREADS"))
		code = env_set(out, "OMP_NUM_THREADS", number);
	if (code == 0 && provider_dir(dir, sizeof(dir)) < 0)
		return gw_fail(why, -ENOENT, "libgodwit-fi.so, which MPI programs need, is neither in .libs or ../lib/godwit beside "
		               "mpirun nor in " GODWIT_PKGLIBDIR "; build or install Godwit completely");
	if (code == 0)
		code = env_set(out, "FI_PROVIDER_PATH", dir);
	if (code == 0 && env_add_libraries(out, app, dir, why) < 0)
		return why->code;
	if (code == 0 && app->wdir)
		code = env_set(out, "PWD", app->wdir);
	return code < 0 ? gw_fail(why, code, "out of memory for the environment") : 0;
}
