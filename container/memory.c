/* SPDX-License-Identifier: BSD-2-Clause */
/* The memory of another process: by process_vm_readv and _writev, or, where these are denied, by its file in /proc. */
#include "container/rank.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

static bool is_denied(ssize_t n)
{
	return n < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES);
}

/* Each of @n stretches on its own, until one ends early. As the system calls: bytes, or -1 with errno when there are none */
static ssize_t by_file(pid_t pid, const struct iovec *local, const struct iovec *remote, size_t n, bool is_writing)
{
	gw_autoclose int fd = -1;
	ssize_t done = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, (is_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		for (size_t at = 0; at < local[i].iov_len;) {
			char *here = (char *)local[i].iov_base + at;
			off_t there = (off_t)((uintptr_t)remote[i].iov_base + at);
			ssize_t got = is_writing ? pwrite(fd, here, local[i].iov_len - at, there) :
			                           pread(fd, here, local[i].iov_len - at, there);

			if (got <= 0) {
				errno = got == 0 || errno == EIO ? EFAULT : errno;
				return done ? done : -1;
			}
			at += (size_t)got;
			done += got;
		}
	return done;
}

ssize_t ct_mem_readv(pid_t pid, const struct iovec *to, const struct iovec *from, size_t n)
{
	ssize_t got = process_vm_readv(pid, to, n, from, n, 0);

	return is_denied(got) ? by_file(pid, to, from, n, false) : got;
}

ssize_t ct_mem_writev(pid_t pid, const struct iovec *from, const struct iovec *to, size_t n)
{
	ssize_t done = process_vm_writev(pid, from, n, to, n, 0);

	return is_denied(done) ? by_file(pid, from, to, n, true) : done;
}

int ct_mem_read(pid_t pid, uint64_t addr, void *buf, size_t len)
{
	struct iovec to = { buf, len }, from = { (void *)addr, len };
	ssize_t n = ct_mem_readv(pid, &to, &from, 1);

	return n < 0 ? -errno : (size_t)n == len ? 0 : -EFAULT;
}

int ct_mem_write(pid_t pid, uint64_t addr, const void *buf, size_t len)
{
	struct iovec from = { (void *)buf, len }, to = { (void *)addr, len };
	ssize_t n = ct_mem_writev(pid, &from, &to, 1);

	return n < 0 ? -errno : (size_t)n == len ? 0 : -EFAULT;
}
