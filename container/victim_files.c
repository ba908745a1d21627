/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs with files that are nowhere else: in memory, or without a name. */
#include "container/victim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- memory files ------------------------------------------------------------------------------------------------- */

#define MEM_SIZE (8u << 20)
#define MEM_PAGE 4096u

static int reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags);
}

static int unnamed(void)
{
	char path[] = "/dev/shm/ct-victim-XXXXXX";
	int fd = mkstemp(path);

	unlink(path);
	return fd;
}

static long blocks(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? -1 : (long)st.st_blocks;
}

int memories(void)
{
	const int sealed_by = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, all = PROT_READ | PROT_WRITE;
	int fd = memfd_create("a name/with a slash", MFD_ALLOW_SEALING | MFD_CLOEXEC), same = dup(fd), other = -1;
	int reader = -1, sealed, closed, shm;
	volatile uint64_t *one, *two, *mine, *alone, *lost, *part, *late;
	const volatile uint64_t *quiet;
	char line[64], link[64] = "", got[64] = "";
	uint64_t n = 0, word;
	long had = 0;

	if (fd < 0 || ftruncate(fd, MEM_SIZE) < 0 || same < 0 || (other = reopen(fd, O_RDWR)) < 0 ||
	    (reader = reopen(fd, O_RDONLY)) < 0)
		say("bad memfd: %s", strerror(errno));
	one = mmap(NULL, MEM_SIZE, all, MAP_SHARED, fd, 0);
	two = mmap(NULL, MEM_SIZE / 2, all, MAP_SHARED, fd, MEM_SIZE / 2); /* of the second half, again */
	mine = mmap(NULL, MEM_SIZE, all, MAP_PRIVATE, fd, 0);
	if (one == MAP_FAILED || two == MAP_FAILED || mine == MAP_FAILED)
		say("bad map: %s", strerror(errno));
	one[0] = two[0] = 1;
	mine[8 * MEM_PAGE / 8] = 4711; /* its own copy of a page that is a hole */
	lseek(same, 100, SEEK_SET);
	lseek(other, 200, SEEK_SET);
	sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
	if (ftruncate(sealed, MEM_PAGE) < 0 || pwrite(sealed, "kept", 4, 0) != 4 || fcntl(sealed, F_ADD_SEALS, sealed_by) < 0)
		say("bad seals: %s", strerror(errno));
	quiet = mmap(NULL, MEM_PAGE, PROT_READ, MAP_SHARED, sealed, 0);
	closed = memfd_create("closed", 0);
	if (ftruncate(closed, 4 * MEM_PAGE) < 0 || fchmod(fd, 0640) < 0)
		say("bad size: %s", strerror(errno));
	alone = mmap(NULL, 4 * MEM_PAGE, all, MAP_SHARED, closed, 0);
	late = mmap(NULL, MEM_PAGE, PROT_NONE, MAP_SHARED, closed, 0);
	close(closed);
	shm = unnamed();
	if (shm < 0 || ftruncate(shm, 2 * MEM_PAGE) < 0)
		say("bad shm: %s", strerror(errno));
	lost = mmap(NULL, 2 * MEM_PAGE, all, MAP_SHARED, shm, 0);
	part = mmap(NULL, MEM_PAGE, all, MAP_SHARED, shm, MEM_PAGE);
	snprintf(line, sizeof(line), "/proc/self/fd/%d", fd);
	if (readlink(line, link, sizeof(link) - 1) < 0)
		say("bad link: %s", strerror(errno));
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		char path[32];
		struct stat st;

		n++;
		if (one[0] != n || one[MEM_SIZE / 2 / 8] != n || two[0] != n || mine[8 * MEM_PAGE / 8] != 4711 || one[8 * MEM_PAGE / 8])
			say("bad contents");
		one[0]++;
		two[0]++;
		if (one[MEM_SIZE / 2 / 8] != n + 1 || mine[MEM_SIZE / 2 / 8] != n + 1)
			say("bad: two mappings are two memories");
		if (pread(reader, &word, 8, MEM_SIZE / 2) != 8 || word != n + 1 || pwrite(other, &n, 8, 4 * MEM_PAGE) != 8 ||
		    one[4 * MEM_PAGE / 8] != n)
			say("bad: a descriptor and a mapping are two files");
		had = n == 1 ? blocks(fd) : had;
		if (blocks(fd) != had || had * 512 >= (long)MEM_SIZE / 4)
			say("bad: holes are filled: %ld, not %ld", blocks(fd), had);
		if (lseek(fd, 0, SEEK_CUR) != 100 || lseek(other, 0, SEEK_CUR) != 200 || lseek(reader, 0, SEEK_CUR) != 0 ||
		    lseek(fd, 100, SEEK_SET) != 100 || write(reader, "x", 1) >= 0 || !(fcntl(fd, F_GETFD) & FD_CLOEXEC) ||
		    (fcntl(same, F_GETFD) & FD_CLOEXEC))
			say("bad positions or flags");
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		memset(got, 0, sizeof(got));
		if (fstat(fd, &st) < 0 || st.st_size != MEM_SIZE || (st.st_mode & 07777) != 0640 ||
		    readlink(path, got, sizeof(got) - 1) < 0 || strcmp(got, link) != 0)
			say("bad name, size or mode: %s", got);
		if (fcntl(fd, F_GET_SEALS) != 0 || fcntl(sealed, F_GET_SEALS) != sealed_by || write(sealed, "x", 1) >= 0 ||
		    memcmp((const void *)quiet, "kept", 4) != 0)
			say("bad seals %#x %#x", fcntl(fd, F_GET_SEALS), fcntl(sealed, F_GET_SEALS));
		if (alone[512 * 3] != n - 1 || lost[0] != n - 1 || lost[512] != n - 1 || part[0] != n - 1)
			say("bad contents of what has no descriptor or no name");
		alone[512 * 3]++;
		alone[0] = n;
		mprotect((void *)late, MEM_PAGE, all);
		if (late[0] != n)
			say("bad: a mapping that was closed to all is another memory");
		mprotect((void *)late, MEM_PAGE, PROT_NONE);
		lost[0]++;
		part[0]++;
		if (pread(shm, &word, 8, MEM_PAGE) != 8 || word != n)
			say("bad: a file without a name is two");
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- files of a file system that have lost their name, and are mapped -------------------------------------------------- */

static int file_make(const char *dir, const char *name, size_t size)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	for (size_t at = 0; at < size; at += 8) {
		uint64_t word = 0x1234500000000ull + at;

		if (pwrite(fd, &word, size - at < 8 ? size - at : 8, (off_t)at) < 0)
			say("bad write: %s", strerror(errno));
	}
	unlink(path);
	return fd;
}

/* Its own program, too. */
int gone(const char *dir)
{
	char exe[256] = "";

	if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0 || unlink(exe) < 0)
		say("bad program: %s", strerror(errno));
	return nameless(dir);
}

static bool is_program_there(void)
{
	int fd = open("/proc/self/exe", O_RDONLY);
	char magic[4] = "";
	bool is_there = fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "\177ELF", 4) == 0;

	close(fd);
	return is_there;
}

int nameless(const char *dir)
{
	const size_t size = 5 * MEM_PAGE + 104;
	const int all = PROT_READ | PROT_WRITE;
	int closed = file_make(dir, "closed", size), open_too = file_make(dir, "open", size), library = file_make(dir, "library", size), other = -1;
	volatile uint64_t *alone = mmap(NULL, size, all, MAP_SHARED, closed, 0), *one = mmap(NULL, size, all, MAP_SHARED, open_too, 0);
	volatile uint64_t *two = mmap(NULL, MEM_PAGE, all, MAP_SHARED, open_too, MEM_PAGE);
	volatile uint64_t *code = mmap(NULL, size, all, MAP_PRIVATE, library, 0);
	uint64_t n = 0, word;
	char line[64];

	if (alone == MAP_FAILED || one == MAP_FAILED || two == MAP_FAILED || code == MAP_FAILED || (other = reopen(open_too, O_RDWR)) < 0)
		say("bad map: %s", strerror(errno));
	close(closed);
	close(library);
	lseek(open_too, 77, SEEK_SET);
	alone[0] = one[0] = two[0] = 0;
	code[MEM_PAGE / 8] = 4711; /* its own copy of one page; of the others none is touched */
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		struct stat st;

		if (alone[0] != n || one[0] != n || two[0] != n || one[MEM_PAGE / 8] != n || code[MEM_PAGE / 8] != 4711)
			say("bad contents");
		if (alone[2 * MEM_PAGE / 8 + 1] != 0x1234500000000ull + 2 * MEM_PAGE + 8 || alone[size / 8 - 1] != 0x1234500000000ull + size - 8 ||
		    alone[size / 8] || code[n % 100 + 1] != 0x1234500000000ull + (n % 100 + 1) * 8 || code[4 * MEM_PAGE / 8 + n] != 0x1234500000000ull +
		    4 * MEM_PAGE + 8 * n)
			say("bad contents of what was not written");
		n++;
		alone[0] = one[0] = n;
		two[0] = n;
		if (pread(other, &word, 8, MEM_PAGE) != 8 || word != n || pwrite(other, &n, 8, 4 * MEM_PAGE) != 8 || one[4 * MEM_PAGE / 8] != n ||
		    one[MEM_PAGE / 8] != n)
			say("bad: a descriptor and a mapping are two files");
		if (!is_program_there())
			say("bad program: %s", strerror(errno));
		if (fstat(open_too, &st) < 0 || st.st_size != (off_t)size || lseek(open_too, 0, SEEK_CUR) != 77 || lseek(other, 0, SEEK_CUR) != 0)
			say("bad size or position");
		say("ok %s", line);
	}
	say("done");
	return 7;
}

/* ---- huge pages that are reserved -------------------------------------------------------------------------------------- */

#define HUGE (2u << 20)

int reserved(void)
{
	const int all = PROT_READ | PROT_WRITE;
	volatile uint64_t *own = mmap(NULL, 3 * HUGE, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	volatile uint64_t *shared = mmap(NULL, HUGE, all, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0), *file;
	int fd = memfd_create("huge", MFD_HUGETLB);
	uint64_t n = 0, word;
	char line[64];

	if (own == MAP_FAILED || shared == MAP_FAILED || fd < 0 || ftruncate(fd, HUGE) < 0)
		return 2;
	file = mmap(NULL, HUGE, all, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED)
		return 2;
	for (size_t i = 0; i < HUGE / 8; i++)
		own[i] = i;
	mprotect((void *)(uintptr_t)&own[2 * HUGE / 8], HUGE, PROT_READ); /* never touched */
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		for (size_t i = 0; i < HUGE / 8; i += 511)
			if (own[i] != i)
				say("bad word %zu: %llx", i, (unsigned long long)own[i]);
		if (own[HUGE / 8] != n || own[2 * HUGE / 8 - 1] != n || own[5 * HUGE / 16] || shared[0] != n || shared[HUGE / 8 - 1] != n ||
		    file[512] != n || pread(fd, &word, 8, 4096) != 8 || word != n)
			say("bad contents after %llu", (unsigned long long)n);
		n++;
		own[HUGE / 8] = own[2 * HUGE / 8 - 1] = shared[0] = shared[HUGE / 8 - 1] = file[512] = n;
		if (n % 4 == 3) { /* given back, and written again */
			madvise((void *)(uintptr_t)&own[HUGE / 8], HUGE, MADV_DONTNEED);
			if (own[HUGE / 8] || own[2 * HUGE / 8 - 1])
				say("bad: given back, and still there");
			own[HUGE / 8] = own[2 * HUGE / 8 - 1] = n;
		}
		say("ok %s", line);
	}
	say("done");
	return 7;
}
