/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Other jobs of this user that ranks talk to: MPI_Comm_connect and MPI_Comm_accept.
 *
 * A rank that is given the address of a process of another job asks for it (`wish`, "meet"). The heads of the two jobs then
 * introduce one another, once, over the socket that tools use:
 *
 *   head A                                 head B
 *     | meet: index, secret, address ------> |     index: of the other among our friends; secret: of the two jobs, made by A
 *     | <------------- met: index, address - |     address: where the hosts of a job reach this machine, if it has others
 *     |  (each gives its ranks a network, as for a second host: grow.c)
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
 * Jobs find each other on mpirun's machine and of its user only, as tools find them.
 */
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

#include "noc/segment.h"
#include "runtime/launcher/head.h"

#define MEET_MS 50000 /* until a rank that wants to meet somebody is refused */

enum friend_state {
	FRIEND_NONE,    /* it was tried, came to nothing, and can be tried again */
	FRIEND_CALLING, /* meet is on its way */
	FRIEND_MET,     /* it has our number for it, and we its */
	FRIEND_GONE,    /* its job has ended, or its ranks were known here and cannot be talked to: a name that is gone does not come back */
};

struct guest {
	uint32_t proc, number;
	json_t *name;            /* the last news, under our number */
};

struct friend_job {
	struct gw_list node;     /* head.friends */
	struct head *head;
	uint32_t job, index, index_there;
	enum friend_state state;
	struct gw_link *link;    /* NULL: none */
	bool is_ours;            /* the link: we have called */
	bool is_told, has_told;  /* it has our names, and gets the news; we have its */
	bool *news;              /* [head.room], of ranks: it has not read what it was sent, and will get this when it has. NULL: none yet */
	bool has_ended_well;     /* it has said so */
	char why_gone[200];      /* of FRIEND_GONE: a sentence */
	uint8_t secret[32];
	struct guest *guests;
	uint32_t n_guests;
};

struct waiter {              /* a rank that wants to meet */
	struct gw_list node;     /* head.waiters */
	struct head *head;
	uint32_t rank, job, proc;
	struct gw_timer *deadline;
};

static struct friend_job *find(const struct head *h, uint32_t job)
{
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->job == job)
			return f;
	}
	return NULL;
}

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
static void answer_waiters(struct friend_job *f, int status, const char *text)
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

/* ---- a friend is made, and lost ------------------------------------------------------------------------------------------ */

static void friend_lost(struct friend_job *f, enum friend_state state, const char *text)
{
	if (f->n_guests && state == FRIEND_NONE) {
		snprintf(f->why_gone, sizeof(f->why_gone), "the two jobs could not connect before, and cannot any more: %s", text);
		state = FRIEND_GONE;
	} else if (state == FRIEND_GONE) {
		snprintf(f->why_gone, sizeof(f->why_gone), "%s", text);
	}
	gw_event("job.parted", "{s:I, s:o}", "other", (json_int_t)f->job, "text", gw_event_text(text));
	if (f->is_ours)
		gw_link_destroy(f->link);
	f->link = NULL;
	f->is_told = f->has_told = f->is_ours = false;
	free(f->news);
	f->news = NULL;
	f->state = state;
	for (uint32_t i = 0; i < f->n_guests; i++) { /* who waits for one of them need not */
		json_object_set_new(f->guests[i].name, "state", json_integer(NOC_NAME_GONE));
		for (uint32_t c = 0; c < f->head->n_clusters; c++)
			job_cluster_send(f->head, c, json_incref(f->guests[i].name));
	}
	answer_waiters(f, -ECONNREFUSED, text);
}

/* We do not want it, after all; but its job lives, and hears why. */
static void turn_down(struct friend_job *f, const char *text)
{
	gw_link_send_json(f->link, json_pack("{s:s, s:s}", "op", "refused", "text", text));
	friend_lost(f, FRIEND_NONE, text);
}

static struct friend_job *friend_new(struct head *h, uint32_t job, struct gw_error *why)
{
	struct friend_job *f;

	if (h->n_friends == NOC_FRIENDS_MAX) {
		gw_fail(why, -ENOSPC, "a job talks to at most %d other jobs in all its life", NOC_FRIENDS_MAX);
		return NULL;
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		gw_fail(why, -ENOMEM, "out of memory");
		return NULL;
	}
	f->head = h;
	f->job = job;
	f->index = h->n_friends++;
	gw_list_append(&h->friends, &f->node);
	return f;
}

static int may_meet(const struct head *h, struct gw_error *why)
{
	if (h->is_ending)
		return gw_fail(why, -ESHUTDOWN, "job %08x is about to end", h->job);
	return suspend_refuse(h, why);
}

/* Ranks listen at one address of their machine. Where only one of two jobs has other hosts, the other one takes that job's. */
static int agree_on_address(struct head *h, const char *theirs, struct gw_error *why)
{
	if (!theirs || doors_address(h) || strcmp(theirs, h->near_address) == 0)
		return 0;
	if (h->is_networked)
		return gw_fail(why, -EADDRNOTAVAIL, "the ranks of job %08x listen at %s, where the other hosts of the other job cannot reach them",
		               h->job, grow_address(h));
	if (strlen(theirs) >= sizeof(h->near_address))
		return gw_fail(why, -EPROTO, "its address is malformed");
	strcpy(h->near_address, theirs);
	return 0;
}

static int reach(uint32_t job, struct gw_error *why);
static void call(struct friend_job *f, int fd);

void guests_meet(struct head *h, uint32_t rank, const char *text)
{
	struct gw_error why = { 0 };
	struct friend_job *f;
	struct waiter *w;
	unsigned job, proc;
	gw_autoclose int fd = -1;

	if (sscanf(text, "%u %u", &job, &proc) != 2 || job == h->job) {
		wishes_answer(h, rank, -EINVAL, "the request is malformed");
		return;
	}
	f = find(h, job);
	if (f && f->state == FRIEND_GONE) {
		wishes_answer(h, rank, -ECONNREFUSED, f->why_gone);
		return;
	}
	if (may_meet(h, &why) < 0 || ((!f || f->state == FRIEND_NONE) && (fd = reach(job, &why)) < 0) ||
	    (!f && !(f = friend_new(h, job, &why)))) {
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
	if (fd >= 0)
		call(f, fd);
	else if (f->has_told)
		ask_for(f, proc);
	fd = -1;
}

/* ---- what friends say ------------------------------------------------------------------------------------------------------ */

static json_t *guests_json(const struct friend_job *f, uint32_t from)
{
	char secret[GW_TRUST_SECRET_HEX];
	json_t *guests = json_array(), *msg;

	for (uint32_t i = from; i < f->n_guests; i++)
		json_array_append_new(guests, json_pack("[i, i]", (int)f->guests[i].number, (int)f->guests[i].proc));
	gw_trust_secret_print(secret, f->secret);
	msg = json_pack("{s:s, s:i, s:I, s:i, s:s, s:o}", "op", "guests", "index", (int)f->index, "job", (json_int_t)f->job, "index_there",
	                (int)f->index_there, "secret", secret, "guests", guests);
	explicit_bzero(secret, sizeof(secret));
	return msg;
}

static struct guest *add_guest(struct friend_job *f, uint32_t proc)
{
	struct head *h = f->head;
	struct guest *more;
	json_t *msg;

	if (h->n_guests >= h->room - h->size) {
		answer_waiters(f, -ENOSPC, "no process number is left for it; start the job with a larger -usize");
		return NULL;
	}
	more = realloc(f->guests, (f->n_guests + 1) * sizeof(*more));
	if (!more)
		return NULL;
	f->guests = more;
	more[f->n_guests] = (struct guest){ .proc = proc, .number = h->room - ++h->n_guests };
	msg = guests_json(f, f->n_guests++);
	for (uint32_t c = 0; c < h->n_clusters; c++)
		job_cluster_send(h, c, json_incref(msg));
	json_decref(msg);
	return &f->guests[f->n_guests - 1];
}

/* It lives on no host of ours, wherever that is. */
static void heard_name(struct friend_job *f, json_t *msg)
{
	json_int_t proc = json_integer_value(json_object_get(msg, "rank"));
	struct guest *g;

	if (f->state != FRIEND_MET || !json_is_integer(json_object_get(msg, "rank")) || proc < 0 || proc > UINT32_MAX)
		return;
	g = guest_of(f, (uint32_t)proc);
	if (!g)
		g = add_guest(f, (uint32_t)proc);
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
		answer_waiters(f, 0, "");
}

static void heard_met(struct friend_job *f, json_t *msg)
{
	struct gw_error why = { 0 };
	json_int_t index = json_integer_value(json_object_get(msg, "index"));

	if (f->state != FRIEND_CALLING)
		return;
	if (!json_is_integer(json_object_get(msg, "index")) || index < 0 || index >= NOC_FRIENDS_MAX)
		gw_fail(&why, -EPROTO, "the mpirun of job %08x speaks another language; use one installation of godwit for both", f->job);
	else if (may_meet(f->head, &why) == 0)
		agree_on_address(f->head, json_string_value(json_object_get(msg, "address")), &why);
	if (why.code) {
		turn_down(f, why.text);
		return;
	}
	f->index_there = (uint32_t)index;
	f->state = FRIEND_MET;
	guests_check(f->head);
}

/* One that has a name has been told of; one that runs may get one yet. */
static void heard_ask(struct friend_job *f, json_t *msg)
{
	const struct head *h = f->head;
	json_int_t proc = json_integer_value(json_object_get(msg, "proc"));
	bool is_ours = json_is_integer(json_object_get(msg, "proc")) && proc >= 0 && proc < h->size;
	char text[100];

	if (!f->is_told || (is_ours && (h->ranks[proc].name || h->ranks[proc].state != RANK_ENDED)))
		return;
	snprintf(text, sizeof(text), is_ours ? "rank %lld of job %08x has ended" : "there is no rank %lld in job %08x", (long long)proc, h->job);
	gw_link_send_json(f->link, json_pack("{s:s, s:I, s:s}", "op", "absent", "proc", (json_int_t)proc, "text", text));
}

static void heard_absent(struct friend_job *f, json_t *msg)
{
	json_int_t proc = json_integer_value(json_object_get(msg, "proc"));
	const char *text = json_string_value(json_object_get(msg, "text"));

	gw_list_for_safe(e, &f->head->waiters) {
		struct waiter *w = gw_list_entry(e, struct waiter, node);
		uint32_t rank = w->rank;

		if (w->job != f->job || w->proc != proc)
			continue;
		waiter_free(w);
		wishes_answer(f->head, rank, -ECONNREFUSED, text ? text : "it is not there");
	}
}

void guests_heard(struct friend_job *f, const struct gw_link *l, json_t *msg)
{
	const char *op = json_string_value(json_object_get(msg, "op")), *text = json_string_value(json_object_get(msg, "text"));

	if (!op || l != f->link)
		return;
	if (strcmp(op, "met") == 0) {
		heard_met(f, msg);
	} else if (strcmp(op, "name") == 0) {
		heard_name(f, msg);
	} else if (strcmp(op, "told") == 0 && f->state == FRIEND_MET) {
		f->has_told = true;
		gw_event("job.met", "{s:I, s:i}", "other", (json_int_t)f->job, "guests", (int)f->n_guests);
		answer_waiters(f, 0, "");
		ask_for_waiters(f);
	} else if (strcmp(op, "ask") == 0) {
		heard_ask(f, msg);
	} else if (strcmp(op, "absent") == 0) {
		heard_absent(f, msg);
	} else if (strcmp(op, "bye") == 0) {
		f->has_ended_well = !json_is_true(json_object_get(msg, "failed"));
	} else if (strcmp(op, "refused") == 0) {
		friend_lost(f, FRIEND_NONE, text ? text : "its mpirun refuses");
	}
}

void guests_closed(const struct head *h, struct friend_job *f, const struct gw_link *l)
{
	gw_list_for(e, &h->friends)
		if (gw_list_entry(e, struct friend_job, node) == f && l == f->link) {
			if (f->n_guests && !f->has_ended_well && !h->is_ending)
				job_say(f->head, "mpirun: job %08x, which ranks of this one have connected to, has failed; a rank that waits for one of "
				        "its ranks waits for ever", f->job);
			friend_lost(f, f->state == FRIEND_CALLING ? FRIEND_NONE : FRIEND_GONE, "its job has ended");
			return;
		}
}

/* ---- calling, and being called ---------------------------------------------------------------------------------------------- */

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	guests_heard(ctx, l, msg);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	(void)error;
	guests_closed(((struct friend_job *)ctx)->head, ctx, l);
}

static void on_drained(struct gw_link *l, void *ctx)
{
	guests_drained(ctx, l);
}

static const struct gw_link_ops friend_link_ops = { .json = on_json, .drained = on_drained, .closed = on_closed };

static int reach(uint32_t job, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];
	int fd;

	rt_socket_name(name, job, -1);
	fd = gw_probe_unix(name) == 0 ? gw_connect_unix(name, NULL) : -1; /* the first never waits */
	return fd >= 0 ? fd : gw_fail(why, -ECONNREFUSED, "no mpirun of this user on this machine has job %08x; jobs can connect when their "
	                              "mpiruns run on one machine, for one user", job);
}

/* Takes over @fd. */
static void call(struct friend_job *f, int fd)
{
	struct head *h = f->head;
	char secret[GW_TRUST_SECRET_HEX];

	if (gw_link_create(&f->link, h->loop, fd, &friend_link_ops, f) < 0) {
		friend_lost(f, FRIEND_NONE, "out of memory");
		return;
	}
	f->is_ours = true;
	f->state = FRIEND_CALLING;
	gw_event("job.called", "{s:I}", "other", (json_int_t)f->job);
	randombytes_buf(f->secret, sizeof(f->secret));
	gw_trust_secret_print(secret, f->secret);
	gw_link_send_json(f->link, json_pack("{s:s, s:I, s:i, s:s, s:s*}", "op", "meet", "job", (json_int_t)h->job, "index", (int)f->index,
	                                     "secret", secret, "address", doors_address(h)));
	explicit_bzero(secret, sizeof(secret));
}

struct friend_job *guests_called(struct head *h, struct gw_link *l, json_t *msg, struct gw_error *why)
{
	json_int_t job, index;
	const char *hex, *address = NULL;
	uint8_t secret[32];
	struct friend_job *f;

	if (json_unpack(msg, "{s:I, s:I, s:s, s?s}", "job", &job, "index", &index, "secret", &hex, "address", &address) < 0 || index < 0 ||
	    index >= NOC_FRIENDS_MAX || job < 1 || job > UINT32_MAX || job == h->job || gw_trust_secret_parse(secret, hex) < 0) {
		gw_fail(why, -EPROTO, "the request is malformed");
		return NULL;
	}
	f = find(h, (uint32_t)job);
	if (f && f->state == FRIEND_CALLING && h->job < f->job)
		return NULL; /* our call stands, and theirs is forgotten when it comes */
	if (f && (f->state == FRIEND_MET || f->state == FRIEND_GONE)) {
		gw_fail(why, -EALREADY, "job %08x: %s", (uint32_t)job, f->state == FRIEND_MET ? "it is known already" : f->why_gone);
		return NULL;
	}
	if (may_meet(h, why) < 0 || agree_on_address(h, address, why) < 0 || (!f && !(f = friend_new(h, (uint32_t)job, why)))) {
		if (f && f->state == FRIEND_CALLING) /* our call was forgotten there for theirs */
			friend_lost(f, FRIEND_NONE, why->text);
		return NULL;
	}
	if (f->is_ours)
		gw_link_destroy(f->link);
	f->is_ours = false;
	f->link = l;
	memcpy(f->secret, secret, sizeof(f->secret));
	sodium_memzero(secret, sizeof(secret));
	f->index_there = (uint32_t)index;
	f->state = FRIEND_MET;
	gw_link_send_json(l, json_pack("{s:s, s:i, s:s*}", "op", "met", "index", (int)f->index, "address", doors_address(h)));
	guests_check(h);
	return f;
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
		turn_down(f, text);
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

void guests_drained(struct friend_job *f, const struct gw_link *l)
{
	const struct head *h = f->head;

	for (uint32_t r = 0; r < h->size && f->news && f->is_told && l == f->link; r++)
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
		job_cluster_send(h, cluster, guests_json(f, 0));
		for (uint32_t i = 0; i < f->n_guests; i++)
			job_cluster_send(h, cluster, json_incref(f->guests[i].name));
	}
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
		if (f->is_ours) {
			if (f->link)
				gw_link_flush(f->link);
			gw_link_destroy(f->link);
		}
		for (uint32_t i = 0; i < f->n_guests; i++)
			json_decref(f->guests[i].name);
		sodium_memzero(f->secret, sizeof(f->secret));
		gw_list_remove(&f->node);
		free(f->news);
		free(f->guests);
		free(f);
	}
}
