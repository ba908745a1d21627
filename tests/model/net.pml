/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A channel whose path loses tails: A has one eager message and one accepted transfer of CHUNKS chunks for B, which moves
 * between A's host and another. Connections come up on one side before the other and break at any moment. Nothing may be
 * lost, repeated or waited for for ever. doc/noc-protocol.md describes what is modelled.
 *
 * BUG_WORDS_UNNUMBERED: words about transfers are said once, outside the stream
 * BUG_NO_RESUME: a lost path is not asked about
 * BUG_NO_DRAIN: a new connection is read before what came by memory
 * BUG_NOT_RETAINED: what was sent is not put back when the path is lost
 */
#ifndef CHUNKS
#define CHUNKS 2
#endif
#ifndef MOVES
#define MOVES 2
#endif
#ifndef CUTS
#define CUTS 1
#endif
#define MAX 12
/* B detaches, and reads a new connection, only when what came by memory was read */
#ifdef BUG_NO_DRAIN
#define DRAINED true
#define A_DRAINED true
#else
#define DRAINED empty(mem_ab)
#define A_DRAINED empty(mem_ba)
#endif

mtype = { NOTHING, EAGER, CHUNK, RESUME, ACCEPT, FIN };
mtype = { STREAMING, STANDING, WAITING, DONE };

/* one side of a channel: [acked, sent) is retained, [sent, n) is queued; over memory nothing is retained */
typedef side { byte n, sent, acked, next_in; mtype kind[MAX]; byte off[MAX]; bool net, up }
side a, b;

chan mem_ab = [4] of { mtype, byte, byte, byte }; /* kind, number, offset, what the sender expects */
chan mem_ba = [4] of { mtype, byte, byte, byte };
chan net_ab = [3] of { mtype, byte, byte, byte };
chan net_ba = [3] of { mtype, byte, byte, byte };

bool b_here = true, b_away;       /* on A's host, or on another */
bool asked;                       /* A is up, PROOF is under way */
byte a_next, b_next;              /* of the greetings */
byte moves, cuts, eager_in, a_done, b_done;
bool by_net, b_by_net, b_complete;
mtype a_state = STREAMING;

/* a word, or a message, joins the queue of a side */
#define POST(s, k, o) s.kind[s.n] = k; s.off[s.n] = o; s.n++; assert(s.n < MAX)

inline leave(s)
{
#ifdef BUG_WORDS_UNNUMBERED
	i = s.acked;
	do
	:: s.net && i < s.sent -> if :: s.kind[i] != EAGER -> s.kind[i] = NOTHING :: else fi; i++
	:: else -> break
	od;
#endif
#ifndef BUG_NOT_RETAINED
	if :: s.net -> s.sent = s.acked :: else fi;
#endif
	s.net = false; s.up = false
}

inline a_leave()
{
	leave(a);
#ifndef BUG_NO_RESUME
	if
	:: by_net && (a_state == STREAMING || a_state == WAITING) -> a_state = STANDING; POST(a, RESUME, 0)
	:: else
	fi
#endif
}
inline forget(s, upto)
{
	if :: s.acked < upto -> s.acked = upto :: else fi;
	if :: s.sent < upto -> s.sent = upto :: else fi
}

/* take one message; @from_net tells how it came */
inline b_take(k, q, o, from_net)
{
	if
	:: k == CHUNK ->
		if
		:: !b_complete && o == b_done ->
			b_done++;
			if :: from_net -> b_by_net = true :: else fi;
			if
			:: b_done == CHUNKS ->
				b_complete = true;
				if :: b_by_net -> POST(b, FIN, 0) :: else fi
			:: else
			fi
		:: else
		fi
	:: k != CHUNK && q == b.next_in ->
		b.next_in++;
		if
		:: k == EAGER -> eager_in++
		:: k == RESUME && b_complete -> POST(b, FIN, 0)
		:: k == RESUME && !b_complete -> POST(b, ACCEPT, b_done)
		:: k == NOTHING
		fi
	:: k != CHUNK && q != b.next_in -> assert(q < b.next_in)
	fi
}

inline a_take(k, q, o)
{
	if
	:: q == a.next_in ->
		a.next_in++;
		if
		:: k == ACCEPT && a_state != DONE -> a_done = o; by_net = false; a_state = STREAMING
		:: k == FIN -> a_state = DONE
		:: else
		fi
	:: else -> assert(q < a.next_in)
	fi
}

inline send_mem(s, c)
{
	c!s.kind[s.sent], s.sent, s.off[s.sent], s.next_in; s.sent++; s.acked = s.sent
}
inline send_net(s, c)
{
	c!s.kind[s.sent], s.sent, s.off[s.sent], s.next_in; s.sent++
}

inline lose(c)
{
	do
	:: len(c) > 0 -> c?k, q, o, e
	:: len(c) == 0 -> break
	od
}

active proctype world()
{
	mtype k;
	byte q, o, e, i;

	POST(a, EAGER, 0);
end:	do
	/* A sends: by memory while B is here */
	:: atomic { b_here && a.up -> lose(net_ab); lose(net_ba); asked = false; b.up = false; a_leave() }
	:: atomic { b_here && !a.up && !a.net && a.sent < a.n && nfull(mem_ab) -> send_mem(a, mem_ab) }
	:: atomic { b_here && !a.up && a.sent == a.n && a_state == STREAMING && nfull(mem_ab) ->
		mem_ab!CHUNK, 0, a_done, a.next_in; a_done++;
		if
		:: a_done == CHUNKS && !by_net -> a_state = DONE
		:: a_done == CHUNKS && by_net -> a_state = WAITING
		:: else
		fi }
	:: atomic { a.up && !b_here && a.sent < a.n && nfull(net_ab) -> send_net(a, net_ab) }
	:: atomic { a.up && !b_here && a_state == STREAMING && nfull(net_ab) ->
		net_ab!CHUNK, 0, a_done, a.next_in; a_done++; by_net = true;
		if :: a_done == CHUNKS -> a_state = WAITING :: else fi }
	/* B sends */
	:: atomic { b_here && b.sent < b.n && nfull(mem_ba) -> leave(b); send_mem(b, mem_ba) }
	:: atomic { b.up && b.sent < b.n && nfull(net_ba) -> send_net(b, net_ba) }
	/* both read */
	:: atomic { (b_here || b_away) && nempty(mem_ab) -> mem_ab?k, q, o, e; b_take(k, q, o, false) }
	:: atomic { nempty(mem_ba) -> mem_ba?k, q, o, e; a_take(k, q, o) }
	:: atomic { b.up && nempty(net_ab) -> net_ab?k, q, o, e; forget(b, e); b_take(k, q, o, true) }
	:: atomic { a.up && nempty(net_ba) -> net_ba?k, q, o, e; forget(a, e); a_take(k, q, o) }
	/* an acknowledgement of its own */
	:: atomic { b.up && a.up && a.acked < b.next_in && empty(net_ab) && empty(net_ba) -> forget(a, b.next_in) }
	:: atomic { b.up && a.up && b.acked < a.next_in && empty(net_ab) && empty(net_ba) -> forget(b, a.next_in) }
	/* B detaches (its inbox is read empty, its connection is gone with a tail) and attaches elsewhere */
	:: atomic { moves < MOVES && (b_here || b_away) && DRAINED ->
		moves++; b_here = false; b_away = false; lose(net_ab); leave(b);
		if :: true -> lose(net_ba) :: true fi; asked = false }
	:: atomic { !b_here && !b_away -> if :: true -> b_here = true :: true -> b_away = true fi }
	/* a connection: A is up with the answer, B with the proof */
	:: atomic { b_away && !a.up && !asked && !b.up && A_DRAINED -> lose(net_ab); lose(net_ba);
		asked = true; a_next = a.next_in; b_next = b.next_in;
		forget(a, b_next); a.up = true; a.net = true }
	:: atomic { asked && a.up && b_away && DRAINED ->
		asked = false; forget(b, a_next); b.up = true; b.net = true }
	/* it breaks: either side loses a tail, A hears of it */
	:: atomic { cuts < CUTS && a.up && b_away ->
		cuts++; asked = false;
		if :: true -> lose(net_ab) :: true fi;
		if :: b.up -> leave(b) :: else fi;
		lose(net_ba); lose(net_ab); a_leave() }
	/* B is gone from the other end: A hears of it */
	:: atomic { a.up && !b.up && !asked && !b_here && empty(net_ba) -> a_leave() }
	:: timeout -> assert(eager_in == 1 && b_complete && a_state == DONE && a.acked == a.n && b.acked == b.n); break
	od
}
