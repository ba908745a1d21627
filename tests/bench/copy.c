/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * copy: what one copy of memory over a socket costs, as the measure of a move that carries the same bytes.
 *
 *	copy MIB unix|tcp
 *
 * A process on the first processor that we may use writes MIB of memory that it has written before into a stream socket, one on
 * the second reads it into memory that nobody has touched. Prints the seconds from the first byte to the last.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256u << 10) /* as a daemon sends an image */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* the @n-th processor that we may use, or the last one */
static void settle(int n)
{
	cpu_set_t may, one;
	int last = -1;

	if (sched_getaffinity(0, sizeof(may), &may) < 0)
		return;
	for (int i = 0; i < CPU_SETSIZE && n >= 0; i++)
		if (CPU_ISSET(i, &may)) {
			last = i;
			n--;
		}
	CPU_ZERO(&one);
	CPU_SET(last, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void connect_pair(int fd[2], int is_tcp)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int size = 4 << 20, listener;

	if (is_tcp) {
		listener = socket(AF_INET, SOCK_STREAM, 0);
		fd[0] = socket(AF_INET, SOCK_STREAM, 0);
		if (listener < 0 || fd[0] < 0 || bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 1) < 0 ||
		    getsockname(listener, (struct sockaddr *)&a, &len) < 0 || connect(fd[0], (struct sockaddr *)&a, len) < 0 ||
		    (fd[1] = accept(listener, NULL, NULL)) < 0)
			fail("a TCP connection over loopback");
		close(listener);
	} else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) < 0) {
		fail("a pair of sockets");
	}
	if (setsockopt(fd[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static void *memory_of(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("memory");
	return p;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? (size_t)atol(argv[1]) << 20 : 0;
	int fd[2], status = 0;
	char *from, end = 1;
	double start;
	pid_t pid;

	if (!bytes || argc < 3)
		return fprintf(stderr, "Usage: copy MIB unix|tcp\n"), 2;
	connect_pair(fd, strcmp(argv[2], "tcp") == 0);
	from = memory_of(bytes);
	memset(from, 1, bytes);
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		ssize_t n = 1;
		char *to;

		munmap(from, bytes);
		settle(1);
		to = memory_of(bytes);
		for (size_t at = 0; n > 0 && at < bytes; at += (size_t)n)
			n = read(fd[1], to + at, bytes - at < PIECE ? bytes - at : PIECE);
		_exit(n > 0 && write(fd[1], &end, 1) == 1 ? 0 : 1);
	}
	settle(0);
	start = now();
	for (size_t at = 0; at < bytes;) {
		ssize_t n = write(fd[0], from + at, bytes - at < PIECE ? bytes - at : PIECE);

		if (n < 0)
			fail("write");
		at += (size_t)n;
	}
	if (read(fd[0], &end, 1) != 1)
		fail("read");
	printf("seconds=%.6f\n", now() - start);
	return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}
