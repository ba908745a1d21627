/* SPDX-License-Identifier: BSD-2-Clause */
/* What a program asks of those who move it, and tells them; see wish.h. */
#include "container/wish.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;          /* of the program's threads: one wish at a time */
	int (*send)(const struct ct_ctl_msg *m);
	bool (*is_agent)(void);        /* does the agent make this call? */
	_Atomic uint32_t is_open;      /* program thread writes; anybody reads: acquire makes the two above visible */
	struct ct_ctl_msg asked, answer;
	_Atomic uint32_t due;          /* number of the wish that is not answered; 0: none. Futex. Program sets it with release when
	                                  @asked is whole, the agent clears it with release when @answer is */
	uint32_t last;                 /* number of the last wish */
	_Atomic uint32_t is_wanted;    /* a move waits for a good moment: agent writes, program reads; a hint */
	struct ct_told told;           /* clusterd reads it: each word for itself */
	/* where it is: the agent writes, program reads; one 64-bit word each, so that none is torn */
	_Atomic uint64_t place, moves; /* place: cluster and host */
	bool has_place;
	pthread_mutex_t hooks;         /* of the three below, also while one of them runs */
	int (*before)(int why, void *arg);
	void (*after)(int end, void *arg);
	void *arg;
	/* agent only: a hook was called and waits for its counterpart */
	bool is_after_due;
	uint64_t moves_before;
} wish = { .lock = PTHREAD_MUTEX_INITIALIZER, .hooks = PTHREAD_MUTEX_INITIALIZER, .told.load_micro = -1 }; /* process-wide: a rank has one clusterd */

static bool is_open(void)
{
	return atomic_load_explicit(&wish.is_open, memory_order_acquire);
}

/* ---- the program ------------------------------------------------------------------------------------------------ */

int ct_wish_ask(enum ct_wish what, const char *where, uint32_t timeout_ms, struct gw_error *why)
{
	static const struct timespec look = { .tv_nsec = 100000000 }; /* nobody wakes who waits when the agent ends */
	uint32_t number, was_due;
	int rc;

	if (!is_open())
		return gw_fail(why, -ENOTCONN, "no daemon rules this process: MPI is not initialized, or it was not started by mpirun");
	if (wish.is_agent())
		return gw_fail(why, -EDEADLK, "this cannot be asked from a hook: the answer would come to the thread that runs it");
	pthread_mutex_lock(&wish.lock);
	number = ++wish.last ? wish.last : ++wish.last;
	wish.asked = (struct ct_ctl_msg){ .magic = CT_CTL_MAGIC, .version = CT_CTL_VERSION, .op = CT_CTL_WISH, .session = number,
	                                  .doing = what, .deadline_ms = timeout_ms };
	snprintf(wish.asked.text, sizeof(wish.asked.text), "%s", where ? where : "");
	atomic_store_explicit(&wish.due, number, memory_order_release);
	/* When a move comes between the two the agent sends it as well; who answers knows the number. */
	rc = wish.send(&wish.asked);
	while (rc == 0 && atomic_load_explicit(&wish.due, memory_order_acquire) == number && is_open())
		syscall(SYS_futex, &wish.due, FUTEX_WAIT_PRIVATE, number, &look, NULL, 0);
	was_due = atomic_exchange_explicit(&wish.due, 0, memory_order_acquire);
	if (rc == 0 && was_due == number)
		rc = gw_fail(why, -ENOTCONN, "MPI was finalized before there was an answer");
	else if (rc)
		gw_fail(why, rc, "the daemon of this cluster cannot be asked: %s", strerror(-rc));
	else if ((rc = wish.answer.status) < 0)
		gw_fail(why, rc, "%s", wish.answer.text);
	pthread_mutex_unlock(&wish.lock);
	return rc < 0 ? rc : 0;
}

bool ct_wish_moment(void)
{
	wish.told.moments++;
	return is_open() && atomic_load_explicit(&wish.is_wanted, memory_order_relaxed) && !wish.is_agent();
}

void ct_wish_load(double processors)
{
	wish.told.load_micro = processors < 0 ? -1 : (int64_t)(processors * 1e6);
}

int ct_wish_place(struct ct_wish_place *out)
{
	uint64_t place = atomic_load_explicit(&wish.place, memory_order_acquire);

	if (!is_open() || !wish.has_place)
		return -ENOTCONN;
	*out = (struct ct_wish_place){ .cluster = (uint32_t)place, .host = (uint32_t)(place >> 32),
	                               .moves = atomic_load_explicit(&wish.moves, memory_order_relaxed) };
	return 0;
}

int ct_wish_hooks(int (*before)(int why, void *arg), void (*after)(int end, void *arg), void *arg)
{
	if (is_open() && wish.is_agent())
		return -EDEADLK;
	pthread_mutex_lock(&wish.hooks);
	wish.before = before;
	wish.after = after;
	wish.arg = arg;
	pthread_mutex_unlock(&wish.hooks);
	return 0;
}

/* ---- the agent -------------------------------------------------------------------------------------------------- */

void ct_wish_open(int (*send)(const struct ct_ctl_msg *m), bool (*is_agent)(void))
{
	wish.send = send;
	wish.is_agent = is_agent;
	atomic_store_explicit(&wish.is_open, 1, memory_order_release);
}

void ct_wish_close(void)
{
	atomic_store_explicit(&wish.is_open, 0, memory_order_release);
}

int ct_wish_before(uint32_t session, struct gw_error *why)
{
	bool is_move = session < CT_SESSION_RESTART;
	int rc;

	if (session == CT_SESSION_NETWORK)
		return 0;
	wish.moves_before = atomic_load_explicit(&wish.moves, memory_order_relaxed);
	wish.is_after_due = true;
	pthread_mutex_lock(&wish.hooks);
	rc = wish.before ? wish.before(is_move ? CT_WISH_FOR_MOVE : CT_WISH_FOR_REST, wish.arg) : 0;
	pthread_mutex_unlock(&wish.hooks);
	return rc && is_move ? gw_fail(why, -EPERM, "its program refuses: the hook that it has set for moves returned %d", rc) : 0;
}

void ct_wish_after(uint32_t session)
{
	bool has_moved = atomic_load_explicit(&wish.moves, memory_order_relaxed) != wish.moves_before;

	if (!wish.is_after_due)
		return;
	wish.is_after_due = false;
	pthread_mutex_lock(&wish.hooks);
	if (wish.after)
		wish.after(session == CT_SESSION_RESTART ? CT_WISH_RESTARTED : has_moved ? CT_WISH_MOVED : CT_WISH_STAYED, wish.arg);
	pthread_mutex_unlock(&wish.hooks);
}

void ct_wish_attached(const struct ct_ctl_msg *order, struct ct_ctl_msg *answer)
{
	uint64_t place = (uint64_t)order->net.host << 32 | order->cluster;

	if (wish.has_place && (uint32_t)atomic_load_explicit(&wish.place, memory_order_relaxed) != order->cluster)
		atomic_fetch_add_explicit(&wish.moves, 1, memory_order_relaxed);
	atomic_store_explicit(&wish.place, place, memory_order_release);
	wish.has_place = true;
	atomic_store_explicit(&wish.is_wanted, 0, memory_order_relaxed); /* whoever waited rules us no more, or has moved us */
	answer->told_at = (uintptr_t)&wish.told;
}

void ct_wish_again(void)
{
	if (atomic_load_explicit(&wish.due, memory_order_acquire))
		wish.send(&wish.asked); /* a failure means that clusterd is gone, and so shall we be */
}

void ct_wish_heard(const struct ct_ctl_msg *m)
{
	uint32_t due = atomic_load_explicit(&wish.due, memory_order_acquire);

	if (m->op == CT_CTL_MOMENT) {
		atomic_store_explicit(&wish.is_wanted, 1, memory_order_relaxed);
		return;
	}
	if (!due || m->session != due)
		return; /* a repetition */
	if (wish.asked.doing == CT_WISH_MOMENT)
		atomic_store_explicit(&wish.is_wanted, 0, memory_order_relaxed);
	wish.answer = *m;
	wish.answer.text[sizeof(wish.answer.text) - 1] = '\0';
	atomic_store_explicit(&wish.due, 0, memory_order_release);
	syscall(SYS_futex, &wish.due, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
