/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/storm/p2p.c: point to point: blocking in one order, everything at once, shifts and persistent requests. */
#include "tests/storm/storm.h"

static void *get(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size);

	storm_check(p, "no memory for %zu elements of %zu bytes", count, size);
	return p;
}

/* ---- the buffer of MPI_Bsend ----------------------------------------------------------------------------------- */

enum { BSEND_ROOM = 1 << 20, BSEND_LONGEST = 1 << 16 };

static struct { void *at; size_t used; } bsend;

void bsend_begin(void)
{
	bsend.at = get(1, BSEND_ROOM);
	MPI_Buffer_attach(bsend.at, BSEND_ROOM);
}

void bsend_end(void)
{
	int size;

	storm_at("MPI_Buffer_detach", -1, -1);
	MPI_Buffer_detach(&bsend.at, &size);
	free(bsend.at);
	bsend.used = 0;
}

/* Is there room for @len bytes more, for sure? Nothing tells when a buffered message has left. */
static bool bsend_fits(size_t len)
{
	size_t need = len + MPI_BSEND_OVERHEAD + 64;

	if (len > BSEND_LONGEST || bsend.used + need > BSEND_ROOM)
		return false;
	bsend.used += need;
	return true;
}

/* ---- ordered --------------------------------------------------------------------------------------------------- */

static void wait_by_test(MPI_Request *req, MPI_Status *st)
{
	int done = 0;

	while (!done)
		MPI_Test(req, &done, st);
}

static void send_blocking(const struct message *m)
{
	struct buffer b;
	MPI_Request req;
	MPI_Status st;

	buffer_make_send(&b, m);
	switch (m->send_kind % 6) {
	case 0:
	case 1:
		storm_at("MPI_Send", m->dst, m->tag);
		MPI_Send(b.at, b.count, b.type, m->dst, m->tag, storm.comm);
		break;
	case 2:
		storm_at("MPI_Ssend", m->dst, m->tag);
		MPI_Ssend(b.at, b.count, b.type, m->dst, m->tag, storm.comm);
		break;
	case 3:
		if (m->len <= BSEND_LONGEST) {
			if (!bsend_fits(m->len)) { /* waits for earlier messages only: the order stays free of cycles */
				bsend_end();
				bsend_begin();
				bsend_fits(m->len);
			}
			storm_at("MPI_Bsend", m->dst, m->tag);
			MPI_Bsend(b.at, b.count, b.type, m->dst, m->tag, storm.comm);
			break;
		}
		/* fall through */
	case 4:
		storm_at("MPI_Isend, MPI_Wait", m->dst, m->tag);
		MPI_Isend(b.at, b.count, b.type, m->dst, m->tag, storm.comm, &req);
		MPI_Wait(&req, &st);
		break;
	default:
		storm_at("MPI_Issend, MPI_Test", m->dst, m->tag);
		MPI_Issend(b.at, b.count, b.type, m->dst, m->tag, storm.comm, &req);
		wait_by_test(&req, &st);
	}
	buffer_free(&b);
}

static void recv_blocking(struct message *m)
{
	struct buffer b;
	MPI_Request req;
	MPI_Status st, probed;
	MPI_Message handle;
	int tag = m->recv_kind & 1 ? m->tag : MPI_ANY_TAG, flag = 0, count;

	buffer_make_recv(&b, m);
	switch ((m->recv_kind >> 1) % 7) {
	case 0:
	case 1:
		storm_at("MPI_Recv", m->src, tag);
		MPI_Recv(b.at, b.count, b.type, m->src, tag, storm.comm, &st);
		break;
	case 2:
		storm_at("MPI_Irecv, MPI_Wait", m->src, tag);
		MPI_Irecv(b.at, b.count, b.type, m->src, tag, storm.comm, &req);
		MPI_Wait(&req, &st);
		break;
	case 3:
		storm_at("MPI_Irecv, MPI_Test", m->src, tag);
		MPI_Irecv(b.at, b.count, b.type, m->src, tag, storm.comm, &req);
		wait_by_test(&req, &st);
		break;
	case 4:
	case 5:
		storm_at("MPI_Probe", m->src, tag);
		if ((m->recv_kind >> 1) % 7 == 4)
			MPI_Probe(m->src, tag, storm.comm, &probed);
		else
			while (!flag)
				MPI_Iprobe(m->src, tag, storm.comm, &flag, &probed);
		MPI_Get_count(&probed, MPI_BYTE, &count);
		storm_check((size_t)count == m->len && probed.MPI_TAG == m->tag && probed.MPI_SOURCE == m->src,
		            "message %u from rank %d, tag %d, has %zu bytes, but probing says rank %d, tag %d, %d bytes", m->seq,
		            m->src, m->tag, m->len, probed.MPI_SOURCE, probed.MPI_TAG, count);
		storm_at("MPI_Recv after MPI_Probe", m->src, m->tag);
		MPI_Recv(b.at, b.count, b.type, m->src, m->tag, storm.comm, &st);
		break;
	default:
		storm_at("MPI_Mprobe", m->src, tag);
		MPI_Mprobe(m->src, tag, storm.comm, &handle, &probed);
		storm_at("MPI_Mrecv", m->src, tag);
		MPI_Mrecv(b.at, b.count, b.type, &handle, &st);
	}
	message_arrived(m, &b, &st);
	buffer_free(&b);
}

/* One list of messages, and each rank works through its part of it in the order of the list: whoever waits, waits for
 * something that is earlier in the list, so no mixture of blocking calls can deadlock. */
void phase_ordered(struct rng *r, const int *with, int n)
{
	struct plan p = { .n = (int)rng_in(r, 1, 40) };

	if (n < 2)
		return;
	p.m = get((size_t)p.n, sizeof(*p.m));
	for (int i = 0; i < p.n; i++) {
		int a = (int)rng_in(r, 0, n - 1), b = (a + (int)rng_in(r, 1, n - 1)) % n;

		message_plan(&p.m[i], r, with[a], with[b], storm.max_len);
	}
	for (int i = 0; i < p.n; i++) {
		if (p.m[i].src == storm.rank)
			send_blocking(&p.m[i]);
		else if (p.m[i].dst == storm.rank)
			recv_blocking(&p.m[i]);
	}
	plan_free(&p);
}

/* ---- batch ----------------------------------------------------------------------------------------------------- */

/* How a receiver takes the messages of a batch. Filters are the same for all receives of one receiver, so that the rule
 * "the earliest that fits" names exactly one message. */
enum how { POST, POST_READY, TAKE, PROBE, IPROBE, MPROBE, IMPROBE, HOWS };
enum filter { EXACT, ANY_TAG, ANY_SOURCE, ANY, FILTERS };

struct receive { int src, tag; struct message *exact; struct buffer b; MPI_Status st; };

static void receive_done(struct plan *p, struct receive *rc)
{
	message_arrived(plan_expect(p, rc->st.MPI_SOURCE, rc->tag), &rc->b, &rc->st);
	buffer_free(&rc->b);
}

/* Wait for all of @req by one of the calls that there are, drawn from @r. */
static void complete(struct rng *r, int n, MPI_Request *req, MPI_Status *st)
{
	int *index = get((size_t)n, sizeof(*index)), done, at, left = n;
	MPI_Status *some = get((size_t)n, sizeof(*some)), one;

	switch (rng_in(r, 0, 4)) {
	case 0:
		storm_at("MPI_Waitall", -1, -1);
		MPI_Waitall(n, req, st);
		break;
	case 1:
		storm_at("MPI_Waitany", -1, -1);
		while (left--) {
			MPI_Waitany(n, req, &at, &one);
			st[at] = one;
		}
		break;
	case 2:
		storm_at("MPI_Waitsome", -1, -1);
		while (left) {
			MPI_Waitsome(n, req, &done, index, some);
			for (int i = 0; i < done; i++)
				st[index[i]] = some[i];
			left -= done;
		}
		break;
	case 3:
		storm_at("MPI_Testall", -1, -1);
		for (done = 0; !done;)
			MPI_Testall(n, req, &done, st);
		break;
	default:
		storm_at("MPI_Testany", -1, -1);
		while (left) {
			MPI_Testany(n, req, &at, &done, &one);
			if (done && at != MPI_UNDEFINED) {
				st[at] = one;
				left--;
			}
		}
	}
	free(index);
	free(some);
}

static void receive_now(struct plan *p, struct receive *rc, enum how how)
{
	MPI_Message handle;
	MPI_Request req;
	int flag = 0, count;

	if (how == TAKE) {
		storm_at("MPI_Recv", rc->src, rc->tag);
		MPI_Recv(rc->b.at, rc->b.count, rc->b.type, rc->src, rc->tag, storm.comm, &rc->st);
		receive_done(p, rc);
		return;
	}
	buffer_free(&rc->b);
	storm_at("probing in a batch", rc->src, rc->tag);
	if (how == PROBE)
		MPI_Probe(rc->src, rc->tag, storm.comm, &rc->st);
	else if (how == MPROBE)
		MPI_Mprobe(rc->src, rc->tag, storm.comm, &handle, &rc->st);
	else
		while (!flag) {
			if (how == IPROBE)
				MPI_Iprobe(rc->src, rc->tag, storm.comm, &flag, &rc->st);
			else
				MPI_Improbe(rc->src, rc->tag, storm.comm, &flag, &handle, &rc->st);
		}
	MPI_Get_count(&rc->st, MPI_BYTE, &count);
	buffer_make_any(&rc->b, (size_t)count);
	storm_at("receiving what was probed", rc->st.MPI_SOURCE, rc->st.MPI_TAG);
	if (how == PROBE || how == IPROBE) {
		MPI_Recv(rc->b.at, count, MPI_BYTE, rc->st.MPI_SOURCE, rc->st.MPI_TAG, storm.comm, &rc->st);
	} else if (how == MPROBE) {
		MPI_Mrecv(rc->b.at, count, MPI_BYTE, &handle, &rc->st);
	} else {
		MPI_Imrecv(rc->b.at, count, MPI_BYTE, &handle, &req);
		MPI_Wait(&req, &rc->st);
	}
	receive_done(p, rc);
}

/* My receives, one for each message to me, in the order of the list or (filters that name a tag) in a shuffled one. */
static int receives_make(struct plan *p, struct rng *mine, enum filter filter, enum how how, struct receive *rc)
{
	size_t longest = 0;
	int n = 0;

	for (int i = 0; i < p->n; i++)
		if (p->m[i].dst == storm.rank) {
			longest = p->m[i].len > longest ? p->m[i].len : longest;
			rc[n++].exact = &p->m[i];
		}
	for (int i = n - 1; i > 0 && rng_in(mine, 0, 1); i--) {
		int other = (int)rng_in(mine, 0, i);
		struct message *swap = rc[i].exact;

		rc[i].exact = rc[other].exact;
		rc[other].exact = swap;
	}
	if (filter == EXACT) /* shuffled or not, one of several with the same source and tag stands for the earliest */
		for (int i = 0; i < n; i++)
			for (int k = i + 1; k < n; k++)
				if (rc[i].exact->src == rc[k].exact->src && rc[i].exact->tag == rc[k].exact->tag &&
				    rc[i].exact > rc[k].exact) {
					struct message *swap = rc[i].exact;

					rc[i].exact = rc[k].exact;
					rc[k].exact = swap;
				}
	for (int i = 0; i < n; i++) {
		rc[i].src = filter == EXACT || filter == ANY_TAG ? rc[i].exact->src : MPI_ANY_SOURCE;
		rc[i].tag = filter == EXACT || filter == ANY_SOURCE ? rc[i].exact->tag : MPI_ANY_TAG;
		if (how > TAKE)
			rc[i].b = (struct buffer){ .type = MPI_BYTE };
		else if (filter == EXACT)
			buffer_make_recv(&rc[i].b, rc[i].exact);
		else
			buffer_make_any(&rc[i].b, longest);
	}
	return n;
}

void phase_batch(struct rng *r)
{
	struct plan p = { .n = (int)rng_in(r, 1, 64) };
	struct rng mine;
	struct receive *rc;
	struct buffer *out;
	MPI_Request *req;
	MPI_Status *st;
	enum filter filter;
	enum how how;
	bool is_ready = rng_in(r, 0, 9) == 0; /* ready mode: every receive is posted before anything is sent */
	bool is_open = rng_in(r, 0, 1);       /* some may receive from any source: then the next step must not overtake */
	int n, sends = 0;
	size_t longest = rng_in(r, 0, 3) ? 65536 : storm.max_len;

	if (longest > 65536 && p.n > 12)
		p.n = 12;
	p.m = get((size_t)p.n, sizeof(*p.m));
	for (int i = 0; i < p.n; i++) {
		int src = (int)rng_in(r, 0, storm.ranks - 1), dst = (int)rng_in(r, 0, storm.ranks - 1);

		message_plan(&p.m[i], r, src, dst, longest < storm.max_len ? longest : storm.max_len);
	}
	mine.state = mix2(r->state, (uint64_t)storm.rank);
	how = is_ready ? POST_READY : (enum how)rng_in(&mine, 0, HOWS - 1);
	filter = (enum filter)rng_in(&mine, 0, is_open ? FILTERS - 1 : ANY_TAG);
	if (how == POST_READY && !is_ready)
		how = POST;
	rc = get((size_t)p.n, sizeof(*rc));
	out = get((size_t)p.n, sizeof(*out));
	req = get(2 * (size_t)p.n, sizeof(MPI_Request));
	st = get((size_t)p.n, sizeof(*st));
	n = receives_make(&p, &mine, filter, how, rc);

	for (int i = 0; i < n && (how == POST || how == POST_READY); i++) {
		storm_at("MPI_Irecv", rc[i].src, rc[i].tag);
		MPI_Irecv(rc[i].b.at, rc[i].b.count, rc[i].b.type, rc[i].src, rc[i].tag, storm.comm, &req[p.n + i]);
	}
	if (is_ready) {
		storm_at("MPI_Barrier before ready sends", -1, -1);
		MPI_Barrier(storm.comm);
	}
	for (int i = 0; i < p.n; i++) {
		struct message *m = &p.m[i];
		struct buffer *b = &out[sends];

		if (m->src != storm.rank)
			continue;
		buffer_make_send(b, m);
		storm_at("MPI_I.send", m->dst, m->tag);
		if (is_ready)
			MPI_Irsend(b->at, b->count, b->type, m->dst, m->tag, storm.comm, &req[sends++]);
		else if (m->send_kind % 5 == 0)
			MPI_Issend(b->at, b->count, b->type, m->dst, m->tag, storm.comm, &req[sends++]);
		else if (m->send_kind % 5 == 1 && bsend_fits(m->len))
			MPI_Ibsend(b->at, b->count, b->type, m->dst, m->tag, storm.comm, &req[sends++]);
		else
			MPI_Isend(b->at, b->count, b->type, m->dst, m->tag, storm.comm, &req[sends++]);
	}
	if (how == POST || how == POST_READY) {
		complete(&mine, n, req + p.n, st);
		for (int i = 0; i < n; i++) {
			rc[i].st = st[i];
			receive_done(&p, &rc[i]);
		}
	} else {
		for (int i = 0; i < n; i++)
			receive_now(&p, &rc[i], how);
	}
	complete(&mine, sends, req, st);
	for (int i = 0; i < sends; i++)
		buffer_free(&out[i]);
	if (is_open) {
		storm_at("MPI_Ibarrier, MPI_Wait after wildcards", -1, -1);
		MPI_Ibarrier(storm.comm, req);
		MPI_Wait(req, st);
	}
	free(rc);
	free(out);
	free(req);
	free(st);
	plan_free(&p);
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

enum { STREAM = 6400, STREAM_LONGEST = 2048, WINDOW = 64 };

/*
 * Long streams of small messages: nearly all of the time goes into the calls that send and receive themselves. Every
 * rank sends one to a rank and receives one from another, in turns of a window: first receives are posted, then sends.
 */
void phase_stream(struct rng *r)
{
	int by = (int)rng_in(r, 1, storm.ranks - 1), to = (storm.rank + by) % storm.ranks;
	int from = (storm.rank + storm.ranks - by) % storm.ranks, rounds = (int)rng_in(r, 1, STREAM / WINDOW);
	size_t len = (size_t)rng_in(r, 0, STREAM_LONGEST);
	struct message *in = get(WINDOW, sizeof(*in)), *out = get(WINDOW, sizeof(*out)), m;
	struct buffer *b = get(WINDOW, sizeof(*b)), *c = get(WINDOW, sizeof(*c));
	MPI_Request *req = get(WINDOW, sizeof(MPI_Request));
	MPI_Status *st = get(WINDOW, sizeof(*st));

	while (rounds--) {
		for (int i = 0; i < WINDOW; i++)
			for (int s = 0; s < storm.ranks; s++) {
				message_plan(&m, r, s, (s + by) % storm.ranks, len);
				m.from = m.into = CONTIGUOUS;
				if (s == storm.rank)
					out[i] = m;
				if (s == from)
					in[i] = m;
			}
		for (int i = 0; i < WINDOW; i++) {
			buffer_make_send(&c[i], &out[i]);
			buffer_make_recv(&b[i], &in[i]);
		}
		storm_at("MPI_Irecv in a stream", from, -1);
		for (int i = 0; i < WINDOW; i++)
			MPI_Irecv(b[i].at, b[i].count, b[i].type, from, in[i].tag, storm.comm, &req[i]);
		storm_at("MPI_Send in a stream", to, -1);
		for (int i = 0; i < WINDOW; i++)
			MPI_Send(c[i].at, c[i].count, c[i].type, to, out[i].tag, storm.comm);
		storm_at("MPI_Waitall in a stream", from, -1);
		MPI_Waitall(WINDOW, req, st);
		for (int i = 0; i < WINDOW; i++) {
			message_arrived(&in[i], &b[i], &st[i]);
			buffer_free(&b[i]);
			buffer_free(&c[i]);
		}
	}
	free(in);
	free(out);
	free(b);
	free(c);
	free(req);
	free(st);
}

/* ---- shifts, persistent requests ------------------------------------------------------------------------------- */

void phase_shift(struct rng *r)
{
	int by = (int)rng_in(r, 1, storm.ranks), to = (storm.rank + by) % storm.ranks;
	int from = (storm.rank - by % storm.ranks + storm.ranks) % storm.ranks;
	bool replace = rng_in(r, 0, 1);
	struct message m, in = { 0 }, out = { 0 };
	struct buffer a, b;
	MPI_Status st;
	size_t len = 0;

	for (int s = 0; s < storm.ranks; s++) {
		message_plan(&m, r, s, (s + by) % storm.ranks, storm.max_len / 4);
		if (s == 0)
			len = m.len;
		if (replace) { /* one buffer for both: as long as each other, and contiguous */
			m.len = len;
			m.from = m.into = CONTIGUOUS;
		}
		if (s == storm.rank)
			out = m;
		if (s == from)
			in = m;
	}
	buffer_make_send(&a, &out);
	if (replace) {
		storm_at("MPI_Sendrecv_replace", to, out.tag);
		MPI_Sendrecv_replace(a.at, a.count, a.type, to, out.tag, from, in.tag, storm.comm, &st);
		message_arrived(&in, &a, &st);
	} else {
		buffer_make_recv(&b, &in);
		storm_at("MPI_Sendrecv", to, out.tag);
		MPI_Sendrecv(a.at, a.count, a.type, to, out.tag, b.at, b.count, b.type, from, in.tag, storm.comm, &st);
		message_arrived(&in, &b, &st);
		buffer_free(&b);
	}
	buffer_free(&a);
}

/* The same requests started several times; every start carries new messages. */
void phase_persistent(struct rng *r)
{
	struct plan p = { .n = (int)rng_in(r, 1, 16) };
	int rounds = (int)rng_in(r, 1, 6), n = 0;
	struct buffer *b;
	struct message **of;
	MPI_Request *req;
	MPI_Status *st;

	p.m = get((size_t)p.n, sizeof(*p.m));
	b = get((size_t)p.n * 2, sizeof(*b));
	of = get((size_t)p.n * 2, sizeof(*of));
	req = get((size_t)p.n * 2, sizeof(MPI_Request));
	st = get((size_t)p.n * 2, sizeof(*st));
	for (int i = 0; i < p.n; i++) {
		struct message *m = &p.m[i];
		int src = (int)rng_in(r, 0, storm.ranks - 1), dst = (int)rng_in(r, 0, storm.ranks - 1);

		message_plan(m, r, src, dst, 65536);
		m->tag = 100 + (int)(storm.step % 10000) * 16 + i; /* no other step's: some receive from any source */
		m->from = m->into = CONTIGUOUS; /* a new body is put into the same buffer */
		if (src == storm.rank) {
			buffer_make_send(&b[n], m);
			(m->send_kind & 1 ? MPI_Send_init : MPI_Ssend_init)(b[n].at, b[n].count, b[n].type, dst, m->tag, storm.comm,
			                                                    &req[n]);
			of[n++] = m;
		}
		if (dst == storm.rank) {
			buffer_make_recv(&b[n], m);
			MPI_Recv_init(b[n].at, b[n].count, b[n].type, m->recv_kind & 1 ? src : MPI_ANY_SOURCE, m->tag, storm.comm,
			              &req[n]);
			of[n++] = m;
		}
	}
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < n; i++) {
			struct message *m = of[i];
			bool is_send = m->src == storm.rank && !(i && of[i - 1] == m);
			struct buffer fresh;

			if (!round || !is_send)
				continue;
			buffer_make_send(&fresh, m);
			memcpy(b[i].at, fresh.at, m->len);
			buffer_free(&fresh);
		}
		storm_at("MPI_Startall, MPI_Waitall", -1, -1);
		MPI_Startall(n, req);
		MPI_Waitall(n, req, st);
		for (int i = 0; i < n; i++)
			if (of[i]->dst == storm.rank && (of[i]->src != storm.rank || (i && of[i - 1] == of[i]))) {
				message_arrived(of[i], &b[i], &st[i]);
				memset(b[i].at, 0, of[i]->len);
			}
		for (int i = 0; i < p.n && round + 1 < rounds; i++) {
			p.m[i].seq = storm.seq[p.m[i].src][p.m[i].dst]++;
			p.m[i].is_done = false;
		}
	}
	for (int i = 0; i < n; i++) {
		MPI_Request_free(&req[i]);
		buffer_free(&b[i]);
	}
	free(b);
	free(of);
	free(req);
	free(st);
	plan_free(&p);
}

/* ---- partitioned messages ---------------------------------------------------------------------------------------- */

enum { PARTS = 16 };

struct parted {
	struct message m;
	struct buffer b;
	MPI_Request req;
	unsigned char *body;   /* what the sender sends, and the receiver expects */
	int parts, done;       /* on this side; made ready, or seen */
	int order[PARTS];      /* in which they are */
};

static void parted_begin(struct parted *p, struct rng *own)
{
	struct buffer body;

	buffer_make_send(&body, &p->m);
	p->body = memcpy(get(p->m.len, 1), body.at, p->m.len);
	buffer_free(&body);
	p->done = 0;
	for (int i = 0; i < p->parts; i++) {
		int k = (int)rng_in(own, 0, i);

		p->order[i] = p->order[k];
		p->order[k] = i;
	}
	MPI_Start(&p->req);
}

/* The next part of it: written and made ready by its sender; looked for, and at, by its receiver. */
static void parted_step(struct parted *p)
{
	int part = p->order[p->done], has_come = 0;
	size_t len = p->m.len / (size_t)p->parts, at = len * (size_t)part;

	if (p->m.src == storm.rank) {
		storm_at("MPI_Pready", p->m.dst, p->m.tag);
		memcpy(p->b.at + at, p->body + at, len);
		MPI_Pready(part, p->req);
		p->done++;
		return;
	}
	storm_at("MPI_Parrived", p->m.src, p->m.tag);
	MPI_Parrived(p->req, part, &has_come);
	if (!has_come)
		return;
	storm_check(memcmp(p->b.at + at, p->body + at, len) == 0, "part %d of %d of message %u from rank %d has arrived, and is not what was sent",
	            part, p->parts, p->m.seq, p->m.src);
	p->done++;
}

/* Both sides cut a message into parts as they like; the requests are started several times, each time with new bytes. */
void phase_partitioned(struct rng *r)
{
	struct rng own = { mix2(r->state, (uint64_t)storm.rank) };
	int all = (int)rng_in(r, 1, 6), rounds = (int)rng_in(r, 1, 4), n = 0;
	struct parted *p = get((size_t)all, sizeof(*p));
	struct message *m = get((size_t)all, sizeof(*m));

	for (int i = 0; i < all; i++) {
		int src = (int)rng_in(r, 0, storm.ranks - 1), dst = (src + (int)rng_in(r, 1, storm.ranks - 1)) % storm.ranks;
		int parts_out = 1 << rng_in(r, 0, 4), parts_in = 1 << rng_in(r, 0, 4);

		message_plan(&m[i], r, src, dst, 1);
		m[i].len = PARTS * (size_t)rng_in(r, 1, rng_in(r, 0, 3) ? 512 : 16384);
		m[i].from = m[i].into = CONTIGUOUS;
		m[i].tag = i;
		if (src != storm.rank && dst != storm.rank)
			continue;
		p[n] = (struct parted){ .m = m[i], .parts = src == storm.rank ? parts_out : parts_in };
		if (src == storm.rank) {
			buffer_make_send(&p[n].b, &m[i]);
			MPI_Psend_init(p[n].b.at, parts_out, (MPI_Count)(m[i].len / (size_t)parts_out), MPI_BYTE, dst, i, storm.comm, MPI_INFO_NULL, &p[n].req);
		} else {
			buffer_make_recv(&p[n].b, &m[i]);
			MPI_Precv_init(p[n].b.at, parts_in, (MPI_Count)(m[i].len / (size_t)parts_in), MPI_BYTE, src, i, storm.comm, MPI_INFO_NULL, &p[n].req);
		}
		n++;
	}
	for (int round = 0; round < rounds; round++) {
		int left = n;

		for (int i = 0; i < n; i++) {
			memset(p[i].b.at, 0, p[i].m.len);
			parted_begin(&p[i], &own);
		}
		while (left) {
			left = 0;
			for (int i = 0; i < n; i++) {
				if (p[i].done < p[i].parts)
					parted_step(&p[i]);
				left += p[i].done < p[i].parts;
			}
		}
		for (int i = 0; i < n; i++) {
			MPI_Status st;

			storm_at("MPI_Wait, partitioned", p[i].m.src == storm.rank ? p[i].m.dst : p[i].m.src, p[i].m.tag);
			MPI_Wait(&p[i].req, MPI_STATUS_IGNORE);
			st.MPI_SOURCE = p[i].m.src; /* its status is not that of a message */
			st.MPI_TAG = p[i].m.tag;
			MPI_Status_set_elements(&st, MPI_BYTE, (int)p[i].m.len);
			if (p[i].m.dst == storm.rank)
				message_arrived(&p[i].m, &p[i].b, &st);
			free(p[i].body);
			p[i].m.is_done = false;
		}
		for (int i = 0, k = 0; i < all && round + 1 < rounds; i++) {
			m[i].seq = storm.seq[m[i].src][m[i].dst]++;
			if (m[i].src == storm.rank || m[i].dst == storm.rank)
				p[k++].m.seq = m[i].seq;
		}
	}
	for (int i = 0; i < n; i++) {
		MPI_Request_free(&p[i].req);
		buffer_free(&p[i].b);
	}
	free(p);
	free(m);
}

/* ---- huge messages ----------------------------------------------------------------------------------------------- */

enum { MARK = 0xa5, MARK_EVERY = 65536 };

/*
 * One message from a rank to another; the others go on. The receiver watches its memory: between the first and the last time
 * that it sees a part of the message, and not all, the message is in the middle of its way.
 */
void phase_huge(struct rng *r)
{
	int src = (int)rng_in(r, 0, storm.ranks - 1), dst = (src + (int)rng_in(r, 1, storm.ranks - 1)) % storm.ranks, done = 0;
	static char seen_as[MAX_RANKS][8];
	uint64_t first = 0, last = 0;
	struct message m;
	struct buffer b;
	MPI_Request req;
	MPI_Status st;
	size_t at = 0;

	message_plan(&m, r, src, dst, storm.huge_len);
	m.len = rng_in(r, 0, 1) ? storm.huge_len : (size_t)rng_in(r, (long)storm.huge_len / 4, (long)storm.huge_len);
	m.from = m.into = CONTIGUOUS;
	if (storm.rank == src) {
		buffer_make_send(&b, &m);
		storm_at("MPI_Send, huge", dst, m.tag);
		MPI_Send(b.at, b.count, b.type, dst, m.tag, storm.comm);
		buffer_free(&b);
	}
	if (storm.rank != dst)
		return;
	buffer_make_recv(&b, &m);
	memset(b.at, MARK, m.len);
	storm_at("MPI_Irecv, MPI_Test, huge", src, m.tag);
	MPI_Irecv(b.at, b.count, b.type, src, m.tag, storm.comm, &req);
	for (;;) {
		static const unsigned char marks[8] = { MARK, MARK, MARK, MARK, MARK, MARK, MARK, MARK };

		while (at + sizeof(marks) <= m.len && memcmp(b.at + at, marks, sizeof(marks)))
			at += MARK_EVERY;
		if (at && at + sizeof(marks) <= m.len) {
			last = storm_now_ns();
			first = first ? first : last;
		}
		MPI_Test(&req, &done, &st);
		if (done)
			break;
	}
	if (first) {
		snprintf(seen_as[src], sizeof(seen_as[src]), "huge%d", src);
		storm_gap(seen_as[src], first, last);
	}
	message_arrived(&m, &b, &st);
	buffer_free(&b);
}
