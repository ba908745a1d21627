/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The move of a rank between daemons: sessions, the commit point READY -> GIVEN, TAKEN, NEVER, ASK, crashes, cut links.
 *
 * Names are those of migration/session.c. One step of a daemon is one callback of its loop; a crash inside a callback
 * is the same as a crash after it with its messages lost, and a cut may lose any queue. Sessions are numbered in the
 * order of their start; any daemon that runs a rank may be asked to move it anywhere at any time, so the model holds
 * two movers at once, a rank that moves on at once (A->B->C), comes straight back (A->B->A), and with RANKS=2 ranks
 * that pass each other. Everything that can repeat is bounded (sessions, cuts, crashes, restarts), so every run ends,
 * which the search for cycles proves, and where it ends settled() must hold: eventual delivery without fairness.
 *
 * The image of a frozen rank carries the rank's generation: how often it has been let run. Thawing an image that is not
 * of the present generation would undo what the rank has done since, which is as wrong as a second copy.
 *
 * With POST=1 each session may be one whose rank runs at the destination before all of its pages are there: the source
 * keeps its frozen copy and serves it (S_SERVE), the destination asks again after a lost link, and only when nothing is
 * missing any more may the copy go, or the rank be asked to move on. Two askings stand for all pages.
 *
 * BUG_x removes one rule each; every one of those must be found by the search (tests/model/check-model).
 */
#ifndef RANKS
#define RANKS 1
#endif
#ifndef SESSIONS
#define SESSIONS 2
#endif
#ifndef CUTS
#define CUTS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef EXITS
#define EXITS 0
#endif
#ifndef POST
#define POST 0
#endif
#define DAEMONS 3

mtype = { PREPARE, PREPARED, REFUSED, DATA, END, READY, GIVEN, TAKEN, NEVER, ASK, ABORT, DONE, WANT, PAGES, FETCHED, GONE };

/* the source's states, then the destination's */
#define S_NONE     0
#define S_PREPARE  1
#define S_QUIESCE  2
#define S_SEND     3   /* frozen; the image goes out, READY is awaited */
#define S_GIVEN    4
#define S_SERVE    5   /* it lives there; pages are served from the frozen copy */
#define S_TAKEN    6   /* ends */
#define S_ABORTED  7   /* ends */
#define S_LOST     8   /* ends */
#define S_DEAD     9   /* the daemon died: nobody remembers */

#define D_NONE     0
#define D_FILLING  1   /* a shell exists */
#define D_READY    2
#define D_FETCH    3   /* thawed; pages are missing */
#define D_TAKEN    4   /* thawed; DONE is awaited */
#define D_NEVER    5   /* ends: discarded, and GIVEN will be answered by NEVER */
#define D_DONE     6   /* ends: the record is forgotten */
#define D_DEAD     7

/* a rank's copy at a daemon */
#define C_NONE     0
#define C_RUNNING  1
#define C_FROZEN   2
#define C_SHELL    3
#define C_RAN_ON   4   /* its daemon is dead and it runs: what PTRACE_O_EXITKILL prevents */

#define COPY(d, r) copy[(d) * RANKS + (r)]

byte copy[DAEMONS * RANKS];
byte epoch[DAEMONS * RANKS];
byte image[SESSIONS];             /* generation in the image of a session */
byte gen[RANKS];                  /* ghost: how often the rank was let run */
bool excused[RANKS];              /* ghost: a daemon that owned it died, or it exited by itself */

bool dead[DAEMONS];
byte inc[DAEMONS];                /* incarnation */
byte dir_at[RANKS], dir_epoch[RANKS];      /* the directory */
byte told_epoch[DAEMONS * RANKS];          /* on its way from a daemon to the head; 0: nothing */
byte told_inc[DAEMONS * RANKS];

byte n_sessions;
byte s_rank[SESSIONS], s_src[SESSIONS], s_dst[SESSIONS], s_epoch[SESSIONS];
byte s_srcinc[SESSIONS], s_dstinc[SESSIONS];
byte ss[SESSIONS], ds[SESSIONS];
byte left[SESSIONS];              /* data frames not yet sent */
bool post[SESSIONS];              /* it runs there before all pages are there */
byte missing[SESSIONS];           /* askings until nothing is missing any more */
bool asked[SESSIONS];             /* the answer to one is awaited */
bool up[SESSIONS];                /* the connection as it is */
bool sup[SESSIONS], dup[SESSIONS];/* as the source and the destination believe */
byte cuts, crashes, restarts, exits;

#ifdef BUG_BLOCKING_SEND
#define ROOM 1
#else
#define ROOM 6
#endif
chan to_dst[SESSIONS] = [ROOM] of { mtype };
chan to_src[SESSIONS] = [6] of { mtype, byte };

inline check_copies(r)
{
	c_n = 0;
	c_i = 0;
	do
	:: c_i < DAEMONS ->
		if
		:: COPY(c_i, r) == C_RUNNING || COPY(c_i, r) == C_RAN_ON -> c_n++
		:: else
		fi;
		c_i++
	:: else -> break
	od;
	c_i = 0;
	assert(c_n <= 1);
	c_n = 0
}

/* gw_link_send: it queues, it never waits, and a link that is down swallows it */
inline send_dst(s, m)
{
	if
#ifdef BUG_BLOCKING_SEND
	:: up[s] && sup[s] -> to_dst[s]!m
#else
	:: up[s] && sup[s] && len(to_dst[s]) < ROOM -> to_dst[s]!m
	:: up[s] && sup[s] && len(to_dst[s]) >= ROOM -> assert(false)
#endif
	:: else
	fi
}
inline send_src(s, m)
{
	if
	:: up[s] && dup[s] && len(to_src[s]) < 6 -> to_src[s]!m(inc[s_dst[s]])
	:: up[s] && dup[s] && len(to_src[s]) >= 6 -> assert(false)
	:: else
	fi
}

inline flush_dst(s) { do :: nempty(to_dst[s]) -> to_dst[s]?_ :: empty(to_dst[s]) -> break od }
inline flush_src(s) { do :: nempty(to_src[s]) -> to_src[s]?_,_ :: empty(to_src[s]) -> break od }

inline run_rank(d, r)
{
	COPY(d, r) = C_RUNNING;
	gen[r]++;
	check_copies(r)
}

inline tell_head(d, r)
{
	told_epoch[(d) * RANKS + r] = epoch[(d) * RANKS + r];
	told_inc[(d) * RANKS + r] = inc[d]
}

/* before GIVEN: the rank goes on here, as before */
inline abort_here(s, d)
{
	if
	:: COPY(d, s_rank[s]) == C_FROZEN -> assert(image[s] == gen[s_rank[s]]); run_rank(d, s_rank[s])
	:: else
	fi;
	send_dst(s, ABORT);
	ss[s] = S_ABORTED;
	sup[s] = false; up[s] = false
}

inline abort_here_exited(s) { send_dst(s, ABORT); ss[s] = S_ABORTED; sup[s] = false; up[s] = false }

inline taken_here(s, d)
{
	if
	:: COPY(d, s_rank[s]) == C_FROZEN -> COPY(d, s_rank[s]) = C_NONE
	:: else
	fi;
	ss[s] = S_TAKEN;
	send_dst(s, DONE)
}

/* nothing will be asked for any more, or nobody is left to ask: the frozen copy goes */
inline serve_here(s)
{
	ss[s] = S_SERVE
#ifdef BUG_RELEASE_AT_TAKEN
	; taken_here(s, s_src[s])
#endif
}

/* the pages that are missing will never come: the rank ends */
inline starve(s, d)
{
#ifndef BUG_RUN_ON_STARVED
	if
	:: COPY(d, s_rank[s]) == C_RUNNING -> COPY(d, s_rank[s]) = C_NONE; excused[s_rank[s]] = true
	:: else
	fi;
	missing[s] = 0;
#endif
	ds[s] = D_DONE
}

inline discard(s, d)
{
	if
	:: COPY(d, s_rank[s]) == C_SHELL -> COPY(d, s_rank[s]) = C_NONE
	:: else
	fi;
	ds[s] = D_NEVER
}

inline thaw(s, d)
{
	assert(COPY(d, s_rank[s]) == C_SHELL);
	assert(image[s] == gen[s_rank[s]]);
	epoch[(d) * RANKS + s_rank[s]] = s_epoch[s] + 1;
	run_rank(d, s_rank[s]);
	if
	:: post[s] -> ds[s] = D_FETCH; missing[s] = 2; asked[s] = false
	:: else -> ds[s] = D_TAKEN
	fi;
	tell_head(d, s_rank[s])
}

/* PREPARE at the destination: an older session of the same rank can never be given any more */
inline prepare(s, d)
{
	c_i = 0;
	do
	:: c_i < n_sessions ->
		if
		:: c_i != s && s_rank[c_i] == s_rank[s] && s_dst[c_i] == d && s_dstinc[c_i] == inc[d] &&
		   (ds[c_i] == D_FILLING || ds[c_i] == D_READY) &&
		   (s_epoch[c_i] < s_epoch[s] || (s_src[c_i] == s_src[s] && c_i < s)) -> discard(c_i, d)
		:: else
		fi;
		if
		:: c_i != s && s_rank[c_i] == s_rank[s] && s_src[c_i] == d && s_srcinc[c_i] == inc[d] &&
		   (ss[c_i] == S_GIVEN || ss[c_i] == S_SERVE) && s_epoch[s] > s_epoch[c_i] ->
			/* it comes back before we heard that it had arrived: that is as good as TAKEN */
			c_n = c_i; taken_here(c_n, d); c_n = 0
		:: else
		fi;
		c_i++
	:: else -> break
	od;
	c_i = 0;
	if
	:: COPY(d, s_rank[s]) == C_NONE ->
		COPY(d, s_rank[s]) = C_SHELL; ds[s] = D_FILLING; send_src(s, PREPARED)
	:: else -> ds[s] = D_NEVER; send_src(s, REFUSED)
	fi
}

inline src_gets(s, d, m, i)
{
	if
	:: m == PREPARED && ss[s] == S_PREPARE -> ss[s] = S_QUIESCE
	:: m == READY && ss[s] == S_SEND ->
		/* READY may have been read out of the socket of a daemon that is dead by now: look before the step */
		if
#ifndef BUG_NO_HANGUP_CHECK
		:: !up[s] -> abort_here(s, d)
#endif
		:: else ->
			ss[s] = S_GIVEN;    /* the commit point: recorded, then sent */
			send_dst(s, GIVEN)
		fi
	:: (m == REFUSED || m == NEVER) && ss[s] >= S_PREPARE && ss[s] <= S_SEND -> abort_here(s, d)
	:: m == TAKEN && ss[s] == S_GIVEN ->
		if
		:: post[s] -> serve_here(s)
		:: else -> taken_here(s, d)
		fi
	:: m == TAKEN && ss[s] != S_GIVEN && ss[s] != S_SERVE -> send_dst(s, DONE)
	:: m == WANT && (ss[s] == S_SERVE || ss[s] == S_GIVEN) -> /* TAKEN was lost: this is as good */
		ss[s] = S_SERVE;
		if
		:: COPY(d, s_rank[s]) == C_FROZEN -> send_dst(s, PAGES)
		:: else -> send_dst(s, GONE); ss[s] = S_LOST   /* killed while it stood still: nothing can be read */
		fi
	:: m == FETCHED && (ss[s] == S_GIVEN || ss[s] == S_SERVE) -> taken_here(s, d)
	:: m == FETCHED && ss[s] != S_GIVEN && ss[s] != S_SERVE -> send_dst(s, DONE)
#ifdef BUG_NEVER_ANY_INCARNATION
	:: m == NEVER && ss[s] == S_GIVEN ->
#else
	:: m == NEVER && ss[s] == S_GIVEN && i == s_dstinc[s] ->
#endif
		ss[s] = S_ABORTED;
		if
		:: COPY(d, s_rank[s]) == C_FROZEN ->
			assert(image[s] == gen[s_rank[s]]);
			epoch[(d) * RANKS + s_rank[s]] = s_epoch[s] + 2;
			run_rank(d, s_rank[s]);
			tell_head(d, s_rank[s])
		:: else -> excused[s_rank[s]] = true  /* it was killed while it stood still: it has exited */
		fi
	:: m == ASK && ss[s] == S_GIVEN -> send_dst(s, GIVEN)
	:: m == WANT && (ss[s] == S_LOST || ss[s] == S_DEAD) -> send_dst(s, GONE)
	:: m == ASK && (ss[s] == S_ABORTED || ss[s] == S_LOST || ss[s] == S_DEAD) -> send_dst(s, ABORT)
	:: m == ASK && ss[s] == S_TAKEN -> send_dst(s, DONE)
	:: else  /* counted, logged, refused */
	fi
}

#ifdef BUG_ASK_ONCE
#define ASK_AGAIN(s) skip
#else
#define ASK_AGAIN(s) asked[s] = false
#endif
inline dst_gets(s, d, m)
{
	if
	:: m == PREPARE && ds[s] == D_NONE -> prepare(s, d)
	:: m == END && ds[s] == D_FILLING -> ds[s] = D_READY; send_src(s, READY)
	:: m == ABORT && (ds[s] == D_FILLING || ds[s] == D_READY) -> discard(s, d)
	:: m == GIVEN && ds[s] == D_READY ->
		thaw(s, d);
		send_src(s, TAKEN);
#ifdef BUG_FORGET_TAKEN
		ds[s] = D_NEVER
#endif
	:: m == GIVEN && ds[s] == D_TAKEN -> if :: post[s] -> send_src(s, FETCHED) :: else -> send_src(s, TAKEN) fi
	:: m == GIVEN && ds[s] == D_FETCH -> ASK_AGAIN(s); send_src(s, TAKEN) /* the link is a new one */
	:: m == PAGES && ds[s] == D_FETCH && asked[s] ->
		missing[s]--; asked[s] = false;
		if
		:: missing[s] == 0 -> ds[s] = D_TAKEN; send_src(s, FETCHED)
		:: else
		fi
	:: m == GONE && ds[s] == D_FETCH -> starve(s, d)
	:: m == GIVEN && (ds[s] == D_NONE || ds[s] == D_NEVER || ds[s] == D_DEAD) -> send_src(s, NEVER)
	:: m == DONE && ds[s] == D_TAKEN -> ds[s] = D_DONE
	:: else
	fi
}

/* the head's verdict on the peer of session s reaches its source, or its destination */
inline src_peer_dead(s, d)
{
	if
	:: ss[s] >= S_PREPARE && ss[s] <= S_SEND -> abort_here(s, d)
	:: ss[s] == S_GIVEN || ss[s] == S_SERVE ->
		ss[s] = S_LOST;
		if
		:: COPY(d, s_rank[s]) == C_FROZEN -> COPY(d, s_rank[s]) = C_NONE
		:: else
		fi
	fi
}
inline dst_peer_dead(s, d)
{
	if
#ifdef BUG_THAW_WHEN_SOURCE_DEAD
	:: ds[s] == D_READY -> thaw(s, d)
	:: ds[s] == D_FILLING -> discard(s, d)
#else
	:: ds[s] == D_FILLING || ds[s] == D_READY -> discard(s, d)
#endif
	:: ds[s] == D_TAKEN -> ds[s] = D_DONE
	:: ds[s] == D_FETCH -> starve(s, d)
	fi
}

#define PEER_IS_DEAD(p, i) (dead[p] || inc[p] != (i))
#define SRC_IS_ME(s) (s < n_sessions && s_src[s] == d && s_srcinc[s] == inc[d] && ss[s] != S_DEAD)
#define DST_IS_ME(s) (s < n_sessions && s_dst[s] == d)

#ifdef BUG_TWO_SESSIONS
#define IS_MOVING(d, r) false
#else
#define HOLDS(s, d, r) (n_sessions > s && s_rank[s] == r && s_src[s] == d && ss[s] >= S_PREPARE && ss[s] <= S_GIVEN)
#ifdef BUG_MOVE_WHILE_FETCHING
#define FETCHES(s, d, r) false
#else
#define FETCHES(s, d, r) (n_sessions > s && s_rank[s] == r && s_dst[s] == d && s_dstinc[s] == inc[d] && ds[s] == D_FETCH)
#endif
#if SESSIONS > 2
#define IS_MOVING(d, r) (FETCHES(0, d, r) || FETCHES(1, d, r) || HOLDS(0, d, r) || HOLDS(1, d, r))
#elif SESSIONS > 1
#define IS_MOVING(d, r) (FETCHES(0, d, r) || HOLDS(0, d, r))
#else
#define IS_MOVING(d, r) false
#endif
#endif

#define START(r, to) \
	:: atomic { !dead[d] && n_sessions < SESSIONS && COPY(d, r) == C_RUNNING && !IS_MOVING(d, r) && !dead[to] -> \
		s = n_sessions; \
		s_rank[s] = r; s_src[s] = d; s_dst[s] = to; s_epoch[s] = epoch[d * RANKS + r]; \
		s_srcinc[s] = inc[d]; s_dstinc[s] = inc[s_dst[s]]; \
		up[s] = true; sup[s] = true; dup[s] = true; \
		ss[s] = S_PREPARE; \
		if :: true :: POST -> post[s] = true fi; \
		n_sessions++; \
		send_dst(s, PREPARE); \
		s = 0 }

proctype godwitd(byte d)
{
	byte s, c_n, c_i, i;
	mtype m;

end:	do
	/* a request: anywhere, at any time; refused while a session of this rank is not over */
	START(0, (d + 1) % DAEMONS)
	START(0, (d + 2) % DAEMONS)
#if RANKS > 1
	START(1, (d + 1) % DAEMONS)
	START(1, (d + 2) % DAEMONS)
#endif

	/* everything below is about one session */
#define EVENTS(s) \
	:: atomic { !dead[d] && SRC_IS_ME(s) && nempty(to_src[s]) -> \
		to_src[s]?m(i); src_gets(s, d, m, i); m = 0; i = 0 } \
	:: atomic { !dead[d] && DST_IS_ME(s) && nempty(to_dst[s]) -> to_dst[s]?m; dst_gets(s, d, m); m = 0 } \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] == S_QUIESCE -> QUIET(s) } \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] == S_SEND && left[s] > 1 && CAN_SEND(s) && sup[s] -> \
		left[s]--; SEND_DATA(s, DATA) } \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] == S_SEND && left[s] == 1 && CAN_SEND(s) && sup[s] -> \
		left[s]--; SEND_DATA(s, END) } \
	/* TIMEOUT, a failing step, cancel: at any moment before GIVEN */ \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] >= S_PREPARE && ss[s] <= S_SEND -> abort_here(s, d) } \
	TIMEOUT_AFTER_GIVEN(s) \
	:: atomic { !dead[d] && DST_IS_ME(s) && (ds[s] == D_FILLING || ds[s] == D_READY) -> \
		discard(s, d); send_src(s, NEVER) } \
	/* PEER_LOST: read to the end, then see it closed */ \
	:: atomic { !dead[d] && SRC_IS_ME(s) && sup[s] && !up[s] && empty(to_src[s]) -> sup[s] = false; \
		if \
		:: ss[s] >= S_PREPARE && ss[s] <= S_SEND -> abort_here(s, d) \
		:: else \
		fi } \
	:: atomic { !dead[d] && DST_IS_ME(s) && dup[s] && !up[s] && empty(to_dst[s]) -> dup[s] = false; \
		if \
		:: ds[s] == D_FILLING -> discard(s, d) \
		:: else \
		fi } \
	/* reconnect: the source repeats GIVEN, the destination asks or repeats TAKEN; the old connection is gone */ \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] == S_GIVEN && !sup[s] && !dead[s_dst[s]] -> \
		flush_src(s); sup[s] = true; up[s] = true; dup[s] = true; send_dst(s, GIVEN) } \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] == D_READY && !dup[s] && !dead[s_src[s]] -> \
		flush_dst(s); dup[s] = true; up[s] = true; sup[s] = true; send_src(s, ASK) } \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] == D_TAKEN && !dup[s] && !dead[s_src[s]] -> \
		flush_dst(s); dup[s] = true; up[s] = true; sup[s] = true; \
		if :: post[s] -> send_src(s, FETCHED) :: else -> send_src(s, TAKEN) fi } \
	/* pages: asked for one after another, again after a lost link; the end of a rank ends the asking */ \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] == D_FETCH && !dup[s] && !dead[s_src[s]] -> \
		flush_dst(s); dup[s] = true; up[s] = true; sup[s] = true; ASK_AGAIN(s); send_src(s, TAKEN) } \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] == D_FETCH && dup[s] && up[s] && !asked[s] && len(to_src[s]) < 3 -> \
		asked[s] = true; send_src(s, WANT) } \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] == D_FETCH && COPY(d, s_rank[s]) != C_RUNNING -> \
		missing[s] = 0; ds[s] = D_TAKEN; send_src(s, FETCHED) } \
	/* a restarted source knows nothing of the session, and says so */ \
	:: atomic { !dead[d] && s < n_sessions && s_src[s] == d && s_srcinc[s] != inc[d] && nempty(to_src[s]) -> \
		to_src[s]?m(i); \
		if \
		:: m == ASK -> send_dst(s, ABORT) \
		:: m == TAKEN || m == FETCHED -> send_dst(s, DONE) \
		:: else \
		fi; m = 0; i = 0 } \
	/* the head's verdicts */ \
	:: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] >= S_PREPARE && ss[s] <= S_SERVE && \
		PEER_IS_DEAD(s_dst[s], s_dstinc[s]) -> src_peer_dead(s, d) } \
	:: atomic { !dead[d] && DST_IS_ME(s) && ds[s] >= D_FILLING && ds[s] <= D_TAKEN && \
		PEER_IS_DEAD(s_src[s], s_srcinc[s]) -> dst_peer_dead(s, d) }

#define FREEZE(s) \
		if \
		:: COPY(d, s_rank[s]) == C_RUNNING -> \
			c_i = 0; \
			do \
			:: c_i < n_sessions -> \
				assert(!(s_rank[c_i] == s_rank[s] && s_dst[c_i] == d && ds[c_i] == D_FETCH)); /* its image would be incomplete */ \
				c_i++ \
			:: else -> break \
			od; \
			c_i = 0; \
			COPY(d, s_rank[s]) = C_FROZEN; image[s] = gen[s_rank[s]]; left[s] = 2; ss[s] = S_SEND \
		:: else -> abort_here(s, d) \
		fi
#define QUIET(s) FREEZE(s)
#ifdef BUG_BLOCKING_SEND
#define CAN_SEND(s) true
#define SEND_DATA(s, m) to_dst[s]!m
#else
#define CAN_SEND(s) (len(to_dst[s]) < 1)
#define SEND_DATA(s, m) send_dst(s, m)
#endif
#ifdef BUG_TIMEOUT_AFTER_GIVEN
#define TIMEOUT_AFTER_GIVEN(s) :: atomic { !dead[d] && SRC_IS_ME(s) && ss[s] == S_GIVEN -> abort_here(s, d) }
#else
#define TIMEOUT_AFTER_GIVEN(s)
#endif
	EVENTS(0)
#if SESSIONS > 1
	EVENTS(1)
#endif
#if SESSIONS > 2
	EVENTS(2)
#endif

	/* the rank ends by itself, or is killed while it stands still */
	:: atomic { !dead[d] && exits < EXITS && (COPY(d, 0) == C_RUNNING || COPY(d, 0) == C_FROZEN) ->
		exits++;
		if
		:: COPY(d, 0) == C_RUNNING -> excused[0] = true
		:: else
		fi;
		COPY(d, 0) = C_NONE;
		c_i = 0;
		do
		:: c_i < n_sessions ->
			if
			:: s_rank[c_i] == 0 && s_src[c_i] == d && s_srcinc[c_i] == inc[d] &&
			   ss[c_i] >= S_PREPARE && ss[c_i] <= S_SEND ->
				excused[0] = true;
				c_n = c_i; abort_here_exited(c_n); c_n = 0
			:: else
			fi;
			c_i++
		:: else -> break
		od;
		c_i = 0 }
	od
}

inline excuse_unless_alive(x)
{
	if
	:: COPY(0, x) != C_RUNNING && COPY(1, x) != C_RUNNING && COPY(2, x) != C_RUNNING -> excused[x] = true
	:: else
	fi
}

/* kill -9 of a daemon: its ranks die with it, stopped or not; its links close, what it had sent may still be read */
inline crash(d)
{
	crashes++;
	dead[d] = true;
	r = 0;
	do
	:: r < RANKS ->
		if
		:: COPY(d, r) == C_RUNNING -> COPY(d, r) = C_NONE; excused[r] = true
		:: COPY(d, r) == C_FROZEN ->
			/* given away but not known to have arrived, or not given at all: both end the rank */
#ifdef BUG_NO_EXITKILL
			COPY(d, r) = C_RAN_ON; gen[r]++; excused[r] = true; check_copies(r)
#else
			COPY(d, r) = C_NONE; excuse_unless_alive(r)
#endif
		:: COPY(d, r) == C_SHELL -> COPY(d, r) = C_NONE
		:: else
		fi;
		r++
	:: else -> break
	od;
	r = 0;
	s = 0;
	do
	:: s < n_sessions ->
		if
		:: s_src[s] == d && s_srcinc[s] == inc[d] && ss[s] != S_NONE ->
			if
			:: ss[s] == S_GIVEN || ss[s] == S_SERVE -> excuse_unless_alive(s_rank[s])
			:: else
			fi;
			ss[s] = S_DEAD; up[s] = false; sup[s] = false; flush_src(s); left[s] = 0;
			if :: true :: flush_dst(s) fi
		:: s_dst[s] == d && s_dstinc[s] == inc[d] ->
			if
			:: ss[s] == S_GIVEN -> excuse_unless_alive(s_rank[s])
			:: else
			fi;
			ds[s] = D_DEAD; up[s] = false; dup[s] = false; flush_dst(s);
			if :: true :: flush_src(s) fi
		:: else
		fi;
		s++
	:: else -> break
	od;
	s = 0
}

proctype world()
{
	byte s, r, c_n, c_i;

end:	do
	/* the head hears of arrivals, in any order between daemons; the highest epoch wins */
#define HEAR(d, r) \
	:: atomic { told_epoch[(d) * RANKS + r] != 0 -> \
		if \
		:: NEWER(d, r) -> dir_at[r] = d; dir_epoch[r] = told_epoch[(d) * RANKS + r] \
		:: else \
		fi; \
		told_epoch[(d) * RANKS + r] = 0; told_inc[(d) * RANKS + r] = 0 }
#ifdef BUG_DIRECTORY_LAST
#define NEWER(d, r) true
#else
#define NEWER(d, r) told_epoch[(d) * RANKS + r] > dir_epoch[r]
#endif
	HEAR(0, 0)
	HEAR(1, 0)
	HEAR(2, 0)
#if RANKS > 1
	HEAR(0, 1)
	HEAR(1, 1)
	HEAR(2, 1)
#endif
	/* a connection breaks; what was on its way may be lost, on either side */
#define CUT(s) \
	:: atomic { cuts < CUTS && s < n_sessions && up[s] -> \
		cuts++; up[s] = false; \
		if :: true :: flush_dst(s) fi; \
		if :: true :: flush_src(s) fi }
	CUT(0)
#if SESSIONS > 1
	CUT(1)
#endif
#if SESSIONS > 2
	CUT(2)
#endif
	/* or it stays away */
	:: cuts < CUTS -> cuts++
	:: crashes < CRASHES -> crashes++
	:: restarts < RESTARTS -> restarts++
	:: exits < EXITS -> exits++

	:: atomic { crashes < CRASHES && !dead[0] -> crash(0) }
	:: atomic { crashes < CRASHES && !dead[1] -> crash(1) }
	:: atomic { crashes < CRASHES && !dead[2] -> crash(2) }
	:: atomic { restarts < RESTARTS && dead[0] -> restarts++; dead[0] = false; inc[0]++ }
	:: atomic { restarts < RESTARTS && dead[1] -> restarts++; dead[1] = false; inc[1]++ }
	:: atomic { restarts < RESTARTS && dead[2] -> restarts++; dead[2] = false; inc[2]++ }

	/* nothing can happen any more: has everything come to a good end? */
	:: timeout -> atomic {
		s = 0;
		do
		:: s < n_sessions ->
			assert(ss[s] >= S_TAKEN);
			assert(missing[s] == 0 || dead[s_dst[s]] || s_dstinc[s] != inc[s_dst[s]]); /* nobody waits for a page for ever */
			assert(ds[s] == D_NONE || ds[s] >= D_NEVER);
			s++
		:: else -> break
		od;
		r = 0;
		do
		:: r < RANKS ->
			c_n = 0; c_i = 0;
			do
			:: c_i < DAEMONS ->
				if
				:: COPY(c_i, r) == C_RUNNING ->
					c_n++;
					assert(dir_at[r] == c_i)
				:: else -> assert(COPY(c_i, r) == C_NONE || COPY(c_i, r) == C_RAN_ON)
				fi;
				c_i++
			:: else -> break
			od;
			assert(c_n == 1 || (c_n == 0 && excused[r]));
			r++
		:: else -> break
		od;
		break }
	od
}

init
{
	atomic {
		COPY(0, 0) = C_RUNNING; gen[0] = 1; dir_at[0] = 0; epoch[0] = 1; dir_epoch[0] = 1;
#if RANKS > 1
		COPY(1, 1) = C_RUNNING; gen[1] = 1; dir_at[1] = 1; epoch[1 * RANKS + 1] = 1; dir_epoch[1] = 1;
#endif
		run godwitd(0); run godwitd(1); run godwitd(2); run world()
	}
}
