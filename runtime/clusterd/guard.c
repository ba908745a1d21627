/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which MPI library speaks in a rank? mpirun puts ours first (runtime/launcher/libraries.c); what got past that ends here,
 * with a sentence, because it would run and could not move, or would crash.
 *
 * When this can be told: init is the first thing that MPICH says, and all that a program is linked with is mapped by then,
 * so two libraries in one process are found there. (An Open MPI program says it too: it calls the MPI_Init that was put
 * first.) Which provider MPICH took shows when it puts its address: ours has said HELLO on the control socket before.
 * A rank alone puts none and is looked at once more when it says finalize. A program that speaks PMI for itself, without an
 * MPI, is left alone.
 */
#include "runtime/clusterd/clusterd.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "mpi-shim/prefix.h"
#include "runtime/elf.h"

#define LIBRARIES_MAX 4

struct libraries {
	size_t n;
	char path[LIBRARIES_MAX][PATH_MAX];
};

/* An MPI library is a file that defines PMPI_Init: tools that intercept define MPI_Init only, and stubs nothing. */
static bool is_mpi_library(const char *path)
{
	struct rt_elf e;
	bool is;

	if (!strcasestr(strrchr(path, '/'), "mpi") || rt_elf_open(&e, path) < 0)
		return false;
	is = rt_elf_defines(&e, "PMPI_Init");
	rt_elf_close(&e);
	return is;
}

static void find_libraries(struct libraries *found, pid_t pid)
{
	char name[64], line[PATH_MAX + 128], last[PATH_MAX] = "";
	FILE *maps;

	found->n = 0;
	snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
	maps = fopen(name, "re");
	if (!maps)
		return; /* it has just ended */
	while (found->n < LIBRARIES_MAX && fgets(line, sizeof(line), maps)) {
		char *path = strchr(line, '/');
		size_t i = 0;

		if (!path)
			continue;
		path[strcspn(path, "\n")] = '\0';
		if (strcmp(path, last) == 0)
			continue; /* the next segment of the same file */
		snprintf(last, sizeof(last), "%s", path);
		while (i < found->n && strcmp(found->path[i], path) != 0)
			i++;
		if (i == found->n && is_mpi_library(path))
			snprintf(found->path[found->n++], PATH_MAX, "%s", path);
	}
	fclose(maps);
}

/* The one that mpirun gave: its file, by its real name. */
static bool is_ours(const char *path)
{
	const char *mpich = getenv("GODWIT_MPICH");
	char name[PATH_MAX], real[PATH_MAX];

	snprintf(name, sizeof(name), "%s/lib/libmpi.so.12", mpich && *mpich ? mpich : GODWIT_MPICH_PREFIX);
	return realpath(name, real) && strcmp(path, real) == 0;
}

/* By what MPI libraries call the address of a process: MPICH, its older devices and those who build on it. */
static bool is_address_key(const char *key)
{
	static const char *const parts[] = { "-allgather-shm-", "-bcast-", "businesscard", "MVAPICH2_" };

	for (size_t i = 0; i < GW_ARRAY_LEN(parts); i++)
		if (strstr(key, parts[i]))
			return true;
	return false;
}

int guard_allow(struct rank *r, pid_t speaker, enum pmi_saying what, const char *key, struct gw_error *why)
{
	char name[64], program[PATH_MAX];
	gw_autofree struct libraries *l = NULL;
	ssize_t n;

	/* Its HELLO came before, on another socket. Once there is an agent nothing more may be read from it here: its QUIET
	 * would freeze and export the rank in the middle of the very command that we are asked about, which would be lost. */
	if (r->agent == AGENT_NONE)
		agent_drain(r);
	if (what != PMI_SAYS_INIT && r->agent != AGENT_NONE)
		return 0;
	l = malloc(sizeof(*l));
	if (!l)
		return gw_fail(why, -ENOMEM, "no memory to look at its libraries");
	find_libraries(l, speaker);
	if (l->n >= 2)
		return gw_fail(why, -ELIBACC, "holds two MPI libraries, %s and %s; compile the program and the libraries that it uses "
		               "with Godwit's mpicc, mpicxx or mpifort, or with those of an MPICH", l->path[0], l->path[1]);
	if (what == PMI_SAYS_INIT)
		return 0;
	if (l->n == 1 && !is_ours(l->path[0]))
		return gw_fail(why, -ELIBACC, "runs with %s, an MPI library that knows nothing of Godwit; let the LD_PRELOAD and "
		               "LD_LIBRARY_PATH that mpirun sets reach it, or compile it with Godwit's mpicc", l->path[0]);
	if (what != PMI_SAYS_PUT || !is_address_key(key))
		return 0;
	snprintf(name, sizeof(name), "/proc/%d/exe", (int)speaker);
	n = readlink(name, program, sizeof(program) - 1);
	program[n > 0 ? n : 0] = '\0';
	if (l->n == 1)
		return gw_fail(why, -ELIBACC, "does not use Godwit's provider, though it holds %s: '%s' has another MPI library linked "
		               "into it, or changes FI_PROVIDER; link it with mpicc and leave FI_PROVIDER as mpirun sets it",
		               l->path[0], program);
	return gw_fail(why, -ELIBACC, "runs '%s', which is statically linked with an MPI library and cannot use Godwit's; link it "
	               "with mpicc and without -static", program);
}
