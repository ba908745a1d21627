/* SPDX-License-Identifier: BSD-2-Clause */
/* The completion queue, where waiting is recognised; and counters. */
#include "mpi-shim/shim.h"

#define CQ_FIRST      256  /* entries of a new ring */
#define POLL_BUDGET   32   /* messages that one read may take */
#define TIGHT_TICKS   4096 /* polls in vain that are closer than this belong to one loop: one or two microseconds */
#define TIGHT_EMPTIES 4    /* so many of them in a row, and the program is waiting */
#define LOST_TICKS    262144 /* a poll takes less, its calls for the network included, unless the core was lost */

static struct shim_cq *cq_of(struct fid_cq *fid)
{
	return gw_container_of(fid, struct shim_cq, fid);
}

void shim_cq_grow(struct shim_cq *cq)
{
	uint32_t old = cq->mask + 1, n = cq->tail - cq->head;
	struct shim_comp *ring = ct_area_alloc(2 * (size_t)old * sizeof(*ring));

	if (!ring)
		shim_die("the user area is full: no room for more than %u completions that the program has not read", old);
	for (uint32_t i = 0; i < n; i++)
		ring[i] = cq->ring[(cq->head + i) & cq->mask];
	ct_area_free(cq->ring, old * sizeof(*ring));
	cq->ring = ring;
	cq->mask = 2 * old - 1;
	cq->head = 0;
	cq->tail = n;
}

/*
 * A loop that only polls is recognised by polls that follow each other closely, all in vain, with no other call in
 * between that could have made something happen. A single MPI_Test among computation never gets there. How long the poll itself
 * has taken does not matter: one that looks at the network makes several calls.
 */
void shim_cq_idle(struct shim_cq *cq, uint64_t since)
{
	uint64_t now = shim_ticks();

	if (since - cq->empty_ticks < TIGHT_TICKS) {
		cq->empties++;
		if (now - cq->empty_ticks < LOST_TICKS)
			noc_waited(now - cq->empty_ticks);
	} else {
		cq->empties = 1;
	}
	if (cq->empties >= TIGHT_EMPTIES) {
		if (GW_UNLIKELY(shim_the_ep && shim_the_ep->unanswered_all))
			shim_rma_impatient(shim_the_ep, now, noc_will_sleep(cq->empties - TIGHT_EMPTIES));
		noc_wait(cq->empties - TIGHT_EMPTIES);
		now = shim_ticks();
	}
	cq->empty_ticks = now;
}

/* Copy out what is there, up to an error entry; 0 when the queue is empty. */
static inline ssize_t take(struct shim_cq *cq, void *buf, size_t count, fi_addr_t *from)
{
	struct shim_ep *ep = shim_the_ep;
	char *out = buf;
	size_t n = 0;

	for (; n < count && cq->head != cq->tail; n++, cq->head++) {
		struct shim_comp *c = &cq->ring[cq->head & cq->mask];

		if (GW_UNLIKELY(c->err))
			return n ? (ssize_t)n : -FI_EAVAIL;
		if (GW_LIKELY(cq->entry_size == sizeof(c->e)))
			memcpy(out, &c->e, sizeof(c->e));
		else
			memcpy(out, &c->e, cq->entry_size);
		if (from)
			from[n] = c->src == SHIM_ANY || !ep ? FI_ADDR_NOTAVAIL : noc_name_make(ep->job, c->src);
		out += cq->entry_size;
	}
	return (ssize_t)n;
}

static inline __attribute__((always_inline)) ssize_t read_from(struct shim_cq *cq, void *buf, size_t count, fi_addr_t *from)
{
	struct shim_ep *ep = shim_the_ep;
	uint64_t since = 0;
	int moved = 0;
	ssize_t n;

	ct_gate_enter(ep ? ep->waiting_for : CT_DOING_WAIT);
	if (cq->head == cq->tail) {
		since = shim_ticks();
		moved = noc_poll(POLL_BUDGET);
		if (GW_UNLIKELY(ep && shim_rma_waits(ep)))
			shim_rma_flush(ep);
	}
	if (cq->head != cq->tail) {
		n = take(cq, buf, count, from);
		cq->empties = 0;
		if (ep && ep->waiting_for != CT_DOING_COLLECTIVE)
			ep->waiting_for = CT_DOING_WAIT;
	} else {
		n = -FI_EAGAIN;
		if (moved || cq->is_told) /* a piece of a bulk transfer, say: nothing to report, but not in vain */
			cq->empties = 0;
		else
			shim_cq_idle(cq, since);
		cq->is_told = false;
	}
	ct_gate_leave();
	return n;
}

static ssize_t cq_read(struct fid_cq *fid, void *buf, size_t count)
{
	return read_from(cq_of(fid), buf, count, NULL);
}

static ssize_t cq_readfrom(struct fid_cq *fid, void *buf, size_t count, fi_addr_t *from)
{
	return read_from(cq_of(fid), buf, count, from);
}

static ssize_t cq_readerr(struct fid_cq *fid, struct fi_cq_err_entry *out, uint64_t flags)
{
	struct shim_cq *cq = cq_of(fid);
	ssize_t n = -FI_EAGAIN;

	ct_gate_enter(CT_DOING_WAIT);
	if (cq->head != cq->tail && cq->ring[cq->head & cq->mask].err) {
		const struct shim_comp *c = &cq->ring[cq->head++ & cq->mask];

		out->op_context = c->e.op_context;
		out->flags = c->e.flags;
		out->len = c->e.len;
		out->buf = c->e.buf;
		out->data = c->e.data;
		out->tag = c->e.tag;
		out->olen = c->olen;
		out->err = (int)c->err;
		out->prov_errno = (int)c->err;
		out->err_data_size = 0; /* err_data stays the caller's buffer */
		n = 1;
	}
	ct_gate_leave();
	return n;
}

/* Wait by polling: each turn is a read of its own, so that the gate is free in between. */
static ssize_t cq_sreadfrom(struct fid_cq *fid, void *buf, size_t count, fi_addr_t *from, const void *cond, int timeout)
{
	uint64_t end = timeout < 0 ? UINT64_MAX : gw_now_ns() + (uint64_t)timeout * 1000000;

	for (;;) {
		ssize_t n = read_from(cq_of(fid), buf, count, from);

		if (n != -FI_EAGAIN || gw_now_ns() >= end)
			return n;
	}
}

static ssize_t cq_sread(struct fid_cq *fid, void *buf, size_t count, const void *cond, int timeout)
{
	return cq_sreadfrom(fid, buf, count, NULL, cond, timeout);
}

static int cq_no_signal(struct fid_cq *fid)
{
	return -FI_ENOSYS;
}

static const char *cq_strerror(struct fid_cq *fid, int prov_errno, const void *err_data, char *buf, size_t len)
{
	const char *text = strerror(prov_errno);

	if (buf && len)
		snprintf(buf, len, "%s", text);
	return buf && len ? buf : text;
}

static int cq_close(struct fid *fid)
{
	struct shim_cq *cq = gw_container_of(fid, struct shim_cq, fid.fid);

	if (cq->users)
		return -FI_EBUSY;
	ct_gate_enter(CT_DOING_COMPUTE);
	cq->domain->users--;
	ct_area_free(cq->ring, ((size_t)cq->mask + 1) * sizeof(*cq->ring));
	ct_area_free(cq, sizeof(*cq));
	ct_gate_leave();
	return 0;
}

static struct fi_ops cq_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = cq_close,
	.bind = shim_no_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_cq cq_ops = {
	.size = sizeof(struct fi_ops_cq),
	.read = cq_read,
	.readfrom = cq_readfrom,
	.readerr = cq_readerr,
	.sread = cq_sread,
	.sreadfrom = cq_sreadfrom,
	.signal = cq_no_signal,
	.strerror = cq_strerror,
};

int shim_cq_open(struct fid_domain *dom, struct fi_cq_attr *attr, struct fid_cq **out, void *context)
{
	static const uint32_t sizes[] = {
		[FI_CQ_FORMAT_UNSPEC] = sizeof(struct fi_cq_tagged_entry),
		[FI_CQ_FORMAT_CONTEXT] = sizeof(struct fi_cq_entry),
		[FI_CQ_FORMAT_MSG] = sizeof(struct fi_cq_msg_entry),
		[FI_CQ_FORMAT_DATA] = sizeof(struct fi_cq_data_entry),
		[FI_CQ_FORMAT_TAGGED] = sizeof(struct fi_cq_tagged_entry),
	};
	struct shim_domain *domain = gw_container_of(dom, struct shim_domain, fid);
	uint32_t entries = CQ_FIRST;
	struct shim_cq *cq;

	if (attr->wait_obj != FI_WAIT_NONE && attr->wait_obj != FI_WAIT_UNSPEC)
		return -FI_ENOSYS;
	if ((unsigned)attr->format >= GW_ARRAY_LEN(sizes))
		return -FI_EINVAL;
	ct_gate_enter(CT_DOING_COMPUTE);
	cq = ct_area_zalloc(sizeof(*cq));
	if (cq) {
		cq->ring = ct_area_alloc(entries * sizeof(*cq->ring));
		if (!cq->ring) {
			ct_area_free(cq, sizeof(*cq));
			cq = NULL;
		} else {
			domain->users++;
		}
	}
	ct_gate_leave();
	if (!cq)
		return -FI_ENOMEM;
	cq->fid.fid = (struct fid){ .fclass = FI_CLASS_CQ, .context = context, .ops = &cq_fid_ops };
	cq->fid.ops = &cq_ops;
	cq->domain = domain;
	cq->mask = entries - 1;
	cq->entry_size = sizes[attr->format];
	*out = &cq->fid;
	return 0;
}

/* ---- counters -------------------------------------------------------------------------------------------------- */

static struct shim_cntr *cntr_of(struct fid_cntr *fid)
{
	return gw_container_of(fid, struct shim_cntr, fid);
}

/* Reading drives progress: a program may wait with nothing else. */
static uint64_t cntr_read(struct fid_cntr *fid)
{
	struct shim_cntr *c = cntr_of(fid);
	uint64_t value;

	ct_gate_enter(CT_DOING_WAIT);
	noc_poll(POLL_BUDGET);
	if (GW_UNLIKELY(shim_the_ep && shim_rma_waits(shim_the_ep)))
		shim_rma_flush(shim_the_ep);
	value = c->value;
	ct_gate_leave();
	return value;
}

static uint64_t cntr_readerr(struct fid_cntr *fid)
{
	return cntr_of(fid)->errors;
}

static int cntr_add(struct fid_cntr *fid, uint64_t value)
{
	cntr_of(fid)->value += value;
	return 0;
}

static int cntr_set(struct fid_cntr *fid, uint64_t value)
{
	cntr_of(fid)->value = value;
	return 0;
}

static int cntr_adderr(struct fid_cntr *fid, uint64_t value)
{
	cntr_of(fid)->errors += value;
	return 0;
}

static int cntr_seterr(struct fid_cntr *fid, uint64_t value)
{
	cntr_of(fid)->errors = value;
	return 0;
}

static int cntr_wait(struct fid_cntr *fid, uint64_t threshold, int timeout)
{
	uint64_t end = timeout < 0 ? UINT64_MAX : gw_now_ns() + (uint64_t)timeout * 1000000;
	struct shim_cntr *c = cntr_of(fid);
	uint64_t errors = c->errors;

	for (uint32_t empties = 0; cntr_read(fid) < threshold; empties++) {
		if (c->errors != errors)
			return -FI_EAVAIL;
		if (gw_now_ns() >= end)
			return -FI_ETIMEDOUT;
		ct_gate_enter(CT_DOING_WAIT);
		noc_wait(empties);
		ct_gate_leave();
	}
	return 0;
}

static int cntr_close(struct fid *fid)
{
	struct shim_cntr *c = gw_container_of(fid, struct shim_cntr, fid.fid);

	if (c->users)
		return -FI_EBUSY;
	ct_gate_enter(CT_DOING_COMPUTE);
	c->domain->users--;
	ct_area_free(c, sizeof(*c));
	ct_gate_leave();
	return 0;
}

static struct fi_ops cntr_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = cntr_close,
	.bind = shim_no_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_cntr cntr_ops = {
	.size = sizeof(struct fi_ops_cntr),
	.read = cntr_read,
	.readerr = cntr_readerr,
	.add = cntr_add,
	.set = cntr_set,
	.wait = cntr_wait,
	.adderr = cntr_adderr,
	.seterr = cntr_seterr,
};

int shim_cntr_open(struct fid_domain *dom, struct fi_cntr_attr *attr, struct fid_cntr **out, void *context)
{
	struct shim_domain *domain = gw_container_of(dom, struct shim_domain, fid);
	struct shim_cntr *c;

	if (attr && attr->wait_obj != FI_WAIT_NONE && attr->wait_obj != FI_WAIT_UNSPEC)
		return -FI_ENOSYS;
	ct_gate_enter(CT_DOING_COMPUTE);
	c = ct_area_zalloc(sizeof(*c));
	if (c)
		domain->users++;
	ct_gate_leave();
	if (!c)
		return -FI_ENOMEM;
	c->fid.fid = (struct fid){ .fclass = FI_CLASS_CNTR, .context = context, .ops = &cntr_fid_ops };
	c->fid.ops = &cntr_ops;
	c->domain = domain;
	*out = &c->fid;
	return 0;
}
