/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/programs/deny: run a command under a seccomp filter that denies some system calls, as containers do.
 *
 *	deny EPERM ptrace,process_vm_writev mpirun -n 2 ...
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct { const char *name; unsigned number; } calls[] = {
	{ "ptrace", SYS_ptrace }, { "userfaultfd", SYS_userfaultfd }, { "clone3", SYS_clone3 }, { "unshare", SYS_unshare },
	{ "process_vm_writev", SYS_process_vm_writev }, { "process_vm_readv", SYS_process_vm_readv },
	{ "membarrier", SYS_membarrier }, { "pidfd_open", SYS_pidfd_open }, { "pidfd_getfd", SYS_pidfd_getfd },
	{ "kcmp", SYS_kcmp }, { "mount", SYS_mount }, { "close_range", SYS_close_range }, { "memfd_create", SYS_memfd_create },
	{ "rseq", SYS_rseq }, { "get_mempolicy", SYS_get_mempolicy }, { "set_mempolicy", SYS_set_mempolicy },
	{ "sched_setaffinity", SYS_sched_setaffinity }, { "pidfd_send_signal", SYS_pidfd_send_signal },
};
/* Of ioctl and unshare only what has this second, or first, argument. */
static const struct { const char *name; unsigned number, argument, value; } parts[] = {
	{ "pagemap_scan", SYS_ioctl, 1, 0xc0606610u }, { "timens", SYS_unshare, 0, 0x80 },
};
static const struct { const char *name; int number; } errors[] = {
	{ "EPERM", EPERM }, { "ENOSYS", ENOSYS }, { "ENOSPC", ENOSPC }, { "ENOTTY", ENOTTY },
};
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

int main(int argc, char **argv)
{
	struct sock_filter filter[2 + 2 * LEN(calls) + 5 * LEN(parts)] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog program = { .filter = filter };
	unsigned n = 1, error = 0;

	for (size_t i = 0; argc > 3 && i < LEN(errors); i++)
		if (strcmp(argv[1], errors[i].name) == 0)
			error = (unsigned)errors[i].number;
	if (!error) {
		fprintf(stderr, "usage: deny EPERM|ENOSYS|ENOSPC|ENOTTY CALL[,CALL...] COMMAND...\n");
		return 2;
	}
	for (char *name = strtok(argv[2], ","); name; name = strtok(NULL, ",")) {
		size_t i = 0, k = 0;

		while (k < LEN(parts) && strcmp(parts[k].name, name))
			k++;
		if (k < LEN(parts) && n + 6 <= LEN(filter)) {
			unsigned at = (unsigned)offsetof(struct seccomp_data, args) + parts[k].argument * 8;

			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, parts[k].number, 0, 4);
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at);
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, parts[k].value, 0, 1);
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
			filter[n++] = filter[0];
			continue;
		}
		while (i < LEN(calls) && strcmp(calls[i].name, name))
			i++;
		if (i == LEN(calls) || n + 3 > LEN(filter)) {
			fprintf(stderr, "deny: '%s' is not known here\n", name);
			return 2;
		}
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, 1);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = (unsigned short)n;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		perror("deny: seccomp");
		return 3;
	}
	execvp(argv[3], argv + 3);
	perror(argv[3]);
	return 127;
}
