/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * In the place of container/files.c: a proof whose question, answer and helper come when the scheduler says so, or fail.
 * What a session must keep to is checked: the order of the calls, that an answer is that of its own question, and that what
 * a rank has written is flushed before its image ends.
 */
#include <stdlib.h>

#include "container/files.h"
#include "tests/sim/moves.h"

#define QUESTION 0x3f656c6966u
#define ANSWER   0x21656c6966u

struct words { uint64_t magic, number; uint32_t proc; };

struct ct_files {
	struct gw_list node;
	enum { ASKED, LOOKING, LOOKED, COMPARING, PROVED, FLUSHING, FLUSHED } state;
	struct words words;           /* the question, or the answer */
	int fd;                       /* of its helper; -1: none is at work */
};

static struct gw_list proofs = { &proofs, &proofs };

static struct ct_files *proof_new(int state, struct words words)
{
	struct ct_files *f = calloc(1, sizeof(*f));

	*f = (struct ct_files){ .state = state, .words = words, .fd = -1 };
	gw_list_append(&proofs, &f->node);
	return f;
}

/* Done now, or by a helper; then @doing is its state meanwhile. */
static int begin(struct ct_files *f, int doing, int done)
{
	if (sim_one_in(2)) {
		f->state = done;
		return 0;
	}
	f->state = doing;
	f->fd = sim_fd_new();
	return 1;
}

bool sim_proof_turn(void)
{
	gw_list_for(e, &proofs) {
		const struct ct_files *f = gw_list_entry(e, struct ct_files, node);

		if (f->fd < 0 || !sim_one_in(2))
			continue;
		gw_list_for(k, &sim_daemons)
			if (!gw_list_entry(k, struct sim_daemon, node)->is_dead)
				sim_fd_ready(gw_list_entry(k, struct sim_daemon, node)->loop, f->fd);
		return true;
	}
	return false;
}

bool sim_proof_is_writing(const struct ct_files *there)
{
	gw_list_for(e, &proofs) {
		const struct ct_files *f = gw_list_entry(e, struct ct_files, node);

		if (f->words.number == there->words.number && f->state == FLUSHING)
			return true;
	}
	return false;
}

void sim_proofs_end(void)
{
	if (!gw_list_is_empty(&proofs))
		sim_fail("a proof of files is left over");
}

/* ---- files.h ----------------------------------------------------------------------------------------------------- */

int ct_files_ask(struct ct_files **out, const struct ct_needs *needs, pid_t pid, bool is_far, bool may_carry, struct gw_error *why)
{
	(void)needs, (void)is_far, (void)may_carry;
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -EIO, "no mark can be made");
	*out = proof_new(ASKED, (struct words){ QUESTION, sim_rnd(UINT64_MAX), (uint32_t)pid });
	return 0;
}

int ct_files_look(struct ct_files **out, const struct ct_needs *needs, const void *question, size_t len, struct gw_error *why)
{
	struct words w;

	(void)needs;
	if (len != sizeof(w))
		sim_fail("a question about files comes in another length");
	memcpy(&w, question, len);
	if (w.magic != QUESTION)
		sim_fail("what is no question about files is looked at");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ENOENT, "a file is not here");
	w.magic = ANSWER;
	*out = proof_new(LOOKING, w);
	return begin(*out, LOOKING, LOOKED);
}

const void *ct_files_bytes(const struct ct_files *f, size_t *len)
{
	if (f->state != ASKED && f->state != LOOKED)
		sim_fail("an answer about files is given before it is known");
	*len = sizeof(f->words);
	return &f->words;
}

int ct_files_check(struct ct_files *f, const void *answer, size_t len, struct gw_error *why)
{
	struct words w;

	if (len != sizeof(w) || f->state != ASKED)
		sim_fail("an answer about files comes in another length, or again");
	memcpy(&w, answer, len);
	if (w.magic != ANSWER || w.number != f->words.number || w.proc != f->words.proc)
		sim_fail("an answer about files is that of another question");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ESTALE, "a file is another one there");
	return begin(f, COMPARING, PROVED);
}

int ct_files_go_on(struct ct_files *f, struct gw_error *why)
{
	if (f->fd < 0)
		sim_fail("a helper that does not run is asked");
	if (sim_one_in(3))
		return 1;
	f->fd = -1;
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -EIO, "a file cannot be read");
	f->state++;
	return 0;
}

int ct_files_fd(const struct ct_files *f) { return f->fd; }

int ct_files_carry(const struct ct_files *f, struct ct_rank *r)
{
	(void)r;
	if (f->state != PROVED)
		sim_fail("files go into an image before they are proved");
	return 0;
}

int ct_files_still(const struct ct_files *f, const struct ct_rank *r, struct gw_error *why)
{
	if (f->state != PROVED || sim_body_runs(r))
		sim_fail("files are compared again while they may change");
	return sim_one_in(sim_moves.p_fault) ? gw_fail(why, -EAGAIN, "it uses another file") : 0;
}

int ct_files_flush(struct ct_files *f, struct gw_error *why)
{
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -EIO, "what it wrote cannot be written");
	return begin(f, FLUSHING, FLUSHED);
}

int ct_files_expect(const struct ct_files *f, struct ct_rank *shell, struct gw_error *why)
{
	if (f->state != LOOKED)
		sim_fail("files are expected before it is known which");
	if (sim_one_in(sim_moves.p_fault))
		return gw_fail(why, -ENOSPC, "no room for its files");
	sim_body_expects(shell, f);
	return 0;
}

void ct_files_left(const struct ct_files *f)
{
	if (f->state != FLUSHED)
		sim_fail("a rank has left before its files were written");
}

void ct_files_free(struct ct_files *f)
{
	if (!f)
		return;
	sim_body_forgets(f);
	gw_list_remove(&f->node);
	free(f);
}

void ct_files_reap(void) { }
