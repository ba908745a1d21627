/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names that are published in other jobs of this user (MPI_Lookup_name): their mpiruns are asked, with -meet those of other machines
 * too, and the first answer counts.
 */
#include <stdlib.h>

#include "runtime/launcher/errand.h"
#include "runtime/launcher/friends.h"

#define QUESTION_MS 2000 /* for heads that are asked for a name: one may be stopped, */
#define FAR_MS      8000 /* or its machine gone */
#define JOBS_MAX    256  /* on this machine, and on others; more are not asked */

struct question {            /* who has published that name? */
	struct gw_list node;     /* head.questions */
	struct head *head;
	struct asked { struct question *q; struct meet_call *reaching; struct gw_link *link; } *asked;
	size_t n_asked, due;
	uint32_t *here;          /* jobs of this machine */
	int n_here;
	struct errand *listing;  /* of those that have cards */
	char *service;
	uint32_t rank;
	uint64_t id;
	struct gw_timer *deadline;
};

static void question_over(struct question *q, const char *port)
{
	struct head *h = q->head;
	json_t *answer = port ? json_pack("{s:i, s:s}", "rc", 0, "port", port) : json_pack("{s:i, s:s}", "rc", 1, "msg", "service_not_found");
	uint32_t rank = q->rank;
	uint64_t id = q->id;

	for (size_t i = 0; i < q->n_asked; i++) {
		gw_link_destroy(q->asked[i].link);
		meet_cancel(q->asked[i].reaching);
	}
	errand_drop(&q->listing);
	gw_timer_cancel(q->deadline);
	gw_list_remove(&q->node);
	free(q->here);
	free(q->asked);
	free(q->service);
	free(q);
	pmi_head_answer(h, rank, id, answer);
}

static void one_less(struct question *q)
{
	if (--q->due == 0)
		question_over(q, NULL);
}

static void on_found(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *port = json_string_value(json_object_get(msg, "port"));
	struct asked *a = ctx;

	(void)fds; (void)n_fds;
	if (port) {
		question_over(a->q, port);
		return;
	}
	gw_link_destroy(l);
	a->link = NULL;
	one_less(a->q);
}

static void on_silent(struct gw_link *l, void *ctx, int error)
{
	struct asked *a = ctx;

	(void)error;
	gw_link_destroy(l);
	a->link = NULL;
	one_less(a->q);
}

static const struct gw_link_ops question_link_ops = { .json = on_found, .closed = on_silent };

static void on_no_answer(void *ctx)
{
	struct question *q = ctx;

	q->deadline = NULL;
	if (q->listing)
		job_say(q->head, "mpirun: -meet: '%s' does not answer: jobs of other machines are not asked for '%s', which rank %u looks up",
		        q->head->spec->meet, q->service, q->rank);
	question_over(q, NULL);
}

static bool ask(struct asked *a, int fd)
{
	if (gw_link_create(&a->link, a->q->head->loop, fd, &question_link_ops, a) < 0)
		return false;
	gw_link_send_json(a->link, json_pack("{s:s, s:s}", "op", "lookup", "service", a->q->service));
	return true;
}

static void on_reached(void *ctx, int fd, const uint8_t *secret, const struct gw_error *why)
{
	struct asked *a = ctx;

	(void)secret;
	a->reaching = NULL;
	if (fd < 0)
		gw_log(GW_INFO, "it is not asked for '%s': %s", a->q->service, why->text);
	if (fd < 0 || !ask(a, fd))
		one_less(a->q);
}

static bool ask_here(struct asked *a, uint32_t job)
{
	char name[RT_SOCKET_NAME_MAX];
	int fd;

	rt_socket_name(name, job, -1);
	fd = gw_connect_unix(name, NULL); /* it was found listening */
	return fd >= 0 && ask(a, fd);
}

static bool is_among(const uint32_t *jobs, int n, uint32_t job)
{
	while (n > 0)
		if (jobs[--n] == job)
			return true;
	return false;
}

/* One that cannot be reached is none that has to answer. */
static void ask_one(struct question *q, uint32_t job, bool is_here)
{
	struct asked *a = &q->asked[q->n_asked];
	struct gw_error why = { 0 };

	a->q = q;
	if (is_here ? !ask_here(a, job) : meet_begin(&a->reaching, q->head, job, on_reached, a, &why) < 0) {
		if (why.code)
			gw_log(GW_INFO, "it is not asked for '%s': %s", q->service, why.text);
		return;
	}
	q->n_asked++;
	q->due++;
}

static int list(void *ctx, char *said, size_t cap)
{
	return meet_list(((const struct question *)ctx)->head->spec->meet, said, cap);
}

static void on_list(void *ctx, int code, char *said)
{
	struct question *q = ctx;
	char *rest, *line;
	int left = JOBS_MAX;

	if (code < 0)
		gw_log(GW_INFO, "jobs of other machines are not asked for '%s': '%s': %s", q->service, q->head->spec->meet, errand_text(code));
	for (line = strtok_r(said, "\n", &rest); line && left; line = strtok_r(NULL, "\n", &rest)) {
		uint32_t job = (uint32_t)strtoul(line, NULL, 16);

		if (job == q->head->job || is_among(q->here, q->n_here, job))
			continue;
		ask_one(q, job, false);
		left--;
	}
	one_less(q);
}

static struct question *question_new(struct head *h, uint32_t rank, uint64_t id, const char *service)
{
	struct question *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	*q = (struct question){ .head = h, .rank = rank, .id = id, .due = 1 }; /* until all have been asked */
	q->asked = calloc(2 * JOBS_MAX, sizeof(*q->asked));
	q->here = calloc(JOBS_MAX, sizeof(*q->here));
	q->service = strdup(service);
	if (q->asked && q->here && q->service)
		return q;
	free(q->asked);
	free(q->here);
	free(q->service);
	free(q);
	return NULL;
}

void lookup_begin(struct head *h, uint32_t rank, uint64_t id, const char *service)
{
	struct question *q = question_new(h, rank, id, service);
	int n;

	if (!q) {
		pmi_head_answer(h, rank, id, json_pack("{s:i, s:s}", "rc", 1, "msg", "service_not_found"));
		return;
	}
	gw_list_append(&h->questions, &q->node);
	n = rt_jobs_find(q->here, JOBS_MAX, NULL);
	q->n_here = n < 0 ? 0 : n > JOBS_MAX ? JOBS_MAX : n;
	for (int i = 0; i < q->n_here; i++)
		if (q->here[i] != h->job)
			ask_one(q, q->here[i], true);
	if (h->spec->meet && errand_begin(&q->listing, h->loop, list, on_list, q, NULL) == 0)
		q->due++;
	if (q->due > 1 && gw_loop_timer(h->loop, &q->deadline, h->spec->meet ? FAR_MS : QUESTION_MS, 0, on_no_answer, q) < 0)
		question_over(q, NULL);
	else
		one_less(q);
}

void lookup_init(struct head *h)
{
	gw_list_init(&h->questions);
}

void lookup_fini(struct head *h)
{
	if (!h->questions.next)
		return; /* never begun */
	gw_list_for_safe(e, &h->questions)
		question_over(gw_list_entry(e, struct question, node), NULL);
}
