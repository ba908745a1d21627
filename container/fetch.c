/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages that come after the rank (post-copy), at its destination: a userfaultfd stops whoever touches one that is missing,
 * until it has been filled in.
 *
 * Pages are named by their address at the source. Where they belong here is told by the kernel: memory that was moved
 * (mremap), given back (madvise, munmap) or copied (fork) since the thaw. The thread that did it waits until that was read.
 *
 *   mm        one address space: the rank's; each child's that was forked meanwhile, with a userfaultfd of its own
 *   missing   pages of the source that this address space has not got, and still has a place for
 *   places    where these belong: it may be another place than at the source (places.h)
 *   asked     pages that the source was asked for, which have not come
 *
 * A page that is touched and not missing was never there, or was given back: it is a page of zeroes, made here.
 * Nothing here may wait for the rank: whoever fills its pages would wait for himself.
 */
#include "container/places.h"
#include "container/proof.h"
#include "container/spans.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/userfaultfd.h, which may be older than the kernel */
struct uffd_api { uint64_t api, features, ioctls; };
struct uffd_register { uint64_t start, len, mode, ioctls; };
struct uffd_copy { uint64_t dst, src, len, mode; int64_t done; };
struct uffd_range { uint64_t start, len; };
struct uffd_zero { struct uffd_range range; uint64_t mode; int64_t done; };
struct uffd_msg {
	uint8_t event, reserved1;
	uint16_t reserved2;
	uint32_t reserved3;
	union {
		struct { uint64_t flags, address, feature; } fault;
		struct { uint32_t fd; } fork;
		struct { uint64_t from, to, len; } remap;
		struct { uint64_t start, end; } remove;
	};
};
_Static_assert(sizeof(struct uffd_msg) == 32, "the kernel's");
#define UFFD_API_        0xaa
#define UFFDIO_API_      0xc018aa3ful
#define UFFDIO_REGISTER_ 0xc020aa00ul
#define UFFDIO_WAKE_     0x8010aa02ul
#define UFFDIO_COPY_     0xc028aa03ul
#define UFFDIO_ZEROPAGE_ 0xc020aa04ul
#define UFFD_MISSING     1
#define DEVICE_NEW       0xaa00 /* USERFAULTFD_IOC_NEW */
enum { EV_FAULT = 0x12, EV_FORK = 0x13, EV_REMAP = 0x14, EV_REMOVE = 0x15, EV_UNMAP = 0x16 };
#define FEATURES (1ull << 1 | 1ull << 2 | 1ull << 3 | 1ull << 6) /* FORK, REMAP, REMOVE, UNMAP */

#define SAMPLES 4096
#define PATIENCE_NS 20000000ull /* for a thread that has changed memory, until it goes on */

struct mm {
	int uffd;
	struct ct_helper keeper; /* of it: were that closed before the process is dead, it would go on with zeroes */
	unsigned char *missing;
	uint64_t n_missing;
	struct ct_places places;
	struct ct_vec left;     /* struct ct_img_extent: places that were moved away from, of which the kernel says UNMAP next */
	uint64_t no_place;      /* where no mapping was found, and nothing has moved since; 0: none */
};

struct ct_fetch {
	int epoll;
	struct ct_vec later, first; /* spans of the source */
	uint64_t pages;
	struct ct_vec mms;          /* struct mm *; the rank's first, perhaps gone */
	int init;                   /* handle of the rank's init: it is gone when all processes of the rank are */
	uint64_t numa_nodes;        /* where its pages are to be */
	pid_t pid;
	int rank;                   /* its handle */
	struct ct_vec huge;         /* struct ct_img_extent: of the spans, what may be in huge pages */
	unsigned char *asked;
	struct ct_vec wants;        /* uint64_t: pages that the source has yet to be asked for */
	struct ct_vec waits;        /* struct wait: of faults, to measure them */
	uint32_t samples_us[SAMPLES];
	struct ct_fetch_stats stats;
};
struct wait { uint64_t page, since_ns; };

static uint64_t index_of(const struct ct_fetch *f, uint64_t source)
{
	return ct_pages_index(&f->later, &f->first, source);
}

/* ---- pages that are missing ------------------------------------------------------------------------------------------- */

static void forget_page(struct mm *m, uint64_t page)
{
	if (!m->n_missing || !ct_bit_is_set(m->missing, page))
		return;
	ct_bit_clear(m->missing, page);
	m->n_missing--;
}

/* calls @each for every page of the source that is missing and belongs in [start, end) */
static void each_missing(struct ct_fetch *f, struct mm *m, uint64_t start, uint64_t end,
                         void (*each)(struct mm *m, uint64_t page))
{
	for (uint64_t at = start, next; at < end; at = next) {
		uint64_t source;

		next = end;
		source = ct_places_source(&m->places, at, &next);
		if (source == CT_NO_PAGE)
			continue;
		/* jump to the spans: an address range may be far larger than what is missing of it */
		for CT_EACH(const struct ct_img_extent, e, &f->later) {
			uint64_t a = e->start > source ? e->start : source, b = source + (next - at);

			if (e->start >= b)
				break;
			for (b = e->end < b ? e->end : b; a < b; a += CT_PAGE)
				each(m, index_of(f, a));
		}
	}
}

/* ---- address spaces ------------------------------------------------------------------------------------------------- */

static struct mm *mm_at(const struct ct_fetch *f, size_t i)
{
	return *CT_AT(struct mm *, &f->mms, i);
}

static void mm_free(struct mm *m)
{
	if (!m)
		return;
	ct_keeper_end(&m->keeper);
	if (m->uffd >= 0)
		close(m->uffd);
	free(m->missing);
	ct_places_fini(&m->places);
	ct_vec_fini(&m->left);
	free(m);
}

/* @like: what it was copied from; NULL: the rank's, which lacks all */
static int mm_add(struct ct_fetch *f, int uffd, const struct mm *like)
{
	struct mm *m = calloc(1, sizeof(*m));
	struct epoll_event ev = { .events = EPOLLIN };

	if (m) {
		m->uffd = m->keeper.fd = -1;
		ct_places_init(&m->places);
		ct_vec_init(&m->left, sizeof(struct ct_img_extent));
		m->missing = malloc(f->pages / 8 + 1);
	}
	ev.data.ptr = m;
	if (!m || !m->missing || (like && ct_places_copy(&m->places, &like->places) < 0) ||
	    epoll_ctl(f->epoll, EPOLL_CTL_ADD, uffd, &ev) < 0 || ct_vec_append(&f->mms, &m, 1) < 0) {
		mm_free(m);
		return -ENOMEM;
	}
	m->uffd = uffd;
	m->n_missing = like ? like->n_missing : f->pages;
	if (like)
		memcpy(m->missing, like->missing, f->pages / 8 + 1);
	else
		memset(m->missing, 0xff, f->pages / 8 + 1);
	return 0;
}

/* It has ended, or executes another program: nothing is missing there. */
static void mm_gone(struct mm *m)
{
	m->n_missing = 0;
}

/* When nothing is missing there: the kernel makes its pages of zeroes by itself again, and who waits is let go. */
static void settle(struct ct_fetch *f, size_t i)
{
	struct mm *m = mm_at(f, i);

	if (m->n_missing)
		return;
	ct_keeper_end(&m->keeper);
	if (m->uffd >= 0)
		close(m->uffd);
	m->uffd = -1;
}

static void wake(const struct mm *m, uint64_t start, uint64_t len)
{
	struct uffd_range r = { start, len };

	(void)ioctl(m->uffd, UFFDIO_WAKE_, &r);
}

/* ---- what happens there --------------------------------------------------------------------------------------------- */

static void ask(struct ct_fetch *f, uint64_t page)
{
	struct wait w = { page, gw_now_ns() };

	if (ct_bit_is_set(f->asked, page))
		return;
	f->stats.faults++;
	if (ct_vec_append(&f->wants, &page, 1) == 0) /* else it comes by itself, later */
		ct_bit_set(f->asked, page);
	if (f->waits.n < SAMPLES)
		ct_vec_append(&f->waits, &w, 1);
}

static int handle(struct ct_fetch *f, struct mm *m);

/* A page of zeroes. While memory is being changed nothing can be put in: then the thread is sent to try again. */
static void put_zero(struct mm *m, uint64_t place)
{
	struct uffd_zero z = { .range = { place, CT_PAGE } };

	if (ioctl(m->uffd, UFFDIO_ZEROPAGE_, &z) == 0)
		return;
	if (errno == ESRCH)
		mm_gone(m);
	else
		wake(m, place, CT_PAGE);
}

/* Should this daemon be killed, nobody goes on with zeroes before the kernel has ended all of the rank. */
static void keep(struct ct_fetch *f, struct mm *m)
{
	int rc = ct_keeper_start(&m->keeper, f->init, m->uffd);

	if (rc < 0)
		gw_log(GW_WARN, "nobody keeps the memory of a rank should this daemon be killed: %s", strerror(-rc));
}

static int fork_came(struct ct_fetch *f, const struct mm *m, int uffd)
{
	int rc = mm_add(f, uffd, m);

	if (rc < 0) {
		close(uffd);
		return rc;
	}
	f->stats.forks++;
	keep(f, mm_at(f, f->mms.n - 1));
	return 0;
}

/* A mapping that moves is said to be unmapped where it was, after the word of the move, which has told all. By then another thread
 * may have moved something there. Return whether this is that word */
static bool has_moved_away(struct mm *m, uint64_t start, uint64_t end)
{
	for CT_EACH(struct ct_img_extent, e, &m->left)
		if (e->start == start && e->end == end) {
			*e = *CT_AT(struct ct_img_extent, &m->left, m->left.n - 1);
			m->left.n--;
			return true;
		}
	return false;
}

static int moved_away(struct mm *m, uint64_t start, uint64_t end)
{
	struct ct_img_extent e = { start, end };

	/* with MREMAP_DONTUNMAP that word never comes: one for each place is enough */
	for CT_EACH(const struct ct_img_extent, o, &m->left)
		if (o->start == start && o->end == end)
			return 0;
	return ct_vec_append(&m->left, &e, 1);
}

/* Everything that the kernel has to say of @m now. */
static int handle(struct ct_fetch *f, struct mm *m)
{
	struct uffd_msg msg;
	ssize_t n;
	int rc = 0;

	while (rc == 0 && (n = read(m->uffd, &msg, sizeof(msg))) == (ssize_t)sizeof(msg)) {
		uint64_t place = msg.fault.address & ~(uint64_t)(CT_PAGE - 1), end = place + CT_PAGE, page;

		switch (msg.event) {
		case EV_FAULT:
			page = ct_places_source(&m->places, place, &end);
			page = page == CT_NO_PAGE ? page : index_of(f, page);
			if (page != CT_NO_PAGE && ct_bit_is_set(m->missing, page))
				ask(f, page);
			else
				put_zero(m, place);
			break;
		case EV_FORK:
			rc = fork_came(f, m, (int)msg.fork.fd);
			break;
		case EV_REMAP:
			each_missing(f, m, msg.remap.to, msg.remap.to + msg.remap.len, forget_page); /* of what was there */
			rc = ct_places_move(&m->places, msg.remap.from, msg.remap.to, msg.remap.len);
			rc = rc < 0 ? rc : moved_away(m, msg.remap.from, msg.remap.from + msg.remap.len);
			m->no_place = 0;
			wake(m, msg.remap.from, msg.remap.len);
			break;
		case EV_REMOVE:
		case EV_UNMAP:
			if (msg.event == EV_UNMAP && has_moved_away(m, msg.remove.start, msg.remove.end))
				break;
			each_missing(f, m, msg.remove.start, msg.remove.end, forget_page);
			wake(m, msg.remove.start, msg.remove.end - msg.remove.start); /* who waits there waits for nothing */
			break;
		default:
			break;
		}
	}
	return rc;
}

/* ---- begin ---------------------------------------------------------------------------------------------------------- */

/* A userfaultfd of the shell's memory, in our hands: its number there is closed at once. */
static int make_uffd(struct ct_rank *r, struct gw_error *why)
{
	struct ct_remote *m = &r->remote;
	struct ct_call *c;
	int number = 0, fd, rc;

	ct_remote_reset(m);
	/* the shell has no descriptor but the parked ones, so the lowest is 0 */
	c = CT_CALL(m, "userfaultfd", 0, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	rc = ct_restore_run(r, why);
	if (rc == 0 && (int64_t)c->result < 0) { /* not allowed: the device may be */
		number = 1;
		CT_CALL(m, "/dev/userfaultfd", CT_CALL_EQUAL, SYS_openat, AT_FDCWD, ct_restore_text(r, "/dev/userfaultfd"),
		        O_RDWR | O_CLOEXEC)->expect = 0;
		CT_CALL(m, "/dev/userfaultfd", CT_CALL_EQUAL, SYS_ioctl, 0, DEVICE_NEW, O_CLOEXEC | O_NONBLOCK)->expect = 1;
		CT_CALL(m, "close", CT_CALL_OK, SYS_close, 0);
		rc = ct_restore_run(r, why);
	}
	if (rc < 0)
		return rc;
	fd = (int)syscall(SYS_pidfd_getfd, r->pidfd, number, 0);
	rc = fd < 0 ? gw_fail(why, -errno, "the userfaultfd of the shell cannot be fetched: %s", strerror(errno)) : 0;
	CT_CALL(m, "close", CT_CALL_OK, SYS_close, number);
	if (ct_restore_run(r, rc == 0 ? why : NULL) < 0 && rc == 0) {
		close(fd);
		rc = -EIO;
	}
	return rc < 0 ? rc : fd;
}

static int watch_memory(struct ct_rank *r, int uffd, struct gw_error *why)
{
	const struct ct_img_extent *e = r->snap.later.at, *end = e + r->snap.later.n;
	struct uffd_api api = { .api = UFFD_API_, .features = FEATURES };

	if (ioctl(uffd, UFFDIO_API_, &api) < 0 || (api.features & FEATURES) != FEATURES)
		return gw_fail(why, -errno, "userfaultfd does not tell of forks here: %s", strerror(errno));
	for CT_EACH(const struct ct_img_vma, v, &r->snap.vmas) {
		struct uffd_register reg = { v->start, v->end - v->start, UFFD_MISSING, 0 };

		while (e < end && e->end <= v->start)
			e++;
		if (e < end && e->start < v->end && ioctl(uffd, UFFDIO_REGISTER_, &reg) < 0)
			return gw_fail(why, -errno, "missing pages at %#llx cannot be watched: %s", (unsigned long long)v->start,
			               strerror(errno));
	}
	return 0;
}

/* Of what comes later, the mappings where the kernel makes huge pages: all that it was told of, or all that it was not forbidden. */
static int find_huge(const struct ct_rank *r, struct ct_fetch *f)
{
	char mode[64] = "";
	gw_autoclose int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, mode, sizeof(mode) - 1);
	bool is_always = n > 0 && strstr(mode, "[always]");
	const struct ct_img_vma *v = r->snap.vmas.at, *end = v + r->snap.vmas.n;
	uint64_t last = 0;
	int rc = 0;

	if ((!is_always && (n <= 0 || !strstr(mode, "[madvise]"))) || r->snap.process.thp_disable)
		return 0;
	for CT_EACH(const struct ct_img_extent, e, &f->later) {
		while (v < end && v->end <= e->start)
			v++;
		if (rc < 0 || v >= end || v->end == last || !((v->advice & CT_VMA_HUGE) || (is_always && !(v->advice & CT_VMA_NOHUGE))))
			continue;
		last = v->end; /* whole mappings: what of a huge page comes later has split it, if it was there */
		rc = ct_spans_add(&f->huge, v->start, v->end);
	}
	return rc;
}

/* The mappings are made; nothing is in those whose pages may come later. */
int ct_fetch_begin(struct ct_rank *r, struct gw_error *why)
{
	struct ct_fetch *f = calloc(1, sizeof(*f));
	int uffd = -1, rc;

	if (!f)
		return gw_fail(why, -ENOMEM, "no memory for a list of pages");
	ct_vec_init(&f->later, sizeof(struct ct_img_extent));
	ct_vec_init(&f->first, sizeof(uint64_t));
	ct_vec_init(&f->huge, sizeof(struct ct_img_extent));
	ct_vec_init(&f->mms, sizeof(struct mm *));
	ct_vec_init(&f->wants, sizeof(uint64_t));
	ct_vec_init(&f->waits, sizeof(struct wait));
	f->init = fcntl(r->init_pidfd, F_DUPFD_CLOEXEC, 0);
	f->numa_nodes = r->numa_nodes;
	f->pid = r->pid;
	f->rank = fcntl(r->pidfd, F_DUPFD_CLOEXEC, 0);
	f->epoll = epoll_create1(EPOLL_CLOEXEC);
	rc = f->epoll < 0 ? -errno : 0;
	if (rc == 0)
		rc = ct_vec_append(&f->later, r->snap.later.at, r->snap.later.n);
	if (rc == 0)
		rc = ct_pages_count(&f->later, &f->first, &f->pages);
	if (rc == 0)
		rc = find_huge(r, f);
	if (rc == 0 && !(f->asked = calloc(f->pages / 8 + 1, 1)))
		rc = -ENOMEM;
	if (rc < 0) {
		gw_fail(why, rc, "no memory for a list of pages");
	} else {
		rc = uffd = make_uffd(r, why);
		if (rc >= 0)
			rc = watch_memory(r, uffd, why);
		if (rc == 0 && (rc = mm_add(f, uffd, NULL)) < 0)
			gw_fail(why, rc, "no memory for a list of pages");
		if (rc < 0 && uffd >= 0)
			close(uffd);
	}
	if (rc < 0)
		ct_fetch_end(f);
	else
		r->fetch = f;
	return rc;
}

bool ct_fetch_is_later(const struct ct_fetch *f, uint64_t vaddr)
{
	return f && index_of(f, vaddr) != CT_NO_PAGE;
}

struct ct_fetch *ct_rank_take_fetch(struct ct_rank *r)
{
	struct ct_fetch *f = r->fetch;

	if (f && f->mms.n)
		keep(f, mm_at(f, 0));
	r->fetch = NULL;
	return f;
}

/* Pages have come one by one. Where the kernel would have made huge ones, a helper makes them now, of what is there. */
static void make_huge(struct ct_fetch *f)
{
	struct ct_helper h = { .fd = -1 };

	if (!f->huge.n || !f->mms.n || ct_fetch_left(f) || f->rank < 0)
		return;
	if (ct_collapser_start(&h, f->pid, f->rank, &f->huge) == 0)
		ct_helper_end(&h); /* it goes on by itself */
}

void ct_fetch_end(struct ct_fetch *f)
{
	if (!f)
		return;
	make_huge(f);
	for (size_t i = 0; i < f->mms.n; i++)
		mm_free(mm_at(f, i));
	if (f->epoll >= 0)
		close(f->epoll);
	if (f->init >= 0)
		close(f->init);
	if (f->rank >= 0)
		close(f->rank);
	ct_vec_fini(&f->later);
	ct_vec_fini(&f->first);
	ct_vec_fini(&f->huge);
	ct_vec_fini(&f->mms);
	ct_vec_fini(&f->wants);
	ct_vec_fini(&f->waits);
	free(f->asked);
	free(f);
}

/* ---- filling -------------------------------------------------------------------------------------------------------- */

/* Put [place, +len) there. Return: bytes that need not be put there any more; 0: not now, and perhaps elsewhere then; what is denied
 * is an error */
static int64_t put(struct ct_fetch *f, struct mm *m, uint64_t place, const unsigned char *bytes, uint64_t len)
{
	struct uffd_copy c = { .dst = place, .src = (uint64_t)(uintptr_t)bytes, .len = len };
	struct uffd_zero z = { .range = { place, len } };
	int64_t done;

	if (bytes ? ioctl(m->uffd, UFFDIO_COPY_, &c) == 0 : ioctl(m->uffd, UFFDIO_ZEROPAGE_, &z) == 0)
		return (int64_t)len;
	done = bytes ? c.done : z.done;
	if (done > 0)
		return done;
	switch (errno) {
	case EAGAIN: /* memory is being changed: first hear how */
		return handle(f, m) < 0 ? -ENOMEM : 0;
	case EEXIST:
		wake(m, place, CT_PAGE);
		return CT_PAGE;
	case ENOENT: /* not one mapping, or no more at all */
		if (len > CT_PAGE)
			return put(f, m, place, bytes, CT_PAGE);
		/* or it is just moving: the kernel may look for the mapping before it looks whether memory is being changed. Then the next
		 * try is told EAGAIN, until we have read where it is */
		if (m->no_place == place)
			return CT_PAGE;
		m->no_place = place;
		return handle(f, m) < 0 ? -ENOMEM : 0;
	case ESRCH:
		mm_gone(m);
		return (int64_t)len;
	default:
		return -errno;
	}
}

static void measure(struct ct_fetch *f, uint64_t page)
{
	struct wait *w = f->waits.at;

	for (size_t i = 0; i < f->waits.n; i++) {
		uint64_t us;

		if (w[i].page != page)
			continue;
		us = (gw_now_ns() - w[i].since_ns) / 1000;
		w[i] = w[--f->waits.n];
		if (f->stats.measured < SAMPLES)
			f->samples_us[f->stats.measured++] = (uint32_t)us;
		if (us > f->stats.fault_max_us)
			f->stats.fault_max_us = us;
		return;
	}
}

/* @n pages from page @page of the source, where they are missing in @m. Return: 0, or an error; those that cannot be put in now
 * are asked for again */
static int fill_mm(struct ct_fetch *f, struct mm *m, uint64_t page, uint64_t source, const unsigned char *bytes, uint64_t n)
{
	uint64_t until = 0;

	for (uint64_t i = 0; i < n && m->n_missing;) {
		uint64_t end = source + n * CT_PAGE, at = source + i * CT_PAGE, place, len = CT_PAGE;
		int64_t done;

		if (!ct_bit_is_set(m->missing, page + i)) {
			i++;
			continue;
		}
		place = ct_places_of(&m->places, at, &end);
		while (at + len < end && ct_bit_is_set(m->missing, page + i + len / CT_PAGE))
			len += CT_PAGE;
		done = put(f, m, place, bytes ? bytes + i * CT_PAGE : NULL, len);
		if (done < 0)
			return (int)done;
		if (done == 0) { /* whoever changes memory must run first, and may need our processor */
			uint64_t now = gw_now_ns();

			until = until ? until : now + PATIENCE_NS;
			if (now < until) {
				poll(NULL, 0, now + PATIENCE_NS / 2 < until ? 0 : 1);
				sched_yield();
				continue;
			}
			until = 0;
			ct_vec_append(&f->wants, &(uint64_t){ page + i }, 1);
			ct_bit_set(f->asked, page + i);
			i++;
			continue;
		}
		for (; done > 0; done -= CT_PAGE, i++)
			forget_page(m, page + i);
	}
	return 0;
}

int ct_fetch_put(struct ct_fetch *f, uint64_t vaddr, const unsigned char *bytes, uint64_t pages, struct gw_error *why)
{
	uint64_t page = index_of(f, vaddr);
	int rc = 0;

	if (page == CT_NO_PAGE || index_of(f, vaddr + (pages - 1) * CT_PAGE) != page + pages - 1)
		return gw_fail(why, -EBADMSG, "pages came that nobody has left behind");
	for (uint64_t i = 0; f->waits.n && i < pages; i++)
		if (ct_bit_is_set(f->asked, page + i))
			measure(f, page + i);
	for (uint64_t i = 0; i < pages; i++)
		ct_bit_clear(f->asked, page + i);
	for (size_t i = 0; rc == 0 && i < f->mms.n; i++) { /* a fork may add some */
		struct mm *m = mm_at(f, i);

		rc = fill_mm(f, m, page, vaddr, bytes, pages);
		settle(f, i);
	}
	return rc < 0 ? gw_fail(why, rc, "a page cannot be filled in: %s", strerror(-rc)) : 0;
}

/* Pages that were never there: they are made when they are touched, by us as long as others are missing, then by the kernel. */
static int not_there(struct ct_fetch *f, uint64_t vaddr, uint64_t pages, struct gw_error *why)
{
	uint64_t page = index_of(f, vaddr);

	if (page == CT_NO_PAGE || index_of(f, vaddr + (pages - 1) * CT_PAGE) != page + pages - 1)
		return gw_fail(why, -EBADMSG, "pages are not there that nobody has left behind");
	for (uint64_t i = 0; i < pages; i++) {
		bool is_asked = ct_bit_is_set(f->asked, page + i);

		ct_bit_clear(f->asked, page + i);
		if (is_asked)
			measure(f, page + i);
		for (size_t k = 0; k < f->mms.n; k++) {
			struct mm *m = mm_at(f, k);
			uint64_t end = vaddr + (i + 1) * CT_PAGE;

			forget_page(m, page + i);
			if (is_asked && m->uffd >= 0)
				wake(m, ct_places_of(&m->places, vaddr + i * CT_PAGE, &end), CT_PAGE);
		}
	}
	for (size_t k = 0; k < f->mms.n; k++)
		settle(f, k);
	return 0;
}

int ct_fetch_fill(struct ct_fetch *f, const void *buf, size_t len, struct gw_error *why)
{
	const unsigned char *p = buf;
	struct ct_numa_saved policy;
	int rc = 0;

	ct_numa_enter(f->numa_nodes, &policy);
	while (rc == 0 && len) {
		struct ct_img_pages h;
		uint64_t bytes;

		if (len < sizeof(h)) {
			rc = gw_fail(why, -EBADMSG, "pages without a head");
			break;
		}
		memcpy(&h, p, sizeof(h));
		p += sizeof(h);
		len -= sizeof(h);
		bytes = h.flags & CT_IMG_PAGES_ZERO ? 0 : (uint64_t)h.pages * CT_PAGE;
		if (!h.pages || h.vaddr % CT_PAGE || (h.flags & ~(CT_IMG_PAGES_ZERO | CT_IMG_PAGES_ABSENT)) || bytes > len ||
		    h.flags == CT_IMG_PAGES_ABSENT) {
			rc = gw_fail(why, -EBADMSG, "a run of pages of another length");
			break;
		}
		rc = h.flags & CT_IMG_PAGES_ABSENT ? not_there(f, h.vaddr, h.pages, why) :
		     ct_fetch_put(f, h.vaddr, bytes ? p : NULL, h.pages, why);
		f->stats.bytes += bytes;
		f->stats.zero_pages += bytes || (h.flags & CT_IMG_PAGES_ABSENT) ? 0 : h.pages;
		p += bytes;
		len -= bytes;
	}
	ct_numa_leave(&policy);
	return rc;
}

int ct_fetch_fd(const struct ct_fetch *f)
{
	return f->epoll;
}

int ct_fetch_turn(struct ct_fetch *f, struct gw_error *why)
{
	struct epoll_event ev[32];
	int n = epoll_wait(f->epoll, ev, GW_ARRAY_LEN(ev), 0), rc = 0;

	for (int i = 0; rc == 0 && i < n; i++)
		rc = handle(f, ev[i].data.ptr);
	return rc < 0 ? gw_fail(why, rc, "no memory for a list of pages") : 0;
}

size_t ct_fetch_wants(struct ct_fetch *f, uint64_t *addresses, size_t cap)
{
	size_t n = f->wants.n < cap ? f->wants.n : cap;
	uint64_t end;

	for (size_t i = 0; i < n; i++)
		addresses[i] = ct_pages_address(&f->later, &f->first, *CT_AT(uint64_t, &f->wants, i), &end);
	memmove(f->wants.at, CT_AT(uint64_t, &f->wants, n), (f->wants.n - n) * sizeof(uint64_t));
	f->wants.n -= n;
	return n;
}

void ct_fetch_again(struct ct_fetch *f)
{
	f->wants.n = 0;
	for (uint64_t i = 0; i < f->pages; i++)
		if (ct_bit_is_set(f->asked, i))
			ct_vec_append(&f->wants, &i, 1);
}

uint64_t ct_fetch_left(const struct ct_fetch *f)
{
	uint64_t n = 0;

	for (size_t i = 0; i < f->mms.n; i++)
		n += mm_at(f, i)->n_missing;
	return n;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

void ct_fetch_measure(struct ct_fetch *f, struct ct_fetch_stats *out)
{
	if (f->stats.measured) {
		qsort(f->samples_us, f->stats.measured, sizeof(f->samples_us[0]), by_value);
		f->stats.fault_median_us = f->samples_us[f->stats.measured / 2];
	}
	*out = f->stats;
}
