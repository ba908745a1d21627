/* SPDX-License-Identifier: BSD-2-Clause */
/* Which hosts a job runs on: -hosts a:2,b and files of host:slots, and whether a name is this machine. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/launcher/options.h"

bool hosts_is_here(const char *name)
{
	char own[256] = "";

	gethostname(own, sizeof(own) - 1);
	if (strcmp(name, "localhost") == 0 || strcmp(name, "127.0.0.1") == 0 || strcmp(name, "::1") == 0 || strcmp(name, own) == 0)
		return true;
	own[strcspn(own, ".")] = '\0';
	return strcmp(name, own) == 0;
}

bool hosts_is_launcher(const char *words)
{
	for (const char *at = words; (at = strstr(at, "%h")); at++)
		if ((at == words || at[-1] == ' ') && (!at[2] || at[2] == ' '))
			return true;
	return false;
}

/* Names that come again get more slots, as with MPICH. */
static int add(struct job_spec *spec, const char *name, size_t len, uint32_t slots, struct gw_error *why)
{
	struct host_spec *h, *more;

	if (len == 0)
		return gw_fail(why, -EINVAL, "the name of a host is missing: names stand between commas");
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == 127)
			return gw_fail(why, -EINVAL, "'%.*s' is not the name of a host; commas separate several", (int)(len < 100 ? len : 100), name);
	if (len >= sizeof(h->name) || name[0] == '-') /* ssh would take it for an option */
		return gw_fail(why, -EINVAL, "'%.*s%s' is not the name of a host", (int)(len < 100 ? len : 100), name, len > 100 ? "..." : "");
	for (uint32_t i = 0; i < spec->n_hosts; i++) {
		h = &spec->hosts[i];
		if (strlen(h->name) == len && strncmp(h->name, name, len) == 0) {
			h->slots += slots ? slots : 1;
			return 0;
		}
	}
	if (spec->n_hosts >= OPTIONS_CLUSTERS_MAX)
		return gw_fail(why, -E2BIG, "more than %d hosts", OPTIONS_CLUSTERS_MAX);
	more = realloc(spec->hosts, (spec->n_hosts + 1) * sizeof(*more));
	if (!more)
		return gw_fail(why, -ENOMEM, "out of memory");
	spec->hosts = more;
	h = &more[spec->n_hosts++];
	memset(h, 0, sizeof(*h));
	memcpy(h->name, name, len);
	h->slots = slots ? slots : 1;
	spec->has_slots |= slots > 0;
	return 0;
}

int hosts_add(struct job_spec *spec, const char *name, uint32_t slots, struct gw_error *why)
{
	return add(spec, name, strlen(name), slots, why);
}

static bool is_ipv6(const char *text, size_t len)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr parsed;

	len = strcspn(text, "%") < len ? strcspn(text, "%") : len; /* an interface follows */
	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	return inet_pton(AF_INET6, address, &parsed) == 1;
}

/* "name", "name:slots", or an IPv6 address, which is in brackets where slots follow */
static int add_word(struct job_spec *spec, const char *word, size_t len, struct gw_error *why)
{
	const char *colon = memchr(word, ':', len), *close, *name = word;
	size_t name_len = len;
	char *end;
	unsigned long slots;

	if (word[0] == '[') { /* [fd00::1], [fd00::1]:4 */
		close = memchr(word, ']', len);
		colon = close && close + 1 < word + len && close[1] == ':' ? close + 1 : NULL;
		if (!close || (!colon && close + 1 < word + len))
			return gw_fail(why, -EINVAL, "'%.*s' is not [ADDRESS] or [ADDRESS]:SLOTS", (int)len, word);
		name = word + 1;
		name_len = (size_t)(close - name);
	} else if (is_ipv6(word, len)) { /* fd00::1 */
		colon = NULL;
	} else if (colon) {
		name_len = (size_t)(colon - word);
	}
	if (!colon)
		return add(spec, name, name_len, 0, why);
	slots = isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
	if (slots == 0 || slots > OPTIONS_RANKS_MAX || end != word + len)
		return gw_fail(why, -EINVAL, "'%.*s' is not HOST or HOST:SLOTS", (int)len, word);
	return add(spec, name, name_len, (uint32_t)slots, why);
}

void hosts_forget(struct job_spec *spec)
{
	free(spec->hosts);
	spec->hosts = NULL;
	spec->n_hosts = 0;
	spec->has_slots = false;
}

int hosts_parse(struct job_spec *spec, const char *list, struct gw_error *why)
{
	int code = 0;

	hosts_forget(spec);
	for (const char *at = list; code == 0; at++) {
		size_t n = strcspn(at, ","), blanks = strspn(at, " \t"), len = n > blanks ? n - blanks : 0;

		while (len && (at[blanks + len - 1] == ' ' || at[blanks + len - 1] == '\t')) /* "a, b" */
			len--;
		code = add_word(spec, at + blanks, len, why);
		at += n;
		if (!*at)
			break;
	}
	return code;
}

/* One line: a host, and what other launchers let follow it. */
static int add_line(struct job_spec *spec, char *line, struct gw_error *why)
{
	char *save = NULL, *word, *more, *rest;

	line[strcspn(line, "#\n")] = '\0';
	word = strtok_r(line, " \t\r", &save);
	if (!word)
		return 0;
	more = strtok_r(NULL, " \t\r", &save);
	rest = more ? strtok_r(NULL, " \t\r", &save) : NULL;
	if (more && strncmp(more, "slots=", 6) == 0 && word[0] != '[' && !rest) {
		char both[512];

		if (strchr(word, ':') && !is_ipv6(word, strlen(word)))
			return gw_fail(why, -EINVAL, "'%s' says slots twice", word);
		snprintf(both, sizeof(both), strchr(word, ':') ? "[%s]:%s" : "%s:%s", word, more + 6);
		return add_word(spec, both, strlen(both), why);
	}
	if (more)
		return gw_fail(why, -EINVAL, "'%.100s' is not understood; a line is HOST, HOST:SLOTS or HOST slots=N", rest && strncmp(more, "slots=", 6) == 0 ? rest : more);
	return add_word(spec, word, strlen(word), why);
}

int hosts_read(struct job_spec *spec, const char *path, struct gw_error *why)
{
	FILE *f = fopen(path, "re");
	gw_autofree char *line = NULL;
	size_t cap = 0;
	int code = 0, number = 0;

	hosts_forget(spec);
	if (!f)
		return gw_fail(why, -errno, "the file of hosts '%s' cannot be read: %s", path, strerror(errno));
	while (code == 0 && getline(&line, &cap, f) > 0) {
		number++;
		code = add_line(spec, line + (number == 1 && strncmp(line, "\xef\xbb\xbf", 3) == 0 ? 3 : 0), why); /* some editors begin so */
	}
	if (code < 0)
		gw_fail_more(why, "'%s', line %d: ", path, number);
	else if (ferror(f)) /* a directory, for one */
		code = gw_fail(why, -errno, "the file of hosts '%s' cannot be read: %s", path, strerror(errno));
	fclose(f);
	if (code < 0)
		return code;
	return spec->n_hosts ? 0 : gw_fail(why, -EINVAL, "the file of hosts '%s' names none", path);
}
