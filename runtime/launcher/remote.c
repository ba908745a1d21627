/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Daemons on other hosts: for each host one process of the launcher (ssh, or what the user says; one of srun for all), which
 * starts that host's daemons; they come back by TCP and prove the secret, which the launcher's process has carried
 * (clusterd/join.c). What it is told, and what its end means: launchers.c.
 *
 * What that process and the daemons write on standard error comes back through it. Until all daemons of the host are there
 * its last line is held: when the process ends before, it says best what went wrong.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/tcp.h"
#include "runtime/launcher/head.h"

#define DEAD_MS  6000
#define WAKE_MS  2000  /* the look comes every second */
#define LINE_MAX_BYTES 1024
#define START_MS 60000 /* until all daemons are there; ssh has time to ask for a ticket, and slow disks to wake up */
#define END_MS   3000
#define REASON_MS 500

struct launched {            /* a launcher's process, for clusters of one host; srun's: of several, as many of each */
	struct gw_list node;
	struct head *head;
	const struct host *host;   /* the first, the others follow */
	uint32_t n_hosts, first, count;
	pid_t pid;
	int status;
	int input, errors, pidfd;
	struct gw_watch *errors_watch, *pid_watch;
	struct gw_timer *reason;   /* until what srun has said of ended tasks is all there is */
	char ended[256];           /* on these nodes */
	struct gw_timer *end;    /* its last daemon has left */
	uint32_t joined;
	bool is_over, is_given_up;
	char line[LINE_MAX_BYTES]; /* begun */
	size_t len;
	char last[LINE_MAX_BYTES];
};

struct remotes {
	struct gw_timer *look, *start;
	struct gw_list launched;
};

/* ---- what comes back on standard error ------------------------------------------------------------------------------- */

/* Those that come to a running job are missed by whoever asked for them; else it is the end of the job. */
static void fail(struct launched *l, const char *fmt, ...)
{
	struct growth *g = l->head->clusters[l->first].growth;
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (g)
		grow_failed(g, -EIO, "%s", text);
	else
		job_fail(l->head, 1, "%s", text);
}

static void explain(struct launched *l)
{
	struct launch what = { .hosts = l->host, .n_hosts = l->n_hosts };
	struct gw_error why = { 0 };

	gw_timer_cancel(l->reason);
	l->reason = NULL;
	launchers_explain(&what, l->ended[0] ? l->ended : NULL, l->status, l->last, &why);
	l->last[0] = '\0';
	fail(l, "%s", why.text);
}

static void on_reason(void *ctx)
{
	struct launched *l = ctx;

	l->reason = NULL;
	if (!l->head->is_ending)
		explain(l);
}

static void say_held(struct launched *l)
{
	/* that a daemon finds a job that has ended before it came is not worth a word */
	if (l->last[0] && (l->joined == l->count || !l->head->is_ending))
		job_say(l->head, "%s", l->last);
	l->last[0] = '\0';
}

/*
 * srun goes on while one task does: that another has ended it only says, a moment before or after what the task has said
 * itself. Return whether the line is dealt with.
 */
static bool hear_srun(struct launched *l)
{
	bool is_starting = l->joined < l->count && !l->head->is_ending, is_chatter = slurm_is_chatter(l->line);

	if (!l->host->is_slurm || (!is_chatter && !l->reason))
		return false;
	if (is_starting && !is_chatter) {
		memcpy(l->last, l->line, l->len + 1);
		explain(l);
	} else if (is_starting && !l->reason && slurm_is_task_end(l->line, l->ended, sizeof(l->ended))) {
		if (l->last[0]) {
			explain(l);
		} else { /* this line, if nothing better comes */
			memcpy(l->last, l->line, l->len + 1);
			gw_loop_timer(l->head->loop, &l->reason, REASON_MS, 0, on_reason, l);
		}
	}
	return true;
}

static void end_line(struct launched *l)
{
	while (l->len && (l->line[l->len - 1] == '\r' || l->line[l->len - 1] == ' '))
		l->len--;
	l->line[l->len] = '\0';
	if (l->len && !hear_srun(l)) {
		say_held(l);
		memcpy(l->last, l->line, l->len + 1);
		if (l->joined == l->count)
			say_held(l);
	}
	l->len = 0;
}

static bool read_errors(struct launched *l)
{
	char buf[4096];
	ssize_t n = read(l->errors, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return false;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || l->len == sizeof(l->line) - 1)
			end_line(l);
		if (buf[i] != '\n')
			l->line[l->len++] = buf[i];
	}
	if (n > 0)
		return true;
	end_line(l);
	gw_watch_remove(l->errors_watch);
	l->errors_watch = NULL;
	return false;
}

static void on_errors(void *ctx, uint32_t events)
{
	(void)events;
	read_errors(ctx);
}

/* ---- its end --------------------------------------------------------------------------------------------------------- */

static void close_pipes(struct launched *l, bool has_said_all)
{
	int *fds[] = { &l->input, &l->pidfd, &l->errors };

	gw_timer_cancel(l->end);
	gw_timer_cancel(l->reason);
	gw_watch_remove(l->pid_watch);
	l->end = l->reason = NULL;
	l->pid_watch = NULL;
	if (has_said_all)
		gw_watch_remove(l->errors_watch);
	for (size_t i = 0; i < GW_ARRAY_LEN(fds) - !has_said_all; i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

static void on_end(void *ctx, uint32_t events)
{
	struct launched *l = ctx;

	(void)events;
	if (waitpid(l->pid, &l->status, WNOHANG) != l->pid)
		return;
	gw_watch_remove(l->pid_watch);
	l->pid_watch = NULL;
	l->is_over = true;
	while (l->errors_watch && read_errors(l))
		;
	if (l->joined < l->count && !l->head->is_ending && !l->is_given_up) {
		for (uint32_t c = l->first; c < l->first + l->count; c++)
			if (!l->head->clusters[c].link)
				l->head->clusters[c].state = CLUSTER_ENDED;
		explain(l);
	}
	say_held(l);
	close_pipes(l, !l->errors_watch); /* a connection that others share may go on to write */
	drain_check(l->head);
	job_check_all_ended(l->head);
}

/* Its daemons have ended: it has a moment to follow them. */
static void on_end_deadline(void *ctx)
{
	struct launched *l = ctx;

	l->end = NULL;
	kill(l->pid, SIGKILL);
}

/* Is one of its daemons there, or expected? */
static bool is_needed(const struct launched *l)
{
	for (uint32_t c = l->first; c < l->first + l->count; c++)
		if (l->head->clusters[c].state < CLUSTER_LEFT)
			return true;
	return false;
}

void remote_left(struct cluster *c)
{
	struct launched *l = c->launched;

	if (l && !l->is_over && !l->end && !is_needed(l))
		gw_loop_timer(l->head->loop, &l->end, END_MS, 0, on_end_deadline, l);
}

bool remote_is_over(const struct cluster *c)
{
	return !c->launched || c->launched->is_over || is_needed(c->launched);
}

void remote_give_up(struct cluster *c)
{
	struct launched *l = c->launched;

	if (!l || l->is_given_up)
		return;
	l->is_given_up = true;
	l->last[0] = '\0';
	if (l->pid > 0 && !l->is_over)
		kill(l->pid, SIGKILL);
}

/* ---- joined ---------------------------------------------------------------------------------------------------------- */

/* It comes to a host where others are: one of them hands over their segment. */
static void share_segment(struct head *h, const struct cluster *c)
{
	for (uint32_t i = 0; i < c->first; i++)
		if (h->clusters[i].host == c->host && h->clusters[i].state == CLUSTER_UP &&
		    job_cluster_send(h, i, json_pack("{s:s, s:i}", "op", "share", "cluster", (int)c->index)))
			return;
}

static void on_joined(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct head *h = ctx;
	struct cluster *c = peer->cluster < h->n_clusters ? &h->clusters[peer->cluster] : NULL;
	struct launched *l = c ? c->launched : NULL;
	int code;

	(void)why;
	if (!c || peer->purpose != GW_TRUST_JOIN || !l || c->link || c->state != CLUSTER_STARTING || h->is_ending) {
		if (!h->is_ending)
			gw_log(GW_WARN, "a daemon comes for cluster %u, where none is missing; closed", peer->cluster);
		close(fd);
		return;
	}
	code = gw_link_create(&c->link, h->loop, fd, &reports_link_ops, c);
	if (code < 0) {
		job_fail(h, 1, "no link to the daemon of cluster %u: %s", c->index, strerror(-code));
		return;
	}
	if (++l->joined == l->count)
		say_held(l);
	if (c->index == c->first) {
		share_segment(h, c);
		clusters_send_start(h, c);
	} else if (h->clusters[c->first].state == CLUSTER_UP || h->clusters[c->first].state == CLUSTER_JOINED) {
		clusters_send_start(h, c);
	}
}

/* A host that has vanished says nothing at all. */
static void on_look(void *ctx)
{
	struct head *h = ctx;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];

		if (c->link && c->launched && gw_tcp_is_dead(gw_link_fd(c->link), DEAD_MS))
			clusters_closed(c->link, c, -ETIMEDOUT);
	}
}

/* Rule 24 for this end: mpirun or its host has not run for a while, and hosts may have counted us as gone meanwhile. */
static void on_wake(void *ctx, uint64_t slept_ms)
{
	struct head *h = ctx;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];
		uint64_t silence_ms = c->link && c->launched ? gw_tcp_silence_ms(gw_link_fd(c->link)) : 0;

		/* a link that has ended is read to its end: last words of a daemon may be there */
		if (c->link && c->launched && silence_ms != UINT64_MAX && (slept_ms >= DEAD_MS || silence_ms >= DEAD_MS))
			clusters_closed(c->link, c, -ETIMEDOUT);
	}
}

static void on_start_deadline(void *ctx)
{
	struct head *h = ctx;

	h->remotes->start = NULL;
	gw_list_for(e, &h->remotes->launched) {
		struct launched *l = gw_list_entry(e, struct launched, node);

		if (l->joined < l->count && !h->clusters[l->first].growth && !l->is_given_up) {
			job_fail(h, 1, "host %s: its daemon has not come within %d s%s%s", l->host->name, START_MS / 1000,
			         l->last[0] ? ": " : "", l->last);
			return;
		}
	}
}

/* ---- started --------------------------------------------------------------------------------------------------------- */

static void exec_launcher(const struct head *h, char **argv, int input, int errors)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid(); /* what the terminal sends is for the head to decide */
	prctl(PR_SET_PDEATHSIG, SIGTERM); /* one that has not reached its host yet would not see mpirun go */
	dup2(input, STDIN_FILENO);
	dup2(errors, STDOUT_FILENO);
	dup2(errors, STDERR_FILENO);
	if (h->files.rlim_max)
		setrlimit(RLIMIT_NOFILE, &h->files);
	launchers_clean_environment(h);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(126);
}

static int launch(struct head *h, struct launched *l, const char *path, struct gw_error *why)
{
	struct strings argv = { 0 };
	char to[DOORS_TEXT_MAX] = "", line[GW_TRUST_SECRET_HEX + 1];
	struct launch what = { .hosts = l->host, .n_hosts = l->n_hosts, .first_cluster = l->first, .count = l->count / l->n_hosts,
	                       .path = path, .to = to };
	int in[2] = { -1, -1 }, err[2] = { -1, -1 }, code;

	what.is_sharing = clusters_have(h, h->clusters[l->first].host, l->first);
	for (uint32_t i = 0; i < l->n_hosts; i++)
		/* not by this machine's name: that may mean a loopback address to itself */
		if ((l->n_hosts == 1 || !hosts_is_here(l->host[i].name)) && doors_open(h, l->host[i].name, on_joined, to, why) < 0)
			return why->code;
	launchers_words(&argv, h, &what);

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		goto fail;
	l->pid = fork();
	if (l->pid == 0)
		exec_launcher(h, argv.list, in[0], err[1]);
	if (l->pid < 0) {
		l->pid = 0;
		goto fail;
	}
	close(in[0]);
	close(err[1]);
	l->input = in[1];
	l->errors = err[0];
	strings_fini(&argv);
	gw_trust_secret_print(line, h->secret);
	strcat(line, "\n");
	if (write(l->input, line, strlen(line)) != (ssize_t)strlen(line)) /* a fresh pipe takes it; who is gone already is heard of */
		gw_log(GW_INFO, "host %s: its launcher does not take the secret", l->host->name);
	explicit_bzero(line, sizeof(line));
	fcntl(l->errors, F_SETFL, O_NONBLOCK);
	l->pidfd = (int)syscall(SYS_pidfd_open, l->pid, 0);
	code = l->pidfd < 0 ? -errno : gw_loop_watch(h->loop, &l->pid_watch, l->pidfd, EPOLLIN, on_end, l);
	if (code == 0)
		code = gw_loop_watch(h->loop, &l->errors_watch, l->errors, EPOLLIN, on_errors, l);
	return code < 0 ? gw_fail(why, code, "host %s: %s", l->host->name, strerror(-code)) : 0;
fail:
	code = -errno;
	strings_fini(&argv);
	for (int i = 0; i < 2; i++) {
		if (in[i] >= 0)
			close(in[i]);
		if (err[i] >= 0)
			close(err[i]);
	}
	return gw_fail(why, code, "host %s: its daemon cannot be started: %s%s", l->host->name, strerror(-code), gw_advice(code));
}

/* The clusters from @first on that were made with it; and, for srun, those of the hosts that follow, which have as many */
int remote_launch(struct head *h, uint32_t first, uint32_t n_hosts, const char *path, struct gw_error *why)
{
	struct launched *l = calloc(1, sizeof(*l));

	if (!l)
		return gw_fail(why, -ENOMEM, "out of memory");
	*l = (struct launched){ .head = h, .host = &h->hosts[h->clusters[first].host], .n_hosts = n_hosts, .first = first, .input = -1,
	                        .errors = -1, .pidfd = -1 };
	gw_list_append(&h->remotes->launched, &l->node);
	for (uint32_t c = first; c < h->n_clusters && (h->clusters[c].first == first || n_hosts > 1); c++, l->count++)
		h->clusters[c].launched = l;
	return launch(h, l, path, why);
}

int remote_listen(struct head *h, const char *name, struct gw_error *why)
{
	char to[DOORS_TEXT_MAX] = "";
	struct remotes *r;
	int code;

	if (h->remotes)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return gw_fail(why, -ENOMEM, "out of memory");
	gw_list_init(&r->launched);
	h->remotes = r;
	code = h->family ? 0 : doors_choose(h, name, why);
	if (code == 0)
		code = doors_open(h, name, on_joined, to, why);
	if (code == 0 && (code = gw_loop_timer(h->loop, &r->look, 1000, 1000, on_look, h)) < 0)
		gw_fail(why, code, "cannot listen for daemons: %s", strerror(-code));
	gw_loop_on_wake(h->loop, WAKE_MS, on_wake, h);
	if (code < 0)
		remote_fini(h);
	return code;
}

int remote_start(struct head *h, const char *path, struct gw_error *why)
{
	const char *name = h->hosts[0].name;
	int code;

	/* by another machine's name: a host's own may mean a loopback address to itself */
	for (uint32_t i = h->n_hosts; i > 0; i--)
		if (h->hosts[i - 1].is_remote && !hosts_is_here(h->hosts[i - 1].name))
			name = h->hosts[i - 1].name;
	code = doors_choose(h, NULL, why);
	if (code == 0)
		code = remote_listen(h, name, why);
	if (code == 0 && (code = gw_loop_timer(h->loop, &h->remotes->start, START_MS, 0, on_start_deadline, h)) < 0)
		gw_fail(why, code, "cannot wait for daemons: %s", strerror(-code));
	if (code == 0 && h->spec->is_slurm)
		return remote_launch(h, 0, h->n_hosts, path, why);
	for (uint32_t c = 0; c < h->n_clusters && code == 0; c++)
		if (h->hosts[h->clusters[c].host].is_remote && h->clusters[c].first == c)
			code = remote_launch(h, c, 1, path, why);
	return code;
}

/* Every daemon has lost its link: the launcher's processes end, or are ended. */
void remote_fini(struct head *h)
{
	struct remotes *r = h->remotes;
	uint64_t end = gw_now_ns() + END_MS * 1000000ull;

	if (!r)
		return;
	doors_fini(h);
	gw_timer_cancel(r->look);
	gw_timer_cancel(r->start);
	gw_list_for(e, &r->launched) {
		struct launched *l = gw_list_entry(e, struct launched, node);

		if (l->input >= 0)
			close(l->input);
		l->input = -1;
	}
	gw_list_for_safe(e, &r->launched) {
		struct launched *l = gw_list_entry(e, struct launched, node);

		if (l->pid > 0 && !l->is_over) {
			bool is_lost = l->joined < l->count;

			for (uint32_t c = l->first; c < l->first + l->count; c++)
				is_lost |= h->clusters[c].first == c && (h->clusters[c].state == CLUSTER_LOST || h->clusters[c].has_vanished);
			/* who fills the pipe of errors while it ends is ended with it, and who waits for a host that is gone */
			if (l->pidfd < 0 || is_lost || gw_wait_readable(l->pidfd, end) < 0)
				kill(l->pid, SIGKILL);
			waitpid(l->pid, &l->status, 0);
		}
		while (l->errors_watch && read_errors(l))
			;
		say_held(l);
		close_pipes(l, true);
		free(l);
	}
	free(r);
	h->remotes = NULL;
}
