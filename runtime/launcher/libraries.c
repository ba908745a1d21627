/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which MPI library a rank loads: ours, by whatever name the program was linked with.
 *
 * A program compiled for MPICH asks the loader for libmpi.so.12, or, compiled by Debian's wrappers, for libmpich.so.12; for
 * Fortran and C++ the same with -fort and -cxx. The second names are stubs of ours, in <provider's directory>/abi: libraries
 * without contents that need the first. (A link would not do: the loader knows a library by the SONAME inside it, and would
 * load MPICH twice.) They are put where the loader looks
 *   - LD_PRELOAD: before anything else. A DT_RPATH in the program wins over LD_LIBRARY_PATH, but a library that is there
 *     already, by its SONAME, is not searched. Always libmpi and its stub, because a script or an interpreter may load MPI
 *     later; Fortran's and C++'s only when the program itself asks, because they bring their languages' run-time libraries.
 *     What the user preloads stays before ours, so that PMPI tools come between the program and MPI.
 *   - LD_LIBRARY_PATH: for everything that is loaded later.
 * A program linked with the address sanitizer insists on being first and gets only the second. One that is linked with libfabric,
 * and with no MPI (fi_info, fi_pingpong), gets neither: it brings the libfabric that it was made for, which loads our provider as
 * ours does, and whose symbols have versions that ours has not.
 */
#include <stdlib.h>
#include <unistd.h>

#include "mpi-shim/prefix.h"
#include "runtime/elf.h"
#include "runtime/launcher/head.h"

/* By language. Which of the two a program asks for does not matter: both come, and are one. */
static const struct { const char *ours, *stub; } libraries[] = {
	{ "libmpi.so.12", "libmpich.so.12" },
	{ "libmpifort.so.12", "libmpichfort.so.12" },
	{ "libmpicxx.so.12", "libmpichcxx.so.12" },
};

/* Where the program's file is: as the rank will find it, by its working directory and its PATH. */
static int find_program(char *buf, size_t cap, const struct app *app, const char *search)
{
	const char *name = app->argv.list[0], *dir = app->wdir && *app->wdir ? app->wdir : ".";

	if (strchr(name, '/'))
		return snprintf(buf, cap, "%s%s%s", *name == '/' ? "" : dir, *name == '/' ? "" : "/", name) < (int)cap ?
		       access(buf, X_OK) : -1;
	for (const char *p = search ? search : "/usr/local/bin:/bin:/usr/bin"; ; p++) {
		int n = (int)strcspn(p, ":");

		if (snprintf(buf, cap, "%s%s%.*s/%s", *p == '/' ? "" : dir, *p == '/' ? "" : "/", n, p, name) < (int)cap &&
		    access(buf, X_OK) == 0)
			return 0;
		p += n;
		if (!*p)
			return -1;
	}
}

/* What the program itself asks for; is_wanted[0] always. @is_fabric: libfabric without MPI */
static void look_at(const char *program, bool is_wanted[GW_ARRAY_LEN(libraries)], bool *is_sanitized, bool *is_fabric)
{
	struct rt_elf e;
	const char *needed;
	bool is_mpi = false;

	if (rt_elf_open(&e, program) < 0)
		return; /* a script, or something that the rank will fail to execute */
	for (size_t i = 0; (needed = rt_elf_needed(&e, i)); i++) {
		*is_sanitized |= strncmp(needed, "libasan.so", 10) == 0;
		*is_fabric |= strncmp(needed, "libfabric.so", 12) == 0;
		for (size_t k = 0; k < GW_ARRAY_LEN(libraries); k++)
			if (strcmp(needed, libraries[k].ours) == 0 || strcmp(needed, libraries[k].stub) == 0)
				is_mpi = is_wanted[k] = true;
	}
	*is_fabric &= !is_mpi;
	rt_elf_close(&e);
}

/* "<old>:<added>" or, for search paths, the other way round */
static int join(struct strings *out, const char *name, const char *old, const char *added, bool is_first)
{
	gw_autofree char *value = NULL;

	if (!old || !*old)
		return env_set(out, name, added);
	if (asprintf(&value, "%s:%s", is_first ? added : old, is_first ? old : added) < 0) {
		value = NULL;
		return -ENOMEM;
	}
	return env_set(out, name, value);
}

#define LIST_BYTES (6 * 4300)

int env_add_libraries(struct strings *out, const struct app *app, const char *provider_dir, struct gw_error *why)
{
	const char *mpich = getenv("GODWIT_MPICH"); /* as the daemons see it, not what -env gives to ranks */
	bool is_wanted[GW_ARRAY_LEN(libraries)] = { true }, is_sanitized = false, is_fabric = false;
	gw_autofree char *list = calloc(1, LIST_BYTES); /* the stack may be small ('ulimit -s') */
	char path[4200];
	size_t len = 0;
	int code;

	if (!list)
		return gw_fail(why, -ENOMEM, "out of memory for the environment");
	if (!mpich || !*mpich)
		mpich = GODWIT_MPICH_PREFIX;
	snprintf(path, sizeof(path), "%s/lib/%s", mpich, libraries[0].ours);
	if (access(path, R_OK) < 0)
		return gw_fail(why, -errno, "cannot read '%s', the MPI library of all ranks: %s; run mpi-shim/mpich/build-mpich of "
		               "Godwit's source, or set GODWIT_MPICH to the prefix of an MPICH that was built for ch4:ofi", path,
		               strerror(errno));
	if (find_program(path, sizeof(path), app, env_find(out, "PATH")) == 0)
		look_at(path, is_wanted, &is_sanitized, &is_fabric);
	if (is_fabric)
		return 0;
	for (size_t i = 0; i < GW_ARRAY_LEN(libraries); i++) {
		snprintf(path, sizeof(path), "%s/lib/%s", mpich, libraries[i].ours);
		if (is_wanted[i] && access(path, R_OK) == 0) /* an MPICH may have been built without Fortran */
			len += (size_t)snprintf(list + len, LIST_BYTES - len, "%s%s:%s/abi/%s", len ? ":" : "", path, provider_dir,
			                        libraries[i].stub);
	}
	/* the loader separates LD_PRELOAD at blanks too and knows no quoting */
	if (!is_sanitized && !strpbrk(list, " \t\n")) {
		code = join(out, "LD_PRELOAD", env_find(out, "LD_PRELOAD"), list, false);
		if (code < 0)
			return gw_fail(why, code, "out of memory for the environment");
	}
	snprintf(list, LIST_BYTES, "%s/abi:%s/lib", provider_dir, mpich);
	code = join(out, "LD_LIBRARY_PATH", env_find(out, "LD_LIBRARY_PATH"), list, true);
	return code < 0 ? gw_fail(why, code, "out of memory for the environment") : 0;
}
