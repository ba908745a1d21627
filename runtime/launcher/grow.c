/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clusters that come while the job runs: on a host that has some already, or on a new one.
 *
 *   asked ──► numbers, daemons started as at the beginning ──up──► joined ──all of them──► [network] ──► up: ranks may move there
 *               │ cannot be started, does not come in time, dies                               │ cannot
 *               └──────────────────────────► given up, lost; the job goes on ◄─────────────────┘
 *
 * A job of one host has no network. With the second host each daemon that is there gets one (`network`), and lets the agents
 * of its ranks detach and attach again, at once, where they are; only when all have (`networked`) may a rank move away.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define COME_MS 60000 /* until all is ready; as at the start of a job */

struct growth {
	struct gw_list node;    /* head.growths */
	struct head *head;
	const struct host *host;
	uint32_t first, count;
	struct gw_timer *deadline;
	grow_done_fn *done;     /* NULL: who asked has gone */
	void *ctx;
};

static bool is_there(const struct cluster *c)
{
	return c->state < CLUSTER_LEAVING;
}

static void growth_free(struct growth *g)
{
	for (uint32_t i = 0; i < g->count; i++)
		g->head->clusters[g->first + i].growth = NULL;
	gw_timer_cancel(g->deadline);
	gw_list_remove(&g->node);
	free(g);
}

static void done(struct growth *g, int status, const char *text)
{
	grow_done_fn *fn = g->done;
	json_t *clusters = json_array(), *answer;
	void *ctx = g->ctx;

	for (uint32_t i = 0; i < g->count && status == 0; i++)
		json_array_append_new(clusters, json_integer((json_int_t)(g->first + i)));
	answer = json_pack("{s:s, s:s, s:o, s:i, s:s}", "op", "added", "host", g->host->name, "clusters", clusters, "status", status,
	                   "text", text);
	growth_free(g);
	if (fn)
		fn(ctx, answer);
	else
		json_decref(answer);
}

/* ---- it does not work ------------------------------------------------------------------------------------------------ */

static void give_up(struct cluster *c)
{
	struct head *h = c->head;

	c->growth = NULL;
	gw_link_destroy(c->link); /* its daemon ends with it */
	c->link = NULL;
	if (c->pid > 0 && !c->is_reaped) {
		kill(c->pid, SIGKILL);
		c->is_reaped = waitpid(c->pid, &c->wait_status, 0) == c->pid;
	}
	remote_give_up(c);
	c->state = CLUSTER_LOST;
	if (c->place)
		for (uint32_t i = 0; i < h->n_clusters; i++)
			job_cluster_send(h, i, json_pack("{s:s, s:i}", "op", "cluster-left", "cluster", (int)c->index));
	json_decref(c->place);
	c->place = NULL;
}

/* Something that a network was for has come to nothing: is there one, or about to be, or one more that needs it? */
static void settle(struct head *h)
{
	bool is_networked = false;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		const struct cluster *c = &h->clusters[i];

		is_networked |= c->state < CLUSTER_LEFT && (c->is_networked || c->is_network_asked || c->growth);
	}
	h->is_networked = is_networked;
}

static void abandon(struct growth *g)
{
	for (uint32_t i = 0; i < g->count; i++)
		give_up(&g->head->clusters[g->first + i]);
	settle(g->head);
}

void grow_failed(struct growth *g, int code, const char *fmt, ...)
{
	struct gw_error why = { 0 };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why.text, sizeof(why.text), fmt, ap);
	va_end(ap);
	if (!g->done)
		job_say(g->head, "mpirun: %s; the job goes on without it", why.text);
	gw_event("host.failed", "{s:s, s:s}", "host", g->host->name, "text", why.text);
	abandon(g);
	done(g, code, why.text);
}

static void on_deadline(void *ctx)
{
	struct growth *g = ctx;
	const struct head *h = g->head;

	g->deadline = NULL;
	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (h->clusters[i].is_network_asked && is_there(&h->clusters[i])) {
			grow_failed(g, -ETIMEDOUT, "host %s: the ranks of cluster %u have not taken up the network within %d s; is one "
			            "stopped?", g->host->name, i, COME_MS / 1000);
			return;
		}
	grow_failed(g, -ETIMEDOUT, "host %s: its daemon has not come within %d s", g->host->name, COME_MS / 1000);
}

/* ---- it comes -------------------------------------------------------------------------------------------------------- */

const char *grow_address(const struct head *h)
{
	return doors_address(h) ? doors_address(h) : h->near_address[0] ? h->near_address : "127.0.0.1";
}

bool grow_have_network(struct head *h)
{
	char secret[GW_TRUST_SECRET_HEX];
	bool all = true;

	for (uint32_t i = 0; i < h->n_clusters && h->is_networked; i++) {
		struct cluster *c = &h->clusters[i];

		if (!is_there(c) || c->is_networked || !c->is_start_sent)
			continue;
		all = false;
		if (c->is_network_asked)
			continue;
		c->is_network_asked = true;
		gw_trust_secret_print(secret, h->secret);
		job_cluster_send(h, i, json_pack("{s:s, s:i, s:s, s:s}", "op", "network", "host", (int)c->host, "address",
		                                 grow_address(h), "secret", secret));
		explicit_bzero(secret, sizeof(secret));
	}
	return all;
}

static bool is_complete(const struct growth *g)
{
	for (uint32_t i = 0; i < g->count; i++)
		if (g->head->clusters[g->first + i].state != CLUSTER_JOINED)
			return false;
	return true;
}

static void open_up(struct growth *g)
{
	struct head *h = g->head;

	for (uint32_t i = 0; i < g->count; i++) {
		struct cluster *c = &h->clusters[g->first + i];

		c->state = CLUSTER_UP;
		gw_event("cluster.joined", "{s:i, s:s}", "cluster", (int)c->index, "host", g->host->name);
	}
	done(g, 0, "");
	drain_check(h);
}

void grow_check(struct head *h)
{
	bool again = true;

	while (again && !h->is_ending) { /* who is told of an end may begin something */
		again = false;
		gw_list_for(e, &h->growths) {
			struct growth *g = gw_list_entry(e, struct growth, node);

			if (!is_complete(g) || !grow_have_network(h))
				continue;
			open_up(g);
			again = true;
			break;
		}
	}
	guests_check(h);
}

void grow_networked(struct cluster *c, json_t *msg)
{
	const char *text = json_string_value(json_object_get(msg, "text"));
	struct head *h = c->head;

	c->is_network_asked = false;
	if (!text) {
		grow_check(h);
		return;
	}
	while (!gw_list_is_empty(&h->growths)) {
		struct growth *g = gw_list_entry(h->growths.next, struct growth, node);

		grow_failed(g, -EIO, "host %s: cluster %u cannot take up a network: %s", g->host->name, c->index, text);
	}
	guests_no_network(h, text);
	settle(h);
}

/* ---- asked for ------------------------------------------------------------------------------------------------------- */

/* A host of this kind and name that has a cluster whose memory others can share. NULL with @why.code 0: there is none */
static struct host *find(struct head *h, const char *name, const struct host *kind, struct gw_error *why)
{
	bool is_starting = false;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		const struct cluster *c = &h->clusters[i];
		struct host *host = &h->hosts[c->host];

		if (host->is_remote != kind->is_remote || host->is_this != kind->is_this || !clusters_is_host(host, name))
			continue;
		if (c->state == CLUSTER_UP)
			return host;
		is_starting |= c->state < CLUSTER_UP;
	}
	if (is_starting)
		gw_fail(why, -EAGAIN, "host %s is still starting", name);
	return NULL;
}

/* The clusters of a host share its processors, those of one domain all of them: the new one those that the fewest have. */
static void share_cores(const struct head *h, struct cluster *c)
{
	const struct cluster *best = NULL;
	uint32_t least = UINT32_MAX;

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		const struct cluster *with = &h->clusters[i];
		uint32_t n = 0;

		if (with == c || with->host != c->host || with->state != CLUSTER_UP)
			continue;
		for (uint32_t k = 0; k < h->n_clusters; k++)
			n += is_there(&h->clusters[k]) && &h->clusters[k] != c && h->clusters[k].cores.domain == with->cores.domain;
		if (n < least) {
			least = n;
			best = with;
		}
	}
	if (best)
		clusters_copy_cores(&c->cores, &best->cores);
}

/* A new host that this machine is, or plays */
static int cut_cores(struct head *h, uint32_t first, uint32_t count, struct gw_error *why)
{
	struct rt_cluster_cores *cores = NULL;
	int code;

	layout_unbind(h); /* what mpirun may not use is not cut */
	code = rt_topology_cut(&cores, count, NULL, NULL, why);
	layout_bind(h);
	if (code < 0)
		return code;
	for (uint32_t i = 0; i < count; i++) {
		h->clusters[first + i].cores = cores[i];
		h->clusters[first + i].cores.domain += h->n_domains;
	}
	h->n_domains += (uint32_t)code;
	free(cores);
	return 0;
}

static int start(struct growth *g, bool is_new_host, struct gw_error *why)
{
	struct head *h = g->head;
	char path[4096];
	int code = own_path(path, sizeof(path), "godwitd");

	if (code < 0)
		return gw_fail(why, code, "the daemon cannot be found: %s", strerror(-code));
	if (is_new_host && !g->host->is_remote && (code = cut_cores(h, g->first, g->count, why)) < 0)
		return code;
	if (g->host->is_remote)
		return remote_launch(h, g->first, 1, path, why);
	for (uint32_t i = 0; i < g->count && code == 0; i++)
		code = clusters_start(h, &h->clusters[g->first + i], path, why);
	if (code == 0)
		clusters_send_start(h, &h->clusters[g->first]);
	return code;
}

static int check_name(const char *name, struct gw_error *why)
{
	if (!*name || strlen(name) >= sizeof(((struct host *)NULL)->name) || *name == '-') /* ssh would take it for an option */
		return gw_fail(why, -EINVAL, "'%.100s' is not the name of a host", name);
	return 0;
}

/* Without a launcher's name: as mpirun was told. @kind borrows its words. */
static int choose_kind(const struct head *h, const char *name, const char *launcher, struct host *kind, struct gw_error *why)
{
	bool is_played = launcher ? strcmp(launcher, "fork") == 0 : h->spec->is_forked;

	kind->is_slurm = launcher ? strcmp(launcher, "slurm") == 0 : h->spec->is_slurm;
	kind->is_this = !is_played && !kind->is_slurm && !h->spec->pool && hosts_is_here(name);
	kind->is_remote = !is_played && !kind->is_this;
	if (!launcher)
		kind->launcher = (char *)(uintptr_t)h->spec->launcher;
	else if (hosts_is_launcher(launcher))
		kind->launcher = (char *)(uintptr_t)launcher;
	else if (!is_played && !kind->is_slurm && strcmp(launcher, "ssh") != 0)
		return gw_fail(why, -EINVAL, "'%s' is no launcher: there are fork, ssh, slurm, and commands in which the words %%h (the host) and "
		               "%%c (what to run there) stand", launcher);
	if (kind->is_slurm && !h->spec->is_slurm)
		return gw_fail(why, -EINVAL, "the job does not run in a Slurm allocation");
	return 0;
}

int grow_begin(struct head *h, const char *name, uint32_t count, const char *launcher, grow_done_fn *fn, void *ctx,
               struct gw_error *why)
{
	struct host kind = { 0 }, *host;
	struct growth *g;
	bool is_new;
	int code = check_name(name, why);

	if (code == 0)
		code = choose_kind(h, name, launcher, &kind, why);
	if (code < 0)
		return code;
	if (h->is_ending)
		return gw_fail(why, -ESHUTDOWN, "the job is about to end");
	if (suspend_refuse(h, why) < 0)
		return why->code;
	if (count > RT_CLUSTERS_MAX - h->n_clusters)
		return gw_fail(why, -E2BIG, "a job has at most %d clusters in all its life, and this one has had %u", RT_CLUSTERS_MAX,
		               h->n_clusters);
	host = find(h, name, &kind, why);
	if (!host && why->code)
		return why->code;
	is_new = !host;
	if (is_new && kind.is_remote && h->is_networked && !doors_address(h))
		return gw_fail(why, -EINVAL, "the ranks of this job listen at %s, where real hosts cannot reach them: this machine plays its hosts "
		               "(-launcher fork), or it has connected to another job of this machine", grow_address(h));
	if (is_new && kind.is_remote && (code = remote_listen(h, name, why)) < 0)
		return code;
	g = calloc(1, sizeof(*g));
	if (!g || gw_loop_timer(h->loop, &g->deadline, COME_MS, 0, on_deadline, g) < 0) {
		free(g);
		return gw_fail(why, -ENOMEM, "out of memory");
	}
	if (is_new) {
		host = clusters_new_host(h, name);
		host->is_this = kind.is_this;
		host->is_remote = kind.is_remote;
		host->is_slurm = kind.is_slurm;
		host->launcher = kind.launcher ? strdup(kind.launcher) : NULL;
		h->is_networked = true;
	}
	g->head = h;
	g->host = host;
	g->first = h->n_clusters;
	g->count = count;
	gw_list_append(&h->growths, &g->node);
	for (uint32_t i = 0; i < count; i++) {
		struct cluster *c = clusters_new(h, (uint32_t)(host - h->hosts), g->first);

		c->growth = g;
		if (!is_new)
			share_cores(h, c);
		else if (host->is_remote)
			c->cores.domain = h->n_domains++; /* it cuts itself, into at most as many */
	}
	code = start(g, is_new, why);
	if (code < 0) {
		abandon(g);
		growth_free(g);
		return code;
	}
	g->done = fn;
	g->ctx = ctx;
	gw_event("host.coming", "{s:s, s:i, s:i}", "host", name, "first", (int)g->first, "clusters", (int)count);
	return 0;
}

void grow_forget(struct head *h, const void *ctx)
{
	gw_list_for(e, &h->growths) {
		struct growth *g = gw_list_entry(e, struct growth, node);

		if (g->ctx != ctx)
			continue;
		g->done = NULL;
		g->ctx = NULL;
	}
}

void grow_fini(struct head *h)
{
	gw_list_for_safe(e, &h->growths)
		growth_free(gw_list_entry(e, struct growth, node));
}
