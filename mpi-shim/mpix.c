/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calls of godwit.h, as they are linked into programs: a static library that belongs to no MPI.
 *
 * Under Godwit libgodwit.so has been loaded by libfabric, and its table is found by name; elsewhere nothing is. Numbers of
 * error classes and handles are MPICH's (mpi.h of the build), and are used only where MPICH is what runs: where the table is.
 */
#include "mpi-shim/godwit.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container/ctl.h"
#include "mpi-shim/interface.h"

/* A program without MPI, or with one that lacks them, links all the same. */
#pragma weak MPI_Initialized
#pragma weak MPI_Finalized
#pragma weak MPI_Comm_call_errhandler
#pragma weak MPI_Comm_get_errhandler
#pragma weak MPI_Errhandler_free

static _Thread_local char why[256]; /* what MPIX_Why says */
static _Thread_local int moves_seen; /* at the last MPIX_Moment */

/* NULL: not under Godwit, or before MPI_Init. What was found stays: libfabric does not unload it. */
static const struct interface *interface(void)
{
	static const struct interface *_Atomic found; /* any thread; each finds the same */
	const struct interface *i = atomic_load_explicit(&found, memory_order_acquire);
	void *library;

	if (i)
		return i;
	library = dlopen(INTERFACE_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
	i = library ? dlsym(library, INTERFACE_SYMBOL) : NULL;
	if (i && i->size < sizeof(*i))
		i = NULL; /* of an older release */
	atomic_store_explicit(&found, i, memory_order_release);
	return i;
}

/* Of mpirun, whether MPI has been initialized or not */
static int is_started_by_godwit(void)
{
	return getenv("GODWIT_CTL_FD") != NULL;
}

/* Will the error handler of MPI_COMM_SELF end the program, with no more to say than the name of the class? */
static int is_fatal(void)
{
	MPI_Errhandler handler;
	int yes;

	if (!MPI_Comm_get_errhandler || !MPI_Errhandler_free || MPI_Comm_get_errhandler(MPI_COMM_SELF, &handler))
		return 0;
	yes = handler == MPI_ERRORS_ARE_FATAL || handler == MPI_ERRORS_ABORT;
	MPI_Errhandler_free(&handler);
	return yes;
}

/*
 * An error, as MPI has them: through the handler of MPI_COMM_SELF. The code is the class: MPICH 4.0.2 makes no codes with a text of
 * their own in classes that are MPI's (MPI_Add_error_code), so MPIX_Why has the sentence, and standard error when the program ends.
 */
static int fail(int class, const char *call, const char *text)
{
	int is_up = 0, is_over = 0;

	snprintf(why, sizeof(why), "%s: %.200s", call, text);
	/* no handler in a hook: it would be called by a thread that must not enter MPI */
	if ((interface() && interface()->is_hook()) || !MPI_Initialized || !MPI_Finalized || !MPI_Comm_call_errhandler || MPI_Initialized(&is_up) || MPI_Finalized(&is_over) ||
	    !is_up || is_over) {
		fprintf(stderr, "%s\n", why);
		return class;
	}
	if (is_fatal())
		fprintf(stderr, "%s\n", why);
	MPI_Comm_call_errhandler(MPI_COMM_SELF, class);
	return class;
}

#define AT_A_WRONG_TIME "it is called before MPI_Init or after MPI_Finalize"
#define FROM_A_HOOK     "called from a hook of MPIX_On_move, which may call MPIX_Where, MPIX_Load and MPIX_Migratable only"

/* 1: go on; 0: not under Godwit, the call does nothing; *code: it is an error */
static int begin(const char *call, int may_be_hook, int *code)
{
	const struct interface *i = interface();
	int unused[3];

	*code = MPI_SUCCESS;
	if (!is_started_by_godwit())
		return 0;
	if (!i || i->where(&unused[0], &unused[1], &unused[2]) < 0) {
		*code = fail(MPI_ERR_OTHER, call, AT_A_WRONG_TIME);
		return 0;
	}
	if (!may_be_hook && i->is_hook()) {
		*code = fail(MPI_ERR_OTHER, call, FROM_A_HOOK);
		return 0;
	}
	return 1;
}

int MPIX_Migratable(int *flag)
{
	int unused[3];

	if (!flag)
		return is_started_by_godwit() ? fail(MPI_ERR_ARG, "MPIX_Migratable", "flag is NULL") : MPI_SUCCESS;
	*flag = is_started_by_godwit() && interface() && interface()->where(&unused[0], &unused[1], &unused[2]) == 0;
	return MPI_SUCCESS;
}

int MPIX_Where(int *cluster, int *host, int *moves)
{
	int at[3] = { -1, -1, 0 }, code;

	if (begin("MPIX_Where", 1, &code))
		interface()->where(&at[0], &at[1], &at[2]);
	if (cluster)
		*cluster = at[0];
	if (host)
		*host = at[1];
	if (moves)
		*moves = at[2];
	return code;
}

static int moves(void)
{
	int at[3] = { 0 };

	interface()->where(&at[0], &at[1], &at[2]);
	return at[2];
}

int MPIX_Migrate(const char *where, int timeout_ms, int *moved)
{
	char sentence[sizeof(why)];
	int code, rc, before;

	why[0] = '\0';
	if (moved)
		*moved = 0;
	if (!begin("MPIX_Migrate", 0, &code)) {
		if (code == MPI_SUCCESS)
			snprintf(why, sizeof(why), "Godwit does not run this process");
		return code;
	}
	if (!moved)
		return fail(MPI_ERR_ARG, "MPIX_Migrate", "moved is NULL");
	if (timeout_ms < 0)
		return fail(MPI_ERR_ARG, "MPIX_Migrate", "timeout_ms is negative");
	if (where && strlen(where) >= sizeof(((struct ct_ctl_msg *)0)->text))
		return fail(MPI_ERR_ARG, "MPIX_Migrate", "where is too long for the name of a host");
	before = moves();
	rc = interface()->ask(CT_WISH_MOVE, where, (uint32_t)timeout_ms, sentence, sizeof(sentence));
	if (rc == -ENOENT)
		return fail(MPI_ERR_ARG, "MPIX_Migrate", sentence);
	*moved = moves() != before;
	if (!*moved)
		memcpy(why, sentence, sizeof(why));
	return MPI_SUCCESS;
}

int MPIX_Why(char *sentence, int size)
{
	if (!sentence || size < 1)
		return is_started_by_godwit() ? fail(MPI_ERR_ARG, "MPIX_Why", "there is no room for the sentence") : MPI_SUCCESS;
	snprintf(sentence, (size_t)size, "%s", why);
	return MPI_SUCCESS;
}

static int ask(const char *call, int what)
{
	char sentence[sizeof(why)];
	int code;

	if (!begin(call, 0, &code))
		return code;
	return interface()->ask(what, NULL, 0, sentence, sizeof(sentence)) < 0 ? fail(MPI_ERR_OTHER, call, sentence) : MPI_SUCCESS;
}

int MPIX_Pin(void)
{
	return ask("MPIX_Pin", CT_WISH_PIN);
}

int MPIX_Unpin(void)
{
	return ask("MPIX_Unpin", CT_WISH_UNPIN);
}

int MPIX_Load(double processors)
{
	int code;

	if (!begin("MPIX_Load", 1, &code))
		return code;
	if (!isfinite(processors) || processors > 1e6)
		return fail(MPI_ERR_ARG, "MPIX_Load", "processors is not a number of processors");
	interface()->load(processors);
	return MPI_SUCCESS;
}

int MPIX_Moment(int *moved)
{
	char sentence[sizeof(why)];
	int code, now;

	if (moved)
		*moved = 0;
	if (!begin("MPIX_Moment", 0, &code))
		return code;
	if (interface()->moment() && interface()->ask(CT_WISH_MOMENT, NULL, 0, sentence, sizeof(sentence)) < 0)
		return fail(MPI_ERR_OTHER, "MPIX_Moment", sentence);
	now = moves();
	if (moved)
		*moved = now != moves_seen;
	moves_seen = now;
	return MPI_SUCCESS;
}

int MPIX_On_move(MPIX_Before_function *before, MPIX_After_function *after, void *arg)
{
	int code;

	if (begin("MPIX_On_move", 0, &code))
		interface()->hooks(before, after, arg);
	return code;
}
