/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of sessions walked whole, and the parsers of frames fed with what a peer should not send. */
#include <stdlib.h>

#include "migration/session.h"
#include "tests/tap.h"

static const struct mig_rule *find(enum mig_state state, enum mig_event ev)
{
	for (size_t i = 0; i < mig_rules_count; i++)
		if (mig_rules[i].state == state && mig_rules[i].event == ev)
			return &mig_rules[i];
	return NULL;
}

static bool lives(enum mig_state s)
{
	return s != MIG_IDLE && s != MIG_ENDED;
}

static void test_ways_out(void)
{
	static const enum mig_event must[] = { MIG_EV_PEER_LOST, MIG_EV_PEER_DEAD, MIG_EV_TIMEOUT };
	bool all = true, unique = true, ended = true;

	for (int st = 0; st < MIG_STATES; st++)
		for (size_t i = 0; i < GW_ARRAY_LEN(must) && lives(st); i++)
			if (!find(st, must[i]) && !(st == MIG_READY && must[i] == MIG_EV_PEER_DEAD)) {
				diag("no rule for '%s' in state '%s'", mig_event_name(must[i]), mig_state_name(st));
				all = false;
			}
	ok(all, "every state has a rule for a lost peer, a dead peer and a timeout");
	ok(find(MIG_READY, MIG_EV_PEER_DEAD) != NULL, "and READY discards when the source is dead");
	for (size_t i = 0; i < mig_rules_count; i++)
		for (size_t j = 0; j < i; j++)
			unique &= mig_rules[i].state != mig_rules[j].state || mig_rules[i].event != mig_rules[j].event;
	ok(unique, "no pair has two rules");
	for (size_t i = 0; i < mig_rules_count; i++)
		ended &= mig_rules[i].state != MIG_ENDED;
	ok(ended, "nothing happens after the end");
}

/* Which states can be reached from @from, with the rules whose event is not in @without? */
static unsigned reachable(enum mig_state from, enum mig_event without)
{
	unsigned set = 1u << from, before = 0;

	while (set != before) {
		before = set;
		for (size_t i = 0; i < mig_rules_count; i++)
			if (set >> mig_rules[i].state & 1 && mig_rules[i].event != without)
				set |= 1u << mig_rules[i].next;
	}
	return set;
}

static void test_rules_of_the_commit(void)
{
	bool only = true, exits = true;
	unsigned source = reachable(MIG_PREPARE, MIG_EVENTS), destination = reachable(MIG_IDLE, MIG_EVENTS);

	for (int st = 0; st < MIG_STATES; st++)
		if (!((source | destination) >> st & 1)) {
			diag("state '%s' cannot be reached", mig_state_name(st));
			only = false;
		} else if (lives(st) && !(reachable(st, MIG_EVENTS) >> MIG_ENDED & 1)) {
			diag("state '%s' never ends", mig_state_name(st));
			exits = false;
		}
	ok(only, "every state can be reached");
	ok(exits, "every state leads to the end");
	ok((source & destination) == 1u << MIG_ENDED, "source and destination share no state but the end");
	ok(!(reachable(MIG_PREPARE, MIG_EV_READY) >> MIG_GIVEN & 1), "nothing but READY leads to GIVEN");
	only = true;
	for (size_t i = 0; i < mig_rules_count; i++) {
		const struct mig_rule *r = &mig_rules[i];

		if (r->action == mig_dst_thaw)
			only &= r->state == MIG_READY && r->event == MIG_EV_GIVEN;
		if (r->action == mig_src_abort)
			only &= r->state == MIG_PREPARE || r->state == MIG_PROVE || r->state == MIG_PRECOPY || r->state == MIG_QUIESCE || r->state == MIG_SEND;
		if (r->action == mig_src_keep)
			only &= r->state == MIG_GIVEN && r->event == MIG_EV_NEVER;
		if (r->action == mig_src_release)
			only &= (r->state == MIG_GIVEN && (r->event == MIG_EV_TAKEN || r->event == MIG_EV_FETCHED)) ||
			        (r->state == MIG_SERVE && r->event == MIG_EV_FETCHED);
		if (r->next == MIG_ARRIVED && r->state != MIG_ARRIVED)
			only &= (r->state == MIG_READY && r->event == MIG_EV_THAWED) || r->state == MIG_FETCH;
		if (r->next == MIG_FETCH && r->state != MIG_FETCH)
			only &= r->state == MIG_READY && r->event == MIG_EV_LIVES;
		if (r->state == MIG_FETCH && r->next == MIG_ENDED)
			only &= r->action == mig_dst_starve;
		if (r->action == mig_dst_discard)
			only &= r->state == MIG_LOOK || r->state == MIG_FILL || r->state == MIG_READY;
		if (r->state == MIG_GIVEN && r->next != MIG_GIVEN)
			only &= r->event == MIG_EV_TAKEN || r->event == MIG_EV_LIVES || r->event == MIG_EV_WANT ||
			        r->event == MIG_EV_FETCHED || r->event == MIG_EV_NEVER || r->event == MIG_EV_PEER_DEAD;
	}
	ok(only, "thaw, abort, keep, release, discard and starve stand only where they may, and only a thaw leads to a rank that lives");
}

/* Every pair that is not in the table: refused, counted, nothing changed. */
static void test_unknown_pairs(void)
{
	struct mig m = { .c = { .cluster = 1, .incarnation = 7 } };
	unsigned pairs = 0;
	bool good = true;

	gw_list_init(&m.sessions);
	for (int st = 0; st < MIG_STATES; st++)
		for (int ev = 0; ev < MIG_EVENTS; ev++) {
			struct mig_session s = { .m = &m, .state = st };

			if (find(st, ev) || st == MIG_ENDED)
				continue;
			pairs++;
			gw_list_init(&s.node);
			mig_step(&s, ev);
			good &= s.state == (enum mig_state)st && m.n.bad_events == pairs && s.pendings == 0;
		}
	ok(good && pairs > 0, "all %u pairs that are not in the table are refused and counted", pairs);
}

static void test_names(void)
{
	bool good = true;

	for (int st = 0; st < MIG_STATES; st++)
		good &= mig_state_name(st) && strcmp(mig_state_name(st), "?");
	for (int ev = 0; ev < MIG_EVENTS; ev++)
		good &= mig_event_name(ev) && strcmp(mig_event_name(ev), "?");
	ok(good && !strcmp(mig_event_name(MIG_EVENTS), "?"), "every state and event has a name");
}

static void test_frames(void)
{
	struct mig_head h = { .magic = MIG_MAGIC, .version = MIG_VERSION, .job = 1, .session = 2, .proc = 3 }, out, bad;
	unsigned char blob[100];
	struct ct_needs n = { .version = CT_NEEDS_VERSION, .threads = 4, .private_bytes = 5,
	                      .blob_len = sizeof(blob), .blob = blob };
	struct mig_prepare p;
	struct gw_error why = { 0 };
	void *frame = NULL;
	char *copy;
	ssize_t len;
	bool good = true;

	for (size_t i = 0; i < sizeof(blob); i++)
		blob[i] = (unsigned char)i;
	len = mig_prepare_pack(&h, &n, "{\"a\":1}", "what?", 5, &frame);
	ok(len == (ssize_t)(sizeof(h) + sizeof(struct mig_wire_needs) + sizeof(blob) + 12), "a PREPARE is packed");
	ok(mig_head_parse(frame, (size_t)len, &out, &why) == 0 && out.session == 2 && out.proc == 3, "its head is read back");
	ok(mig_prepare_parse(frame, (size_t)len, &p, &why) == 0 && p.needs.threads == 4 && p.needs.blob_len == sizeof(blob) &&
	   !memcmp(p.needs.blob, blob, sizeof(blob)) && p.hints_len == 7 && !memcmp(p.hints, "{\"a\":1}", 7) &&
	   p.question_len == 5 && !memcmp(p.question, "what?", 5), "so is the rest");
	for (size_t cut = 0; cut < (size_t)len; cut++) {
		copy = malloc(cut + 1); /* exactly as long: a sanitizer sees a byte too many */
		memcpy(copy, frame, cut);
		if (cut >= sizeof(h))
			good &= mig_prepare_parse(copy, cut, &p, &why) == -EPROTO;
		else
			good &= mig_head_parse(copy, cut, &out, &why) == -EPROTO;
		free(copy);
	}
	ok(good, "cut short anywhere it is refused");
	bad = h;
	bad.version++;
	ok(mig_head_parse(&bad, sizeof(bad), &out, &why) == -EPROTO && strstr(why.text, "version"), "another version is named");
	bad = h;
	bad.magic++;
	ok(mig_head_parse(&bad, sizeof(bad), &out, &why) == -EPROTO, "another magic is refused");
	/* every byte of the fixed part turned to 0xff: refused, or lengths that still fit */
	good = true;
	for (size_t i = sizeof(h); i < sizeof(h) + sizeof(struct mig_wire_needs); i++) {
		copy = malloc((size_t)len);
		memcpy(copy, frame, (size_t)len);
		copy[i] = (char)0xff;
		if (mig_prepare_parse(copy, (size_t)len, &p, &why) == 0)
			good &= p.needs.blob_len + p.hints_len + p.question_len == sizeof(blob) + 12;
		free(copy);
	}
	ok(good, "wrong lengths never reach beyond the frame");
	free(frame);
}

static void test_packed(void)
{
	static char memory[65536], packed[65536], back[65536];
	struct gw_error why = { 0 };
	unsigned refused = 0, tries = 0;
	uint16_t type = 0;
	size_t n;
	int got;

	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (char)(i / 100 % 7 + i % 3);
	n = mig_pack(MIG_F_PAGES, memory, sizeof(memory), packed, sizeof(packed));
	got = mig_unpack(packed, n, back, sizeof(back), &type, &why);
	ok(n > 0 && n < sizeof(memory) / 4 && got == (int)sizeof(memory) && type == MIG_F_PAGES && !memcmp(memory, back, sizeof(memory)),
	   "memory is packed and unpacked: %s", why.text);
	ok(mig_unpack(packed, n, back, sizeof(back) - 1, &type, &why) == -EBADMSG, "more than there is room for is refused: %s", why.text);
	for (size_t len = 0; len < n; len++, tries++)
		refused += mig_unpack(packed, len, back, sizeof(back), &type, &why) == -EBADMSG;
	is_int(refused, tries, "so is what was cut, anywhere");
	refused = tries = 0;
	for (size_t i = 0; i < n; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			uint32_t kind;

			packed[i] ^= (char)(1 << bit);
			memcpy(&kind, packed, sizeof(kind));
			got = mig_unpack(packed, n, back, sizeof(back), &type, &why);
			if (kind != MIG_F_DATA) { /* what it is, the destination's state says, too */
				tries++;
				refused += got == -EBADMSG || (got == (int)sizeof(memory) && !memcmp(memory, back, sizeof(memory)));
			}
			packed[i] ^= (char)(1 << bit);
		}
	is_int(refused, tries, "a bit that has changed is seen, or changes nothing");
	is_int((int)mig_pack(MIG_F_DATA, &why, sizeof(why), packed, 20), 0, "what does not become smaller is not packed");
}

int main(void)
{
	tap_begin(60);
	setenv("GODWIT_LOG", "error", 1);
	gw_log_init("test_table"); /* refusals are logged as warnings, and there will be many */
	test_ways_out();
	test_rules_of_the_commit();
	test_unknown_pairs();
	test_names();
	test_frames();
	test_packed();
	return tap_done();
}
