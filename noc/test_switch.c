/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A rank that leaves the host, and a writer that is stopped in the middle of its slot (rule 5). Process 1 has sent a letter by memory,
 * behind a slot that process 2 has claimed and not filled; it moves to host 1 and sends the next one over the network. Process 0 must
 * not read that before the first one, which it cannot reach yet.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "noc/local.h"
#include "noc/tcp.h"
#include "tests/tap.h"

static int segment_fd[2];
static struct noc_segment pages[2];
static struct {
	char seen[64];     /* tags, as they came */
	sem_t news;        /* a message more, or the inbox of process 0 is open */
} *shared;

static void on_message(const struct noc_msg *m)
{
	shared->seen[strlen(shared->seen)] = (char)m->tag;
	sem_post(&shared->news);
}

static const struct noc_port_ops port_ops = { .message = on_message };

__attribute__((noreturn)) static void member(uint32_t me, bool asks)
{
	struct noc_host h = { .host = me, .secret = "the secret of this job, 32 byte" };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct noc_place place;
	struct gw_error why;
	bool is_done;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < 2; i++) { /* MADV_DONTFORK */
		memset(&pages[i], 0, sizeof(pages[i]));
		if (noc_segment_map(&pages[i], segment_fd[i], NULL, &why))
			_exit(5);
	}
	memcpy(&h.address, &in, sizeof(in));
	if (noc_start_test(segment_fd[me], me, &h, &why))
		_exit(4);
	noc_port_bind(NOC_PORT_TAGGED, &port_ops);
	if (!asks)
		sem_post(&shared->news);
	place = (struct noc_place){ .cluster = me, .state = NOC_NAME_HERE, .incarnation = noc_me->incarnation, .host = me,
	                            .address = noc_me->listening.address };
	for (int i = 0; i < 2; i++)
		if (noc_names_publish(&pages[i], me, &place, me))
			_exit(3);
	if (asks) {
		noc_peer_get(0)->next_out = 1; /* the letter by memory was its first */
		if (noc_send(0, NOC_PORT_TAGGED, 'b', 0, &(struct iovec){ "", 0 }, 1, NOC_F_COPY, NULL, &is_done))
			_exit(2);
	}
	for (;;) {
		noc_poll(16);
		noc_net->poll(true); /* as the agent does */
		noc_path_acks();
		sched_yield();
	}
}

static bool is_alive(pid_t pid) { return waitpid(pid, NULL, WNOHANG) == 0; }

/* False: not within @ms. */
static bool comes(const char *what, int ms)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += (long)(ms % 1000) * 1000000;
	end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	while (strcmp(shared->seen, what) != 0)
		if (sem_timedwait(&shared->news, &end) && errno != EINTR)
			return false;
	return true;
}

int main(void)
{
	struct noc_slot *held, *letter;
	struct noc_inbox *in;
	struct gw_error why;
	pid_t pid[2];

	tap_begin(30);
	setenv("GODWIT_NET", "tcp", 1);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || sem_init(&shared->news, 1, 0))
		tap_bail("no memory to share");
	for (int i = 0; i < 2; i++) {
		segment_fd[i] = noc_segment_create(1, 3, 2, 1, &why);
		if (segment_fd[i] < 0 || noc_segment_map(&pages[i], segment_fd[i], NULL, &why))
			tap_bail("%s", why.text);
	}
	pid[0] = fork();
	if (pid[0] == 0)
		member(0, false);
	noc_segment_reach(&pages[0], 2);
	in = noc_inbox_at(&pages[0], 0);
	while (sem_wait(&shared->news) && errno == EINTR) /* the limit of this test ends it when process 0 has died */
		;
	ok(atomic_load(&in->open) == NOC_INBOX_OPEN &&
	   noc_inbox_claim(in, 2, &held) == 0 && noc_inbox_claim(in, 1, &letter) == 0, "two slots, the first of them of a writer that stops there");
	letter->src = 1;
	letter->kind = NOC_KIND_EAGER;
	letter->port = NOC_PORT_TAGGED;
	letter->has_cell = 0;
	letter->seq = letter->len = letter->data = 0;
	letter->tag = 'a';
	noc_inbox_publish(in, 1, letter);
	pid[1] = fork();
	if (pid[1] == 0)
		member(1, true);
	ok(!comes("b", 500) && is_alive(pid[0]) && is_alive(pid[1]) && !*shared->seen, "what comes over the network is not read before what is behind that slot");
	diag("'%s'", shared->seen);
	/* as noc_inbox_void() does when the writer has been reaped */
	atomic_store(&held->word, noc_word(noc_word_lap(atomic_load(&held->word)), 2, NOC_SLOT_VOID));
	ok(comes("ab", 10000), "when that is over both are read, in their order");
	diag("'%s'", shared->seen);
	for (int i = 0; i < 2; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	return tap_done();
}
