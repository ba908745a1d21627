/* SPDX-License-Identifier: BSD-2-Clause */
/* Output of the ranks: streams joined by offset, cut into whole lines, labelled. */
#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime/launcher/head.h"

#define LINE_MAX_KEPT (4u << 20) /* a longer line is cut where others write too */
#define PROMPT_MS     50         /* on a terminal: so long is waited for the end of a line before it is shown */

/* ---- lines --------------------------------------------------------------------------------------------------------- */

/* %r rank, %p the cluster where it is (in the name of a file: where it begins), %h its host, %g group (there is one), %t time */
static void expand(const struct head *h, uint32_t rank, const char *pattern, char *buf, size_t cap)
{
	size_t n = 0;

	for (const char *p = pattern; *p && n < cap - 1; p++) {
		char text[256] = "";

		if (*p != '%' || !p[1]) {
			buf[n++] = *p;
			continue;
		}
		switch (*++p) {
		case 'r':
			snprintf(text, sizeof(text), "%u", rank);
			break;
		case 'p':
			snprintf(text, sizeof(text), "%u", h->ranks[rank].cluster);
			break;
		case 'g':
			snprintf(text, sizeof(text), "0");
			break;
		case 't':
			snprintf(text, sizeof(text), "%lld", (long long)time(NULL));
			break;
		case 'h':
			snprintf(text, sizeof(text), "%s", h->hosts[h->clusters[h->ranks[rank].cluster].host].name);
			break;
		case '%':
			snprintf(text, sizeof(text), "%%");
			break;
		default: /* not ours: as it is */
			snprintf(text, sizeof(text), "%%%c", *p);
		}
		n += (size_t)snprintf(buf + n, cap - n, "%s", text);
		n = n < cap ? n : cap - 1;
	}
	buf[n] = '\0';
}

static void put_line(struct head *h, uint32_t rank, int i, const char *line, size_t len)
{
	struct sink *s = h->ranks[rank].sink[i];
	char label[512];

	if (!h->spec->label) {
		sink_put(s, line, len);
		return;
	}
	expand(h, rank, h->spec->label, label, sizeof(label));
	sink_put(s, label, strlen(label));
	sink_put(s, line, len);
	if (len == 0 || line[len - 1] != '\n')
		sink_put(s, "\n", 1);
}

static void end_line(struct head *h, uint32_t rank, int i)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (j->line_len)
		put_line(h, rank, i, j->line, j->line_len);
	j->line_len = 0;
}

static void push_all(struct head *h)
{
	for (int i = 0; i < 2; i++)
		sink_push(h->sinks[i]);
	gw_list_for_safe(e, &h->files_out)
		sink_push(sink_of_node(e));
}

/* A line without an end is a prompt, perhaps, when nothing follows it for a while: it must be seen. */
static void on_line_timer(void *ctx)
{
	struct head *h = ctx;

	h->line_timer = NULL;
	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++)
			end_line(h, r, i);
	push_all(h);
}

static void keep(struct head *h, uint32_t rank, int i, const char *bytes, size_t len)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (j->line_len + len > j->line_cap) {
		size_t cap = 2 * (j->line_len + len);
		char *bigger = realloc(j->line, cap);

		if (!bigger) {
			job_fail(h, 1, "no memory for a line of rank %u", rank);
			return;
		}
		j->line = bigger;
		j->line_cap = cap;
	}
	memcpy(j->line + j->line_len, bytes, len);
	j->line_len += len;
	if (j->line_len > LINE_MAX_KEPT)
		end_line(h, rank, i);
	else if (sink_is_terminal(h->ranks[rank].sink[i]) && !h->spec->label && !h->line_timer)
		gw_loop_timer(h->loop, &h->line_timer, PROMPT_MS, 0, on_line_timer, h);
}

static void emit(struct head *h, uint32_t rank, int i, const char *bytes, size_t len)
{
	struct joined *j = &h->ranks[rank].out[i];

	j->next += len;
	if (!h->spec->label && !sink_is_shared(h->ranks[rank].sink[i])) {
		sink_put(h->ranks[rank].sink[i], bytes, len);
		return;
	}
	while (len) {
		/* without labels whole lines go out together */
		const char *nl = h->spec->label || j->line_len ? memchr(bytes, '\n', len) : memrchr(bytes, '\n', len);
		size_t n = nl ? (size_t)(nl - bytes) + 1 : len;

		if (nl && j->line_len == 0) {
			put_line(h, rank, i, bytes, n);
		} else {
			keep(h, rank, i, bytes, n);
			if (nl)
				end_line(h, rank, i);
		}
		bytes += n;
		len -= n;
	}
}

static void acknowledge(struct head *h, uint32_t rank, int i, size_t slack)
{
	struct joined *j = &h->ranks[rank].out[i];

	if (sink_is_full(h->ranks[rank].sink[i]) || j->next - j->acked <= slack || h->ranks[rank].state == RANK_ENDED)
		return;
	j->acked = j->next;
	job_cluster_send(h, h->ranks[rank].cluster, json_pack("{s:s, s:i, s:i, s:I}", "op", "output-ack", "rank", (int)rank,
	                                                      "stream", RT_STDOUT + i, "offset", (json_int_t)j->acked));
}

void output_has_room(struct head *h, const struct sink *s)
{
	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++)
			if (h->ranks[r].sink[i] == s)
				acknowledge(h, r, i, 0);
}

/* ---- joining ------------------------------------------------------------------------------------------------------- */

static void hold(struct head *h, struct joined *j, uint64_t offset, const char *bytes, size_t len)
{
	struct segment *s = malloc(sizeof(*s) + len), **at = &j->ahead;

	if (!s) {
		job_fail(h, 1, "no memory for output that came early");
		return;
	}
	s->offset = offset;
	s->len = len;
	memcpy(s->bytes, bytes, len);
	while (*at && (*at)->offset <= offset)
		at = &(*at)->next;
	s->next = *at;
	*at = s;
}

static void take_held(struct head *h, uint32_t rank, int i, bool skip_gaps)
{
	struct joined *j = &h->ranks[rank].out[i];

	while (j->ahead && (skip_gaps || j->ahead->offset <= j->next)) {
		struct segment *s = j->ahead;

		j->ahead = s->next;
		if (s->offset > j->next)
			j->next = s->offset;
		if (s->offset + s->len > j->next) {
			size_t old = (size_t)(j->next - s->offset);

			emit(h, rank, i, s->bytes + old, s->len - old);
		}
		free(s);
	}
}

void output_piece(struct head *h, uint32_t rank, uint32_t stream, uint64_t offset, const char *bytes, size_t len)
{
	int i = (int)stream - RT_STDOUT;
	struct joined *j;

	if (rank >= h->size || i < 0 || i > 1)
		return;
	j = &h->ranks[rank].out[i];
	if (offset > j->next) {
		hold(h, j, offset, bytes, len);
		return;
	}
	if (offset + len > j->next) {
		size_t old = (size_t)(j->next - offset);

		emit(h, rank, i, bytes + old, len - old);
		take_held(h, rank, i, false);
	}
	sink_push(h->ranks[rank].sink[i]);
	acknowledge(h, rank, i, RT_OUTPUT_WINDOW / 4);
}

void output_skip_gaps(struct head *h, uint32_t rank)
{
	for (int i = 0; i < 2; i++) {
		take_held(h, rank, i, true);
		sink_push(h->ranks[rank].sink[i]);
	}
}

void output_end_lines(struct head *h)
{
	for (uint32_t r = 0; r < h->size; r++)
		for (int i = 0; i < 2; i++) {
			take_held(h, r, i, true);
			end_line(h, r, i);
		}
}

void output_flush(struct head *h)
{
	gw_list_for(e, &h->files_out)
		sink_flush(sink_of_node(e));
	for (int i = 0; i < 2; i++)
		sink_flush(h->sinks[i]);
}

void output_begin_line(struct head *h, uint32_t rank, int i, const char *bytes, size_t len)
{
	keep(h, rank, i, bytes, len);
}

int output_open(struct head *h, uint32_t rank, struct gw_error *why)
{
	for (int i = 0; i < 2; i++) {
		char path[PATH_MAX];
		int code = 0;

		h->ranks[rank].sink[i] = h->sinks[i];
		if (h->spec->file[i]) {
			expand(h, rank, h->spec->file[i], path, sizeof(path));
			code = sink_open_file(&h->ranks[rank].sink[i], h, path, why);
		}
		if (code < 0)
			return code;
		sink_add_stream(h->ranks[rank].sink[i]);
	}
	return 0;
}

int output_init(struct head *h, struct gw_error *why)
{
	for (int i = 0; i < 2; i++) {
		int code = sink_open(&h->sinks[i], h, STDOUT_FILENO + i);

		if (code < 0)
			return gw_fail(why, code, "cannot watch standard %s: %s", i ? "error" : "output", strerror(-code));
	}
	for (uint32_t r = 0; r < h->size; r++)
		if (output_open(h, r, why) < 0)
			return why->code;
	return 0;
}

void output_fini(struct head *h)
{
	for (int i = 0; i < 2; i++)
		sink_close(h->sinks[i]);
	gw_list_for_safe(e, &h->files_out)
		sink_close(sink_of_node(e));
	for (uint32_t r = 0; h->ranks && r < h->size; r++)
		for (int i = 0; i < 2; i++) {
			free(h->ranks[r].out[i].line);
			while (h->ranks[r].out[i].ahead) {
				struct segment *s = h->ranks[r].out[i].ahead;

				h->ranks[r].out[i].ahead = s->next;
				free(s);
			}
		}
}

void job_say(struct head *h, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text) - 1, fmt, ap);
	va_end(ap);
	n = n < (int)sizeof(text) - 1 ? n : (int)sizeof(text) - 2;
	text[n++] = '\n';
	if (!h->sinks[1]) {
		if (write(STDERR_FILENO, text, (size_t)n) < 0)
			return; /* nobody to tell */
		return;
	}
	for (uint32_t r = 0; r < h->size; r++) /* our sentence must not stand in the middle of a line either */
		if (h->ranks[r].sink[1] == h->sinks[1])
			end_line(h, r, 1);
	sink_put(h->sinks[1], text, (size_t)n);
	sink_push(h->sinks[1]);
}
