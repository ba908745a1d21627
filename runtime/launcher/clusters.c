/* SPDX-License-Identifier: BSD-2-Clause */
/* The daemons of a job: started, given their ranks, lost. What they say is in reports.c. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/launcher/baseline.h"
#include "runtime/launcher/head.h"

const char *clusters_name(const struct head *h, uint32_t cluster, char *buf)
{
	const struct host *host = &h->hosts[h->clusters[cluster].host];

	if (h->is_networked || host->is_remote)
		snprintf(buf, CLUSTER_NAME_MAX, "cluster %u on %s", cluster, host->name);
	else
		snprintf(buf, CLUSTER_NAME_MAX, "cluster %u", cluster);
	return buf;
}

/* ---- lost ---------------------------------------------------------------------------------------------------------- */

static void describe_lost(const struct head *h, const struct cluster *c, char *buf, size_t cap)
{
	char end[128], name[CLUSTER_NAME_MAX];

	if (c->has_vanished)
		snprintf(buf, cap, "host %s does not answer any more", h->hosts[c->host].name);
	else if (h->hosts[c->host].is_remote)
		snprintf(buf, cap, "the daemon of cluster %u (host %s) has gone", c->index, h->hosts[c->host].name);
	else
		snprintf(buf, cap, "the daemon of %s (pid %d) %s", clusters_name(h, c->index, name), (int)c->pid,
		         rt_end_describe(c->wait_status, true, end, sizeof(end)));
}

/* Of a host with several clusters one sentence is enough. */
static bool is_host_lost_before(const struct head *h, const struct cluster *c)
{
	for (uint32_t i = 0; i < c->index; i++)
		if (h->clusters[i].host == c->host && h->clusters[i].has_vanished)
			return true;
	return false;
}

/* Where it is, as far as anybody has said. That of its old owner counts when its new one has not said that it took it. */
static const struct cluster *home_of(const struct head *h, const struct rank *r)
{
	return &h->clusters[r->given_epoch > r->epoch ? r->given_to : r->cluster];
}

/* Every surviving daemon has said which ranks it owns: what is still thought to be at @c is gone with it. */
static void decide_lost(struct head *h, struct cluster *c)
{
	char what[512], list[256] = "";
	uint32_t n = 0, listed = 0;
	size_t at = 0;

	for (uint32_t r = 0; r < h->size; r++) {
		const struct cluster *of = home_of(h, &h->ranks[r]);
		bool is_here = of == c;

		output_skip_gaps(h, r);
		/* of a host that has vanished all that live there are named, but each cluster is decided for itself */
		if (h->ranks[r].state == RANK_ENDED || !(is_here || (c->has_vanished && of->has_vanished && of->host == c->host)))
			continue;
		if (at < sizeof(list) - 16)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%u", listed ? ", " : "", r);
		listed++;
		n += is_here;
	}
	describe_lost(h, c, what, sizeof(what));
	moves_cluster_lost(h, c->index);
	wishes_check(h);
	if (n && h->is_told_by_slurm)
		job_fail(h, 128 + SIGKILL, "Slurm has killed what was left of the job");
	else if (n)
		job_fail(h, WIFSIGNALED(c->wait_status) ? 128 + WTERMSIG(c->wait_status) : 1, "%s, and rank%s %s with it; ending the job",
		         what, listed > 1 ? "s" : "", list);
	else if (!h->is_ending && !(c->has_vanished && is_host_lost_before(h, c)))
		job_say(h, "mpirun: %s; no rank lived there, the job goes on", what);
	grow_check(h);
	drain_check(h);
	pool_placed(h);
	suspend_check(h);
}

void clusters_lost_ack(struct head *h, uint32_t lost, uint32_t from)
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

/* It will not say what it owns of those that were lost before it. */
static void answers_no_more(struct cluster *c)
{
	for (uint32_t i = 0; i < c->head->n_clusters; i++)
		clusters_lost_ack(c->head, i, c->index);
}

static void end_process(struct cluster *c)
{
	if (c->pid > 0) /* of this machine; another one's ends with its link */
		kill(c->pid, SIGKILL); /* it has closed its link: whatever it is still doing, the verdict is final */
	if (c->pid > 0 && !c->is_reaped && waitpid(c->pid, &c->wait_status, 0) == c->pid)
		c->is_reaped = true;
}

/* It had nothing any more, and has said so. */
static void cluster_left(struct head *h, struct cluster *c)
{
	end_process(c);
	c->state = CLUSTER_LEFT;
	remote_left(c);
	gw_event("cluster.left", "{s:i}", "cluster", (int)c->index);
	json_decref(c->place);
	c->place = NULL;
	for (uint32_t i = 0; i < h->n_clusters; i++)
		job_cluster_send(h, i, json_pack("{s:s, s:i}", "op", "cluster-left", "cluster", (int)c->index));
	answers_no_more(c);
	drain_check(h);
	pool_placed(h);
}

void clusters_left(struct cluster *c)
{
	c->has_said_left = c->state == CLUSTER_LEAVING;
}

static void cluster_lost(struct head *h, struct cluster *c)
{
	end_process(c);
	c->state = CLUSTER_LOST;
	gw_event("cluster.lost", "{s:i, s:i}", "cluster", (int)c->index, "status", c->wait_status);
	c->acks_due_from = calloc(RT_CLUSTERS_MAX, sizeof(bool));
	for (uint32_t i = 0; i < h->n_clusters; i++) {
		if ((h->clusters[i].state == CLUSTER_UP || h->clusters[i].state == CLUSTER_LEAVING) && c->acks_due_from &&
		    job_cluster_send(h, i, json_pack("{s:s, s:i, s:I}", "op", "cluster-lost", "cluster", (int)c->index, "incarnation",
		                                     (json_int_t)c->incarnation))) {
			c->acks_due_from[i] = true;
			c->lost_acks_due++;
		}
	}
	answers_no_more(c);
	if (c->lost_acks_due == 0)
		decide_lost(h, c);
}

/* What the kernel says of a connection whose other end has stopped answering, or cannot be reached */
static bool is_silence(int error)
{
	return error == -ETIMEDOUT || error == -EHOSTUNREACH || error == -ENETUNREACH || error == -ENETDOWN || error == -EHOSTDOWN;
}

static void joiner_lost(struct cluster *c)
{
	end_process(c);
	grow_failed(c->growth, -EPIPE, "host %s: the daemon of cluster %u has ended while it joined", c->head->hosts[c->host].name,
	            c->index);
}

/* One daemon's link has timed out: those of the same host are as dead, though their timers run a little later. */
static void host_lost(struct head *h, struct cluster *first)
{
	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct cluster *c = &h->clusters[i];

		if (c->host != first->host || (c != first && !c->link))
			continue;
		c->has_vanished = true;
		gw_link_destroy(c->link);
		c->link = NULL;
	}
	for (uint32_t i = 0; i < h->n_clusters && !h->is_ending; i++)
		if (!h->clusters[i].has_vanished || h->clusters[i].host != first->host || h->clusters[i].state == CLUSTER_LOST)
			continue;
		else if (h->clusters[i].growth)
			joiner_lost(&h->clusters[i]);
		else
			cluster_lost(h, &h->clusters[i]);
}

void clusters_closed(struct gw_link *l, void *ctx, int error)
{
	struct cluster *c = ctx;
	struct head *h = c->head;

	gw_link_destroy(l);
	c->link = NULL;
	if (h->is_ending)
		c->state = CLUSTER_ENDED;
	else if (c->growth)
		joiner_lost(c);
	else if (c->has_said_left)
		cluster_left(h, c);
	else if (h->hosts[c->host].is_remote && is_silence(error))
		host_lost(h, c);
	else
		cluster_lost(h, c);
	baseline_cluster_lost(h);
	job_check_all_ended(h);
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
	uint32_t appnum = h->ranks[rank].app - h->worlds[h->ranks[rank].world].app;
	struct rt_launch l = { .rank = rank, .ns_pid = h->base_pid + rank, .has_stdin = input_is_for(h, rank),
	                       .argc = (uint32_t)app->argv.n, .envc = (uint32_t)env->n, .appnum = appnum };
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

/* How many ranks share the cores of @c: clusters of one domain are on the same. */
static uint32_t ranks_beside(const struct head *h, const struct cluster *c)
{
	uint32_t ranks = 0;

	for (uint32_t r = 0; r < h->size; r++)
		ranks += h->ranks[r].state != RANK_ENDED && h->clusters[h->ranks[r].cluster].cores.domain == c->cores.domain;
	return ranks;
}

/*
 * An OpenMP runtime takes as many threads as its process may use processors. Ranks that share them would each take all:
 * each gets its part, where the user has not said it.
 */
static uint32_t threads_of(const struct head *h, const struct cluster *c)
{
	uint32_t places = c->cores.n_binds ? c->cores.n_binds : 1, ranks, cpus;

	cpus = (uint32_t)CPU_COUNT(c->cores.n_binds ? &c->cores.binds[0] : &c->cores.cpus);
	ranks = (ranks_beside(h, c) + places - 1) / places;
	return ranks <= 1 ? 0 : cpus / ranks ? cpus / ranks : 1;
}

/*
 * More ranks than cores? Then MPI's collectives have fewer rounds (mpi-shim/mpich/crowded.patch). All ranks of a world must
 * go by the same, so it is asked once, of the cluster that starts first, and no program of a job can be told otherwise.
 */
static const char *crowded(struct head *h, const struct cluster *c)
{
	const char *said = env_find(&h->spec->genv, ENV_CROWDED);

	said = said ? said : getenv(ENV_CROWDED);
	if (!h->crowded)
		h->crowded = said ? said : ranks_beside(h, c) > (uint32_t)CPU_COUNT(&c->cores.cpus) ? "1" : "0";
	return h->crowded;
}

int clusters_launch_range(struct head *h, struct cluster *c, uint32_t first, uint32_t n, struct gw_error *why)
{
	uint32_t built_for = UINT32_MAX;
	struct strings env = { 0 };
	gw_autofree char *here = getcwd(NULL, 0);
	int code = 0;

	for (uint32_t r = first; r < first + n && code == 0; r++) {
		const struct app *app = &h->spec->apps[h->ranks[r].app];
		char name[CLUSTER_NAME_MAX];

		if (h->ranks[r].cluster != c->index)
			continue;
		if (built_for != h->ranks[r].app) {
			strings_fini(&env);
			code = env_build(&env, h->spec, app, threads_of(h, c), why);
			if (code == 0 && (env_set(&env, ENV_CROWDED, crowded(h, c)) < 0 ||
			                  (h->has_baseline && baseline_environment(&env, &h->baseline) < 0)))
				code = gw_fail(why, -ENOMEM, "out of memory for the environment");
			if (code < 0)
				break;
			built_for = h->ranks[r].app;
		}
		code = launch_rank(h, c, r, &env, app->wdir ? app->wdir : here ? here : "/");
		if (code < 0)
			gw_fail(why, code, "rank %u: its command line and environment cannot be sent to %s: %s", r,
			        clusters_name(h, c->index, name), strerror(-code));
	}
	strings_fini(&env);
	return code;
}

void clusters_launch(struct head *h, struct cluster *c)
{
	struct gw_error why = { 0 };

	if (h->spec->restart)
		restart_cluster(h, c);
	else if (clusters_launch_range(h, c, 0, h->size, &why) < 0)
		job_fail(h, 1, "%s", why.text);
}

/* How another machine is cut into the clusters that were started together; it numbers core domains from that of the first on. */
static json_t *cut_json(const struct head *h, const struct cluster *c)
{
	struct rt_share *shares;
	json_t *list = NULL;
	uint32_t count = 0;

	while (c->first + count < h->n_clusters && h->clusters[c->first + count].first == c->first)
		count++;
	shares = layout_shares(h->spec, c->first, count);
	if (shares)
		list = json_array();
	for (uint32_t i = 0; shares && i < count; i++)
		json_array_append_new(list, json_pack("[i, b]", (int)shares[i].cores, (int)shares[i].is_service));
	free(shares);
	return json_pack("{s:i, s:i, s:o*, s:s*, s:s*}", "index", (int)(c->index - c->first), "count", (int)count, "shares", list, "bind", h->spec->bind, "map",
	                 h->spec->bind ? h->spec->map : NULL);
}

void clusters_send_start(struct head *h, struct cluster *c)
{
	const char *option = h->spec->reconnecting, *variable = getenv("GODWIT_RECONNECTING");
	const struct host *host = &h->hosts[c->host];
	json_t *binds = json_array(), *msg;
	char secret[GW_TRUST_SECRET_HEX];

	c->is_start_sent = true;
	c->is_networked = h->is_networked;
	for (uint32_t i = 0; i < c->cores.n_binds; i++)
		json_array_append_new(binds, rt_cpus_json(&c->cores.binds[i]));
	msg = json_pack("{s:s, s:i, s:i, s:I, s:i, s:i, s:s, s:i, s:I, s:o, s:o, s:[s,s]}", "op", "start", "cluster", (int)c->index,
	                "domain", (int)c->cores.domain, "job", (json_int_t)h->job, "size", (int)h->worlds[0].size, "room", (int)h->room, "kvsname",
	                h->kvsname, "universe", h->spec->universe ? (int)h->spec->universe : -1, "incarnation",
	                (json_int_t)c->incarnation, "cores", rt_cpus_json(&c->cores.cpus), "binds", binds,
	                "reconnecting", option ? option : "", variable ? variable : "");
	if (h->is_networked) {
		json_object_set_new(msg, "host", json_integer((json_int_t)c->host));
		json_object_set_new(msg, "hostname", json_string(host->name));
	}
	if (h->spec->restart)
		json_object_set_new(msg, "restarting", json_true());
	if (host->is_remote)
		json_object_set_new(msg, "inherit", inherit_json(h));
	if (host->is_remote && CPU_COUNT(&c->cores.cpus) == 0) { /* else it shares those of one that is there */
		json_object_set_new(msg, "cut", cut_json(h, c));
		json_object_set_new(msg, "domain", json_integer((json_int_t)h->clusters[c->first].cores.domain));
	}
	/* a job of one host has no network, and needs no secret; who has joined knows it, and where it is */
	if (h->is_networked && !host->is_remote) {
		gw_trust_secret_print(secret, h->secret);
		json_object_set_new(msg, "address", json_string(grow_address(h)));
		json_object_set_new(msg, "secret", json_string(secret));
		explicit_bzero(secret, sizeof(secret));
	}
	gw_link_send_json_fds(c->link, msg, &host->segment_fd, host->segment_fd >= 0 ? 1 : 0);
	pmi_head_tell(h, c->index);
}

/* ---- numbered ------------------------------------------------------------------------------------------------------ */

struct host *clusters_new_host(struct head *h, const char *name)
{
	struct host *host = &h->hosts[h->n_hosts++];

	host->segment_fd = -1;
	if (name)
		snprintf(host->name, sizeof(host->name), "%s", name);
	else
		gethostname(host->name, sizeof(host->name) - 1);
	return host;
}

void clusters_copy_cores(struct rt_cluster_cores *to, const struct rt_cluster_cores *from)
{
	*to = *from;
	to->binds = from->n_binds ? malloc(from->n_binds * sizeof(*to->binds)) : NULL;
	if (to->binds)
		memcpy(to->binds, from->binds, from->n_binds * sizeof(*to->binds));
	else
		to->n_binds = 0;
}

bool clusters_is_host(const struct host *host, const char *name)
{
	return strcmp(host->name, name) == 0 || (host->is_this && hosts_is_here(name));
}

void clusters_hosts(const struct head *h, char *buf, size_t cap)
{
	size_t at = 0;

	*buf = '\0';
	for (uint32_t i = 0; i < h->n_hosts && at + sizeof(h->hosts[i].name) + 2 < cap; i++)
		if (clusters_have(h, i, h->n_clusters))
			at += (size_t)snprintf(buf + at, cap - at, "%s%s", at ? ", " : "", h->hosts[i].name);
}

bool clusters_have(const struct head *h, uint32_t host, uint32_t below)
{
	for (uint32_t i = 0; i < below; i++)
		if (h->clusters[i].host == host && h->clusters[i].state < CLUSTER_LEFT)
			return true;
	return false;
}

struct cluster *clusters_new(struct head *h, uint32_t host, uint32_t first)
{
	struct cluster *c = &h->clusters[h->n_clusters];
	uint64_t word;

	*c = (struct cluster){ .head = h, .host = host, .index = h->n_clusters++, .first = first };
	if (getrandom(&word, sizeof(word), 0) != sizeof(word))
		abort(); /* so few bytes are never refused once the system has booted */
	c->incarnation = (word >> 2) | 1; /* positive as a JSON integer, never 0 */
	return c;
}

/* ---- started ------------------------------------------------------------------------------------------------------- */

/* In a session of its own: what the terminal sends is for the head to decide, which forwards it. */
static void exec_daemon(const char *path, int head_fd, const struct rlimit *files)
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
	if (files->rlim_max)
		setrlimit(RLIMIT_NOFILE, files); /* ours is raised; the ranks keep what was set */
	execv(path, argv);
	_exit(127);
}

int clusters_start(struct head *h, struct cluster *c, const char *path, struct gw_error *why)
{
	int sv[2], code;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return gw_fail(why, -errno, "no socket for the daemon of cluster %u: %s", c->index, strerror(errno));
	c->pid = fork();
	if (c->pid == 0)
		exec_daemon(path, sv[1], &h->files);
	close(sv[1]);
	if (c->pid < 0) {
		code = -errno;
		close(sv[0]);
		return gw_fail(why, code, "the daemon of cluster %u cannot be started: %s%s", c->index, strerror(-code),
		               gw_advice(code));
	}
	code = gw_link_create(&c->link, h->loop, sv[0], &reports_link_ops, c);
	return code < 0 ? gw_fail(why, code, "no link to the daemon of cluster %u: %s", c->index, strerror(-code)) : 0;
}
