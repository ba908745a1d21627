/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Extended state of a thread, as ptrace gives and takes it: where this processor keeps each component, and the same state in
 * the layout of another one. Processors of different makers put the same registers at different places, and a larger one has
 * room for registers that a smaller one lacks.
 *
 *   0        512          576
 *   | legacy | XSTATE_BV | components 2, 3, ...: each where cpuid leaf 13 says
 */
#include "container/rank.h"

#include <cpuid.h>

#define LEGACY_END 576
#define XSTATE_BV  512
#define PKRU       9
#define PKRU_START 0x55555554u /* as the kernel starts every program: nothing but key 0 */

/* Legacy state says in its first words that it is as after a reset; of the others a clear bit says so. */
static const char *const names[CT_IMG_COMPONENTS] = {
	[2] = "AVX", [3] = "MPX", [4] = "MPX", [5] = "AVX-512", [6] = "AVX-512", [7] = "AVX-512", [9] = "protection keys",
	[17] = "AMX", [18] = "AMX", [19] = "APX",
};

void ct_xstate_layout(struct ct_img_layout *out)
{
	static struct ct_img_layout known; /* asked once, as in cpu.c */

	if (!known.xcr0) {
		known.xcr0 = ct_cpu_xcr0();
		for (uint32_t i = 2; i < CT_IMG_COMPONENTS; i++) {
			uint32_t size = 0, offset = 0, c, d;

			if (known.xcr0 >> i & 1 && __get_cpuid_count(0xd, i, &size, &offset, &c, &d))
				known.components[i] = (struct ct_img_component){ offset, size };
		}
	}
	*out = known;
}

static bool is_inside(const struct ct_img_component *c, size_t len)
{
	return c->size && c->offset >= LEGACY_END && c->offset <= len && c->size <= len - c->offset;
}

int ct_xstate_convert(unsigned char *to, size_t to_len, const struct ct_img_layout *there, const unsigned char *from,
                      size_t from_len, const struct ct_img_layout *here, struct gw_error *why)
{
	uint64_t used;

	if (to_len < LEGACY_END || from_len < LEGACY_END)
		return gw_fail(why, -EBADMSG, "its extended state has %zu bytes and here it has %zu", from_len, to_len);
	memset(to, 0, to_len);
	memcpy(to, from, LEGACY_END);
	memcpy(&used, from + XSTATE_BV, sizeof(used));
	memset(to + XSTATE_BV, 0, LEGACY_END - XSTATE_BV);
	for (uint32_t i = 2; i < 64; i++) {
		const struct ct_img_component *a = i < CT_IMG_COMPONENTS ? &here->components[i] : NULL;
		const struct ct_img_component *b = i < CT_IMG_COMPONENTS ? &there->components[i] : NULL;
		uint32_t pkru;

		if (!(used >> i & 1))
			continue;
		if (!a || !is_inside(a, from_len))
			return gw_fail(why, -EBADMSG, "its extended state has a component %u that it does not describe", i);
		if (i == PKRU && !is_inside(b, to_len)) {
			memcpy(&pkru, from + a->offset, sizeof(pkru));
			if (pkru == PKRU_START || pkru == 0) {
				used &= ~(1ull << i);
				continue;
			}
		}
		if (!is_inside(b, to_len) || a->size != b->size)
			return gw_fail(why, -ENOTSUP, "it is using %s, which this processor lacks%s; move it to one that has it",
			               names[i] ? names[i] : "registers", names[i] ? "" : " or keeps otherwise");
		memcpy(to + b->offset, from + a->offset, a->size);
	}
	memcpy(to + XSTATE_BV, &used, sizeof(used));
	return 0;
}
