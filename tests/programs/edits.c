/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/edits: what the patches in mpi-shim/mpich change, as a program sees it. An unpatched MPICH fails each.
 *
 *	mpirun -n 4 edits shared-window
 *	mpirun -n 1 edits processor-name
 */
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rank, ranks;

static _Noreturn void wrong(const char *what)
{
	fprintf(stderr, "edits: rank %d: %s\n", rank, what);
	MPI_Abort(MPI_COMM_WORLD, 4);
	exit(4);
}

static int error_class(int code)
{
	int class;

	MPI_Error_class(code, &class);
	return class;
}

/* Over everybody, over pairs, and over whom MPI itself says that memory can be shared with: refused but for one alone. */
static void shared_window(void)
{
	MPI_Comm pair, shared;
	MPI_Win win;
	MPI_Aint size;
	int *mine, *asked, unit, n;

	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	if (error_class(MPI_Win_allocate_shared(64, 4, MPI_INFO_NULL, MPI_COMM_WORLD, &mine, &win)) != MPI_ERR_RMA_SHARED)
		wrong("a shared window over MPI_COMM_WORLD is not refused with MPI_ERR_RMA_SHARED");
	MPI_Comm_split(MPI_COMM_WORLD, rank / 2, rank, &pair); /* inherits the error handler */
	if (error_class(MPI_Win_allocate_shared(rank % 2 ? 64 : 0, 1, MPI_INFO_NULL, pair, &mine, &win)) != MPI_ERR_RMA_SHARED)
		wrong("a shared window over a pair is not refused with MPI_ERR_RMA_SHARED");
	MPI_Barrier(pair); /* the communicator is as good as before */
	MPI_Comm_free(&pair);

	MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &shared);
	MPI_Comm_size(shared, &n);
	if (n != 1)
		wrong("MPI_COMM_TYPE_SHARED has others in it");
	for (int i = 0; i < 2; i++) {
		MPI_Comm comm = i ? shared : MPI_COMM_SELF;

		if (MPI_Win_allocate_shared(64, (int)sizeof(int), MPI_INFO_NULL, comm, &mine, &win) != MPI_SUCCESS)
			wrong("a shared window of one rank alone is refused");
		MPI_Win_fence(0, win);
		MPI_Put(&rank, 1, MPI_INT, 0, 3, 1, MPI_INT, win);
		MPI_Win_fence(0, win);
		if (MPI_Win_shared_query(win, 0, &size, &unit, &asked) != MPI_SUCCESS || asked != mine || size != 64 ||
		    unit != sizeof(int) || asked[3] != rank)
			wrong("MPI_Win_shared_query does not tell of the window of one rank alone");
		if (MPI_Win_shared_query(win, MPI_PROC_NULL, &size, &unit, &asked) != MPI_SUCCESS || asked != mine)
			wrong("MPI_Win_shared_query of MPI_PROC_NULL does not tell of the first rank with memory");
		MPI_Win_free(&win);
	}
	MPI_Comm_free(&shared);
	printf("shared-window: rank %d of %d ok\n", rank, ranks);
}

static void ask_name(const char *expected)
{
	char name[MPI_MAX_PROCESSOR_NAME], host[MPI_MAX_PROCESSOR_NAME];
	int len;

	gethostname(host, sizeof(host));
	MPI_Get_processor_name(name, &len);
	if (len != (int)strlen(name) || strcmp(name, host) != 0 || (expected && strcmp(name, expected) != 0))
		wrong("MPI_Get_processor_name does not tell the host's name of this moment");
}

/* A host of another name, as a rank that moves would find: here the rank stays and the name changes under it. */
static void processor_name(void)
{
	ask_name(NULL);
	if (sethostname("elsewhere.example", 17) < 0)
		wrong("sethostname failed");
	ask_name("elsewhere.example");
	sethostname("e", 1);
	ask_name("e");
	printf("processor-name: ok\n");
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int is_name = strcmp(verb, "processor-name") == 0;

	/* before MPI_Init, while there is one thread only: a namespace of names of its own */
	if (is_name && unshare(CLONE_NEWUTS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWUTS) < 0) {
		perror("edits: no namespace for another host name");
		return 77;
	}
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (is_name)
		processor_name();
	else if (strcmp(verb, "shared-window") == 0)
		shared_window();
	else
		wrong("usage: edits shared-window|processor-name");
	MPI_Finalize();
	return 0;
}
