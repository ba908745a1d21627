/* SPDX-License-Identifier: BSD-2-Clause */
/* Is there room? What control groups of every kind leave, read from trees made here; and texts that no kernel would write. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/room.h"
#include "tests/sweep.h"
#include "tests/tap.h"

#define MIB (1ull << 20)

static char root[] = "/tmp/godwit-room-XXXXXX";

static void put(const char *dir, const char *name, const char *text)
{
	char path[2048];
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", root, dir);
	for (char *at = path + strlen(root) + 1; *at; at++)
		if (*at == '/') {
			*at = '\0';
			mkdir(path, 0700);
			*at = '/';
		}
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s%s/%s", root, dir, name);
	f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f) < 0)
		tap_bail("cannot write %s", path);
}

static const char v1_groups[] = "9:name=systemd:/\n8:pids:/batch\n4:cpu,memory:/slurm/uid_7/job_3/step_0\n0::/user.slice\n";
static const char v1_mounts[] =
	"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
	"35 31 0:32 / /cg/memory rw,relatime shared:5 master:3 - cgroup cgroup rw,cpu,memory\n"
	"39 31 0:36 / /cg/pids rw,relatime - cgroup cgroup rw,pids\n"
	"41 31 0:38 / /cg/unified rw,relatime - cgroup2 cgroup2 rw\n";
static const char v2_groups[] = "0::/system.slice/slurmstepd.scope/job_3/step_0/user/task_0\n";
static const char v2_mounts[] = "25 30 0:23 / /cg2 rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n";

static bool is_parsed(const char *groups, const char *mounts, const char *controller, const char *dir, bool is_v2)
{
	struct ct_cgroup g;

	return ct_cgroup_parse(groups, mounts, controller, &g) == 0 && strcmp(g.dir, dir) == 0 && g.is_v2 == is_v2 &&
	       g.mount_len <= strlen(dir);
}

static int parse(const char *groups, const char *mounts)
{
	struct ct_cgroup g;

	return ct_cgroup_parse(groups, mounts, "memory", &g);
}

static void test_parse(void)
{
	ok(is_parsed(v1_groups, v1_mounts, "memory", "/cg/memory/slurm/uid_7/job_3/step_0", false),
	       "version 1: a controller beside another one");
	ok(is_parsed(v1_groups, v1_mounts, "pids", "/cg/pids/batch", false), "and one of its own");
	ok(is_parsed(v2_groups, v2_mounts, "memory", "/cg2/system.slice/slurmstepd.scope/job_3/step_0/user/task_0", true),
	       "version 2");
	ok(is_parsed("2:cpu:/\n0::/a\n", "1 1 0:1 / /x rw - cgroup c rw,cpu\n2 1 0:2 / /u rw - cgroup2 c rw\n", "memory", "/u/a",
	                 true), "both: what version 1 has not taken, version 2 has");
	ok(is_parsed("0::/\n", "1 1 0:1 / /a\\040b\\134c rw - cgroup2 c rw\n", "memory", "/a b\\c", true),
	       "a mount point with a blank in it");
	ok(is_parsed("4:memory:/docker/12ab/x\n", "1 1 0:1 /docker/12ab /m ro - cgroup c rw,memory\n", "memory", "/m/x", false),
	       "a container that sees a part of the hierarchy");
	ok(parse("4:memory:/docker/12abc\n", "1 1 0:1 /docker/12ab /m ro - cgroup c rw,memory\n") == -ENOENT,
	       "a group beside the part that is seen is not found in it");
	ok(parse("0::/../other\n", v2_mounts) == -ENOENT, "nor one outside of the cgroup namespace");
	ok(parse("4:memoryless,mem:/a\n", v1_mounts) == -ENOENT, "a name that begins alike is another controller");
	ok(parse(v1_groups, v2_mounts) == -ENOENT, "a hierarchy that is not mounted is not looked for elsewhere");
	ok(parse("", "") == -ENOENT && parse("\n\n:\n::\n:::\n", "\n - \n- - - -\n") == -ENOENT, "nothing is found in nothing");
}

static void test_numbers(void)
{
	ok(ct_cgroup_number("4096\n") == 4096 && ct_cgroup_number("0\n") == 0, "a number");
	ok(ct_cgroup_number("max\n") == CT_NO_LIMIT && ct_cgroup_number("9223372036854771712\n") == CT_NO_LIMIT,
	       "no limit, as both versions say it");
	ok(ct_cgroup_number("") == CT_NO_LIMIT && ct_cgroup_number("-1") == CT_NO_LIMIT && ct_cgroup_number("12x") == CT_NO_LIMIT &&
	       ct_cgroup_number("99999999999999999999999") == CT_NO_LIMIT, "what is not a number does not limit");
	ok(ct_cgroup_field("a 1\nab 2\nb 3", "ab") == 2 && ct_cgroup_field("a 1\nb 3", "b") == 3 && ct_cgroup_field("ab 1", "a") == 0,
	       "a field is found by its whole name");
	ok(ct_room_available("MemTotal: 5 kB\nMemAvailable:   1024 kB\n") == MIB && ct_room_available("MemFree: 3 kB\n") == CT_NO_LIMIT,
	       "MemAvailable");
}

static void test_levels(void)
{
	struct ct_cgroup_room r;
	char text[64];

	put("/proc/self", "cgroup", v1_groups);
	put("/proc/self", "mountinfo", v1_mounts);
	put("/cg/memory", "memory.limit_in_bytes", "9223372036854771712\n");
	put("/cg/memory/slurm/uid_7/job_3/step_0", "memory.limit_in_bytes", "1073741824\n");
	put("/cg/memory/slurm/uid_7/job_3/step_0", "memory.usage_in_bytes", "104857600\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 924 * MIB && r.limit == 1024 * MIB && strcmp(r.group, "/slurm/uid_7/job_3/step_0") == 0,
	       "version 1: a step's own limit (%llu in %s)", (unsigned long long)r.left, r.group);
	put("/cg/memory/slurm/uid_7", "memory.limit_in_bytes", "536870912\n");
	put("/cg/memory/slurm/uid_7", "memory.usage_in_bytes", "524288000\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 12 * MIB && strcmp(r.group, "/slurm/uid_7") == 0, "a level above that leaves less counts");
	put("/cg/memory/slurm/uid_7", "memory.stat", "cache 9\ninactive_file 1\ntotal_inactive_file 104857600\ntotal_active_file 0\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 112 * MIB && r.used == 400 * MIB, "the cache of files is room");
	put("/cg/memory/slurm", "memory.use_hierarchy", "0\n");
	put("/cg/memory/slurm", "memory.limit_in_bytes", "4096\n");
	put("/cg/memory/slurm", "memory.usage_in_bytes", "0\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 112 * MIB, "a group that does not count what is below it does not limit it");
	put("/cg/memory/slurm/uid_7", "memory.limit_in_bytes", "1048576\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 0 && r.used == r.limit, "a group that has more than it may leaves nothing");
	put("/cg/pids/batch", "pids.max", "100\n");
	put("/cg/pids/batch", "pids.current", "97\n");
	ct_cgroup_room(root, "pids", &r);
	ok(r.left == 3 && r.limit == 100, "processes");

	put("/proc/self", "cgroup", v2_groups);
	put("/proc/self", "mountinfo", v2_mounts);
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == CT_NO_LIMIT, "version 2: no limit anywhere");
	snprintf(text, sizeof(text), "%llu\n", 900 * MIB);
	put("/cg2/system.slice/slurmstepd.scope/job_3", "memory.max", text);
	put("/cg2/system.slice/slurmstepd.scope/job_3", "memory.current", "104857600\n");
	put("/cg2/system.slice/slurmstepd.scope/job_3/step_0", "memory.max", "max\n");
	put("/cg2/system.slice/slurmstepd.scope/job_3/step_0", "memory.current", "104857600\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 800 * MIB && strcmp(r.group, "/system.slice/slurmstepd.scope/job_3") == 0, "a job's limit, above its step");
	put("/cg2/system.slice/slurmstepd.scope/job_3/step_0", "memory.high", "209715200\n");
	ct_cgroup_room(root, "memory", &r);
	ok(r.left == 100 * MIB && r.limit == 200 * MIB, "a group that would be throttled has no room");
}

static void test_needed(void)
{
	uint64_t margin, small = ct_room_needed(MIB, 1, &margin), large;

	ok(margin == 8 * MIB && small > 9 * MIB && small < 10 * MIB, "a small rank has a margin of 8 MiB");
	large = ct_room_needed(64ull << 30, 64, &margin);
	ok(margin == 256 * MIB && large > (64ull << 30) + margin, "a large one of 256, and its page tables");
}

/* A rank of 10 MiB of ordinary memory, 4 huge pages of 2 MiB of which two were written, and one of 1 GiB that was not. */
static void test_huge(void)
{
	struct ct_img_extent extents[] = { { 0, 10 * MIB }, { 64 * MIB, 68 * MIB }, { 128 * MIB, 132 * MIB } };
	struct ct_img_vma vmas[] = {
		{ .start = 0, .end = 12 * MIB },
		{ .start = 64 * MIB, .end = 72 * MIB, .offset = 2 * MIB, .advice = CT_VMA_HUGETLB },
		{ .start = 1024 * MIB, .end = 2048 * MIB, .offset = 1024 * MIB, .advice = CT_VMA_HUGETLB },
	};
	struct ct_reader reader = { .extents = { .at = extents, .n = 2 } };
	struct ct_snapshot hint = { .vmas = { .at = vmas, .n = GW_ARRAY_LEN(vmas) } };
	struct ct_fit f = { .reader = &reader, .hint = &hint };
	const char *dir = "/sys/kernel/mm/hugepages/hugepages-2048kB";
	struct ct_room_pages p;

	reader.extents.size = sizeof(extents[0]);
	hint.vmas.size = sizeof(vmas[0]);
	p = ct_room_pages(root, &f);
	ok(p.ordinary == 14 * MIB && p.lacking == 4 * MIB, "huge pages that are not here will be ordinary memory");
	put(dir, "free_hugepages", "6\n");
	put(dir, "resv_hugepages", "3\n");
	p = ct_room_pages(root, &f);
	ok(ct_room_huge(root, 2 * MIB) == 6 * MIB && p.ordinary == 14 * MIB && p.page >= 2 * MIB, "nor do those count that others have spoken for");
	put(dir, "resv_hugepages", "2\n");
	p = ct_room_pages(root, &f);
	ok(p.ordinary == 10 * MIB && p.lacking == 0, "huge pages that are free take no other memory");
	vmas[2] = (struct ct_img_vma){ .start = 128 * MIB, .end = 136 * MIB, .offset = 2 * MIB, .advice = CT_VMA_HUGETLB };
	reader.extents.n = 3;
	p = ct_room_pages(root, &f);
	ok(p.ordinary == 14 * MIB && p.lacking == 4 * MIB && p.page == 2 * MIB, "and each counts once");
}

/* Texts cut, doubled and turned over: whatever comes out lies below a mount point that was read. */
static void test_fuzz(void)
{
	const char *seeds[] = { v1_groups, v1_mounts, v2_groups, v2_mounts, "memory.stat 1\n:::/,,\\040\\999 - cgroup2 x y\n" };
	uint32_t random = 1;
	bool is_good = true;

	for (int round = 0; round < 20000; round++) {
		char text[2][1024];
		struct ct_cgroup g;

		for (int k = 0; k < 2; k++) {
			const char *seed = seeds[(random = random * 1103515245 + 12345) >> 16 & 3 ? (random >> 20) % 5 : 4];
			size_t len = strlen(seed);

			memcpy(text[k], seed, len + 1);
			for (int n = (int)(random >> 24 & 7); n > 0; n--) {
				random = random * 1103515245 + 12345;
				text[k][(random >> 8) % len] = random & 1 ? ":/,-\n \\0"[random >> 28 & 7] : (char)(random >> 16);
			}
			text[k][len] = '\0';
		}
		memset(&g, 0, sizeof(g));
		if (ct_cgroup_parse(text[0], text[1], round & 1 ? "memory" : "pids", &g) == 0)
			is_good &= strlen(g.dir) < sizeof(g.dir) && g.mount_len <= strlen(g.dir) && !strstr(g.dir + g.mount_len, "/..");
		(void)ct_cgroup_field(text[0], "memory.stat");
		(void)ct_room_available(text[1]);
	}
	ok(is_good, "twenty thousand damaged texts do no harm");
}

int main(void)
{
	char command[64];

	tap_begin(60);
	if (sweep_dir(root) < 0)
		tap_bail("no directory");
	test_parse();
	test_numbers();
	test_levels();
	test_needed();
	test_huge();
	test_fuzz();
	snprintf(command, sizeof(command), "rm -rf %s", root);
	if (system(command) != 0)
		tap_bail("%s stays", root);
	return tap_done();
}
