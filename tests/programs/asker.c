/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * asker MODE: makes the calls of godwit.h (driver/interface.py reads what comes of them). Lines are "NAME: values".
 *
 *   self     rank 0 asks for all there is, the others keep it in messages; words on standard input let it go on
 *   moments  rank 0 names good moments until the word "end", and is elsewhere most of the time; rank 1 never does
 *   wrong    what must be refused
 *   fatal    the same, with MPI's own error handler
 *   plain    one of each call: what another MPI makes of it
 */
#include <godwit.h>
#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rank, size;
static pthread_t program;
static volatile int answer_of_hook, is_half_done, was_after; /* was_after: the other hook, since its line was printed */
static int befores[4], afters[4], is_foreign_thread, met_half_done, from_hook, seen_cluster;

static int before(int why, void *arg)
{
	befores[why]++;
	is_foreign_thread = !pthread_equal(pthread_self(), program) && arg == &befores;
	met_half_done += is_half_done;
	from_hook = MPIX_Pin();
	return answer_of_hook;
}

static void after(int outcome, void *arg)
{
	(void)arg;
	afters[outcome]++;
	MPIX_Where(&seen_cluster, NULL, NULL);
	was_after = 1;
}

/* Counting begins anew before the line is out: whoever reads it may cause the next call at once. */
static void say_hooks(const char *name)
{
	int b[4], a[4];

	memcpy(b, befores, sizeof(b));
	memcpy(a, afters, sizeof(a));
	memset(befores, 0, sizeof(befores));
	memset(afters, 0, sizeof(afters));
	was_after = 0;
	printf("%s: before %d %d after %d %d %d\n", name, b[MPIX_MOVE], b[MPIX_REST], a[MPIX_MOVED], a[MPIX_STAYED], a[MPIX_RESTARTED]);
}

static void where(const char *name)
{
	int cluster, host, moves;

	MPIX_Where(&cluster, &host, &moves);
	printf("%s: cluster %d host %d moves %d\n", name, cluster, host, moves);
}

static const char *class_of(int rc)
{
	int class;

	MPI_Error_class(rc, &class);
	return rc == MPI_SUCCESS ? "ok" : class == MPI_ERR_ARG ? "ERR_ARG" : class == MPI_ERR_OTHER ? "ERR_OTHER" : "ERR";
}

static void migrate(const char *name, const char *to, int timeout_ms)
{
	int moved = -1, rc = MPIX_Migrate(to, timeout_ms, &moved);
	char why[256];

	MPIX_Why(why, sizeof(why));
	printf("%s: %s moved %d why '%s'\n", name, class_of(rc), moved, why);
}

static void wait_word(const char *word)
{
	char line[64];

	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		if (strncmp(line, word, strlen(word)) == 0)
			return;
	MPI_Abort(MPI_COMM_WORLD, 3);
}

static void wrong(const char *name, int rc)
{
	char why[256] = "";

	if (rc)
		MPIX_Why(why, sizeof(why));
	printf("%s: %s '%s'\n", name, class_of(rc), why);
}

static void all_wrong(void)
{
	char tail[300];
	int moved;

	memset(tail, 'x', sizeof(tail));
	tail[sizeof(tail) - 1] = '\0';
	wrong("migratable null", MPIX_Migratable(NULL));
	wrong("migrate null", MPIX_Migrate("0", 0, NULL));
	wrong("migrate negative", MPIX_Migrate("0", -1, &moved));
	wrong("migrate long", MPIX_Migrate(tail, 0, &moved));
	wrong("migrate cluster", MPIX_Migrate("99", 0, &moved));
	wrong("migrate host", MPIX_Migrate("nowhere", 0, &moved));
	wrong("why null", MPIX_Why(NULL, 10));
	wrong("why empty", MPIX_Why(tail, 0));
	wrong("load nan", MPIX_Load(NAN));
	wrong("load huge", MPIX_Load(1e9));
	wrong("where null", MPIX_Where(NULL, NULL, NULL));
}

static void self(void)
{
	int flag;

	MPIX_Migratable(&flag);
	printf("migratable: %d\n", flag);
	MPIX_On_move(before, after, &befores);
	where("begin");
	migrate("away", "1", 0);
	where("arrived");
	printf("thread: foreign %d from hook %d seen %d\n", is_foreign_thread, from_hook != MPI_SUCCESS, seen_cluster);
	say_hooks("hooks away");
	migrate("again", "1", 0);
	answer_of_hook = 7;
	migrate("refused", "0", 0);
	say_hooks("hooks refused");
	answer_of_hook = 0;
	printf("pin: %d\n", MPIX_Pin());
	migrate("pinned", "0", 0);
	wait_word("unpin");
	printf("unpin: %d\n", MPIX_Unpin());
	migrate("anywhere", NULL, 0);
	migrate("nowhere better", "", 0);
	where("after anywhere");
	printf("load: %d\n", MPIX_Load(0.25));
	wait_word("rest");
	say_hooks("hooks moved");
	wait_word("over");
	for (int i = 0; i < 2000 && !was_after; i++) /* the agent attaches, and calls, while this runs already */
		usleep(10000);
	say_hooks("hooks rest");
	wait_word("end");
}

/* Away from good moments for a while, then at one. Half done means that memory is full of what need not be carried. */
static void moments(void)
{
	int moved, seen = 0, rounds = 0;

	MPIX_On_move(before, after, &befores);
	MPIX_Moment(NULL);
	printf("moments: begin\n");
	fflush(stdout);
	while (seen < 3 && rounds < 3000) {
		is_half_done = 1;
		usleep(20000);
		is_half_done = 0;
		MPIX_Moment(&moved);
		seen += moved;
		rounds++;
	}
	printf("moments: seen %d half done %d\n", seen, met_half_done);
	is_half_done = 1; /* and no moment more */
	wait_word("end");
	printf("late: half done %d\n", met_half_done);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "plain";
	int token = 0, moved = -1;

	program = pthread_self();
	MPI_Init(&argc, &argv);
	if (strcmp(mode, "fatal") == 0)
		MPIX_Migrate("99", 0, &moved);
	MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (rank == 0 && strcmp(mode, "self") == 0)
		self();
	if (rank == 0 && strcmp(mode, "moments") == 0)
		moments();
	if (rank == 0 && strcmp(mode, "wrong") == 0)
		all_wrong();
	if (strcmp(mode, "plain") == 0) {
		int flag = -1, rc = MPIX_Migratable(&flag);

		rc |= MPIX_Pin() | MPIX_Unpin() | MPIX_Load(2) | MPIX_Moment(NULL) | MPIX_On_move(before, after, NULL);
		rc |= MPIX_Migrate("99", -1, &moved);
		if (rank == 0) {
			printf("plain: rc %d migratable %d moved %d\n", rc, flag, moved);
			where("plain");
		}
	}
	for (int i = 0; i < size; i++) { /* every rank hears of every other, whoever moved */
		if (i == rank)
			token = i + 1;
		MPI_Bcast(&token, 1, MPI_INT, i, MPI_COMM_WORLD);
		if (token != i + 1)
			MPI_Abort(MPI_COMM_WORLD, 4);
	}
	MPI_Finalize();
	if (rank == 0 && strcmp(mode, "wrong") == 0) {
		int flag;

		MPIX_Migratable(&flag);
		printf("after the end: migratable %d pin %s\n", flag, MPIX_Pin() == MPI_ERR_OTHER ? "ERR_OTHER" : "?");
	}
	return 0;
}
