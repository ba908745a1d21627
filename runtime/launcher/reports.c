/* SPDX-License-Identifier: BSD-2-Clause */
/* What the daemons report: a table of their words (runtime/wire.h) and what each means for the head. */
#include <signal.h>

#include "runtime/launcher/baseline.h"
#include "runtime/launcher/head.h"

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

/* Daemons of different hosts move ranks to each other over TCP: each hears of the others, whoever comes first. */
static void introduce(struct cluster *c, json_t *msg)
{
	struct head *h = c->head;

	if (!c->is_networked)
		return;
	c->place = json_pack("{s:s, s:i, s:s, s:I}", "op", "daemon", "cluster", (int)c->index, "address", text_of(msg, "address"),
	                     "port", (json_int_t)number_of(msg, "port"));
	for (uint32_t i = 0; i < h->n_clusters && c->place; i++)
		if (h->clusters[i].place && h->clusters[i].host != c->host) {
			job_cluster_send(h, i, json_incref(c->place));
			job_cluster_send(h, c->index, json_incref(h->clusters[i].place));
		}
}

/* What another machine has found out about itself. Domains of all its clusters: the ranks of each share cores with others'. */
static int take_place(struct cluster *c, const json_t *place)
{
	const json_t *binds = json_object_get(place, "binds"), *domains = json_object_get(place, "domains");
	uint32_t n = (uint32_t)json_array_size(binds);
	cpu_set_t *sets = n ? calloc(n, sizeof(*sets)) : NULL;
	struct head *h = c->head;

	if (n && !sets)
		return -ENOMEM;
	rt_cpus_read(json_object_get(place, "cores"), &c->cores.cpus);
	c->cores.cores = (uint32_t)CPU_COUNT(&c->cores.cpus);
	for (uint32_t i = 0; i < n; i++)
		rt_cpus_read(json_array_get(binds, i), &sets[i]);
	for (size_t i = 0; i < RT_NEAR; i++)
		c->cores.near[i] = (uint32_t)json_integer_value(json_array_get(json_object_get(place, "near"), i));
	free(c->cores.binds);
	c->cores.binds = sets;
	c->cores.n_binds = n;
	for (uint32_t i = 0; i < json_array_size(domains) && c->first + i < h->n_clusters; i++)
		if (h->clusters[c->first + i].first == c->first)
			h->clusters[c->first + i].cores.domain = (uint32_t)json_integer_value(json_array_get(domains, i));
	return 0;
}

static void do_up(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	json_int_t room = number_of(msg, "room");

	if (c->state != CLUSTER_STARTING)
		return;
	if (c->growth && room < (h->n_guests ? h->room : h->size)) { /* guests have the highest numbers */
		grow_failed(c->growth, -ENOSPC, "host %s: memfd_create is denied there, so no process can be there that the job has not begun "
		            "with, and it has spawned some, or connected to another job; allow it", h->hosts[c->host].name);
		return;
	}
	c->state = c->growth ? CLUSTER_JOINED : CLUSTER_UP;
	c->daemon = (pid_t)number_of(msg, "pid");
	if (room >= h->size && room < h->room)
		h->room = (uint32_t)room; /* its segment is a file: there is none to spare */
	if (h->hosts[c->host].is_remote && take_place(c, json_object_get(msg, "place")) < 0) {
		job_fail(h, 1, "host %s: it cannot be told how it was cut into clusters; out of memory", h->hosts[c->host].name);
		return;
	}
	gw_event("cluster.ready", "{s:i, s:o, s:i, s:i, s:i}", "cluster", (int)c->index, "name", gw_event_text(h->hosts[c->host].name), "place", (int)c->host,
	         "cores", (int)c->cores.cores, "domain", (int)c->cores.domain);
	introduce(c, msg);
	if (n_fds && h->hosts[c->host].segment_fd < 0) {
		h->hosts[c->host].segment_fd = fds[0];
		fds[0] = -1;
	}
	if (c->index == c->first) /* it has the segment; now the others that were started with it can start */
		for (uint32_t i = c->index + 1; i < h->n_clusters && h->clusters[i].first == c->index; i++)
			if (h->clusters[i].link && h->clusters[i].state == CLUSTER_STARTING)
				clusters_send_start(h, &h->clusters[i]);
	for (uint32_t i = 0; i < h->size; i++)
		if (h->ranks[i].name && h->ranks[i].name_host != c->host)
			job_cluster_send(h, c->index, json_incref(h->ranks[i].name));
	guests_tell(h, c->index);
	ct_cpu_parse(&c->cpu, json_string_value(json_object_get(msg, "cpu")) ? json_string_value(json_object_get(msg, "cpu")) : "");
	if (!c->growth) /* what comes later has no ranks to begin with, and what it can do is no matter for those that run */
		baseline_cluster_up(h, c);
	grow_check(h);
	drain_check(h);
	pool_placed(h);
}

static void say_launched(const struct cluster *c, uint32_t n, json_int_t slot)
{
	const cpu_set_t *cpus = slot >= 0 && slot < (json_int_t)c->cores.n_binds ? &c->cores.binds[slot] : &c->cores.cpus;
	char list[512] = "", name[CLUSTER_NAME_MAX];
	size_t at = 0;

	for (int i = 0; i < CPU_SETSIZE && at < sizeof(list) - 16; i++) {
		int from = i;

		if (!CPU_ISSET((size_t)i, cpus))
			continue;
		while (i + 1 < CPU_SETSIZE && CPU_ISSET((size_t)i + 1, cpus))
			i++;
		at += (size_t)snprintf(list + at, sizeof(list) - at, i > from ? "%s%d-%d" : "%s%d", at ? "," : "", from, i);
	}
	job_say(c->head, "mpirun: rank %u runs on %s as process %d, processors %s", n, clusters_name(c->head, c->index, name),
	        (int)c->head->ranks[n].pid, list);
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
		say_launched(c, n, number_of(msg, "slot"));
	input_start(h, n);
	signals_send_held(h, n);
	spawn_launched(h, n);
	debug_launched(h);
	drain_check(h);
	pool_placed(h);
}

/* "host rig2: " before a daemon's own words, when there are others */
static const char *host_prefix(const struct cluster *c, char *buf)
{
	buf[0] = '\0';
	if (c->head->is_networked || c->head->hosts[c->host].is_remote)
		snprintf(buf, CLUSTER_NAME_MAX, "host %s: ", c->head->hosts[c->host].name);
	return buf;
}

static void do_launch_failed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	char host[CLUSTER_NAME_MAX];
	int code = (int)number_of(msg, "code");

	(void)fds; (void)n_fds;
	if (spawn_failed(c->head, (uint32_t)number_of(msg, "rank"), text_of(msg, "text")))
		return;
	/* as a shell says it: 127 not found, 126 found but not to be executed */
	job_fail(c->head, code == -ENOENT ? 127 : code == -EACCES || code == -ENOEXEC ? 126 : 1, "%s%s",
	         host_prefix(c, host), text_of(msg, "text"));
}

/* News of a name for the other hosts: the directory of a job is its head. To every daemon there, since any of them may be
 * gone, and writing it twice changes nothing. A daemon that is not up yet is told when it is. */
static void do_name(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	uint32_t n;
	struct rank *r = rank_of(h, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || (r->name && (number_of(r->name, "epoch") > number_of(msg, "epoch") ||
	                       number_of(r->name, "incarnation") > number_of(msg, "incarnation"))))
		return; /* late news of where it was before */
	json_decref(r->name);
	r->name = json_copy(msg);
	r->name_host = c->host;
	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (h->clusters[i].host != c->host)
			job_cluster_send(h, i, json_incref(r->name));
	guests_news(h, n);
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
	r->cluster = c->index;
	record_ended(h, n);
	verdict_rank_ended(h, n, (int)number_of(msg, "status"), phase);
	suspend_check(h);
	drain_check(h);
	pool_placed(h);
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
	gw_event("rank.moved", "{s:i, s:i, s:I}", "rank", (int)n, "cluster", (int)c->index, "epoch", (json_int_t)epoch);
	for (int i = 0; i < 2; i++) /* an acknowledgement may have gone to the old owner only */
		job_cluster_send(h, c->index, json_pack("{s:s, s:i, s:i, s:I}", "op", "output-ack", "rank", (int)n, "stream",
		                                        RT_STDOUT + i, "offset", (json_int_t)r->out[i].acked));
	debug_moved(h, n);
	input_moved(h, n, (uint64_t)number_of(msg, "stdin"));
	signals_send_held(h, n);
	drain_check(h);
	pool_placed(h);
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
	char name[CLUSTER_NAME_MAX];
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (r && c->head->spec->is_surviving)
		return; /* it ends by itself, and is judged then */
	if (r)
		job_fail(c->head, code & 255, "rank %u (pid %d, %s) aborted the job with code %d%s%s", n, (int)r->pid,
		         clusters_name(c->head, c->index, name), code, *text ? ": " : "", text);
}

/* It does not speak PMI, or not with our MPI: @text says what it does. */
static void do_broken(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	char name[CLUSTER_NAME_MAX];
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (r)
		job_fail(c->head, 1, "rank %u (pid %d, %s) %s; ending the job", n, (int)r->pid,
		         clusters_name(c->head, c->index, name), text_of(msg, "text"));
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
	if (rank_of(c->head, msg, &n))
		input_closed(c->head, n);
}

static void do_undelivered(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		signals_undelivered(c->head, n, c->index, (int)number_of(msg, "signal"));
}

static void do_signalled(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		signals_delivered(c->head, n, (int)number_of(msg, "signal"));
}

/* Not yet that it is there: who took it says so, or has died, and then decide_lost() looks at this. */
static void do_given(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint64_t epoch = (uint64_t)number_of(msg, "epoch");
	json_int_t to = number_of(msg, "to");
	uint32_t n;
	struct rank *r = rank_of(c->head, msg, &n);

	(void)fds; (void)n_fds;
	if (!r || to < 0 || to >= (json_int_t)c->head->n_clusters || epoch <= r->given_epoch)
		return;
	r->given_epoch = epoch;
	r->given_to = (uint32_t)to;
}

static void do_attach_failed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	char name[CLUSTER_NAME_MAX];
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		job_fail(c->head, 1, "rank %u cannot take up its communication again on %s after a move: %s; ending the job",
		         n, clusters_name(c->head, c->index, name), text_of(msg, "text"));
}

/* By post-copy it ran already, and pages of it were still where it came from. */
static void do_starved(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	const char *dir = json_string_value(json_object_get(json_object_get(c->head->checkpoints, "last"), "dir"));
	json_t *from = json_object_get(msg, "from");
	uint32_t n, at = (uint32_t)json_integer_value(from);
	char name[CLUSTER_NAME_MAX] = "elsewhere";

	(void)fds; (void)n_fds;
	if (json_is_integer(from) && at < c->head->n_clusters)
		clusters_name(c->head, at, name);
	if (rank_of(c->head, msg, &n))
		job_fail(c->head, 1, "%s (it came from %s); ending the job, %s%s%s", text_of(msg, "text"), name,
		         dir ? "whose last checkpoint is in '" : "of which there is no checkpoint", dir ? dir : "", dir ? "'" : "");
}

static void do_cluster_lost_ack(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	clusters_lost_ack(c->head, (uint32_t)number_of(msg, "cluster"), c->index);
}

static void do_migrate_done(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	moves_answered(c->head, msg);
	wishes_check(c->head);
	suspend_check(c->head);
	drain_check(c->head);
}

static void do_wish(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	uint32_t n;

	(void)fds; (void)n_fds;
	if (rank_of(c->head, msg, &n))
		wishes_heard(c->head, n, msg);
}

static void do_status_answer(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	survey_heard(c, msg);
}

static void do_networked(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	if (!c->is_network_asked)
		return;
	c->is_networked = !json_object_get(msg, "text");
	introduce(c, msg);
	grow_networked(c, msg);
}

static void do_suspend_quiet(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	suspend_heard(c, msg, SUSPEND_QUIET);
}

static void do_suspended(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	suspend_heard(c, msg, SUSPEND_STOP);
}

static void do_measured(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	balance_heard(c, msg);
	survey_heard(c, msg);
}

static void do_checkpointed(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	checkpoint_heard(c, msg);
	suspend_heard(c, msg, SUSPEND_WRITE);
}

static void do_restored(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	restart_heard(c, msg);
}

static void do_image_ask(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	restart_ask(c, msg);
}

static void do_left(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	clusters_left(c);
}

/* Running ranks of either host that talk over the network. Return: does each have some? */
static bool list_talking(const struct head *h, const uint32_t hosts[2], char *list, size_t cap)
{
	bool has[2] = { false, false };
	size_t at = 0;

	for (uint32_t r = 0; r < h->size; r++) {
		uint32_t host = h->clusters[h->ranks[r].cluster].host;

		if (h->ranks[r].state != RANK_RUNNING || !h->ranks[r].name || (host != hosts[0] && host != hosts[1]))
			continue;
		has[host == hosts[1]] = true;
		if (at < cap - 16)
			at += (size_t)snprintf(list + at, cap - at, "%s%u", at ? ", " : "", r);
	}
	return has[0] && has[1];
}

/* Two hosts that mpirun reaches do not reach each other: ranks on both would wait for ever. */
static void do_unreachable(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	struct head *h = c->head;
	json_int_t to = number_of(msg, "cluster");
	const char *a = h->hosts[c->host].name, *b;
	char list[256] = "";

	(void)fds; (void)n_fds;
	if (to < 0 || to >= (json_int_t)h->n_clusters || h->clusters[to].state != CLUSTER_UP || h->is_ending)
		return;
	b = h->hosts[h->clusters[to].host].name;
	if (list_talking(h, (uint32_t[]){ c->host, h->clusters[to].host }, list, sizeof(list)))
		job_fail(h, 1, "hosts %s and %s cannot reach each other (%s), and ranks %s live there; ending the job", a, b,
		         text_of(msg, "text"), list);
	else
		gw_log(GW_WARN, "hosts %s and %s cannot reach each other: %s", a, b, text_of(msg, "text"));
}

static void do_fatal(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	char host[CLUSTER_NAME_MAX];

	(void)fds; (void)n_fds;
	if (c->growth) {
		grow_failed(c->growth, -EIO, "host %s: %s", c->head->hosts[c->host].name, text_of(msg, "text"));
		return;
	}
	job_fail(c->head, 1, "%s%s; ending the job", host_prefix(c, host), text_of(msg, "text"));
}

static void do_told(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	signals_told(c, (int)json_integer_value(json_object_get(msg, "signal")));
}

static void do_notice(struct cluster *c, json_t *msg, int *fds, size_t n_fds)
{
	(void)msg; (void)fds; (void)n_fds;
	notice_told(c);
}

static const struct cluster_op {
	const char *name;
	void (*handle)(struct cluster *c, json_t *msg, int *fds, size_t n_fds);
} cluster_ops[] = {
	{ "up", do_up },
	{ "launched", do_launched },
	{ "launch-failed", do_launch_failed },
	{ "name", do_name },
	{ "exited", do_exited },
	{ "moved", do_moved },
	{ "barrier", do_barrier },
	{ "pmi-ask", do_pmi_ask },
	{ "abort", do_abort },
	{ "broken", do_broken },
	{ "stdin-ack", do_stdin_ack },
	{ "stdin-closed", do_stdin_closed },
	{ "undelivered", do_undelivered },
	{ "signalled", do_signalled },
	{ "told", do_told },
	{ "notice", do_notice },
	{ "given", do_given },
	{ "attach-failed", do_attach_failed },
	{ "starved", do_starved },
	{ "cluster-lost-ack", do_cluster_lost_ack },
	{ "migrate-done", do_migrate_done },
	{ "wish", do_wish },
	{ "status-answer", do_status_answer },
	{ "networked", do_networked },
	{ "suspend-quiet", do_suspend_quiet },
	{ "measured", do_measured },
	{ "suspended", do_suspended },
	{ "checkpointed", do_checkpointed },
	{ "image-ask", do_image_ask },
	{ "restored", do_restored },
	{ "restore-failed", do_restored },
	{ "restart-cut", do_restored },
	{ "left", do_left },
	{ "unreachable", do_unreachable },
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

const struct gw_link_ops reports_link_ops = { .frame = on_cluster_frame, .json = on_cluster_json, .closed = clusters_closed };
