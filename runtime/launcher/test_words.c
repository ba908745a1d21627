/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of what the launcher reads: lines of a configuration file, the kernel's pattern of core files, times and names of
 * signals, hosts; and of signals that wait. */
#include "runtime/launcher/core.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/options.h"
#include "runtime/sigqueue.h"
#include "tests/tap.h"

static void check_split(const char *line, int want_code, const char *want)
{
	struct strings words = { 0 };
	char text[512] = "";
	int code = options_split(line, &words);

	for (size_t i = 0; i < words.n; i++)
		sprintf(text + strlen(text), "<%s>", words.list[i]);
	ok(code == want_code && (code < 0 || strcmp(text, want) == 0), "a line is cut into words: %s", want);
	if (code != want_code || (code == 0 && strcmp(text, want) != 0))
		printf("# %d %s\n", code, text);
	strings_fini(&words);
}

static void check_core(const char *pattern, int uses_pid, int want_code, const char *want)
{
	struct core_facts facts = { .pid = 301, .host_pid = 77, .uid = 5, .gid = 6, .signal = 11, .host = "bay", .cwd = "/home/u" };
	char text[256] = "";
	int code = core_glob(pattern, uses_pid, &facts, text, sizeof(text));

	ok(code == want_code && (code < 0 || strcmp(text, want) == 0), "core_pattern '%s' is looked for as '%s'", pattern, want);
	if (code != want_code || (code == 0 && strcmp(text, want) != 0))
		printf("# %d %s\n", code, text);
}

static void check_queue(void)
{
	struct rt_sigqueue q = { 0 };

	for (int i = 0; i < 3; i++) {
		rt_sigqueue_add(&q, SIGUSR2);
		rt_sigqueue_add(&q, SIGUSR1);
	}
	ok(q.n == 6 && q.list[0] == SIGUSR2 && q.list[1] == SIGUSR1 && q.list[5] == SIGUSR1, "signals wait in their order, each");
	for (int i = 0; i < 1000; i++)
		rt_sigqueue_add(&q, SIGUSR1);
	rt_sigqueue_add(&q, SIGTERM);
	ok(q.n <= sizeof(q.list) && q.list[0] == SIGUSR2 && rt_sigqueue_has(&q, SIGTERM) && q.list[q.n - 1] == SIGTERM,
	   "a full queue keeps one of each kind, and takes more");
	rt_sigqueue_add(&q, 0);
	rt_sigqueue_add(&q, 65);
	ok(q.list[q.n - 1] == SIGTERM, "what is no signal is not kept");
}

/* "0 0 2 3": where ranks begin, on one host or several of a machine with the clusters 1 and 4 for services */
static void check_layout(uint32_t hosts, uint32_t ppn, const uint32_t *slots, uint32_t size, const char *want)
{
	struct host_spec named[4] = { 0 };
	static const char five[] = "{\"mesh\": [5], \"services\": [1, 4]}";
	struct job_spec spec = { .n_hosts = hosts, .ppn = ppn, .has_slots = slots, .size = size, .hosts = named };
	struct gw_error why = { 0 };
	struct layout l;
	char text[256] = "";

	for (uint32_t i = 0; slots && i < hosts; i++)
		named[i].slots = slots[i];
	if (bal_machine_parse(&spec.machine, five, strlen(five), &why) < 0 || layout_check(&spec, &why) < 0 ||
	    layout_init(&l, &spec) < 0) {
		ok(false, "a layout: %s", why.text);
		return;
	}
	for (uint32_t r = 0; r < size; r++)
		sprintf(text + strlen(text), "%s%u", r ? " " : "", layout_place(&l, &spec, r));
	is_str(text, want, "%u ranks over five clusters, two of them for services, on %u hosts%s", size, hosts, ppn ? ", some on each" : slots ? " with slots" : "");
	layout_fini(&l);
	bal_machine_destroy(spec.machine);
}

static void check_layouts(void)
{
	static const uint32_t slots[] = { 2, 1, 4 };
	struct job_spec few = { .n_hosts = 6, .machine_name = "five" };
	struct gw_error why = { 0 };

	check_layout(1, 0, NULL, 6, "0 0 2 2 3 3");
	check_layout(1, 1, NULL, 5, "0 2 3 0 2");
	check_layout(3, 0, NULL, 3, "0 2 3");         /* hosts have clusters 0; 1, 2; 3, 4 */
	check_layout(3, 2, NULL, 6, "0 0 2 2 3 3");
	check_layout(3, 0, slots, 8, "0 0 2 3 3 3 3 0");
	check_layout(4, 1, NULL, 4, "0 2 3 0");       /* 0; 1; 2; 3, 4: nobody on the second */
	check_layout(4, 0, (const uint32_t[]){ 1, 5, 1, 1 }, 4, "0 2 3 0");
	ok(bal_machine_parse(&few.machine, "{\"mesh\": [5]}", 13, &why) == 0 && layout_check(&few, &why) == -EINVAL &&
	   strstr(why.text, "too few for 6 hosts"), "more hosts than clusters are refused: %s", why.text);
	bal_machine_destroy(few.machine);
	few = (struct job_spec){ .machine_name = "no such" };
	ok(layout_read(&few, &why) == -ENOENT && strstr(why.text, "there is no machine 'no such'") && strstr(why.text, "-hosts"),
	   "so is a machine that is not there: %s", why.text);
	few = (struct job_spec){ .machine_name = "torus4x4", .clusters = 2 };
	ok(layout_read(&few, &why) == -EINVAL && strstr(why.text, "exclude each other"), "and one with -clusters: %s", why.text);
}

static void check_duration(const char *text, int want_code, uint64_t want)
{
	struct gw_error why = { 0 };
	uint64_t ms = 0;
	int code = options_duration(text, &ms, &why);

	ok(code == want_code && ms == want && (code == 0) == !why.text[0], "a time: '%s'", text);
}

static void check_signals(const char *text, int want_code, uint32_t want)
{
	struct gw_error why = { 0 };
	uint32_t set = 0;
	int code = options_signals(text, &set, &why);

	ok(code == want_code && set == want && (code == 0) == !why.text[0], "signals: '%s'", text);
}

static void check_checkpoint_words(void)
{
	check_duration("90", 0, 90000);
	check_duration("90s", 0, 90000);
	check_duration("10m", 0, 600000);
	check_duration("1.5h", 0, 5400000);
	check_duration("250ms", 0, 250);
	check_duration("0", -ERANGE, 0);
	check_duration("99ms", -ERANGE, 0);
	check_duration("1e300h", -ERANGE, 0);
	check_duration("", -EINVAL, 0);
	check_duration("-5m", -EINVAL, 0);
	check_duration(" 5m", -EINVAL, 0);
	check_duration("0x10s", -EINVAL, 0);
	check_duration("inf", -EINVAL, 0);
	check_duration("10 m", -EINVAL, 0);
	check_duration("10mm", -EINVAL, 0);
	check_signals("USR1", 0, 1u << SIGUSR1);
	check_signals("usr1,SIGTERM", 0, 1u << SIGUSR1 | 1u << SIGTERM);
	check_signals("none", 0, 0);
	check_signals("", -EINVAL, 0);
	check_signals("USR1,", -EINVAL, 0);
	check_signals("KILL", -EINVAL, 0);
	check_signals("SIG", -EINVAL, 0);
	check_signals("10", -EINVAL, 0);
}

/* @want: "name:slots " of each, or a part of the sentence that refuses them; @is_file: lines of a file */
static void check_hosts(bool is_file, const char *text, int want_code, const char *want)
{
	struct job_spec spec = { 0 };
	struct gw_error why = { 0 };
	char path[] = "/tmp/godwit-hosts-XXXXXX", got[512] = "";
	int fd = is_file ? mkstemp(path) : -1, code;

	if (is_file && (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)))
		tap_bail("no file in /tmp");
	code = is_file ? hosts_read(&spec, path, &why) : hosts_parse(&spec, text, &why);
	for (uint32_t i = 0; i < spec.n_hosts; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s:%u ", spec.hosts[i].name, spec.hosts[i].slots);
	ok(code == want_code && (code < 0 ? strstr(why.text, want) != NULL : strcmp(got, want) == 0), "hosts: %s", want);
	if (code != want_code || (code == 0 && strcmp(got, want) != 0))
		printf("# %d %s %s\n", code, got, why.text);
	hosts_forget(&spec);
	if (is_file) {
		close(fd);
		unlink(path);
	}
}

static void check_host_words(void)
{
	check_hosts(false, "a, b:2 ,\tc", 0, "a:1 b:2 c:1 ");
	check_hosts(false, "a,b:2,a", 0, "a:2 b:2 ");
	check_hosts(false, "fd00::1,[fd00::2],[fd00::3]:4,fe80::1%eth0", 0, "fd00::1:1 fd00::2:1 fd00::3:4 fe80::1%eth0:1 ");
	check_hosts(false, "a b", -EINVAL, "'a b' is not the name of a host; commas");
	check_hosts(false, "a,,b", -EINVAL, "the name of a host is missing");
	check_hosts(false, "a,", -EINVAL, "the name of a host is missing");
	check_hosts(false, "a:2:3", -EINVAL, "'a:2:3' is not HOST or HOST:SLOTS");
	check_hosts(false, "a:0", -EINVAL, "'a:0' is not HOST or HOST:SLOTS");
	check_hosts(false, "a:-1", -EINVAL, "'a:-1' is not HOST or HOST:SLOTS");
	check_hosts(false, "[fd00::1", -EINVAL, "'[fd00::1' is not [ADDRESS]");
	check_hosts(false, "-oProxyCommand=x", -EINVAL, "is not the name of a host");
	check_hosts(true, "\xef\xbb\xbf# two\r\n\n a:2 \t# first\r\n\tb slots=3\nfd00::1 slots=2", 0, "a:2 b:3 fd00::1:2 ");
	check_hosts(true, "a\nb:2 slots=3\n", -EINVAL, "line 2: 'b:2' says slots twice");
	check_hosts(true, "a slots=2 max_slots=3\n", -EINVAL, "line 1: 'max_slots=3' is not understood");
	check_hosts(true, "a 2\n", -EINVAL, "line 1: '2' is not understood");
	check_hosts(true, "# none\n", -EINVAL, "names none");
}

int main(void)
{
	tap_begin(40);
	check_split("-n 2 ./a.out x", 0, "<-n><2><./a.out><x>");
	check_split("  \t a\t b \n", 0, "<a><b>");
	check_split("# a comment", 0, "");
	check_split("a # b", 0, "<a>");
	check_split("a#b '#' c", 0, "<a#b><#><c>");
	check_split("'one two' \"three 'four'\" '' a\\ b 'c\\d' \"e\\\"f\"", 0, "<one two><three 'four'><><a b><c\\d><e\"f>");
	check_split("a 'b", -EINVAL, "");
	check_core("core", 0, 0, "/home/u/core");
	check_core("core", 1, 0, "/home/u/core.301");
	check_core("/var/crash/%e-%p-%s.%h", 1, 0, "/var/crash/*-301-11.bay");
	check_core("/c/%P.%u.%g.%t%%", 0, 0, "/c/77.5.6.*%");
	check_core("core[%p]*", 0, 0, "/home/u/core\\[301]\\*");
	check_core("core%", 0, 0, "/home/u/core");
	check_core("|/usr/lib/systemd/systemd-coredump %P", 0, -ENOTSUP, "");
	check_layouts();
	check_queue();
	check_checkpoint_words();
	check_host_words();
	return tap_done();
}
