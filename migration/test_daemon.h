/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * migration/test_daemon.h: a daemon for tests of sessions: a loop, a struct mig, real containers, and little else.
 *
 * It does what a controller says over a socket (test_world.h), and tells it what its sessions come to.
 */
#ifndef MIG_TEST_DAEMON_H
#define MIG_TEST_DAEMON_H

#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "migration/migration.h"
#include "runtime/base/link.h"

#define DAEMONS 3
#define RANKS   6
#define CTL_FD  63
#define JOB     77u

/* ---- what controller and daemons say to each other: one packet each ------------------------------------------------- */

enum word {
	/* to a daemon */
	SPAWN = 1, MOVE, DEAD, LOOK, CANCEL, SHUTDOWN, STALL,
	/* from a daemon */
	SPAWNED = 64, STARTED, REFUSED, FINISHED, ARRIVED, STAYED, LEFT, LOST, STARVED, EXITED, LOOKED,
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

static void op_starved(void *ctx, void *rank, uint32_t from, const struct gw_error *why)
{
	struct rank *r = rank;

	(void)ctx, (void)from;
	ct_rank_end(r->ct);
	tell(STARVED, proc_of(r), why->code, 0, why->text);
}

static const struct mig_ops ops = {
	.quiesce = op_quiesce, .export_state = op_export, .given = op_given, .stay = op_stay, .left = op_left,
	.lost = op_lost, .finished = op_finished, .prepare = op_prepare, .import_state = op_import, .discard = op_discard,
	.arriving = op_arriving, .taken = op_taken, .starved = op_starved,
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
		                           .to_cluster = p.cluster, .has_exited = !r->ct, .how.technique = (enum mig_technique)(p.status & 0x7f),
		                           .how.is_plain = p.status & 0x80,
		                           .how.bandwidth = (uint64_t)(p.status >> 8) * 1000000 };

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
	                        .retry_ms = 200, .transfer_ms = 30000, .may_hurry = true };
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

#endif
