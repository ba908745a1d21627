/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Migration sessions between daemons of different hosts: a TCP listener of each daemon in the job's network, told to the
 * head with `up` and by the head to the daemons of the other hosts; both ends prove the job's secret (base/trust.h).
 */
#include <stdlib.h>
#include <unistd.h>

#include "runtime/clusterd/clusterd.h"

#define PROVE_MS 3000

struct far_daemon {      /* port 0: not heard of, or on this host */
	char address[GW_TCP_NAME];
	uint16_t port;
};

struct attempt {         /* a connection that is being made */
	struct gw_trust *trust;
	void (*done)(void *peer, int fd, const char *why);
	void *peer;
};

static void on_session(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct clusterd *d = ctx;

	(void)why;
	if (peer->purpose == GW_TRUST_SESSION && !d->is_ending)
		mig_accept(d->mig, fd);
	else
		close(fd);
}

int far_init(struct clusterd *d, const char *address, struct gw_error *why)
{
	struct gw_trust_who me = { GW_TRUST_SESSION, d->job, d->cluster };
	int fd, code;

	if (!d->is_networked)
		return 0;
	d->far = calloc(RT_CLUSTERS_MAX, sizeof(*d->far));
	if (!d->far)
		return gw_fail(why, -ENOMEM, "out of memory");
	fd = gw_tcp_listen(address, &d->far_port, why);
	if (fd < 0)
		return fd;
	code = gw_trust_listen(&d->far_listener, d->loop, fd, d->here.secret, &me, PROVE_MS, on_session, d);
	if (code == 0)
		code = probe_init(d);
	return code < 0 ? gw_fail(why, code, "cannot listen at %s: %s", address, strerror(-code)) : 0;
}

void far_heard(struct clusterd *d, const json_t *msg)
{
	const char *address = json_string_value(json_object_get(msg, "address"));
	json_int_t cluster = json_integer_value(json_object_get(msg, "cluster"));
	json_int_t port = json_integer_value(json_object_get(msg, "port"));

	if (!d->far || !address || cluster < 0 || cluster >= RT_CLUSTERS_MAX || port <= 0 || port > 65535)
		return;
	snprintf(d->far[cluster].address, sizeof(d->far[cluster].address), "%s", address);
	d->far[cluster].port = (uint16_t)port;
	if (cluster >= d->far_end)
		d->far_end = (uint32_t)cluster + 1;
}

void far_left(struct clusterd *d, uint32_t cluster)
{
	if (d->far && cluster < RT_CLUSTERS_MAX)
		d->far[cluster].port = 0;
}

/* Clusters of one host have one address. */
static bool is_first_of_host(const struct clusterd *d, uint32_t cluster)
{
	for (uint32_t i = 0; i < cluster; i++)
		if (d->far[i].port && strcmp(d->far[i].address, d->far[cluster].address) == 0)
			return false;
	return d->far[cluster].port != 0;
}

bool far_next(const struct clusterd *d, uint32_t *cluster)
{
	for (uint32_t i = 0; i < d->far_end; i++) {
		*cluster = (*cluster + 1) % d->far_end;
		if (is_first_of_host(d, *cluster))
			return true;
	}
	return false;
}

int far_dial(const struct clusterd *d, uint32_t cluster, struct gw_error *why)
{
	if (!d->far || cluster >= RT_CLUSTERS_MAX || !d->far[cluster].port)
		return FAR_UNKNOWN;
	return gw_tcp_connect(d->far[cluster].address, d->far[cluster].port, why);
}

static void on_proved(void *ctx, int fd, const struct gw_trust_who *peer, const struct gw_error *why)
{
	struct attempt a = *(struct attempt *)ctx;

	(void)peer;
	free(ctx);
	a.done(a.peer, fd, why ? why->text : "");
}

int far_connect(void *ctx, uint32_t cluster, void **handle, void (*done)(void *peer, int fd, const char *why), void *peer,
                struct gw_error *why)
{
	struct clusterd *d = ctx;
	struct gw_trust_who me = { GW_TRUST_SESSION, d->job, d->cluster };
	struct attempt *a;
	int fd, code;

	fd = far_dial(d, cluster, why);
	if (fd == FAR_UNKNOWN)
		return 1;
	if (fd < 0)
		return fd;
	a = calloc(1, sizeof(*a));
	if (!a) {
		close(fd);
		return gw_fail(why, -ENOMEM, "out of memory");
	}
	a->done = done;
	a->peer = peer;
	code = gw_trust_connect(&a->trust, d->loop, fd, d->here.secret, &me, PROVE_MS, on_proved, a);
	if (code < 0) {
		free(a);
		return gw_fail(why, code, "%s", strerror(-code));
	}
	*handle = a;
	return 0;
}

void far_cancel(void *ctx, void *handle)
{
	struct attempt *a = handle;

	(void)ctx;
	gw_trust_cancel(a->trust);
	free(a);
}

void far_fini(struct clusterd *d)
{
	probe_fini(d);
	gw_trust_listener_destroy(d->far_listener);
	d->far_listener = NULL;
	free(d->far);
	d->far = NULL;
}
