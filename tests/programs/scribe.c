/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A rank that keeps files open while it is moved: it appends numbered lines to one, looks at another, and says at its end
 * how many it wrote.
 *
 * scribe STOP [-a FILE] [-r FILE] [-d DIRECTORY] [-m FILE] [-u FILE] [-w FILE] ...: append to, read, keep open a directory,
 * map and read, write a file that is deleted while open, write through memory. It ends when STOP is there.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	int append[16], deleted[16], n_append = 0, n_deleted = 0, opt;
	const unsigned char *map = NULL;
	unsigned long *count = NULL;
	unsigned long lines = 0, sum = 0;
	const char *stop = argv[1];
	size_t map_len = 0;
	int reads = -1;
	struct stat st;
	char line[64];

	must(argc > 1, "scribe STOP ...");
	for (optind = 2; (opt = getopt(argc, argv, "a:r:d:m:u:w:")) != -1;) {
		int fd = open(optarg, opt == 'a' ? O_RDWR | O_APPEND | O_CREAT : opt == 'u' ? O_RDWR | O_CREAT | O_EXCL :
		              opt == 'w' ? O_RDWR | O_CREAT : O_RDONLY, 0640);

		must(fd >= 0, optarg);
		if (opt == 'a' && n_append < 16)
			append[n_append++] = fd;
		if (opt == 'u' && n_deleted < 16) {
			must(unlink(optarg) == 0, optarg);
			deleted[n_deleted++] = fd;
		}
		if (opt == 'r')
			must(read(fd, line, 7) == 7 && lseek(reads = fd, 0, SEEK_CUR) == 7, optarg);
		if (opt == 'w') {
			must(ftruncate(fd, 4096) == 0, optarg);
			count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			must(count != MAP_FAILED, optarg);
			close(fd);
		}
		if (opt == 'm') {
			must(fstat(fd, &st) == 0, optarg);
			map_len = (size_t)st.st_size;
			map = mmap(NULL, map_len, PROT_READ, MAP_SHARED, fd, 0);
			must(map != MAP_FAILED, optarg);
			close(fd);
		}
	}
	printf("ready\n");
	fflush(stdout);
	for (; access(stop, F_OK) < 0; lines++) {
		int len = snprintf(line, sizeof(line), "%08lu\n", lines);

		for (int i = 0; i < n_append; i++)
			must(write(append[i], line, (size_t)len) == len, "append");
		for (int i = 0; i < n_deleted; i++)
			must(pwrite(deleted[i], line, (size_t)len, (off_t)lines * len) == len, "write what is deleted");
		for (size_t k = 0; k < map_len; k += 4096)
			sum += map[k];
		if (count) {
			must(count[lines % 512] == lines / 512, "what was written through memory");
			count[lines % 512]++;
		}
		usleep(1000);
	}
	must(reads < 0 || lseek(reads, 0, SEEK_CUR) == 7, "the position of what is read");
	for (int i = 0; i < n_deleted; i++)
		for (unsigned long k = 0; k < lines; k++) {
			char want[32];

			snprintf(want, sizeof(want), "%08lu\n", k);
			must(pread(deleted[i], line, 9, (off_t)k * 9) == 9 && memcmp(line, want, 9) == 0, "read what is deleted");
		}
	gethostname(line, sizeof(line));
	printf("wrote %lu on %s%s\n", lines, line, map_len && !sum ? " (zeroes)" : "");
	return 0;
}
