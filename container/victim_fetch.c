/* SPDX-License-Identifier: BSD-2-Clause */
/* A program with much memory that it uses in every way at once: also through the kernel, in children, in new threads. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define STACK (512u << 10)

static uint64_t *memory;      /* the first half is never written again: pages know what they hold */
static char *own;             /* a block of the second half for each thread */
static size_t half;           /* pages */
static atomic_uint is_bad, is_ending, is_forking, turns[5];

static uint64_t word_of(size_t page, size_t i)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull ^ i * 0xbf58476d1ce4e5b9ull;
}

static const char *witness;   /* a file that is there when something was wrong, also when nobody hears us any more */

static void failed(void)
{
	atomic_store(&is_bad, 1);
	if (witness)
		close(open(witness, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static bool is_page_right(const uint64_t *p, size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		if (p[i] != word_of(page, i)) {
			failed(); /* first: nobody may read what we say any more */
			say("bad page %zu: word %zu is %llx, not %llx", page, i, (unsigned long long)p[i], (unsigned long long)word_of(page, i));
			return false;
		}
	return true;
}

static size_t pick(uint64_t *seed, size_t n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (size_t)(*seed >> 33) % n;
}

/* touches pages by itself */
static void *reader(void *arg)
{
	uint64_t seed = 1;

	while (!atomic_load(&is_ending)) {
		size_t page = pick(&seed, half);

		if (!is_page_right(memory + page * WORDS, page))
			failed();
		atomic_fetch_add(&turns[0], 1);
	}
	return arg;
}

/* lets the kernel touch them: write from, read into, a futex in each */
static void *caller(void *arg)
{
	uint64_t seed = 2, copy[WORDS];
	int fd[2];

	if (pipe(fd) < 0)
		failed();
	while (!atomic_load(&is_ending)) {
		size_t page = pick(&seed, half), there = pick(&seed, 256);
		char *to = own + there * PAGE;
		long rc;

		if (write(fd[1], memory + page * WORDS, PAGE) != (ssize_t)PAGE || read(fd[0], copy, PAGE) != (ssize_t)PAGE ||
		    !is_page_right(copy, page)) {
			say("bad write from page %zu: %s", page, strerror(errno));
			failed();
		}
		if (write(fd[1], copy, PAGE) != (ssize_t)PAGE || read(fd[0], to, PAGE) != (ssize_t)PAGE ||
		    memcmp(to, copy, PAGE) != 0) {
			say("bad read into page %zu: %s", there, strerror(errno));
			failed();
		}
		page = pick(&seed, half);
		rc = syscall(SYS_futex, memory + page * WORDS, FUTEX_WAIT_PRIVATE, (uint32_t)word_of(page, 0) + 1, NULL, NULL, 0);
		if (rc != -1 || errno != EAGAIN) {
			say("bad futex in page %zu: %ld, %s", page, rc, strerror(errno));
			failed();
		}
		atomic_fetch_add(&turns[1], 1);
	}
	return arg;
}

/* memory given back, moved, closed and opened: its own, filled before by what it will hold */
static void *changer(void *arg)
{
	uint64_t seed = 3;
	char *block = own + 256 * PAGE;
	const size_t n = 512;
	static unsigned char value[512];

	memset(block, 1, n * PAGE);
	memset(value, 1, sizeof(value));
	while (!atomic_load(&is_ending)) {
		size_t page = pick(&seed, n), len = 1 + pick(&seed, n - page);
		void *moved;

		switch (pick(&seed, 8)) {
		case 0:
			madvise(block + page * PAGE, len * PAGE, MADV_DONTNEED);
			memset(value + page, 0, len);
			break;
		case 1: /* whole, so that its pieces stay one */
			moved = mmap(NULL, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			moved = moved == MAP_FAILED ? moved : mremap(block, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved);
			if (moved == MAP_FAILED)
				say("bad mremap: %s", strerror(errno));
			else
				block = moved;
			break;
		case 2:
			len = len < 8 ? len : 8;
			memset(block + page * PAGE, (int)(seed & 0xff), len * PAGE);
			memset(value + page, (int)(seed & 0xff), len);
			break;
		default:
			for (size_t i = 0; i < PAGE; i += 512)
				if ((unsigned char)block[page * PAGE + i] != value[page]) {
					say("bad block: page %zu holds %u, not %u", page, (unsigned char)block[page * PAGE + i], value[page]);
					failed();
					break;
				}
		}
		atomic_fetch_add(&turns[2], 1);
	}
	return arg;
}

/* memory that is always on its way from one place to another, where nobody else has any; every other page was never touched, so
 * that each is put in by itself */
static void *mover(void *arg)
{
	const size_t n = 512;
	uint64_t seed = 4, *block = (uint64_t *)0x600000000, *there = block + 2 * n * WORDS, *moved;

	block = mmap(block, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (block == MAP_FAILED) {
		say("bad mmap: %s", strerror(errno));
		failed();
		return arg;
	}
	madvise(block, n * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < n; i += 2)
		block[i * WORDS] = i + 1;
	while (!atomic_load(&is_ending)) {
		size_t page = pick(&seed, n / 2) * 2;

		moved = mremap(block, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there);
		if (moved == MAP_FAILED) {
			say("bad mremap: %s", strerror(errno));
			failed();
			break;
		}
		there = block;
		block = moved;
		if (block[page * WORDS] != page + 1) {
			say("bad page %zu of what moves: %llu", page, (unsigned long long)block[page * WORDS]);
			failed();
		}
		usleep(20);
		atomic_fetch_add(&turns[4], 1);
	}
	return arg;
}

static void *short_lived(void *arg)
{
	volatile char deep[64 << 10];

	memset((void *)deep, 5, sizeof(deep));
	return arg;
}

/* children look at all, threads come and go on stacks that may be missing */
static void *parent(void *arg)
{
	char *stack = own + 1024 * PAGE;

	while (!atomic_load(&is_ending)) {
		pthread_attr_t attr;
		pthread_t thread;
		int status = 0;
		bool forks = atomic_load(&is_forking); /* the child must not see another answer */
		pid_t pid = forks ? fork() : 0;

		if (pid == 0 && forks) {
			uint64_t seed = (uint64_t)getpid();

			for (int i = 0; i < 64; i++) {
				size_t page = pick(&seed, half);

				if (!is_page_right(memory + page * WORDS, page))
					_exit(1);
			}
			_exit(0);
		}
		if (pid > 0 && (waitpid(pid, &status, 0) != pid || status != 0)) {
			say("bad child: status %#x", status);
			failed();
		}
		pthread_attr_init(&attr);
		pthread_attr_setstack(&attr, stack, STACK);
		if (pthread_create(&thread, &attr, short_lived, NULL) == 0)
			pthread_join(thread, NULL);
		else
			failed();
		pthread_attr_destroy(&attr);
		atomic_fetch_add(&turns[3], 1);
		usleep(2000);
	}
	return arg;
}

/* "fork", "rest": children are made, or not; else: all is looked at. Each: when every thread has done something since */
int fetched(unsigned mib, const char *path)
{
	void *(*const bodies[])(void *) = { reader, caller, changer, parent, mover };
	pthread_t threads[5];
	char line[64];

	witness = path;
	half = (size_t)mib * 256 / 2;
	memory = mmap(NULL, half * 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 3;
	own = (char *)(memory + half * WORDS);
	for (size_t p = 0; p < half; p++)
		for (size_t i = 0; i < WORDS; i++)
			memory[p * WORDS + i] = word_of(p, i);
	memset(own, 7, half * PAGE / 2); /* and a quarter that was never touched */
	for (int i = 0; i < 5; i++)
		pthread_create(&threads[i], NULL, bodies[i], NULL);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		unsigned before[5];

		if (strcmp(line, "fork") == 0)
			atomic_store(&is_forking, 1);
		else if (strcmp(line, "rest") == 0)
			atomic_store(&is_forking, 0);
		else
			for (size_t p = 0; p < half; p++)
				if (!is_page_right(memory + p * WORDS, p))
					failed();
		for (int i = 0; i < 5; i++)
			before[i] = atomic_load(&turns[i]);
		for (int i = 0; i < 5; i++)
			while (atomic_load(&turns[i]) < before[i] + 2)
				sched_yield();
		if (!atomic_load(&is_bad))
			say("ok %s", line);
	}
	atomic_store(&is_ending, 1);
	for (int i = 0; i < 5; i++)
		pthread_join(threads[i], NULL);
	say("done");
	_exit(atomic_load(&is_bad) ? 3 : 7);
}
