/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * container/cpu.h: what a processor can do for a program, as far as a program may have chosen its code by it.
 *
 * A set holds the instruction-set extensions that the processor, the kernel and the hypervisor together let a program use;
 * hints of speed, as erms, are left out: the instructions that they are about exist everywhere. Written as names, those of
 * /proc/cpuinfo, with commas between them. Used by daemons, and by mpirun for what all hosts of a job share.
 */
#ifndef CT_CPU_H
#define CT_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CT_CPU_WORDS 2
#define CT_CPU_TEXT  1024 /* room for all names */

struct ct_cpu { uint64_t bits[CT_CPU_WORDS]; };

struct ct_cpu_row {
	const char *name;
	uint32_t leaf, subleaf;
	int reg, bit;          /* of cpuid's eax, ebx, ecx, edx */
	uint64_t xcr0;         /* state that the kernel must keep for it */
	const char *glibc;     /* what turns it off in glibc.cpu.hwcaps; NULL: nothing there depends on it */
};
/** ct_cpu_rows - the features that are known, in the order of their bits; @n: how many. Constant */
const struct ct_cpu_row *ct_cpu_rows(size_t *n);

/** ct_cpu_host - those that the processor under this thread has and its kernel keeps the state of, less what is hidden */
void ct_cpu_host(struct ct_cpu *out);
uint64_t ct_cpu_xcr0(void); /* components of extended state that the kernel keeps here */
/** ct_cpu_hide - from now on ct_cpu_host lacks @names; for tests. Return: 0, or -EINVAL: one is unknown */
int ct_cpu_hide(const char *names);

/** ct_cpu_has - false for a name that is unknown, too. Pure */
bool ct_cpu_has(const struct ct_cpu *c, const char *name);
/** ct_cpu_print - into @buf (CT_CPU_TEXT bytes); returns it */
const char *ct_cpu_print(const struct ct_cpu *c, char *buf);
/** ct_cpu_parse - Return: 0; -EINVAL for a name that is unknown here, *out has the others. Pure */
int ct_cpu_parse(struct ct_cpu *out, const char *text);

/* Sets: what both have, what one has, what @a has and @b has not. Pure */
static inline struct ct_cpu ct_cpu_both(struct ct_cpu a, struct ct_cpu b)
{
	return (struct ct_cpu){ { a.bits[0] & b.bits[0], a.bits[1] & b.bits[1] } };
}
static inline struct ct_cpu ct_cpu_either(struct ct_cpu a, struct ct_cpu b)
{
	return (struct ct_cpu){ { a.bits[0] | b.bits[0], a.bits[1] | b.bits[1] } };
}
static inline struct ct_cpu ct_cpu_without(struct ct_cpu a, struct ct_cpu b)
{
	return (struct ct_cpu){ { a.bits[0] & ~b.bits[0], a.bits[1] & ~b.bits[1] } };
}
static inline bool ct_cpu_is_none(struct ct_cpu a)
{
	return !(a.bits[0] | a.bits[1]);
}

#endif
