/* SPDX-License-Identifier: BSD-2-Clause */
/* tests/sweep.h: a directory of a test that goes when the test does, however that ends: a process of its own waits for it. */
#ifndef SWEEP_H
#define SWEEP_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the sweeper: nothing of the test's is held open, and no signal to its group comes here. */
__attribute__((noreturn)) static inline void sweep_wait(const char *path, int end)
{
	int null = open("/dev/null", O_RDWR);
	char byte;

	setsid();
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	dup2(end, 3);
	syscall(SYS_close_range, 4, ~0u, 0);
	while (read(3, &byte, 1) > 0)
		;
	execl("/bin/rm", "rm", "-rf", "--", path, (char *)NULL);
	_exit(127);
}

/** sweep_dir - mkdtemp(@path), which is removed with all that is in it after the caller and all that it forks have ended
 *  Return: 0 or -1 with errno. A test that removes it itself, at its end, does no harm. */
static inline int sweep_dir(char *path)
{
	int ends[2];
	pid_t pid;

	if (!mkdtemp(path) || pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) { /* twice, so that it is nobody's child whom the test waits for */
		close(ends[1]);
		if (fork() == 0)
			sweep_wait(path, ends[0]);
		_exit(0);
	}
	close(ends[0]); /* the other end stays open as long as there is a process of the test */
	return pid > 0 && waitpid(pid, NULL, 0) == pid ? 0 : -1;
}

#endif
