/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/held: each rank has something that a move cannot carry, or is in a state in which it cannot move.
 *
 *	mpirun -n 3 held STOP-FILE tcp child flock
 *
 * Rank i gets into the i-th state, says "ready I KIND", waits for STOP-FILE to appear, finds all as it was and ends. A
 * state that cannot be had here is said as "skip I KIND REASON". KIND=PATH gives some of them a path.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <mpi.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif

static const char *path, *stop; /* of KIND=PATH */
static volatile pid_t child;
static int pair[2] = { -1, -1 }; /* bytes written to the first come out of the second */

static bool is_over(void)
{
	return access(stop, F_OK) == 0;
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/* ---- sockets --------------------------------------------------------------------------------------------------- */

static int tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);

	if (bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &len) < 0)
		return -1;
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(pair[0], (struct sockaddr *)&a, len) < 0)
		return -1;
	pair[1] = accept(listener, NULL, NULL);
	return pair[1];
}

static int udp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	return connect(fd, (struct sockaddr *)&a, sizeof(a));
}

static int udp_bound(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return bind(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr *)&a, sizeof(a));
}

static int unix_connect(int type)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int unix_stream(void) { return unix_connect(SOCK_STREAM); }
static int unix_pair(void) { return socketpair(AF_UNIX, SOCK_STREAM, 0, pair); }
static int netlink(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }

/* ---- processes and threads ------------------------------------------------------------------------------------- */

static int child_waits(void)
{
	child = fork();
	if (child == 0)
		for (;;)
			pause();
	return child;
}

static int zombie(void)
{
	siginfo_t info;

	child = fork();
	if (child == 0)
		_exit(0);
	return waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
}

static int vfork_end[2];

/* the child of a vfork borrows this thread's stack until it ends */
static void *vfork_thread(void *arg)
{
	pid_t pid = vfork();

	if (pid == 0) {
		child = getpid(); /* memory is the parent's until it ends */
		if (write(vfork_end[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	return arg;
}

static int vfork_waits(void)
{
	pthread_t t;
	char byte;

	/* only to hear that the child is there: gone again before anybody looks */
	if (pipe(vfork_end) < 0 || pthread_create(&t, NULL, vfork_thread, NULL) || read(vfork_end[0], &byte, 1) != 1)
		return -1;
	close(vfork_end[0]);
	close(vfork_end[1]);
	return 0;
}

static void *apart(void *flags)
{
	bool done = unshare((int)(intptr_t)flags) == 0;

	if (write(pair[0], done ? "y" : "n", 1) != 1)
		return NULL;
	while (!is_over())
		pause_ms(10);
	return NULL;
}

static int thread_apart(int flags)
{
	pthread_t t;
	char byte = 'n';
	int ends[2];

	if (pipe(ends) < 0)
		return -1;
	pair[0] = ends[1];
	if (pthread_create(&t, NULL, apart, (void *)(intptr_t)flags) || read(ends[0], &byte, 1) != 1)
		return -1;
	pthread_detach(t);
	close(ends[0]);
	close(ends[1]);
	pair[0] = -1;
	errno = EPERM;
	return byte == 'y' ? 0 : -1;
}

static int thread_files(void) { return thread_apart(CLONE_FILES); }
static int thread_fs(void) { return thread_apart(CLONE_FS); }
static int namespace(void) { return unshare(CLONE_NEWUTS); }

static int seccomp_filter(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog all = { 1, &allow };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -1 : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all);
}

static int sigtrap(void) { return signal(SIGTRAP, SIG_IGN) == SIG_ERR ? -1 : 0; }

static int posix_timer(void)
{
	struct sigevent se = { .sigev_notify = SIGEV_NONE };
	timer_t t;

	return timer_create(CLOCK_THREAD_CPUTIME_ID, &se, &t);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static int map_shared(int fd)
{
	return ftruncate(fd, 4096) < 0 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0;
}

static int system_v(void)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	void *p = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (id >= 0)
		shmctl(id, IPC_RMID, NULL);
	return p == (void *)-1 ? -1 : 0;
}

static int memory_file(void) { return map_shared(memfd_create("held", 0)); }

static int scratch(bool is_kept)
{
	char name[] = "/tmp/godwit-held-XXXXXX";
	int fd = mkstemp(name);

	unlink(name);
	if (is_kept || fd < 0)
		return fd;
	return 0;
}

static int deleted(void) { return scratch(true); }

static int aio(void)
{
	aio_context_t ctx = 0;

	return (int)syscall(SYS_io_setup, 4, &ctx);
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

static int io_uring(void)
{
	uint32_t params[30] = { 0 };

	return (int)syscall(SYS_io_uring_setup, 2, params);
}

static int perf(void)
{
	struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(a), .config = PERF_COUNT_SW_TASK_CLOCK,
		.exclude_kernel = 1, .exclude_hv = 1 };

	return (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
}

static int bpf(void)
{
	struct { uint32_t type, key, value, entries, pad[12]; } a = { 2, 4, 4, 1, { 0 } }; /* BPF_MAP_TYPE_ARRAY */

	return (int)syscall(SYS_bpf, 0, &a, sizeof(a));
}

static int notify(void) { return inotify_init1(0); }
static int fanotify(void) { return fanotify_init(FAN_CLASS_NOTIF, O_RDONLY); }
static int user_fault(void) { return (int)syscall(SYS_userfaultfd, 1); }

/* of a process that has ended: it holds the rank by itself */
static int pid_handle(void)
{
	pid_t other = fork();
	int fd;

	if (other == 0)
		_exit(0);
	fd = (int)syscall(SYS_pidfd_open, other, 0);
	waitpid(other, NULL, 0);
	return fd;
}

static int proc_file(void) { return open("/proc/cpuinfo", O_RDONLY); }
static int proc_directory(void) { return open("/proc/self/task", O_RDONLY | O_DIRECTORY); }
static int terminal(void) { return posix_openpt(O_RDWR | O_NOCTTY); }
static int device(void) { return open(access("/dev/fuse", R_OK | W_OK) == 0 ? "/dev/fuse" : "/dev/kmsg", O_RDONLY); }

/* it watches a file that is open under another number only */
static int epoll(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int ep = epoll_create1(0), p[2];

	if (ep < 0 || pipe(p) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e) < 0 || dup(p[0]) < 0)
		return -1;
	close(p[0]);
	return ep;
}

static int queue(void)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/godwit-held-%d-%ld", (int)getpid(), (long)time(NULL));
	fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL);
	if (fd >= 0)
		mq_unlink(name);
	return fd;
}

static int half_pipe(void) { return pipe(pair) < 0 ? -1 : close(pair[0]); }
static int named_pipe(void) { return mkfifo(path, 0600) < 0 ? -1 : open(path, O_RDWR); }

static int locked(int cmd)
{
	struct flock fl = { .l_type = F_WRLCK };
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	return fd < 0 ? -1 : cmd ? fcntl(fd, cmd, &fl) : flock(fd, LOCK_EX);
}

static int lock_flock(void) { return locked(0); }
static int lock_fcntl(void) { return locked(F_SETLK); }
static int lock_ofd(void) { return locked(F_OFD_SETLK); }

/* ---- what passes, or is put back ------------------------------------------------------------------------------- */

static int nothing(void) { return 0; }

/* A command that runs while this says ready, and is waited for then. */
static FILE *command;
static int popen_now(void)
{
	command = popen("sleep 0.1", "r");
	return command ? 0 : -1;
}

static int fresh(void)
{
	pair[0] = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	return pair[0];
}

static int peer(int type)
{
	pair[0] = unix_connect(type);
	return pair[0];
}
static int peer_stream(void) { return peer(SOCK_STREAM); }
static int peer_datagram(void) { return peer(SOCK_DGRAM); }

static int logging(void)
{
	openlog("held", LOG_NDELAY, LOG_USER);
	syslog(LOG_NOTICE, "before");
	return 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static const struct { const char *kind; int (*enter)(void); } kinds[] = {
	{ "nothing", nothing }, { "tcp", tcp }, { "udp", udp }, { "udp-bound", udp_bound }, { "unix", unix_stream },
	{ "unix-pair", unix_pair }, { "netlink", netlink }, { "child", child_waits }, { "zombie", zombie },
	{ "vfork", vfork_waits }, { "thread-files", thread_files }, { "thread-fs", thread_fs }, { "namespace", namespace },
	{ "seccomp", seccomp_filter }, { "sigtrap", sigtrap }, { "posix-timer", posix_timer },
	{ "system-v", system_v }, { "memfd", memory_file }, { "deleted", deleted },
	{ "aio", aio }, { "io-uring", io_uring }, { "perf", perf }, { "bpf", bpf }, { "inotify", notify },
	{ "fanotify", fanotify }, { "userfaultfd", user_fault }, { "pidfd", pid_handle }, { "epoll", epoll },
	{ "terminal", terminal }, { "device", device },
	{ "queue", queue }, { "half-pipe", half_pipe }, { "named-pipe", named_pipe },
	{ "proc-file", proc_file }, { "proc-directory", proc_directory },
	{ "flock", lock_flock }, { "fcntl", lock_fcntl }, { "ofd", lock_ofd },
	{ "popen", popen_now }, { "fresh", fresh }, { "peer-stream", peer_stream }, { "peer-datagram", peer_datagram },
	{ "syslog", logging },
};

/* What was there is there still. Return NULL, or what is wrong. */
static const char *leave(const char *kind)
{
	char byte = 0;
	int fd;

	if (child && kill(child, 0) < 0)
		return "its child is gone";
	if (child) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	if (strncmp(kind, "peer-", 5) == 0) {
		bool is_stream = strcmp(kind, "peer-stream") == 0;
		ssize_t n = is_stream ? recv(pair[0], &byte, 1, 0) : 0;

		if (n != 0)
			return "its peer has not closed";
		if (send(pair[0], "x", 1, MSG_NOSIGNAL) >= 0 || errno != (is_stream ? EPIPE : ECONNREFUSED))
			return "a lost peer can be written to";
		fd = unix_connect(is_stream ? SOCK_STREAM : SOCK_DGRAM);
		return fd >= 0 && send(fd, "again", 5, MSG_NOSIGNAL) == 5 ? NULL : "it cannot connect again";
	}
	if (strcmp(kind, "fresh") == 0)
		return !(fcntl(pair[0], F_GETFL) & O_NONBLOCK) ? "its socket has lost its flags" :
		       recv(pair[0], &byte, 1, 0) < 0 && errno == EAGAIN ? NULL : "its socket is not a new one";
	if (strcmp(kind, "syslog") == 0)
		syslog(LOG_NOTICE, "after");
	if (strcmp(kind, "popen") == 0)
		return command ? "its command failed" : NULL;
	if (pair[0] >= 0 && pair[1] >= 0 && strcmp(kind, "half-pipe") != 0 &&
	    (write(pair[0], "z", 1) != 1 || read(pair[1], &byte, 1) != 1 || byte != 'z'))
		return "its connection is broken";
	return NULL;
}

/* Without MPI: the main thread ends, another goes on until the file is there. */
static void *goes_on(void *arg)
{
	while (!is_over())
		pause_ms(10);
	printf("held %s\n", (const char *)arg);
	fflush(stdout);
	exit(0);
}

static int main_exits(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, goes_on, (void *)(uintptr_t)"main-exits"))
		return 1;
	printf("ready 0 main-exits\n");
	fflush(stdout);
	pthread_exit(NULL);
}

/* Without MPI: says to the process manager what MPI_Init says first, and stays there until the file is there. */
static int in_init(void)
{
	static const char init[] = "cmd=init pmi_version=1 pmi_subversion=1\n", finalize[] = "cmd=finalize\n";
	const char *number = getenv("PMI_FD");
	int fd = number ? atoi(number) : -1;
	char line[256];

	if (write(fd, init, sizeof(init) - 1) < 0 || read(fd, line, sizeof(line)) <= 0)
		return 1;
	printf("ready 0 init\n");
	fflush(stdout);
	while (!is_over())
		pause_ms(5);
	return write(fd, finalize, sizeof(finalize) - 1) < 0 || read(fd, line, sizeof(line)) <= 0;
}

/* moments GO STOP: one rank waits before MPI_Init for GO; all wait after MPI_Finalize for STOP. */
static int moments(char **argv)
{
	const char *me = getenv("PMI_RANK");
	int rank;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready %s before\n", me);
	stop = argv[0];
	while (strcmp(me, "0") != 0 && !is_over())
		pause_ms(5);
	MPI_Init(NULL, NULL);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Finalize();
	printf("ready %d after\n", rank);
	stop = argv[1];
	while (!is_over())
		pause_ms(5);
	return 0;
}

#define LATE 24

/* After MPI_Finalize, LATE sockets that listen take whatever numbers are free. */
static int late(void)
{
	int rank;

	MPI_Init(NULL, NULL);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Finalize();
	for (int i = 0; i < LATE; i++)
		if (listen(socket(AF_INET, SOCK_STREAM, 0), 1) < 0)
			return 1;
	printf("ready %d late %d\n", rank, LATE);
	fflush(stdout);
	while (!is_over())
		pause_ms(5);
	return 0;
}

int main(int argc, char **argv)
{
	int rank, ranks, rc = -1;
	const char *wrong;
	char *kind;
	size_t i;

	if (argc == 4 && strcmp(argv[1], "moments") == 0)
		return moments(argv + 2);
	if (argc < 3)
		return 2;
	stop = argv[1];
	if (strcmp(argv[2], "main-exits") == 0)
		return main_exits();
	if (strcmp(argv[2], "init") == 0)
		return in_init();
	if (strcmp(argv[2], "late") == 0)
		return late();
	MPI_Init(NULL, NULL);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	if (argc != ranks + 2) {
		fprintf(stderr, "held: %d ranks, but %d states\n", ranks, argc - 2);
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	kind = argv[2 + rank];
	path = strchr(kind, '=');
	if (path)
		kind[path++ - kind] = '\0';
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && strcmp(kind, kinds[i].kind) != 0; i++)
		;
	errno = ENOSYS;
	if (i < sizeof(kinds) / sizeof(kinds[0]))
		rc = kinds[i].enter();
	if (rc < 0)
		printf("skip %d %s %s\n", rank, kind, strerror(errno));
	else
		printf("ready %d %s\n", rank, kind);
	fflush(stdout);
	if (command && fgetc(command) == EOF && pclose(command) == 0)
		command = NULL;
	while (!is_over())
		pause_ms(10);
	wrong = rc < 0 ? NULL : leave(kind);
	MPI_Barrier(MPI_COMM_WORLD);
	printf("%s %d %s %s\n", wrong ? "wrong" : "held", rank, kind, wrong ? wrong : "as it was");
	fflush(stdout);
	MPI_Finalize();
	return wrong != NULL;
}
