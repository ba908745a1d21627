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
}

void far_left(struct clusterd *d, uint32_t cluster)
{
	if (d->far && cluster < RT_CLUSTERS_MAX)
		d->far[cluster].port = 0;
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

	if (!d->far || cluster >= RT_CLUSTERS_MAX || !d->far[cluster].port)
		return 1;
	fd = gw_tcp_connect(d->far[cluster].address, d->far[cluster].port, why);
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
	gw_trust_listener_destroy(d->far_listener);
	d->far_listener = NULL;
	free(d->far);
	d->far = NULL;
}
