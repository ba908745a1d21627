/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The program that test_session moves: it knows nothing of it.
 *
 * usage: test_mover FILE MIB      appends 8-byte numbers 0, 1, 2, ... to FILE, checks its MIB of memory meanwhile
 *
 * Two live copies, or one that was set back, leave a number twice in FILE; a copy with wrong memory ends with 3.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* half of it shrinks when it is packed, half does not */
static uint64_t word(size_t i, size_t words)
{
	return (i < words / 2 ? i / 64 : i) * 0x9e3779b97f4a7c15u;
}

int main(int argc, char **argv)
{
	size_t words = (argc > 2 ? strtoul(argv[2], NULL, 10) : 0) * (1 << 20) / sizeof(uint64_t);
	uint64_t *memory = malloc(words * sizeof(*memory) + 1);
	struct timespec pause = { 0, 300000 };
	int fd = argc > 1 ? open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;

	if (fd < 0 || !memory)
		return 2;
	for (size_t i = 0; i < words; i++)
		memory[i] = word(i, words);
	for (uint64_t n = 0;; n++) {
		if (write(fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
			return 4;
		for (unsigned k = 0; words && k < 64; k++) {
			size_t i = (size_t)(n * 64 + k) * 509 % words; /* one word of each page, in turn */

			if (memory[i] != word(i, words))
				return 3;
		}
		nanosleep(&pause, NULL);
	}
}
