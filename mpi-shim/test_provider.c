/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The provider through libfabric's own calls, as MPICH makes them: two processes on one host segment. The child is a
 * server that does what commands say; every check is made by the parent.
 */
#include <signal.h>
#include <sys/prctl.h>

#include "mpi-shim/direct.h"
#include "mpi-shim/test_shim.h"
#include "noc/local.h"

enum { TAG_COMMAND = 1000, TAG_ECHO = 2000 };
enum { WINDOW = 400000 };

enum op { OP_SEND, OP_SEND_UNTAGGED, OP_SINK, OP_ECHO, OP_DEAF, OP_WINDOW, OP_QUIT };

struct command {
	enum op op;
	uint32_t count, len; /* so many messages of so many bytes */
	uint64_t tag, data;  /* of the first; the next has tag + step */
	uint32_t step, wait; /* OP_DEAF: stays out of the provider until the word in shared memory changes */
};

static _Atomic uint32_t *word; /* shared by both processes */

/* ---- helpers of both sides ------------------------------------------------------------------------------------- */

static char pattern(uint64_t tag, size_t i)
{
	return (char)(tag * 131 + i * 7 + (i >> 8));
}

static void fill(char *buf, size_t len, uint64_t tag)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(tag, i);
}

static bool is_filled(const char *buf, size_t len, uint64_t tag)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != pattern(tag, i))
			return false;
	return true;
}

static bool queue_is_empty(void)
{
	struct fi_cq_tagged_entry c;

	for (int i = 0; i < 100; i++)
		if (fi_cq_read(cq, &c, 1) != -FI_EAGAIN)
			return false;
	return true;
}

/* Send and wait until the buffer is free again. */
static void send_fully(const void *buf, size_t len, uint64_t data, uint64_t tag, bool is_tagged, int to)
{
	struct fi_context2 context;
	ssize_t rc;

	do {
		if (is_tagged)
			rc = fi_tsenddata(ep, buf, len, NULL, data, peers[to], tag, &context);
		else
			rc = fi_senddata(ep, buf, len, NULL, data, peers[to], &context);
		if (rc == -FI_EAGAIN) {
			struct fi_cq_tagged_entry c;

			while (fi_cq_read(cq, &c, 1) == -FI_EAGAIN)
				break;
		}
	} while (rc == -FI_EAGAIN);
	if (rc)
		tap_bail("send: %s", strerror((int)-rc));
	if (next_completion().op_context != &context)
		tap_bail("another completion came than that of the send");
}

/* ---- the child ------------------------------------------------------------------------------------------------- */

static int server(int segment_fd)
{
	struct fi_context2 context;
	struct command c;
	size_t room = 8 << 20;
	char *buf = malloc(room), *memory = malloc(WINDOW);
	struct fid_mr *window = NULL;

	open_all(segment_fd, PEER, mpich_hints());
	for (;;) {
		fi_trecv(ep, &c, sizeof(c), NULL, peers[ME], TAG_COMMAND, 0, &context);
		while (next_completion().op_context != &context)
			;
		if (c.op == OP_QUIT)
			break;
		if (c.op == OP_WINDOW) { /* open the window, or close it */
			if (!window) {
				fill(memory, WINDOW, c.tag);
				fi_mr_reg(domain, memory, WINDOW, FI_REMOTE_READ | FI_REMOTE_WRITE, 0, c.tag, 0, &window, NULL);
			} else {
				fi_close(&window->fid);
				window = NULL;
			}
			continue;
		}
		if (c.op == OP_DEAF) {
			while (atomic_load(word) != c.wait)
				sched_yield();
			continue;
		}
		for (uint32_t i = 0; i < c.count; i++) {
			uint64_t tag = c.tag + (uint64_t)i * c.step;
			struct fi_cq_err_entry e;

			if (c.op == OP_SINK || c.op == OP_ECHO) {
				fi_trecv(ep, buf, room, NULL, peers[ME], tag, 0, &context);
				e = next_completion();
				if (e.err || e.op_context != &context)
					tap_bail("the child received something else");
				if (c.op == OP_ECHO)
					send_fully(buf, e.len, e.data + 1, TAG_ECHO, true, ME);
				continue;
			}
			fill(buf, c.len, tag);
			send_fully(buf, c.len, c.data + i, tag, c.op == OP_SEND, ME);
		}
	}
	if (!close_all())
		return 1;
	noc_stop();
	return 0;
}

static void command(enum op op, uint32_t count, uint32_t len, uint64_t tag, uint32_t step)
{
	struct command c = { .op = op, .count = count, .len = len, .tag = tag, .step = step, .data = 100,
	                     .wait = op == OP_DEAF ? count : 0 };

	while (fi_tinject(ep, &c, sizeof(c), peers[PEER], TAG_COMMAND) == -FI_EAGAIN)
		fi_cntr_read(cntr); /* progress that leaves the queue alone */
}

/* ---- the checks ------------------------------------------------------------------------------------------------ */

static void test_getinfo(void)
{
	struct fi_provider *p = fi_prov_ini();
	struct fi_info *got = NULL, *h;
	int rc;

	ok(p->fi_version >= FI_VERSION(1, 17) && !strcmp(p->name, "godwit"), "the provider is registered by its name");
	rc = p->getinfo(FI_VERSION(0, 0), NULL, NULL, 0, NULL, &got);
	if (ok(rc == 0 && got && !got->next, "no hints and version 0.0 give one description")) {
		ok(got->ep_attr->type == FI_EP_RDM && (got->caps & FI_TAGGED) && (got->caps & FI_MULTI_RECV) &&
		   (got->caps & FI_RMA) && (got->caps & FI_ATOMIC), "it is reliable-datagram, one-sided, with atomics");
		ok(got->domain_attr->threading == FI_THREAD_DOMAIN && got->domain_attr->av_type == FI_AV_MAP &&
		   got->domain_attr->max_ep_tx_ctx == 1 && got->domain_attr->cq_data_size >= 4 && !got->nic,
		   "its attributes are those that MPICH's choice rests on");
		ok(got->tx_attr->inject_size == 16384 && got->ep_attr->max_msg_size > (size_t)1 << 60, "limits are ours");
		free_info(got);
	}
	h = mpich_hints();
	rc = p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, h, &got);
	if (ok(rc == 0, "MPICH's hints are met")) {
		ok((got->tx_attr->msg_order & h->tx_attr->msg_order) == h->tx_attr->msg_order &&
		   got->ep_attr->max_order_waw_size == SIZE_MAX, "atomic operations are in order, of any length");
		ok(got->tx_attr->op_flags == FI_COMPLETION, "delivery-complete is no default of messages");
		is_int(got->caps & h->caps, h->caps, "all capabilities asked for are granted");
		free_info(got);
	}
	h->ep_attr->type = FI_EP_MSG;
	is_int(p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, h, &got), -FI_ENODATA, "rxm's question for FI_EP_MSG: no");
	h->ep_attr->type = FI_EP_RDM;
	h->domain_attr->threading = FI_THREAD_SAFE;
	is_int(p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, h, &got), -FI_ENODATA, "FI_THREAD_SAFE is refused");
	h->domain_attr->threading = FI_THREAD_DOMAIN;
	h->tx_attr->msg_order |= FI_ORDER_SAR;
	is_int(p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, h, &got), -FI_ENODATA, "another order is refused");
	h->tx_attr->msg_order &= ~FI_ORDER_SAR;
	h->mode = FI_CONTEXT;
	is_int(p->getinfo(FI_VERSION(1, 13), NULL, NULL, 0, h, &got), -FI_ENODATA, "FI_CONTEXT2 is required");
	h->mode = FI_CONTEXT2;
	is_int(p->getinfo(FI_VERSION(1, 13), "localhost", NULL, 0, h, &got), -FI_ENODATA, "a host name means nothing here");
}

static void test_addresses(void)
{
	struct fi_av_attr named = { .type = FI_AV_MAP, .name = "FI_NAMED_AV_0\n", .flags = FI_READ };
	struct fi_av_attr table = { .type = FI_AV_TABLE };
	struct shim_addr mine, looked_up;
	size_t len = FI_NAME_MAX;
	char name[FI_NAME_MAX], garbage[2][16] = { { 0 } };
	fi_addr_t out[2];
	struct fid_av *other;
	struct fid_ep *second;

	ok(fi_getname(&ep->fid, name, &len) == 0 && len == sizeof(mine), "the own address has a fixed length");
	memcpy(&mine, name, sizeof(mine));
	is_int(mine.name, peers[ME], "it is the logical name");
	len = 4;
	ok(fi_getname(&ep->fid, name, &len) == -FI_ETOOSMALL && len == sizeof(mine), "a small buffer is told the length");
	len = sizeof(looked_up);
	ok(fi_av_lookup(av, peers[PEER], &looked_up, &len) == 0 && looked_up.name == peers[PEER], "lookup is the inverse");
	is_int(fi_av_insert(av, garbage, 2, out, 0, NULL), 0, "bytes that are no address are not inserted");
	ok(out[0] == FI_ADDR_NOTAVAIL, "and are marked");
	is_int(fi_av_open(domain, &named, &other, NULL), -FI_ENOSYS, "a named address vector is refused");
	is_int(fi_av_open(domain, &table, &other, NULL), -FI_ENOSYS, "so is a table");
	is_int(fi_endpoint(domain, info, &second, NULL), -FI_EBUSY, "a name has one endpoint");
}

static void test_sizes(void)
{
	static const uint32_t sizes[] = { 0, 1, 8, 100, 208, 209, 4096, 16384, 16385, 32768, 32769, 1000000, 5000001 };
	char *out = malloc(8 << 20), *in = malloc(8 << 20);
	uint64_t sent = 0;

	for (size_t i = 0; i < GW_ARRAY_LEN(sizes); i++) {
		struct fi_context2 context;
		struct fi_cq_err_entry e;
		uint32_t len = sizes[i];
		ssize_t rc;

		command(OP_ECHO, 1, 0, 7, 0);
		fi_trecv(ep, in, 8 << 20, NULL, peers[PEER], TAG_ECHO, 0, &context);
		fill(out, len, i);
		if (len <= 16384) {
			rc = fi_tinjectdata(ep, out, len, 41, peers[PEER], 7);
			memset(out, 0, len); /* it is ours again at once */
		} else {
			rc = fi_tinjectdata(ep, out, len, 41, peers[PEER], 7);
			if (rc != -FI_EMSGSIZE)
				rc = 1;
			else
				send_fully(out, len, 41, 7, true, PEER), rc = 0;
		}
		e = next_completion();
		ok(rc == 0 && e.op_context == &context && !e.err && e.len == len && e.data == 42 && e.tag == TAG_ECHO &&
		   (e.flags & FI_RECV) && is_filled(in, len, i), "%u bytes go and come back", len);
	}
	sent = fi_cntr_read(cntr);
	fi_tinjectdata(ep, NULL, 0, 0, peers[ME], 1);
	is_int(fi_cntr_read(cntr), sent + 1, "the counter of sends counts");
	fi_trecv(ep, NULL, 0, NULL, peers[ME], 1, 0, &(struct fi_context2){ 0 });
	next_completion();
	free(out);
	free(in);
}

/* What a freeze would catch the process doing, which the tests of moves count. */
static void test_doing(void)
{
	static const struct { uint64_t tag; enum ct_doing send, recv, wait; const char *what; } cases[] = {
		{ 5, CT_DOING_SEND, CT_DOING_RECV, CT_DOING_WAIT, "a message" },
		{ 5 | 1ull << 31, CT_DOING_COLLECTIVE, CT_DOING_COLLECTIVE, CT_DOING_COLLECTIVE, "a collective's message" },
	};
	struct fi_context2 context;
	struct fi_msg_tagged msg = { .addr = FI_ADDR_UNSPEC, .tag = 99, .context = &context };

	for (size_t i = 0; i < GW_ARRAY_LEN(cases); i++) {
		bool good;

		fi_tinject(ep, NULL, 0, peers[ME], cases[i].tag);
		good = atomic_load(&ct_the_gate.doing) == cases[i].send;
		fi_trecv(ep, NULL, 0, NULL, peers[ME], cases[i].tag, 0, &context);
		good = good && atomic_load(&ct_the_gate.doing) == cases[i].recv;
		next_completion();
		good = good && atomic_load(&ct_the_gate.doing) == cases[i].recv; /* still, while it waits for it */
		queue_is_empty();
		ok(good && atomic_load(&ct_the_gate.doing) == cases[i].wait, "%s is seen to be sent, received, waited for",
		   cases[i].what);
	}
	fi_trecvmsg(ep, &msg, FI_PEEK);
	is_int(atomic_load(&ct_the_gate.doing), CT_DOING_PROBE, "so is probing");
	ok(!atomic_load(&ct_the_gate.is_inside), "and nobody is left inside the gate");
}

/* Wait until a message with this tag is there, without taking it. */
static struct fi_cq_err_entry peek_until(uint64_t tag, uint64_t flags, struct fi_context2 *context)
{
	struct fi_msg_tagged msg = { .addr = FI_ADDR_UNSPEC, .tag = tag, .context = context };
	ssize_t rc;

	while ((rc = fi_trecvmsg(ep, &msg, FI_PEEK | FI_COMPLETION | flags)) == -FI_ENOMSG)
		sched_yield();
	if (rc)
		tap_bail("peek: %s", strerror((int)-rc));
	return next_completion();
}

static void test_unexpected(void)
{
	struct fi_context2 context;
	struct fi_cq_err_entry e;
	bool in_order = true;
	char *buf = malloc(1 << 20);
	static const uint32_t sizes[] = { 0, 8, 119, 500, 20000, 300000 };

	for (size_t s = 0; s < GW_ARRAY_LEN(sizes); s++) {
		command(OP_SEND, 3, sizes[s], 50, 1); /* tags 50, 51, 52; bulk waits for each to be taken */
		if (sizes[s] <= NOC_EAGER_MAX)
			peek_until(52, 0, &context); /* all are here */
		else
			peek_until(50, 0, &context);
		in_order = true;
		for (int i = 0; i < 3; i++) {
			/* any source, any of the tags: in order of arrival */
			fi_trecv(ep, buf, 1 << 20, NULL, FI_ADDR_UNSPEC, 48, 7, &context);
			e = next_completion();
			in_order = in_order && !e.err && e.tag == 50u + (unsigned)i && e.len == sizes[s] &&
			           e.data == 100u + (unsigned)i && is_filled(buf, e.len, e.tag);
		}
		ok(in_order, "3 unexpected messages of %u bytes are received in order of arrival", sizes[s]);
	}
	command(OP_SEND, 3, 64, 60, 1);
	peek_until(62, 0, &context);
	in_order = true;
	for (uint64_t tag = 62; tag >= 60; tag--) {
		fi_trecv(ep, buf, 64, NULL, peers[PEER], tag, 0, &context);
		e = next_completion();
		in_order = in_order && e.tag == tag && is_filled(buf, 64, tag);
	}
	ok(in_order, "and by tag in any order");
	free(buf);
}

static void test_truncation(void)
{
	static const uint32_t sizes[] = { 100, 30000, 500000 };
	char *buf = malloc(600000);

	for (size_t i = 0; i < GW_ARRAY_LEN(sizes); i++) {
		for (int posted = 0; posted < 2; posted++) {
			struct fi_context2 context;
			struct fi_cq_err_entry e;
			size_t room = sizes[i] / 2;

			memset(buf, 0x55, sizes[i]);
			if (posted)
				fi_trecv(ep, buf, room, NULL, peers[PEER], 9, 0, &context);
			command(OP_SEND, 1, sizes[i], 9, 0);
			if (!posted) {
				peek_until(9, 0, &context);
				fi_trecv(ep, buf, room, NULL, peers[PEER], 9, 0, &context);
			}
			e = next_completion();
			ok(e.err == FI_ETRUNC && e.op_context == &context && e.len == room && e.olen == sizes[i] - room &&
			   e.tag == 9 && e.data == 100 && is_filled(buf, room, 9) && buf[room] == 0x55,
			   "%u bytes into %zu: FI_ETRUNC, nothing beyond (%s)", sizes[i], room,
			   posted ? "posted" : "unexpected");
		}
	}
	free(buf);
}

static void test_vectors(void)
{
	static const uint32_t sizes[] = { 120, 30000, 300000 };
	char *buf = malloc(300000 + 3 * 16), *out = malloc(300000);

	for (size_t s = 0; s < GW_ARRAY_LEN(sizes); s++) {
		size_t third = sizes[s] / 3;
		struct iovec in[3] = { { buf, third }, { buf + third + 16, third }, { buf + 2 * third + 32, third } };
		struct iovec o[3] = { { out, third }, { out + third, third }, { out + 2 * third, third } };
		struct fi_context2 context, send_context;
		struct fi_msg_tagged msg = { .msg_iov = in, .iov_count = 3, .addr = peers[ME], .tag = 11, .context = &context };
		struct fi_msg_tagged send = { .msg_iov = o, .iov_count = 3, .addr = peers[ME], .tag = 11, .data = 5,
		                              .context = &send_context };
		struct fi_cq_err_entry e;

		memset(buf, 0, sizes[s] + 32);
		fill(out, sizes[s], 11);
		fi_trecvmsg(ep, &msg, FI_COMPLETION);
		memset(in, 0, sizeof(in)); /* the array is ours again */
		fi_tsendmsg(ep, &send, FI_REMOTE_CQ_DATA); /* to ourselves; no completion of the send is asked for */
		e = next_completion();
		ok(!e.err && e.op_context == &context && e.len == sizes[s] && e.data == 5 && is_filled(buf, third, 11) &&
		   !memcmp(buf + third + 16, out + third, third) && !memcmp(buf + 2 * third + 32, out + 2 * third, third) &&
		   !buf[third], "%u bytes from three pieces into three pieces, to oneself", sizes[s]);
		ok(queue_is_empty(), "and no completion that was not asked for");
	}
	free(buf);
	free(out);
}

static void test_probe(void)
{
	struct fi_context2 context, claim;
	struct fi_msg_tagged msg = { .addr = FI_ADDR_UNSPEC, .tag = 77, .context = &context };
	struct fi_cq_err_entry e;
	static const uint32_t sizes[] = { 64, 400000 };
	char *buf = malloc(400000);
	struct iovec iov;

	is_int(fi_trecvmsg(ep, &msg, FI_PEEK | FI_COMPLETION), -FI_ENOMSG, "a probe in vain is told at once");
	ok(queue_is_empty(), "and leaves nothing in the queue");
	for (size_t s = 0; s < GW_ARRAY_LEN(sizes); s++) {
		command(OP_SEND, 3, sizes[s], 77, 0);
		e = peek_until(77, 0, &context);
		ok(!e.err && e.op_context == &context && e.len == sizes[s] && e.tag == 77 && e.data == 100,
		   "a probe of %u bytes reports all of it and no truncation", sizes[s]);
		e = peek_until(77, FI_CLAIM, &claim);
		ok(e.op_context == &claim && e.data == 100, "a claim takes the first");
		if (sizes[s] <= NOC_EAGER_MAX) /* the child sends the next bulk only when this one has gone */
			ok(peek_until(77, 0, &context).data == 101, "so that the next probe sees the second");
		iov = (struct iovec){ buf, sizes[s] };
		msg = (struct fi_msg_tagged){ .msg_iov = &iov, .iov_count = 1, .addr = FI_ADDR_UNSPEC, .tag = 77,
		                              .context = &claim };
		memset(buf, 0, sizes[s]);
		is_int(fi_trecvmsg(ep, &msg, FI_CLAIM | FI_COMPLETION), 0, "the claimed one is received with its context");
		e = next_completion();
		ok(!e.err && e.op_context == &claim && e.data == 100 && is_filled(buf, sizes[s], 77), "whole");
		is_int(fi_trecvmsg(ep, &msg, FI_CLAIM | FI_COMPLETION), -FI_EINVAL, "but only once");
		ok(peek_until(77, FI_DISCARD, &context).data == 101, "a probe can discard the second");
		fi_trecv(ep, buf, sizes[s], NULL, FI_ADDR_UNSPEC, 77, 0, &context);
		ok(next_completion().data == 102, "the third is received in the ordinary way");
		e = (struct fi_cq_err_entry){ 0 };
		command(OP_SEND, 1, sizes[s], 77, 0);
		peek_until(77, FI_CLAIM, &claim);
		is_int(fi_trecvmsg(ep, &msg, FI_CLAIM | FI_DISCARD | FI_COMPLETION), 0, "a claimed message can be discarded");
		ok(next_completion().op_context == &claim, "which is a completion too");
		msg = (struct fi_msg_tagged){ .addr = FI_ADDR_UNSPEC, .tag = 77, .context = &context };
	}
	free(buf);
}

static void test_cancel(void)
{
	struct fi_context2 a, b;
	struct fi_cq_err_entry e;
	char buf[16];

	fi_trecv(ep, buf, 8, NULL, peers[PEER], 5, 0, &a);
	fi_trecv(ep, buf + 8, 8, NULL, peers[PEER], 5, 0, &b);
	is_int(fi_cancel(&ep->fid, &a), 0, "a posted receive is cancelled");
	e = next_completion();
	ok(e.err == FI_ECANCELED && e.op_context == &a, "which the queue says");
	is_int(fi_cancel(&ep->fid, &a), -FI_ENOENT, "once");
	command(OP_SEND, 1, 8, 5, 0);
	e = next_completion();
	ok(!e.err && e.op_context == &b && is_filled(buf + 8, 8, 5), "the message goes to the other receive");
	is_int(fi_cancel(&ep->fid, &b), -FI_ENOENT, "a completed receive is not cancelled");
}

/* Wait as MPICH does: by reading the queue, in which nothing is to be found. */
static bool direct_is_done(struct godwit_direct *d)
{
	struct fi_cq_tagged_entry c;

	while (!__atomic_load_n(&d->is_done, __ATOMIC_ACQUIRE))
		if (fi_cq_read(cq, &c, 1) != -FI_EAGAIN)
			return false;
	return true;
}

static void test_direct(void)
{
	static const uint32_t sizes[] = { 0, 8, 300, 16384, 300000 };
	static char buf[300000];
	struct godwit_direct_ops *ops = NULL;
	struct fi_context2 other;
	struct godwit_direct d;
	int has_events, done_at_once = 0;
	uint64_t word;

	ok(fi_open_ops(&ep->fid, "godwit_direct_0", 0, (void **)&ops, NULL) == -FI_ENOSYS,
	   "operations of another version are not there");
	if (!ok(!fi_open_ops(&ep->fid, GODWIT_DIRECT, 0, (void **)&ops, NULL) && ops->size == sizeof(*ops),
	        "direct receives are"))
		return;
	for (size_t s = 0; s < GW_ARRAY_LEN(sizes); s++) {
		bool is_good = true;

		for (int i = 0; i < 200; i++) {
			memset(buf, 0, sizes[s]);
			command(OP_SEND, 1, sizes[s], 50, 0);
			if (i % 2) /* it is there before */
				peek_until(50, 0, &other);
			is_good &= !ops->recv(ep, buf, sizeof(buf), peers[PEER], 50, 0, &d, &has_events);
			done_at_once += i % 2 && d.is_done;
			is_good &= direct_is_done(&d) && d.tag == 50 && d.data == 100 && d.len == sizes[s] && !d.error &&
			           is_filled(buf, sizes[s], 50);
		}
		ok(is_good && queue_is_empty(), "200 direct receives of %u bytes, without completions", sizes[s]);
	}
	ok(done_at_once >= 400, "one for which a small message waits is done at once");
	for (size_t s = 2; s < GW_ARRAY_LEN(sizes); s++) {
		memset(buf, 0, sizeof(buf));
		command(OP_SEND, 1, sizes[s], 51, 0);
		ops->recv(ep, buf, 200, peers[PEER], 51, 0, &d, &has_events);
		ok(direct_is_done(&d) && d.error == FI_ETRUNC && d.len == 200 && is_filled(buf, 200, 51) && !buf[200],
		   "of %u bytes it takes what there is room for, and says so", sizes[s]);
	}
	fi_trecv(ep, buf, 8, NULL, peers[PEER], 52, 0, &other);
	ops->recv(ep, buf + 8, 8, peers[PEER], 52, 0, &d, &has_events);
	command(OP_SEND, 2, 8, 52, 0);
	ok(next_completion().op_context == &other && direct_is_done(&d) && d.data == 101,
	   "it has its place in the order of posting");
	fi_trecv(ep, buf, 8, NULL, peers[PEER], 53, 0, &other);
	command(OP_SEND, 1, 8, 53, 0);
	command(OP_SEND, 1, 8, 54, 0);
	do
		ops->recv(ep, buf + 8, 8, peers[PEER], 54, 0, &d, &has_events);
	while (!d.is_done && fi_cancel(&ep->fid, &d) == 0);
	ok(has_events && next_completion().op_context == &other, "it tells of completions of others that wait to be read");
	ops->recv(ep, buf, 8, peers[PEER], 55, 0, &d, &has_events);
	ok(!d.is_done && !has_events && fi_cancel(&ep->fid, &d) == 0 && !d.is_done && queue_is_empty(),
	   "it is cancelled, and nothing is told");
	ok(fi_cancel(&ep->fid, &d) == -FI_ENOENT, "once");
	command(OP_SEND, 1, 8, 55, 0);
	fi_trecv(ep, buf + 8, 8, NULL, peers[PEER], 55, 0, &other);
	ok(next_completion().op_context == &other, "its message goes to another one");
	command(OP_SEND, 1, 8, 56, 0);
	command(OP_SEND, 1, 8, 57, 0);
	while (!noc_inbox_peek(noc_me->inbox, noc_me->head + 1, &word)) /* both are there, and nobody has read them */
		sched_yield();
	ops->recv(ep, buf, 8, peers[PEER], 57, 0, &d, &has_events);
	if (!ok(direct_is_done(&d) && d.tag == 57 && is_filled(buf, 8, 57), "what comes before its own message is not taken for it"))
		return;
	fi_trecv(ep, buf, 8, NULL, peers[PEER], 56, 0, &other);
	ok(next_completion().op_context == &other && is_filled(buf, 8, 56), "and waits for its own receive");
	ok(ops->recv(ep, buf, 8, 1ull << 40, 55, 0, &d, &has_events) == -FI_EINVAL, "a source of another job is refused");
}

static void test_directed(void)
{
	struct fi_context2 from_me, from_peer, from_any;
	char a[8], b[8], c[8];

	fi_trecv(ep, a, 8, NULL, peers[ME], 6, 0, &from_me);
	fi_trecv(ep, b, 8, NULL, peers[PEER], 6, 0, &from_peer);
	fi_trecv(ep, c, 8, NULL, FI_ADDR_UNSPEC, 6, 0, &from_any);
	command(OP_SEND, 2, 8, 6, 0);
	ok(next_completion().op_context == &from_peer, "a message goes to the receive that names its sender");
	ok(next_completion().op_context == &from_any, "or to one of any source, in order of posting");
	fi_tinjectdata(ep, "12345678", 8, 0, peers[ME], 6);
	ok(next_completion().op_context == &from_me, "a message to oneself arrives");
}

static void test_multi_recv(void)
{
	enum { SMALL = 1000, BUF = 20000 };
	struct fi_context2 first, second, plain;
	char *buf = malloc(2 * BUF), *at = NULL;
	size_t least = 4000, got, len = sizeof(got);
	struct iovec iov[2] = { { buf, BUF }, { buf + BUF, BUF } };
	struct fi_msg m[2] = { { .msg_iov = &iov[0], .iov_count = 1, .addr = FI_ADDR_UNSPEC, .context = &first },
	                       { .msg_iov = &iov[1], .iov_count = 1, .addr = FI_ADDR_UNSPEC, .context = &second } };
	int in_first = 0, released = 0;
	bool good = true;

	ok(!fi_setopt(&ep->fid, FI_OPT_ENDPOINT, FI_OPT_MIN_MULTI_RECV, &least, sizeof(least)) &&
	   !fi_getopt(&ep->fid, FI_OPT_ENDPOINT, FI_OPT_MIN_MULTI_RECV, &got, &len) && got == least,
	   "the least free room of a multi-receive buffer is set");
	command(OP_SEND_UNTAGGED, 5, SMALL, 10, 1); /* these come before there is a buffer */
	command(OP_ECHO, 1, 0, 7, 0);
	fi_trecv(ep, NULL, 0, NULL, peers[PEER], TAG_ECHO, 0, &plain);
	fi_tinjectdata(ep, NULL, 0, 0, peers[PEER], 7);
	next_completion();
	fi_recvmsg(ep, &m[0], FI_MULTI_RECV | FI_COMPLETION);
	fi_recvmsg(ep, &m[1], FI_MULTI_RECV | FI_COMPLETION);
	command(OP_SEND_UNTAGGED, 15, SMALL, 15, 1);
	for (int i = 0; i < 20; i++) {
		struct fi_cq_err_entry e = next_completion();

		good = good && !e.err && (e.flags & FI_RECV) && e.len == SMALL && is_filled(e.buf, SMALL, 10u + (unsigned)i) &&
		       (char *)e.buf != at && !released == (e.op_context == &first);
		at = e.buf;
		in_first += e.op_context == &first;
		if (e.flags & FI_MULTI_RECV) {
			released++;
			good = good && e.op_context == &first;
		}
	}
	ok(good, "20 untagged messages fill two buffers, in order, five of them early");
	ok(released == 1 && in_first == 16, "the first is given back with the message that left less than 4000 bytes (%d)",
	   in_first);
	command(OP_SEND_UNTAGGED, 1, 300000, 3, 0); /* longer than any buffer: cut off */
	{
		struct fi_cq_err_entry e;

		int given_back = 0;

		fi_recv(ep, buf, 300, NULL, peers[PEER], &plain);
		do {
			e = next_completion();
			given_back += !(e.flags & FI_RECV) && (e.flags & FI_MULTI_RECV);
		} while (!(e.flags & FI_RECV));
		ok(given_back == 1 && e.op_context == &plain && e.err == FI_ETRUNC && e.len == 300,
		   "a message that does not fit gives the buffer back and goes to the next receive");
	}
	fi_recv(ep, buf, 300, NULL, peers[PEER], &plain);
	ok(fi_cancel(&ep->fid, &plain) == 0 && next_completion().err == FI_ECANCELED, "an untagged receive is cancelled");
	free(buf);
}

/* The child's memory, filled with the pattern of its key, and ours. */
static void test_one_sided(void)
{
	static const size_t sizes[] = { 0, 8, 100, 16384, 32744, 32745, WINDOW };
	char *mine = malloc(WINDOW), *buf = malloc(WINDOW);
	struct fid_mr *mr, *again;
	struct fi_context2 context;
	uint64_t counted = fi_cntr_read(rma_cntr);
	struct fi_cq_err_entry e;

	ok(!fi_mr_reg(domain, mine, WINDOW, FI_REMOTE_READ, 0, 78, 0, &mr, NULL) && fi_mr_key(mr) == 78,
	   "memory is registered under the key asked for");
	is_int(fi_mr_reg(domain, mine, 1, FI_REMOTE_READ, 0, 78, 0, &again, NULL), -FI_ENOKEY, "a key is used once");
	command(OP_WINDOW, 0, 0, 77, 0);
	for (size_t i = 0; i < GW_ARRAY_LEN(sizes); i++) {
		size_t len = sizes[i], at = WINDOW - len;

		memset(buf, 0, WINDOW);
		fi_read(ep, buf, len, NULL, peers[PEER], 0, 77, &context);
		e = next_completion();
		ok(!e.err && e.op_context == &context && (e.flags & FI_READ) && is_filled(buf, len, 77), "%zu bytes are read",
		   len);
		fill(buf, len, i);
		fi_write(ep, buf, len, NULL, peers[PEER], at, 77, &context);
		e = next_completion();
		memset(buf, 0, WINDOW);
		fi_read(ep, buf, len, NULL, peers[PEER], at, 77, &context);
		ok(!e.err && (e.flags & FI_WRITE) && next_completion().op_context == &context && is_filled(buf, len, i),
		   "%zu bytes are written", len);
		fill(mine, WINDOW, 77);
		fi_write(ep, mine, WINDOW, NULL, peers[PEER], 0, 77, &context);
		next_completion();
	}
	counted += 4 * GW_ARRAY_LEN(sizes);
	is_int(fi_cntr_read(rma_cntr), counted, "all of them are counted");
	fill(buf, 500, 5);
	is_int(fi_inject_write(ep, buf, 500, peers[PEER], 1000, 77), 0, "a write can be injected");
	memset(buf, 0, 500);
	ok(fi_cntr_wait(rma_cntr, counted + 1, 10000) == 0 && queue_is_empty(), "it is counted, and completes nothing");
	fi_read(ep, buf, 500, NULL, peers[PEER], 1000, 77, &context);
	next_completion();
	ok(is_filled(buf, 500, 5), "and has arrived");
	fi_read(ep, buf, 2, NULL, peers[PEER], WINDOW - 1, 77, &context);
	is_int(next_completion().err, FI_EACCES, "reading beyond the region is refused");
	fi_write(ep, buf, 2, NULL, peers[PEER], UINT64_MAX, 77, &context);
	is_int(next_completion().err, FI_EACCES, "so is an offset that wraps");
	fi_write(ep, buf, WINDOW, NULL, peers[PEER], 1, 77, &context);
	is_int(next_completion().err, FI_EACCES, "and a long write that would go beyond");
	fi_write(ep, buf, 2, NULL, peers[ME], 0, 78, &context);
	is_int(next_completion().err, FI_EACCES, "and writing where only reading is allowed");
	fi_close(&mr->fid);
	fi_read(ep, buf, 2, NULL, peers[ME], 0, 78, &context);
	is_int(next_completion().err, FI_EACCES, "and a key that is gone");
	command(OP_WINDOW, 0, 0, 77, 0);
	free(mine);
	free(buf);
}

/* What a peer that computes or moves does to its senders. */
static void test_deaf_peer(void)
{
	struct fi_context2 context;
	char *buf = calloc(1, 16384);
	int sent = 0, empties = 0;
	ssize_t rc = 0;

	command(OP_DEAF, 1, 0, 0, 0);
	command(OP_SINK, 0, 0, 0, 0);
	while (sent < 100000 && (rc = fi_tinjectdata(ep, buf, 16384, 0, peers[PEER], 3)) == 0)
		sent++;
	ok(sent > 64 && rc == -FI_EAGAIN, "%d messages are accepted for a peer that does not look, then FI_EAGAIN", sent);
	while (empties < 1000 && (rc = fi_tinjectdata(ep, NULL, 0, 0, peers[PEER], 4)) == 0)
		empties++;
	is_int(empties, 1000, "1000 empty messages are accepted even then");
	atomic_store(word, 1);
	command(OP_SINK, (uint32_t)sent, 0, 3, 0);
	command(OP_SINK, 1000, 0, 4, 0);
	command(OP_ECHO, 1, 0, 7, 0);
	fi_trecv(ep, NULL, 0, NULL, peers[PEER], TAG_ECHO, 0, &context);
	while (fi_tinjectdata(ep, NULL, 0, 0, peers[PEER], 7) == -FI_EAGAIN)
		fi_cntr_read(cntr);
	ok(next_completion().op_context == &context, "when it looks again it gets them all");
	free(buf);
}

/* A thousand completions that nobody reads yet. */
static void test_many_completions(void)
{
	static struct fi_context2 contexts[1000];
	bool good = true;
	char byte[1000];

	for (int i = 0; i < 1000; i++)
		fi_trecv(ep, &byte[i], 1, NULL, peers[ME], (uint64_t)i, 0, &contexts[i]);
	for (int i = 999; i >= 0; i--)
		while (fi_tinjectdata(ep, "x", 1, (uint64_t)i, peers[ME], (uint64_t)i) == -FI_EAGAIN)
			fi_cntr_read(cntr);
	for (int i = 0; i < 100; i++)
		fi_cntr_read(cntr); /* progress without reading the queue: it must grow */
	for (int i = 999; i >= 0; i--) {
		struct fi_cq_err_entry e = next_completion();

		good = good && e.op_context == &contexts[i] && e.data == (uint64_t)i;
	}
	ok(good, "1000 unread completions come out in order");
}

int main(void)
{
	struct gw_error why = { 0 };
	size_t used;
	int fd, status;
	pid_t child;

	tap_begin(60);
	test_getinfo();
	fd = noc_segment_create(0, 2, 1, 1, &why);
	if (fd < 0)
		tap_bail("%s", why.text);
	word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(server(fd));
	}
	open_all(fd, ME, mpich_hints());
	used = ct_area_used();
	test_addresses();
	test_sizes();
	test_doing();
	test_unexpected();
	test_truncation();
	test_vectors();
	test_probe();
	test_cancel();
	test_direct();
	test_directed();
	test_multi_recv();
	test_one_sided();
	test_deaf_peer();
	test_many_completions();
	diag("user area: %zu bytes at start, %zu now", used, ct_area_used());
	is_int(fi_close(&domain->fid), -FI_EBUSY, "a domain with open objects does not close");
	is_int(fi_close(&cq->fid), -FI_EBUSY, "nor does a queue that an endpoint uses");
	command(OP_QUIT, 0, 0, 0, 0);
	ok(waitpid(child, &status, 0) == child && status == 0, "the peer ended well");
	ok(close_all(), "everything closes");
	free_info(info);
	noc_stop();
	return tap_done();
}
