/* SPDX-License-Identifier: BSD-2-Clause */
/* godwit restart: becomes the mpirun of a job that was written down. */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/control/control.h"

static const char usage[] =
"Usage: godwit restart DIR [OPTION of mpirun...]\n"
"Continue a job that 'godwit checkpoint' wrote to DIR, on the hosts and clusters that the options of mpirun name, as\n"
"-f FILE, -hosts A,B, -clusters N, -launcher X. It becomes its mpirun: output, signals and exit status are the job's.\n"
"Programs, arguments and environment are those of then. See godwit(1) and mpirun(1).\n";

int control_restart(int argc, char **argv)
{
	char path[4096], option[] = "-restart", name[] = "mpirun";
	char **words = calloc((size_t)argc + 2, sizeof(*words));
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(name));
	char *slash;

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0)) {
		fputs(usage, stdout);
		return fflush(stdout) == 0 ? CONTROL_DONE : CONTROL_FAILED;
	}
	if (argc < 2 || argv[1][0] == '-') {
		fprintf(stderr, "godwit: name a directory first, then options of mpirun; 'godwit restart --help' shows how\n");
		return CONTROL_WRONG;
	}
	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	if (!words || !slash) {
		fprintf(stderr, "godwit: mpirun cannot be found: %s\n", words ? "there is no /proc" : "out of memory");
		return CONTROL_FAILED;
	}
	memcpy(slash + 1, name, sizeof(name));
	words[0] = name;
	words[1] = option;
	memcpy(words + 2, argv + 1, (size_t)(argc - 1) * sizeof(*words));
	execv(path, words);
	fprintf(stderr, "godwit: '%s' cannot be executed: %s\n", path, strerror(errno));
	return CONTROL_FAILED;
}
