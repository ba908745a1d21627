/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which core provider carries the connections: the first of a table that is there, can do what fabric.c needs, and was not
 * ruled out by GODWIT_NET. Our own for TCP (tcp.h), else libfabric's.
 *
 * All ranks of a job must come to the same answer, since a provider reaches only its like. Where only some hosts have the
 * hardware, or it is on another network, say GODWIT_NET=tcp.
 */
#include "noc/fabric.h"

#include <rdma/fi_domain.h>
#include <rdma/fi_errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "noc/local.h"
#include "noc/tcp.h"

/* libfabric hides the providers that FI_PROVIDER does not name from those who ask; it names ours alone, and this bit of its
 * own layers shows the others. Not in its public headers; stable from 1.13 to 1.17 at least. */
#define FABRIC_SHOW_HIDDEN (1ULL << 60)

_Static_assert(NOC_GREETING_BYTES <= NOC_GREETING_MAX, "every connection manager of the table carries a greeting");

static const struct core {
	const char *word;     /* of GODWIT_NET */
	const char *name;     /* libfabric's; NULL: our own */
	const char *hardware; /* taken by itself, but only where this is: asking libfabric costs each attach more. NULL: anywhere */
	bool is_asked_for;    /* not taken by itself */
	bool is_registering;  /* whether it wants it or not */
} cores[] = {
	{ .word = "verbs", .name = "verbs", .hardware = "/sys/class/infiniband" }, /* it places data by itself */
	{ .word = "tcp" },
	/* to compare, and so that what fabric.c needs of libfabric stays tested; then as hardware would want it */
	{ .word = "libfabric", .name = "tcp", .is_asked_for = true },
	{ .word = "registered", .name = "tcp", .is_asked_for = true, .is_registering = true },
};

static char wanted[16]; /* process-wide; GODWIT_NET, the same after a move */
static bool is_own;     /* process-wide: the one that was found */

static struct fi_info *core_ask(const struct core *core, const struct noc_address *at, int *code)
{
	struct fi_info *hints, *info = NULL;

	*code = -FI_ENOMEM;
	if (!core->name)
		return noc_tcp_info(at);
	hints = fi_allocinfo();
	if (!hints)
		return NULL;
	hints->ep_attr->type = FI_EP_MSG;
	hints->caps = FI_MSG;
	hints->domain_attr->threading = FI_THREAD_DOMAIN; /* the gate gives all of it one thread at a time: no locks */
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	hints->fabric_attr->prov_name = strdup(core->name);
	hints->addr_format = FI_SOCKADDR;
	hints->src_addr = malloc(sizeof(struct sockaddr_in6));
	if (hints->fabric_attr->prov_name && hints->src_addr) {
		memcpy(hints->src_addr, at, sizeof(struct sockaddr_in6));
		hints->src_addrlen = noc_address_size(at);
		*code = fi_getinfo(FI_VERSION(1, 13), NULL, NULL, FABRIC_SHOW_HIDDEN, hints, &info);
	}
	fi_freeinfo(hints);
	return info;
}

/* What it cannot do that fabric.c relies on; NULL: nothing. */
static const char *core_lacks(const struct fi_info *info)
{
	if (info->tx_attr && info->tx_attr->inject_size < NOC_NET_INJECT)
		return "it cannot take small messages at once";
	return NULL;
}

static bool takes_itself(const struct core *core)
{
	return !core->is_asked_for && (!core->hardware || access(core->hardware, F_OK) == 0);
}

struct fi_info *noc_core_find(const struct noc_address *at, bool *is_registering, struct gw_error *why)
{
	const char *lacks, *env = *wanted ? NULL : getenv("GODWIT_NET");
	struct fi_info *info;
	int code = -FI_ENODATA;
	bool is_known;

	if (!*wanted)
		snprintf(wanted, sizeof(wanted), "%s", env && *env ? env : "auto");
	is_known = strcmp(wanted, "auto") == 0;
	for (size_t i = 0; i < GW_ARRAY_LEN(cores); i++)
		is_known |= strcmp(wanted, cores[i].word) == 0;
	if (!is_known) {
		gw_fail(why, -EINVAL, "GODWIT_NET=%s is no network that ranks know; say tcp or verbs, or nothing", wanted);
		return NULL;
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(cores); i++) {
		bool is_wanted = strcmp(wanted, cores[i].word) == 0;

		if (!is_wanted && (strcmp(wanted, "auto") || !takes_itself(&cores[i])))
			continue;
		info = core_ask(&cores[i], at, &code);
		lacks = info ? core_lacks(info) : NULL;
		if (info && !lacks) {
			is_own = !cores[i].name;
			*is_registering = cores[i].is_registering || (info->domain_attr->mr_mode & FI_MR_LOCAL);
			return info;
		}
		if (info)
			fi_freeinfo(info);
		if (!is_wanted)
			continue;
		if (lacks)
			gw_fail(why, -ENOTSUP, "GODWIT_NET=%s: this Godwit cannot use it: %s; say tcp", wanted, lacks);
		else
			gw_fail(why, -ENODEV, "GODWIT_NET=%s: libfabric finds none at this host's address (no device, or down, or built "
			        "without it); say tcp", wanted);
		return NULL;
	}
	gw_fail(why, code < 0 ? code : -ENODEV, "the network of this host: finding the tcp provider: %s", fi_strerror(-code));
	return NULL;
}

int noc_core_open(struct fi_info *info, struct fid_fabric **out)
{
	return is_own ? noc_tcp_fabric(out) : fi_fabric(info->fabric_attr, out, NULL);
}
