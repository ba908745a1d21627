/* SPDX-License-Identifier: BSD-2-Clause */
/* A team of OpenMP threads, moved in the middle of a parallel region that never ends: the tests compile it where they can. */
#include <omp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int hear(char *line, int cap)
{
	int n = 0;

	while (n < cap - 1 && read(0, line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = '\0';
	return n > 0;
}

static void say(const char *text)
{
	dprintf(1, "%s\n", text);
}

int main(void)
{
	static double sums[2], total;
	static int is_over;
	unsigned long rounds = 0;

	omp_set_num_threads(4);
	say("ready");
#pragma omp parallel
	{
		int me = omp_get_thread_num();
		char line[64], answer[80];

		while (!is_over) {
#pragma omp barrier
#pragma omp single
			sums[0] = sums[1] = total = 0;
#pragma omp for schedule(dynamic, 7) reduction(+ : total)
			for (int i = 0; i < 2000; i++)
				total += i;
#pragma omp for schedule(static)
			for (int i = 0; i < 2000; i++)
#pragma omp atomic
				sums[0] += i;
#pragma omp critical
			sums[1] += me;
#pragma omp barrier
#pragma omp master
			{
				struct pollfd p = { .events = POLLIN };

				if (total != 1999000 || sums[0] != 1999000 || sums[1] != 6 || omp_get_num_threads() != 4)
					say("bad sums");
				rounds++;
				if (poll(&p, 1, 0) == 1 && hear(line, sizeof(line))) {
					is_over = strcmp(line, "end") == 0;
					snprintf(answer, sizeof(answer), "ok %s", line);
					if (!is_over)
						say(answer);
				}
			}
#pragma omp barrier
		}
	}
	say(rounds ? "done" : "bad: no rounds");
	return 7;
}
