/* SPDX-License-Identifier: BSD-2-Clause */
/* The rule of files as a pure function; what the other side says, damaged; marks and their guard; contents. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/proof.h"
#include "tests/sweep.h"
#include "tests/tap.h"

/* ---- the rule ---------------------------------------------------------------------------------------------------- */

#define REG  (S_IFREG | 0644)
#define DIR_ (S_IFDIR | 0755)
#define READS  (CT_IMG_FILE_OPEN)
#define WRITES (CT_IMG_FILE_OPEN | CT_IMG_FILE_WRITES)
#define MAPS   (CT_IMG_FILE_MAPPED)

/* a file of inode 5 on device 1 with 100 bytes, and what is seen of it: the same numbers, unless said otherwise */
#define LOOKS(i, n, m, t) .dev = 1, .ino = i, .ino_there = 5, .size = n, .mode = m, .mtime_s = t
#define SEEN LOOKS(5, 100, REG, 7)
#define MARK .has_mark = true, .is_mark_seen = true, .is_mount_same = true

static const struct {
	const char *what;
	uint32_t flags, mode;
	struct ct_sight s;
	enum ct_verdict want;
} rows[] = {
	{ "on one host by device and inode", WRITES, REG, { SEEN }, CT_FILE_SAME },
	{ "on one host with another inode, written", WRITES, REG, { LOOKS(6, 100, REG, 7) }, CT_FILE_UNPROVED },
	{ "on two hosts device and inode are chance", WRITES, REG, { SEEN, .is_far = true }, CT_FILE_UNPROVED },
	{ "the mark is seen, the inode is the same", WRITES, REG, { SEEN, .is_far = true, MARK, .is_ino_comparable = true }, CT_FILE_SAME },
	{ "the mark is seen, the inode is another", WRITES, REG, { LOOKS(6, 100, REG, 7), .is_far = true, MARK, .is_ino_comparable = true },
	  CT_FILE_UNPROVED },
	{ "the mark is seen, the file is on another mount there", WRITES, REG,
	  { SEEN, .is_far = true, .has_mark = true, .is_mark_seen = true, .is_ino_comparable = true }, CT_FILE_UNPROVED },
	{ "the mark is not seen", WRITES, REG, { SEEN, .is_far = true, .has_mark = true, .is_mount_same = true, .is_ino_comparable = true },
	  CT_FILE_UNPROVED },
	{ "inodes that are made up, beside the mark", WRITES, REG, { LOOKS(6, 100, REG, 7), .is_far = true, MARK, .is_beside_mark = true }, CT_FILE_SAME },
	{ "inodes that are made up, elsewhere", WRITES, REG, { SEEN, .is_far = true, MARK }, CT_FILE_UNPROVED },
	{ "no mark could be made, a network's", WRITES, REG, { SEEN, .is_far = true, .is_network = true }, CT_FILE_BY_CONTENTS },
	{ "the same, changed at another time", WRITES, REG, { LOOKS(5, 100, REG, 8), .is_far = true, .is_network = true }, CT_FILE_UNPROVED },
	{ "a mark was made and not seen, a network's", WRITES, REG, { SEEN, .is_far = true, .is_network = true, .has_mark = true }, CT_FILE_UNPROVED },
	{ "only read", READS, REG, { LOOKS(6, 100, REG, 7), .is_far = true }, CT_FILE_BY_CONTENTS },
	{ "only read, on one host", READS, REG, { LOOKS(6, 100, REG, 7) }, CT_FILE_BY_CONTENTS },
	{ "only read, of another size", READS, REG, { LOOKS(5, 99, REG, 7), .is_far = true }, CT_FILE_DIFFERS },
	{ "a library of another size that might travel", MAPS, REG, { LOOKS(5, 99, REG, 7), .is_far = true, .may_carry = true, .may_replace = true },
	  CT_FILE_DIFFERS },
	{ "not there", READS, REG, { SEEN, .is_far = true, .error = ENOENT }, CT_FILE_MISSING },
	{ "not there, and may travel", READS, REG, { SEEN, .is_far = true, .error = ENOENT, .may_carry = true }, CT_FILE_CARRY },
	{ "not there, mapped", MAPS | READS, REG, { SEEN, .is_far = true, .error = ENOENT, .may_carry = true }, CT_FILE_MISSING },
	{ "not to be looked at", READS, REG, { SEEN, .is_far = true, .error = EACCES, .may_carry = true }, CT_FILE_MISSING },
	{ "written, another is there", WRITES, REG, { SEEN, .is_far = true, .may_carry = true }, CT_FILE_IN_THE_WAY },
	{ "written, the older copy is there", WRITES, REG, { SEEN, .is_far = true, .may_carry = true, .may_replace = true }, CT_FILE_CARRY },
	{ "shared, and may travel: stays", WRITES, REG, { SEEN, .is_far = true, MARK, .is_ino_comparable = true, .may_carry = true }, CT_FILE_SAME },
	{ "deleted", WRITES | CT_IMG_FILE_DELETED, REG, { SEEN, .may_carry = true, .error = ENOENT }, CT_FILE_CARRY },
	{ "deleted, another has its name", WRITES | CT_IMG_FILE_DELETED, REG, { SEEN, .may_carry = true }, CT_FILE_CARRY },
	{ "a directory there", WRITES, REG, { LOOKS(5, 100, DIR_, 7) }, CT_FILE_OTHER_KIND },
	{ "a directory of a host's own", READS, DIR_, { LOOKS(5, 100, DIR_, 7), .is_far = true, .may_carry = true }, CT_FILE_UNPROVED },
	{ "a directory that is shared", READS, DIR_, { LOOKS(5, 100, DIR_, 7), .is_far = true, MARK, .is_ino_comparable = true }, CT_FILE_SAME },
	{ "a working directory", CT_IMG_FILE_CWD, DIR_, { LOOKS(6, 100, DIR_, 7), .is_far = true }, CT_FILE_SAME },
	{ "a working directory that is not there", CT_IMG_FILE_CWD, DIR_, { SEEN, .error = ENOENT }, CT_FILE_MISSING },
	{ "a device of the same number", READS, S_IFCHR | 0666, { LOOKS(5, 100, S_IFCHR | 0666, 7), .is_far = true, .rdev = 100 }, CT_FILE_SAME },
	{ "a device of another number", READS, S_IFCHR | 0666, { LOOKS(5, 100, S_IFCHR | 0666, 7), .is_far = true, .rdev = 99 }, CT_FILE_OTHER_KIND },
	{ "of the kernel, on another host", READS, REG, { SEEN, .is_far = true, .is_of_kernel = true, .may_carry = true }, CT_FILE_OF_HOST },
	{ "of the kernel, on one host", READS, REG, { SEEN, .is_of_kernel = true }, CT_FILE_SAME },
};

static void test_rule(void)
{
	for (size_t i = 0; i < GW_ARRAY_LEN(rows); i++) {
		struct ct_img_file file = { .dev = 1, .ino = 5, .size = 100, .mtime_s = 7, .flags = rows[i].flags, .mode = rows[i].mode };
		enum ct_verdict v = ct_file_judge(&file, &rows[i].s);

		ok(v == rows[i].want, "%s: %d", rows[i].what, (int)v);
	}
	{
		struct ct_img_file file = { .dev = 1, .ino = 5, .size = 1ull << 40, .flags = READS, .mode = REG };
		struct ct_sight s = { SEEN, .is_far = true };

		s.size = file.size;
		ok(ct_file_judge(&file, &s) == CT_FILE_TOO_LARGE, "a file of a terabyte is not read");
	}
}

/* ---- bytes from elsewhere ---------------------------------------------------------------------------------------- */

static void snapshot_of(struct ct_snapshot *s, const char *const *paths, size_t n, uint32_t flags)
{
	ct_snapshot_init(s);
	for (size_t i = 0; i < n; i++) {
		struct stat st = { .st_mode = REG, .st_ino = i + 1 };
		uint32_t index;

		stat(paths[i], &st);
		ct_file_add(s, paths[i], &st, flags, &index);
	}
}

static void test_parsers(void)
{
	const char *const paths[] = { "/a/b", "/c" };
	struct { struct ct_img_question q; struct ct_img_mark m[2]; uint32_t of[2]; } q = {
		.q = { .version = CT_IMG_FILES_VERSION, .marks = 2, .files = 2, .host = "here" }, .m = { { .file = 0, .prefix = 2 }, { .file = 1 } },
		.of = { 1, 2 } };
	struct { struct ct_img_answer a; struct ct_img_claim c[2]; } a = {
		.a = { .version = CT_IMG_FILES_VERSION, .claims = 2, .host = "there" }, .c = { { .file = 0 }, { .file = 1 } } };
	struct ct_img_question qo;
	struct ct_img_answer ao;
	struct ct_vec marks, of, claims;
	struct ct_snapshot s;
	bool good = true;
	int taken = 0;

	snapshot_of(&s, paths, 2, READS);
	ct_vec_init(&marks, sizeof(struct ct_img_mark));
	ct_vec_init(&of, sizeof(uint32_t));
	ct_vec_init(&claims, sizeof(struct ct_img_claim));
	ok(ct_question_parse(&q, sizeof(q), &s, &qo, &marks, &of) == 0 && marks.n == 2 && of.n == 2, "a question is read");
	ok(ct_answer_parse(&a, sizeof(a), &s, &ao, &claims) == 0 && claims.n == 2, "an answer is read");
	for (size_t cut = 0; cut < sizeof(q); cut++) {
		void *copy = malloc(cut + 1);

		memcpy(copy, &q, cut);
		good &= ct_question_parse(copy, cut, &s, &qo, &marks, &of) == -EPROTO;
		if (cut < sizeof(a)) {
			memcpy(copy, &a, cut);
			good &= ct_answer_parse(copy, cut, &s, &ao, &claims) == -EPROTO;
		}
		free(copy);
	}
	ok(good, "cut short anywhere both are refused");
	for (size_t i = 0; i < sizeof(q); i++) {
		unsigned char copy[sizeof(q)];

		memcpy(copy, &q, sizeof(q));
		copy[i] = 0xff;
		if (ct_question_parse(copy, sizeof(copy), &s, &qo, &marks, &of) < 0)
			continue;
		taken++;
		for CT_EACH(const struct ct_img_mark, m, &marks)
			good &= m->file < 2 && m->prefix <= strlen(paths[m->file]);
		for CT_EACH(const uint32_t, n, &of)
			good &= *n <= marks.n;
	}
	ok(good && taken, "a wrong byte is refused, or leads nowhere outside (%d of %zu are harmless)", taken, sizeof(q));
	ct_vec_fini(&marks);
	ct_vec_fini(&of);
	ct_vec_fini(&claims);
	ct_snapshot_fini(&s);
}

/* ---- marks and contents, for real -------------------------------------------------------------------------------- */

static char dir[] = "/tmp/godwit-test-files-XXXXXX";

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		diag("cannot write %s", path);
	close(fd);
}

/* by a file of another inode */
static void replace(const char *path, const char *text)
{
	char other[80];

	snprintf(other, sizeof(other), "%s.new", path);
	write_text(other, text);
	if (rename(other, path) < 0)
		diag("cannot rename %s", other);
}

static int marks_in_dir(void)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)))
		n += strncmp(e->d_name, CT_MARK_NAME, strlen(CT_MARK_NAME)) == 0;
	if (d)
		closedir(d);
	return n;
}

/* the helper's end of the socket closes when it has ended */
static bool helper_ends(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { fd, POLLIN, 0 };
	bool has = fd < 0 || poll(&p, 1, 10000) == 1;

	if (fd >= 0)
		close(fd);
	return has;
}

static int needs_of(struct ct_needs *needs, const struct ct_snapshot *s)
{
	struct ct_img_needs n = { .threads = 1 };
	struct ct_vec blob;
	int rc;

	ct_vec_init(&blob, 1);
	rc = ct_section_write(&blob, CT_SECTION_NEEDS, 1, &n, sizeof(n)) |
	     ct_section_write(&blob, CT_SECTION_STRINGS, (uint32_t)s->strings.n, s->strings.at, s->strings.n) |
	     ct_section_write(&blob, CT_SECTION_FILES, (uint32_t)s->files.n, s->files.at, s->files.n * s->files.size) |
	     ct_section_write(&blob, CT_SECTION_END, 1, &(struct ct_img_end){ 0 }, sizeof(struct ct_img_end));
	*needs = (struct ct_needs){ .version = CT_NEEDS_VERSION, .blob = blob.at, .blob_len = blob.n };
	return rc;
}

static int finish(struct ct_files *f, int rc, struct gw_error *why)
{
	while (rc > 0) {
		struct pollfd p = { ct_files_fd(f), POLLIN, 0 };

		if (poll(&p, 1, 10000) != 1)
			return -ETIMEDOUT;
		rc = ct_files_go_on(f, why);
	}
	return rc;
}

static void test_exchange(void)
{
	struct ct_files *source = NULL, *there = NULL;
	struct gw_error why = { 0 };
	struct ct_needs needs;
	struct ct_snapshot s;
	char a[64], b[64];
	const char *const paths[] = { a, b };
	const void *p;
	size_t len;
	pid_t guard;
	int rc;

	snprintf(a, sizeof(a), "%s/a", dir);
	snprintf(b, sizeof(b), "%s/b", dir);
	write_text(a, "written");
	write_text(b, "read");
	snapshot_of(&s, paths, 2, READS);
	CT_AT(struct ct_img_file, &s.files, 0)->flags = WRITES;
	ok(needs_of(&needs, &s) == 0 && ct_files_ask(&source, &needs, 0, true, false, &why) == 0 && marks_in_dir() == 1,
	   "the source makes a mark beside what is written: %s", why.text);
	p = ct_files_bytes(source, &len);
	rc = ct_files_look(&there, &needs, p, len, &why);
	ok(rc == 0 && marks_in_dir() == 0, "the destination sees it, and takes it away: %s", why.text);
	p = ct_files_bytes(there, &len);
	ok(finish(source, ct_files_check(source, p, len, &why), &why) == 0, "so both files are proved: %s", why.text);
	rc = ct_files_flush(source, &why);
	ok(rc == 1 && finish(source, rc, &why) == 0, "and flushed: %s", why.text);
	ct_files_free(there);
	ct_files_free(source);

	/* killed with the mark in place: as when the daemon is */
	rc = ct_files_ask(&source, &needs, 0, true, false, &why);
	ok(rc == 0 && marks_in_dir() == 1, "a mark again: %s", why.text);
	guard = source->guard.pid;
	ct_files_free(source);
	ok(helper_ends(guard) && marks_in_dir() == 0, "its guard takes it away when nobody holds its socket any more");

	/* what is only read, of other inode: by contents; then changed in between */
	rc = ct_files_ask(&source, &needs, 0, true, false, &why);
	replace(b, "read");
	p = ct_files_bytes(source, &len);
	rc = rc == 0 ? ct_files_look(&there, &needs, p, len, &why) : rc;
	ok(finish(there, rc, &why) == 0 && there->claims.n == 1, "a file in another inode is a claim of contents: %s", why.text);
	p = ct_files_bytes(there, &len);
	ok(finish(source, ct_files_check(source, p, len, &why), &why) == 0, "that holds: %s", why.text);
	CT_AT(struct ct_img_claim, &there->claims, 0)->hash[1] ^= 1;
	memcpy((char *)there->bytes.at + sizeof(struct ct_img_answer), there->claims.at, sizeof(struct ct_img_claim));
	source->ask.n = source->answered = 0;
	why = (struct gw_error){ 0 };
	rc = finish(source, ct_files_check(source, p, len, &why), &why);
	ok(rc == -ENOENT && strstr(why.text, b) && strstr(why.text, "contents"), "one that does not is refused by path: %s", why.text);
	ct_files_free(there);
	ct_files_free(source);

	/* a reader that is killed */
	replace(b, "READ");
	rc = ct_files_ask(&source, &needs, 0, true, false, &why);
	p = ct_files_bytes(source, &len);
	there = NULL;
	kill(source->guard.pid, SIGKILL);
	helper_ends(source->guard.pid);
	why = (struct gw_error){ 0 };
	rc = ct_files_flush(source, &why);
	ok((rc < 0 || finish(source, rc, &why) < 0) && strstr(why.text, "ended"), "a guard that was killed is no proof of a flush: %s", why.text);
	rc = ct_files_look(&there, &needs, p, len, &why); /* takes away what the guard cannot any more */
	ok(finish(there, rc, &why) == 0 && marks_in_dir() == 0, "the destination removes the mark of a guard that was killed: %s", why.text);
	ct_files_free(there);
	ct_files_free(source);
	ct_needs_fini(&needs);
	ct_snapshot_fini(&s);
	unlink(a);
	unlink(b);
}

int main(void)
{
	tap_begin(60);
	if (sweep_dir(dir) < 0)
		tap_skip_all("no directory: %s", strerror(errno));
	test_rule();
	test_parsers();
	test_exchange();
	ok(rmdir(dir) == 0, "nothing is left in the directory");
	return tap_done();
}
