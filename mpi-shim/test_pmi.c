/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of the PMI-1 server side: transcripts of MPICH's own lines, bad lines, and sessions that move. */
#include "mpi-shim/pmi.h"

#include "tests/tap.h"

#define RANKS 3

static struct world {
	struct pmi_job job;
	struct pmi_session *s[RANKS];
	char out[RANKS][4096];      /* what each rank was answered */
	json_t *merged;             /* the head's part of a barrier */
	int entered, aborts, abort_code, asks;
	unsigned exports;
	uint64_t barrier, ask_id;
	char ask[64], ask_args[256];
	enum pmi_phase phase;
} w;

static int rank_of(void *ctx)
{
	return (int)(intptr_t)ctx;
}

static void on_reply(void *ctx, const char *line, size_t len)
{
	strncat(w.out[rank_of(ctx)], line, len);
}

static void on_barrier(void *ctx, uint64_t number, const json_t *puts)
{
	(void)ctx;
	w.entered++;
	w.barrier = number;
	json_object_update(w.merged, (json_t *)(uintptr_t)puts);
}

static void on_ask(void *ctx, uint64_t id, const char *what, const json_t *args)
{
	char *text = json_dumps(args, JSON_COMPACT | JSON_SORT_KEYS);

	(void)ctx;
	w.asks++;
	w.ask_id = id;
	snprintf(w.ask, sizeof(w.ask), "%s", what);
	snprintf(w.ask_args, sizeof(w.ask_args), "%s", text);
	free(text);
}

static void on_abort(void *ctx, int code, const char *message)
{
	(void)ctx; (void)message;
	w.aborts++;
	w.abort_code = code;
}

static void on_phase(void *ctx, enum pmi_phase phase)
{
	(void)ctx;
	w.phase = phase;
}

static int on_allow(void *ctx, enum pmi_saying what, const char *key, struct gw_error *why)
{
	json_t *state;

	if (what == PMI_SAYS_PUT && strcmp(key, "meanwhile") == 0) { /* as a move would that begins just now */
		state = pmi_session_export(w.s[rank_of(ctx)]);
		w.exports += state != NULL;
		json_decref(state);
	}
	return what == PMI_SAYS_PUT && strcmp(key, "forbidden") == 0 ? gw_fail(why, -EPERM, "forbidden") : 0;
}

static const struct pmi_ops ops = { on_reply, on_barrier, on_ask, on_abort, on_phase, on_allow };

static void begin(void)
{
	memset(&w, 0, sizeof(w));
	pmi_job_init(&w.job, "kvs_0", RANKS, 5);
	w.merged = json_object();
	for (int i = 0; i < RANKS; i++)
		if (pmi_session_create(&w.s[i], &w.job, 2, &ops, (void *)(intptr_t)i) < 0)
			tap_bail("no session");
}

static void end(void)
{
	for (int i = 0; i < RANKS; i++)
		pmi_session_destroy(w.s[i]);
	pmi_job_fini(&w.job);
	json_decref(w.merged);
}

static int say(int rank, const char *text)
{
	struct gw_error why = { 0 };

	w.out[rank][0] = '\0';
	return pmi_session_feed(w.s[rank], text, strlen(text), &why);
}

/* The line of one rank and the whole of its answer. */
static void expect(int rank, const char *line, const char *answer)
{
	char shown[64];

	say(rank, line);
	snprintf(shown, sizeof(shown), "%.*s", (int)strcspn(line, "\n"), line);
	is_str(w.out[rank], answer, "%s", shown);
}

static void barrier_done(void)
{
	for (int i = 0; i < RANKS; i++)
		w.out[i][0] = '\0';
	pmi_job_barrier_done(&w.job, w.barrier, w.merged);
	for (int i = 0; i < RANKS; i++)
		pmi_session_resume(w.s[i]);
}

static void test_init(void)
{
	begin();
	is_int(pmi_session_phase(w.s[0]), PMI_SILENT, "a session begins silent");
	expect(0, "cmd=init pmi_version=1 pmi_subversion=1\n", "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n");
	is_int(w.phase, PMI_OPEN, "init opens it");
	expect(0, "cmd=get_maxes\n", "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n");
	expect(0, "cmd=get_appnum\n", "cmd=appnum appnum=2\n");
	expect(0, "cmd=get_universe_size\n", "cmd=universe_size size=5\n");
	expect(0, "cmd=get_my_kvsname\n", "cmd=my_kvsname kvsname=kvs_0\n");
	expect(0, "cmd=finalize\n", "cmd=finalize_ack\n");
	is_int(pmi_session_phase(w.s[0]), PMI_FINALIZED, "finalize ends it");
	expect(1, "cmd=init pmi_version=2 pmi_subversion=0\n", "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=-1\n");
	is_int(pmi_session_phase(w.s[1]), PMI_SILENT, "another version is refused");
	end();
}

static void test_exchange(void)
{
	begin();
	expect(0, "cmd=put kvsname=kvs_0 key=a value=00FF#x$y\n", "cmd=put_result rc=0 msg=success\n");
	expect(0, "cmd=get kvsname=kvs_0 key=a\n", "cmd=get_result rc=0 msg=success value=00FF#x$y\n");
	expect(1, "cmd=get kvsname=kvs_0 key=a\n", "cmd=get_result rc=-1 msg=key_a_not_found value=unknown\n");
	expect(0, "cmd=barrier_in\n", "");
	expect(1, "cmd=barrier_in\n", "");
	is_int(w.entered, 2, "each barrier_in is told to the head");
	pmi_session_resume(w.s[0]);
	is_str(w.out[0], "", "nobody leaves before all are there");
	say(2, "cmd=barrier_in\n");
	barrier_done();
	is_str(w.out[1], "cmd=barrier_out\n", "then all leave");
	expect(1, "cmd=get kvsname=kvs_0 key=a\n", "cmd=get_result rc=0 msg=success value=00FF#x$y\n");
	expect(1, "cmd=get kvsname=other key=a\n", "cmd=get_result rc=-1 msg=kvs_other_not_found value=unknown\n");
	expect(2, "cmd=put kvsname=kvs_0 value=1\n", "cmd=put_result rc=-1 msg=invalid_keyval\n");
	expect(2, "cmd=put kvsname=kvs_0 key=\xff value=1\n", "cmd=put_result rc=-1 msg=invalid_keyval\n");
	say(0, "cmd=abort exitcode=3\n");
	ok(w.aborts == 1 && w.abort_code == 3 && !w.out[0][0], "abort is told and has no answer");
	end();
}

static void test_cut_lines(void)
{
	static const char text[] = "cmd=get_maxes\ncmd=get_appnum\n";

	begin();
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		pmi_session_feed(w.s[0], text + i, 1, NULL);
	is_str(w.out[0], "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\ncmd=appnum appnum=2\n",
	       "lines may arrive byte by byte");
	end();
}

static void test_bad(void)
{
	char huge[PMI_LINE_MAX + 10];

	begin();
	is_int(say(0, "hello\n"), -EPROTO, "a line that is no command is refused");
	w.out[0][0] = '\0';
	is_int(say(0, "cmd=put kvsname=kvs_0 key=forbidden value=1\n"), -EPERM, "what the owner does not allow is refused");
	ok(w.out[0][0] == '\0', "without an answer");
	is_int(say(0, "cmd=teleport\n"), -EPROTO, "an unknown command is refused");
	is_int(say(0, "mcmd=teleport\n"), -EPROTO, "an unknown multi-line command is refused");
	memset(huge, 'x', sizeof(huge));
	is_int(pmi_session_feed(w.s[1], huge, sizeof(huge), NULL), -EPROTO, "a line without an end is refused");
	is_int(pmi_session_feed(w.s[2], "a\0b\n", 4, NULL), -EPROTO, "a NUL byte is refused");
	say(0, "cmd=barrier_in\n");
	is_int(say(0, "cmd=barrier_in\n"), -EPROTO, "a second barrier inside a barrier is refused");
	end();
}

static void test_names(void)
{
	json_t *found = json_pack("{s:i, s:s}", "rc", 0, "port", "tag#0$x$"), *missing = json_pack("{s:i, s:s}", "rc", 1, "msg",
	                                                                                          "service_not_found");

	begin();
	expect(0, "cmd=publish_name service=ocean port=tag#0$x$\n", "");
	ok(strcmp(w.ask, "publish") == 0 && strcmp(w.ask_args, "{\"port\":\"tag#0$x$\",\"service\":\"ocean\"}") == 0,
	   "publish_name asks the head");
	pmi_session_answer(w.s[0], w.ask_id, found);
	is_str(w.out[0], "cmd=publish_result info=ok rc=0 msg=success\n", "and answers what the head says");
	expect(0, "cmd=lookup_name service=ocean\n", "");
	pmi_session_answer(w.s[0], w.ask_id - 1, found);
	is_str(w.out[0], "", "an answer to an older question is dropped");
	pmi_session_answer(w.s[0], w.ask_id, found);
	is_str(w.out[0], "cmd=lookup_result port=tag#0$x$ info=ok rc=0 msg=success\n", "lookup_name brings the port");
	expect(0, "cmd=unpublish_name service=ocean\n", "");
	pmi_session_answer(w.s[0], w.ask_id, missing);
	is_str(w.out[0], "cmd=unpublish_result info=ok rc=1 msg=service_not_found\n", "a failure is told with its reason");
	json_decref(found);
	json_decref(missing);
	end();
}

static void test_spawn(void)
{
	json_t *no = json_pack("{s:i}", "rc", -1);

	begin();
	say(0, "mcmd=spawn\nnprocs=2\nexecname=./child with blank\ntotspawns=2\nspawnssofar=1\narg1=a=b c\nargcnt=1\nendcmd\n");
	is_int(w.asks, 0, "the first of two spawn commands waits for the second");
	say(0, "mcmd=spawn\nnprocs=1\nexecname=x\ntotspawns=2\nspawnssofar=2\nendcmd\n");
	ok(w.asks == 1 && strcmp(w.ask, "spawn") == 0 && strstr(w.ask_args, "\"arg1\":\"a=b c\"") &&
	   strstr(w.ask_args, "\"execname\":\"./child with blank\""), "both go to the head, words with blanks whole");
	pmi_session_answer(w.s[0], w.ask_id, no);
	is_str(w.out[0], "cmd=spawn_result info=ok rc=-1 msg=failed\n", "and the head's answer to the rank");
	json_decref(no);
	end();
}

/* Rank @rank continues in a session made from an export of its old one, through text as on the wire. */
static void move(int rank)
{
	json_t *state = pmi_session_export(w.s[rank]), *copy;
	char *text = json_dumps(state, 0);
	struct pmi_session *s;

	copy = json_loads(text, 0, NULL);
	free(text);
	if (pmi_session_create(&s, &w.job, 0, &ops, (void *)(intptr_t)rank) < 0 || pmi_session_import(s, copy) < 0)
		tap_bail("cannot move a session");
	pmi_session_destroy(w.s[rank]);
	w.s[rank] = s;
	json_decref(state);
	json_decref(copy);
}

static void test_move(void)
{
	json_t *answer = json_pack("{s:i, s:s}", "rc", 0, "port", "p"), *bad = json_object();

	begin();
	say(0, "cmd=init pmi_version=1 pmi_subversion=1\ncmd=put kvsname=kvs_0 key=k value=v\ncmd=get_app");
	move(0);
	is_int(pmi_session_phase(w.s[0]), PMI_OPEN, "the phase moves");
	expect(0, "num\n", "cmd=appnum appnum=2\n");
	expect(0, "cmd=get kvsname=kvs_0 key=k\n", "cmd=get_result rc=0 msg=success value=v\n");
	say(0, "cmd=put kvsname=kvs_0 key=meanwhile value=v\n");
	is_int(w.exports, 0, "a session is not exported in the middle of a command, which would be lost");
	move(0);
	expect(0, "cmd=get kvsname=kvs_0 key=meanwhile\n", "cmd=get_result rc=0 msg=success value=v\n");
	say(0, "cmd=barrier_in\n");
	move(0);
	w.entered = 0;
	pmi_session_repeat(w.s[0]);
	ok(w.entered == 1 && w.barrier == 1, "a barrier that it waits in is told again, with the same number");
	barrier_done();
	is_str(w.out[0], "cmd=barrier_out\n", "and it leaves where it lives now");
	is_str(json_string_value(json_object_get(w.job.space, "k")), "v", "with what it had put");
	say(0, "cmd=barrier_in\n");
	pmi_job_barrier_done(&w.job, 2, w.merged);
	move(0);
	w.out[0][0] = '\0';
	pmi_session_repeat(w.s[0]);
	is_str(w.out[0], "cmd=barrier_out\n", "a barrier that was completed while it moved is left at once");
	w.job.barriers_done = 1; /* where it comes to, the news of the barrier that it has left are not there yet */
	w.out[0][0] = '\0';
	say(0, "cmd=get kvsname=kvs_0 key=late\n");
	move(0);
	pmi_session_repeat(w.s[0]);
	is_str(w.out[0], "", "what was put before a barrier that is not known yet is waited for");
	json_object_set_new(w.merged, "late", json_string("v"));
	pmi_job_barrier_done(&w.job, 2, w.merged);
	pmi_session_resume(w.s[0]);
	is_str(w.out[0], "cmd=get_result rc=0 msg=success value=v\n", "and answered when the news come");
	say(0, "cmd=lookup_name service=s\n");
	move(0);
	w.asks = 0;
	pmi_session_repeat(w.s[0]);
	is_int(w.asks, 1, "a question is asked again");
	pmi_session_answer(w.s[0], w.ask_id, answer);
	is_str(w.out[0], "cmd=lookup_result port=p info=ok rc=0 msg=success\n", "and answered once");
	is_int(pmi_session_import(w.s[1], bad), -EPROTO, "a state that export did not make is refused");
	json_decref(answer);
	json_decref(bad);
	end();
}

int main(void)
{
	tap_begin(20);
	test_init();
	test_exchange();
	test_cut_lines();
	test_bad();
	test_names();
	test_spawn();
	test_move();
	return tap_done();
}
