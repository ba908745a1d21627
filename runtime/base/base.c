/* SPDX-License-Identifier: BSD-2-Clause */
/* Errors with text, log lines, named faults, scope cleanup and clocks. */
#include "runtime/base/base.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How many bytes the letter at @p has; 0: that is not UTF-8 */
static size_t letter(const unsigned char *p)
{
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* Sentences go to others as JSON, which is UTF-8; the name of a file need not be, and the last letter may have been cut. */
static void make_text(char *text)
{
	for (size_t n; *text; text += n) {
		n = letter((const unsigned char *)text);
		if (!n) {
			*text = '?';
			n = 1;
		}
	}
}

int gw_fail(struct gw_error *why, int code, const char *fmt, ...)
{
	if (why) {
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, ap);
		va_end(ap);
		make_text(why->text);
		if (strcmp(why->text, "out of memory") == 0) /* said in many places, and what to do about it in all of them */
			snprintf(why->text, sizeof(why->text), "out of memory%s", gw_advice(ENOMEM));
		why->code = code;
	}
	return code;
}

const char *gw_advice(int error)
{
	switch (error < 0 ? -error : error) {
	case EMFILE:
		return "; raise 'ulimit -n'";
	case EFBIG:
		return "; raise 'ulimit -f'";
	case ENFILE:
		return "; the whole system has too many open files (fs.file-max)";
	case EAGAIN: /* of fork and clone */
		return "; raise 'ulimit -u', or the limit of the control group";
	case ENOMEM:
		return "; raise 'ulimit -v', or the memory of the control group";
	default:
		return "";
	}
}

int gw_fail_more(struct gw_error *why, const char *fmt, ...)
{
	char head[256], old[sizeof(why->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(head, sizeof(head), fmt, ap);
	va_end(ap);
	memcpy(old, why->text, sizeof(old));
	/* the tail of a very long sentence is worth less than its head */
	snprintf(why->text, sizeof(why->text), "%s%.*s", head, (int)(sizeof(why->text) - strlen(head) - 1), old);
	make_text(why->text);
	return why->code;
}

static struct {
	char who[80];
	int fd;
	enum gw_level level;
	bool is_set;
} the_log = { .fd = STDERR_FILENO, .level = GW_WARN }; /* process-wide by nature: one log */

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void gw_log_init(const char *who)
{
	const char *level = getenv("GODWIT_LOG"), *file = getenv("GODWIT_LOG_FILE");

	snprintf(the_log.who, sizeof(the_log.who), "%s", who);
	for (size_t i = 0; level && i < GW_ARRAY_LEN(level_names); i++)
		if (strcmp(level, level_names[i]) == 0)
			the_log.level = (enum gw_level)i;
	if (file && *file && the_log.fd == STDERR_FILENO) {
		int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

		if (fd >= 0)
			the_log.fd = fd;
	}
	the_log.is_set = true;
}

bool gw_log_on(enum gw_level level)
{
	return level <= the_log.level;
}

void gw_log(enum gw_level level, const char *fmt, ...)
{
	char line[1024];
	struct timespec now;
	va_list ap;
	int n, m, saved = errno;

	if (!gw_log_on(level))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	n = snprintf(line, sizeof(line), "%s%s%02d.%06ld %s: ", the_log.who, the_log.who[0] ? " " : "",
	             (int)(now.tv_sec % 60), now.tv_nsec / 1000, level_names[level]);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += m < (int)sizeof(line) - n - 1 ? m : (int)sizeof(line) - n - 2;
	line[n++] = '\n';
	if (write(the_log.fd, line, (size_t)n) < 0) { /* a log that cannot be written has nobody to tell */ }
	errno = saved;
}

/* Until somebody continues it. It cannot see its parent go meanwhile, so it goes with it: a test that was killed leaves nothing behind */
static void stop(void)
{
	int death = 0;

	prctl(PR_GET_PDEATHSIG, &death);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	raise(SIGSTOP);
	prctl(PR_SET_PDEATHSIG, death);
}

enum gw_fault_action gw_fault(const char *name)
{
	static const char *list;            /* GODWIT_FAULT, read once */
	static atomic_bool is_read;
	static atomic_uint hits[32];        /* per entry of the list */
	unsigned entry = 0;

	if (!atomic_load_explicit(&is_read, memory_order_acquire)) {
		list = getenv("GODWIT_FAULT");
		atomic_store_explicit(&is_read, true, memory_order_release);
	}
	if (GW_LIKELY(!list))
		return GW_FAULT_NONE;
	for (const char *p = list; *p && entry < GW_ARRAY_LEN(hits); entry++) {
		size_t len = strcspn(p, ","), nlen = strcspn(p, "@=,"), want = 1;
		const char *eq = memchr(p, '=', len), *at = memchr(p, '@', len);
		const char *action = eq ? eq + 1 : "kill";
		size_t alen = eq ? len - (size_t)(eq + 1 - p) : 4;

		if (at)
			want = strtoul(at + 1, NULL, 10);
		if (nlen == strlen(name) && memcmp(p, name, nlen) == 0 &&
		    atomic_fetch_add_explicit(&hits[entry], 1, memory_order_relaxed) + 1 == want) {
			gw_log(GW_WARN, "fault %.*s", (int)len, p);
			if (alen == 4 && memcmp(action, "fail", 4) == 0)
				return GW_FAULT_FAIL;
			if (alen == 3 && memcmp(action, "cut", 3) == 0)
				return GW_FAULT_CUT;
			if (alen != 4 || memcmp(action, "stop", 4) != 0)
				raise(SIGKILL);
			stop();
			return GW_FAULT_NONE;
		}
		p += len + (p[len] == ',');
	}
	return GW_FAULT_NONE;
}

void gw_autoclose_do(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

void gw_autofree_do(void *p)
{
	free(*(void **)p);
}

#define PROMPT_SLICE_NS 100000 /* the shortest that the kernel takes */
#define RESET_ON_FORK   1      /* SCHED_FLAG_RESET_ON_FORK */

struct sched { /* struct sched_attr of the kernel, as of its first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};
_Static_assert(sizeof(struct sched) == 48, "ABI of sched_setattr");

int gw_sched_get(pid_t tid, struct gw_sched *out)
{
	struct sched attr = { 0 };

	if (syscall(SYS_sched_getattr, tid, &attr, sizeof(attr), 0) < 0)
		return -errno;
	*out = (struct gw_sched){ .policy = (int)attr.policy, .nice = attr.nice, .priority = (int)attr.priority,
	                          .is_prompt = attr.policy == SCHED_OTHER && attr.runtime_ns && attr.runtime_ns <= PROMPT_SLICE_NS,
	                          .is_reset_on_fork = attr.flags & RESET_ON_FORK };
	if (attr.policy == SCHED_FIFO || attr.policy == SCHED_RR)
		out->nice = getpriority(PRIO_PROCESS, (id_t)tid);
	return 0;
}

int gw_sched_set(pid_t tid, const struct gw_sched *s)
{
	bool is_real_time = s->policy == SCHED_FIFO || s->policy == SCHED_RR;
	struct sched attr = { .size = sizeof(attr), .policy = (uint32_t)s->policy, .flags = s->is_reset_on_fork ? RESET_ON_FORK : 0,
	                      .nice = is_real_time ? 0 : s->nice, .priority = is_real_time ? (uint32_t)s->priority : 0,
	                      .runtime_ns = s->is_prompt && s->policy == SCHED_OTHER ? PROMPT_SLICE_NS : 0 };

	if (syscall(SYS_sched_setattr, tid, &attr, 0) == 0)
		return 0;
	if (errno != EPERM || attr.flags)
		return -errno;
	attr.flags = RESET_ON_FORK;
	return syscall(SYS_sched_setattr, tid, &attr, 0) < 0 ? -errno : 0;
}

void gw_prompt_set(pid_t tid, bool is_prompt)
{
	struct gw_sched s;
	int saved = errno;

	if (gw_sched_get(tid, &s) == 0 && s.policy == SCHED_OTHER) {
		s.is_prompt = s.is_reset_on_fork = is_prompt;
		gw_sched_set(tid, &s);
	}
	errno = saved;
}

void gw_hurry_begin(pid_t tid, struct gw_sched *before)
{
	struct gw_sched s = { .policy = SCHED_FIFO, .priority = 1, .is_reset_on_fork = true };

	if (gw_sched_get(tid, before) < 0)
		*before = (struct gw_sched){ .policy = -1 };
	if (before->policy == -1 || before->policy == SCHED_FIFO || before->policy == SCHED_RR || before->policy == SCHED_DEADLINE ||
	    ((tid == 0 || geteuid() == 0) && gw_sched_set(tid, &s) == 0))
		return;
	s = (struct gw_sched){ .policy = SCHED_OTHER, .nice = -20, .is_prompt = true, .is_reset_on_fork = true };
	if (gw_sched_set(tid, &s) == 0)
		return;
	s.nice = before->nice;
	if (before->policy == SCHED_OTHER)
		gw_sched_set(tid, &s);
}

void gw_hurry_end(pid_t tid, const struct gw_sched *before)
{
	if (before->policy != -1)
		gw_sched_set(tid, before);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t gw_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t gw_realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}
