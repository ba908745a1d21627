/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * spawner: ranks that start others, for tests/driver/spawn.py.
 *
 *   spawner spawn STOP PROGRAM N [KEY=VALUE...] [-- PROGRAM N ...]
 *                                                 spawn N of PROGRAM, which is this one, and talk to them until the file STOP is
 *                                                 there; the next where that fails
 *   spawner twice STOP PROGRAM                    spawn two, which end at once; talk among ourselves until STOP is there; spawn two more
 *   spawner accept STOP [SERVICE]                 open a port, print it, publish it as SERVICE, accept, and talk
 *   spawner stay STOP                             the same; when they have parted, talk among ourselves until STOP.end is there
 *   spawner connect STOP PORT [PORT...]           connect to it, and talk; to the next where that fails
 *   spawner lookup STOP SERVICE                   find it by its name before
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
	if (!*stop) { /* of those that are spawned twice */
		MPI_Comm_disconnect(&parent);
		return 0;
	}
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

static int spawn_twice(const char *stop, const char *program)
{
	char *args[] = { "child", "", NULL };
	int wrong = 0;

	for (int i = 0; i < 2; i++) {
		MPI_Comm children;

		MPI_Comm_spawn(program, args, 2, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &children, MPI_ERRCODES_IGNORE);
		MPI_Comm_disconnect(&children);
		if (i == 0)
			wrong = talk(MPI_COMM_WORLD, stop);
	}
	return wrong;
}

/* With those of another job, as long as STOP is not there. */
static int talk_to(MPI_Comm other, int is_high, const char *stop)
{
	MPI_Comm all;
	int wrong;

	MPI_Intercomm_merge(other, is_high, &all);
	printf("they talk\n");
	fflush(stdout);
	wrong = talk(all, stop);
	MPI_Comm_free(&all);
	MPI_Comm_disconnect(&other);
	return wrong;
}

static int accept_from(const char *stop, const char *service)
{
	char name[MPI_MAX_PORT_NAME] = "";
	MPI_Comm other;
	int rank, wrong;

	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (rank == 0) {
		MPI_Open_port(MPI_INFO_NULL, name);
		if (service)
			MPI_Publish_name(service, MPI_INFO_NULL, name);
		printf("port %s\n", name);
		fflush(stdout);
	}
	MPI_Comm_accept(name, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &other);
	wrong = talk_to(other, 0, stop);
	if (rank == 0 && service)
		MPI_Unpublish_name(service, MPI_INFO_NULL, name);
	return wrong;
}

static int stay(const char *stop)
{
	int wrong = accept_from(stop, NULL);
	char end[4096];

	printf("they have parted\n");
	fflush(stdout);
	snprintf(end, sizeof(end), "%s.end", stop);
	return talk(MPI_COMM_WORLD, end) || wrong;
}

static int connect_to(const char *stop, char **names, int n)
{
	MPI_Comm other;

	for (int i = 0; i < n; i++) {
		int code = MPI_Comm_connect(names[i], MPI_INFO_NULL, 0, MPI_COMM_WORLD, &other);

		if (code == MPI_SUCCESS)
			return talk_to(other, 1, stop);
		say_error("connect", code);
	}
	return 0;
}

static int look_up(const char *stop, const char *service)
{
	char found[MPI_MAX_PORT_NAME] = "", *name = found;
	int code = MPI_Lookup_name(service, MPI_INFO_NULL, found);

	if (code == MPI_SUCCESS)
		return connect_to(stop, &name, 1);
	say_error("lookup", code);
	return 0;
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
	else if (argc == 4 && strcmp(argv[1], "twice") == 0)
		code = spawn_twice(argv[2], argv[3]);
	else if (argc >= 3 && strcmp(argv[1], "accept") == 0)
		code = accept_from(argv[2], argv[3]);
	else if (argc == 3 && strcmp(argv[1], "stay") == 0)
		code = stay(argv[2]);
	else if (argc >= 4 && strcmp(argv[1], "connect") == 0)
		code = connect_to(argv[2], argv + 3, argc - 3);
	else if (argc == 4 && strcmp(argv[1], "lookup") == 0)
		code = look_up(argv[2], argv[3]);
	MPI_Finalize();
	return code;
}
