/* SPDX-License-Identifier: BSD-2-Clause */
/* Events: one write per line to a file in append mode. */
#include "runtime/base/event.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int the_file = -1;    /* process-wide by nature: one file of events */
static char the_who[48], the_host[64];
static gw_event_fn *the_listener; /* likewise */
static void *the_listener_ctx;

void gw_event_init(const char *who, const char *host)
{
	const char *path = getenv("GODWIT_EVENTS");

	snprintf(the_who, sizeof(the_who), "%s", who);
	snprintf(the_host, sizeof(the_host), "%s", host ? host : "");
	if (the_file >= 0 || !path || !*path)
		return;
	the_file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (the_file < 0)
		gw_log(GW_WARN, "cannot open the event file '%s': %s", path, strerror(errno));
}

bool gw_event_on(void)
{
	return the_file >= 0 || the_listener;
}

void gw_event_listen(gw_event_fn *fn, void *ctx)
{
	the_listener = fn;
	the_listener_ctx = ctx;
}

void gw_event_object(const char *name, json_t *fields)
{
	json_t *all;
	char *text;

	if (!gw_event_on()) {
		json_decref(fields);
		return;
	}
	all = json_pack("{s:s, s:I, s:s, s:i}", "event", name, "t", (json_int_t)gw_realtime_ns(), "who", the_who, "pid",
	                (int)getpid());
	if (all && the_host[0])
		json_object_set_new(all, "host", json_string(the_host));
	if (all && fields)
		json_object_update(all, fields);
	text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	if (text) {
		size_t len = strlen(text);

		text[len] = '\n'; /* in place of the NUL: one write, so that lines of several daemons do not mix */
		if (the_file >= 0 && write(the_file, text, len + 1) < 0)
			gw_log(GW_WARN, "cannot write an event: %s", strerror(errno));
		if (the_listener)
			the_listener(the_listener_ctx, name, all, text, len + 1);
	}
	free(text);
	json_decref(all);
	json_decref(fields);
}

void gw_event(const char *name, const char *fmt, ...)
{
	json_error_t e;
	json_t *fields;
	va_list ap;

	if (!gw_event_on())
		return;
	va_start(ap, fmt);
	fields = json_vpack_ex(&e, 0, fmt, ap);
	va_end(ap);
	if (!fields)
		gw_log(GW_ERROR, "event '%s': bad fields: %s", name, e.text);
	gw_event_object(name, fields);
}

json_t *gw_event_text(const char *text)
{
	json_t *s = json_string(text);
	char *copy = s ? NULL : strdup(text);

	for (char *p = copy; p && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	if (copy)
		s = json_string(copy);
	free(copy);
	return s ? s : json_string("");
}
