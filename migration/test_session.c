/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Three daemons with loops, real containers, and a controller that moves programs between them while things break.
 *
 * Each daemon is a process with a struct mig; the controller plays the head: it asks, hears, and says who is dead. The
 * moved program (test_mover) appends numbers to a file: in the end the file must be 0, 1, 2, ... without a gap, a
 * repetition or a step back, exactly one process of it may live, and its file must grow; or none, where a daemon died
 * that owned it.
 */
#include "migration/test_world.h"

static void test_moves(void)
{
	static struct world w;
	struct packet p;
	json_t *m;
	bool good = true;

	world_start(&w, NULL, NULL, NULL);
	ok(spawn_at(&w, 0, 0, 4), "a program runs in a container");
	for (int i = 0; i < 12 && good; i++) {
		uint32_t from = w.at[0], to = (from + 1 + (uint32_t)i % 2) % DAEMONS;

		say(&w, from, MOVE, 0, to, 0);
		good = hear_word(&w, FINISHED, 0, &p) && p.status == 0 && w.at[0] == to && w.epoch[0] == (uint64_t)i + 2;
		if (!good)
			diag("move %d, %u to %u: %d, %s", i, from, to, p.status, p.text);
	}
	ok(good, "it moves twelve times, on and back");
	m = json_loads(p.text, 0, NULL);
	ok(m && json_integer_value(json_object_get(m, "downtime_ns")) > 0 &&
	   json_integer_value(json_object_get(m, "pages")) * 4096 >= 4 << 20 &&
	   json_integer_value(json_object_get(m, "total_ns")) > json_integer_value(json_object_get(m, "downtime_ns")) &&
	   json_is_null(json_object_get(m, "dirty_pages_s")) && json_real_value(json_object_get(m, "link_bytes_s")) > 0 &&
	   json_integer_value(json_object_get(m, "preparation_ns")) > 0 && json_integer_value(json_object_get(m, "resume_ns")) > 0 &&
	   json_real_value(json_object_get(m, "degradation")) > 0, "the eight measures are there");
	diag("%s", p.text);
	json_decref(m);
	one_lives(&w, 0, "twelve moves");
	for (unsigned i = 0; i < DAEMONS; i++)
		say(&w, i, STALL, 0, 0, 0);
	good = true;
	for (int i = 0; i < 6 && good; i++) {
		say(&w, w.at[0], MOVE, 0, (w.at[0] + 1) % DAEMONS, 0);
		good = hear_word(&w, FINISHED, 0, &p) && p.status == 0 && strstr(p.text, "\"attach_ns\":3000");
		if (!good)
			diag("%d, %s", p.status, p.text);
	}
	ok(good, "and six times when an agent answers later; its time is in the measures");
	one_lives(&w, 0, "moves with an agent");
	for (unsigned i = 0; i < DAEMONS; i++) {
		say(&w, i, LOOK, 0, 0, 0);
		ok(hear_word(&w, LOOKED, 0, &p) && strstr(p.text, "\"bad_events\":0") && strstr(p.text, "\"bad_frames\":0") &&
		   strstr(p.text, "\"sessions\":[]"), "daemon %u has no session left and has refused nothing", i);
		if (!strstr(p.text, "\"sessions\":[]") || !strstr(p.text, "\"bad_events\":0"))
			diag("%s", p.text);
	}
	world_stop(&w);
}

static void test_refusals(void)
{
	static struct world w;
	struct packet p;

	world_start(&w, NULL, NULL, NULL);
	ok(spawn_at(&w, 0, 0, 0) && spawn_at(&w, 0, 1, 256), "two programs run");
	say(&w, 0, MOVE, 0, 0, 0);
	ok(hear_word(&w, REFUSED, 0, &p) && p.status == -EINVAL, "to where it is: %s", p.text);
	say(&w, 0, MOVE, 0, 9, 0);
	ok(hear_word(&w, REFUSED, 0, &p) && p.status < 0, "to nowhere: %s", p.text);
	say(&w, 0, MOVE, 1, 1, 0);
	say(&w, 0, MOVE, 1, 2, 0);
	ok(hear_word(&w, REFUSED, 1, &p) && p.status == -EBUSY, "twice at once: %s", p.text);
	ok(hear_word(&w, FINISHED, 1, &p) && p.status == 0, "the first of the two arrives");
	say(&w, 1, MOVE, 1, 2, 0);
	say(&w, 1, CANCEL, 1, 0, 0);
	ok(hear_word(&w, FINISHED, 1, &p) && p.status == -ECANCELED && w.at[1] == 1, "taken back in time: %s", p.text);
	one_lives(&w, 1, "a move that was taken back");
	say(&w, 0, MOVE, 5, 1, 0);
	ok(hear_word(&w, REFUSED, 5, &p) && p.status == -ESRCH, "a rank that is not: %s", p.text);
	say(&w, 2, SHUTDOWN, 0, 0, 0);
	say(&w, 0, MOVE, 0, 2, 0);
	ok(hear_word(&w, FINISHED, 0, &p) && p.status == -ESHUTDOWN && w.at[0] == 0, "to one that ends: %s", p.text);
	one_lives(&w, 0, "all refusals");
	world_stop(&w);
}

/* What is left after a fault, by the rules. */
enum left { AT_SOURCE, AT_SOURCE_LATER, AT_DESTINATION, NOWHERE, AT_SOURCE_OR_NOWHERE };

/* an edge of a rank that runs there, and lacks pages */
static bool is_late(const char *name)
{
	static const char *const late[] = { "mig.src.serving", "mig.src.asked", "mig.src.pushing", "mig.dst.fetching", "mig.dst.fault",
	                                    "mig.dst.pages", "mig.dst.fetched" };

	for (size_t i = 0; i < GW_ARRAY_LEN(late); i++)
		if (strcmp(name, late[i]) == 0)
			return true;
	return false;
}

static void test_fault(const char *name, const char *action, bool is_source, enum left left)
{
	static struct world w;
	struct packet p = { 0 };
	char fault[64], what[96];
	bool is_kill = !strcmp(action, "kill");

	snprintf(fault, sizeof(fault), "%s=%s", name, action);
	snprintf(what, sizeof(what), "%s %s", name, action);
	world_start(&w, is_source ? fault : NULL, is_source ? NULL : fault, NULL);
	if (!spawn_at(&w, 0, 0, 3)) {
		ok(false, "%s: a program runs", what);
		world_stop(&w);
		return;
	}
	say(&w, 0, MOVE, 0, 1, strstr(name, "packed") ? MIG_PRE_COPY | 50 << 8 : strstr(name, "follow") || strstr(name, "round") ? MIG_PRE_COPY : is_late(name) ? MIG_POST_COPY : MIG_AUTO);
	if (is_kill && is_source) {
		while (w.pid[0] && hear(&w, &p, WAIT_MS))
			;
		ok(!w.pid[0], "%s: the source dies there", what);
		if (left == AT_DESTINATION)
			one_lives(&w, 0, what);
		else
			none_lives(&w, 0, what);
	} else {
		/* refused synchronously, or finished */
		while (hear(&w, &p, WAIT_MS) && p.word != FINISHED && p.word != REFUSED)
			;
		if (left == AT_SOURCE_OR_NOWHERE) /* it may die between the source's look and GIVEN, or later */
			left = p.word == FINISHED && p.status == -EHOSTDOWN ? NOWHERE : AT_SOURCE;
		ok((p.word == FINISHED || p.word == REFUSED) && (left == AT_DESTINATION ? p.status == 0 : p.status < 0) &&
		   (left != AT_SOURCE || w.epoch[0] == 1) && (left != AT_SOURCE_LATER || w.epoch[0] == 3) &&
		   (left != AT_DESTINATION || w.epoch[0] == 2), "%s: %s", what, p.status < 0 ? p.text : "it arrives");
		while (is_kill && w.pid[1] && hear(&w, &p, WAIT_MS))
			;
		if (is_kill)
			ok(!w.pid[1], "%s: the destination dies there", what);
		if (left == NOWHERE)
			none_lives(&w, 0, what);
		else
			one_lives(&w, 0, what);
		if (left != NOWHERE && w.pid[0]) {
			/* nothing stands in the way of another move */
			uint32_t from = w.at[0];

			say(&w, from, MOVE, 0, 2, 0);
			ok(hear_word(&w, FINISHED, 0, &p) && p.status == 0 && w.at[0] == 2, "%s: it can move afterwards", what);
			if (p.status < 0)
				diag("%s", p.text);
			one_lives(&w, 0, what);
		}
	}
	world_stop(&w);
}

/* Of a program that writes all the time: what it writes meanwhile comes with the last part. */
static void test_precopy(void)
{
	static struct world w;
	struct packet p = { 0 };
	bool good = true;
	json_t *m;

	world_start(&w, NULL, NULL, NULL);
	ok(spawn_at(&w, 0, 0, 24), "a program with 24 MiB runs");
	for (int i = 0; i < 8 && good; i++) {
		uint32_t from = w.at[0];

		say(&w, from, MOVE, 0, (from + 1 + (uint32_t)i % 2) % DAEMONS, i % 2 ? MIG_AUTO : MIG_PRE_COPY);
		good = hear_word(&w, FINISHED, 0, &p) && p.status == 0 && strstr(p.text, "\"pre-copy\"");
		if (!good)
			diag("move %d: %d, %s", i, p.status, p.text);
	}
	ok(good, "it moves eight times by pre-copy, every other time because that was chosen");
	m = json_loads(p.text, 0, NULL);
	ok(m && json_integer_value(json_object_get(m, "rounds")) > 0 &&
	   json_integer_value(json_object_get(m, "round_bytes")) > 23 << 20 &&
	   json_integer_value(json_object_get(m, "bytes")) > json_integer_value(json_object_get(m, "round_bytes")) &&
	   json_integer_value(json_object_get(m, "private_bytes")) < 12 << 20, "most of it was there before it was stopped");
	diag("%s", p.text);
	json_decref(m);
	one_lives(&w, 0, "moves by pre-copy");
	world_stop(&w);
}

/* Over a link of which little may be taken; MOVE takes 1 MB/s in units of 256, and 128 for plain memory. */
static void test_packed(bool can_fetch)
{
	static const int ways[] = { MIG_PRE_COPY, MIG_PRE_COPY | 128, MIG_HYBRID, MIG_POST_COPY };
	static struct world w;
	struct packet p = { 0 };

	world_start(&w, NULL, NULL, NULL);
	ok(spawn_at(&w, 0, 0, 24), "a program with 24 MiB runs, of which half shrink when they are packed");
	for (size_t i = 0; i < GW_ARRAY_LEN(ways); i++) {
		json_int_t memory, wire;
		uint32_t from = w.at[0];
		json_t *m;

		if (ways[i] >= MIG_POST_COPY && ways[i] <= MIG_HYBRID && !can_fetch) {
			tap_skip(1, "no rank can run here before its memory is there (userfaultfd)");
			continue;
		}
		say(&w, from, MOVE, 0, (from + 1) % DAEMONS, ways[i] | 50 << 8);
		hear_word(&w, FINISHED, 0, &p);
		m = json_loads(p.text, 0, NULL);
		memory = json_integer_value(json_object_get(m, "bytes"));
		wire = json_integer_value(json_object_get(m, "wire_bytes"));
		if (!ok(p.status == 0 && memory > 24 << 20 && (ways[i] & 128 ? wire == memory : wire < memory * 3 / 4 && wire > memory / 3),
		        "with a bounded bandwidth %lld bytes of memory are %lld on the link%s", (long long)memory, (long long)wire,
		        ways[i] & 128 ? ": plain, as asked for" : ""))
			diag("%d, %s", p.status, p.text);
		json_decref(m);
	}
	one_lives(&w, 0, "moves of packed memory");
	world_stop(&w);
}

/* Its pages come while it runs, and while it goes on. */
static void test_postcopy(void)
{
	static struct world w;
	struct packet p = { 0 };
	bool good = true;
	json_t *m, *f;

	world_start(&w, NULL, NULL, NULL);
	ok(spawn_at(&w, 0, 0, 24), "a program with 24 MiB runs");
	for (int i = 0; i < 8 && good; i++) {
		uint32_t from = w.at[0];

		say(&w, from, MOVE, 0, (from + 1 + (uint32_t)i % 2) % DAEMONS, i % 2 ? MIG_HYBRID : MIG_POST_COPY);
		good = hear_word(&w, FINISHED, 0, &p) && p.status == 0 && strstr(p.text, i % 2 ? "\"hybrid\"" : "\"post-copy\"");
		if (i == 6) {
			m = json_loads(p.text, 0, NULL);
			f = json_object_get(m, "fetch");
			ok(json_integer_value(json_object_get(f, "left_bytes")) > 23 << 20 && json_integer_value(json_object_get(f, "fetch_ns")) > 0 &&
			   json_integer_value(json_object_get(m, "bytes")) > 23 << 20, "most of it came after the rank");
			diag("%s", p.text);
			json_decref(m);
		}
		if (!good)
			diag("move %d: %d, %s", i, p.status, p.text);
	}
	ok(good, "it moves eight times, by post-copy and hybrid");
	one_lives(&w, 0, "moves by post-copy");
	world_stop(&w);
}

/* After the commit point the pages are lost with the source, and only with it. */
static void test_late_faults(void)
{
	static const char *const of_source[] = { "mig.src.serving", "mig.src.asked", "mig.src.pushing" };
	static const char *const of_destination[] = { "mig.dst.fetching", "mig.dst.fault", "mig.dst.pages" };

	for (size_t i = 0; i < GW_ARRAY_LEN(of_source); i++) {
		test_fault(of_source[i], "fail", true, NOWHERE);
		test_fault(of_source[i], "cut", true, AT_DESTINATION);
		test_fault(of_source[i], "kill", true, NOWHERE);
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(of_destination); i++) {
		test_fault(of_destination[i], "cut", false, AT_DESTINATION);
		test_fault(of_destination[i], "kill", false, NOWHERE);
	}
	test_fault("mig.dst.fetched", "fail", false, AT_DESTINATION);
	test_fault("mig.dst.fetched", "cut", false, AT_DESTINATION);
	test_fault("mig.dst.fetched", "kill", false, NOWHERE);
}

static void test_give_up(void)
{
	static struct world w;
	struct packet p = { 0 };
	bool starved = false, finished = false;

	world_start(&w, NULL, "mig.dst.pages=fail", NULL);
	spawn_at(&w, 0, 0, 3);
	say(&w, 0, MOVE, 0, 1, MIG_POST_COPY);
	while (!(starved && finished) && hear(&w, &p, WAIT_MS)) { /* of two daemons, in any order */
		starved |= p.word == STARVED && strstr(p.text, "rank 0 lacks memory");
		finished |= p.word == FINISHED;
	}
	ok(starved, "pages that cannot be put in end the rank");
	ok(finished, "and the source hears that nothing is needed any more");
	none_lives(&w, 0, "pages that cannot be put in");
	world_stop(&w);
}

static void test_faults(void)
{
	static const char *const before_source[] = { "mig.src.follow", "mig.src.round", "mig.src.packed", "mig.src.prepared", "mig.src.quiet", "mig.src.head",
	                                             "mig.src.frozen", "mig.src.sending", "mig.src.ready" };
	static const char *const before_destination[] = { "mig.dst.prepared", "mig.dst.filling", "mig.dst.ready" };

	test_fault("mig.src.prepare", "fail", true, AT_SOURCE);
	test_fault("mig.src.prepare", "kill", true, NOWHERE);
	for (size_t i = 0; i < GW_ARRAY_LEN(before_source); i++) {
		test_fault(before_source[i], "fail", true, AT_SOURCE);
		test_fault(before_source[i], "cut", true, AT_SOURCE);
		test_fault(before_source[i], "kill", true, NOWHERE);
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(before_destination); i++) {
		test_fault(before_destination[i], "fail", false, AT_SOURCE);
		test_fault(before_destination[i], "cut", false, AT_SOURCE);
		test_fault(before_destination[i], "kill", false, AT_SOURCE);
	}
	test_fault("mig.dst.sent", "kill", false, AT_SOURCE_OR_NOWHERE); /* READY is in the source's socket */
	test_fault("mig.src.given", "fail", true, AT_DESTINATION);
	test_fault("mig.src.given", "cut", true, AT_DESTINATION);
	test_fault("mig.src.given", "kill", true, NOWHERE);
	test_fault("mig.dst.given", "fail", false, AT_SOURCE_LATER);
	test_fault("mig.dst.given", "cut", false, AT_DESTINATION);
	test_fault("mig.dst.given", "kill", false, NOWHERE);
	test_fault("mig.dst.taken", "fail", false, AT_DESTINATION);
	test_fault("mig.dst.taken", "cut", false, AT_DESTINATION);
	test_fault("mig.dst.taken", "kill", false, NOWHERE);
	test_fault("mig.src.taken", "kill", true, AT_DESTINATION);
}

/* The program is killed while it is sent: the session ends with that, nothing arrives. */
static void test_exit_while_moving(void)
{
	static struct world w;
	struct packet p;
	pid_t pid = 0;
	bool is_sending = false;

	world_start(&w, NULL, NULL, NULL);
	say(&w, 0, SPAWN, 0, 0, 400);
	if (!hear_word(&w, SPAWNED, 0, &p) || p.status < 0)
		tap_bail("no program: %s", p.text);
	pid = p.pid;
	grows(&w, 0);
	say(&w, 0, MOVE, 0, 1, MIG_STOP_AND_COPY);
	/* asked over and over, until it is in that state or has passed it */
	p.word = 0;
	while (!is_sending && p.word != FINISHED) {
		say(&w, 0, LOOK, 0, 0, 0);
		while (hear(&w, &p, WAIT_MS) && p.word != LOOKED && p.word != FINISHED)
			;
		is_sending = p.word == LOOKED && strstr(p.text, "\"send\"") != NULL;
	}
	ok(is_sending, "a large program is being sent, and its daemon still answers");
	kill(pid, SIGKILL);
	bool is_over = (p.word == FINISHED || hear_word(&w, FINISHED, 0, &p)) && (p.status < 0 || w.at[0] == 1);

	ok(is_over, "killed meanwhile, the session ends: %s",
	   p.status < 0 ? p.text : "it had arrived");
	if (p.status < 0) {
		bool heard = hear_word(&w, EXITED, 0, &p);

		if (!ok(heard && WIFSIGNALED(p.status) && WTERMSIG(p.status) == SIGKILL, "its daemon sees how it ended"))
			diag("heard %d, status %x", heard, (unsigned)p.status);
		none_lives(&w, 0, "killed while it moved");
	} else {
		tap_skip(2, "the move was faster than the signal");
	}
	world_stop(&w);
}

static bool is_zombie(pid_t pid)
{
	char path[64], line[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	}
	return strstr(line, ") Z") != NULL;
}

/* Killed when its image is complete at the destination already: it must not live on there. The pause before READY is
 * made by stopping the destination's daemon at that edge. */
static void test_kill_before_given(void)
{
	static struct world w;
	struct packet p;
	pid_t pid;
	int status;

	world_start(&w, NULL, "mig.dst.ready=stop", NULL);
	say(&w, 0, SPAWN, 0, 0, 1);
	if (!hear_word(&w, SPAWNED, 0, &p) || p.status < 0)
		tap_bail("no program: %s", p.text);
	pid = p.pid;
	grows(&w, 0);
	say(&w, 0, MOVE, 0, 1, MIG_STOP_AND_COPY);
	ok(waitpid(w.pid[1], &status, WUNTRACED) == w.pid[1] && WIFSTOPPED(status), "the destination is held before READY");
	kill(pid, SIGKILL);
	for (uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull; !is_zombie(pid) && gw_now_ns() < end;)
		sched_yield();
	kill(w.pid[1], SIGCONT);
	bool is_over = hear_word(&w, FINISHED, 0, &p);

	ok(is_over && p.status == -ESRCH, "killed when all was sent, the session ends: %s", p.text);
	ok(hear_word(&w, EXITED, 0, &p) && WIFSIGNALED(p.status), "its daemon sees how it ended");
	none_lives(&w, 0, "killed when all was sent");
	world_stop(&w);
}

/* pid of the shell that @daemon holds: the child of its only init; 0: none */
static pid_t shell_of(pid_t daemon)
{
	pid_t pid = daemon;

	for (int level = 0; level < 2 && pid > 0; level++) {
		char path[64];
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
		f = fopen(path, "re");
		if (!f || fscanf(f, "%d", &pid) != 1)
			pid = 0;
		if (f)
			fclose(f);
	}
	return pid;
}

static bool has_session(struct world *w, unsigned i)
{
	struct packet p;
	json_t *o;
	bool has = true;

	say(w, i, LOOK, 0, 0, 0);
	if (hear_word(w, LOOKED, 0, &p) && (o = json_loads(p.text, 0, NULL)) != NULL) {
		has = json_array_size(json_object_get(o, "sessions")) > 0;
		json_decref(o);
	}
	return has;
}

/* The shell is killed when it is complete: before READY was said, and after it, with the source held before GIVEN. */
static void test_kill_shell(bool is_ready_said)
{
	const char *when = is_ready_said ? "after READY" : "before READY";
	unsigned held = is_ready_said ? 0 : 1;
	static struct world w;
	struct packet p;
	int status;
	pid_t shell;

	world_start(&w, is_ready_said ? "mig.src.ready=stop" : NULL, is_ready_said ? NULL : "mig.dst.ready=stop", NULL);
	if (!spawn_at(&w, 0, 0, 1))
		tap_bail("no program");
	say(&w, 0, MOVE, 0, 1, MIG_STOP_AND_COPY);
	ok(waitpid(w.pid[held], &status, WUNTRACED) == w.pid[held] && WIFSTOPPED(status), "a daemon is held %s", when);
	shell = shell_of(w.pid[1]);
	ok(shell > 0 && kill(shell, SIGKILL) == 0, "the shell (pid %d) is killed %s", (int)shell, when);
	for (uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull; !is_zombie(shell) && gw_now_ns() < end;)
		sched_yield();
	if (is_ready_said) {
		bool has = true;

		for (uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull; has && gw_now_ns() < end;)
			has = has_session(&w, 1);
		ok(!has, "its daemon notices, and ends the session before it is given the rank");
	}
	kill(w.pid[held], SIGCONT);
	ok(hear_word(&w, FINISHED, 0, &p) && p.status < 0 && (is_ready_said || strstr(p.text, "its shell")),
	   "the move fails, before the rank was given: %s", p.text);
	one_lives(&w, 0, "its shell was killed");
	world_stop(&w);
}

/* Four programs, three daemons, every daemon sends and receives at once, connections are cut at random edges. */
static void test_storm(unsigned seed, int moves)
{
	static const char *const faults[DAEMONS] = {
		"mig.src.sending@9=cut,mig.src.given@3=cut,mig.dst.ready@7=cut,mig.dst.taken@5=fail,mig.src.quiet@11=fail,"
		"mig.dst.taken@9=cut,mig.src.given@14=fail",
		"mig.dst.filling@12=cut,mig.dst.taken@3=cut,mig.src.given@6=fail,mig.dst.given@8=fail,mig.src.ready@9=cut,"
		"mig.dst.given@12=cut,mig.src.given@10=cut",
		"mig.dst.prepared@5=fail,mig.dst.given@4=cut,mig.src.frozen@8=fail,mig.src.given@5=cut,mig.dst.taken@7=fail,"
		"mig.src.sending@30=cut,mig.dst.given@10=fail",
	};
	static struct world w;
	struct packet p;
	int moved = 0, stayed = 0, refused = 0, flying = 0, asked = 0, max_flying = 0, ended = 0;
	bool is_moving[4] = { false };
	uint64_t reconnects = 0;

	diag("storm: seed %u, %d moves", seed, moves);
	srandom(seed);
	world_start(&w, faults[0], faults[1], faults[2]);
	for (uint32_t i = 0; i < 4; i++)
		if (!spawn_at(&w, i % DAEMONS, i, (int)i * 4))
			tap_bail("no program");
	while (moved + stayed < moves) {
		/* as many at once as there are programs; now and then one of them twice, which must be refused */
		for (uint32_t i = 0; i < 4; i++)
			if (!is_moving[i] || random() % 8 == 0) {
				say(&w, w.at[i], MOVE, i, (w.at[i] + 1 + (uint32_t)random() % 2) % DAEMONS, (int)(random() % 3));
				if (!is_moving[i])
					flying++;
				is_moving[i] = true;
				asked++;
			}
		if (flying > max_flying)
			max_flying = flying;
		if (!hear(&w, &p, WAIT_MS))
			break;
		if (p.word == FINISHED) {
			*(p.status == 0 ? &moved : &stayed) += 1;
			if (p.status < 0)
				diag("%s", p.text);
			ended += p.status < 0 && strstr(p.text, "its shell") != NULL;
			is_moving[p.proc] = false;
			flying--;
		} else if (p.word == REFUSED) {
			refused++;
			/* -EBUSY: a session of ours is on its way still, its FINISHED comes; else nothing was started */
			if (p.status != -EBUSY && p.status != -ESRCH) {
				is_moving[p.proc] = false;
				flying--;
			}
		} else if (p.word == EXITED || p.word == LOST) {
			diag("rank %u: exited or lost, status %x", p.proc, (unsigned)p.status);
			break;
		}
	}
	while (flying > 0 && hear(&w, &p, WAIT_MS))
		if (p.word == FINISHED) {
			*(p.status == 0 ? &moved : &stayed) += 1;
			flying--;
		}
	diag("asked %d times: %d moved, %d stayed, %d refused; up to %d at once", asked, moved, stayed, refused, max_flying);
	ok(moved + stayed >= moves && flying == 0, "a storm of moves ends");
	ok(moved > moves * 3 / 4, "most of them arrive");
	is_int(ended, 0, "no shell is said to have ended where nobody kills one");
	for (uint32_t i = 0; i < 4; i++)
		one_lives(&w, i, "after the storm");
	for (unsigned i = 0; i < DAEMONS; i++) {
		json_t *o;

		say(&w, i, LOOK, 0, 0, 0);
		if (!hear_word(&w, LOOKED, 0, &p) || !(o = json_loads(p.text, 0, NULL)))
			continue;
		reconnects += (uint64_t)json_integer_value(json_object_get(o, "reconnects"));
		diag("daemon %u: %s", i, p.text);
		json_decref(o);
	}
	ok(reconnects > 0, "connections were made anew (%llu)", (unsigned long long)reconnects);
	world_stop(&w);
}

int main(int argc, char **argv)
{
	struct ct_host_caps caps;

	if (ct_host_probe(&caps) < 0 || !caps.has_pidns)
		tap_skip_all("no PID namespaces here: %s", caps.text);
	tap_begin(900);
	if (argc > 1 && !strcmp(argv[1], "storm")) {
		test_storm(argc > 2 ? (unsigned)atoi(argv[2]) : 1, argc > 3 ? atoi(argv[3]) : 1000);
		return tap_done();
	}
	if (argc > 1 && !strcmp(argv[1], "exit")) {
		test_exit_while_moving();
		test_kill_before_given();
		test_kill_shell(false);
		test_kill_shell(true);
		return tap_done();
	}
	if (argc > 1 && !strcmp(argv[1], "packed")) {
		test_packed(caps.can_fetch);
		test_fault("mig.src.packed", "fail", true, AT_SOURCE);
		test_fault("mig.src.packed", "cut", true, AT_SOURCE);
		test_fault("mig.src.packed", "kill", true, NOWHERE);
		return tap_done();
	}
	if (argc > 1 && !strcmp(argv[1], "late")) {
		test_postcopy();
		test_late_faults();
		test_give_up();
		return tap_done();
	}
	test_moves();
	if (caps.has_wp_async) {
		test_precopy();
		test_packed(caps.can_fetch);
	} else {
		tap_skip(10, "this host cannot follow what a rank writes: %s", caps.text);
	}
	if (caps.can_fetch) {
		test_postcopy();
		test_late_faults();
		test_give_up();
	} else {
		tap_skip(1, "no rank can run here before its memory is there (userfaultfd)");
	}
	test_refusals();
	test_faults();
	test_exit_while_moving();
	test_kill_before_given();
	test_kill_shell(false);
	test_kill_shell(true);
	test_storm((unsigned)time(NULL), 80);
	return tap_done();
}
