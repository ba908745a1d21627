/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * spawner: ranks that start others, for tests/driver/spawn.py.
 *
 *   spawner spawn STOP PROGRAM N [KEY=VALUE...] [-- PROGRAM N ...]
 *                                                 spawn N of PROGRAM, which is this one, and talk to them until the file STOP is
 *                                                 there; the next where that fails
 *   spawner port                                  open a port, print it, and accept
 *   spawner connect PORT                          connect to it
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say_error(const char *what, int code)
{
	char text[MPI_MAX_ERROR_STRING];
	int len, class;

	MPI_Error_class(code, &class);
	MPI_Error_string(code, text, &len);
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = ';';
	printf("%s failed: class %d, %s\n", what, class, text);
	fflush(stdout);
}

/* All of both worlds add their numbers, turn after turn; who gets another sum says so. */
static int talk(MPI_Comm all, const char *stop)
{
	int rank, size, wrong = 0, is_over = 0;
	long turns = 0;

	MPI_Comm_rank(all, &rank);
	MPI_Comm_size(all, &size);
	while (!is_over) {
		long mine = (long)rank * 1000003 + turns, sum, want = turns * size + 1000003L * size * (size - 1) / 2;

		MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, all);
		wrong += sum != want;
		turns++;
		if (rank == 0)
			is_over = access(stop, F_OK) == 0;
		MPI_Bcast(&is_over, 1, MPI_INT, 0, all);
	}
	printf("rank %d of %d: %ld turns, %d wrong\n", rank, size, turns, wrong);
	fflush(stdout);
	return wrong != 0;
}

static int child(MPI_Comm parent, const char *stop)
{
	char host[MPI_MAX_PROCESSOR_NAME], cwd[4096];
	int rank, size, len, *appnum, flag;
	MPI_Comm all;

	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Get_processor_name(host, &len);
	MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_APPNUM, &appnum, &flag);
	printf("child %d of %d, program %d, in %s\n", rank, size, flag ? *appnum : -1, getcwd(cwd, sizeof(cwd)) ? cwd : "?");
	fflush(stdout);
	MPI_Intercomm_merge(parent, 1, &all);
	return talk(all, stop);
}

static int spawn(int argc, char **argv)
{
	char *args[] = { "child", argv[2], NULL };
	int code = MPI_ERR_SPAWN, *universe, flag, rank;
	MPI_Comm children, all;

	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_UNIVERSE_SIZE, &universe, &flag);
	if (rank == 0)
		printf("universe %d\n", flag ? *universe : -1);
	fflush(stdout);
	for (int i = 3; i + 1 < argc && code != MPI_SUCCESS; i++) {
		int program = i++, n = atoi(argv[i]);
		MPI_Info info;

		MPI_Info_create(&info);
		while (++i < argc && strcmp(argv[i], "--")) {
			char *value = strchr(argv[i], '=');

			*value++ = '\0';
			MPI_Info_set(info, argv[i], value);
		}
		code = MPI_Comm_spawn(argv[program], args, n, info, 0, MPI_COMM_WORLD, &children, MPI_ERRCODES_IGNORE);
		MPI_Info_free(&info);
		if (code != MPI_SUCCESS)
			say_error("spawn", code);
	}
	if (code != MPI_SUCCESS)
		return talk(MPI_COMM_WORLD, argv[2]);
	MPI_Intercomm_merge(children, 0, &all);
	return talk(all, argv[2]);
}

static int port(void)
{
	char name[MPI_MAX_PORT_NAME];
	MPI_Comm other;

	MPI_Open_port(MPI_INFO_NULL, name);
	printf("port %s\n", name);
	fflush(stdout);
	MPI_Comm_accept(name, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &other);
	return 1;
}

static int connect_to(const char *name)
{
	char found[MPI_MAX_PORT_NAME];
	MPI_Comm other;
	int code = MPI_Lookup_name("a service of another job", MPI_INFO_NULL, found);

	if (code != MPI_SUCCESS)
		say_error("lookup", code);
	code = MPI_Comm_connect(name, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &other);
	if (code != MPI_SUCCESS)
		say_error("connect", code);
	return code == MPI_SUCCESS;
}

int main(int argc, char **argv)
{
	MPI_Comm parent;
	int code = 2;

	MPI_Init(&argc, &argv);
	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	MPI_Comm_get_parent(&parent);
	if (parent != MPI_COMM_NULL)
		code = child(parent, argv[2]);
	else if (argc >= 5 && strcmp(argv[1], "spawn") == 0)
		code = spawn(argc, argv);
	else if (argc == 2 && strcmp(argv[1], "port") == 0)
		code = port();
	else if (argc == 3 && strcmp(argv[1], "connect") == 0)
		code = connect_to(argv[2]);
	MPI_Finalize();
	return code;
}
