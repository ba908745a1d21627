/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * migration/wire.h: the frames between two daemons during a session.
 *
 * They are frames of runtime/base/link.h; one connection carries one session. The first frame on a connection names the
 * session (struct mig_head); every frame but DATA, PAGES and PACKED begins with that head, and all on one connection must name
 * the same session. A session is identified by the source's incarnation and its number. Fixed width, little endian,
 * version 2.
 *
 *   type       from         after the head
 *   PREPARE    source       struct mig_wire_needs, needs blob, hints (JSON text), question of container/files.h
 *   STATE      source       JSON text
 *   DATA       source       image bytes, no head
 *   END        source       struct mig_wire_end
 *   GIVEN      source       -                           commit; repeated until answered
 *   DONE       source       -                           TAKEN was heard, the record may be forgotten
 *   ABORT      source       text                        never GIVEN, and never will be; or its pages are gone
 *   PACKED     source       struct mig_wire_packed, an lz4 block: a DATA or PAGES; no head. Only where PREPARED says so
 *   PAGES      source       struct mig_wire_pages, runs of pages (container/image.h); no head
 *   PREPARED   destination  struct mig_wire_prepared, answer of container/files.h
 *                                                       head: its incarnation from now on
 *   REFUSED    destination  text                        before PREPARED
 *   ROUND      destination  -                           a round of DATA is complete (container/image.h)
 *   READY      destination  struct mig_wire_ready
 *   TAKEN      destination  struct mig_wire_taken       repeated until DONE
 *   NEVER      destination  text                        this incarnation will not thaw this session
 *   ASK        destination  -                           READY, and the connection was lost: what became of it?
 *   ATTACHED   destination  struct mig_wire_attached    for the measures only
 *   WANT       destination  struct mig_wire_want, n addresses: it runs, and these pages are missing
 *   FETCHED    destination  struct mig_wire_fetched     no page is missing; repeated until DONE, in the place of TAKEN
 */
#ifndef MIG_WIRE_H
#define MIG_WIRE_H

#include "migration/migration.h"

#define MIG_MAGIC   0x67696d67u /* "gmig" */
#define MIG_VERSION 2

enum mig_frame { /* written numbers: never reused */
	MIG_F_PREPARE  = 64,
	MIG_F_STATE    = 65,
	MIG_F_DATA     = 66,
	MIG_F_END      = 67,
	MIG_F_GIVEN    = 68,
	MIG_F_DONE     = 69,
	MIG_F_ABORT    = 70,
	MIG_F_PAGES    = 71,
	MIG_F_PACKED   = 72,
	MIG_F_PREPARED = 80,
	MIG_F_REFUSED  = 81,
	MIG_F_READY    = 82,
	MIG_F_TAKEN    = 83,
	MIG_F_NEVER    = 84,
	MIG_F_ASK      = 85,
	MIG_F_ATTACHED = 86,
	MIG_F_ROUND    = 87,
	MIG_F_WANT     = 88,
	MIG_F_FETCHED  = 89,
};

struct mig_head {
	uint32_t magic;
	uint16_t version, flags;
	uint32_t job, session, proc, from, to;
	int32_t  status;           /* REFUSED, NEVER, ABORT: negative errno */
	uint64_t from_incarnation; /* of the source's daemon */
	uint64_t to_incarnation;   /* of the destination's; 0 before PREPARED */
	uint64_t epoch;            /* of the name before the move */
};
_Static_assert(sizeof(struct mig_head) == 56, "wire format");

struct mig_wire_needs {
	uint32_t version, uid, gid, threads, ns_pid, files, reserved, blob_len;
	uint64_t vmas, private_bytes, vdso_hash, xfeatures, monotonic_ns, boottime_ns;
	uint32_t hints_len, question_len;
};
_Static_assert(sizeof(struct mig_wire_needs) == 88, "wire format");

struct mig_wire_end { uint64_t bytes; };
#define MIG_KNOWS_PACKED 1u        /* a release that knows no other has 1 for it */
#define MIG_KNOWS_HEAD   2u        /* an image whose head comes before the rest of it is known (container/image.h) */
struct mig_wire_prepared {
	uint64_t prepare_ns;
	uint32_t can_fetch;        /* may it run there before its pages are there? */
	uint32_t knows;            /* MIG_KNOWS_*; 0 from a release that knows none */
};
struct mig_wire_packed { uint32_t type, bytes; uint64_t hash; }; /* what it is, and how long, unpacked; XXH3 of that */
struct mig_wire_ready { uint64_t fill_ns, ready_ns, bytes; };   /* first byte to END; END to ready */
struct mig_wire_taken { uint64_t thawed_at_ns, thaw_ns, pages_filled; uint32_t has_agent, pad; };
struct mig_wire_attached { uint64_t attach_ns; int32_t status; uint32_t pad; };
struct mig_wire_pages { uint64_t cursor; };                     /* up to where, of what goes in order */
#define MIG_NO_CURSOR UINT64_MAX                                /* it was asked for, out of order */
struct mig_wire_want { uint64_t cursor; uint32_t is_again, n; }; /* is_again: what was sent after the cursor has got lost */
struct mig_wire_fetched { uint64_t fetch_ns, faults, fault_median_us, fault_max_us, forks, zero_pages, user_ns; };
_Static_assert(sizeof(struct mig_wire_prepared) == 16, "wire format");
_Static_assert(sizeof(struct mig_wire_packed) == 16, "wire format");
_Static_assert(sizeof(struct mig_wire_want) == 16, "wire format");
_Static_assert(sizeof(struct mig_wire_fetched) == 56, "wire format");
_Static_assert(sizeof(struct mig_wire_taken) == 32, "wire format");
_Static_assert(sizeof(struct mig_wire_attached) == 16, "wire format");

/* A PREPARE as it was read: @needs.blob, @hints and @question point into the frame. */
struct mig_prepare {
	struct ct_needs needs;
	const char *hints;
	const void *question;
	size_t hints_len, question_len;
};

/** mig_head_parse - pure; -EPROTO when it is too short, of another version, or not ours */
int mig_head_parse(const void *payload, size_t len, struct mig_head *out, struct gw_error *why);

/** mig_prepare_pack - a whole PREPARE frame into a new heap block; returns its length or negative errno */
ssize_t mig_prepare_pack(const struct mig_head *head, const struct ct_needs *needs, const char *hints, const void *question,
                         size_t question_len, void **out);

/** mig_prepare_stamp - write the rank's clocks into a packed PREPARE that is about to leave */
void mig_prepare_stamp(void *frame, uint64_t monotonic_ns, uint64_t boottime_ns);

/** mig_prepare_parse - pure; of the whole payload, whose head has been parsed */
int mig_prepare_parse(const void *payload, size_t len, struct mig_prepare *out, struct gw_error *why);

/** mig_pack - a PACKED frame of @len bytes of DATA or PAGES into @out; returns its length, 0: it is not smaller than @cap */
size_t mig_pack(uint16_t type, const void *bytes, size_t len, void *out, size_t cap);

/** mig_unpack - pure; what a PACKED frame holds into @out, and what it is; returns its length, or -EBADMSG when it is damaged */
int mig_unpack(const void *payload, size_t len, void *out, size_t cap, uint16_t *type, struct gw_error *why);

/** mig_frame_name - for log lines; constant, never NULL */
const char *mig_frame_name(uint16_t type);

#endif
