/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The address vector: a fi_addr_t is the logical name itself, so there is nothing to store, nothing that grows with the
 * number of peers, and nothing that could be stale after a move.
 *
 * A process of another job (MPI_Comm_connect) has a number of this job, too: a guest (noc/guests.c). It gets it when its address is
 * first inserted: mpirun is asked to make the two jobs known to each other. Out of here it goes with its true name, which is the
 * same in both jobs: MPICH compares addresses to see who is who.
 */
#include "mpi-shim/shim.h"

#include "container/wish.h"

static int av_close(struct fid *fid)
{
	struct shim_av *av = gw_container_of(fid, struct shim_av, fid.fid);

	if (av->users)
		return -FI_EBUSY;
	ct_gate_enter(CT_DOING_COMPUTE);
	av->domain->users--;
	ct_area_free(av, sizeof(*av));
	ct_gate_leave();
	return 0;
}

static uint32_t guest_number(noc_name name)
{
	uint32_t n;

	ct_gate_enter(CT_DOING_COMPUTE);
	n = noc_guest_number(name);
	ct_gate_leave();
	return n;
}

/* Outside the gate while it waits, so this rank can be moved meanwhile. For how long at most is mpirun's to say. */
static fi_addr_t guest_insert(uint32_t job, noc_name name)
{
	uint32_t n = guest_number(name);
	struct gw_error why = { 0 };
	char who[32];

	if (n != UINT32_MAX)
		return noc_name_make(job, n);
	snprintf(who, sizeof(who), "%u %u", noc_name_job(name), noc_name_proc(name));
	if (ct_wish_ask(CT_WISH_MEET, who, 0, &why) == 0 && (n = guest_number(name)) != UINT32_MAX)
		return noc_name_make(job, n);
	gw_log(GW_WARN, "process %u of job %08x cannot be reached: %s", noc_name_proc(name), noc_name_job(name),
	       why.text[0] ? why.text : "its job is not known on this host");
	return FI_ADDR_NOTAVAIL;
}

static int av_insert(struct fid_av *fid, const void *addr, size_t count, fi_addr_t *out, uint64_t flags, void *context)
{
	const struct shim_av *av = gw_container_of(fid, struct shim_av, fid);
	const struct shim_addr *a = addr;
	int good = 0, code = 0;

	for (size_t i = 0; i < count; i++) {
		struct shim_addr one;
		fi_addr_t found = FI_ADDR_NOTAVAIL;

		memcpy(&one, &a[i], sizeof(one)); /* packed in a buffer of the caller's: any alignment */
		if (one.magic == SHIM_ADDR_MAGIC && one.version == SHIM_ADDR_VERSION) {
			found = noc_name_job(one.name) == av->domain->job ? one.name : guest_insert(av->domain->job, one.name);
			if (found == FI_ADDR_NOTAVAIL)
				code = -FI_EHOSTUNREACH;
		}
		good += found != FI_ADDR_NOTAVAIL;
		if (out)
			out[i] = found;
	}
	return good ? good : code; /* MPICH keeps what it was given, for good: an error lets it ask again, when it is told to connect again */
}

static int av_insertsvc(struct fid_av *fid, const char *node, const char *service, fi_addr_t *out, uint64_t flags,
                        void *context)
{
	return -FI_ENOSYS;
}

static int av_insertsym(struct fid_av *fid, const char *node, size_t nodes, const char *service, size_t services,
                        fi_addr_t *out, uint64_t flags, void *context)
{
	return -FI_ENOSYS;
}

static int av_remove(struct fid_av *fid, fi_addr_t *addr, size_t count, uint64_t flags)
{
	return 0;
}

static int av_lookup(struct fid_av *fid, fi_addr_t addr, void *out, size_t *len)
{
	const struct shim_av *av = gw_container_of(fid, struct shim_av, fid);
	struct shim_addr a = { SHIM_ADDR_MAGIC, SHIM_ADDR_VERSION, addr };

	if (addr == FI_ADDR_NOTAVAIL)
		return -FI_EINVAL;
	if (noc_name_job(addr) == av->domain->job) {
		ct_gate_enter(CT_DOING_COMPUTE);
		a.name = noc_true_name(noc_name_proc(addr));
		ct_gate_leave();
	}
	memcpy(out, &a, *len < sizeof(a) ? *len : sizeof(a));
	*len = sizeof(a); /* a short buffer is told by this */
	return 0;
}

static const char *av_straddr(struct fid_av *fid, const void *addr, char *buf, size_t *len)
{
	struct shim_addr a;
	int n;

	memcpy(&a, addr, sizeof(a));
	n = snprintf(buf, buf ? *len : 0, "godwit://%u/%u", noc_name_job(a.name), noc_name_proc(a.name));
	*len = (size_t)n + 1;
	return buf;
}

static int av_no_set(struct fid_av *fid, struct fi_av_set_attr *attr, struct fid_av_set **set, void *context)
{
	return -FI_ENOSYS;
}

static struct fi_ops av_fid_ops = {
	.size = sizeof(struct fi_ops),
	.close = av_close,
	.bind = shim_no_bind,
	.control = shim_no_control,
	.ops_open = shim_no_ops_open,
};

static struct fi_ops_av av_ops = {
	.size = sizeof(struct fi_ops_av),
	.insert = av_insert,
	.insertsvc = av_insertsvc,
	.insertsym = av_insertsym,
	.remove = av_remove,
	.lookup = av_lookup,
	.straddr = av_straddr,
	.av_set = av_no_set,
};

int shim_av_open(struct fid_domain *dom, struct fi_av_attr *attr, struct fid_av **out, void *context)
{
	struct shim_domain *domain = gw_container_of(dom, struct shim_domain, fid);
	struct shim_av *av;

	if (attr->name) /* shared between processes: MPICH would then never ask for our address, and spawn would break */
		return -FI_ENOSYS;
	if (attr->type == FI_AV_TABLE)
		return -FI_ENOSYS;
	if (attr->rx_ctx_bits || (attr->flags & FI_EVENT))
		return -FI_ENOSYS;
	ct_gate_enter(CT_DOING_COMPUTE);
	av = ct_area_zalloc(sizeof(*av));
	if (av)
		domain->users++;
	ct_gate_leave();
	if (!av)
		return -FI_ENOMEM;
	av->fid.fid = (struct fid){ .fclass = FI_CLASS_AV, .context = context, .ops = &av_fid_ops };
	av->fid.ops = &av_ops;
	av->domain = domain;
	attr->type = FI_AV_MAP;
	*out = &av->fid;
	return 0;
}
