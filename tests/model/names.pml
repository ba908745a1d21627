/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * News of a name: a rank of one host moves to another and back, moves fail and it attaches again, and at last it may end; its
 * owners tell the head, each over its own link, and the head tells the daemons of the other hosts, each over its own link. A
 * third host has two daemons, which write into one page. Links are slow, not unordered; a daemon of the third host may die.
 * In the end the page of every host must name where the rank listens, or that it has gone: who looks there connects to it.
 *
 * BUG_PAGE_LAST: a page takes what comes last, whatever its epoch
 * BUG_PAGE_EPOCH_ONLY: of one epoch a page takes what comes last, whatever its incarnation
 * BUG_ONE_DAEMON: the head tells one daemon of a host only
 */
#ifndef MOVES
#define MOVES 2
#endif
#ifndef STAYS
#define STAYS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define CAP 5

mtype = { HERE, GONE };
typedef news { mtype state; byte epoch, inc, host }

/* hosts 0 and 1: where it lives, daemons 0 and 1. Host 2: daemons 2 and 3, who only hear */
chan up0 = [CAP] of { mtype, byte, byte, byte };
chan up1 = [CAP] of { mtype, byte, byte, byte };
chan down[4] = [CAP] of { mtype, byte, byte, byte };
news page[3];
news head;
bool is_dead[4];
byte moves, stays, deaths, host, epoch = 1, inc = 1;
bool is_over;

#define HEAD_IS_LATE(e, i) (head.epoch > e || head.inc > i)
#ifdef BUG_PAGE_LAST
#define PAGE_IS_LATE(h, e, i) false
#else
#ifdef BUG_PAGE_EPOCH_ONLY
#define PAGE_IS_LATE(h, e, i) (page[h].epoch > e)
#else
#define PAGE_IS_LATE(h, e, i) (page[h].epoch > e || (page[h].epoch == e && (page[h].inc > i || \
	(page[h].inc == i && page[h].state == GONE))))
#endif
#endif

inline put(h, s, e, i, at)
{
	page[h].state = s; page[h].epoch = e; page[h].inc = i; page[h].host = at
}

/* its owner writes into its own page, and tells the head */
inline publish(s)
{
	put(host, s, epoch, inc, host);
	if
	:: host == 0 -> up0!s, epoch, inc, 0
	:: else -> up1!s, epoch, inc, 1
	fi
}

inline pass_on(s, e, i, at)
{
	if
	:: HEAD_IS_LATE(e, i)
	:: else ->
		head.epoch = e; head.inc = i;
		down[1 - at]!s, e, i, at;
		if :: !is_dead[2] -> down[2]!s, e, i, at :: else fi;
#ifndef BUG_ONE_DAEMON
		if :: !is_dead[3] -> down[3]!s, e, i, at :: else fi
#endif
	fi
}

#define ROOM (nfull(up0) && nfull(up1))
#define DOWN_ROOM (nfull(down[0]) && nfull(down[1]) && nfull(down[2]) && nfull(down[3]))
#define HEARS(d, h) \
	:: atomic { !is_dead[d] && nempty(down[d]) -> down[d]?s, e, i, at; \
		if :: PAGE_IS_LATE(h, e, i) :: else -> put(h, s, e, i, at) fi; \
		s = 0; e = 0; i = 0; at = 0 }

active proctype world()
{
	mtype s;
	byte e, i, at, k;

	atomic { publish(HERE) }
end:	do
	:: atomic { !is_over && moves < MOVES && ROOM -> moves++; host = 1 - host; epoch++; inc++; publish(HERE) }
	:: atomic { !is_over && stays < STAYS && ROOM -> stays++; inc++; publish(HERE) }
	:: atomic { !is_over && ROOM -> is_over = true; if :: true -> publish(GONE) :: true fi }
	:: atomic { nempty(up0) && DOWN_ROOM -> up0?s, e, i, at; pass_on(s, e, i, at); s = 0; e = 0; i = 0; at = 0 }
	:: atomic { nempty(up1) && DOWN_ROOM -> up1?s, e, i, at; pass_on(s, e, i, at); s = 0; e = 0; i = 0; at = 0 }
	HEARS(0, 0)
	HEARS(1, 1)
	HEARS(2, 2)
	HEARS(3, 2)
	:: atomic { deaths < DEATHS && !is_dead[2] && !is_dead[3] -> deaths++;
		if :: true -> is_dead[2] = true; k = 2 :: true -> is_dead[3] = true; k = 3 fi;
		do :: nempty(down[k]) -> down[k]?_, _, _, _ :: empty(down[k]) -> break od; k = 0 }
	:: deaths < DEATHS -> deaths++
	:: timeout -> atomic {
		k = 0;
		do
		:: k < 3 ->
			assert(page[k].epoch == epoch && page[k].inc == inc && page[k].host == host &&
			       page[k].state == page[host].state);
			k++
		:: else -> break
		od;
		break }
	od
}
