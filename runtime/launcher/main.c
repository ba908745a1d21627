/* SPDX-License-Identifier: BSD-2-Clause */
/* mpirun, also called mpiexec. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

static int run(struct job_spec *spec)
{
	struct gw_error why = { 0 };
	int code = restart_take(spec, &why);

	if (code == 0 && spec->pool)
		code = pool_take(spec, &why);
	if (code < 0 && !(code == -EBADMSG && again_pass_over(spec, why.text)))
		fprintf(stderr, "mpirun: %s\n", why.text);
	code = code < 0 ? 1 : job_run(spec);
	restart_release(spec);
	return code;
}

int main(int argc, char **argv)
{
	struct job_spec spec = { 0 };
	struct gw_error why = { 0 };
	int code;

	for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR))
		if (fd > STDERR_FILENO) { /* a standard stream that was closed must not become one of our sockets */
			close(fd);
			break;
		}
	gw_log_init("mpirun");
	gw_event_init("mpirun", NULL);
	code = options_parse(&spec, argc, argv, &why);
	if (code == 0)
		code = again_take(&spec, &why);
	if (code < 0)
		fprintf(stderr, "mpirun: %s\n", why.text);
	if (code)
		code = code < 0 || fflush(stdout) != 0;
	else
		do
			code = run(&spec);
		while (again_next(&spec));
	again_release(&spec);
	options_fini(&spec);
	return code;
}
