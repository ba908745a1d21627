/* SPDX-License-Identifier: BSD-2-Clause */
/* What libfabric's objects do when noc calls them, simulated; see wire.h. */
#include "tests/sim/wire.h"

#include <stdlib.h>


struct nic sim_nics[SIM_MEMBERS];
struct gw_list sim_ends = { &sim_ends, &sim_ends };
unsigned sim_ends_n;
bool sim_wants_registered;
static uint64_t listened;

static struct nic *me_nic(void) { return &sim_nics[sim_now_in]; }

struct blob *sim_blob_new(struct gw_list *to, size_t size)
{
	struct blob *b = calloc(1, sizeof(*b) + size);

	if (!b)
		abort();
	b->size = size;
	gw_list_append(to, &b->link);
	return b;
}

void sim_blob_free(struct blob *b)
{
	gw_list_remove(&b->link);
	free(b);
}

struct blob *sim_blob_first(struct gw_list *l)
{
	return gw_list_is_empty(l) ? NULL : gw_list_entry(l->next, struct blob, link);
}

static void list_clear(struct gw_list *l)
{
	while (!gw_list_is_empty(l))
		sim_blob_free(sim_blob_first(l));
}

/* ---- info ------------------------------------------------------------------------------------------------------ */

struct fi_info *fi_dupinfo(const struct fi_info *from)
{
	struct fi_info *i = calloc(1, sizeof(*i));

	i->ep_attr = calloc(1, sizeof(*i->ep_attr));
	i->domain_attr = calloc(1, sizeof(*i->domain_attr));
	i->fabric_attr = calloc(1, sizeof(*i->fabric_attr));
	i->domain_attr->mr_mode = sim_wants_registered ? FI_MR_LOCAL : 0;
	if (from && from->src_addr) {
		i->src_addr = malloc(sizeof(struct sockaddr_in6));
		memcpy(i->src_addr, from->src_addr, sizeof(struct sockaddr_in6));
		i->src_addrlen = from->src_addrlen;
	}
	return i;
}

void fi_freeinfo(struct fi_info *i)
{
	if (!i)
		return;
	free(i->fabric_attr->prov_name);
	free(i->ep_attr);
	free(i->domain_attr);
	free(i->fabric_attr);
	free(i->src_addr);
	free(i->dest_addr);
	free(i);
}

int fi_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags, const struct fi_info *hints,
               struct fi_info **info)
{
	(void)version, (void)node, (void)service, (void)flags;
	*info = fi_dupinfo(hints);
	return 0;
}

const char *fi_strerror(int e) { return strerror(e); }

/* ---- queues ---------------------------------------------------------------------------------------------------- */

struct blob *sim_tell(struct end *e, uint32_t event, bool is_error, const void *data, size_t size)
{
	struct blob *b = sim_blob_new(&sim_nics[e->owner].events, size);

	b->fid = &e->ep.fid;
	b->event = event;
	b->is_error = is_error;
	if (size)
		memcpy(b->bytes, data, size);
	return b;
}

static ssize_t eq_read(struct fid_eq *eq, uint32_t *event, void *buf, size_t len, uint64_t flags)
{
	struct blob *b = sim_blob_first(&me_nic()->events);
	struct fi_eq_cm_entry *out = buf;
	ssize_t n;

	(void)eq, (void)flags;
	if (!b)
		return -FI_EAGAIN;
	if (b->is_error)
		return -FI_EAVAIL;
	n = (ssize_t)(sizeof(*out) + b->size);
	if ((size_t)n > len)
		sim_fail("an event does not fit");
	*event = b->event;
	out->fid = b->fid;
	out->info = b->info;
	memcpy(out->data, b->bytes, b->size);
	sim_blob_free(b);
	return n;
}

static ssize_t eq_readerr(struct fid_eq *eq, struct fi_eq_err_entry *e, uint64_t flags)
{
	struct blob *b = sim_blob_first(&me_nic()->events);

	(void)eq, (void)flags;
	if (!b || !b->is_error)
		return -FI_EAGAIN;
	e->fid = b->fid;
	e->err = FI_ECONNREFUSED;
	sim_blob_free(b);
	return sizeof(*e);
}

static ssize_t cq_read(struct fid_cq *cq, void *buf, size_t count)
{
	struct fi_cq_msg_entry *e = buf;
	struct blob *b = sim_blob_first(&me_nic()->completions);
	size_t n = 0;

	(void)cq;
	if (!b || sim_one_in(4)) /* what the event queue says may be read before */
		return -FI_EAGAIN;
	if (b->is_error)
		return -FI_EAVAIL;
	for (; n < count && b && !b->is_error; b = sim_blob_first(&me_nic()->completions)) {
		e[n++] = (struct fi_cq_msg_entry){ .op_context = b->context, .len = b->n };
		sim_blob_free(b);
	}
	return (ssize_t)n;
}

static ssize_t cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *e, uint64_t flags)
{
	struct blob *b = sim_blob_first(&me_nic()->completions);

	(void)cq, (void)flags;
	if (!b || !b->is_error)
		return -FI_EAGAIN;
	memset(e, 0, sizeof(*e));
	e->op_context = b->context;
	e->err = FI_ECANCELED;
	sim_blob_free(b);
	return 1;
}

void sim_complete(struct end *e, void *context, size_t n, bool is_error)
{
	struct blob *b = sim_blob_new(&sim_nics[e->owner].completions, 0);

	b->context = context;
	b->n = n;
	b->is_error = is_error;
}

/* ---- endpoints ------------------------------------------------------------------------------------------------- */

static struct end *end_of(struct fid_ep *ep) { return (struct end *)(void *)ep; }

/* The connection breaks for @e, which hears of it later: some tail of what was coming is lost. */
void sim_end_cut(struct end *e)
{
	e->other = NULL;
	if (e->state == END_OPEN) {
		unsigned keep = (unsigned)sim_rnd(e->wire_n + 1);

		while (e->wire_n > keep) {
			sim_blob_free(gw_list_entry(e->wire.prev, struct blob, link));
			e->wire_n--;
			sim_counts.lost_frames++;
		}
		e->state = END_CUT;
	} else if (e->state == END_ANSWERED || e->state == END_ASKED) {
		e->state = END_REFUSED;
	}
}

void sim_end_flush(struct end *e, bool is_told)
{
	struct blob *b;

	while ((b = sim_blob_first(&e->rx))) {
		if (is_told)
			sim_complete(e, b->context, 0, true);
		sim_blob_free(b);
	}
	while ((b = sim_blob_first(&e->tx))) {
		if (is_told && b->wants)
			sim_complete(e, b->context, 0, true);
		sim_blob_free(b);
	}
	e->tx_n = 0;
}

static void request_free(struct request *r)
{
	if (r && r->from) {
		r->from->request = NULL;
		sim_end_cut(r->from);
	}
	free(r);
}

static int ep_close(struct fid *fid)
{
	struct end *e = (struct end *)(void *)fid;

	if (e->owner != sim_now_in)
		sim_fail("somebody else's endpoint is closed");
	gw_list_for_safe(l, &sim_nics[e->owner].events) {
		struct blob *b = gw_list_entry(l, struct blob, link);

		if (b->fid == fid)
			sim_blob_free(b);
	}
	sim_end_flush(e, !e->is_silent);
	if (e->other)
		sim_end_cut(e->other);
	if (e->state == END_ASKED && e->request)
		e->request->from = NULL; /* the listener's */
	else if (e->state == END_IDLE)
		request_free(e->request);
	list_clear(&e->wire);
	gw_list_remove(&e->link);
	free(e);
	sim_ends_n--;
	return 0;
}

static int ep_bind(struct fid *fid, struct fid *to, uint64_t flags) { (void)fid, (void)to, (void)flags; return 0; }
static int ep_control(struct fid *fid, int command, void *arg) { (void)fid, (void)command, (void)arg; return 0; }

static int ep_connect(struct fid_ep *ep, const void *addr, const void *param, size_t len)
{
	struct end *e = end_of(ep);

	memcpy(&e->to, addr, sizeof(e->to));
	if (len > NOC_GREETING_MAX)
		sim_fail("a greeting that some connection managers cannot carry");
	memcpy(e->greeting, param, len);
	e->greeting_size = len;
	e->state = END_ASKING;
	gw_list_for(l, &sim_ends) {
		struct end *o = gw_list_entry(l, struct end, link);

		sim_counts.crossings += (o->state == END_ASKING || o->state == END_ASKED) &&
		                        o->owner == (int)ntohl(e->to.sin_addr.s_addr) - 1 &&
		                        (int)ntohl(o->to.sin_addr.s_addr) - 1 == e->owner;
	}
	return 0;
}

static int ep_accept(struct fid_ep *ep, const void *param, size_t len)
{
	struct end *e = end_of(ep), *from = e->request->from;

	free(e->request);
	e->request = NULL;
	e->state = END_OPEN;
	if (!from) {
		sim_end_cut(e);
		return 0;
	}
	from->request = NULL;
	from->other = e;
	e->other = from;
	from->state = END_ANSWERED;
	memcpy(from->greeting, param, len);
	from->greeting_size = len;
	sim_tell(e, FI_CONNECTED, false, NULL, 0);
	return 0;
}

/* Hardware would be told to read or write here. */
static void check_registered(const void *at, size_t size, void *desc)
{
	if (!sim_wants_registered)
		return;
	gw_list_for(l, &me_nic()->regions) {
		struct region *r = gw_list_entry(l, struct region, link);

		if (r->mr.mem_desc == desc && (const char *)at >= r->at && (const char *)at + size <= r->at + r->size)
			return;
	}
	sim_fail("memory that is not registered is given to the network");
}

static ssize_t ep_recv(struct fid_ep *ep, void *buf, size_t len, void *desc, fi_addr_t from, void *context)
{
	struct end *e = end_of(ep);
	struct blob *b;

	(void)from;
	check_registered(buf, len, desc);
	if (e->state == END_TOLD)
		return -FI_ENOTCONN;
	b = sim_blob_new(&e->rx, 0);
	b->context = context;
	b->iov[0] = (struct iovec){ buf, len };
	return 0;
}

static ssize_t ep_sendmsg(struct fid_ep *ep, const struct fi_msg *msg, uint64_t flags)
{
	struct end *e = end_of(ep);
	struct blob *b;

	if (e->state != END_OPEN && (e->state != END_CUT || sim_one_in(2)))
		return -FI_ENOTCONN;
	for (size_t i = 0; i < msg->iov_count; i++)
		check_registered(msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len, msg->desc ? msg->desc[i] : NULL);
	if (e->tx_n >= SIM_TX_MAX || sim_one_in(16))
		return -FI_EAGAIN;
	if (e->state == END_CUT)
		sim_counts.lost_frames++;
	b = sim_blob_new(&e->tx, 0);
	b->n = msg->iov_count;
	memcpy(b->iov, msg->msg_iov, b->n * sizeof(*b->iov));
	b->context = msg->context;
	b->wants = flags & FI_COMPLETION;
	e->tx_n++;
	return 0;
}

static ssize_t ep_inject(struct fid_ep *ep, const void *buf, size_t len, fi_addr_t to)
{
	struct end *e = end_of(ep);
	struct blob *b;

	(void)to;
	if (e->state != END_OPEN && (e->state != END_CUT || sim_one_in(2)))
		return -FI_ENOTCONN;
	if (e->tx_n >= SIM_TX_MAX || (sim_one_in(16) && ((const struct noc_frame *)buf)->kind != NOC_KIND_PROOF))
		return -FI_EAGAIN;
	b = sim_blob_new(&e->tx, len);
	memcpy(b->bytes, buf, len);
	e->tx_n++;
	return 0;
}

static struct fi_ops ep_fid_ops = { .close = ep_close, .bind = ep_bind, .control = ep_control };
static struct fi_ops_cm ep_cm = { .connect = ep_connect, .accept = ep_accept };
static struct fi_ops_msg ep_msg = { .recv = ep_recv, .sendmsg = ep_sendmsg, .inject = ep_inject };

static int domain_endpoint(struct fid_domain *d, struct fi_info *info, struct fid_ep **ep, void *context)
{
	struct end *e = calloc(1, sizeof(*e));

	(void)d;
	e->ep.fid.context = context;
	e->ep.fid.ops = &ep_fid_ops;
	e->ep.cm = &ep_cm;
	e->ep.msg = &ep_msg;
	e->owner = sim_now_in;
	e->is_silent = sim_one_in(4);
	gw_list_init(&e->tx);
	gw_list_init(&e->wire);
	gw_list_init(&e->rx);
	gw_list_append(&sim_ends, &e->link);
	sim_ends_n++;
	if (info->handle) {
		e->request = (struct request *)(void *)info->handle;
		info->handle = NULL;
	}
	*ep = &e->ep;
	return 0;
}

/* ---- the listening side, and what it hangs from ---------------------------------------------------------------- */

static int pep_reject(struct fid_pep *pep, fid_t handle, const void *param, size_t len)
{
	(void)pep, (void)param, (void)len;
	sim_counts.refused++;
	request_free((struct request *)(void *)handle);
	return 0;
}

static int pep_listen(struct fid_pep *pep)
{
	(void)pep;
	me_nic()->listens = ++listened;
	return 0;
}

static int pep_getname(fid_t fid, void *addr, size_t *len)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl((uint32_t)sim_now_in + 1) };

	(void)fid;
	memcpy(a.sin_zero, &me_nic()->listens, sizeof(a.sin_zero));
	memcpy(addr, &a, sizeof(a));
	*len = sizeof(a);
	return 0;
}

static int close_nothing(struct fid *fid) { (void)fid; return 0; }
static int pep_close(struct fid *fid) { (void)fid; me_nic()->listens = 0; return 0; }
static int cq_close(struct fid *fid) { (void)fid; list_clear(&me_nic()->completions); return 0; }

static int eq_close(struct fid *fid)
{
	struct nic *n = me_nic();
	struct blob *b;

	(void)fid;
	while ((b = sim_blob_first(&n->events))) {
		if (b->info) {
			request_free((struct request *)(void *)b->info->handle);
			fi_freeinfo(b->info);
		}
		sim_blob_free(b);
	}
	return 0;
}

static bool is_within(const struct gw_list *queue, const struct region *r)
{
	gw_list_for(l, queue) {
		struct blob *b = gw_list_entry(l, struct blob, link);

		for (size_t i = 0; i < GW_ARRAY_LEN(b->iov); i++)
			if (b->iov[i].iov_len && (char *)b->iov[i].iov_base >= r->at && (char *)b->iov[i].iov_base < r->at + r->size)
				return true;
	}
	return false;
}

static int mr_close(struct fid *fid)
{
	struct region *r = gw_container_of(fid, struct region, mr.fid);

	gw_list_for(l, &sim_ends) {
		struct end *e = gw_list_entry(l, struct end, link);

		if (is_within(&e->tx, r) || is_within(&e->rx, r))
			sim_fail("memory is no longer registered while the network uses it");
	}
	gw_list_remove(&r->link);
	free(r);
	return 0;
}

static struct fi_ops mr_fid_ops = { .close = mr_close };

static int mr_reg(struct fid *fid, const void *buf, size_t len, uint64_t access, uint64_t offset, uint64_t key, uint64_t flags,
                  struct fid_mr **mr, void *context)
{
	struct region *r = calloc(1, sizeof(*r));

	(void)fid, (void)access, (void)offset, (void)key, (void)flags, (void)context;
	if (sim_one_in(32)) {
		free(r);
		sim_may_complain = true; /* once in a process */
		return -FI_ENOMEM;
	}
	r->mr.fid.ops = &mr_fid_ops;
	r->mr.mem_desc = r;
	r->at = (char *)(uintptr_t)buf;
	r->size = len;
	gw_list_append(&me_nic()->regions, &r->link);
	*mr = &r->mr;
	return 0;
}

static int domain_close(struct fid *fid)
{
	(void)fid;
	if (!gw_list_is_empty(&me_nic()->regions))
		sim_fail("memory is still registered where the domain is closed");
	return 0;
}

static struct fi_ops domain_fid_ops = { .close = domain_close };
static struct fi_ops_mr domain_mr = { .reg = mr_reg };
static struct fi_ops plain_ops = { .close = close_nothing }, eq_fid_ops = { .close = eq_close },
	cq_fid_ops = { .close = cq_close }, pep_fid_ops = { .close = pep_close, .bind = ep_bind };
static struct fi_ops_eq eq_ops = { .read = eq_read, .readerr = eq_readerr };
static struct fi_ops_cq cq_ops = { .read = cq_read, .readerr = cq_readerr };
static struct fi_ops_cm pep_cm = { .listen = pep_listen, .reject = pep_reject, .getname = pep_getname };

static int domain_cq(struct fid_domain *d, struct fi_cq_attr *attr, struct fid_cq **cq, void *context)
{
	(void)d, (void)attr, (void)context;
	me_nic()->cq.fid.ops = &cq_fid_ops;
	me_nic()->cq.ops = &cq_ops;
	*cq = &me_nic()->cq;
	return 0;
}
static struct fi_ops_domain domain_ops = { .cq_open = domain_cq, .endpoint = domain_endpoint };

static int fabric_domain(struct fid_fabric *f, struct fi_info *info, struct fid_domain **d, void *context)
{
	(void)f, (void)info, (void)context;
	me_nic()->domain.fid.ops = &domain_fid_ops;
	me_nic()->domain.mr = &domain_mr;
	me_nic()->domain.ops = &domain_ops;
	*d = &me_nic()->domain;
	return 0;
}

static int fabric_eq(struct fid_fabric *f, struct fi_eq_attr *attr, struct fid_eq **eq, void *context)
{
	(void)f, (void)attr, (void)context;
	me_nic()->eq.fid.ops = &eq_fid_ops;
	me_nic()->eq.ops = &eq_ops;
	*eq = &me_nic()->eq;
	return 0;
}

static int fabric_pep(struct fid_fabric *f, struct fi_info *info, struct fid_pep **pep, void *context)
{
	(void)f, (void)info, (void)context;
	me_nic()->pep.fid.ops = &pep_fid_ops;
	me_nic()->pep.cm = &pep_cm;
	*pep = &me_nic()->pep;
	return 0;
}
static struct fi_ops_fabric fabric_table = { .domain = fabric_domain, .eq_open = fabric_eq, .passive_ep = fabric_pep };

int fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **f, void *context) { (void)attr, (void)context; return noc_tcp_fabric(f); }

struct fi_info *noc_tcp_info(const struct noc_address *at)
{
	struct fi_info from = { .src_addr = (void *)(uintptr_t)at, .src_addrlen = sizeof(*at) };

	return fi_dupinfo(&from);
}

int noc_tcp_fabric(struct fid_fabric **f)
{
	me_nic()->fabric.fid.ops = &plain_ops;
	me_nic()->fabric.ops = &fabric_table;
	*f = &me_nic()->fabric;
	return 0;
}

