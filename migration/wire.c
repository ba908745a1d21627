/* SPDX-License-Identifier: BSD-2-Clause */
/* Packing and parsing of session frames: pure functions over bytes that came from elsewhere. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "migration/wire.h"

#include <lz4.h>
#include <stdlib.h>

int mig_head_parse(const void *payload, size_t len, struct mig_head *out, struct gw_error *why)
{
	struct mig_head h;

	if (len < sizeof(h))
		return gw_fail(why, -EPROTO, "a session frame has %zu bytes, its head alone %zu", len, sizeof(h));
	memcpy(&h, payload, sizeof(h));
	if (h.magic != MIG_MAGIC)
		return gw_fail(why, -EPROTO, "not a session frame (magic %08x)", h.magic);
	if (h.version != MIG_VERSION)
		return gw_fail(why, -EPROTO, "the other daemon speaks version %u of sessions, this one %u: run one release of "
		               "Godwit on all clusters", h.version, MIG_VERSION);
	*out = h;
	return 0;
}

ssize_t mig_prepare_pack(const struct mig_head *head, const struct ct_needs *n, const char *hints, const void *question,
                         size_t question_len, void **out)
{
	size_t hints_len = strlen(hints);
	size_t len = sizeof(*head) + sizeof(struct mig_wire_needs) + n->blob_len + hints_len + question_len;
	struct mig_wire_needs w = {
		.version = n->version, .uid = n->uid, .gid = n->gid, .threads = n->threads, .ns_pid = n->ns_pid,
		.files = n->files, .blob_len = (uint32_t)n->blob_len, .vmas = n->vmas,
		.private_bytes = n->private_bytes, .vdso_hash = n->vdso_hash, .xfeatures = n->xfeatures,
		.monotonic_ns = n->monotonic_ns, .boottime_ns = n->boottime_ns,
		.hints_len = (uint32_t)hints_len, .question_len = (uint32_t)question_len,
	};
	char *p;

	if (n->blob_len > UINT32_MAX / 2 || hints_len > UINT32_MAX / 2 || question_len > UINT32_MAX / 2)
		return -EMSGSIZE;
	p = malloc(len);
	if (!p)
		return -ENOMEM;
	*out = p;
	memcpy(p, head, sizeof(*head));
	p += sizeof(*head);
	memcpy(p, &w, sizeof(w));
	p += sizeof(w);
	if (n->blob_len)
		memcpy(p, n->blob, n->blob_len);
	memcpy(p + n->blob_len, hints, hints_len);
	if (question_len)
		memcpy(p + n->blob_len + hints_len, question, question_len);
	return (ssize_t)len;
}

void mig_prepare_stamp(void *frame, uint64_t monotonic_ns, uint64_t boottime_ns)
{
	char *p = (char *)frame + sizeof(struct mig_head);

	memcpy(p + offsetof(struct mig_wire_needs, monotonic_ns), &monotonic_ns, sizeof(monotonic_ns));
	memcpy(p + offsetof(struct mig_wire_needs, boottime_ns), &boottime_ns, sizeof(boottime_ns));
}

int mig_prepare_parse(const void *payload, size_t len, struct mig_prepare *out, struct gw_error *why)
{
	const char *p = (const char *)payload + sizeof(struct mig_head);
	struct mig_wire_needs w;

	if (len < sizeof(struct mig_head) + sizeof(w))
		return gw_fail(why, -EPROTO, "a PREPARE of %zu bytes is too short", len);
	memcpy(&w, p, sizeof(w));
	len -= sizeof(struct mig_head) + sizeof(w);
	if ((uint64_t)w.blob_len + w.hints_len + w.question_len != len)
		return gw_fail(why, -EPROTO, "a PREPARE announces %u + %u + %u bytes and holds %zu", w.blob_len, w.hints_len,
		               w.question_len, len);
	*out = (struct mig_prepare){
		.needs = { .version = w.version, .uid = w.uid, .gid = w.gid, .threads = w.threads, .ns_pid = w.ns_pid,
		           .vmas = w.vmas, .private_bytes = w.private_bytes, .vdso_hash = w.vdso_hash,
		           .xfeatures = w.xfeatures, .files = w.files, .monotonic_ns = w.monotonic_ns,
		           .boottime_ns = w.boottime_ns, .blob_len = w.blob_len,
		           .blob = (unsigned char *)(uintptr_t)(p + sizeof(w)) },
		.hints = p + sizeof(w) + w.blob_len,
		.hints_len = w.hints_len,
		.question = p + sizeof(w) + w.blob_len + w.hints_len,
		.question_len = w.question_len,
	};
	return 0;
}

size_t mig_pack(uint16_t type, const void *bytes, size_t len, void *out, size_t cap)
{
	struct mig_wire_packed head = { .type = type, .bytes = (uint32_t)len, .hash = XXH3_64bits(bytes, len) };
	int n;

	if (len > INT32_MAX || cap <= sizeof(head) || cap > INT32_MAX)
		return 0;
	n = LZ4_compress_default(bytes, (char *)out + sizeof(head), (int)len, (int)(cap - sizeof(head)));
	if (n <= 0)
		return 0;
	memcpy(out, &head, sizeof(head));
	return sizeof(head) + (size_t)n;
}

int mig_unpack(const void *payload, size_t len, void *out, size_t cap, uint16_t *type, struct gw_error *why)
{
	struct mig_wire_packed head;
	int n;

	if (len < sizeof(head) || len > INT32_MAX)
		return gw_fail(why, -EBADMSG, "packed memory of %zu bytes", len);
	memcpy(&head, payload, sizeof(head));
	if ((head.type != MIG_F_DATA && head.type != MIG_F_PAGES) || !head.bytes || head.bytes > cap || cap > INT32_MAX)
		return gw_fail(why, -EBADMSG, "packed memory of another kind or size (%u, %u bytes)", head.type, head.bytes);
	n = LZ4_decompress_safe((const char *)payload + sizeof(head), out, (int)(len - sizeof(head)), (int)head.bytes);
	if (n < 0 || (uint32_t)n != head.bytes || XXH3_64bits(out, head.bytes) != head.hash)
		return gw_fail(why, -EBADMSG, "packed memory is damaged");
	*type = (uint16_t)head.type;
	return n;
}

const char *mig_frame_name(uint16_t type)
{
	switch ((enum mig_frame)type) {
	case MIG_F_PREPARE: return "PREPARE";
	case MIG_F_STATE: return "STATE";
	case MIG_F_DATA: return "DATA";
	case MIG_F_END: return "END";
	case MIG_F_GIVEN: return "GIVEN";
	case MIG_F_DONE: return "DONE";
	case MIG_F_ABORT: return "ABORT";
	case MIG_F_PREPARED: return "PREPARED";
	case MIG_F_REFUSED: return "REFUSED";
	case MIG_F_READY: return "READY";
	case MIG_F_TAKEN: return "TAKEN";
	case MIG_F_NEVER: return "NEVER";
	case MIG_F_ASK: return "ASK";
	case MIG_F_ATTACHED: return "ATTACHED";
	case MIG_F_ROUND: return "ROUND";
	case MIG_F_PAGES: return "PAGES";
	case MIG_F_PACKED: return "PACKED";
	case MIG_F_WANT: return "WANT";
	case MIG_F_FETCHED: return "FETCHED";
	}
	return "?";
}
