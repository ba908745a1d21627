/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A rank's inbox, gate, doorbell and agent while peers send to it and it is quiesced, moved and attached again.
 *
 * The owner is one rank: its program thread P, its agent A, and the clusterd of the moment; the peers W0 and W1 send
 * MSGS messages each, through their bounded queues. Slots, tickets, CLAIMED, CLOSED and VOID are those of noc/inbox.c,
 * is_inside, is_closed and sleepers those of struct ct_gate. A claim is one compare-and-swap, so it is one step here;
 * the stores that a proof depends on (is_inside, the published slot, asleep) go through store buffers that drain when
 * they like, as on x86; a fence and a locked instruction wait for the buffer, a membarrier empties that of the other
 * thread. W1 can be killed between claim and publish, and can be stopped there (it then makes QUIESCE fail); its slots
 * are voided only after it has been reaped.
 *
 * Nobody wakes by timeout here, so a lost wake-up is a run that ends with messages undelivered. Every run ends (no
 * cycles but P's polling, which has a bound), and where it ends every message of a peer that lives has been delivered
 * once and in order.
 *
 * BUG_x removes one rule each; the search must find every one of them.
 */
#ifndef MSGS
#define MSGS 2
#endif
#ifndef MOVES
#define MOVES 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef GIVEUPS
#define GIVEUPS 1
#endif
#define SLOTS 2
#define QUEUE 2
#define WRITERS 2
#define NOBODY 9

/* states of a slot */
#define FREE    0
#define CLAIMED 1
#define FULL    2
#define CLOSED  3
#define VOID    4

byte slot[SLOTS], slot_writer[SLOTS], slot_seq[SLOTS];
byte head, tail;                    /* tickets modulo SLOTS; used counts the slots between them */
byte used;
byte incarnation;                   /* of the inbox: attaches so far */
bool mapped = true;                 /* the owner has the segment mapped */
bool asleep;                        /* the doorbell word, shared */
bool waiting;                       /* P is in futex_wait */

bool is_inside, is_closed;          /* struct ct_gate */
byte sleepers;
bool p_owns, a_owns;                /* ghosts: who touches provider state */

bool page_here = true;              /* the name page */
byte page_incarnation;

byte made[WRITERS], pushed[WRITERS], expect[WRITERS];
byte closed_at[WRITERS];            /* incarnation + 1 that a writer found closed */
bool dead[WRITERS], reaped[WRITERS];
byte moves, kills, giveups;

/* store buffers: P's two words, and one published slot per writer */
mtype = { INSIDE, ASLEEP };
chan sb_p = [3] of { mtype, bool };
chan sb_w[WRITERS] = [1] of { byte };

#define FENCE_P (len(sb_p) == 0)

inline apply_p()
{
	sb_p?v,b;
	if
	:: v == INSIDE -> is_inside = b
	:: v == ASLEEP -> asleep = b
	fi;
	v = 0; b = 0
}

/* hardware: stores reach memory in order, at any time */
proctype memory_p()
{
	mtype v; bool b;
end:	do
	:: atomic { len(sb_p) > 0 -> apply_p() }
	od
}
inline publish_now(w)
{
	sb_w[w]?i;
	assert(slot[i] == CLAIMED && slot_writer[i] == w);
	slot[i] = FULL; i = 0
}
proctype memory_w(byte w)
{
	byte i;
end:	do
	:: atomic { len(sb_w[w]) > 0 -> publish_now(w) }
	od
}

/* the owner, whoever it is, takes the slot at the head: noc_inbox_poll */
inline take()
{
	assert(mapped);
	if
	:: slot[head] == FULL ->
		assert(slot_seq[head] == expect[slot_writer[head]] + 1);  /* none lost, repeated or out of order */
		expect[slot_writer[head]]++
	:: else
	fi;
	slot[head] = FREE; slot_writer[head] = NOBODY; slot_seq[head] = 0;
	head = (head + 1) % SLOTS; used--
}
#define HEAD_IS_READY (used > 0 && (slot[head] == FULL || slot[head] == VOID))

inline ring() { atomic { asleep = false; waiting = false } }

proctype program()
{
	mtype v; bool b;
again:	/* ct_gate_enter: two plain stores and a load */
	sb_p!INSIDE(true);
	if
	:: is_closed ->
		sb_p!INSIDE(false);
endgate:	!is_closed;        /* ct_gate_enter_slow: a futex on is_closed */
		goto again
	:: atomic { !is_closed -> p_owns = true; assert(!a_owns) }
	fi;
	/* noc_poll */
	if
	:: atomic { HEAD_IS_READY -> take(); p_owns = false };
		sb_p!INSIDE(false);             /* ct_gate_leave */
		goto again
	:: atomic { !HEAD_IS_READY -> assert(mapped) }
	fi;
	/* noc_wait: counted as a sleeper before it leaves the gate */
#ifdef BUG_SLEEPER_NOT_COUNTED
	p_owns = false;
#else
	atomic { FENCE_P -> sleepers++; p_owns = false };
#endif
	sb_p!INSIDE(false);
	assert(mapped);
	sb_p!ASLEEP(true);
#ifndef BUG_NO_FENCE_SLEEPER
	FENCE_P;
#endif
	if
#ifdef BUG_NO_RECHECK_CLOSED
	:: HEAD_IS_READY -> sb_p!ASLEEP(false)
	:: !HEAD_IS_READY ->
#else
	:: HEAD_IS_READY || is_closed -> sb_p!ASLEEP(false)
	:: !HEAD_IS_READY && !is_closed ->
#endif
		FENCE_P;                        /* the futex call is a full barrier */
		atomic {
			assert(mapped);
			if
			:: asleep -> waiting = true
			:: else
			fi };
endsleep:	!waiting
	fi;
	assert(mapped);
#ifndef BUG_SLEEPER_NOT_COUNTED
	atomic { FENCE_P -> sleepers-- };
#endif
	goto again
}

/* the agent, and clusterd around it: QUIESCE, detach, (freeze, move, thaw), ATTACH */
proctype agent()
{
	mtype v; bool b;
	byte c;
end:	do
	:: moves < MOVES ->
		moves++;
		/* ct_gate_close */
		is_closed = true;
#ifndef BUG_NO_MEMBARRIER
		atomic { do :: len(sb_p) > 0 -> apply_p() :: len(sb_p) == 0 -> break od };
#endif
		!is_inside;
		atomic { a_owns = true; assert(!p_owns) };
		/* ops.wake_sleepers, and wait for them */
		ring();
#ifndef BUG_SLEEPERS_NOT_AWAITED
		sleepers == 0;
#endif
		/* noc_inbox_close: the owner claims the next slot as CLOSED; when full it takes first */
		do
		:: atomic { used < SLOTS ->
			slot[tail] = CLOSED; c = tail; tail = (tail + 1) % SLOTS; used++; break }
		:: atomic { used == SLOTS && HEAD_IS_READY -> take() }
		:: atomic { used == SLOTS && !HEAD_IS_READY && giveups < GIVEUPS -> giveups++; goto busy }
		od;
		/* wait for the claimed slots, drain up to CLOSED */
		do
		:: atomic { HEAD_IS_READY -> take() }
		:: atomic { slot[head] == CLOSED -> take(); break }
#ifdef BUG_DETACH_WITHOUT_DRAIN
		:: atomic { slot[head] != CLOSED ->
			do
			:: used > 0 -> slot[head] = FREE; head = (head + 1) % SLOTS; used--
			:: used == 0 -> break
			od;
			break }
#endif
		/* the bound is over and a writer is stopped inside its slot: reopen as a new incarnation, all slots kept */
		:: atomic { slot[head] == CLAIMED && giveups < GIVEUPS -> giveups++;
#ifdef BUG_REOPEN_RESETS_SLOTS
			do
			:: used > 0 -> slot[head] = FREE; slot_writer[head] = NOBODY; head = (head + 1) % SLOTS; used--
			:: used == 0 -> break
			od;
#else
			slot[c] = VOID;
#endif
			incarnation++; goto busy }
		od;
		page_here = false;
		/* unmap; QUIET; freeze: P stands still wherever it is; then the thaw, elsewhere */
		mapped = false;
		/* ATTACH */
		atomic { mapped = true; incarnation++ };
#ifdef BUG_ATTACH_STAYS_CLOSED
		atomic { slot[tail] = CLOSED; tail = (tail + 1) % SLOTS; used++ };
#endif
busy:		atomic { a_owns = false; is_closed = false };
		/* ATTACHED, or BUSY with a new incarnation: clusterd publishes it */
		atomic { page_incarnation = incarnation; page_here = true };
		c = 0
	od
}

/* a peer: noc_send puts into its queue, push takes from it in order */
proctype writer(byte w)
{
	byte i, n;
end:	do
	/* the program sends: accepted while the queue has room, wherever the receiver is (rule 3) */
	:: atomic { !dead[w] && made[w] < MSGS && made[w] - pushed[w] < QUEUE -> made[w]++ }
	/* push */
	:: atomic { !dead[w] && pushed[w] < made[w] && page_here && closed_at[w] != page_incarnation + 1 &&
	            used < SLOTS && len(sb_w[w]) == 0 ->
		if
		:: used > 0 && slot[(tail + SLOTS - 1) % SLOTS] == CLOSED ->
			/* it learns that the inbox is closed and looks the name up again */
			closed_at[w] = page_incarnation + 1; goto next
		:: else ->
			i = tail; slot[i] = CLAIMED; slot_writer[i] = w;
#ifdef BUG_OVERTAKE_QUEUE
			slot_seq[i] = (made[w] > pushed[w] + 1 -> made[w] : pushed[w] + 1);
#else
			slot_seq[i] = pushed[w] + 1;
#endif
			tail = (tail + 1) % SLOTS; used++
		fi }
		/* between claim and publish: it may be stopped here for long, or killed */
		if
		:: atomic { !dead[w] -> sb_w[w]!i; i = 0; pushed[w]++ }
		:: dead[w] -> break
		fi;
#ifndef BUG_NO_FENCE
		(len(sb_w[w]) == 0 || dead[w]);         /* publish, fence, then read asleep (rule 8) */
#endif
		if
		:: atomic { asleep && !dead[w] -> asleep = false; waiting = false }
		:: atomic { !asleep || dead[w] -> skip }
		fi;
next:		skip
	:: dead[w] -> break
	od
}

/* kill -9 of W1, its reaping by its clusterd, and noc_inbox_void after that */
proctype reaper()
{
	byte i;
end:	do
	:: atomic { kills < KILLS && made[1] > 0 && !dead[1] -> kills++; dead[1] = true }
	:: kills < KILLS -> kills++      /* or it is not killed */
#ifdef BUG_VOID_BEFORE_REAPED
	:: atomic { !dead[1] && !reaped[1] -> reaped[1] = true;
#else
	/* what it had stored reaches memory before it can be reaped */
	:: atomic { dead[1] && !reaped[1] && len(sb_w[1]) == 0 -> reaped[1] = true;
#endif
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: slot[i] == CLAIMED && slot_writer[i] == 1 -> slot[i] = VOID
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		ring() }

	/* nothing moves any more */
	:: timeout ->
		assert(!a_owns && mapped && !is_closed && moves == MOVES);
		assert(expect[0] == MSGS);
		assert(dead[1] || expect[1] == MSGS);
		break
	od
}

init
{
	atomic {
		slot_writer[0] = NOBODY; slot_writer[1] = NOBODY;
		run memory_p(); run memory_w(0); run memory_w(1);
		run program(); run agent(); run writer(0); run writer(1); run reaper()
	}
}
