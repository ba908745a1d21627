/* SPDX-License-Identifier: BSD-2-Clause */
/* Processors that differ: sets of features, and extended state in the layout of another processor. */
#include <stdlib.h>

#include "container/rank.h"
#include "tests/tap.h"

static void test_sets(void)
{
	struct ct_cpu host, less, all, none = { { 0 } };
	char text[CT_CPU_TEXT], again[CT_CPU_TEXT];
	size_t n;
	const struct ct_cpu_row *rows = ct_cpu_rows(&n);

	ct_cpu_host(&host);
	ok(ct_cpu_has(&host, "sse3") && ct_cpu_has(&host, "cx16"), "this processor has what all of its kind have");
	is_int(ct_cpu_parse(&less, ct_cpu_print(&host, text)), 0, "what it has can be written down and read");
	ok(memcmp(&host, &less, sizeof(host)) == 0, "and is the same then: %s", text);
	text[0] = '\0';
	for (size_t i = 0; i < n; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i ? "," : "", rows[i].name);
	ok(ct_cpu_parse(&all, text) == 0 && strcmp(ct_cpu_print(&all, again), text) == 0, "all names fit");
	ok(ct_cpu_parse(&less, "sse3,warp,,avx2,") == -EINVAL && ct_cpu_has(&less, "avx2") && ct_cpu_has(&less, "sse3") &&
	   strcmp(ct_cpu_print(&less, text), "sse3,avx2") == 0, "a name that nobody knows is told, the others are read");
	less = ct_cpu_without(all, less);
	ok(!ct_cpu_has(&less, "avx2") && ct_cpu_has(&less, "avx") && !ct_cpu_has(&less, "warp"), "one less the other");
	less = ct_cpu_both(less, host);
	ok(ct_cpu_is_none(ct_cpu_without(less, host)) && !ct_cpu_is_none(less), "what both have is what each has");
	ok(ct_cpu_is_none(none) && *ct_cpu_print(&none, text) == '\0' && ct_cpu_parse(&less, "") == 0 && ct_cpu_is_none(less),
	   "nothing is a set, too");
	ok(ct_cpu_hide("cx16") == 0, "a test may hide one");
	ct_cpu_host(&less);
	ok(!ct_cpu_has(&less, "cx16") && ct_cpu_has(&less, "sse3"), "and then it is not there, as the only one");
}

/* as one maker lays it out, another, and one that lacks most */
static const struct ct_img_layout intel = { 0x2e7, { [2] = { 576, 256 }, [5] = { 1088, 64 }, [6] = { 1152, 512 }, [7] = { 1664, 1024 },
	[9] = { 2688, 8 } } };
static const struct ct_img_layout amd = { 0x2e7, { [2] = { 576, 256 }, [5] = { 832, 64 }, [6] = { 896, 512 }, [7] = { 1408, 1024 },
	[9] = { 2432, 8 } } };
static const struct ct_img_layout avx = { 0x7, { [2] = { 576, 256 } } };

static void fill(unsigned char *state, size_t len, uint64_t used)
{
	for (size_t i = 0; i < len; i++)
		state[i] = (unsigned char)(i * 7);
	memset(state + 512, 0, 64);
	memcpy(state + 512, &used, sizeof(used));
}

static void test_xstate(void)
{
	static unsigned char from[4096], to[4096];
	const uint32_t keys = 0x55555554;
	struct gw_error why = { 0 };
	uint64_t used;

	fill(from, sizeof(from), 0xe7);
	is_int(ct_xstate_convert(to, 2440, &amd, from, 2696, &intel, &why), 0, "AVX-512 goes to a processor that lays it out otherwise");
	ok(memcmp(to, from, 512 + 8) == 0 && memcmp(to + 576, from + 576, 256) == 0 && memcmp(to + 832, from + 1088, 64) == 0 &&
	   memcmp(to + 896, from + 1152, 512) == 0 && memcmp(to + 1408, from + 1664, 1024) == 0, "every register to its place");
	is_int(ct_xstate_convert(to, 832, &avx, from, 2696, &intel, &why), -ENOTSUP, "not to one that lacks it");
	ok(strstr(why.text, "AVX-512"), "and it says what that is: %s", why.text);
	fill(from, sizeof(from), 0x207);
	memcpy(from + 2688, &keys, sizeof(keys));
	is_int(ct_xstate_convert(to, 832, &avx, from, 2696, &intel, &why), 0, "when it is not in use it goes there, too");
	memcpy(&used, to + 512, sizeof(used));
	ok(used == 7 && memcmp(to + 576, from + 576, 256) == 0, "without the protection keys that every program begins with");
	memset(from + 2688, 1, 4);
	is_int(ct_xstate_convert(to, 832, &avx, from, 2696, &intel, &why), -ENOTSUP, "but not when they were changed");
	ok(strstr(why.text, "protection keys"), "and it says so: %s", why.text);
	is_int(ct_xstate_convert(to, 2696, &intel, from, 832, &avx, &why), -EBADMSG, "a component that is not described is refused");
	fill(from, sizeof(from), 1ull << 40);
	is_int(ct_xstate_convert(to, 2696, &intel, from, 832, &avx, &why), -EBADMSG, "one beyond all that are known, too");
	is_int(ct_xstate_convert(to, 100, &intel, from, 832, &avx, &why), -EBADMSG, "and a buffer that is too short");
}

/* Layouts and lengths that no processor has: never a byte outside. The buffers end where their memory ends (sanitizers). */
static void test_fuzz(void)
{
	uint32_t random = 7;
	int good = 0;

	for (int round = 0; round < 20000; round++) {
		struct ct_img_layout a = intel, b = amd;
		size_t from_len = (random >> 8) % 3000, to_len;
		unsigned char *from, *to;
		uint64_t used;

		random = random * 1103515245 + 12345;
		to_len = (random >> 8) % 3000;
		from = malloc(from_len + 1);
		to = malloc(to_len + 1);
		if (!from || !to)
			tap_bail("no memory");
		memset(from, (int)random, from_len);
		for (int k = 0; k < 3; k++) {
			random = random * 1103515245 + 12345;
			(k & 1 ? &a : &b)->components[(random >> 8) % CT_IMG_COMPONENTS] =
				(struct ct_img_component){ random >> 4 & 0xfff, random & 1 ? random : random >> 20 };
		}
		used = random >> 10 & 0x3ff;
		if (from_len >= 520)
			memcpy(from + 512, &used, sizeof(used));
		good += ct_xstate_convert(to, to_len, &b, from, from_len, &a, NULL) == 0;
		free(from);
		free(to);
	}
	ok(good > 0 && good < 20000, "twenty thousand impossible layouts do no harm (%d were possible)", good);
}

int main(void)
{
	tap_begin(60);
	test_sets();
	test_xstate();
	test_fuzz();
	return tap_done();
}
