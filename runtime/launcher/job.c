/* SPDX-License-Identifier: BSD-2-Clause */
/* One job from its daemons' start to its exit status, and what a failure means for it. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define KILL_GRACE_MS 5000 /* after 'kill': a daemon that has not ended is killed itself */
#define TERM_GRACE_MS 8000 /* after a forwarded signal: ranks that have not ended are killed */

/* ---- the end ------------------------------------------------------------------------------------------------------- */

bool job_cluster_send(struct head *h, uint32_t cluster, json_t *msg)
{
	struct cluster *c = &h->clusters[cluster];

	if (!c->link || (c->state != CLUSTER_UP && c->state != CLUSTER_STARTING)) {
		json_decref(msg);
		return false;
	}
	return gw_link_send_json(c->link, msg) == 0;
}

static void check_all_ended(struct head *h)
{
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].link)
			return;
	gw_loop_stop(h->loop, 0);
}

static void on_kill_grace(void *ctx)
{
	struct head *h = ctx;

	h->grace = NULL;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		if (h->clusters[c].link && h->clusters[c].pid > 0 && !h->clusters[c].is_reaped)
			kill(h->clusters[c].pid, SIGKILL);
}

/* No rank runs on: with @op "shutdown" because all have ended, with "kill" because the job has failed. */
static void end_job(struct head *h, const char *op)
{
	if (h->is_ending)
		return;
	h->is_ending = true;
	gw_timer_cancel(h->grace);
	h->grace = NULL;
	gw_loop_timer(h->loop, &h->grace, KILL_GRACE_MS, 0, on_kill_grace, h);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		job_cluster_send(h, c, json_pack("{s:s}", "op", op));
	input_stop(h);
	check_all_ended(h);
}

static void note_code(struct head *h, int code)
{
	if (!h->has_exit_code)
		h->exit_code = code;
	h->has_exit_code = true;
}

/* The first failure names the exit status; what follows from it is not worth a word. */
void job_fail(struct head *h, int code, const char *fmt, ...)
{
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (h->is_ending)
		return;
	note_code(h, code);
	if (text[0])
		job_say(h, "mpirun: %s", text);
	gw_event("job.failed", "{s:i, s:s}", "code", h->exit_code, "text", text);
	end_job(h, "kill");
}

/* ---- daemons ------------------------------------------------------------------------------------------------------- */

static const char *describe_end(int wait_status, char *buf, size_t cap)
{
	if (WIFSIGNALED(wait_status))
		snprintf(buf, cap, "was killed by signal %d (%s)%s", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)),
		         WCOREDUMP(wait_status) ? ", core dumped" : "");
	else
		snprintf(buf, cap, "exited with status %d", WEXITSTATUS(wait_status));
	return buf;
}

/* Every surviving daemon has said which ranks it owns: what is still thought to be at @c is gone with it. */
static void decide_lost(struct head *h, struct cluster *c)
{
	char end[128], list[256] = "";
	uint32_t n = 0;
	size_t at = 0;

	for (uint32_t r = 0; r < h->size; r++) {
		output_skip_gaps(h, r);
		if (h->ranks[r].cluster != c->index || h->ranks[r].state == RANK_ENDED)
			continue;
		if (at < sizeof(list) - 16)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%u", n ? ", " : "", r);
		n++;
	}
	describe_end(c->wait_status, end, sizeof(end));
	tools_cluster_lost(h, c->index);
	if (n)
		job_fail(h, WIFSIGNALED(c->wait_status) ? 128 + WTERMSIG(c->wait_status) : 1,
		         "the daemon of cluster %u (pid %d) %s, and rank%s %s with it; ending the job", c->index, (int)c->pid, end,
		         n > 1 ? "s" : "", list);
	else if (!h->is_ending)
		job_say(h, "mpirun: the daemon of cluster %u (pid %d) %s; no rank lived there, the job goes on", c->index,
		        (int)c->pid, end);
}

static void lost_ack(struct head *h, uint32_t lost, uint32_t from)
{
	struct cluster *c;

	if (lost >= h->n_clusters || !h->clusters[lost].acks_due_from)
		return;
	c = &h->clusters[lost];
	if (!c->acks_due_from[from])
		return;
	c->acks_due_from[from] = false;
	if (--c->lost_acks_due == 0)
		decide_lost(h, c);
}

static void cluster_lost(struct head *h, struct cluster *c)
{
	kill(c->pid, SIGKILL); /* it has closed its link: whatever it is still doing, the verdict is final */
	if (!c->is_reaped && waitpid(c->pid, &c->wait_status, 0) == c->pid)
		c->is_reaped = true;
	c->state = CLUSTER_LOST;
	gw_event("cluster.lost", "{s:i, s:i}", "cluster", (int)c->index, "status", c->wait_status);
	c->acks_due_from = calloc(h->n_clusters, sizeof(bool));
	for (uint32_t i = 0; i < h->n_clusters; i++) {
		if (h->clusters[i].state == CLUSTER_UP && c->acks_due_from &&
		    job_cluster_send(h, i, json_pack("{s:s, s:i, s:I}", "op", "cluster-lost", "cluster", (int)c->index, "incarnation",
		                                     (json_int_t)c->incarnation))) {
			c->acks_due_from[i] = true;
			c->lost_acks_due++;
		}
		lost_ack(h, i, c->index); /* it will not answer for the ones that were lost before it */
	}
	if (c->lost_acks_due == 0)
		decide_lost(h, c);
}

static void on_cluster_closed(struct gw_link *l, void *ctx, int error)
{
	struct cluster *c = ctx;
	struct head *h = c->head;

	(void)error;
	gw_link_destroy(l);
	c->link = NULL;
	if (h->is_ending) {
		c->state = CLUSTER_ENDED;
		check_all_ended(h);
	} else {
		cluster_lost(h, c);
		check_all_ended(h);
	}
}

/* ---- launch -------------------------------------------------------------------------------------------------------- */

static void append(char **buf, size_t *len, const char *text)
{
	size_t n = strlen(text) + 1;
	char *bigger = realloc(*buf, *len + n);

	if (!bigger)
		abort(); /* a launcher without memory for its own command line */
	memcpy(bigger + *len, text, n);
	*buf = bigger;
	*len += n;
}

static int launch_rank(struct head *h, struct cluster *c, uint32_t rank, const struct strings *env, const char *cwd)
{
	const struct app *app = &h->spec->apps[h->ranks[rank].app];
	struct rt_launch l = { .rank = rank, .ns_pid = h->base_pid + rank, .has_stdin = rank == h->input.rank,
	                       .argc = (uint32_t)app->argv.n, .envc = (uint32_t)env->n, .appnum = h->ranks[rank].app };
	gw_autofree char *frame = malloc(sizeof(l));
	size_t len = sizeof(l);

	if (!frame)
		return -ENOMEM;
	memcpy(frame, &l, sizeof(l));
	append(&frame, &len, cwd);
	for (size_t i = 0; i < app->argv.n; i++)
		append(&frame, &len, app->argv.list[i]);
	for (size_t i = 0; i < env->n; i++)
		append(&frame, &len, env->list[i]);
	return gw_link_send(c->link, RT_FRAME_LAUNCH, frame, len, NULL, 0);
}

static void launch_on(struct head *h, struct cluster *c)
{
	uint32_t built_for = UINT32_MAX;
	struct strings env = { 0 };
	gw_autofree char *here = getcwd(NULL, 0);

	for (uint32_t r = 0; r < h->size; r++) {
		const struct app *app = &h->spec->apps[h->ranks[r].app];
		struct gw_error why = { 0 };
		int code;

		if (h->ranks[r].cluster != c->index)
			continue;
		if (built_for != h->ranks[r].app) {
			strings_fini(&env);
			if (env_build(&env, h->spec, app, &why) < 0) {
				job_fail(h, 1, "%s", why.text);
				break;
			}
			built_for = h->ranks[r].app;
		}
		code = launch_rank(h, c, r, &env, app->wdir ? app->wdir : here ? here : "/");
		if (code < 0) {
			job_fail(h, 1, "rank %u: its command line and environment cannot be sent to cluster %u: %s", r, c->index,
			         strerror(-code));
			break;
		}
	}
	strings_fini(&env);
}

static void send_start(struct head *h, struct cluster *c)
{
	json_t *cores = json_array();

	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET((size_t)i, &c->cores.cpus))
			json_array_append_new(cores, json_integer(i));
	gw_link_send_json_fds(c->link, json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:i, s:i, s:s, s:i, s:I, s:o}", "op", "start",
	                      "cluster", (int)c->index, "clusters", (int)h->n_clusters, "domain", (int)c->cores.domain, "domains",
	                      (int)h->n_domains, "job", (json_int_t)h->job, "names", (int)h->size, "size", (int)h->size, "kvsname",
	                      h->kvsname, "universe", (int)h->size, "incarnation", (json_int_t)c->incarnation, "cores", cores),
	                      &h->segment_fd, h->segment_fd >= 0 ? 1 : 0);
}

/* ---- what a daemon says -------------------------------------------------------------------------------------------- */

static struct rank *rank_of(struct head *h, json_t *msg, uint32_t *number)
{
	json_t *rank = json_object_get(msg, "rank");
	json_int_t r = json_integer_value(rank);

	if (!json_is_integer(rank) || r < 0 || r >= (json_int_t)h->size)
		return NULL;
	*number = (uint32_t)r;
	return &h->ranks[r];
}

static json_int_t number_of(json_t *msg, const char *key)
{
	return json_integer_value(json_object_get(msg, key));
}

static const char *text_of(json_t *msg, const char *key)
{
	const char *text = json_string_value(json_object_get(msg, key));

	return text ? text : "";
}

static void do_up(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;

	(void)msg;
	if (c->state != CLUSTER_STARTING)
		return;
	c->state = CLUSTER_UP;
	h->up++;
	if (n_fds && h->segment_fd < 0) { /* the first made the segment; now the others can start */
		h->segment_fd = fds[0];
		fds[0] = -1;
		for (uint32_t i = 0; i < h->n_clusters; i++)
			if (h->clusters[i].state == CLUSTER_STARTING)
				send_start(h, &h->clusters[i]);
	}
	launch_on(h, c);
}

static void do_launched(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	uint32_t n;
	struct rank *r = rank_of(h, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || r->state != RANK_WAITING)
		return;
	r->state = RANK_RUNNING;
	r->pid = (pid_t)number_of(msg, "pid");
	if (h->spec->is_verbose)
		job_say(h, "mpirun: rank %u runs on cluster %u as process %d", n, c->index, (int)r->pid);
	if (n == h->input.rank)
		input_start(h);
}

static void do_launch_failed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	int code = (int)number_of(msg, "code");

	(void)fds; (void)n_fds;
	/* as a shell says it: 127 not found, 126 found but not to be executed */
	job_fail(c->head, code == -ENOENT ? 127 : code == -EACCES || code == -ENOEXEC ? 126 : 1, "%s", text_of(msg, "text"));
}

static void do_attached(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (r)
		r->is_attached = true;
}

static void rank_failed(struct head *h, uint32_t n, struct rank *r, enum pmi_phase phase)
{
	char end[128];

	describe_end(r->status, end, sizeof(end));
	if (WIFSIGNALED(r->status)) {
		job_fail(h, 128 + WTERMSIG(r->status), "rank %u (pid %d, cluster %u) %s; ending the job", n, (int)r->pid, r->cluster,
		         end);
	} else if (WEXITSTATUS(r->status) == 0) {
		if (h->ended < h->size)
			job_fail(h, 1, "rank %u (pid %d, cluster %u) ended without calling MPI_Finalize; ending the job", n,
			         (int)r->pid, r->cluster);
	} else if (phase == PMI_FINALIZED) {
		note_code(h, WEXITSTATUS(r->status)); /* the others do not need it any more: let them finish */
	} else {
		job_fail(h, WEXITSTATUS(r->status), "rank %u (pid %d, cluster %u) %s%s", n, (int)r->pid, r->cluster, end,
		         h->ended < h->size ? "; ending the job" : "");
	}
}

static void do_exited(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	enum pmi_phase phase = (enum pmi_phase)number_of(msg, "phase");
	uint32_t n;
	struct rank *r = rank_of(h, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || r->state == RANK_ENDED)
		return;
	r->state = RANK_ENDED;
	r->status = (int)number_of(msg, "status");
	r->cluster = c->index;
	h->ended++;
	if (n == h->input.rank)
		input_stop(h);
	if (h->is_ending)
		return;
	if (r->status != 0 && h->is_told_to_end)
		note_code(h, WIFSIGNALED(r->status) ? 128 + WTERMSIG(r->status) : WEXITSTATUS(r->status));
	else if (r->status != 0 || (phase == PMI_OPEN && !h->is_told_to_end))
		rank_failed(h, n, r, phase);
	else
		pmi_head_rank_ended(h);
	if (h->ended == h->size)
		end_job(h, "shutdown");
}

static void signal_rank(struct head *h, uint32_t rank, int sig)
{
	job_cluster_send(h, h->ranks[rank].cluster, json_pack("{s:s, s:i, s:i}", "op", "signal", "rank", (int)rank, "signal",
	                                                      sig));
}

static void do_moved(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	uint64_t epoch = (uint64_t)number_of(msg, "epoch");
	uint32_t n;
	struct rank *r = rank_of(h, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || r->state != RANK_RUNNING || epoch < r->epoch)
		return; /* the highest epoch wins, whatever order the daemons' words come in */
	r->epoch = epoch;
	r->cluster = c->index;
	r->pid = (pid_t)number_of(msg, "pid");
	for (int i = 0; i < 2; i++) /* an acknowledgement may have gone to the old owner only */
		job_cluster_send(h, c->index, json_pack("{s:s, s:i, s:i, s:I}", "op", "output-ack", "rank", (int)n, "stream",
		                                        RT_STDOUT + i, "offset", (json_int_t)r->out[i].acked));
	input_moved(h, n, (uint64_t)number_of(msg, "stdin"));
	if (r->held_signal)
		signal_rank(h, n, r->held_signal);
	r->held_signal = 0;
}

static void do_barrier(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		pmi_head_barrier(c->head, n, (uint64_t)number_of(msg, "number"), json_object_get(msg, "puts"));
}

static void do_pmi_ask(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		pmi_head_ask(c->head, n, (uint64_t)number_of(msg, "id"), text_of(msg, "what"), json_object_get(msg, "args"));
}

static void do_abort(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	int code = (int)number_of(msg, "code");
	const char *text = text_of(msg, "text");
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (r)
		job_fail(c->head, code & 255, "rank %u (pid %d, cluster %u) aborted the job with code %d%s%s", n, (int)r->pid,
		         c->index, code, *text ? ": " : "", text);
}

static void do_stdin_ack(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		input_acked(c->head, n, (uint64_t)number_of(msg, "offset"));
}

static void do_stdin_closed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n) && n == c->head->input.rank)
		input_stop(c->head);
}

/* The rank is on its way, and whether its new owner has spoken yet tells where the signal must go. */
static void do_undelivered(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	int sig = (int)number_of(msg, "signal");
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || r->state != RANK_RUNNING)
		return;
	if (r->cluster == c->index)
		r->held_signal = sig;
	else
		signal_rank(c->head, n, sig);
}

static void do_lost(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		job_fail(c->head, 128 + SIGKILL, "rank %u died in a move from cluster %u: %s; ending the job", n, c->index,
		         text_of(msg, "text"));
}

static void do_attach_failed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		job_fail(c->head, 1, "rank %u cannot take up its communication again on cluster %u after a move: %s; ending the job",
		         n, c->index, text_of(msg, "text"));
}

static void do_cluster_lost_ack(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	lost_ack(c->head, (uint32_t)number_of(msg, "cluster"), c->index);
}

static void do_migrate_done(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	tools_migrate_done(c->head, msg);
}

static void do_status_answer(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	tools_status_answer(c->head, c->index, msg);
}

static void do_fatal(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	job_fail(c->head, 1, "%s; ending the job", text_of(msg, "text"));
}

static const struct cluster_op {
	const char *name;
	void (*handle)(struct cluster *c, json_t *msg, int *fds, size_t n_fds);
} cluster_ops[] = {
	{ "up", do_up },
	{ "launched", do_launched },
	{ "launch-failed", do_launch_failed },
	{ "attached", do_attached },
	{ "exited", do_exited },
	{ "moved", do_moved },
	{ "barrier", do_barrier },
	{ "pmi-ask", do_pmi_ask },
	{ "abort", do_abort },
	{ "stdin-ack", do_stdin_ack },
	{ "stdin-closed", do_stdin_closed },
	{ "undelivered", do_undelivered },
	{ "lost", do_lost },
	{ "attach-failed", do_attach_failed },
	{ "cluster-lost-ack", do_cluster_lost_ack },
	{ "migrate-done", do_migrate_done },
	{ "status-answer", do_status_answer },
	{ "fatal", do_fatal },
};

static void on_cluster_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct cluster *c = ctx;

	(void)l;
	for (size_t i = 0; op && i < GW_ARRAY_LEN(cluster_ops); i++)
		if (strcmp(op, cluster_ops[i].name) == 0) {
			cluster_ops[i].handle(c, msg, fds, n_fds);
			return;
		}
	gw_log(GW_WARN, "cluster %u says '%s', which is unknown here", c->index, op ? op : "(nothing)");
}

static void on_cluster_frame(struct gw_link *l, void *ctx, uint16_t type, const void *payload, size_t len, int *fds,
                             size_t n_fds)
{
	const struct rt_piece *p = payload;
	struct cluster *c = ctx;

	(void)l; (void)fds; (void)n_fds;
	if (type == RT_FRAME_OUTPUT && len >= sizeof(*p))
		output_piece(c->head, p->rank, p->stream, p->offset, (const char *)(p + 1), len - sizeof(*p));
	else
		gw_log(GW_WARN, "cluster %u sends a frame of type %u, which is unknown here", c->index, type);
}

static const struct gw_link_ops cluster_link_ops = { .frame = on_cluster_frame, .json = on_cluster_json,
	                                             .closed = on_cluster_closed };

/* ---- signals ------------------------------------------------------------------------------------------------------- */

static void on_term_grace(void *ctx)
{
	struct head *h = ctx;

	h->grace = NULL;
	job_fail(h, 128 + SIGKILL, "ranks have not ended %d s after the signal; killing them", TERM_GRACE_MS / 1000);
}

static void forward(struct head *h, int sig)
{
	for (uint32_t r = 0; r < h->size; r++)
		if (h->ranks[r].state == RANK_RUNNING)
			signal_rank(h, r, sig);
}

static void on_signal(void *ctx, uint32_t events)
{
	struct head *h = ctx;
	struct signalfd_siginfo si;

	(void)events;
	while (read(h->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		int sig = (int)si.ssi_signo;

		if (sig == SIGCHLD)
			continue; /* a daemon's end is seen on its link */
		if (sig == SIGUSR1 || sig == SIGUSR2) {
			forward(h, sig);
		} else if (h->is_told_to_end || h->up < h->n_clusters) {
			job_fail(h, 128 + sig, "%s", ""); /* a second time, or before there is anybody to forward to */
		} else if (!h->is_ending) {
			h->is_told_to_end = true;
			forward(h, sig);
			gw_loop_timer(h->loop, &h->grace, TERM_GRACE_MS, 0, on_term_grace, h);
		}
	}
}

static int watch_signals(struct head *h)
{
	static const int wanted[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD };
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	for (size_t i = 0; i < GW_ARRAY_LEN(wanted); i++)
		sigaddset(&set, wanted[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (h->signal_fd < 0)
		return -errno;
	return gw_loop_watch(h->loop, &h->signal_watch, h->signal_fd, EPOLLIN, on_signal, h);
}

/* ---- start --------------------------------------------------------------------------------------------------------- */

/* In a session of its own: what the terminal sends is for the head to decide, which forwards it. */
static void exec_daemon(const char *path, int head_fd)
{
	char arg[32];
	char *argv[] = { "godwitd", arg, NULL };
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	snprintf(arg, sizeof(arg), "--head-fd=%d", head_fd);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGTTIN, SIG_DFL);
	setsid();
	if (null >= 0 && null != STDIN_FILENO)
		dup2(null, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO); /* a reader of our standard output waits for its end */
	if (null > STDERR_FILENO)
		close(null);
	fcntl(head_fd, F_SETFD, 0);
	execv(path, argv);
	_exit(127);
}

static int start_daemon(struct head *h, struct cluster *c, const char *path, struct gw_error *why)
{
	int sv[2], code;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "no socket for the daemon of cluster %u: %s", c->index, strerror(errno));
	c->pid = fork();
	if (c->pid == 0)
		exec_daemon(path, sv[1]);
	close(sv[1]);
	if (c->pid < 0) {
		code = -errno;
		close(sv[0]);
		return gw_fail(why, code, "the daemon of cluster %u cannot be started: %s", c->index, strerror(-code));
	}
	code = gw_link_create(&c->link, h->loop, sv[0], &cluster_link_ops, c);
	return code < 0 ? gw_fail(why, code, "no link to the daemon of cluster %u: %s", c->index, strerror(-code)) : 0;
}

/* Pids that the ranks see: unique in the job, and unlikely to be those of another job (rule 22). */
static uint32_t choose_base_pid(const struct head *h)
{
	unsigned max = 32768;
	FILE *f = fopen("/proc/sys/kernel/pid_max", "re");

	if (f) {
		if (fscanf(f, "%u", &max) != 1)
			max = 32768;
		fclose(f);
	}
	return max > h->size + 600 ? 300 + h->job % (max - h->size - 600) : 300;
}

static int random_ids(struct head *h)
{
	uint64_t words[2];

	do
		if (getrandom(&h->job, sizeof(h->job), 0) != sizeof(h->job))
			return -errno;
	while (h->job == 0);
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		if (getrandom(words, sizeof(words), 0) != sizeof(words))
			return -errno;
		h->clusters[c].incarnation = (words[0] >> 2) | 1; /* positive as a JSON integer, never 0 */
	}
	return 0;
}

static int setup(struct head *h, struct job_spec *spec, struct gw_error *why)
{
	struct rt_cluster_cores *cores = NULL;
	uint32_t rank = 0;
	int code;

	h->spec = spec;
	h->size = spec->size;
	h->n_clusters = spec->clusters;
	h->segment_fd = h->signal_fd = h->listener = -1;
	h->started_ns = gw_now_ns();
	gw_list_init(&h->tools);
	gw_list_init(&h->moves);
	code = rt_topology_cut(&cores, h->n_clusters, NULL, why);
	if (code < 0)
		return code;
	h->n_domains = (uint32_t)code;
	h->clusters = calloc(h->n_clusters, sizeof(*h->clusters));
	h->ranks = calloc(h->size, sizeof(*h->ranks));
	if (!h->clusters || !h->ranks) {
		free(cores);
		return gw_fail(why, -ENOMEM, "no memory for %u ranks on %u clusters", h->size, h->n_clusters);
	}
	for (uint32_t c = 0; c < h->n_clusters; c++) {
		h->clusters[c].head = h;
		h->clusters[c].index = c;
		h->clusters[c].cores = cores[c];
	}
	free(cores);
	for (uint32_t a = 0; a < spec->n_apps; a++)
		for (uint32_t i = 0; i < spec->apps[a].n; i++, rank++) {
			h->ranks[rank].app = a;
			h->ranks[rank].cluster = (uint32_t)((uint64_t)rank * h->n_clusters / h->size);
		}
	code = random_ids(h);
	if (code == 0)
		code = gw_loop_create(&h->loop);
	if (code == 0)
		code = watch_signals(h);
	if (code == 0)
		code = output_init(h);
	if (code == 0)
		code = input_init(h);
	if (code == 0)
		code = pmi_head_init(h);
	if (code < 0)
		return gw_fail(why, code, "cannot start: %s", strerror(-code));
	snprintf(h->kvsname, sizeof(h->kvsname), "godwit-%08x", h->job);
	h->base_pid = choose_base_pid(h);
	return tools_init(h, why);
}

static int start_all(struct head *h, struct gw_error *why)
{
	char path[4096];
	int code = own_path(path, sizeof(path), "godwitd");

	if (code == 0 && access(path, X_OK) < 0)
		code = -errno;
	if (code < 0)
		return gw_fail(why, code, "the daemon '%s' cannot be executed: %s; build or install Godwit completely", path,
		               strerror(-code));
	for (uint32_t c = 0; c < h->n_clusters && code == 0; c++)
		code = start_daemon(h, &h->clusters[c], path, why);
	if (code == 0)
		send_start(h, &h->clusters[0]);
	return code;
}

static void teardown(struct head *h)
{
	for (uint32_t c = 0; h->clusters && c < h->n_clusters; c++) {
		struct cluster *cl = &h->clusters[c];

		gw_link_destroy(cl->link); /* a daemon that is still there ends with it */
		if (cl->pid > 0 && !cl->is_reaped)
			waitpid(cl->pid, &cl->wait_status, 0);
		free(cl->acks_due_from);
	}
	tools_fini(h);
	if (h->input.buf)
		input_fini(h);
	pmi_head_fini(h);
	output_fini(h);
	gw_loop_destroy(h->loop);
	free(h->ranks);
	free(h->clusters);
}

int job_run(struct job_spec *spec)
{
	struct head h = { 0 };
	struct gw_error why = { 0 };
	int code = setup(&h, spec, &why);

	if (code == 0)
		code = start_all(&h, &why);
	if (code < 0) {
		if (h.sinks[0] && h.sinks[1])
			job_say(&h, "mpirun: %s", why.text);
		else
			fprintf(stderr, "mpirun: %s\n", why.text);
		teardown(&h);
		return 1;
	}
	gw_event("job.started", "{s:s, s:i, s:i}", "job", h.kvsname + 7, "ranks", (int)h.size, "clusters", (int)h.n_clusters);
	code = gw_loop_run(h.loop);
	output_end_lines(&h);
	output_flush(&h);
	gw_event("job.ended", "{s:i}", "code", h.exit_code);
	code = code < 0 ? 1 : h.exit_code;
	teardown(&h);
	return code;
}
