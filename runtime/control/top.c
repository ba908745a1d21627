/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * godwit top: what a job does, again and again, until somebody has seen enough or it ends.
 *
 *   ask mpirun ──► answer ──► figures (top_data.c) ──► page (top_draw.c) ──► terminal (top_screen.c), or standard output with -b
 *
 * One loop: the link to mpirun, keys, signals, the time until the next look. Whatever ends it, the terminal is as it was before.
 */
#include <argp.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runtime/control/control.h"
#include "runtime/control/top.h"

#define FIRST_MS   500  /* until the second look: rates need two */
#define SILENCE_NS 4000000000ull
#define WIDTH      120  /* of a page that is printed, when nobody says how wide */
#define MIGRATE_MS 60000

enum asking { ASK_NOTHING, ASK_FILTER, ASK_DELAY, ASK_MOVE, ASK_BALANCE };

struct top {
	struct control c;
	bool is_batch;
	long pages, width;
	struct gw_loop *loop;
	struct gw_link *link;
	int fd;                  /* of the link, whose it is */
	struct gw_error *why;
	struct gw_timer *timer;
	struct gw_watch *keys, *signals;
	int signal_fd;
	json_t *before, *now;
	struct top_data data;
	bool has_data, is_waiting;
	uint64_t asked_ns, looks, printed;
	struct top_view view;
	struct top_screen *screen;
	enum asking asking;
	int killed_by;           /* a signal; 0: none */
};

static const struct { const char *name; enum top_column c; } sorts[] = {
	{ "rank", TOP_RANK }, { "cluster", TOP_CLUSTER }, { "host", TOP_HOST }, { "state", TOP_STATE }, { "load", TOP_LOAD }, { "wait", TOP_WAITS },
	{ "out", TOP_OUT }, { "in", TOP_IN }, { "memory", TOP_MEMORY }, { "moves", TOP_MOVES }, { "pause", TOP_PAUSE },
};

static const struct argp_option options[] = {
	{ "batch", 'b', NULL, 0, "Print pages instead of drawing on the terminal", 0 },
	{ "count", 'n', "N", 0, "End after N pages", 0 },
	{ "delay", 'd', "SECONDS", 0, "Look every so often (default 2)", 0 },
	{ "sort", 's', "COLUMN", 0, "Sort ranks by rank (default), cluster, host, state, load, wait, out, in, memory, moves, pause", 0 },
	{ "filter", 'f', "TEXT", 0, "Only ranks in whose number, cluster, host or state it is, as 'cluster 1' or moving", 0 },
	{ "width", 'w', "COLUMNS", 0, "Of printed pages (default: $COLUMNS, or 120)", 0 },
	{ "job", 'j', "ID", 0, "The job, when several run: its id or the beginning of it", 10 },
	{ "json", 'J', NULL, 0, "With --batch: each page is what 'godwit status --json' says, in a line", 10 },
	{ 0 }
};

static bool read_delay(const char *text, double *out)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end || !(v >= 0.1 && v <= 3600))
		return false;
	*out = v;
	return true;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct top *t = state->input;

	switch (key) {
	case 'b':
		t->is_batch = true;
		return 0;
	case 'n':
		t->pages = control_number(state, arg, "a number of pages");
		return 0;
	case 'w':
		t->width = control_number(state, arg, "a number of columns");
		return 0;
	case 'd':
		if (!read_delay(arg, &t->view.delay_s))
			argp_error(state, "'%s' is not a delay: 0.1 to 3600 seconds", arg);
		return 0;
	case 'f':
		snprintf(t->view.filter, sizeof(t->view.filter), "%s", arg);
		return 0;
	case 's':
		for (size_t i = 0; i < GW_ARRAY_LEN(sorts); i++)
			if (strcmp(sorts[i].name, arg) == 0) {
				t->view.sort = sorts[i].c;
				return 0;
			}
		argp_error(state, "ranks cannot be sorted by '%s'; --help lists by what", arg);
		return EINVAL;
	case ARGP_KEY_ARG:
		if (t->c.job)
			argp_error(state, "'%s' is too much: one job is shown", arg);
		t->c.job = arg;
		return 0;
	default:
		return control_option(&t->c, key, arg);
	}
}

/* ---- pages -------------------------------------------------------------------------------------------------------------- */

static void draw(struct top *t)
{
	struct top_page page;
	int height = 0, width = 0;

	if (!t->screen || !t->has_data)
		return;
	top_screen_resize(t->screen, &height, &width);
	if (top_draw(&page, &t->data, &t->view, height, width) < 0)
		return;
	top_screen_show(t->screen, &page);
	top_page_fini(&page);
}

static void print(struct top *t)
{
	struct top_page page = { 0 };

	if (t->c.is_json) {
		json_dumpf(t->now, stdout, JSON_COMPACT);
		putchar('\n');
	} else if (top_draw(&page, &t->data, &t->view, 0, (int)t->width) == 0) {
		for (int y = 0; y < page.height; y++) {
			gw_autofree char *text = top_page_line(&page, y);

			puts(text ? text : "");
		}
		putchar('\n');
		top_page_fini(&page);
	}
	if (fflush(stdout) == EOF || ++t->printed == (uint64_t)t->pages)
		gw_loop_stop(t->loop, 1);
}

static void message(struct top *t, bool is_bad, const char *text)
{
	snprintf(t->view.message, sizeof(t->view.message), "%s", text ? text : "");
	t->view.is_message_bad = is_bad;
	draw(t);
}

/* ---- looking ------------------------------------------------------------------------------------------------------------ */

static void ask(void *ctx);

static void wait_ms(struct top *t, uint64_t ms)
{
	gw_timer_cancel(t->timer);
	t->timer = NULL;
	if (gw_loop_timer(t->loop, &t->timer, ms, 0, ask, t) < 0)
		gw_loop_stop(t->loop, -ENOMEM);
}

static void ask(void *ctx)
{
	struct top *t = ctx;

	t->timer = NULL;
	if (t->is_waiting && t->is_batch && control_check_awake(t->fd, t->why) < 0) { /* who reads pages would wait for ever */
		gw_loop_stop(t->loop, t->why->code);
		return;
	}
	if (t->is_waiting && gw_now_ns() - t->asked_ns > SILENCE_NS)
		message(t, true, "mpirun does not answer; it may be stopped");
	if (!t->is_waiting && !t->view.is_paused) {
		t->is_waiting = true;
		t->asked_ns = gw_now_ns();
		gw_link_send_json(t->link, json_pack("{s:s, s:b, s:b}", "op", "status", "use", 1, "traffic", 1));
	}
	wait_ms(t, t->looks == 0 ? FIRST_MS : (uint64_t)(t->view.delay_s * 1e3));
}

static void take_status(struct top *t, json_t *msg)
{
	struct top_data data;

	if (t->is_waiting && gw_now_ns() - t->asked_ns > SILENCE_NS)
		t->view.message[0] = '\0'; /* it answers again */
	t->is_waiting = false;
	t->looks++;
	json_object_del(msg, "op");
	json_decref(t->before);
	t->before = t->now;
	t->now = json_incref(msg);
	if (top_data_make(&data, t->before, t->now) < 0)
		return;
	data.at = (double)gw_realtime_ns() / 1e9;
	if (t->has_data)
		top_data_fini(&t->data);
	t->data = data;
	t->has_data = true;
	if (!t->is_batch)
		draw(t);
	else if (t->looks > 1)
		print(t);
}

static void take_answer(struct top *t, const char *op, json_t *msg)
{
	const char *text = json_string_value(json_object_get(msg, "text")), *words = json_string_value(json_object_get(msg, "words"));
	int status = (int)json_integer_value(json_object_get(msg, "status"));
	char line[200];

	if (strcmp(op, "refused") == 0) {
		message(t, true, text);
	} else if (strcmp(op, "migrated") == 0) {
		double down = json_number_value(json_object_get(json_object_get(msg, "measures"), "downtime_ns"));

		snprintf(line, sizeof(line), "rank %lld is on cluster %lld; it stood %.1f ms", (long long)json_integer_value(json_object_get(msg, "rank")),
		         (long long)json_integer_value(json_object_get(msg, "to")), down / 1e6);
		message(t, status < 0, status < 0 ? text : line);
	} else if (strcmp(op, "rebalanced") == 0) {
		message(t, status < 0, status < 0 ? text : words);
	} else if (strcmp(op, "pinned") == 0) {
		wait_ms(t, 0);
	}
}

static void on_json(struct gw_link *l, void *ctx, json_t *msg, int *fds, size_t n_fds)
{
	const char *op = json_string_value(json_object_get(msg, "op"));
	struct top *t = ctx;

	(void)l, (void)fds, (void)n_fds;
	if (op && strcmp(op, "status") == 0)
		take_status(t, msg);
	else if (op)
		take_answer(t, op, msg);
}

static void on_closed(struct gw_link *l, void *ctx, int error)
{
	struct top *t = ctx;

	(void)l, (void)error;
	gw_loop_stop(t->loop, -EPIPE);
}

static const struct gw_link_ops link_ops = { .json = on_json, .closed = on_closed };

/* ---- keys --------------------------------------------------------------------------------------------------------------- */

static GW_PRINTF(3, 4) void prompt(struct top *t, enum asking what, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->view.prompt, sizeof(t->view.prompt), fmt, ap);
	va_end(ap);
	t->view.typed[0] = '\0';
	t->asking = what;
}

static void answer(struct top *t)
{
	const char *typed = t->view.typed;
	char *end;
	long to = strtol(typed, &end, 10);
	enum asking what = t->asking;

	t->view.prompt[0] = '\0';
	t->asking = ASK_NOTHING;
	switch (what) {
	case ASK_DELAY:
		if (*typed && !read_delay(typed, &t->view.delay_s))
			message(t, true, "a delay is 0.1 to 3600 seconds");
		wait_ms(t, (uint64_t)(t->view.delay_s * 1e3));
		break;
	case ASK_MOVE:
		if (!*typed)
			break;
		gw_link_send_json(t->link, json_pack("{s:s, s:[i], s:o, s:i}", "op", "migrate", "ranks", (int)t->view.selected, "to",
		                                     *end ? json_string(typed) : json_integer(to), "timeout_ms", MIGRATE_MS));
		message(t, false, "asked for");
		break;
	case ASK_BALANCE:
		if (*typed != 'y' && *typed != 'Y')
			break;
		gw_link_send_json(t->link, json_pack("{s:s, s:b}", "op", "rebalance", "dry_run", 0));
		message(t, false, "what ranks use is looked at for two seconds");
		break;
	default:
		break;
	}
}

static void type(struct top *t, int key)
{
	size_t n = strlen(t->view.typed);

	if (key == TOP_ESCAPE) {
		if (t->asking == ASK_FILTER)
			t->view.filter[0] = '\0';
		t->view.prompt[0] = '\0';
		t->asking = ASK_NOTHING;
	} else if (key == TOP_ENTER) {
		answer(t);
	} else if (key == TOP_BACKSPACE && n > 0) {
		do
			t->view.typed[--n] = '\0';
		while (n > 0 && ((unsigned char)t->view.typed[n - 1] & 0xc0) == 0x80);
	} else if (key >= ' ' && key < 256 && n + 2 < sizeof(t->view.typed)) {
		t->view.typed[n] = (char)key;
		t->view.typed[n + 1] = '\0';
	}
	if (t->asking == ASK_FILTER)
		snprintf(t->view.filter, sizeof(t->view.filter), "%s", t->view.typed);
}

static void sort_by(struct top *t, enum top_column c)
{
	t->view.is_reversed = t->view.sort == c && !t->view.is_reversed;
	t->view.sort = c;
}

/* The column beside the one by which ranks are sorted */
static void sort_beside(struct top *t, int step)
{
	int c = (int)t->view.sort;

	do
		c = (c + step + TOP_COLUMNS) % TOP_COLUMNS;
	while (c == TOP_HOST && t->data.n_hosts < 2);
	t->view.sort = (enum top_column)c;
	t->view.is_reversed = false;
}

static const struct top_rank *selected(struct top *t)
{
	for (uint32_t r = 0; t->view.has_selected && r < t->data.n_ranks; r++)
		if (t->data.ranks[r].rank == t->view.selected)
			return &t->data.ranks[r];
	message(t, true, "choose a rank first, with the arrow keys");
	return NULL;
}

static void about_rank(struct top *t, int key)
{
	const struct top_rank *r = selected(t);

	if (!r)
		return;
	if (key == 'm')
		prompt(t, ASK_MOVE, "move rank %u to (cluster or host):", r->rank);
	else
		gw_link_send_json(t->link, json_pack("{s:s, s:[i], s:b}", "op", "pin", "ranks", (int)r->rank, "pinned", !r->is_pinned));
}

static void command(struct top *t, int key)
{
	static const struct { int key; enum top_column c; } by[] = { { 'N', TOP_RANK }, { 'C', TOP_CLUSTER }, { 'L', TOP_LOAD }, { 'P', TOP_LOAD },
		{ 'W', TOP_WAITS }, { 'T', TOP_OUT }, { 'M', TOP_MEMORY }, { 'V', TOP_MOVES } };
	struct top_view *v = &t->view;

	v->message[0] = '\0';
	if (v->is_helping) {
		v->is_helping = false;
		return;
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(by); i++)
		if (by[i].key == key)
			sort_by(t, by[i].c);
	switch (key) {
	case 'q': case TOP_QUIT: gw_loop_stop(t->loop, 1); break;
	case 'h': case '?': case TOP_HELP: v->is_helping = true; break;
	case TOP_UP: case 'k': top_move_selection(v, &t->data, -1); break;
	case TOP_DOWN: case 'j': top_move_selection(v, &t->data, 1); break;
	case TOP_PAGE_UP: top_move_selection(v, &t->data, -v->page); break;
	case TOP_PAGE_DOWN: top_move_selection(v, &t->data, v->page); break;
	case TOP_HOME: top_move_selection(v, &t->data, -(int)t->data.n_ranks); break;
	case TOP_END: top_move_selection(v, &t->data, (int)t->data.n_ranks); break;
	case TOP_ESCAPE: v->has_selected = false; break;
	case '<': case TOP_LEFT: sort_beside(t, -1); break;
	case '>': case TOP_RIGHT: sort_beside(t, 1); break;
	case 'r': case 'R': v->is_reversed = !v->is_reversed; break;
	case 'f': case '/': prompt(t, ASK_FILTER, "filter:"); break;
	case 'd': case 's': prompt(t, ASK_DELAY, "seconds between looks (%g):", v->delay_s); break;
	case 'm': case 'p': about_rank(t, key); break;
	case 'b': prompt(t, ASK_BALANCE, "move ranks so that the job gets faster? (y/n)"); break;
	case 'c': v->is_hiding_clusters = !v->is_hiding_clusters; break;
	case 'l': v->is_hiding_moves = !v->is_hiding_moves; break;
	case ' ':
		v->is_paused = !v->is_paused;
		if (!v->is_paused)
			wait_ms(t, 0);
		break;
	default: break;
	}
}

static void on_keys(void *ctx, uint32_t events)
{
	struct top *t = ctx;
	int key;

	if (events & (EPOLLHUP | EPOLLERR)) { /* the terminal has gone */
		gw_loop_stop(t->loop, 1);
		return;
	}
	while ((key = top_screen_key(t->screen)) != TOP_NO_KEY) {
		if (!t->has_data && (key == 'q' || key == TOP_QUIT))
			gw_loop_stop(t->loop, 1);
		else if (t->has_data && t->asking)
			type(t, key);
		else if (t->has_data)
			command(t, key);
	}
	draw(t);
}

/* ---- signals ------------------------------------------------------------------------------------------------------------ */

static void on_signal(void *ctx, uint32_t events)
{
	struct signalfd_siginfo s;
	struct top *t = ctx;

	(void)events;
	while (read(t->signal_fd, &s, sizeof(s)) == sizeof(s))
		switch (s.ssi_signo) {
		case SIGWINCH:
			draw(t);
			break;
		case SIGTSTP:
			if (t->screen)
				top_screen_leave(t->screen);
			kill(getpid(), SIGSTOP); /* and here it goes on, with a SIGCONT waiting */
			break;
		case SIGCONT:
			if (t->screen)
				top_screen_return(t->screen);
			draw(t);
			break;
		default:
			t->killed_by = (int)s.ssi_signo;
			gw_loop_stop(t->loop, 1);
			break;
		}
}

static int take_signals(struct top *t)
{
	static const int all[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < GW_ARRAY_LEN(all); i++)
		sigaddset(&set, all[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return t->signal_fd < 0 ? -errno : gw_loop_watch(t->loop, &t->signals, t->signal_fd, EPOLLIN, on_signal, t);
}

/* What it would have done to us, now that the terminal is as it was */
static void die_of(int sig)
{
	sigset_t set;

	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- all of it ---------------------------------------------------------------------------------------------------------- */

static int start(struct top *t, struct gw_error *why)
{
	const char *no_color = getenv("NO_COLOR");
	int fd, code;

	if (!t->is_batch && (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)))
		return gw_fail(why, -EINVAL, "standard %s is no terminal; 'godwit top -b' prints pages", isatty(STDOUT_FILENO) ? "input" : "output");
	fd = control_connect(&t->c, why);
	if (fd < 0)
		return fd;
	code = gw_loop_create(&t->loop);
	if (code < 0) {
		close(fd);
		return gw_fail(why, code, "cannot start: %s", strerror(-code));
	}
	code = gw_link_create(&t->link, t->loop, fd, &link_ops, t);
	t->fd = fd;
	if (code == 0 && !t->is_batch)
		code = take_signals(t);
	if (code < 0)
		return gw_fail(why, code, "cannot talk to the job: %s", strerror(-code));
	if (!t->is_batch) {
		code = top_screen_open(&t->screen, !no_color || !*no_color, why);
		if (code < 0)
			return code;
		code = gw_loop_watch(t->loop, &t->keys, STDIN_FILENO, EPOLLIN, on_keys, t);
		if (code < 0)
			return gw_fail(why, code, "keys cannot be read: %s", strerror(-code));
	}
	ask(t);
	return 0;
}

static void stop(struct top *t)
{
	top_screen_close(t->screen);
	gw_timer_cancel(t->timer);
	gw_watch_remove(t->keys);
	gw_watch_remove(t->signals);
	if (t->signal_fd >= 0)
		close(t->signal_fd);
	gw_link_destroy(t->link);
	gw_loop_destroy(t->loop);
	json_decref(t->before);
	json_decref(t->now);
}

int control_top(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "[JOB]", "Show what a job does, again and again: its clusters and their load, what each "
		"rank computes, waits and sends, moves under way and those that are over. 'h' lists the keys. A rank's LOAD is useful processor time; "
		"looking for messages in vain is WAIT.", NULL, NULL, NULL };
	struct top t = { .view = { .delay_s = 2 }, .fd = -1, .signal_fd = -1 };
	const char *columns = getenv("COLUMNS"), *term = getenv("TERM");
	struct gw_error why = { 0 };
	char name[] = "godwit top", id[16];
	int code;

	argv[0] = name;
	t.why = &why;
	argp_parse(&argp, argc, argv, 0, NULL, &t);
	setlocale(LC_CTYPE, "");
	t.view.is_utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	t.view.is_fine = t.view.is_utf8 && !(term && strncmp(term, "linux", 5) == 0); /* a console's letters are few */
	t.view.is_batch = t.is_batch;
	if (!t.width)
		t.width = columns && atol(columns) >= 40 && atol(columns) <= 1000 ? atol(columns) : WIDTH;
	t.width = t.width < 40 ? 40 : t.width > 1000 ? 1000 : t.width;
	code = start(&t, &why);
	if (code == 0)
		code = gw_loop_run(t.loop);
	stop(&t);
	snprintf(id, sizeof(id), "%s", t.has_data ? t.data.job : "");
	if (t.has_data)
		top_data_fini(&t.data);
	if (t.killed_by && t.killed_by != SIGINT)
		die_of(t.killed_by);
	if (why.code < 0)
		return control_fail(&why);
	if (code == -EPIPE && (!t.looks || (t.is_batch && !t.printed)))
		return gw_fail(&why, -EPIPE, "the job has ended"), control_fail(&why);
	if (code == -EPIPE)
		fprintf(t.is_batch ? stderr : stdout, "godwit: job %s has ended\n", id);
	else if (code < 0)
		return gw_fail(&why, code, "cannot go on: %s", strerror(-code)), control_fail(&why);
	return CONTROL_DONE;
}
