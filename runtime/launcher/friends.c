/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How two jobs come to know each other (guests.c), and how they part: who calls whom, the secret that they share, the address
 * at which the ranks of a job of one host listen.
 *
 * On one machine the secret goes over a socket of that machine. Between machines nothing of it goes over the wire: it is derived,
 * with random bytes of the caller's, from the secret of the card by which the called job was found (meet.c).
 */
#include <sodium.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "noc/segment.h"
#include "runtime/launcher/friends.h"

struct friend_job *friends_find(const struct head *h, uint32_t job)
{
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->job == job)
			return f;
	}
	return NULL;
}

struct friend_job *friends_of(const struct head *h, const struct gw_link *l)
{
	gw_list_for(e, &h->friends) {
		struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->link == l)
			return f;
	}
	return NULL;
}

struct friend_job *friends_new(struct head *h, uint32_t job, struct gw_error *why)
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

void friends_forget(struct friend_job *f)
{
	struct head *h = f->head;

	/* numbers are given in order: one that came to nothing before may have waited for this one */
	while (!gw_list_is_empty(&h->friends)) {
		struct friend_job *last = gw_list_entry(h->friends.prev, struct friend_job, node);

		if (last->state != FRIEND_NONE || last->n_guests)
			return;
		h->n_friends--;
		friends_fini(last);
	}
}

void friends_fini(struct friend_job *f)
{
	meet_cancel(f->reaching);
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

/* ---- lost ------------------------------------------------------------------------------------------------------------ */

static void lost(struct friend_job *f, enum friend_state state, const char *text)
{
	if (f->n_guests && state == FRIEND_NONE) {
		snprintf(f->why_gone, sizeof(f->why_gone), "the two jobs could not connect before, and cannot any more: %s", text);
		state = FRIEND_GONE;
	} else if (state == FRIEND_GONE) {
		snprintf(f->why_gone, sizeof(f->why_gone), "%s", text);
	}
	gw_event("job.parted", "{s:I, s:o}", "other", (json_int_t)f->job, "text", gw_event_text(text));
	meet_cancel(f->reaching);
	f->reaching = NULL;
	if (f->is_ours)
		gw_link_destroy(f->link);
	f->link = NULL;
	f->is_told = f->has_told = f->is_ours = false;
	free(f->news);
	f->news = NULL;
	f->state = state;
	guests_gone(f);
	guests_answer(f, -ECONNREFUSED, text);
}

void friends_turn_down(struct friend_job *f, const char *text)
{
	gw_link_send_json(f->link, json_pack("{s:s, s:s}", "op", "refused", "text", text));
	lost(f, FRIEND_NONE, text);
}

void friends_refused(struct friend_job *f, const char *text)
{
	lost(f, FRIEND_NONE, text);
}

void guests_closed(struct head *h, const struct gw_link *l)
{
	struct friend_job *f = friends_of(h, l);

	if (!f)
		return;
	if (f->n_guests && !f->has_ended_well && !h->is_ending)
		job_say(h, "mpirun: job %08x, which ranks of this one have connected to, has failed%s; a rank that waits for one of its ranks waits "
		        "for ever", f->job, f->is_far ? ", or its machine cannot be reached any more" : "");
	lost(f, f->state == FRIEND_CALLING ? FRIEND_NONE : FRIEND_GONE, "its job has ended");
}

/* On a connection on which something is under way the kernel would go on for a quarter of an hour. */
void guests_look(struct head *h, unsigned dead_ms)
{
	gw_list_for(e, &h->friends) {
		const struct friend_job *f = gw_list_entry(e, struct friend_job, node);

		if (f->link && f->is_far && gw_tcp_is_dead(gw_link_fd(f->link), dead_ms))
			shutdown(gw_link_fd(f->link), SHUT_RDWR); /* then it is read to its end, as any that is closed */
	}
}

/* ---- what both have to agree on ---------------------------------------------------------------------------------------- */

int friends_may_meet(const struct head *h, struct gw_error *why)
{
	if (h->is_ending)
		return gw_fail(why, -ESHUTDOWN, "job %08x is about to end", h->job);
	return suspend_refuse(h, why);
}

static bool is_loopback(const char *address)
{
	return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}

/* Another machine sees this one at the address of our end of @l. */
static int agree_between_machines(struct head *h, const struct gw_link *l, struct gw_error *why)
{
	char own[GW_TCP_NAME];

	gw_tcp_own(gw_link_fd(l), own);
	if (!h->is_networked && own[0])
		strcpy(h->near_address, own);
	else if (is_loopback(grow_address(h)))
		return gw_fail(why, -EADDRNOTAVAIL, "the ranks of job %08x listen at %s, where other machines cannot reach them; it has connected "
		               "to a job of its own machine, or -launcher fork plays its hosts", h->job, grow_address(h));
	else if (!strchr(own, ':') != !strchr(grow_address(h), ':'))
		return gw_fail(why, -EAFNOSUPPORT, "the ranks of job %08x listen at %s, and its mpirun was reached at %s, an address of the other kind",
		               h->job, grow_address(h), own);
	return 0;
}

/* Ranks listen at one address of their machine. Where only one of two jobs has other hosts, the other one takes that job's. */
static int agree_on_address(struct head *h, const struct gw_link *l, bool is_far, const char *theirs, struct gw_error *why)
{
	if (is_far)
		return agree_between_machines(h, l, why);
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

/* Of two jobs on different machines. @card: secret of the card of the job that was called; @salt: of the caller */
static void derive(uint8_t out[GW_TRUST_SECRET], const uint8_t card[GW_TRUST_SECRET], uint32_t caller, uint32_t called, const char *salt)
{
	char text[64 + GW_TRUST_SECRET_HEX];

	snprintf(text, sizeof(text), "friends %08x %08x %s", caller, called, salt);
	gw_trust_secret_derive(out, card, text);
}

/* ---- calling, and being called ---------------------------------------------------------------------------------------------- */

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	(void)fds; (void)n_fds;
	guests_heard(((struct friend_job *)ctx)->head, l, msg);
}

static void on_drained(struct gw_link *l, void *ctx)
{
	guests_drained(((struct friend_job *)ctx)->head, l);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	(void)error;
	guests_closed(((struct friend_job *)ctx)->head, l);
}

static const struct gw_link_ops friend_link_ops = { .json = on_json, .drained = on_drained, .closed = on_closed };

/* Takes over @fd. @card: NULL on this machine */
static int introduce(struct friend_job *f, int fd, const uint8_t *card)
{
	char hex[GW_TRUST_SECRET_HEX];
	uint8_t random[GW_TRUST_SECRET];
	struct head *h = f->head;
	int code = gw_link_create(&f->link, h->loop, fd, &friend_link_ops, f);

	if (code < 0)
		return code;
	f->is_ours = true;
	f->is_far = card != NULL;
	f->state = FRIEND_CALLING;
	gw_event("job.called", "{s:I, s:b}", "other", (json_int_t)f->job, "far", (int)f->is_far);
	randombytes_buf(random, sizeof(random));
	gw_trust_secret_print(hex, random);
	if (card)
		derive(f->secret, card, h->job, f->job, hex);
	else
		memcpy(f->secret, random, sizeof(f->secret));
	gw_link_send_json(f->link, json_pack("{s:s, s:I, s:i, s:s, s:s*}", "op", "meet", "job", (json_int_t)h->job, "index", (int)f->index,
	                                     card ? "salt" : "secret", hex, "address", doors_address(h)));
	explicit_bzero(hex, sizeof(hex));
	explicit_bzero(random, sizeof(random));
	return 0;
}

static void on_reached(void *ctx, int fd, const uint8_t *card, const struct gw_error *why)
{
	struct friend_job *f = ctx;

	f->reaching = NULL;
	if (fd >= 0 && introduce(f, fd, card) == 0)
		return;
	lost(f, FRIEND_NONE, fd < 0 ? why->text : "out of memory");
	friends_forget(f);
}

int friends_call(struct friend_job *f, struct gw_error *why)
{
	char name[RT_SOCKET_NAME_MAX];
	int fd, code;

	rt_socket_name(name, f->job, -1);
	fd = gw_probe_unix(name) == 0 ? gw_connect_unix(name, NULL) : -1; /* the first never waits */
	if (fd >= 0) {
		code = introduce(f, fd, NULL);
		return code < 0 ? gw_fail(why, code, "out of memory") : 0;
	}
	code = meet_begin(&f->reaching, f->head, f->job, on_reached, f, why);
	if (code == 0)
		f->state = FRIEND_CALLING;
	return code;
}

void friends_met(struct friend_job *f, json_t *msg)
{
	struct gw_error why = { 0 };
	json_int_t index = json_integer_value(json_object_get(msg, "index"));

	if (f->state != FRIEND_CALLING)
		return;
	if (!json_is_integer(json_object_get(msg, "index")) || index < 0 || index >= NOC_FRIENDS_MAX)
		gw_fail(&why, -EPROTO, "the mpirun of job %08x speaks another language; use one installation of godwit for both", f->job);
	else if (friends_may_meet(f->head, &why) == 0)
		agree_on_address(f->head, f->link, f->is_far, json_string_value(json_object_get(msg, "address")), &why);
	if (why.code) {
		friends_turn_down(f, why.text);
		return;
	}
	f->index_there = (uint32_t)index;
	f->state = FRIEND_MET;
	guests_check(f->head);
}

static int read_meet(const struct head *h, json_t *msg, bool is_far, uint32_t *job, uint32_t *index, uint8_t secret[GW_TRUST_SECRET],
                     const char **address)
{
	json_int_t j, i;
	const char *hex;

	if (json_unpack(msg, "{s:I, s:I, s:s, s?s}", "job", &j, "index", &i, is_far ? "salt" : "secret", &hex, "address", address) < 0 || i < 0 ||
	    i >= NOC_FRIENDS_MAX || j < 1 || j > UINT32_MAX || j == h->job || gw_trust_secret_parse(secret, hex) < 0)
		return -EPROTO;
	*job = (uint32_t)j;
	*index = (uint32_t)i;
	if (is_far)
		derive(secret, meet_secret(h), *job, h->job, hex);
	return 0;
}

struct friend_job *guests_called(struct head *h, struct gw_link *l, bool is_far, json_t *msg, struct gw_error *why)
{
	uint8_t secret[GW_TRUST_SECRET];
	const char *address = NULL;
	struct friend_job *f;
	uint32_t job, index;

	if (read_meet(h, msg, is_far, &job, &index, secret, &address) < 0) {
		gw_fail(why, -EPROTO, "the request is malformed");
		return NULL;
	}
	f = friends_find(h, job);
	if (f && f->state == FRIEND_CALLING && f->link && h->job < f->job)
		return NULL; /* our call stands, and theirs is forgotten when it comes */
	if (f && (f->state == FRIEND_MET || f->state == FRIEND_GONE)) {
		gw_fail(why, -EALREADY, "job %08x: %s", job, f->state == FRIEND_MET ? "it is known already" : f->why_gone);
		return NULL;
	}
	if (friends_may_meet(h, why) < 0 || agree_on_address(h, l, is_far, address, why) < 0 || (!f && !(f = friends_new(h, job, why)))) {
		if (f && f->state == FRIEND_CALLING) /* our call was forgotten there for theirs */
			lost(f, FRIEND_NONE, why->text);
		return NULL;
	}
	meet_cancel(f->reaching);
	f->reaching = NULL;
	if (f->is_ours)
		gw_link_destroy(f->link);
	f->is_ours = false;
	f->is_far = is_far;
	f->link = l;
	memcpy(f->secret, secret, sizeof(f->secret));
	sodium_memzero(secret, sizeof(secret));
	f->index_there = index;
	f->state = FRIEND_MET;
	gw_link_send_json(l, json_pack("{s:s, s:i, s:s*}", "op", "met", "index", (int)f->index, "address", doors_address(h)));
	guests_check(h);
	return f;
}
