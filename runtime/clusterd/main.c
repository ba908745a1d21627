/* SPDX-License-Identifier: BSD-2-Clause */
/* godwitd: arguments, the link to the head, dispatch of what the head says, the end. */
#include "runtime/clusterd/clusterd.h"
#include "runtime/pool/keeper.h"

#include <argp.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* ---- the end --------------------------------------------------------------------------------------------------- */

void clusterd_end(struct clusterd *d, int code)
{
	if (d->is_ending)
		return;
	d->is_ending = true;
	moves_shutdown(d);
	gw_list_for_safe(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->state == RANK_HERE && (!moves_is_busy(r) || mig_rank_lacks_pages(d->mig, r->proc))) {
			rank_unwatch_status(r);
			ct_rank_kill(r->ct);
			r->ct = NULL;
			streams_drain(r); /* what it wrote before it died belongs to its output */
		}
	}
	gw_loop_stop(d->loop, code);
}

void clusterd_fatal(struct clusterd *d, const char *fmt, ...)
{
	char text[768];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	gw_log(d->head ? GW_INFO : GW_ERROR, "%s", text); /* the head says it */
	if (d->head)
		gw_link_send_json(d->head, json_pack("{s:s, s:s}", "op", "fatal", "text", text));
	clusterd_end(d, 1);
}

/* ---- start ----------------------------------------------------------------------------------------------------- */

/* A limit of file sizes is meant for the files of ranks, and they keep it; the kernel counts the segment as one too. */
static int create_segment(struct clusterd *d, struct gw_error *why)
{
	struct rlimit was = { RLIM_INFINITY, RLIM_INFINITY }, more;
	int fd;

	getrlimit(RLIMIT_FSIZE, &was);
	more = (struct rlimit){ was.rlim_max, was.rlim_max };
	setrlimit(RLIMIT_FSIZE, &more);
	/* of one size on all hosts, with room for those that come later */
	fd = noc_segment_create_roomy(d->job, d->size, d->room - d->size, RT_CLUSTERS_MAX, RT_CLUSTERS_MAX, why);
	setrlimit(RLIMIT_FSIZE, &was);
	return fd;
}

static int enter_segment(struct clusterd *d, int fd, struct gw_error *why)
{
	struct noc_cluster_entry *c;
	int code;

	d->segment_fd = fd >= 0 ? fd : create_segment(d, why);
	if (d->segment_fd < 0)
		return d->segment_fd;
	code = noc_segment_map(&d->segment, d->segment_fd, NULL, why);
	if (code < 0)
		return code;
	if (d->cluster >= d->segment.head->clusters || d->domain >= d->segment.head->domains)
		return gw_fail(why, -EINVAL, "the segment has no place for cluster %u in domain %u", d->cluster, d->domain);
	c = &d->segment.clusters[d->cluster];
	atomic_store_explicit(&c->domain, d->domain, memory_order_relaxed);
	atomic_store_explicit(&c->cores, d->cores, memory_order_relaxed);
	/* clusters of one domain have the same cores: whoever comes last writes the same number */
	atomic_store_explicit(&d->segment.domains[d->domain].cores, d->cores, memory_order_relaxed);
	/* release: who sees it up sees its cores; read by daemons and ranks */
	atomic_store_explicit(&c->is_up, 1, memory_order_release);
	return 0;
}

/* Of this host in the job's network; NULL: there is none */
static const char *own_address(const struct clusterd *d, const json_t *msg)
{
	return d->join.is_joined ? d->join.own_address : json_string_value(json_object_get(msg, "address"));
}

/* For tests: GODWIT_CPU_HIDE=avx2@1,fma@1 makes the processor of cluster 1 look as if it had neither. */
static void hide_features(uint32_t cluster)
{
	const char *list = getenv("GODWIT_CPU_HIDE");
	char word[128];

	for (const char *at = list ? list : ""; *at; at += strcspn(at, ","), at += *at == ',') {
		char *where;

		snprintf(word, sizeof(word), "%.*s", (int)strcspn(at, ","), at);
		where = strchr(word, '@');
		if (where)
			*where++ = '\0';
		if ((!where || strtoul(where, NULL, 10) == cluster) && ct_cpu_hide(word) < 0)
			gw_log(GW_WARN, "GODWIT_CPU_HIDE: '%s' is not the name of a processor feature", word);
	}
}

static void do_start(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	int cluster, domain, size, room, universe, given = -1;
	json_int_t job, incarnation;
	const char *kvsname;
	struct gw_error why = { 0 };
	const char *host = json_string_value(json_object_get(msg, "hostname"));
	char who[80], features[CT_CPU_TEXT];
	struct ct_cpu cpu;

	if (d->is_started || json_unpack(msg, "{s:i, s:i, s:I, s:i, s:i, s:s, s:i, s:I}", "cluster", &cluster, "domain", &domain, "job",
	                                  &job, "size", &size, "room", &room, "kvsname", &kvsname, "universe", &universe, "incarnation",
	                                  &incarnation) < 0 || size < 1 || room < size) {
		clusterd_fatal(d, "the head's 'start' is malformed");
		return;
	}
	measure_begin();
	d->is_started = true;
	d->job = (uint32_t)job;
	d->cluster = (uint32_t)cluster;
	d->domain = (uint32_t)domain;
	d->room = (uint32_t)room;
	d->incarnation = (uint64_t)incarnation;
	d->is_restarting = json_is_true(json_object_get(msg, "restarting"));
	inherit_take(d, json_object_get(msg, "inherit"));
	snprintf(who, sizeof(who), "godwitd %u", d->cluster);
	gw_event_init(who, host);
	if (host)
		snprintf(who, sizeof(who), "godwitd %u on %.40s", d->cluster, host);
	gw_log_init(who);
	if (network_read(d, own_address(d, msg), msg) < 0) {
		clusterd_fatal(d, "the head's 'start' is malformed: its network");
		return;
	}
	if (d->is_networked)
		join_fence(d);
	movable_read_reconnecting(json_object_get(msg, "reconnecting"));
	d->heard = calloc(d->room, sizeof(*d->heard)); /* what is not used is never touched */
	if (!d->heard || place_take(d, msg, &why) < 0) {
		clusterd_fatal(d, "cluster %u cannot start: %s", d->cluster, why.text[0] ? why.text : "out of memory");
		return;
	}
	if (n_fds) {
		given = fds[0];
		fds[0] = -1;
	} else if (join_has_segment(&d->join)) {
		given = join_take_segment(&d->join, &why);
		if (given < 0) {
			clusterd_fatal(d, "cluster %u cannot start: %s", d->cluster, why.text);
			return;
		}
	}
	if (worlds_add(d, (uint32_t)size, kvsname, universe) < 0 ||
	    enter_segment(d, given, &why) < 0 || moves_init(d, &why) < 0 ||
	    far_init(d, own_address(d, msg), &why) < 0) {
		clusterd_fatal(d, "cluster %u cannot start: %s", d->cluster, why.text[0] ? why.text : "out of memory");
		return;
	}
	d->room = d->segment.head->names;
	agent_look_at_page(d);
	gw_fault("rt.join.start");
	/* its ranks are bound to its cores by their own spawn; the daemon itself stays there too */
	if (sched_setaffinity(0, sizeof(d->cpus), &d->cpus) < 0)
		gw_log(GW_WARN, "cannot bind to the cluster's cores: %s", strerror(errno));
	join_give_segment(&d->join, d->segment_fd);
	hide_features(d->cluster);
	ct_cpu_host(&cpu);
	gw_link_send_json_fds(d->head, json_pack("{s:s, s:s, s:i, s:o, s:s, s:i, s:i}", "op", "up", "cpu",
	                                         ct_cpu_print(&cpu, features), "pid", (int)getpid(), "place", place_json(d),
	                                         "address", d->is_networked ? own_address(d, msg) : "", "port", (int)d->far_port, "room", (int)d->room),
	                      &d->segment_fd, given < 0 && !d->join.is_joined ? 1 : 0);
	gw_log(GW_INFO, "up, process %d, %u processors", (int)getpid(), d->cores);
	gw_event("cluster.up", "{s:i, s:i}", "cluster", cluster, "cores", (int)d->cores);
}

/* ---- what the head says ---------------------------------------------------------------------------------------- */

static void do_signal(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t rank = (uint32_t)json_integer_value(json_object_get(msg, "rank"));
	int sig = (int)json_integer_value(json_object_get(msg, "signal"));
	struct rank *r = rank_find(d, rank);

	(void)fds; (void)n_fds;
	if (r)
		rank_signal(r, sig);
	else
		gw_link_send_json(d->head, json_pack("{s:s, s:i, s:i}", "op", "undelivered", "rank", (int)rank, "signal", sig));
}

static void do_name(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	agent_heard(d, msg);
}

static void do_guests(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	guests_heard(d, msg);
}

static void do_daemon(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	far_heard(d, msg);
}

static void do_end(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	clusterd_end(d, 0);
}

static void do_barrier_done(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	worlds_barrier_done(d, msg);
}

static void do_world(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	worlds_heard(d, msg);
}

static void do_pmi_answer(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	struct rank *r = rank_find(d, (uint32_t)json_integer_value(json_object_get(msg, "rank")));

	(void)fds; (void)n_fds;
	/* a rank that has left asks again from where it lives now, one whose move fails asks again here */
	if (r && !r->is_exported)
		pmi_session_answer(r->pmi, (uint64_t)json_integer_value(json_object_get(msg, "id")),
		                   json_object_get(msg, "answer"));
}

static void do_stdin_eof(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	struct rank *r = rank_find(d, (uint32_t)json_integer_value(json_object_get(msg, "rank")));

	(void)fds; (void)n_fds;
	if (r)
		streams_input_eof(r, (uint64_t)json_integer_value(json_object_get(msg, "offset")));
}

static void do_output_ack(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	struct rank *r = rank_find(d, (uint32_t)json_integer_value(json_object_get(msg, "rank")));

	(void)fds; (void)n_fds;
	if (r)
		streams_acked(r, (uint32_t)json_integer_value(json_object_get(msg, "stream")),
		              (uint64_t)json_integer_value(json_object_get(msg, "offset")));
}

static void do_migrate(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	moves_request(d, (uint64_t)json_integer_value(json_object_get(msg, "id")),
	              (uint32_t)json_integer_value(json_object_get(msg, "rank")),
	              (uint32_t)json_integer_value(json_object_get(msg, "to")),
	              (uint64_t)json_integer_value(json_object_get(msg, "timeout_ms")), msg);
}

static void do_cancel(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	moves_cancel(d, (uint64_t)json_integer_value(json_object_get(msg, "id")));
}

static void do_cluster_lost(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t lost = (uint32_t)json_integer_value(json_object_get(msg, "cluster"));

	(void)fds; (void)n_fds;
	if (lost < d->segment.head->clusters) {
		struct noc_cluster_entry *c = &d->segment.clusters[lost];
		/* exchange: of all daemons that hear this verdict exactly one takes its ranks out of the domain's load */
		uint32_t ranks = atomic_exchange_explicit(&c->ranks, 0, memory_order_relaxed);
		uint32_t domain = atomic_load_explicit(&c->domain, memory_order_relaxed);

		atomic_store_explicit(&c->is_up, 0, memory_order_release);
		if (domain < d->segment.head->domains)
			atomic_fetch_sub_explicit(&d->segment.domains[domain].ranks, ranks, memory_order_relaxed);
	}
	moves_peer_dead(d, lost, (uint64_t)json_integer_value(json_object_get(msg, "incarnation")));
	far_left(d, lost);
	gw_link_send_json(d->head, json_pack("{s:s, s:i}", "op", "cluster-lost-ack", "cluster", (int)lost));
}

/* In order: whatever was given to it, it has taken. */
static void do_cluster_left(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	far_left(d, (uint32_t)json_integer_value(json_object_get(msg, "cluster")));
}

static void do_network(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	network_take_up(d, own_address(d, msg), msg);
}

static void do_share(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	join_share_segment(d, (uint32_t)json_integer_value(json_object_get(msg, "cluster")));
}

static void do_suspend(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	suspend_begin(d, (uint64_t)json_integer_value(json_object_get(msg, "id")));
}

static void do_suspend_stop(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	suspend_stop(d, (uint64_t)json_integer_value(json_object_get(msg, "id")));
}

static void do_checkpoint(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	const char *dir = json_string_value(json_object_get(msg, "dir"));

	(void)fds; (void)n_fds;
	checkpoint_begin(d, (uint64_t)json_integer_value(json_object_get(msg, "id")), dir ? dir : "");
}

static void do_restart(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	restart_begin(d, msg);
}

static void do_restart_cut(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	restart_cut(d);
}

static void do_restart_go(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	restart_go(d);
}

static void do_resume(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	suspend_resume(d);
}

static void do_leave(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	leave_begin(d);
}

static void do_status(struct clusterd *d, json_t *msg, int *fds, size_t n_fds)
{
	json_t *ranks = json_array(), *answer = measure_cluster_json(d);

	(void)fds; (void)n_fds;
	gw_list_for(e, &d->ranks) {
		struct rank *r = gw_list_entry(e, struct rank, node);

		if (r->state == RANK_HERE)
			json_array_append_new(ranks, rank_status_json(r, json_is_true(json_object_get(msg, "movable"))));
	}
	json_object_update_new(answer, json_pack("{s:s, s:O, s:o, s:o}", "op", "status-answer", "id", json_object_get(msg, "id"), "ranks", ranks,
	                                         "sessions", moves_sessions_json(d)));
	gw_link_send_json(d->head, answer);
}

static const struct head_op {
	const char *name;
	void (*handle)(struct clusterd *d, json_t *msg, int *fds, size_t n_fds);
	bool before_start;
} head_ops[] = {
	{ "start", do_start, true },
	{ "name", do_name, false },
	{ "guests", do_guests, false },
	{ "daemon", do_daemon, false },
	{ "signal", do_signal, false },
	{ "end", do_end, true },
	{ "barrier-done", do_barrier_done, false },
	{ "world", do_world, false },
	{ "pmi-answer", do_pmi_answer, false },
	{ "stdin-eof", do_stdin_eof, false },
	{ "output-ack", do_output_ack, false },
	{ "migrate", do_migrate, false },
	{ "cancel", do_cancel, false },
	{ "cluster-lost", do_cluster_lost, false },
	{ "cluster-left", do_cluster_left, false },
	{ "network", do_network, false },
	{ "share", do_share, false },
	{ "suspend", do_suspend, false },
	{ "suspend-stop", do_suspend_stop, false },
	{ "checkpoint", do_checkpoint, false },
	{ "restart", do_restart, false },
	{ "restart-cut", do_restart_cut, false },
	{ "restart-go", do_restart_go, false },
	{ "resume", do_resume, false },
	{ "leave", do_leave, false },
	{ "status", do_status, false },
	{ "measure", measure_answer, false },
	{ "wished", wishes_answered, false },
};

static void on_head_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct clusterd *d = ctx;

	(void)l;
	for (size_t i = 0; op && !d->is_ending && i < GW_ARRAY_LEN(head_ops); i++)
		if (strcmp(op, head_ops[i].name) == 0) {
			if (!head_ops[i].before_start)
				launches_settle(d); /* it may be about one of them */
			if (d->is_started || head_ops[i].before_start)
				head_ops[i].handle(d, msg, fds, n_fds);
			return;
		}
	if (!d->is_ending)
		gw_log(GW_WARN, "the head says '%s', which is unknown here", op ? op : "(nothing)");
}

static void on_head_frame(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds,
                          size_t n_fds)
{
	struct clusterd *d = ctx;

	(void)l; (void)fds; (void)n_fds;
	if (d->is_ending || !d->is_started)
		return;
	if (type == RT_FRAME_LAUNCH) {
		rank_launch(d, payload, len);
	} else if (type == RT_FRAME_INPUT && len >= sizeof(struct rt_piece)) {
		const struct rt_piece *p = payload;
		struct rank *r;

		launches_settle(d);
		r = rank_find(d, p->rank);
		if (r)
			streams_input(r, p->offset, (const char *)(p + 1), len - sizeof(*p));
	} else if (type == RT_FRAME_IMAGE && len >= sizeof(struct rt_piece)) {
		restart_piece(d, payload, (const struct rt_piece *)payload + 1, len - sizeof(struct rt_piece));
	} else {
		gw_log(GW_WARN, "the head sends a frame of type %u and %zu bytes, which is unknown here", type, len);
	}
}

/* Without a head there is nobody to run for: kill -9 of mpirun must leave nothing behind. */
static void on_head_closed(struct gw_link *l, void *ctx, int error)
{
	struct clusterd *d = ctx;

	(void)l; (void)error;
	gw_log(GW_INFO, "the head is gone");
	clusterd_end(d, 1);
}

static const struct gw_link_ops head_link_ops = { .frame = on_head_frame, .json = on_head_json, .closed = on_head_closed };

static void on_signal(void *ctx, uint32_t events)
{
	struct clusterd *d = ctx;
	struct signalfd_siginfo si;

	(void)events;
	while (read(d->signal_fd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo == SIGPWR && d->head)
			gw_link_send_json(d->head, json_pack("{s:s}", "op", "notice"));
		else if (d->join.hosts && d->head)
			gw_link_send_json(d->head, json_pack("{s:s, s:i}", "op", "told", "signal", (int)si.ssi_signo));
		else if (si.ssi_signo == SIGTERM)
			clusterd_fatal(d, "the daemon of cluster %u (pid %d) was told to end by SIGTERM from process %u", d->cluster,
			               (int)getpid(), si.ssi_pid);
}

static int watch_signals(struct clusterd *d)
{
	static const int of_job[] = { SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH };
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* of the terminal: the head decides */
	signal(SIGHUP, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* EFBIG, and a sentence */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGPWR); /* this host goes away: somebody on it says so */
	for (size_t i = 0; i < GW_ARRAY_LEN(of_job) && d->join.hosts; i++) { /* to Slurm this daemon is the job's task */
		signal(of_job[i], SIG_DFL);
		sigaddset(&set, of_job[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return -errno;
	return gw_loop_watch(d->loop, &d->signals, d->signal_fd, EPOLLIN, on_signal, d);
}

/*
 * A user's limits are meant for the ranks, which get them as they were set. The daemon takes what the hard limit gives: a
 * rank costs it a dozen descriptors, and it must not die of a limit of memory, files' size or processor time.
 */
static void raise_limits(struct clusterd *d)
{
	static const __rlimit_resource_t raised[] = { RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA, RLIMIT_CPU };

	for (int i = 0; i < (int)RLIM_NLIMITS; i++)
		if (getrlimit((__rlimit_resource_t)i, &d->limits[i]) < 0)
			return;
	d->has_limits = true;
	for (size_t i = 0; i < GW_ARRAY_LEN(raised); i++) {
		struct rlimit more = d->limits[raised[i]];

		more.rlim_cur = more.rlim_max;
		if (raised[i] == RLIMIT_NOFILE && more.rlim_cur > 65536)
			more.rlim_cur = 65536 > d->limits[raised[i]].rlim_cur ? 65536 : d->limits[raised[i]].rlim_cur;
		if (setrlimit(raised[i], &more) < 0)
			gw_log(GW_WARN, "cannot raise limit %d: %s", (int)raised[i], strerror(errno));
	}
}

/* ---- arguments ------------------------------------------------------------------------------------------------- */

struct args { int head_fd; struct join join; struct keeper_args keeper; };

enum { OPTION_JOIN = 256, OPTION_JOB, OPTION_CLUSTER, OPTION_COUNT, OPTION_HOSTS, OPTION_SHARE, OPTION_POOL, OPTION_NUMBER,
       OPTION_INDEX, OPTION_HOST, OPTION_SLOTS, OPTION_TOWARD, OPTION_LOG };

static const struct argp_option options[] = {
	{ "head-fd", 'f', "FD", 0, "Connected socket of the job's head (set by mpirun)", 0 },
	{ "join", OPTION_JOIN, "ADDRESS:PORT,...", 0, "Where mpirun listens, on another host, by one or several ways; the job's secret is the first line of "
	  "standard input, whose end ends the daemon", 0 },
	{ "job", OPTION_JOB, "NUMBER", 0, "Of the job, in hexadecimal digits (with --join)", 0 },
	{ "cluster", OPTION_CLUSTER, "NUMBER", 0, "Of the first cluster of this host (with --join)", 0 },
	{ "count", OPTION_COUNT, "NUMBER", 0, "Clusters of this host; default 1 (with --join)", 0 },
	{ "hosts", OPTION_HOSTS, "A,B,...", 0, "Slurm starts daemons on all of them with the same words: --cluster is of the first, and "
	  "SLURMD_NODENAME tells which of them this one is", 0 },
	{ "share", OPTION_SHARE, NULL, 0, "The host has clusters of the job already, one of which hands over their shared memory "
	  "(with --join)", 0 },
	{ "pool", OPTION_POOL, "NAME", 0, "Be the keeper of a pool on this host, as 'godwit up' starts it", 0 },
	{ "number", OPTION_NUMBER, "NUMBER", 0, "Of the pool, in hexadecimal digits (with --pool)", 0 },
	{ "index", OPTION_INDEX, "NUMBER", 0, "Of the host in the pool (with --pool)", 0 },
	{ "host", OPTION_HOST, "NAME", 0, "Of the host, as the pool calls it (with --pool)", 0 },
	{ "slots", OPTION_SLOTS, "NUMBER", 0, "Of the host (with --pool)", 0 },
	{ "toward", OPTION_TOWARD, "HOST", 0, "Another host of the pool: it listens at the address by which that one sees it (with --pool)", 0 },
	{ "log", OPTION_LOG, "FILE", 0, "Where to write when it has left the streams of what started it (with --pool)", 0 },
	{ 0 }
};

static uint32_t parse_number(const char *arg, int base, uint32_t max, const char *what, struct argp_state *state)
{
	char *end;
	unsigned long n = strtoul(arg, &end, base);

	if (*end || !*arg || *arg == '-' || n > max)
		argp_error(state, "--%s=%s is not a number up to %u", what, arg, max);
	return (uint32_t)n;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;
	struct gw_error why = { 0 };
	char *end;

	switch (key) {
	case 'f':
		a->head_fd = (int)strtol(arg, &end, 10);
		if (*end || !*arg || fcntl(a->head_fd, F_GETFD) < 0)
			argp_error(state, "--head-fd=%s is not an open descriptor", arg);
		return 0;
	case OPTION_JOIN:
		if (join_parse(&a->join, arg, &why) < 0)
			argp_error(state, "--join: %s", why.text);
		a->join.is_joined = true;
		return 0;
	case OPTION_JOB:
		a->join.job = parse_number(arg, 16, UINT32_MAX, "job", state);
		return 0;
	case OPTION_CLUSTER:
		a->join.cluster = parse_number(arg, 10, 65535, "cluster", state);
		return 0;
	case OPTION_COUNT:
		a->join.count = parse_number(arg, 10, 4096, "count", state);
		return 0;
	case OPTION_HOSTS:
		a->join.hosts = arg;
		return 0;
	case OPTION_SHARE:
		a->join.is_sharing = true;
		return 0;
	case OPTION_POOL:
		a->keeper.name = arg;
		return 0;
	case OPTION_NUMBER:
		a->keeper.number = parse_number(arg, 16, UINT32_MAX, "number", state);
		return 0;
	case OPTION_INDEX:
		a->keeper.index = parse_number(arg, 10, 0x3fff, "index", state);
		return 0;
	case OPTION_HOST:
		a->keeper.host = arg;
		return 0;
	case OPTION_SLOTS:
		a->keeper.slots = parse_number(arg, 10, 1u << 20, "slots", state);
		return 0;
	case OPTION_TOWARD:
		a->keeper.toward = arg;
		return 0;
	case OPTION_LOG:
		a->keeper.log = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->keeper.name)
			return a->keeper.host && a->keeper.toward && a->keeper.slots ? 0 : (argp_error(state, "--pool needs --host, --toward and "
			       "--slots"), EINVAL);
		if (a->join.is_joined)
			return a->join.job && a->join.count ? 0 : (argp_error(state, "--join needs --job, and a --count above 0"), EINVAL);
		if (a->head_fd < 0)
			argp_error(state, "--head-fd is missing: godwitd is started by mpirun, not by hand");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = { options, parse_option, NULL, "godwitd - the daemon of one Godwit cluster", NULL, NULL,
	                          NULL };

int main(int argc, char **argv)
{
	struct args a = { .head_fd = -1, .join = { .count = 1, .segment_from = -1, .segment_listener = -1 } };
	struct gw_error why = { 0 };
	struct clusterd d = { .segment_fd = -1, .listener = -1, .signal_fd = -1 };
	int code;

	argp_parse(&argp, argc, argv, 0, NULL, &a);
	gw_log_init("godwitd");
	if (a.keeper.name)
		return keeper_main(&a.keeper);
	gw_prompt_set(0, true); /* a rank may stand still until we have had our turn; ranks do not inherit it */
	raise_limits(&d);
	if (a.join.is_joined && join_prepare(&a.join, &why) < 0) {
		fprintf(stderr, "godwitd: %s\n", why.text);
		return 1;
	}
	d.join = a.join;
	if (!a.join.is_joined)
		fcntl(a.head_fd, F_SETFD, FD_CLOEXEC);
	gw_list_init(&d.ranks);
	gw_list_init(&d.moves);
	gw_list_init(&d.launches);
	code = gw_loop_create(&d.loop);
	if (code == 0)
		code = watch_signals(&d);
	if (code == 0 && a.join.is_joined) {
		a.head_fd = join_connect(&d, &why);
		if (a.head_fd < 0) {
			fprintf(stderr, "godwitd: %s\n", why.text);
			return 1;
		}
		code = join_watch(&d);
	}
	if (code == 0)
		code = gw_link_create(&d.head, d.loop, a.head_fd, &head_link_ops, &d);
	if (code < 0) {
		fprintf(stderr, "godwitd: cannot start: %s\n", strerror(-code));
		return 1;
	}
	code = gw_loop_run(d.loop);
	gw_link_flush(d.head);
	moves_fini(&d);
	launches_fini(&d);
	gw_list_for_safe(e, &d.ranks)
		rank_destroy(gw_list_entry(e, struct rank, node));
	join_fini(&d.join);
	gw_link_destroy(d.head);
	worlds_fini(&d);
	free(d.binds);
	free(d.heard);
	free(d.bind_users);
	json_decref(d.cut_domains);
	noc_segment_unmap(&d.segment);
	gw_loop_destroy(d.loop);
	leave_linger(&d);
	return code;
}
