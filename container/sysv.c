/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System V semaphores, message queues and shared memory. They belong to a host (an IPC namespace), not to a process, so ranks share
 * them with whom they like, and use them over a move between clusters of one host as before. To another host they do not go.
 *
 *   what a rank uses    holds it on its host: as far as the kernel tells, by who used each last, which travels as a list
 *   attached memory     is attached again, before the source lets go of it
 *   SEM_UNDO            what is added to a semaphore when the process ends. The copy at the source ends too, so it is taken over:
 *
 *        source, frozen          destination              source, released
 *        adjustments are read -> at the thaw: made -----> unmade, then the copy is killed
 *
 * No call tells an adjustment. But one semop() of many operations is refused as a whole, with ERANGE if an adjustment would leave its
 * range on the way, and otherwise with EAGAIN by its last operation, which no semaphore can satisfy: that tells which, and changes
 * nothing. Where no semaphores are on the host, none of this is done.
 */
#include "container/rank.h"

#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETS_MAX  4096 /* adjustments that are looked for: semaphores */
#define ADJUST_MAX 32767
#define STEP      16383 /* of an operation that is undone by the next: half of what a semaphore can hold */

union semun { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *info; };

static const char *const names[] = { "", "semaphore set", "message queue", "shared memory" };

/* ---- what is there --------------------------------------------------------------------------------------------------- */

/* Is one of them on this host? A rank stands still when this is asked: it costs no file. */
static bool is_any(const char *kind)
{
	struct seminfo sems = { 0 };
	struct msginfo queues = { 0 };
	struct shm_info memory = { 0 };

	if (!strcmp(kind, "sem"))
		return semctl(0, 0, SEM_INFO, (union semun){ .info = &sems }) >= 0 && sems.semusz > 0;
	if (!strcmp(kind, "msg"))
		return msgctl(0, MSG_INFO, (struct msqid_ds *)(void *)&queues) >= 0 && queues.msgpool > 0;
	return shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&memory) >= 0 && memory.used_ids > 0;
}

/* Calls @each for every line of a list of /proc/sysvipc with its first sixteen numbers. */
static int each_line(const char *kind, int (*each)(const long long *field, void *ctx), void *ctx)
{
	char path[64];
	char line[512];
	FILE *f;
	int rc = 0;

	if (!is_any(kind))
		return 0;
	snprintf(path, sizeof(path), "/proc/sysvipc/%s", kind);
	f = fopen(path, "re");
	if (!f)
		return 0; /* a kernel without them */
	while (rc == 0 && fgets(line, sizeof(line), f)) {
		long long field[16] = { 0 };
		char *at = line, *end;
		size_t n = 0;

		for (; n < GW_ARRAY_LEN(field); n++, at = end) {
			field[n] = strtoll(at, &end, n == 2 ? 8 : 10); /* the third is the mode */
			if (end == at)
				break;
		}
		if (n >= 8)
			rc = each(field, ctx);
	}
	fclose(f);
	return rc;
}

struct search {
	struct ct_rank *r;
	struct ct_vec *out; /* struct ct_img_sysv */
};

static int found(struct search *s, uint32_t kind, long long id)
{
	struct ct_img_sysv one = { .kind = kind, .id = (int32_t)id };

	return ct_vec_append(s->out, &one, 1);
}

/* key semid perms nsems ... */
static int look_set(const long long *field, void *ctx)
{
	struct search *s = ctx;

	for (int i = 0; i < field[3]; i++)
		if (semctl((int)field[1], i, GETPID) == s->r->pid)
			return found(s, CT_SYSV_SET, field[1]);
	return 0;
}

/* key msqid perms cbytes qnum lspid lrpid ... */
static int look_queue(const long long *field, void *ctx)
{
	struct search *s = ctx;

	return field[5] == s->r->pid || field[6] == s->r->pid ? found(s, CT_SYSV_QUEUE, field[1]) : 0;
}

/* key shmid perms size cpid lpid ... */
static int look_memory(const long long *field, void *ctx)
{
	struct search *s = ctx;

	return field[4] == s->r->pid || field[5] == s->r->pid ? found(s, CT_SYSV_MEMORY, field[1]) : 0;
}

/* The kernel knows a rank by the process that it is now. What it used as another one is in the list that came with it. */
static bool is_still_there(const struct ct_img_sysv *u)
{
	struct semid_ds set;
	struct msqid_ds queue;
	struct shmid_ds memory;

	switch (u->kind) {
	case CT_SYSV_SET:
		return semctl(u->id, 0, IPC_STAT, (union semun){ .buf = &set }) == 0;
	case CT_SYSV_MEMORY:
		return shmctl(u->id, IPC_STAT, &memory) == 0;
	case CT_SYSV_QUEUE:
		return msgctl(u->id, IPC_STAT, &queue) == 0;
	}
	return false;
}

static int look_all(struct ct_rank *r, struct ct_vec *out)
{
	struct search s = { r, out };
	int rc = each_line("sem", look_set, &s);

	if (rc == 0)
		rc = each_line("msg", look_queue, &s);
	if (rc == 0)
		rc = each_line("shm", look_memory, &s);
	for CT_EACH(const struct ct_img_sysv, u, &r->sysv_used) {
		bool is_known = false;

		for CT_EACH(const struct ct_img_sysv, o, out)
			is_known |= o->kind == u->kind && o->id == u->id;
		if (rc == 0 && !is_known && is_still_there(u))
			rc = ct_vec_append(out, u, 1);
	}
	return rc;
}

/* ---- does it hold? --------------------------------------------------------------------------------------------------- */

int ct_sysv_check(struct ct_rank *r, struct gw_error *why)
{
	struct ct_vec used;
	int rc;

	if (r->way == CT_WAY_NEAR)
		return 0;
	ct_vec_init(&used, sizeof(struct ct_img_sysv));
	rc = look_all(r, &used);
	if (rc < 0)
		gw_fail(why, rc, "no memory for a list of System V objects");
	for CT_EACH(const struct ct_img_sysv, u, &used)
		if (rc == 0)
			rc = ct_hold(r, why, CT_HOLD_STATE, u->id, "it uses System V %s %d, which stays on its host; remove it (ipcrm), or keep the "
			             "rank with 'godwit pin'", names[u->kind], (int)u->id);
	ct_vec_fini(&used);
	return rc;
}

/* An attached segment, as one mapping from its beginning: v->offset is not used, v->file its id. Else: false */
bool ct_sysv_map(const struct ct_rank *r, const struct ct_map *m, struct ct_img_vma *v)
{
	struct shmid_ds ds;

	if (r->way != CT_WAY_NEAR || m->offset || shmctl((int)m->ino, IPC_STAT, &ds) < 0 ||
	    ((ds.shm_segsz + CT_PAGE - 1) & ~(uint64_t)(CT_PAGE - 1)) != m->end - m->start)
		return false;
	v->kind = CT_VMA_SYSV;
	v->file = (uint32_t)m->ino;
	return true;
}

/* ---- adjustments ------------------------------------------------------------------------------------------------------ */

/* One semop() that asks of semaphore @num, which holds @value: does adjustment + @by leave its range? */
static size_t question(struct sembuf *ops, unsigned short num, int value, int by)
{
	int left = by < 0 ? -by : by;
	size_t n = 0;

	while (left) {
		short step = (short)(left < STEP ? left : STEP), up = (short)(by > 0 ? 0 : SEM_UNDO), down = (short)(by > 0 ? SEM_UNDO : 0);
		struct sembuf add = { num, step, (short)(up | IPC_NOWAIT) }, take = { num, (short)-step, (short)(down | IPC_NOWAIT) };

		/* the value stays within its range on the way, too */
		ops[n++] = value > STEP ? take : add;
		ops[n++] = value > STEP ? add : take;
		left -= step;
	}
	ops[n++] = (struct sembuf){ num, -32768, IPC_NOWAIT };
	return n;
}

static struct ct_call *ask(struct ct_rank *r, int id, unsigned short num, int value, int by)
{
	struct sembuf ops[8];
	size_t n = question(ops, num, value, by);

	return CT_CALL(&r->remote, "semop", 0, SYS_semop, id, ct_remote_data(&r->remote, ops, n * sizeof(ops[0])), n);
}

struct sem { int id; unsigned short num; int value; struct ct_call *over, *under; };

static int add_sems(const long long *field, void *ctx)
{
	unsigned short *values = calloc((size_t)field[3] + 1, sizeof(*values));
	struct ct_vec *out = ctx;
	int rc = values ? 0 : -ENOMEM;

	/* one that this user may not read is none that a rank of his has changed */
	if (rc == 0 && semctl((int)field[1], 0, GETALL, (union semun){ .array = values }) == 0)
		for (int i = 0; rc == 0 && i < field[3]; i++)
			rc = ct_vec_append(out, &(struct sem){ .id = (int)field[1], .num = (unsigned short)i, .value = values[i] }, 1);
	free(values);
	return rc;
}

/* The largest @by that does not lead out of the range tells the adjustment. */
static int measure(struct ct_rank *r, const struct user_regs_struct *regs, const struct sem *s, int sign, int *out, struct gw_error *why)
{
	int lo = 0, hi = ADJUST_MAX + (sign < 0); /* lo does not, hi does */

	while (hi - lo > 1) {
		struct ct_call *c;
		int mid = (lo + hi) / 2, rc;

		ct_remote_reset(&r->remote);
		c = ask(r, s->id, s->num, s->value, sign * mid);
		rc = ct_remote_run(&r->remote, r->pid, regs, why);
		if (rc < 0)
			return rc;
		if ((int64_t)c->result == -ERANGE)
			hi = mid;
		else
			lo = mid;
	}
	*out = sign > 0 ? ADJUST_MAX - lo : -(ADJUST_MAX + 1 - lo);
	return 0;
}

/**
 * ct_sysv_read - what a frozen rank uses, and its adjustments, asked from inside it
 * The work area is there.
 */
int ct_sysv_read(struct ct_rank *r, const struct user_regs_struct *regs, struct gw_error *why)
{
	struct ct_vec *out = &r->snap.sysv, sems;
	struct ct_remote *m = &r->remote;
	size_t done = 0;
	int rc;

	out->n = 0;
	ct_vec_init(&sems, sizeof(struct sem));
	rc = look_all(r, out);
	if (rc == 0)
		rc = each_line("sem", add_sems, &sems);
	if (rc < 0)
		gw_fail(why, rc, "no memory for a list of System V objects");
	if (rc == 0 && sems.n > SETS_MAX)
		rc = gw_fail(why, -E2BIG, "this host has %zu System V semaphores, more than can be looked through; remove those that nobody "
		             "uses (ipcrm)", sems.n);
	while (rc == 0 && done < sems.n) {
		size_t first = done;

		ct_remote_reset(m);
		for (; done < sems.n && ct_remote_has_room(m, 2, 256); done++) {
			struct sem *s = CT_AT(struct sem, &sems, done);

			s->over = ask(r, s->id, s->num, s->value, ADJUST_MAX);
			s->under = ask(r, s->id, s->num, s->value, -ADJUST_MAX - 1);
		}
		rc = ct_remote_run(m, r->pid, regs, why);
		for (size_t i = first; rc == 0 && i < done; i++) { /* before the table is used again */
			struct sem *s = CT_AT(struct sem, &sems, i);
			bool is_over = (int64_t)s->over->result == -ERANGE, is_under = (int64_t)s->under->result == -ERANGE;

			s->value = is_over == is_under ? -1 : s->value;
			s->over = is_over ? s->over : NULL;
		}
	}
	for CT_EACH(const struct sem, s, &sems) {
		struct ct_img_sysv u = { .kind = CT_SYSV_ADJUST, .id = s->id, .num = s->num };

		if (rc < 0 || s->value < 0)
			continue;
		rc = measure(r, regs, s, s->over ? 1 : -1, &u.adjust, why);
		if (rc == 0 && ct_vec_append(out, &u, 1) < 0)
			rc = gw_fail(why, -ENOMEM, "no memory for a list of semaphores");
		if (rc == 0 && r->way != CT_WAY_NEAR)
			rc = gw_fail(why, -EBUSY, "it is to give back %d to semaphore %u of System V set %d when it ends (SEM_UNDO), which stays on its "
			             "host; give that back before, or keep the rank with 'godwit pin'", (int)u.adjust, (unsigned)u.num, (int)u.id);
	}
	ct_vec_fini(&sems);
	if (rc == 0 && out->n) {
		struct ct_img_sysv ns = { .kind = CT_SYSV_NAMESPACE, .num = ct_sysv_namespace() };

		rc = ct_vec_append(out, &ns, 1) < 0 ? gw_fail(why, -ENOMEM, "no memory for a list of System V objects") : 0;
	}
	return rc;
}

/* ---- destination, and the source's end --------------------------------------------------------------------------------- */

uint32_t ct_sysv_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/ipc", &st) < 0 ? 0 : (uint32_t)st.st_ino;
}

/* Is what it uses here? Before the rank is made. What it used is remembered for the next move. */
int ct_sysv_arrive(struct ct_rank *r, struct gw_error *why)
{
	r->sysv_used.n = 0;
	for CT_EACH(const struct ct_img_sysv, u, &r->snap.sysv) {
		if (u->kind == CT_SYSV_NAMESPACE && u->num != ct_sysv_namespace())
			return gw_fail(why, -EXDEV, "it uses System V semaphores, queues or shared memory, and this cluster sees others (another IPC "
			               "namespace)");
		if (u->kind < CT_SYSV_ADJUST && ct_vec_append(&r->sysv_used, u, 1) < 0)
			return gw_fail(why, -ENOMEM, "no memory for a list of System V objects");
	}
	return 0;
}

bool ct_sysv_any(const struct ct_snapshot *s)
{
	return s->sysv.n > 0;
}

/* Two operations that leave the semaphore as it is, and add @by to the adjustment */
static void adjust(struct sembuf ops[2], const struct ct_img_sysv *u, int by)
{
	short n = (short)(by < 0 ? -by : by);

	/* first what adds: a semaphore may be 0. -32768 can be neither added nor is it worth another pair */
	ops[0] = (struct sembuf){ (unsigned short)u->num, n, (short)(IPC_NOWAIT | (by < 0 ? SEM_UNDO : 0)) };
	ops[1] = (struct sembuf){ (unsigned short)u->num, (short)-n, (short)(IPC_NOWAIT | (by < 0 ? 0 : SEM_UNDO)) };
}

/* At the thaw: from now on both copies would give back, until the source's has unmade its own. */
int ct_sysv_take_over(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	int rc = 0;

	ct_remote_reset(m);
	for CT_EACH(const struct ct_img_sysv, u, &r->snap.sysv) {
		struct sembuf ops[2];

		if (u->kind != CT_SYSV_ADJUST || rc < 0)
			continue;
		adjust(ops, u, u->adjust);
		rc = ct_restore_room(r, 1, sizeof(ops) + 16, why);
		if (rc == 0)
			CT_CALL(m, "semop", 0, SYS_semop, u->id, ct_remote_data(m, ops, sizeof(ops)), 2);
	}
	return rc == 0 ? ct_restore_run(r, why) : rc;
}

/* The frozen copy is about to be killed: it must not give back what the other one will. Its memory is of no use any more. */
void ct_sysv_give_up(struct ct_rank *r)
{
	struct ct_thread *leader = r->threads.n ? r->threads.at : NULL;
	uint64_t insn = leader && ct_sysv_any(&r->snap) ? ct_vdso_syscall(r->pid, r->snap.process.vdso_end, r->is_vdso_own) : 0;

	if (r->state != CT_FROZEN || !insn)
		return;
	for CT_EACH(const struct ct_img_sysv, u, &r->snap.sysv) {
		uint64_t at = (leader->regs.rsp - 4096) & ~15ull, arg[6] = { (uint64_t)u->id, at, 2 };
		struct sembuf ops[2];
		struct gw_error why = { 0 };
		int64_t result = -1;

		if (u->kind != CT_SYSV_ADJUST)
			continue;
		adjust(ops, u, -u->adjust);
		if (ct_mem_write(r->pid, at, ops, sizeof(ops)) < 0 ||
		    ct_remote_one(leader->tid, &leader->regs, insn, SYS_semop, arg, &result, &why) < 0 || result < 0)
			gw_log(GW_WARN, "pid %d gives %d back to semaphore %u of set %d although its rank lives elsewhere: %s", (int)r->pid,
			       (int)u->adjust, (unsigned)u->num, (int)u->id, result < 0 ? strerror((int)-result) : why.text);
	}
}
