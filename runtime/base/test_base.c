/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of runtime/base: errors, lists, cleanup. */
#include "runtime/base/base.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/tap.h"

struct item { int value; struct gw_list link; };

static void test_errors(void)
{
	struct gw_error why = { 0 };

	is_int(gw_fail(&why, -ENOENT, "no rank %d", 3), -ENOENT, "gw_fail returns its code");
	is_str(why.text, "no rank 3", "gw_fail formats the sentence");
	is_int(gw_fail_more(&why, "job %d: ", 7), -ENOENT, "gw_fail_more returns the code that was there");
	is_str(why.text, "job 7: no rank 3", "gw_fail_more puts its words in front");
	gw_fail(&why, -EIO, "%s", "n\xc3\xa4 \xe2\x82\xac \xf0\x9f\xa6\x86 a\xe9" "b \xed\xa0\x80 \xc0\xaf \xe2\x82");
	is_str(why.text, "n\xc3\xa4 \xe2\x82\xac \xf0\x9f\xa6\x86 a?b ??? ?? ??", "what is not UTF-8 is ? in a sentence");
	gw_fail(&why, -EIO, "%0*d\xc3\xa4", (int)sizeof(why.text) - 2, 0);
	is_int((unsigned char)why.text[sizeof(why.text) - 2], '?', "and so is a letter that was cut");
	is_int(gw_fail(NULL, -EIO, "nobody reads this"), -EIO, "a caller that wants no text passes NULL");
}

static void test_list(void)
{
	struct gw_list head;
	struct item items[3] = { { .value = 1 }, { .value = 2 }, { .value = 3 } };
	int sum = 0;

	gw_list_init(&head);
	ok(gw_list_is_empty(&head), "a new list is empty");
	for (size_t i = 0; i < GW_ARRAY_LEN(items); i++)
		gw_list_append(&head, &items[i].link);
	gw_list_for(l, &head)
		sum = sum * 10 + gw_list_entry(l, struct item, link)->value;
	is_int(sum, 123, "a list keeps the order of appending");
	gw_list_for_safe(l, &head)
		gw_list_remove(l);
	ok(gw_list_is_empty(&head), "elements can be removed while walking");
}

static void test_cleanup(void)
{
	int kept;

	{
		gw_autoclose int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

		kept = fd;
	}
	is_int(fcntl(kept, F_GETFD), -1, "gw_autoclose closes at the end of the scope");
}

static void test_faults(void)
{
	is_int(gw_fault("test.nothing"), GW_FAULT_NONE, "without GODWIT_FAULT no fault happens");
}

/* A child has a child that is stopped by a fault, tells its number, and ends. Before test_faults(): the variable is read once */
static void test_stopped(void)
{
	pid_t parent, child = 0;
	struct pollfd end = { .events = POLLIN };
	int told[2], status = 0;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (pipe(told) < 0)
		tap_bail("no pipe");
	parent = fork();
	if (parent == 0) {
		child = fork();
		if (child == 0) {
			setenv("GODWIT_FAULT", "test.edge=stop", 1);
			gw_fault("test.edge");
			_exit(1);
		}
		waitpid(child, NULL, WUNTRACED);
		_exit(write(told[1], &child, sizeof(child)) != sizeof(child));
	}
	waitpid(parent, NULL, 0);
	if (read(told[0], &child, sizeof(child)) != sizeof(child))
		tap_bail("no child");
	end.fd = (int)syscall(SYS_pidfd_open, child, 0);
	poll(&end, 1, 10000);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	ok((end.revents & POLLIN) && WIFSIGNALED(status), "who is stopped by a fault dies with its parent");
	close(end.fd);
	close(told[0]);
	close(told[1]);
}

int main(void)
{
	tap_begin(20);
	test_errors();
	test_list();
	test_cleanup();
	test_stopped();
	test_faults();
	return tap_done();
}
