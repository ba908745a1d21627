/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pool: three keepers, of which one leads; one slot, owned by keeper OWNER; two jobs that want it, with their heads at
 * keepers 0 and 1. Links break and each end notices when it likes (so does who was stopped); keepers die; the leader resigns;
 * others leave, and keeper 1 may be added to a pool of two (ADD). doc/pool.md describes what is modelled.
 *
 * Safe: the slot is never in two jobs' hands; in a term one keeper acts as leader; who holds the slot and lives, with whom it
 * needs, is not robbed of it; a keeper that leaves has neither the slot given away nor a job. Live: when no fault is left,
 * everybody alive follows one leader, whoever asks is answered, and who is to leave and has nothing has left.
 *
 * BUG_NOT_ASKED: a successor does not ask what the others own
 * BUG_NO_ORPHANS: nobody ends what a job holds whose head has gone
 * BUG_NO_PROBE: a leader does not look for those that it has lost
 * BUG_LEAVE_AT_ONCE: who is to leave does, whatever it has
 */
#ifndef KILLS
#define KILLS 1
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef RESIGNS
#define RESIGNS 0
#endif
#ifndef LEAVES
#define LEAVES 0
#endif
#ifndef JOBS
#define JOBS 2
#endif
#define N 3
#define OWNER 2
#define LINK(i, j) link[(i) * N + (j)]
#define C(i, j) c[(i) * N + (j)]
#define BIT(i) (1 << (i))
#define HEAD(job) ((job) - 1)         /* job 1 is started at keeper 0, job 2 at keeper 1 */
#define IN(mask, i) ((mask) & BIT(i))
#define WORD(i) (out[i] | leaving[i] << N) /* of a list: who is out, and who is to leave */
#define OWN_WORD(i) (IN(leaving[i], i) != 0) /* said by who joins */
#define TAKE_WORD(i, x) out[i] = (x) & (BIT(N) - 1); leaving[i] = leaving[i] | (x) >> N

mtype = { FOLLOW, SEEK, GATHER, LEAD, DEAD };
mtype = { JOIN, FRESH, WELCOME, LIST, FENCED, RESIGN, PROBE, ASK, RESERVE, RESERVED, FULL, GRANTED, GONE, RELEASE, RELEASED, DOWN };
mtype = { NONE, ASKED, HELD, REFUSED, LOST };

mtype st[N] = FOLLOW;
byte term[N] = 4, ldr[N], cand[N];
byte out[N];                           /* who is not of the pool, as far as i knows */
byte in[N];                            /* of a leader: who has joined */
byte leaving[N];                       /* who is to leave, as far as i knows: for ever */
bool link[N * N];                      /* as each end sees it */
bool broken[N * N];                    /* it has not noticed yet */
chan c[N * N] = [6] of { mtype, byte, byte }; /* kind, term, job or mask */
byte claim;                            /* the owner's: the job that holds the slot */
byte dir[N];                           /* a leader's: who it thinks holds it */
bool ending[N];                        /* a leader has told the owner to end what @dir says */
byte said[N];                          /* a leader: jobs whose heads say that they hold something */
mtype head[JOBS + 1] = NONE;
byte asked[JOBS + 1];                  /* the term in which it was asked for */
byte acted[64];                        /* who has acted in a term, + 1 */
byte probed[N * N];                     /* the term in which it was looked for */
bool is_sent[N];                       /* who seeks: it has asked */
byte kills, cuts, resigns, leaves;
bool cut;                              /* keeper 0 is cut off from the others */

#define REACH(i, j) (st[j] != DEAD && !(cut && ((i) == 0 || (j) == 0)))
#define ACT(i) assert(acted[term[i]] == 0 || acted[term[i]] == (i) + 1); acted[term[i]] = (i) + 1
#define NEXT(t, i) ((((t) / 4) + 1) * 4 + (i))
#define SEND(i, j, k, t, x) if :: LINK(i, j) && !broken[(i) * N + (j)] -> assert(nfull(C(i, j))); C(i, j)!k, t, x :: else fi

inline empty_both(i, j)
{
	do :: nempty(C(i, j)) -> C(i, j)?_, _, _ :: empty(C(i, j)) -> break od;
	do :: nempty(C(j, i)) -> C(j, i)?_, _, _ :: empty(C(j, i)) -> break od
}
inline snap(i, j) /* both ends will notice */
{
	empty_both(i, j);
	if :: LINK(i, j) -> broken[i * N + j] = true :: else fi;
	if :: LINK(j, i) -> broken[j * N + i] = true :: else fi
}
inline die(i, j) /* who is dead has no ends that would notice anything */
{
	snap(i, j); LINK(i, j) = false; broken[(i) * N + j] = false
}
inline close_all(i)
{
	k = 0;
	do
	:: k < N -> if :: k != i && LINK(i, k) -> snap(i, k); LINK(i, k) = false; broken[i * N + k] = false :: else fi; k++
	:: else -> break
	od
}
inline join(i, j, kind)
{
	if
	:: REACH(i, j) && !LINK(i, j) && !LINK(j, i) -> LINK(i, j) = true; LINK(j, i) = true
	:: else
	fi;
	SEND(i, j, kind, term[i], OWN_WORD(i))
}
/* the next to turn to: the lowest that may live; oneself leads */
inline seek(i)
{
	cand[i] = 0;
	do :: cand[i] < i && IN(out[i], cand[i]) -> cand[i]++ :: else -> break od;
	if
	:: cand[i] == i -> st[i] = GATHER; term[i] = NEXT(term[i], i); ldr[i] = i; in[i] = BIT(i); said[i] = 0; ending[i] = false;
		dir[i] = 0; tell_self(i)
	:: else -> st[i] = SEEK; is_sent[i] = false
	fi
}
inline tell_self(i)
{
	if :: i == OWNER -> dir[i] = claim :: else fi;
	if :: i < JOBS && head[i + 1] == HELD -> said[i] = said[i] | BIT(i + 1) :: else fi
}
inline orphans(i) /* what is held by jobs whose heads are not here is ended */
{
#ifndef BUG_NO_ORPHANS
	if
	:: dir[i] && !ending[i] && !IN(said[i], dir[i]) && !(asked[dir[i]] == term[i] && IN(in[i], HEAD(dir[i]))) ->
		ending[i] = true; SEND(i, OWNER, RELEASE, term[i], dir[i])
	:: else
	fi
#else
	skip
#endif
}
inline lead(i)
{
	st[i] = LEAD; ACT(i);
	out[i] = (BIT(N) - 1) & ~in[i];
	if :: IN(out[i], OWNER) -> dir[i] = 0 :: else fi;
	k = 0;
	do
	:: k < N -> if :: k != i && IN(in[i], k) -> SEND(i, k, WELCOME, term[i], WORD(i)) :: else fi; k++
	:: else -> break
	od;
#ifdef BUG_NOT_ASKED
	dir[i] = 0;
#endif
	orphans(i); ask(i)
}
inline bury(i, j) /* a leader's verdict */
{
	in[i] = in[i] & ~BIT(j); out[i] = out[i] | BIT(j);
	if :: j < JOBS -> said[i] = said[i] & ~BIT(j + 1) :: else fi;
	if :: j == OWNER -> dir[i] = 0; ending[i] = false :: else fi;
	if
	:: st[i] == LEAD ->
		orphans(i);
		publish(i)
	:: else
	fi
}
inline publish(i)
{
	k = 0;
	do
	:: k < N -> if :: k != i && IN(in[i], k) -> SEND(i, k, LIST, term[i], WORD(i)) :: else fi; k++
	:: else -> break
	od
}
/* it belongs to nobody's pool any more, and comes along under a new incarnation with what it owns */
inline fenced(i, j)
{
	close_all(i);
	if :: i < JOBS && (head[i + 1] == HELD ) -> head[i + 1] = LOST :: else fi;
	st[i] = SEEK; cand[i] = j; ldr[i] = i; is_sent[i] = false
}
inline ask(i) { if :: i < JOBS && head[i + 1] == ASKED -> SEND(i, ldr[i], ASK, term[i], i + 1) :: else fi }
inline follow(i, j, t, mask)
{
	st[i] = FOLLOW; ldr[i] = j; term[i] = t; TAKE_WORD(i, mask);
	ask(i)
}

inline take(i, j, kind, t, x)
{
	if
	:: kind == JOIN && (st[i] == LEAD || st[i] == GATHER) ->
		if
		:: IN(out[i], j) || t > term[i] -> SEND(i, j, FENCED, term[i], i)
		:: else -> in[i] = in[i] | BIT(j); joined(i, j, x)
		fi
	:: kind == JOIN && st[i] == FOLLOW -> SEND(i, j, FENCED, term[i], ldr[i]) /* only when @j is out: see the guard */
	:: kind == FRESH && (st[i] == LEAD || st[i] == GATHER) ->
		in[i] = in[i] | BIT(j); out[i] = out[i] & ~BIT(j); joined(i, j, x)
	:: kind == FRESH && st[i] == FOLLOW -> SEND(i, j, FENCED, term[i], ldr[i])
	:: kind == WELCOME && st[i] == SEEK && cand[i] == j -> follow(i, j, t, x)
	:: kind == LIST && st[i] == FOLLOW && ldr[i] == j && t == term[i] -> TAKE_WORD(i, x)
	:: kind == FENCED && st[i] == SEEK -> fenced(i, x)
	:: kind == FENCED && st[i] == LEAD && t > term[i] -> fenced(i, x)
	:: kind == PROBE && t > term[i] && st[i] == LEAD -> fenced(i, j)
	:: kind == PROBE && t < term[i] && (st[i] == LEAD || st[i] == FOLLOW) -> SEND(i, j, FENCED, term[i], ldr[i])
	:: kind == RESIGN && st[i] == FOLLOW && ldr[i] == j ->
		cand[i] = 0;
		do :: cand[i] < i && (IN(out[i], cand[i]) || cand[i] == j) -> cand[i]++ :: else -> break od;
		if
		:: cand[i] == i -> st[i] = GATHER; term[i] = NEXT(term[i], i); ldr[i] = i; in[i] = BIT(i); said[i] = 0;
			ending[i] = false; dir[i] = 0; tell_self(i)
		:: else -> st[i] = SEEK; is_sent[i] = false
		fi
	:: kind == DOWN && st[i] == FOLLOW && ldr[i] == j && t == term[i] ->
		assert(i != OWNER || !claim);
		if
		:: i < JOBS -> assert(head[i + 1] != HELD); if :: head[i + 1] == ASKED -> head[i + 1] = REFUSED :: else fi
		:: else
		fi;
		st[i] = DEAD; k = 0;
		do :: k < N -> if :: k != i -> die(i, k) :: else fi; k++ :: else -> break od
	/* slots */
	:: kind == ASK && st[i] == LEAD && IN(in[i], j) ->
		ACT(i);
		if
		:: dir[i] == x && !ending[i] -> grant(i, x)
		:: dir[i] == 0 && IN(in[i], OWNER) && !IN(leaving[i], OWNER) -> dir[i] = x; asked[x] = term[i]; SEND(i, OWNER, RESERVE, term[i], x)
		:: else -> SEND(i, HEAD(x), FULL, term[i], x)
		fi
	:: kind == RESERVE && t == term[i] && (st[i] == FOLLOW || st[i] == LEAD) ->
		if
		:: claim && claim != x -> SEND(i, j, FULL, t, x)
		:: else -> claim = x; SEND(i, j, RESERVED, t, x)
		fi
	:: kind == RESERVED && st[i] == LEAD && t == term[i] -> if :: dir[i] == x && !ending[i] -> grant(i, x) :: else fi
	:: kind == FULL && st[i] == LEAD && j == OWNER && HEAD(x) != i && t == term[i] ->
		if :: dir[i] == x -> dir[i] = 0 :: else fi; SEND(i, HEAD(x), FULL, t, x)
	:: kind == FULL && t == term[i] && (st[i] == FOLLOW || st[i] == LEAD) && i == HEAD(x) && head[x] == ASKED ->
		if :: st[i] == LEAD && dir[i] == x -> dir[i] = 0 :: else fi; head[x] = REFUSED
	:: kind == GRANTED && head[x] == ASKED && t == term[i] && (st[i] == FOLLOW || st[i] == LEAD) -> head[x] = HELD
	:: kind == GONE && st[i] == LEAD -> said[i] = said[i] & ~BIT(x);
		if :: dir[i] == x && !ending[i] -> ending[i] = true; SEND(i, OWNER, RELEASE, term[i], x) :: else fi
	:: kind == RELEASE && t == term[i] ->
		if
		:: claim == x ->
			/* whoever holds it has been cut off, or has let it go */
			claim = 0; if :: head[x] == HELD -> robbed(x) :: else fi
		:: else
		fi;
		SEND(i, j, RELEASED, t, x)
	:: kind == RELEASED && st[i] == LEAD && t == term[i] -> if :: dir[i] == x -> dir[i] = 0 :: else fi; ending[i] = false
	:: else /* late words */
	fi
}
inline robbed(x)
{
	/* a job may lose the slot when its head is dead, or has been apart from the owner */
	assert(st[HEAD(x)] == DEAD || kills + cuts > 0); /* one that left had none: see DOWN */
	head[x] = LOST
}
inline grant(i, x)
{
	said[i] = said[i] | BIT(x);
	SEND(i, HEAD(x), GRANTED, term[i], x)
}
inline joined(i, j, x)
{
	if :: x -> leaving[i] = leaving[i] | BIT(j) :: else fi;
	if :: j == OWNER -> dir[i] = claim :: else fi;
	if :: j < JOBS && head[j + 1] == HELD -> said[i] = said[i] | BIT(j + 1) :: else fi;
	if :: st[i] == LEAD -> SEND(i, j, WELCOME, term[i], WORD(i)); orphans(i) :: else fi
}
inline lost(i, j)
{
	LINK(i, j) = false; broken[i * N + j] = false; probed[i * N + j] = 0;
	if
	:: (st[i] == LEAD || st[i] == GATHER) && IN(in[i], j) -> bury(i, j)
	:: st[i] == FOLLOW && ldr[i] == j -> out[i] = out[i] | BIT(j); seek(i)
	:: st[i] == SEEK && cand[i] == j -> out[i] = out[i] | BIT(j); seek(i)
	:: else
	fi
}
/* a word can be answered now, and does not come from a connection that is over */
#define MAY(i, j) (nempty(C(j, i)) && !broken[(i) * N + (j)] && st[i] != DEAD && \
	!((C(j, i)?[JOIN, _, _]) && (st[i] == SEEK || (st[i] == FOLLOW && !IN(out[i], j)))) && \
	!((C(j, i)?[FRESH, _, _]) && (st[i] == SEEK || (st[i] == FOLLOW && ldr[i] == j))))
#define TAKE(i, j) atomic { MAY(i, j) -> C(j, i)?kind, t, x; take(i, j, kind, t, x) }
#define NOTICE(i, j) atomic { broken[(i) * N + (j)] && st[i] != DEAD -> lost(i, j) }
/* a seeker without a link to whom it seeks: connects, or finds nobody there */
#define CONNECT(i) atomic { st[i] == SEEK && !is_sent[i] && !broken[(i) * N + cand[i]] && !broken[cand[i] * N + (i)] -> \
	if \
	:: REACH(i, cand[i]) -> is_sent[i] = true; if :: ldr[i] == i -> join(i, cand[i], FRESH) :: else -> join(i, cand[i], JOIN) fi \
	:: !REACH(i, cand[i]) -> out[i] = out[i] | BIT(cand[i]); seek(i) \
	fi }
#define ALL_HERE(i) ((in[i] | out[i]) == BIT(N) - 1)
#define GATHERED(i) atomic { st[i] == GATHER && ALL_HERE(i) -> lead(i) }
/* the deadline of a successor: only for who cannot come, or had time enough */
#define DEADLINE(i) atomic { st[i] == GATHER && !ALL_HERE(i) && \
	(kills + cuts > 0 || (OVER(i, 0) && OVER(i, 1) && OVER(i, 2))) -> lead(i) }
#define OVER(i, j) (IN(in[i] | out[i], j) || st[j] == DEAD) /* not waited for; or it has left, and nobody had told us */
#ifdef BUG_NO_PROBE
#define PROBES(i, j) atomic { false -> skip }
#else
#define PROBES(i, j) atomic { st[i] == LEAD && IN(out[i], j) && REACH(i, j) && !broken[(i) * N + (j)] && \
	!broken[(j) * N + (i)] && probed[(i) * N + (j)] != term[i] && (st[j] == LEAD || st[j] == FOLLOW) && term[i] != term[j] -> \
	LINK(i, j) = true; LINK(j, i) = true; probed[(i) * N + (j)] = term[i]; SEND(i, j, PROBE, term[i], 0) }
#endif

#ifdef BUG_LEAVE_AT_ONCE
#define HAS(i, j) false
#else
#define HAS(i, j) (((j) == OWNER && dir[i]) || ((j) < JOBS && (IN(said[i], (j) + 1) || dir[i] == (j) + 1)))
#endif
#define LEAVE(i, j) atomic { leaves < LEAVES && st[i] == LEAD && (j) != (i) && IN(in[i], j) && !IN(leaving[i], j) -> \
	leaves++; leaving[i] = leaving[i] | BIT(j); publish(i) }
#define LEFT(i, j) atomic { st[i] == LEAD && (j) != (i) && IN(in[i], j) && IN(leaving[i], j) && !HAS(i, j) -> \
	ACT(i); SEND(i, j, DOWN, term[i], 0); in[i] = in[i] & ~BIT(j); out[i] = out[i] | BIT(j); publish(i) }

proctype keeper(byte i)
{
	mtype kind;
	byte t, x, k;

end:	do
	:: TAKE(i, 0)
	:: TAKE(i, 1)
	:: TAKE(i, 2)
	:: NOTICE(i, 0)
	:: NOTICE(i, 1)
	:: NOTICE(i, 2)
	:: CONNECT(i)
	:: GATHERED(i)
	:: DEADLINE(i)
	:: PROBES(i, 0)
	:: PROBES(i, 1)
	:: PROBES(i, 2)
	:: LEAVE(i, 0)
	:: LEAVE(i, 1)
	:: LEAVE(i, 2)
	:: LEFT(i, 0)
	:: LEFT(i, 1)
	:: LEFT(i, 2)
	/* a job asks, and ends */
	:: atomic { i < JOBS && head[i + 1] == NONE && (st[i] == FOLLOW || st[i] == LEAD) -> head[i + 1] = ASKED; ask(i) }
	:: atomic { i < JOBS && head[i + 1] == HELD && (st[i] == FOLLOW || st[i] == LEAD) ->
		head[i + 1] = LOST; SEND(i, ldr[i], GONE, term[i], i + 1) }
	/* faults */
	:: atomic { kills < KILLS && i != OWNER && st[i] != DEAD -> kills++; st[i] = DEAD; k = 0;
		do :: k < N -> if :: k != i -> die(i, k) :: else fi; k++ :: else -> break od }
	:: atomic { resigns < RESIGNS && i == 0 && st[0] == LEAD && IN(in[0], 1) ->
		resigns++; SEND(0, 1, RESIGN, term[0], 0);
		if :: IN(in[0], 2) -> SEND(0, 2, RESIGN, term[0], 0) :: else fi;
		st[0] = SEEK; cand[0] = 1; ldr[0] = 1; is_sent[0] = false }
	od
}

init
{
	byte i, x, t;

	atomic { /* the pool stands: keeper 0 leads */
		st[0] = LEAD; in[0] = BIT(0) | BIT(1) | BIT(2); acted[4] = 1;
#ifdef ADD
		in[0] = BIT(0) | BIT(2); out[0] = BIT(1); out[2] = BIT(1);
		st[1] = SEEK; ldr[1] = 1; term[1] = 0; is_sent[1] = false
#endif
		for (i : 0 .. N - 1) { LINK(i, i) = true; run keeper(i) }
		LINK(0, 2) = true; LINK(2, 0) = true;
#ifndef ADD
		LINK(0, 1) = true; LINK(1, 0) = true
#endif
	}
	do
	:: atomic { cuts < CUTS && !cut -> cuts++; cut = true; snap(0, 1); snap(0, 2) }
	:: atomic { cut -> cut = false }
	:: timeout -> break
	od;
	atomic { /* nothing moves any more: one leader, and all that live follow it */
		x = 0;
		for (i : 0 .. N - 1) { if :: st[i] == LEAD -> x++; t = i :: else fi }
		assert(x == 1);
		for (i : 0 .. N - 1) { assert(st[i] == DEAD || (term[i] == term[t] && ldr[i] == t && IN(in[t], i))) }
		assert(!claim || (st[HEAD(claim)] != DEAD && head[claim] == HELD));
		for (i : 0 .. N - 1) { assert(st[i] == DEAD || i == t || !IN(leaving[t], i) || (i == OWNER && claim) ||
			(i < JOBS && head[i + 1] == HELD)) }
		for (i : 1 .. JOBS) { assert(st[HEAD(i)] == DEAD || head[i] != ASKED) }
	}
}
