/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Other jobs of this user that ranks talk to: MPI_Comm_connect and MPI_Comm_accept.
 *
 * A rank that is given the address of a process of another job asks for it (`wish`, "meet"). The heads of the two jobs then
 * introduce one another, once, over the socket that tools use, or, on different machines, over a connection that meet.c makes:
 *
 *   head A                                 head B
 *     | meet: index, secret, address ------> |     index: of the other among our friends; secret: of the two jobs, made by A
 *     | <------------- met: index, address - |     address: where the hosts of a job reach this machine, if it has others
 *     |  (each gives its ranks a network, as for a second host: grow.c; friends.c does all up to here)
 *     | name, name, ... told --------------> |     where ranks listen; each that is new there gets a number of that job,
 *     | <-------------- name, name, ... told |     from the highest down: it is a guest (noc/guests.c), told to all daemons
 *     |  name ... whenever a rank has moved, come or gone, for as long as both jobs live; while the other head does not read,
 *     |           only the last of each rank is kept for it
 *     | ask: proc -----------------------------> |     a rank wants to talk to one that we have not heard of: will it ever be there?
 *     | <----------------- absent: proc, text -- |     no; else its name comes
 *     | bye: failed ----------------------> |     the job of A has ended
 *
 * Ranks talk to guests over the network, on the same host as well, and every rank of either job can be moved as before: the names of
 * guests are news as those of other hosts' ranks are. The job that ends first leaves names that are gone. Two jobs that want to
 * meet at the same moment do so by the call of the one with the lower number.
 *
 * Jobs find each other on mpirun's machine and of its user, as tools find them; on others with -meet only.
 */
#include <sodium.h>
#include <stdlib.h>

#include "noc/segment.h"
#include "runtime/launcher/friends.h"

#define MEET_MS 50000 /* until a rank that wants to meet somebody is refused */

struct waiter {              /* a rank that wants to meet */
	struct gw_list node;     /* head.waiters */
	struct head *head;
	uint32_t rank, job, proc;
	struct gw_timer *deadline;
};

/* ---- who waits -------------------------------------------------------------------------------------------------------- */

static void waiter_free(struct waiter *w)
{
	gw_timer_cancel(w->deadline);
	gw_list_remove(&w->node);
	free(w);
}

static struct guest *guest_of(const struct friend_job *f, uint32_t proc)
{
	for (uint32_t i = 0; i < f->n_guests; i++)
		if (f->guests[i].proc == proc)
			return &f->guests[i];
	return NULL;
}

/* The daemon of whoever is answered has been told of the guest before: on the same link. */
void guests_answer(struct friend_job *f, int status, const char *text)
{
	gw_list_for_safe(e, &f->head->waiters) {
		struct waiter *w = gw_list_entry(e, struct waiter, node);
		uint32_t rank = w->rank;

		if (w->job != f->job || (status == 0 && !guest_of(f, w->proc)))
			continue;
		waiter_free(w);
		wishes_answer(f->head, rank, status, text);
	}
}

void guests_gone(struct friend_job *f)
{
	for (uint32_t i = 0; i < f->n_guests; i++) { /* who waits for one of them need not */
		json_object_set_new(f->guests[i].name, "state", json_integer(NOC_NAME_GONE));
		for (uint32_t c = 0; c < f->head->n_clusters; c++)
			job_cluster_send(f->head, c, json_incref(f->guests[i].name));
	}
}

static void ask_for(struct friend_job *f, uint32_t proc)
{
	gw_link_send_json(f->link, json_pack("{s:s, s:I}", "op", "ask", "proc", (json_int_t)proc));
}

/* Who still waits, now that all names are there that were known when it was told */
static void ask_for_waiters(struct friend_job *f)
{
	gw_list_for(e, &f->head->waiters) {
		const struct waiter *w = gw_list_entry(e, struct waiter, node);

		if (w->job == f->job)
			ask_for(f, w->proc);
	}
}

static void on_deadline(void *ctx)
{
	struct waiter *w = ctx;
	struct head *h = w->head;
	uint32_t rank = w->rank, job = w->job;
	char text[200];

	snprintf(text, sizeof(text), "job %08x has not answered within %d s; is its mpirun, or a rank of one of the two jobs, stopped?", job,
	         MEET_MS / 1000);
	w->deadline = NULL;
	waiter_free(w);
	wishes_answer(h, rank, -ETIMEDOUT, text);
}

void guests_meet(struct head *h, uint32_t rank, const char *text)
{
	struct gw_error why = { 0 };
	struct friend_job *f;
	struct waiter *w;
	unsigned job, proc;

	if (sscanf(text, "%u %u", &job, &proc) != 2 || job == h->job) {
		wishes_answer(h, rank, -EINVAL, "the request is malformed");
		return;
	}
	f = friends_find(h, job);
	if (f && f->state == FRIEND_GONE) {
		wishes_answer(h, rank, -ECONNREFUSED, f->why_gone);
		return;
	}
	if (friends_may_meet(h, &why) == 0 && !f)
		f = friends_new(h, job, &why);
	if (why.code == 0 && f->state == FRIEND_NONE && friends_call(f, &why) < 0)
		friends_forget(f);
	if (why.code) {
		wishes_answer(h, rank, why.code, why.text);
		return;
	}
	if (guest_of(f, proc)) {
		wishes_answer(h, rank, 0, "");
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w || gw_loop_timer(h->loop, &w->deadline, MEET_MS, 0, on_deadline, w) < 0) {
		free(w);
		wishes_answer(h, rank, -ENOMEM, "out of memory");
		return;
	}
	w->head = h;
	w->rank = rank;
	w->job = job;
	w->proc = proc;
	gw_list_append(&h->waiters, &w->node);
	if (f->has_told)
		ask_for(f, proc);
}

/* ---- what friends say ------------------------------------------------------------------------------------------------------ */

/* To a daemon of another machine the secret goes sealed; one of this machine may not know that of the job. */
static void tell_guests(const struct friend_job *f, uint32_t from, uint32_t cluster)
{
	struct head *h = f->head;
	bool is_remote = h->hosts[h->clusters[cluster].host].is_remote;
	char secret[GW_TRUST_SEALED_HEX];
	json_t *guests = json_array();

	for (uint32_t i = from; i < f->n_guests; i++)
		json_array_append_new(guests, json_pack("[i, i]", (int)f->guests[i].number, (int)f->guests[i].proc));
	if (is_remote)
		gw_trust_secret_seal(secret, f->secret, h->secret);
	else
		gw_trust_secret_print(secret, f->secret);
	job_cluster_send(h, cluster, json_pack("{s:s, s:i, s:I, s:i, s:s, s:o}", "op", "guests", "index", (int)f->index, "job",
	                                       (json_int_t)f->job, "index_there", (int)f->index_there, is_remote ? "sealed" : "secret", secret,
	                                       "guests", guests));
	explicit_bzero(secret, sizeof(secret));
}

static struct guest *add_guest(struct friend_job *f, uint32_t proc)
{
	struct head *h = f->head;
	struct guest *more;

	if (h->n_guests >= h->room - h->size) {
		guests_answer(f, -ENOSPC, "no process number is left for it; start the job with a larger -usize");
		return NULL;
	}
	more = realloc(f->guests, (f->n_guests + 1) * sizeof(*more));
	if (!more)
		return NULL;
	f->guests = more;
	more[f->n_guests] = (struct guest){ .proc = proc, .number = h->room - ++h->n_guests };
	f->n_guests++;
	for (uint32_t c = 0; c < h->n_clusters; c++)
		tell_guests(f, f->n_guests - 1, c);
	return &f->guests[f->n_guests - 1];
}

static bool read_proc(const json_t *msg, const char *key, uint32_t *proc)
{
	const json_t *n = json_object_get(msg, key);

	if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > UINT32_MAX)
		return false;
	*proc = (uint32_t)json_integer_value(n);
	return true;
}

/* It lives on no host of ours, wherever that is. */
static void heard_name(struct friend_job *f, json_t *msg)
{
	struct guest *g;
	uint32_t proc;

	if (f->state != FRIEND_MET || !read_proc(msg, "rank", &proc))
		return;
	g = guest_of(f, proc);
	if (!g)
		g = add_guest(f, proc);
	if (!g)
		return;
	json_decref(g->name);
	g->name = json_copy(msg);
	json_object_set_new(g->name, "rank", json_integer(g->number));
	json_object_set_new(g->name, "cluster", json_integer(-1));
	json_object_set_new(g->name, "host", json_integer(-1));
	for (uint32_t c = 0; c < f->head->n_clusters; c++)
		job_cluster_send(f->head, c, json_incref(g->name));
	if (f->has_told) /* it came later, and somebody may have heard of it before we have */
		guests_answer(f, 0, "");
}

/* One that has a name has been told of; one that runs may get one yet. */
static void heard_ask(struct friend_job *f, json_t *msg)
{
	const struct head *h = f->head;
	bool is_ours;
	char text[100];
	uint32_t proc;

	if (!f->is_told || !read_proc(msg, "proc", &proc))
		return;
	is_ours = proc < h->size;
	if (is_ours && (h->ranks[proc].name || h->ranks[proc].state != RANK_ENDED))
		return;
	snprintf(text, sizeof(text), is_ours ? "rank %u of job %08x has ended" : "there is no rank %u in job %08x", proc, h->job);
	gw_link_send_json(f->link, json_pack("{s:s, s:I, s:s}", "op", "absent", "proc", (json_int_t)proc, "text", text));
}

static void heard_absent(struct friend_job *f, json_t *msg)
{
	const char *text = json_string_value(json_object_get(msg, "text"));
	uint32_t proc;

	if (!read_proc(msg, "proc", &proc))
		return;
	gw_list_for_safe(e, &f->head->waiters) {
		struct waiter *w = gw_list_entry(e, struct waiter, node);
		uint32_t rank = w->rank;

		if (w->job != f->job || w->proc != proc)
			continue;
		waiter_free(w);
		wishes_answer(f->head, rank, -ECONNREFUSED, text ? text : "it is not there");
	}
}

void guests_heard(struct head *h, const struct gw_link *l, json_t *msg)
{
	struct friend_job *f = friends_of(h, l);
	const char *op = json_string_value(json_object_get(msg, "op")), *text = json_string_value(json_object_get(msg, "text"));

	if (!op || !f)
		return;
	if (strcmp(op, "met") == 0) {
		friends_met(f, msg);
	} else if (strcmp(op, "name") == 0) {
		heard_name(f, msg);
	} else if (strcmp(op, "told") == 0 && f->state == FRIEND_MET) {
		f->has_told = true;
		gw_event("job.met", "{s:I, s:i}", "other", (json_int_t)f->job, "guests", (int)f->n_guests);
		guests_answer(f, 0, "");
		ask_for_waiters(f);
	} else if (strcmp(op, "ask") == 0) {
		heard_ask(f, msg);
	} else if (strcmp(op, "absent") == 0) {
		heard_absent(f, msg);
	} else if (strcmp(op, "bye") == 0) {
		f->has_ended_well = !json_is_true(json_object_get(msg, "failed"));
	} else if (strcmp(op, "refused") == 0) {
		friends_refused(f, text ? text : "its mpirun refuses");
	}
}

/* ---- what friends are told ---------------------------------------------------------------------------------------------------- */

void guests_check(struct head *h)
{
	bool is_wanted = false;

	gw_list_for(e, &h->friends) {
		const struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		is_wanted |= f->state == FRIEND_MET && !f->is_told;
	}
	if (!is_wanted || h->is_ending)
		return;
	h->is_networked = true;
	if (!grow_have_network(h))
		return;
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->state != FRIEND_MET || f->is_told)
			continue;
		f->is_told = true;
		for (uint32_t r = 0; r < h->size; r++)
			if (h->ranks[r].name)
				gw_link_send_json(f->link, json_incref(h->ranks[r].name));
		gw_link_send_json(f->link, json_pack("{s:s}", "op", "told"));
	}
}

void guests_no_network(struct head *h, const char *text)
{
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->state != FRIEND_MET || f->is_told)
			continue;
		friends_turn_down(f, text);
	}
}

/* A head that is stopped reads nothing, while ranks here go on moving. */
void guests_news(struct head *h, uint32_t rank)
{
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (!f->is_told)
			continue;
		if (gw_link_queued(f->link) && !f->news)
			f->news = calloc(h->room, sizeof(*f->news));
		if (gw_link_queued(f->link) && f->news)
			f->news[rank] = true;
		else
			gw_link_send_json(f->link, json_incref(h->ranks[rank].name));
	}
}

void guests_drained(struct head *h, const struct gw_link *l)
{
	struct friend_job *f = friends_of(h, l);

	for (uint32_t r = 0; f && r < h->size && f->news && f->is_told; r++)
		if (f->news[r]) {
			f->news[r] = false;
			gw_link_send_json(f->link, json_incref(h->ranks[r].name));
		}
}

void guests_tell(struct head *h, uint32_t cluster)
{
	gw_list_for(e, &h->friends) {
		const struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (!f->n_guests)
			continue;
		tell_guests(f, 0, cluster);
		for (uint32_t i = 0; i < f->n_guests; i++)
			job_cluster_send(h, cluster, json_incref(f->guests[i].name));
	}
}

uint32_t guests_any(const struct head *h)
{
	gw_list_for(e, &h->friends) {
		const struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->n_guests)
			return f->job;
	}
	return 0;
}

/* ---- from first to last ------------------------------------------------------------------------------------------------------------ */

void guests_init(struct head *h)
{
	gw_list_init(&h->friends);
	gw_list_init(&h->waiters);
}

void guests_fini(struct head *h)
{
	if (!h->friends.next)
		return; /* never begun */
	gw_list_for_safe(e, &h->waiters)
		waiter_free(gw_list_entry(e, struct waiter, node));
	gw_list_for_safe(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->state == FRIEND_MET)
			gw_link_send_json(f->link, json_pack("{s:s, s:b}", "op", "bye", "failed", h->exit_code != 0));
		friends_fini(f);
	}
}
