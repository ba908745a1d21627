/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Three daemons with loops, real containers, and a controller that moves programs between them while things break.
 *
 * Each daemon is a process with a struct mig; the controller plays the head: it asks, hears, and says who is dead. The
 * moved program (test_mover) appends numbers to a file: in the end the file must be 0, 1, 2, ... without a gap, a
 * repetition or a step back, exactly one process of it may live, and its file must grow; or none, where a daemon died
 * that owned it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "migration/migration.h"
#include "runtime/base/link.h"
#include "tests/tap.h"

#define DAEMONS 3
#define RANKS   6
#define CTL_FD  63
#define JOB     77u
#define WAIT_MS 60000

/* ---- what controller and daemons say to each other: one packet each ------------------------------------------------- */

enum word {
	/* to a daemon */
	SPAWN = 1, MOVE, DEAD, LOOK, CANCEL, SHUTDOWN, STALL,
	/* from a daemon */
	SPAWNED = 64, STARTED, REFUSED, FINISHED, ARRIVED, STAYED, LEFT, LOST, EXITED, LOOKED,
	/* of a daemon: its socket has ended */
	DIED,
};

struct packet {
	uint32_t word, proc, cluster;
	int32_t status, pid;
	uint64_t epoch, incarnation;
	char text[2400];
};

/* ---- a daemon ------------------------------------------------------------------------------------------------------ */

struct rank {
	struct ct_rank *ct;
	uint64_t epoch;
	struct gw_watch *watch;
	bool is_here;
	int out, ctl;               /* our ends of its standard output and of its control socket */
};

struct daemon {
	struct gw_loop *loop;
	struct mig *mig;
	int ctl, listener;
	uint32_t cluster;
	uint64_t incarnation;
	struct rank ranks[RANKS];
	char dir[64];
	bool is_slow_agent;         /* quiesce is answered by a later call, as by an agent */
	uint32_t quiet_proc, quiet_session;
};

static struct daemon d; /* of this process */

static void tell(enum word w, uint32_t proc, int status, uint64_t epoch, const char *text)
{
	struct packet p = { .word = w, .proc = proc, .cluster = d.cluster, .status = status, .epoch = epoch };

	if (proc < RANKS && d.ranks[proc].ct)
		p.pid = ct_rank_pid(d.ranks[proc].ct);
	snprintf(p.text, sizeof(p.text), "%s", text ? text : "");
	if (send(d.ctl, &p, sizeof(p), MSG_NOSIGNAL) < 0)
		_exit(0);
}

static uint32_t proc_of(const struct rank *r)
{
	return (uint32_t)(r - d.ranks);
}

static void plumb(struct rank *r, struct ct_plumbing *p)
{
	int in[2], out[2], ctl[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ctl) < 0)
		_exit(98);
	close(in[1]);
	p->rank_fd[CT_PLUMB_STDIN] = in[0];
	p->rank_fd[CT_PLUMB_STDOUT] = out[1];
	p->rank_fd[CT_PLUMB_CTL] = ctl[1];
	p->daemon_fd[CT_PLUMB_CTL] = ctl[0];
	r->out = out[0];
	r->ctl = ctl[0];
}

static void unplumb(struct rank *r)
{
	close(r->out);
	close(r->ctl);
	r->out = r->ctl = -1;
}

static void on_status(void *ctx, uint32_t events)
{
	struct rank *r = ctx;
	int status = 0;

	(void)events;
	if (!mig_rank_exited(d.mig, proc_of(r))) {
		gw_watch_remove(r->watch);
		r->watch = NULL;
		return;
	}
	if (ct_rank_reap(r->ct, &status) < 0)
		return;
	gw_watch_remove(r->watch);
	r->watch = NULL;
	tell(EXITED, proc_of(r), status, r->epoch, NULL);
	ct_rank_kill(r->ct);
	r->ct = NULL;
	r->is_here = false;
	unplumb(r);
}

static void watch_rank(struct rank *r)
{
	if (!r->watch && gw_loop_watch(d.loop, &r->watch, ct_rank_status_fd(r->ct), EPOLLIN, on_status, r) < 0)
		_exit(97);
}

static void later_quiet(void *ctx)
{
	(void)ctx;
	mig_session_quiet(d.mig, d.quiet_proc, d.quiet_session, 0, NULL, 1000, 2000, 0);
}

static int op_quiesce(void *ctx, void *rank, uint32_t session, uint64_t deadline_ms, struct gw_error *why)
{
	(void)ctx, (void)deadline_ms, (void)why;
	if (!d.is_slow_agent)
		return 1;
	d.quiet_proc = proc_of(rank);
	d.quiet_session = session;
	return gw_loop_defer(d.loop, later_quiet, NULL);
}

static json_t *op_export(void *ctx, void *rank, struct gw_error *why)
{
	(void)ctx, (void)why;
	return json_pack("{s:i, s:s}", "proc", (int)proc_of(rank), "text", "what the daemon knows");
}

static void op_given(void *ctx, void *rank, uint64_t epoch)
{
	struct rank *r = rank;

	(void)ctx, (void)epoch;
	r->is_here = false;
	gw_watch_remove(r->watch);
	r->watch = NULL;
}

static void op_stay(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool is_quiet)
{
	struct rank *r = rank;

	(void)ctx, (void)session, (void)is_quiet;
	r->is_here = true;
	r->epoch = epoch;
	watch_rank(r);
	tell(STAYED, proc_of(r), 0, epoch, NULL);
}

static void op_left(void *ctx, void *rank, uint32_t to, uint64_t epoch)
{
	struct rank *r = rank;

	(void)ctx, (void)to;
	r->ct = NULL;
	unplumb(r);
	tell(LEFT, proc_of(r), 0, epoch, NULL);
}

static void op_lost(void *ctx, void *rank, uint32_t to, const struct gw_error *why)
{
	struct rank *r = rank;

	(void)ctx, (void)to;
	r->ct = NULL;
	unplumb(r);
	tell(LOST, proc_of(r), why->code, 0, why->text);
}

static void op_finished(void *ctx, void *rank, uint32_t session, int status, const struct gw_error *why,
                        const json_t *measures)
{
	json_int_t proc = json_integer_value(json_object_get(measures, "rank"));
	char *text = json_dumps(measures, JSON_COMPACT);

	(void)ctx, (void)rank, (void)session;
	tell(FINISHED, (uint32_t)proc, status, 0, status < 0 ? why->text : text);
	free(text);
}

static int op_prepare(void *ctx, const struct mig_offer *offer, struct ct_plumbing *plumbing, cpu_set_t *cpus, void **rank,
                      struct gw_error *why)
{
	struct rank *r = offer->proc < RANKS ? &d.ranks[offer->proc] : NULL;

	(void)ctx;
	if (!r || r->ct)
		return gw_fail(why, -EEXIST, "rank %u is on cluster %u already", offer->proc, d.cluster);
	plumb(r, plumbing);
	sched_getaffinity(0, sizeof(*cpus), cpus);
	*rank = r;
	return 0;
}

static int op_import(void *ctx, void *rank, const json_t *state, struct gw_error *why)
{
	(void)ctx;
	if (json_integer_value(json_object_get(state, "proc")) != (json_int_t)proc_of(rank))
		return gw_fail(why, -EPROTO, "the state is of another rank");
	return 0;
}

static void op_discard(void *ctx, void *rank)
{
	(void)ctx;
	unplumb(rank);
}

static int op_arriving(void *ctx, void *rank, uint32_t session, uint64_t epoch, bool *has_agent, struct gw_error *why)
{
	(void)ctx, (void)rank, (void)session, (void)epoch, (void)why;
	*has_agent = d.is_slow_agent;
	d.quiet_session = session;
	return 0;
}

static void later_attached(void *ctx)
{
	mig_rank_attached(d.mig, proc_of(ctx), d.quiet_session, 0, 3000);
}

static void op_taken(void *ctx, void *rank, struct ct_rank *ct, uint64_t epoch)
{
	struct rank *r = rank;

	(void)ctx;
	r->ct = ct;
	r->epoch = epoch;
	r->is_here = true;
	watch_rank(r);
	tell(ARRIVED, proc_of(r), 0, epoch, NULL);
	if (d.is_slow_agent)
		gw_loop_defer(d.loop, later_attached, r);
}

static const struct mig_ops ops = {
	.quiesce = op_quiesce, .export_state = op_export, .given = op_given, .stay = op_stay, .left = op_left,
	.lost = op_lost, .finished = op_finished, .prepare = op_prepare, .import_state = op_import, .discard = op_discard,
	.arriving = op_arriving, .taken = op_taken,
};

static int address(void *ctx, uint32_t cluster, char *buf, size_t cap)
{
	(void)ctx;
	if (cluster >= DAEMONS)
		return -ENOENT;
	snprintf(buf, cap, "%s/%u", d.dir, cluster);
	return 0;
}

static void spawn(const struct packet *p)
{
	struct rank *r = &d.ranks[p->proc];
	char program[512], file[128], mib[16];
	char *argv[] = { program, file, mib, NULL }, *envp[] = { "PATH=/usr/bin:/bin", NULL };
	struct ct_spawn s = { .argv = argv, .envp = envp, .cwd = "/tmp", .ns_pid = (pid_t)(4000 + p->proc) };
	struct gw_error why = { 0 };
	const char *top = getenv("top_builddir");
	int code;

	for (int i = 0; i < CT_PLUMB_MAX; i++)
		s.plumbing.rank_fd[i] = s.plumbing.number_in_rank[i] = s.plumbing.daemon_fd[i] = -1;
	snprintf(program, sizeof(program), "%s/migration/test_mover", top ? top : ".");
	snprintf(file, sizeof(file), "%s/%u", d.dir, p->proc);
	snprintf(mib, sizeof(mib), "%d", p->status);
	plumb(r, &s.plumbing);
	s.plumbing.number_in_rank[CT_PLUMB_STDIN] = 0;
	s.plumbing.number_in_rank[CT_PLUMB_STDOUT] = 1;
	s.plumbing.number_in_rank[CT_PLUMB_CTL] = CTL_FD;
	code = ct_rank_spawn(&r->ct, &s, &why);
	for (int i = 0; i < CT_PLUMB_MAX; i++)
		if (s.plumbing.rank_fd[i] >= 0)
			close(s.plumbing.rank_fd[i]);
	if (code < 0) {
		r->ct = NULL;
		unplumb(r);
	} else {
		r->epoch = 1;
		r->is_here = true;
		watch_rank(r);
	}
	tell(SPAWNED, p->proc, code, 1, why.text);
}

static void on_controller(void *ctx, uint32_t events)
{
	struct gw_error why = { 0 };
	struct packet p;
	struct rank *r;
	char *text;
	int code;

	(void)ctx, (void)events;
	if (recv(d.ctl, &p, sizeof(p), 0) != (ssize_t)sizeof(p))
		_exit(0);
	r = &d.ranks[p.proc % RANKS];
	switch (p.word) {
	case SPAWN:
		spawn(&p);
		break;
	case MOVE: {
		struct mig_request req = { .proc = p.proc, .rank = r->ct, .owner = r, .epoch = r->epoch,
		                           .to_cluster = p.cluster, .has_exited = !r->ct };

		code = mig_session_start(d.mig, &req, NULL, &why);
		tell(code < 0 ? REFUSED : STARTED, p.proc, code, 0, why.text);
		break;
	}
	case CANCEL:
		code = mig_session_cancel(d.mig, p.proc, &why);
		if (code < 0)
			tell(REFUSED, p.proc, code, 0, why.text);
		break;
	case DEAD:
		mig_peer_dead(d.mig, p.cluster, p.incarnation);
		break;
	case SHUTDOWN:
		mig_shutdown(d.mig);
		break;
	case STALL: /* from now on as with an agent that answers later */
		d.is_slow_agent = true;
		break;
	case LOOK: {
		const struct mig_counters *n = mig_counters(d.mig);
		json_t *all = mig_sessions_json(d.mig), *o;

		o = json_pack("{s:o, s:I, s:I, s:I}", "sessions", all, "bad_events", (json_int_t)n->bad_events, "bad_frames",
		              (json_int_t)n->bad_frames, "reconnects", (json_int_t)n->reconnects);
		text = json_dumps(o, JSON_COMPACT);
		tell(LOOKED, p.proc, r->is_here, r->epoch, text);
		free(text);
		json_decref(o);
		break;
	}
	default:
		_exit(96);
	}
}

static void on_connection(void *ctx, uint32_t events)
{
	int fd = gw_accept_unix(d.listener, NULL);

	(void)ctx, (void)events;
	if (fd >= 0)
		mig_accept(d.mig, fd);
}

__attribute__((noreturn)) static void daemon_main(int ctl, uint32_t cluster, uint64_t incarnation, const char *dir,
                                                  const char *fault)
{
	struct mig_config c = { .job = JOB, .cluster = cluster, .incarnation = incarnation, .ops = &ops, .address = address,
	                        .retry_ms = 200, .transfer_ms = 30000 };
	struct gw_watch *w;
	struct gw_error why = { 0 };
	char name[128];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGALRM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	alarm(0);
	if (fault)
		setenv("GODWIT_FAULT", fault, 1);
	else
		unsetenv("GODWIT_FAULT");
	snprintf(name, sizeof(name), "daemon %u", cluster);
	gw_log_init(name);
	d.ctl = ctl;
	d.cluster = cluster;
	d.incarnation = incarnation;
	snprintf(d.dir, sizeof(d.dir), "%s", dir);
	snprintf(name, sizeof(name), "%s/%u", dir, cluster);
	d.listener = gw_listen_unix(name, &why);
	if (d.listener < 0 || gw_loop_create(&d.loop) < 0 || mig_create(&d.mig, d.loop, &c, &why) < 0 ||
	    gw_loop_watch(d.loop, &w, d.listener, EPOLLIN, on_connection, NULL) < 0 ||
	    gw_loop_watch(d.loop, &w, ctl, EPOLLIN, on_controller, NULL) < 0) {
		fprintf(stderr, "# daemon %u: %s\n", cluster, why.text);
		_exit(95);
	}
	tell(LOOKED, 0, 0, 0, "up");
	gw_loop_run(d.loop);
	_exit(0);
}

/* ---- the controller -------------------------------------------------------------------------------------------------- */

struct world {
	pid_t pid[DAEMONS];
	int ctl[DAEMONS];
	uint64_t incarnation[DAEMONS];
	uint64_t epoch[RANKS];
	uint32_t at[RANKS];
	struct packet said[64]; /* read, and not yet heard */
	unsigned n_said;
	char dir[64];
};

static void say(struct world *w, unsigned to, enum word word, uint32_t proc, uint32_t cluster, int status)
{
	struct packet p = { .word = word, .proc = proc, .cluster = cluster, .status = status,
	                    .incarnation = cluster < DAEMONS ? w->incarnation[cluster] : 0 };

	if (w->pid[to])
		send(w->ctl[to], &p, sizeof(p), MSG_NOSIGNAL);
}

/* What the head does when a daemon dies: everybody else hears of it. */
static void bury(struct world *w, unsigned i)
{
	waitpid(w->pid[i], NULL, 0);
	close(w->ctl[i]);
	w->pid[i] = 0;
	w->ctl[i] = -1;
	for (unsigned j = 0; j < DAEMONS; j++)
		if (w->pid[j])
			say(w, j, DEAD, 0, i, 0);
}

/* Read all that has been said, until a whole round brings nothing. The directory is kept at once (the highest epoch wins):
 * an arrival is said before the end of its session, but by another daemon, and must not be heard after it. */
static void listen_to_all(struct world *w)
{
	unsigned before;

	do {
		before = w->n_said;
		for (unsigned i = 0; i < DAEMONS; i++)
			while (w->pid[i] && w->n_said < GW_ARRAY_LEN(w->said)) {
				struct packet *p = &w->said[w->n_said];
				ssize_t n = recv(w->ctl[i], p, sizeof(*p), MSG_DONTWAIT);

				if (n < 0 && (errno == EAGAIN || errno == EINTR))
					break;
				if (n != (ssize_t)sizeof(*p)) {
					bury(w, i);
					*p = (struct packet){ .word = DIED, .cluster = i };
				} else if ((p->word == ARRIVED || p->word == STAYED || p->word == SPAWNED) &&
				           p->epoch >= w->epoch[p->proc]) {
					w->epoch[p->proc] = p->epoch;
					w->at[p->proc] = p->cluster;
				}
				w->n_said++;
			}
	} while (w->n_said != before);
}

/* The next word of any daemon */
static bool hear(struct world *w, struct packet *p, int timeout_ms)
{
	uint64_t end = gw_now_ns() + (uint64_t)timeout_ms * 1000000;

	for (;;) {
		struct pollfd f[DAEMONS];
		uint64_t now = gw_now_ns();

		listen_to_all(w);
		if (w->n_said) {
			*p = w->said[0];
			w->n_said--;
			memmove(w->said, w->said + 1, w->n_said * sizeof(w->said[0]));
			return true;
		}
		for (unsigned i = 0; i < DAEMONS; i++)
			f[i] = (struct pollfd){ w->ctl[i], POLLIN, 0 };
		if (now >= end || poll(f, DAEMONS, (int)((end - now) / 1000000) + 1) <= 0)
			return false;
	}
}

static bool hear_word(struct world *w, enum word word, uint32_t proc, struct packet *p)
{
	while (hear(w, p, WAIT_MS))
		if (p->word == word && p->proc == proc)
			return true;
	return false;
}

static void world_start(struct world *w, const char *fault0, const char *fault1, const char *fault2)
{
	const char *faults[DAEMONS] = { fault0, fault1, fault2 };
	struct packet p;

	memset(w, 0, sizeof(*w));
	snprintf(w->dir, sizeof(w->dir), "/tmp/mig-test-XXXXXX");
	if (!mkdtemp(w->dir))
		tap_bail("no directory: %s", strerror(errno));
	fflush(stdout);
	for (unsigned i = 0; i < DAEMONS; i++) {
		int sv[2];

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0 ||
		    getrandom(&w->incarnation[i], sizeof(w->incarnation[i]), 0) < 0)
			tap_bail("no socket: %s", strerror(errno));
		w->incarnation[i] |= 1;
		w->pid[i] = fork();
		if (w->pid[i] == 0) {
			for (unsigned j = 0; j < i; j++)
				close(w->ctl[j]);
			close(sv[0]);
			daemon_main(sv[1], i, w->incarnation[i], w->dir, faults[i]);
		}
		close(sv[1]);
		w->ctl[i] = sv[0];
	}
	for (unsigned i = 0; i < DAEMONS; i++)
		if (!hear(w, &p, WAIT_MS) || p.word != LOOKED)
			tap_bail("a daemon did not start");
}

static void file_of(const struct world *w, uint32_t proc, char *path, size_t cap)
{
	snprintf(path, cap, "%s/%u", w->dir, proc);
}

static void world_stop(struct world *w)
{
	char path[128];

	for (unsigned i = 0; i < DAEMONS; i++)
		if (w->pid[i]) {
			kill(w->pid[i], SIGKILL);
			waitpid(w->pid[i], NULL, 0);
			close(w->ctl[i]);
		}
	for (uint32_t i = 0; i < RANKS; i++) {
		file_of(w, i, path, sizeof(path));
		unlink(path);
	}
	rmdir(w->dir);
}

static off_t size_of(const struct world *w, uint32_t proc)
{
	struct stat st;
	char path[128];

	file_of(w, proc, path, sizeof(path));
	return stat(path, &st) == 0 ? st.st_size : -1;
}

/* The file must grow by itself: wait for it, with a deadline. */
static bool grows(const struct world *w, uint32_t proc)
{
	uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull;
	off_t before = size_of(w, proc);

	while (gw_now_ns() < end) {
		struct timespec t = { 0, 2000000 };

		if (size_of(w, proc) >= before + 64)
			return true;
		nanosleep(&t, NULL);
	}
	return false;
}

/* How many processes run the program with this file? Those under an end that is on its way count until they are gone. */
static int copies(const struct world *w, uint32_t proc)
{
	char file[128], path[300], line[1024];
	DIR *dir = opendir("/proc");
	struct dirent *e;
	int n = 0;

	file_of(w, proc, file, sizeof(file));
	while (dir && (e = readdir(dir))) {
		ssize_t len;
		int fd;

		snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		if (e->d_name[0] < '0' || e->d_name[0] > '9' || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
			continue;
		len = read(fd, line, sizeof(line) - 1);
		close(fd);
		for (ssize_t i = 0; i + (ssize_t)strlen(file) < len; i++)
			if (!memcmp(line + i, file, strlen(file) + 1)) {
				n++;
				break;
			}
	}
	if (dir)
		closedir(dir);
	return n;
}

static int settled_copies(const struct world *w, uint32_t proc, int want)
{
	uint64_t end = gw_now_ns() + WAIT_MS * 1000000ull;
	int n = copies(w, proc);

	while (n != want && gw_now_ns() < end) {
		struct timespec t = { 0, 2000000 };

		nanosleep(&t, NULL);
		n = copies(w, proc);
	}
	return n;
}

/* 0, 1, 2, ... and nothing else */
static bool in_order(const struct world *w, uint32_t proc)
{
	char path[128];
	uint64_t n, want = 0;
	FILE *f;
	bool good = true;

	file_of(w, proc, path, sizeof(path));
	f = fopen(path, "rb");
	while (f && good && fread(&n, sizeof(n), 1, f) == 1) {
		good = n == want;
		if (!good)
			diag("rank %u: number %llu where %llu should be", proc, (unsigned long long)n, (unsigned long long)want);
		want++;
	}
	if (f)
		fclose(f);
	return good && want > 0;
}

static bool spawn_at(struct world *w, unsigned cluster, uint32_t proc, int mib)
{
	struct packet p;

	say(w, cluster, SPAWN, proc, cluster, mib);
	if (!hear_word(w, SPAWNED, proc, &p) || p.status < 0) {
		diag("rank %u was not started: %s", proc, p.text);
		return false;
	}
	return grows(w, proc);
}

static void one_lives(struct world *w, uint32_t proc, const char *what)
{
	bool good = settled_copies(w, proc, 1) == 1 && grows(w, proc) && in_order(w, proc) && copies(w, proc) == 1;

	if (!good)
		diag("%d copies, file of %lld bytes", copies(w, proc), (long long)size_of(w, proc));
	ok(good, "%s: exactly one copy, and it goes on from where it was", what);
}

static void none_lives(struct world *w, uint32_t proc, const char *what)
{
	ok(settled_copies(w, proc, 0) == 0 && in_order(w, proc), "%s: no copy is left, none was set back", what);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------- */

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
	say(&w, 0, MOVE, 0, 1, 0);
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

static void test_faults(void)
{
	static const char *const before_source[] = { "mig.src.prepared", "mig.src.quiet", "mig.src.frozen", "mig.src.sending",
	                                             "mig.src.ready" };
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
	say(&w, 0, MOVE, 0, 1, 0);
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
	say(&w, 0, MOVE, 0, 1, 0);
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
	say(&w, 0, MOVE, 0, 1, 0);
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
	int moved = 0, stayed = 0, refused = 0, flying = 0, asked = 0, max_flying = 0;
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
				say(&w, w.at[i], MOVE, i, (w.at[i] + 1 + (uint32_t)random() % 2) % DAEMONS, 0);
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
	test_moves();
	test_refusals();
	test_faults();
	test_exit_while_moving();
	test_kill_before_given();
	test_kill_shell(false);
	test_kill_shell(true);
	test_storm((unsigned)time(NULL), 80);
	return tap_done();
}
