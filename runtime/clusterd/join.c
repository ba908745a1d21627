/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A daemon on another host than its head: started there by ssh or the like, it comes by TCP.
 *
 *   mpirun ──fork──► ssh host exec godwitd --join=ADDRESS:PORT --job=J --cluster=C --count=N   (srun: --hosts=A,B besides)
 *      │  standard input: the secret, one line; then it stays open for as long as the job
 *      │                                      godwitd C ──fork──► godwitd C+1 ... C+N-1
 *      ◄── one connection of each: proof (runtime/base/trust.h), then the frames of runtime/wire.h ──┘
 *
 * Descriptors do not travel over TCP. The daemons of a host share its segment: the first makes it, and hands it to the
 * others over socket pairs that are older than all of them; the head starts them only then, so it is there by then.
 *
 * The end of standard input, or of the connection, ends the daemon and its ranks: no half of a job is left on a host that
 * mpirun cannot reach any more.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

#define SECRET_MS  30000
#define PROVE_MS   15000
#define TRY_MS     4000  /* where there is another way */
#define SEGMENT_MS 5000
#define DEAD_MS    6000
#define FENCE_MS   6000  /* T_fence: mpirun's verdict on a silent host is not older */
#define WAKE_MS    2000  /* the look comes every second */

/* ---- the daemons of one host ----------------------------------------------------------------------------------------- */

static int fork_siblings(struct join *j, struct gw_error *why)
{
	j->siblings = calloc(j->count + 1, sizeof(*j->siblings));
	if (!j->siblings)
		return gw_fail(why, -ENOMEM, "out of memory");
	for (uint32_t i = 1; i < j->count; i++) {
		int sv[2];
		pid_t pid;

		if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv) < 0)
			return gw_fail(why, -errno, "no socket for the daemon of cluster %u: %s", j->cluster + i, strerror(errno));
		pid = fork();
		if (pid < 0)
			return gw_fail(why, -errno, "the daemon of cluster %u cannot be started: %s%s", j->cluster + i, strerror(errno),
			               gw_advice(errno));
		if (pid == 0) {
			for (uint32_t k = 0; k < j->n_siblings; k++)
				close(j->siblings[k]);
			close(sv[0]);
			j->n_siblings = 0;
			j->segment_from = sv[1];
			j->cluster += i;
			setsid();
			return 0;
		}
		close(sv[1]);
		j->siblings[j->n_siblings++] = sv[0];
	}
	return 0;
}

static int send_segment(int to, int segment_fd)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { (char[]){ 0 }, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &segment_fd, sizeof(int));
	return sendmsg(to, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

void join_give_segment(struct join *j, int segment_fd)
{
	for (uint32_t i = 0; i < j->n_siblings; i++) {
		int code = send_segment(j->siblings[i], segment_fd);

		if (code < 0)
			gw_log(GW_WARN, "the segment cannot be given to cluster %u: %s", j->cluster + 1 + i, strerror(-code));
		close(j->siblings[i]);
	}
	j->n_siblings = 0;
}

/* Where a daemon that comes to a host with others waits for their segment */
static void segment_name(char name[RT_SOCKET_NAME_MAX], uint32_t job, uint32_t cluster)
{
	size_t n;

	rt_socket_name(name, job, (int)cluster);
	n = strlen(name);
	snprintf(name + n, RT_SOCKET_NAME_MAX - n, "/segment");
}

void join_share_segment(const struct clusterd *d, uint32_t cluster)
{
	char name[RT_SOCKET_NAME_MAX];
	struct gw_error why = { 0 };
	gw_autoclose int fd = -1;
	int code;

	segment_name(name, d->job, cluster);
	fd = gw_connect_unix(name, &why);
	code = fd < 0 ? fd : send_segment(fd, d->segment_fd);
	if (code < 0) /* the other one says so, when nothing comes */
		gw_log(GW_WARN, "the segment cannot be given to cluster %u: %s", cluster, fd < 0 ? why.text : strerror(-code));
}

bool join_has_segment(const struct join *j)
{
	return j->segment_from >= 0 || j->segment_listener >= 0;
}

int join_take_segment(struct join *j, struct gw_error *why)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *c;
	uint64_t end = gw_now_ns() + SEGMENT_MS * 1000000ull;
	int fd = -1, code;

	if (j->segment_listener >= 0) {
		if (gw_wait_readable(j->segment_listener, end) == 0)
			j->segment_from = gw_accept_unix(j->segment_listener, why);
		close(j->segment_listener);
		j->segment_listener = -1;
	}
	code = j->segment_from < 0 ? -ETIMEDOUT : gw_wait_readable(j->segment_from, end);
	if (code == 0 && recvmsg(j->segment_from, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) == 1 && (c = CMSG_FIRSTHDR(&m)) &&
	    c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(int));
	if (j->segment_from >= 0)
		close(j->segment_from);
	j->segment_from = -1;
	return fd >= 0 ? fd : gw_fail(why, -EPIPE, "no daemon of this host has handed over its segment");
}

/* ---- the head ------------------------------------------------------------------------------------------------------ */

/* One srun has started the daemons of all hosts: which one are we? */
static int find_host(struct join *j, struct gw_error *why)
{
	const char *own = getenv("SLURMD_NODENAME");
	uint32_t before = 0;

	for (const char *at = j->hosts; own; before++) {
		size_t n = strcspn(at, ",");

		if (strlen(own) == n && strncmp(own, at, n) == 0) {
			j->cluster += before * j->count;
			return 0;
		}
		if (!at[n])
			break;
		at += n + 1;
	}
	return gw_fail(why, -ENOENT, "this host, %s to Slurm, is none of --hosts=%s", own ? own : "unknown", j->hosts);
}

int join_prepare(struct join *j, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];
	uint32_t first;
	int code = gw_trust_secret_read(STDIN_FILENO, j->secret, SECRET_MS, why);

	if (code == 0 && j->hosts)
		code = find_host(j, why);
	if (code < 0)
		return code;
	j->segment_from = -1;
	setsid();
	dup2(STDERR_FILENO, STDOUT_FILENO); /* nothing but sentences goes back */
	first = j->cluster;
	code = fork_siblings(j, why);
	if (code == 0 && j->is_sharing && j->cluster == first) {
		segment_name(name, j->job, j->cluster);
		code = j->segment_listener = gw_listen_unix(name, why);
	}
	return code < 0 ? code : 0;
}

struct waiting { struct clusterd *d; int fd; struct gw_error why; };

static void on_proved(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct waiting *w = ctx;

	(void)peer;
	w->fd = fd;
	if (why)
		w->why = *why;
	gw_loop_stop(w->d->loop, 0);
}

int join_parse(struct join *j, const char *list, struct gw_error *why)
{
	for (j->n_ways = 0; j->n_ways < JOIN_WAYS_MAX; j->n_ways++) {
		char one[GW_TCP_NAME];
		size_t n = strcspn(list, ",");

		snprintf(one, sizeof(one), "%.*s", (int)n, list);
		if (gw_tcp_split(one, j->ways[j->n_ways].address, &j->ways[j->n_ways].port, why) < 0)
			return why->code;
		if (!list[n]) {
			j->n_ways++;
			break;
		}
		list += n + 1;
	}
	return 0;
}

int join_connect(struct clusterd *d, struct gw_error *why)
{
	struct join *j = &d->join;
	struct gw_trust_who me = { GW_TRUST_JOIN, j->job, j->cluster };

	for (uint32_t i = 0; i < j->n_ways; i++) {
		struct waiting w = { .d = d, .fd = -1 };
		int fd = gw_tcp_connect(j->ways[i].address, j->ways[i].port, &w.why);
		int code = fd < 0 ? fd : gw_trust_connect(NULL, d->loop, fd, j->secret, &me, i + 1 < j->n_ways ? TRY_MS : PROVE_MS, on_proved, &w);
		char name[GW_TCP_NAME];

		if (fd >= 0 && code < 0)
			gw_fail(&w.why, code, "%s", strerror(-code));
		if (code == 0)
			gw_loop_run(d->loop);
		if (w.fd >= 0) {
			gw_tcp_own(w.fd, j->own_address);
			return w.fd;
		}
		gw_tcp_join(name, j->ways[i].address, j->ways[i].port);
		gw_fail(why, w.why.code ? w.why.code : -EIO, "mpirun cannot be reached at %s from here: %s", name, w.why.text);
		if (i + 1 < j->n_ways)
			gw_log(GW_INFO, "%s", why->text);
	}
	return why->code;
}

static void on_input(void *ctx, uint32_t events)
{
	struct clusterd *d = ctx;
	char ignored[256];
	ssize_t n = read(STDIN_FILENO, ignored, sizeof(ignored));

	(void)events;
	if (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)))
		return;
	gw_watch_remove(d->join.input);
	d->join.input = NULL;
	gw_log(GW_INFO, "what started this daemon is gone");
	clusterd_end(d, 1);
}

static void on_look(void *ctx)
{
	struct clusterd *d = ctx;

	if (gw_tcp_is_dead(gw_link_fd(d->head), DEAD_MS)) {
		gw_log(GW_ERROR, "mpirun's host does not answer any more; this daemon and its ranks end");
		clusterd_end(d, 1);
	}
}

/*
 * Rule 24: this daemon, or its host, has not run for a while. When mpirun was not heard in that time, its verdict on us is made:
 * the ranks of this host end before anything that waits here is read, be it GIVEN of a migration session.
 */
static void on_wake(void *ctx, uint64_t slept_ms)
{
	struct clusterd *d = ctx;
	uint64_t silence_ms = gw_tcp_silence_ms(gw_link_fd(d->head)); /* 0: a socket pair, mpirun sleeps and wakes with us */

	if (!d->is_networked || d->is_ending || (silence_ms < FENCE_MS && slept_ms < FENCE_MS))
		return;
	/* a link that mpirun has closed is worth no word */
	gw_log(silence_ms == UINT64_MAX ? GW_INFO : GW_ERROR, "not running, and cut off from mpirun, for too long; this daemon and its ranks end");
	gw_event("cluster.fenced", "{s:i, s:I, s:I}", "cluster", (int)d->cluster, "silence_ms",
	         (json_int_t)(silence_ms == UINT64_MAX ? 0 : silence_ms), "slept_ms", (json_int_t)slept_ms);
	clusterd_end(d, 1);
}

void join_fence(struct clusterd *d)
{
	gw_loop_on_wake(d->loop, WAKE_MS, on_wake, d);
}

int join_watch(struct clusterd *d)
{
	int code = gw_loop_watch(d->loop, &d->join.input, STDIN_FILENO, EPOLLIN, on_input, d);

	return code < 0 ? code : gw_loop_timer(d->loop, &d->join.look, 1000, 1000, on_look, d);
}

void join_fini(struct join *j)
{
	gw_watch_remove(j->input);
	gw_timer_cancel(j->look);
	free(j->siblings);
	explicit_bzero(j->secret, sizeof(j->secret));
}
