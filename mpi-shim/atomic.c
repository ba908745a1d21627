/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Atomic operations on the memory of others.
 *
 *   asker                                                        owner
 *     | ATOMIC {key, offset, count, type, op} + operands --------> |   handler does it, element by element
 *     | <--------------------------- VALUE + what was there before |   REFUSED: no such memory, no such operation
 *
 * They are atomic against each other because the owner of the owner's gate does them, one after the other. What is longer
 * than a message travels in pieces: MPI asks that elements are atomic, not whole operations. The next atomic operation
 * on that process is refused (-FI_EAGAIN) until the last piece is on its way, so the order of calls is kept.
 */
#include "mpi-shim/rma.h"

struct atomic_request { /* before the operands, then what to compare with; little endian */
	uint64_t key, offset;
	uint32_t count;
	uint8_t type, op;   /* libfabric's numbers, which are part of its binary interface */
	uint8_t kind, pad;
};
_Static_assert(sizeof(struct atomic_request) == 24, "wire format");

#define ATOMIC_EAGER  (NOC_EAGER_MAX - sizeof(struct atomic_request)) /* bytes of operands in one message */
#define ATOMIC_FLYING 8u                                               /* pieces of one operation under way */
#define ATOMIC_COUNT_MAX ((size_t)1 << 48)                             /* elements: their bytes can still be counted */

/* What a call asks for. */
struct atomic_call {
	uint64_t key, offset;
	size_t count;            /* elements */
	enum fi_datatype type;
	enum fi_op op;
	enum shim_atomic_kind kind;
	const char *operand, *compare; /* NULL where the operation has none */
	char *result;
	void *context;           /* of the completion; NULL: none is wanted */
};

/* An operation under way. One that is sent whole, and has neither a result nor a completion, needs no record. User area. */
struct atomic_op {
	struct atomic_op *next;  /* in ep->atomics while not sent whole */
	struct atomic_call call;
	size_t sent, heard;      /* elements */
	uint32_t peer, flying;   /* pieces under way */
	int status;
};

static inline struct shim_ep *ep_of(struct fid_ep *fid)
{
	return gw_container_of(fid, struct shim_ep, fid);
}

/* Bytes of operands that travel for one element. */
static size_t operand_bytes(enum fi_op op, enum shim_atomic_kind kind, size_t size)
{
	return op == FI_ATOMIC_READ ? 0 : kind == SHIM_ATOMIC_COMPARE ? 2 * size : size;
}

/* Elements that one message takes, and its answer. */
static size_t piece_of(const struct atomic_call *c)
{
	size_t size = shim_atomic_size(c->type), bytes = operand_bytes(c->op, c->kind, size);

	return ATOMIC_EAGER / (bytes ? bytes : size);
}

static uint64_t access_of(enum fi_op op, enum shim_atomic_kind kind)
{
	return (op == FI_ATOMIC_READ ? 0 : FI_REMOTE_WRITE) | (kind == SHIM_ATOMIC_PLAIN ? 0 : FI_REMOTE_READ);
}

/* ---- the owner ------------------------------------------------------------------------------------------------- */

static _Alignas(16) char before[NOC_EAGER_MAX]; /* values before an operation; whoever owns the gate */

void shim_atomic_serve(struct shim_ep *ep, const struct noc_msg *msg)
{
	if (GW_LIKELY(!ep->is_mixed) || msg->offer || !shim_hold_keep(ep, msg))
		shim_atomic_do(ep, msg);
}

void shim_atomic_do(struct shim_ep *ep, const struct noc_msg *msg)
{
	const char *operand = (const char *)msg->payload + sizeof(struct atomic_request);
	struct atomic_request q;
	struct iovec old = { before, 0 };
	size_t size, bytes;
	char *at = NULL;

	if (msg->offer || msg->len < sizeof(q))
		return;
	memcpy(&q, msg->payload, sizeof(q));
	size = shim_atomic_size(q.type);
	bytes = operand_bytes(q.op, q.kind, size);
	if (shim_atomic_is_valid(q.type, q.op, q.kind) && msg->len == sizeof(q) + q.count * bytes &&
	    q.count <= NOC_EAGER_MAX / size)
		at = shim_mr_place(q.key, q.offset, q.count * size, access_of(q.op, q.kind));
	if (!at) {
		shim_rma_answer(ep, msg->src, RMA_REFUSED, msg->data, NULL, 0, false);
		return;
	}
	if (q.kind != SHIM_ATOMIC_PLAIN)
		old.iov_len = q.count * size;
	shim_atomic_apply(q.type, q.op, at, operand, operand + q.count * size, old.iov_len ? before : NULL, q.count);
	shim_rma_answer(ep, msg->src, RMA_VALUE, msg->data, &old, 1, true);
}

/* ---- the asker ------------------------------------------------------------------------------------------------- */

/* One message: @n elements from @first on. */
static int send_piece(uint32_t peer, const struct atomic_call *c, size_t first, size_t n, struct atomic_op *op)
{
	size_t size = shim_atomic_size(c->type), len = c->operand ? n * size : 0, all = c->compare ? 2 * len : len;
	struct { struct atomic_request q; char bytes[NOC_INLINE_MAX - sizeof(struct atomic_request)]; } slot; /* not cleared */
	struct iovec out[3];
	size_t pieces = 1;
	bool is_done; /* it is copied: nobody asks, but the short way out wants it */

	slot.q = (struct atomic_request){ .key = c->key, .offset = c->offset + first * size, .count = (uint32_t)n,
		.type = (uint8_t)c->type, .op = (uint8_t)c->op, .kind = (uint8_t)c->kind };
	out[0] = (struct iovec){ &slot, sizeof(slot.q) };
	if (len == 8) { /* by far the most frequent */
		memcpy(slot.bytes, c->operand + first * size, 8);
		if (c->compare)
			memcpy(slot.bytes + 8, c->compare + first * size, 8);
		out[0].iov_len += all;
	} else if (all <= sizeof(slot.bytes)) { /* in one slot, from one place: the short way */
		if (c->operand)
			memcpy(slot.bytes, c->operand + first * size, len);
		if (c->compare)
			memcpy(slot.bytes + len, c->compare + first * size, len);
		out[0].iov_len += all;
	} else {
		out[pieces++] = (struct iovec){ (void *)(uintptr_t)(c->operand + first * size), len };
		if (c->compare)
			out[pieces++] = (struct iovec){ (void *)(uintptr_t)(c->compare + first * size), len };
	}
	return noc_send(peer, NOC_PORT_RMA, RMA_ATOMIC, (uintptr_t)op, out, pieces, NOC_F_COPY, NULL, &is_done);
}

static void op_link(struct shim_ep *ep, struct atomic_op *op)
{
	op->next = NULL;
	if (ep->atomics)
		ep->atomics_last->next = op;
	else
		ep->atomics = op;
	ep->atomics_last = op;
}

static void op_unlink(struct shim_ep *ep, struct atomic_op *op)
{
	struct atomic_op *last = NULL;

	for (struct atomic_op **at = &ep->atomics; *at; last = *at, at = &(*at)->next) {
		if (*at == op) {
			*at = op->next;
			if (!*at)
				ep->atomics_last = last;
			return;
		}
	}
}

/* Send pieces of @op while there is room and not too many are under way. */
static int op_push(struct shim_ep *ep, struct atomic_op *op)
{
	size_t piece = piece_of(&op->call);

	while (op->sent < op->call.count && op->flying < ATOMIC_FLYING) {
		size_t left = op->call.count - op->sent, n = left < piece ? left : piece;
		int rc = send_piece(op->peer, &op->call, op->sent, n, op);

		if (rc)
			return rc;
		shim_rma_asked(ep, op->peer);
		op->sent += n;
		op->flying++;
	}
	return 0;
}

static void ended(struct shim_ep *ep, const struct atomic_call *c, int status)
{
	shim_rma_complete(ep, c->context, FI_ATOMIC | (c->kind == SHIM_ATOMIC_PLAIN ? FI_WRITE : FI_READ),
	                  c->count * shim_atomic_size(c->type), status);
}

static void op_ended(struct shim_ep *ep, struct atomic_op *op)
{
	ended(ep, &op->call, op->status);
	ct_area_free(op, sizeof(*op));
}

/* The next pieces of an operation that is not sent whole. */
static void op_push_on(struct shim_ep *ep, struct atomic_op *op)
{
	int rc = op->status ? op->status : op_push(ep, op);

	if (rc && rc != -FI_EAGAIN) { /* the peer is gone, or has refused a piece: the rest would fare no better */
		op->status = rc;
		op->sent = op->call.count;
	}
	if (op->sent == op->call.count) {
		op_unlink(ep, op);
		if (!op->flying)
			op_ended(ep, op);
	}
}

void shim_atomic_push(struct shim_ep *ep)
{
	for (struct atomic_op *op = ep->atomics, *next; op; op = next) {
		next = op->next;
		op_push_on(ep, op);
	}
}

/* Answers come in the order of the pieces. */
void shim_atomic_answered(struct shim_ep *ep, const struct noc_msg *msg)
{
	struct atomic_op *op = (struct atomic_op *)(uintptr_t)msg->data;
	int status = msg->tag == RMA_REFUSED ? -FI_EACCES : 0;
	size_t size, left, n, piece;

	shim_rma_heard(ep, msg->src);
	if (!op) {
		shim_rma_complete(ep, NULL, FI_ATOMIC | FI_WRITE, 0, status);
		return;
	}
	size = shim_atomic_size(op->call.type);
	piece = piece_of(&op->call);
	left = op->call.count - op->heard;
	n = left < piece ? left : piece;
	if (op->call.result && msg->len == n * size) {
		if (msg->len == 8)
			memcpy(op->call.result + op->heard * size, msg->payload, 8);
		else
			memcpy(op->call.result + op->heard * size, msg->payload, msg->len);
	}
	op->heard += n;
	op->flying--;
	if (status)
		op->status = status;
	if (op->sent < op->call.count)
		op_push_on(ep, op);
	else if (!op->flying)
		op_ended(ep, op);
}

/* Atomic operations on one process are done in the order of the calls. */
static bool is_sending_to(const struct shim_ep *ep, uint32_t peer)
{
	for (const struct atomic_op *op = ep->atomics; op; op = op->next)
		if (op->peer == peer)
			return true;
	return false;
}

static ssize_t start_there(struct shim_ep *ep, uint32_t peer, const struct atomic_call *c)
{
	struct atomic_op *op;
	int rc;

	if (GW_UNLIKELY(ep->atomics) && is_sending_to(ep, peer))
		return -FI_EAGAIN;
	if (!c->result && !c->context && c->count <= piece_of(c)) {
		rc = send_piece(peer, c, 0, c->count, NULL);
		if (rc == 0)
			shim_rma_asked(ep, peer);
		return rc;
	}
	op = ct_area_alloc(sizeof(*op));
	if (!op)
		return -FI_EAGAIN;
	op->call = *c;
	op->peer = peer;
	op->sent = op->heard = op->flying = 0;
	op->status = 0;
	rc = op_push(ep, op);
	if (rc && !op->sent) {
		ct_area_free(op, sizeof(*op));
		return rc;
	}
	if (op->sent < c->count)
		op_link(ep, op);
	return 0;
}

/* Our own memory: at once. The gate is ours, so nobody else's operation comes between. */
static ssize_t do_here(struct shim_ep *ep, const struct atomic_call *c)
{
	char *at = shim_mr_place(c->key, c->offset, c->count * shim_atomic_size(c->type), access_of(c->op, c->kind));

	if (at)
		shim_atomic_apply(c->type, c->op, at, c->operand, c->compare, c->result, c->count);
	ended(ep, c, at ? 0 : -FI_EACCES);
	return 0;
}

static ssize_t start(struct fid_ep *fid, fi_addr_t peer, const struct atomic_call *call, bool completes)
{
	struct shim_ep *ep = ep_of(fid);
	struct atomic_call c = *call;
	ssize_t rc;

	if (!shim_atomic_is_valid(c.type, c.op, c.kind))
		return -FI_EOPNOTSUPP;
	if (!c.count || c.count > ATOMIC_COUNT_MAX || (completes && !c.context))
		return -FI_EINVAL;
	if (peer >> 32 != ep->job || (uint32_t)peer >= ep->names)
		return -FI_EHOSTUNREACH;
	if (!completes)
		c.context = NULL;
	if (c.op == FI_ATOMIC_READ)
		c.operand = NULL;
	ct_gate_enter(c.kind == SHIM_ATOMIC_PLAIN ? CT_DOING_SEND : CT_DOING_RECV);
	ep->tx_cq->empties = 0;
	rc = (uint32_t)peer == noc_self() ? do_here(ep, &c) : start_there(ep, (uint32_t)peer, &c);
	ct_gate_leave();
	return rc;
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static ssize_t atomic_write(struct fid_ep *fid, const void *buf, size_t count, void *desc, fi_addr_t peer, uint64_t addr,
                            uint64_t key, enum fi_datatype type, enum fi_op op, void *context)
{
	struct atomic_call c = { key, addr, count, type, op, SHIM_ATOMIC_PLAIN, buf, NULL, NULL, context };

	return start(fid, peer, &c, ep_of(fid)->tx_completes);
}

static ssize_t atomic_inject(struct fid_ep *fid, const void *buf, size_t count, fi_addr_t peer, uint64_t addr,
                             uint64_t key, enum fi_datatype type, enum fi_op op)
{
	struct atomic_call c = { key, addr, count, type, op, SHIM_ATOMIC_PLAIN, buf, NULL, NULL, NULL };

	if (count > SHIM_INJECT_SIZE || count * shim_atomic_size(type) > SHIM_INJECT_SIZE)
		return -FI_EMSGSIZE;
	return start(fid, peer, &c, false);
}

static ssize_t atomic_readwrite(struct fid_ep *fid, const void *buf, size_t count, void *desc, void *result,
                                void *result_desc, fi_addr_t peer, uint64_t addr, uint64_t key, enum fi_datatype type,
                                enum fi_op op, void *context)
{
	struct atomic_call c = { key, addr, count, type, op, SHIM_ATOMIC_FETCH, buf, NULL, result, context };

	return start(fid, peer, &c, ep_of(fid)->tx_completes);
}

static ssize_t atomic_compwrite(struct fid_ep *fid, const void *buf, size_t count, void *desc, const void *compare,
                                void *compare_desc, void *result, void *result_desc, fi_addr_t peer, uint64_t addr,
                                uint64_t key, enum fi_datatype type, enum fi_op op, void *context)
{
	struct atomic_call c = { key, addr, count, type, op, SHIM_ATOMIC_COMPARE, buf, compare, result, context };

	return start(fid, peer, &c, ep_of(fid)->tx_completes);
}

/* Lists of one entry: getinfo offers no more, and MPICH asks for no more. */

static ssize_t atomic_writev(struct fid_ep *fid, const struct fi_ioc *iov, void **desc, size_t n, fi_addr_t peer,
                             uint64_t addr, uint64_t key, enum fi_datatype type, enum fi_op op, void *context)
{
	return n != 1 ? -FI_EINVAL : atomic_write(fid, iov->addr, iov->count, NULL, peer, addr, key, type, op, context);
}

static ssize_t atomic_readwritev(struct fid_ep *fid, const struct fi_ioc *iov, void **desc, size_t n,
                                 struct fi_ioc *result, void **result_desc, size_t results, fi_addr_t peer,
                                 uint64_t addr, uint64_t key, enum fi_datatype type, enum fi_op op, void *context)
{
	if (n > 1 || results != 1 || (n && iov->count != result->count) || (!n && op != FI_ATOMIC_READ))
		return -FI_EINVAL;
	return atomic_readwrite(fid, n ? iov->addr : NULL, result->count, NULL, result->addr, NULL, peer, addr, key, type, op,
	                        context);
}

static ssize_t atomic_compwritev(struct fid_ep *fid, const struct fi_ioc *iov, void **desc, size_t n,
                                 const struct fi_ioc *compare, void **compare_desc, size_t compares,
                                 struct fi_ioc *result, void **result_desc, size_t results, fi_addr_t peer,
                                 uint64_t addr, uint64_t key, enum fi_datatype type, enum fi_op op, void *context)
{
	if (n != 1 || compares != 1 || results != 1 || iov->count != compare->count || iov->count != result->count)
		return -FI_EINVAL;
	return atomic_compwrite(fid, iov->addr, iov->count, NULL, compare->addr, NULL, result->addr, NULL, peer, addr, key,
	                        type, op, context);
}

static ssize_t start_msg(struct fid_ep *fid, const struct fi_msg_atomic *msg, enum shim_atomic_kind kind,
                         const struct fi_ioc *compare, size_t compares, const struct fi_ioc *result, size_t results,
                         uint64_t flags)
{
	bool is_read = msg->op == FI_ATOMIC_READ;
	struct atomic_call c = { .type = msg->datatype, .op = msg->op, .kind = kind, .context = msg->context };

	if (msg->rma_iov_count != 1 || (is_read ? msg->iov_count > 1 : msg->iov_count != 1) || (flags & FI_REMOTE_CQ_DATA) ||
	    compares != (kind == SHIM_ATOMIC_COMPARE) || results != (kind != SHIM_ATOMIC_PLAIN))
		return -FI_EINVAL;
	c.key = msg->rma_iov->key;
	c.offset = msg->rma_iov->addr;
	c.count = msg->rma_iov->count;
	if ((!is_read && msg->msg_iov->count != c.count) || (compares && compare->count != c.count) ||
	    (results && result->count != c.count))
		return -FI_EINVAL;
	if ((flags & FI_INJECT) && (c.count > SHIM_INJECT_SIZE || c.count * shim_atomic_size(c.type) > SHIM_INJECT_SIZE))
		return -FI_EMSGSIZE;
	c.operand = is_read ? NULL : msg->msg_iov->addr;
	c.compare = compares ? compare->addr : NULL;
	c.result = results ? result->addr : NULL;
	return start(fid, msg->addr, &c, !ep_of(fid)->tx_selective || (flags & FI_COMPLETION));
}

static ssize_t atomic_writemsg(struct fid_ep *fid, const struct fi_msg_atomic *msg, uint64_t flags)
{
	return start_msg(fid, msg, SHIM_ATOMIC_PLAIN, NULL, 0, NULL, 0, flags);
}

static ssize_t atomic_readwritemsg(struct fid_ep *fid, const struct fi_msg_atomic *msg, struct fi_ioc *result,
                                   void **result_desc, size_t results, uint64_t flags)
{
	return start_msg(fid, msg, SHIM_ATOMIC_FETCH, NULL, 0, result, results, flags);
}

static ssize_t atomic_compwritemsg(struct fid_ep *fid, const struct fi_msg_atomic *msg, const struct fi_ioc *compare,
                                   void **compare_desc, size_t compares, struct fi_ioc *result, void **result_desc,
                                   size_t results, uint64_t flags)
{
	return start_msg(fid, msg, SHIM_ATOMIC_COMPARE, compare, compares, result, results, flags);
}

/* Any length: were there a bound, MPICH would do what is beyond it itself, and not atomically against us. */
static int is_valid(enum fi_datatype type, enum fi_op op, enum shim_atomic_kind kind, size_t *count)
{
	if (!shim_atomic_is_valid(type, op, kind))
		return -FI_EOPNOTSUPP;
	*count = ATOMIC_COUNT_MAX;
	return 0;
}

static int atomic_writevalid(struct fid_ep *fid, enum fi_datatype type, enum fi_op op, size_t *count)
{
	return is_valid(type, op, SHIM_ATOMIC_PLAIN, count);
}

static int atomic_readwritevalid(struct fid_ep *fid, enum fi_datatype type, enum fi_op op, size_t *count)
{
	return is_valid(type, op, SHIM_ATOMIC_FETCH, count);
}

static int atomic_compwritevalid(struct fid_ep *fid, enum fi_datatype type, enum fi_op op, size_t *count)
{
	return is_valid(type, op, SHIM_ATOMIC_COMPARE, count);
}

struct fi_ops_atomic shim_atomic_ops = {
	.size = sizeof(struct fi_ops_atomic),
	.write = atomic_write,
	.writev = atomic_writev,
	.writemsg = atomic_writemsg,
	.inject = atomic_inject,
	.readwrite = atomic_readwrite,
	.readwritev = atomic_readwritev,
	.readwritemsg = atomic_readwritemsg,
	.compwrite = atomic_compwrite,
	.compwritev = atomic_compwritev,
	.compwritemsg = atomic_compwritemsg,
	.writevalid = atomic_writevalid,
	.readwritevalid = atomic_readwritevalid,
	.compwritevalid = atomic_compwritevalid,
};
