/* SPDX-License-Identifier: BSD-2-Clause */
/* Machine files: which clusters there are, and how they are joined. The format is in doc/balance.md. */
#include "runtime/balance/machine.h"

#include <stdlib.h>

#define FILE_MAX (4 << 20)

/* ---- where in the text ---------------------------------------------------------------------------------------------------- */

/* The text is JSON that jansson has taken: only as much is looked at as finds the way. All stop at the end of the text. */

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		p += *p == '\\' && p + 1 < end;
	return p < end ? p + 1 : end;
}

/* To the ',' or bracket after a value */
static const char *skip_value(const char *p, const char *end)
{
	int depth = 0;

	for (; p < end; p++) {
		if (*p == '"') {
			p = skip_string(p, end) - 1;
			continue;
		}
		if (depth == 0 && (*p == ',' || *p == ']' || *p == '}'))
			break;
		depth += *p == '[' || *p == '{';
		depth -= *p == ']' || *p == '}';
	}
	return p;
}

/* The value of a member, or an element, of what begins at @p; NULL: there is none */
static const char *step_into(const char *p, const char *end, const char *key, long index)
{
	size_t len = key ? strlen(key) : 0;

	if (!p || p >= end || *p != (key ? '{' : '['))
		return NULL;
	for (p = skip_blanks(p + 1, end); p < end && *p != '}' && *p != ']'; p = skip_blanks(p + 1, end)) {
		bool is_it = !key && index-- == 0;

		if (key) {
			const char *name = p + 1, *after = skip_string(p, end);

			is_it = (size_t)(after - name) == len + 1 && memcmp(name, key, len) == 0;
			p = skip_blanks(after, end);
			p = skip_blanks(p + (p < end), end); /* the ':' */
		}
		if (is_it)
			return p;
		p = skip_value(p, end);
		if (p >= end || *p != ',')
			break;
	}
	return NULL;
}

int machine_line(const char *text, size_t len, const char *object, const char *key, long index)
{
	const char *end = text + len, *at = skip_blanks(text, end);
	int line = 1;

	if (object)
		at = step_into(at, end, object, 0);
	if (key)
		at = step_into(at, end, key, 0);
	if (index >= 0 && at) {
		const char *element = step_into(at, end, NULL, index);

		at = element ? element : at;
	}
	if (!at)
		return 0;
	for (const char *p = text; p < at; p++)
		line += *p == '\n';
	return line;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------- */

struct source { /* what is being read */
	const char *text, *object; /* object: "control"; NULL: the whole */
	size_t len;
	const json_t *j;
	struct gw_error *why;
};

/* -EINVAL with the line of a value; @index below 0: of the whole of it */
static int wrong(const struct source *f, const char *key, long index, const char *fmt, ...) GW_PRINTF(4, 5);
static int wrong(const struct source *f, const char *key, long index, const char *fmt, ...)
{
	int line = machine_line(f->text, f->len, f->object, key, index);
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return line ? gw_fail(f->why, -EINVAL, "line %d: %s", line, text) : gw_fail(f->why, -EINVAL, "%s", text);
}

static int no_memory(const struct source *f)
{
	return gw_fail(f->why, -ENOMEM, "no memory for a machine");
}

/* The numbers of a list such as "torus": [4, 4]; 0: it is not there */
static int numbers(const struct source *f, const char *key, uint32_t v[BAL_DIMS_MAX])
{
	const json_t *list = json_object_get(f->j, key);
	uint64_t product = 1;
	size_t n = json_array_size(list);

	if (!list)
		return 0;
	if (!json_is_array(list) || n == 0 || n > BAL_DIMS_MAX)
		return wrong(f, key, -1, "\"%s\" is not a list of 1 to %d numbers", key, BAL_DIMS_MAX);
	for (size_t i = 0; i < n; i++) {
		json_int_t x = json_integer_value(json_array_get(list, i));

		if (x < 1 || x > BAL_CLUSTERS_MAX || (product *= (uint64_t)x) > BAL_CLUSTERS_MAX)
			return wrong(f, key, (long)i, "\"%s\" has a number that is not one, or is more than %d clusters in all", key,
			             BAL_CLUSTERS_MAX);
		v[i] = (uint32_t)x;
	}
	return (int)n;
}

static int refuse_others(const struct source *f, const char *const *known, size_t n)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)f->j, key, value) {
		size_t i;

		for (i = 0; i < n && strcmp(key, known[i]) != 0; i++)
			;
		if (i == n)
			return wrong(f, key, -1, "\"%.40s\" means nothing here", key);
	}
	return 0;
}

/* The clusters that stand in a mesh, torus or tree, and switches. @more: clusters beside them; @all: how many there are to be, 0: as
 * many as come of it */
static int read_layout(struct bal_network *net, const struct source *f, uint32_t more, uint32_t all)
{
	uint32_t mesh[BAL_DIMS_MAX], torus[BAL_DIMS_MAX], tree[BAL_DIMS_MAX];
	int nmesh = numbers(f, "mesh", mesh), ntorus = nmesh < 0 ? -1 : numbers(f, "torus", torus);
	int ntree = ntorus < 0 ? -1 : numbers(f, "tree", tree), rc = 0;
	uint64_t width = 1, switches = 1;

	if (ntree < 0)
		return f->why->code;
	if ((nmesh > 0) + (ntorus > 0) + (ntree > 0) > 1)
		return wrong(f, ntree > 0 ? "tree" : "torus", -1, "more than one of \"mesh\", \"torus\" and \"tree\" is there; join one of them "
		             "to others with \"more\" and \"links\"");
	if (ntree > 0) {
		for (int k = 0; k < ntree; k++) {
			width *= tree[k];
			switches += k + 1 < ntree ? width : 0;
		}
		net->nclusters = all ? all : (uint32_t)width + more;
		if (net->nclusters + switches > BAL_NODES_MAX)
			return wrong(f, "tree", -1, "the tree has more than %d clusters and switches", BAL_NODES_MAX);
		if (width <= net->nclusters)
			rc = network_lay_tree(net, tree, ntree, net->nclusters);
	} else {
		if (nmesh > 0 || ntorus > 0)
			rc = nmesh > 0 ? network_lay_mesh(net, mesh, nmesh, false) : network_lay_mesh(net, torus, ntorus, true);
		width = net->nclusters;
		net->nclusters = net->nnodes = all ? all : (uint32_t)width + more;
	}
	if (rc < 0)
		return no_memory(f);
	if (width > net->nclusters)
		return wrong(f, nmesh > 0 ? "mesh" : ntorus > 0 ? "torus" : "tree", -1, "it joins %u clusters, and the machine has %u",
		             (uint32_t)width, all);
	if (net->nclusters == 0 || net->nclusters > BAL_CLUSTERS_MAX)
		return wrong(f, NULL, -1, "it has %u clusters, not 1 to %d; say \"mesh\", \"torus\", \"tree\" or \"more\"", net->nclusters,
		             BAL_CLUSTERS_MAX);
	return 0;
}

/* Is element @i of a list the number of a cluster? */
static bool is_cluster(const json_t *number, uint32_t n, uint32_t *out)
{
	json_int_t x = json_integer_value(number);

	if (!json_is_integer(number) || x < 0 || x >= n)
		return false;
	*out = (uint32_t)x;
	return true;
}

static int read_links(struct bal_network *net, const struct source *f)
{
	const json_t *links = json_object_get(f->j, "links");
	uint32_t apart[2], a, b;
	int rc;

	if (links && !json_is_array(links))
		return wrong(f, "links", -1, "\"links\" is not a list of pairs");
	for (size_t i = 0; i < json_array_size(links); i++) {
		const json_t *link = json_array_get(links, i);

		if (json_array_size(link) != 2 || !is_cluster(json_array_get(link, 0), net->nclusters, &a) ||
		    !is_cluster(json_array_get(link, 1), net->nclusters, &b) || a == b)
			return wrong(f, "links", (long)i, "entry %zu of \"links\" is not a pair of two of the clusters 0 to %u", i,
			             net->nclusters - 1);
		if (network_add_edge(net, a, b) < 0)
			return no_memory(f);
	}
	rc = network_measure(net, apart);
	return rc == -EINVAL ? wrong(f, links ? "links" : NULL, -1, "no way leads from cluster %u to cluster %u%s; add \"links\"", apart[0],
	                             apart[1], f->object ? " by this network" : "") : rc < 0 ? no_memory(f) : 0;
}

static int read_services(struct bal_machine *m, const struct source *f)
{
	const json_t *services = json_object_get(f->j, "services");

	m->is_service = calloc(m->nclusters, sizeof(bool));
	m->ncompute = m->nclusters;
	if (!m->is_service)
		return no_memory(f);
	if (services && !json_is_array(services))
		return wrong(f, "services", -1, "\"services\" is not a list of clusters");
	for (size_t i = 0; i < json_array_size(services); i++) {
		uint32_t c;

		if (!is_cluster(json_array_get(services, i), m->nclusters, &c))
			return wrong(f, "services", (long)i, "entry %zu of \"services\" is not one of the clusters 0 to %u", i, m->nclusters - 1);
		m->ncompute -= !m->is_service[c];
		m->is_service[c] = true;
	}
	return m->ncompute ? 0 : wrong(f, "services", -1, "all clusters are for services, and none is left for ranks");
}

static int read_cores(struct bal_machine *m, const struct source *f)
{
	const json_t *cores = json_object_get(f->j, "cores");

	if (!cores)
		return 0;
	if (!json_is_integer(cores) && json_array_size(cores) != m->nclusters)
		return wrong(f, "cores", -1, "\"cores\" is neither a number nor a list of %u numbers, one for each cluster", m->nclusters);
	m->cores = calloc(m->nclusters, sizeof(*m->cores));
	if (!m->cores)
		return no_memory(f);
	for (uint32_t c = 0; c < m->nclusters; c++) {
		const json_t *one = json_is_array(cores) ? json_array_get(cores, c) : cores;

		if (!json_is_integer(one) || json_integer_value(one) < 1 || json_integer_value(one) > 65536)
			return wrong(f, "cores", json_is_array(cores) ? (long)c : -1, "the cores of a cluster are not a number from 1 to 65536");
		m->cores[c] = (uint32_t)json_integer_value(one);
	}
	return 0;
}

static int read_amount(double *out, const struct source *f, const char *key, double unit)
{
	const json_t *j = json_object_get(f->j, key);
	double x = json_number_value(j);

	if (j && (!json_is_number(j) || !(x > 0 && x < 1e9)))
		return wrong(f, key, -1, "\"%s\" is not a number above 0", key);
	*out = x * unit;
	return 0;
}

static int read_machine(struct bal_machine *m, const struct source *f)
{
	static const char *const known[] = { "comment", "mesh", "torus", "tree", "more", "links", "services", "cores", "control",
	                                     "link_mb_s", "message_us" };
	static const char *const of_network[] = { "comment", "mesh", "torus", "tree", "links" };
	const json_t *more = json_object_get(f->j, "more"), *j = json_object_get(f->j, "control");
	struct source control = { .text = f->text, .len = f->len, .object = "control", .j = j, .why = f->why };

	if (refuse_others(f, known, GW_ARRAY_LEN(known)) < 0)
		return f->why->code;
	if (more && (!json_is_integer(more) || json_integer_value(more) < 0 || json_integer_value(more) > BAL_CLUSTERS_MAX))
		return wrong(f, "more", -1, "\"more\" is not a number of clusters");
	if (read_layout(&m->data, f, (uint32_t)json_integer_value(more), 0) < 0)
		return f->why->code;
	m->nclusters = m->data.nclusters;
	if (read_services(m, f) < 0 || read_cores(m, f) < 0 || read_links(&m->data, f) < 0 ||
	    read_amount(&m->link_bytes_s, f, "link_mb_s", 1e6) < 0 || read_amount(&m->message_s, f, "message_us", 1e-6) < 0)
		return f->why->code;
	if (!j)
		return 0;
	if (!json_is_object(j))
		return wrong(f, "control", -1, "\"control\" is not a network: {\"torus\": ..., \"links\": ...}");
	if (refuse_others(&control, of_network, GW_ARRAY_LEN(of_network)) < 0)
		return f->why->code;
	if (read_layout(&m->control, &control, 0, m->nclusters) < 0 || read_links(&m->control, &control) < 0)
		return f->why->code;
	return 0;
}

int bal_machine_parse(struct bal_machine **out, const char *text, size_t len, struct gw_error *why)
{
	struct gw_error inner = { 0 };
	struct source f = { .text = text, .len = len, .why = why ? why : &inner };
	struct bal_machine *m;
	json_error_t bad;
	json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &bad);
	int rc;

	if (!j)
		return gw_fail(f.why, -EINVAL, "line %d: %s", bad.line > 0 ? bad.line : 1, bad.text);
	f.j = j;
	m = calloc(1, sizeof(*m));
	rc = !m ? no_memory(&f) : !json_is_object(j) ? wrong(&f, NULL, -1, "it is not of the form {\"torus\": [4, 4], ...}") : read_machine(m, &f);
	json_decref(j);
	if (rc < 0) {
		bal_machine_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

int bal_machine_read(struct bal_machine **out, const char *path, struct gw_error *why)
{
	gw_autofree char *text = malloc(FILE_MAX + 1);
	struct gw_error inner = { 0 };
	FILE *f = fopen(path, "re");
	size_t len = 0;
	int error = errno;

	if (f && text) {
		errno = 0;
		len = fread(text, 1, FILE_MAX + 1, f);
		error = ferror(f) ? errno : 0;
	}
	if (f)
		fclose(f);
	if (!f || error)
		return gw_fail(why, -error, "machine file '%s' cannot be read: %s", path, strerror(error));
	if (!text)
		return gw_fail(why, -ENOMEM, "no memory for the machine file '%s'", path);
	if (len > FILE_MAX)
		return gw_fail(why, -EFBIG, "machine file '%s' has more than %d bytes", path, FILE_MAX);
	return bal_machine_parse(out, text, len, why ? why : &inner) < 0 ? gw_fail_more(why ? why : &inner, "machine file '%s', ", path) : 0;
}
