/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/tap.h: a C test program that speaks TAP (the Test Anything Protocol), in one header.
 *
 *	int main(void)
 *	{
 *		tap_begin(20);                                       // give up after 20 seconds
 *		ok(list_is_empty(&l), "a new list is empty");
 *		is_int(list_length(&l), 0, "and its length is zero");
 *		if (!has_userns)
 *			tap_skip(1, "user namespaces are forbidden here");
 *		else
 *			ok(...);
 *		return tap_done();                                   // prints the plan; 1 when something failed
 *	}
 *
 * The sentence of a test may be a printf format. Each check returns whether it passed. Everything that is printed goes
 * out at once, so that a crash leaves the tests before it on record. A program that ends without tap_done() has no
 * plan and is an error to the driver. May be called by one thread at a time; a forked child must not call it.
 */
#ifndef TAP_H
#define TAP_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TAP_PRINTF(f, a) __attribute__((format(printf, f, a), unused))

static struct {
	int run, failed, planned;
	pid_t pid;
} tap_state;

static void tap_on_alarm(int sig)
{
	static const char text[] = "Bail out! the test program passed its deadline\n";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(125);
	kill(0, SIGTERM); /* our children; see setpgid in tap_begin */
	_exit(124);
}

/** tap_begin - the first call: the whole program must end within @deadline_s seconds, or it bails out and ends its
 *  process group (children of the test included) */
__attribute__((unused)) static void tap_begin(unsigned deadline_s)
{
	struct sigaction on_alarm = { .sa_handler = tap_on_alarm }, ignore = { .sa_handler = SIG_IGN };

	tap_state.pid = getpid();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (setpgid(0, 0) == 0) /* else: a session leader, whose group is its own already */
		sigaction(SIGTTOU, &ignore, NULL);
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	sigaction(SIGALRM, &on_alarm, NULL);
	alarm(deadline_s);
}

/** tap_plan - how many tests there will be; optional, tap_done() then reports a difference */
__attribute__((unused)) static void tap_plan(int tests)
{
	tap_state.planned = tests;
	printf("1..%d\n", tests);
}

TAP_PRINTF(1, 2) static void diag(const char *fmt, ...)
{
	char line[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	for (char *s = line, *end; *s; s = end) {
		end = s + strcspn(s, "\n");
		printf("# %.*s\n", (int)(end - s), s);
		end += *end == '\n';
	}
	fflush(stdout);
}

static inline bool tap_okv(bool passed, const char *file, int line, const char *fmt, va_list args)
{
	printf("%s %d - ", passed ? "ok" : "not ok", ++tap_state.run);
	vprintf(fmt, args);
	putchar('\n');
	if (!passed) {
		tap_state.failed++;
		diag("failed at %s:%d", file, line);
	}
	fflush(stdout);
	return passed;
}

TAP_PRINTF(4, 5) static bool tap_ok(bool passed, const char *file, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	tap_okv(passed, file, line, fmt, args);
	va_end(args);
	return passed;
}

TAP_PRINTF(5, 6) static bool tap_is_int(long long is, long long want, const char *file, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (!tap_okv(is == want, file, line, fmt, args))
		diag("is %lld, should be %lld", is, want);
	va_end(args);
	return is == want;
}

TAP_PRINTF(5, 6) static bool tap_is_str(const char *is, const char *want, const char *file, int line, const char *fmt, ...)
{
	bool passed = is && want ? !strcmp(is, want) : is == want;
	va_list args;

	va_start(args, fmt);
	if (!tap_okv(passed, file, line, fmt, args))
		diag("is '%s', should be '%s'", is ? is : "(null)", want ? want : "(null)");
	va_end(args);
	return passed;
}

#define ok(cond, ...)           tap_ok(cond, __FILE__, __LINE__, __VA_ARGS__)
#define is_int(is, want, ...)   tap_is_int((long long)(is), (long long)(want), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(is, want, ...)   tap_is_str(is, want, __FILE__, __LINE__, __VA_ARGS__)

/** tap_skip - @tests checks cannot be made here; the reason is a sentence for a person */
TAP_PRINTF(2, 3) static void tap_skip(int tests, const char *fmt, ...)
{
	char why[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	while (tests-- > 0)
		printf("ok %d # SKIP %s\n", ++tap_state.run, why);
	fflush(stdout);
}

/** tap_skip_all - nothing of this program can be tested here; call before any check. Ends the program. */
__attribute__((noreturn)) TAP_PRINTF(1, 2) static void tap_skip_all(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("1..0 # SKIP ");
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	exit(0);
}

/** tap_bail - going on makes no sense. Ends the program, and after tap_begin() its process group: children that stayed would
 *  keep the driver's pipe open, and it would wait for ever. */
__attribute__((noreturn)) TAP_PRINTF(1, 2) static void tap_bail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("Bail out! ");
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	if (tap_state.pid == getpid() && getpgrp() == getpid()) {
		signal(SIGTERM, SIG_IGN);
		kill(0, SIGTERM);
	}
	exit(255);
}

/** tap_done - the last call; returns main's exit status */
__attribute__((unused)) static int tap_done(void)
{
	alarm(0);
	if (!tap_state.planned)
		printf("1..%d\n", tap_state.run);
	else if (tap_state.planned != tap_state.run)
		diag("planned %d tests, but ran %d", tap_state.planned, tap_state.run);
	fflush(stdout);
	return tap_state.failed || (tap_state.planned && tap_state.planned != tap_state.run);
}

#endif
