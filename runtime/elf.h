/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/elf: what an executable or a library needs and defines, read from its file.
 *
 * Foreign bytes: every offset is checked, what does not fit is as if it were not there. Only 64-bit little-endian files
 * of this machine's kind are read; others, and scripts, are -ENOEXEC. Nothing of the file is run or relocated.
 */
#ifndef RT_ELF_H
#define RT_ELF_H

#include "runtime/base/base.h"

struct rt_elf {
	const unsigned char *bytes;
	size_t len;
	bool is_mapped;          /* by rt_elf_open, and unmapped by rt_elf_close */
	uint64_t strings, dynamic; /* where in the file; dynamic 0: not dynamically linked */
	size_t n_dynamic;        /* entries */
	const char *interpreter; /* of PT_INTERP, or NULL */
};

/** rt_elf_parse - look at @len bytes at @bytes, which must stay there while @out is used; -ENOEXEC: not for us */
int rt_elf_parse(struct rt_elf *out, const void *bytes, size_t len);

/** rt_elf_open - the same with a file; then rt_elf_close() */
int rt_elf_open(struct rt_elf *out, const char *path);
void rt_elf_close(struct rt_elf *e);

/** rt_elf_needed - the @i-th library that it needs (DT_NEEDED), or NULL */
const char *rt_elf_needed(const struct rt_elf *e, size_t i);

/** rt_elf_defines - is @symbol defined for others to use? */
bool rt_elf_defines(const struct rt_elf *e, const char *symbol);

#endif
