/* SPDX-License-Identifier: BSD-2-Clause */
/* The session as a table: which event leads from which state to which, and what is done then. Any other pair is refused. */
#include "migration/session.h"

const struct mig_rule mig_rules[] = {
	/* ---- source: before GIVEN every way out leads back to a running rank ---- */
	{ MIG_PREPARE, MIG_EV_PREPARED,  MIG_PROVE,   mig_src_prove },
	{ MIG_PREPARE, MIG_EV_NEVER,     MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_FAILED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_CANCEL,    MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_EXITED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_abort },
	{ MIG_PREPARE, MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_abort },

	{ MIG_PROVE,   MIG_EV_PROVED,    MIG_PRECOPY, mig_src_precopy },
	{ MIG_PROVE,   MIG_EV_NEVER,     MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_FAILED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_CANCEL,    MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_EXITED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_abort },
	{ MIG_PROVE,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_abort },

	{ MIG_PRECOPY, MIG_EV_MORE,      MIG_PRECOPY, mig_src_round },
	{ MIG_PRECOPY, MIG_EV_ROUND,     MIG_PRECOPY, mig_src_round_over },
	{ MIG_PRECOPY, MIG_EV_ENOUGH,    MIG_QUIESCE, mig_src_quiesce },
	{ MIG_PRECOPY, MIG_EV_NEVER,     MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_FAILED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_CANCEL,    MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_EXITED,    MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_abort },
	{ MIG_PRECOPY, MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_abort },

	{ MIG_QUIESCE, MIG_EV_CALM,      MIG_QUIESCE, mig_src_ask_agent },
	{ MIG_QUIESCE, MIG_EV_QUIET,     MIG_SEND,    mig_src_freeze },
	{ MIG_QUIESCE, MIG_EV_NEVER,     MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_FAILED,    MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_CANCEL,    MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_EXITED,    MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_abort },
	{ MIG_QUIESCE, MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_abort },

	{ MIG_SEND,    MIG_EV_MORE,      MIG_SEND,    mig_src_pump },
	{ MIG_SEND,    MIG_EV_ASK,       MIG_SEND,    NULL },
	{ MIG_SEND,    MIG_EV_FLUSHED,   MIG_SEND,    mig_src_flushed },
	{ MIG_SEND,    MIG_EV_READY,     MIG_GIVEN,   mig_src_give },     /* the commit point */
	{ MIG_SEND,    MIG_EV_NEVER,     MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_FAILED,    MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_CANCEL,    MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_EXITED,    MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_abort },
	{ MIG_SEND,    MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_abort },

	/* ---- source: after it only the destination's word counts ---- */
	{ MIG_GIVEN,   MIG_EV_TAKEN,     MIG_TAKEN,   mig_src_release },
	{ MIG_GIVEN,   MIG_EV_LIVES,     MIG_SERVE,   mig_src_serve },
	{ MIG_GIVEN,   MIG_EV_WANT,      MIG_SERVE,   mig_src_serve_asked },
	{ MIG_GIVEN,   MIG_EV_FETCHED,   MIG_TAKEN,   mig_src_release },
	{ MIG_GIVEN,   MIG_EV_NEVER,     MIG_ENDED,   mig_src_keep },
	{ MIG_GIVEN,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_lost },
	{ MIG_GIVEN,   MIG_EV_ASK,       MIG_GIVEN,   mig_src_repeat },
	{ MIG_GIVEN,   MIG_EV_TIMEOUT,   MIG_GIVEN,   mig_src_repeat },
	{ MIG_GIVEN,   MIG_EV_PEER_LOST, MIG_GIVEN,   mig_src_reconnect },
	{ MIG_GIVEN,   MIG_EV_EXITED,    MIG_GIVEN,   mig_src_note_exit },
	{ MIG_GIVEN,   MIG_EV_ATTACHED,  MIG_GIVEN,   NULL },             /* TAKEN was lost, it comes again */
	{ MIG_GIVEN,   MIG_EV_MORE,      MIG_GIVEN,   NULL },

	{ MIG_SERVE,   MIG_EV_WANT,      MIG_SERVE,   mig_src_answer },
	{ MIG_SERVE,   MIG_EV_MORE,      MIG_SERVE,   mig_src_push },
	{ MIG_SERVE,   MIG_EV_FETCHED,   MIG_TAKEN,   mig_src_release },
	{ MIG_SERVE,   MIG_EV_LIVES,     MIG_SERVE,   NULL },
	{ MIG_SERVE,   MIG_EV_ATTACHED,  MIG_SERVE,   mig_src_note_attached },
	{ MIG_SERVE,   MIG_EV_EXITED,    MIG_SERVE,   NULL },             /* reading it tells */
	{ MIG_SERVE,   MIG_EV_FAILED,    MIG_ENDED,   mig_src_gone },
	{ MIG_SERVE,   MIG_EV_TIMEOUT,   MIG_SERVE,   NULL },             /* the other side asks when it lacks something */
	{ MIG_SERVE,   MIG_EV_PEER_LOST, MIG_SERVE,   mig_src_drop_link },
	{ MIG_SERVE,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_lost },

	{ MIG_TAKEN,   MIG_EV_ATTACHED,  MIG_ENDED,   mig_src_finish },
	{ MIG_TAKEN,   MIG_EV_FETCHED,   MIG_TAKEN,   mig_src_say_done },
	{ MIG_TAKEN,   MIG_EV_WANT,      MIG_TAKEN,   NULL },
	{ MIG_TAKEN,   MIG_EV_MORE,      MIG_TAKEN,   NULL },
	{ MIG_TAKEN,   MIG_EV_TAKEN,     MIG_TAKEN,   mig_src_say_done },
	{ MIG_TAKEN,   MIG_EV_TIMEOUT,   MIG_ENDED,   mig_src_finish },
	{ MIG_TAKEN,   MIG_EV_CANCEL,    MIG_ENDED,   mig_src_finish },
	{ MIG_TAKEN,   MIG_EV_PEER_LOST, MIG_ENDED,   mig_src_finish },
	{ MIG_TAKEN,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_src_finish },

	/* ---- destination: before GIVEN it may drop the session at any time, and then never thaws it ---- */
	{ MIG_IDLE,    MIG_EV_OFFER,     MIG_LOOK,    mig_dst_look },
	{ MIG_LOOK,    MIG_EV_PROVED,    MIG_FILL,    mig_dst_prepare },
	{ MIG_LOOK,    MIG_EV_ABORT,     MIG_ENDED,   mig_dst_discard },
	{ MIG_LOOK,    MIG_EV_FAILED,    MIG_ENDED,   mig_dst_discard },
	{ MIG_LOOK,    MIG_EV_CANCEL,    MIG_ENDED,   mig_dst_discard },
	{ MIG_LOOK,    MIG_EV_TIMEOUT,   MIG_ENDED,   mig_dst_discard },
	{ MIG_LOOK,    MIG_EV_PEER_LOST, MIG_ENDED,   mig_dst_discard },
	{ MIG_LOOK,    MIG_EV_PEER_DEAD, MIG_ENDED,   mig_dst_discard },

	{ MIG_FILL,    MIG_EV_MADE,      MIG_FILL,    mig_dst_prepared },
	{ MIG_FILL,    MIG_EV_STATE,     MIG_FILL,    mig_dst_import },
	{ MIG_FILL,    MIG_EV_DATA,      MIG_FILL,    mig_dst_feed },
	{ MIG_FILL,    MIG_EV_END,       MIG_FILL,    mig_dst_complete },
	{ MIG_FILL,    MIG_EV_COMPLETE,  MIG_READY,   mig_dst_say_ready },
	{ MIG_FILL,    MIG_EV_ABORT,     MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_FAILED,    MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_CANCEL,    MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_EXITED,    MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_TIMEOUT,   MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_PEER_LOST, MIG_ENDED,   mig_dst_discard },
	{ MIG_FILL,    MIG_EV_PEER_DEAD, MIG_ENDED,   mig_dst_discard },

	{ MIG_READY,   MIG_EV_GIVEN,     MIG_READY,   mig_dst_thaw },
	{ MIG_READY,   MIG_EV_THAWED,    MIG_ARRIVED, mig_dst_say_taken },
	{ MIG_READY,   MIG_EV_LIVES,     MIG_FETCH,   mig_dst_fetch },
	{ MIG_READY,   MIG_EV_TIMEOUT,   MIG_READY,   mig_dst_ask },
	{ MIG_READY,   MIG_EV_PEER_LOST, MIG_READY,   mig_dst_drop_link },
	{ MIG_READY,   MIG_EV_ABORT,     MIG_ENDED,   mig_dst_discard },
	{ MIG_READY,   MIG_EV_FAILED,    MIG_ENDED,   mig_dst_discard },
	{ MIG_READY,   MIG_EV_CANCEL,    MIG_ENDED,   mig_dst_discard },
	{ MIG_READY,   MIG_EV_EXITED,    MIG_ENDED,   mig_dst_discard },
	{ MIG_READY,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_dst_discard },

	/* ---- destination: it lives here, and lacks pages that the source has ---- */
	{ MIG_FETCH,   MIG_EV_PAGES,     MIG_FETCH,   mig_dst_fill },
	{ MIG_FETCH,   MIG_EV_FAULT,     MIG_FETCH,   mig_dst_wanted },
	{ MIG_FETCH,   MIG_EV_FETCHED,   MIG_ARRIVED, mig_dst_fetched },
	{ MIG_FETCH,   MIG_EV_EXITED,    MIG_ARRIVED, mig_dst_fetched },  /* nobody is left who would miss them */
	{ MIG_FETCH,   MIG_EV_GIVEN,     MIG_FETCH,   mig_dst_refetch_given },
	{ MIG_FETCH,   MIG_EV_TIMEOUT,   MIG_FETCH,   mig_dst_refetch },
	{ MIG_FETCH,   MIG_EV_PEER_LOST, MIG_FETCH,   mig_dst_fetch_drop_link },
	{ MIG_FETCH,   MIG_EV_ATTACHED,  MIG_FETCH,   mig_dst_say_attached },
	{ MIG_FETCH,   MIG_EV_DONE,      MIG_ENDED,   mig_dst_starve },   /* of a source that knows nothing of it any more */
	{ MIG_FETCH,   MIG_EV_FAILED,    MIG_ARRIVED, mig_dst_give_up },
	{ MIG_FETCH,   MIG_EV_ABORT,     MIG_ENDED,   mig_dst_starve },
	{ MIG_FETCH,   MIG_EV_PEER_DEAD, MIG_ENDED,   mig_dst_starve },

	/* ---- destination: it lives here; only the record is left ---- */
	{ MIG_ARRIVED, MIG_EV_GIVEN,     MIG_ARRIVED, mig_dst_repeat },
	{ MIG_ARRIVED, MIG_EV_TIMEOUT,   MIG_ARRIVED, mig_dst_repeat },
	{ MIG_ARRIVED, MIG_EV_PEER_LOST, MIG_ARRIVED, mig_dst_drop_link },
	{ MIG_ARRIVED, MIG_EV_ATTACHED,  MIG_ARRIVED, mig_dst_say_attached },
	{ MIG_ARRIVED, MIG_EV_PAGES,     MIG_ARRIVED, NULL },             /* were on their way */
	{ MIG_ARRIVED, MIG_EV_ABORT,     MIG_ARRIVED, NULL },             /* both have given it up */
	{ MIG_ARRIVED, MIG_EV_DONE,      MIG_SETTLED, mig_dst_settle },
	{ MIG_ARRIVED, MIG_EV_PEER_DEAD, MIG_ENDED,   NULL },

	{ MIG_SETTLED, MIG_EV_ATTACHED,  MIG_ENDED,   mig_dst_say_attached },
	{ MIG_SETTLED, MIG_EV_COMPLETE,  MIG_ENDED,   NULL },             /* no more to say */
	{ MIG_SETTLED, MIG_EV_PAGES,     MIG_SETTLED, NULL },
	{ MIG_SETTLED, MIG_EV_DONE,      MIG_SETTLED, NULL },
	{ MIG_SETTLED, MIG_EV_CANCEL,    MIG_ENDED,   NULL },
	{ MIG_SETTLED, MIG_EV_TIMEOUT,   MIG_ENDED,   NULL },
	{ MIG_SETTLED, MIG_EV_PEER_LOST, MIG_ENDED,   NULL },
	{ MIG_SETTLED, MIG_EV_PEER_DEAD, MIG_ENDED,   NULL },
};
const size_t mig_rules_count = GW_ARRAY_LEN(mig_rules);

const char *mig_state_name(enum mig_state s)
{
	static const char *const names[MIG_STATES] = { "idle", "prepare", "prove", "precopy", "quiesce", "send", "given", "serve",
	                                               "taken", "look",
	                                               "fill", "ready", "fetch", "arrived", "settled", "ended" };

	return s < MIG_STATES ? names[s] : "?";
}

const char *mig_event_name(enum mig_event e)
{
	static const char *const names[MIG_EVENTS] = { "prepared", "proved", "flushed", "round", "enough", "calm", "quiet", "more", "ready",
	                                               "taken", "lives", "want", "never", "ask", "attached", "fetched", "offer", "made", "state", "data", "end",
	                                               "complete", "given", "thawed", "pages", "fault", "done", "abort", "failed", "cancel",
	                                               "exited", "timeout", "peer-lost", "peer-dead" };

	return e < MIG_EVENTS ? names[e] : "?";
}
