/* SPDX-License-Identifier: BSD-2-Clause */
/* Instruction-set extensions: which there are, by cpuid and by what the kernel keeps, and their names. */
#include "container/cpu.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/auxv.h>

#define AVX    0x06ull     /* of XCR0: which registers the kernel keeps over a switch */
#define AVX512 0xe6ull
#define AMX    0x60000ull
#define APX    0x80000ull
#define FSGSBASE_HWCAP2 2u /* the instructions are there, but only a kernel that knows them lets a program use them */

enum { EAX, EBX, ECX, EDX };

/*
 * A row's number is its bit in a set, which never leaves this process: names do. What glibc has no name for, but asks for
 * before it takes libraries of a level (glibc-hwcaps/x86-64-v3), is turned off with another one of that level.
 */
static const struct ct_cpu_row rows[] = {
	{ "sse3", 1, 0, ECX, 0, 0, "SSE4_2" },
	{ "pclmulqdq", 1, 0, ECX, 1, 0, NULL },
	{ "ssse3", 1, 0, ECX, 9, 0, "SSSE3" },
	{ "fma", 1, 0, ECX, 12, AVX, "FMA" },
	{ "cx16", 1, 0, ECX, 13, 0, "SSE4_2" },
	{ "sse4_1", 1, 0, ECX, 19, 0, "SSE4_1" },
	{ "sse4_2", 1, 0, ECX, 20, 0, "SSE4_2" },
	{ "movbe", 1, 0, ECX, 22, 0, "MOVBE" },
	{ "popcnt", 1, 0, ECX, 23, 0, "POPCNT" },
	{ "aes", 1, 0, ECX, 25, 0, NULL },
	{ "xsave", 1, 0, ECX, 27, 0, "XSAVE" }, /* bit 27: the kernel lets it be used */
	{ "avx", 1, 0, ECX, 28, AVX, "AVX" },
	{ "f16c", 1, 0, ECX, 29, AVX, "AVX2" },
	{ "rdrand", 1, 0, ECX, 30, 0, NULL },
	{ "fsgsbase", 7, 0, EBX, 0, 0, NULL },
	{ "bmi1", 7, 0, EBX, 3, 0, "BMI1" },
	{ "avx2", 7, 0, EBX, 5, AVX, "AVX2" },
	{ "bmi2", 7, 0, EBX, 8, 0, "BMI2" },
	{ "rtm", 7, 0, EBX, 11, 0, "RTM" },
	{ "avx512f", 7, 0, EBX, 16, AVX512, "AVX512F" },
	{ "avx512dq", 7, 0, EBX, 17, AVX512, "AVX512DQ" },
	{ "rdseed", 7, 0, EBX, 18, 0, NULL },
	{ "adx", 7, 0, EBX, 19, 0, NULL },
	{ "avx512ifma", 7, 0, EBX, 21, AVX512, NULL },
	{ "clflushopt", 7, 0, EBX, 23, 0, NULL },
	{ "clwb", 7, 0, EBX, 24, 0, NULL },
	{ "avx512pf", 7, 0, EBX, 26, AVX512, "AVX512PF" },
	{ "avx512er", 7, 0, EBX, 27, AVX512, "AVX512ER" },
	{ "avx512cd", 7, 0, EBX, 28, AVX512, "AVX512CD" },
	{ "sha_ni", 7, 0, EBX, 29, 0, NULL },
	{ "avx512bw", 7, 0, EBX, 30, AVX512, "AVX512BW" },
	{ "avx512vl", 7, 0, EBX, 31, AVX512, "AVX512VL" },
	{ "avx512vbmi", 7, 0, ECX, 1, AVX512, NULL },
	{ "ospke", 7, 0, ECX, 4, 0, NULL },
	{ "waitpkg", 7, 0, ECX, 5, 0, NULL },
	{ "avx512_vbmi2", 7, 0, ECX, 6, AVX512, NULL },
	{ "gfni", 7, 0, ECX, 8, 0, NULL },
	{ "vaes", 7, 0, ECX, 9, AVX, NULL },
	{ "vpclmulqdq", 7, 0, ECX, 10, AVX, NULL },
	{ "avx512_vnni", 7, 0, ECX, 11, AVX512, NULL },
	{ "avx512_bitalg", 7, 0, ECX, 12, AVX512, NULL },
	{ "avx512_vpopcntdq", 7, 0, ECX, 14, AVX512, NULL },
	{ "rdpid", 7, 0, ECX, 22, 0, NULL },
	{ "movdiri", 7, 0, ECX, 27, 0, NULL },
	{ "movdir64b", 7, 0, ECX, 28, 0, NULL },
	{ "avx512_4vnniw", 7, 0, EDX, 2, AVX512, NULL },
	{ "avx512_4fmaps", 7, 0, EDX, 3, AVX512, NULL },
	{ "avx512_vp2intersect", 7, 0, EDX, 8, AVX512, NULL },
	{ "serialize", 7, 0, EDX, 14, 0, NULL },
	{ "tsxldtrk", 7, 0, EDX, 16, 0, NULL },
	{ "amx_bf16", 7, 0, EDX, 22, AMX, NULL },
	{ "avx512_fp16", 7, 0, EDX, 23, AVX512, NULL },
	{ "amx_tile", 7, 0, EDX, 24, AMX, NULL },
	{ "amx_int8", 7, 0, EDX, 25, AMX, NULL },
	{ "sha512", 7, 1, EAX, 0, AVX, NULL },
	{ "sm3", 7, 1, EAX, 1, AVX, NULL },
	{ "sm4", 7, 1, EAX, 2, AVX, NULL },
	{ "avx_vnni", 7, 1, EAX, 4, AVX, NULL },
	{ "avx512_bf16", 7, 1, EAX, 5, AVX512, NULL },
	{ "cmpccxadd", 7, 1, EAX, 7, 0, NULL },
	{ "amx_fp16", 7, 1, EAX, 21, AMX, NULL },
	{ "avx_ifma", 7, 1, EAX, 23, AVX, NULL },
	{ "avx_vnni_int8", 7, 1, EDX, 4, AVX, NULL },
	{ "avx_ne_convert", 7, 1, EDX, 5, AVX, NULL },
	{ "amx_complex", 7, 1, EDX, 8, AMX, NULL },
	{ "avx_vnni_int16", 7, 1, EDX, 10, AVX, NULL },
	{ "avx10", 7, 1, EDX, 19, AVX512, NULL },
	{ "apx", 7, 1, EDX, 21, APX, NULL },
	{ "xsaveopt", 0xd, 1, EAX, 0, 0, NULL },
	{ "xsavec", 0xd, 1, EAX, 1, 0, "XSAVEC" },
	{ "xgetbv1", 0xd, 1, EAX, 2, 0, NULL },
	{ "lahf_lm", 0x80000001u, 0, ECX, 0, 0, "SSE4_2" },
	{ "abm", 0x80000001u, 0, ECX, 5, 0, "LZCNT" },
	{ "sse4a", 0x80000001u, 0, ECX, 6, 0, NULL },
	{ "misalignsse", 0x80000001u, 0, ECX, 7, 0, NULL },
	{ "xop", 0x80000001u, 0, ECX, 11, AVX, "XOP" },
	{ "fma4", 0x80000001u, 0, ECX, 16, AVX, "FMA4" },
	{ "tbm", 0x80000001u, 0, ECX, 21, 0, NULL },
	{ "mwaitx", 0x80000001u, 0, ECX, 29, 0, NULL },
	{ "rdtscp", 0x80000001u, 0, EDX, 27, 0, NULL },
	{ "3dnowext", 0x80000001u, 0, EDX, 30, 0, NULL },
	{ "3dnow", 0x80000001u, 0, EDX, 31, 0, NULL },
	{ "clzero", 0x80000008u, 0, EBX, 0, 0, NULL },
	{ "rdpru", 0x80000008u, 0, EBX, 4, 0, NULL },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))
_Static_assert(ROWS <= CT_CPU_WORDS * 64, "a set has a bit for each row");

static struct ct_cpu hidden; /* of this process, for tests */

const struct ct_cpu_row *ct_cpu_rows(size_t *n)
{
	*n = ROWS;
	return rows;
}

static void set(struct ct_cpu *c, size_t i)
{
	c->bits[i / 64] |= 1ull << i % 64;
}

static bool is_set(const struct ct_cpu *c, size_t i)
{
	return c->bits[i / 64] >> i % 64 & 1;
}

uint64_t ct_cpu_xcr0(void)
{
	uint32_t a, b, c = 0, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 3;
	asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (uint64_t)d << 32 | a;
}

/* asked once: where a hypervisor answers for the processor, each question takes long */
static struct ct_cpu ask(void)
{
	uint64_t xcr0 = ct_cpu_xcr0();
	struct ct_cpu c = { { 0 } };

	for (size_t i = 0; i < ROWS; i++) {
		uint32_t reg[4];

		if (!__get_cpuid_count(rows[i].leaf, rows[i].subleaf, &reg[0], &reg[1], &reg[2], &reg[3]) ||
		    !(reg[rows[i].reg] >> rows[i].bit & 1) || (xcr0 & rows[i].xcr0) != rows[i].xcr0)
			continue;
		if (strcmp(rows[i].name, "fsgsbase") == 0 && !(getauxval(AT_HWCAP2) & FSGSBASE_HWCAP2))
			continue;
		set(&c, i);
	}
	return c;
}

void ct_cpu_host(struct ct_cpu *out)
{
	static struct ct_cpu known;

	if (ct_cpu_is_none(known))
		known = ask();
	*out = ct_cpu_without(known, hidden);
}

int ct_cpu_hide(const char *names)
{
	struct ct_cpu more;
	int code = ct_cpu_parse(&more, names);

	hidden = ct_cpu_either(hidden, more);
	return code;
}

bool ct_cpu_has(const struct ct_cpu *c, const char *name)
{
	for (size_t i = 0; i < ROWS; i++)
		if (strcmp(rows[i].name, name) == 0)
			return is_set(c, i);
	return false;
}

const char *ct_cpu_print(const struct ct_cpu *c, char *buf)
{
	size_t at = 0;

	for (size_t i = 0; i < ROWS; i++) {
		size_t n = strlen(rows[i].name);

		if (!is_set(c, i) || at + n + 2 > CT_CPU_TEXT)
			continue;
		if (at)
			buf[at++] = ',';
		memcpy(buf + at, rows[i].name, n);
		at += n;
	}
	buf[at] = '\0';
	return buf;
}

int ct_cpu_parse(struct ct_cpu *out, const char *text)
{
	int code = 0;

	*out = (struct ct_cpu){ { 0 } };
	for (const char *at = text; *at;) {
		size_t n = strcspn(at, ","), i = 0;

		while (i < ROWS && (strlen(rows[i].name) != n || memcmp(rows[i].name, at, n) != 0))
			i++;
		if (i < ROWS)
			set(out, i);
		else if (n)
			code = -EINVAL;
		at += n;
		at += *at == ',';
	}
	return code;
}
