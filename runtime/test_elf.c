/* SPDX-License-Identifier: BSD-2-Clause */
/* Unit tests of runtime/elf: this very program, and what is left of it when bytes are missing or wrong. */
#include "runtime/elf.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdlib.h>

#include "tests/tap.h"

static bool needs(const struct rt_elf *e, const char *prefix)
{
	const char *name;

	for (size_t i = 0; (name = rt_elf_needed(e, i)); i++)
		if (strncmp(name, prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

/* Everything that can be asked; the answers do not matter here. */
static void ask_all(const void *bytes, size_t len)
{
	struct rt_elf e;

	if (rt_elf_parse(&e, bytes, len) < 0)
		return;
	for (size_t i = 0; i < 1000 && rt_elf_needed(&e, i); i++)
		;
	(void)rt_elf_defines(&e, "PMPI_Init");
	rt_elf_close(&e);
}

static void test_broken(const struct rt_elf *whole)
{
	size_t len = whole->len < 65536 ? whole->len : 65536;
	unsigned char *copy = malloc(whole->len);
	uint32_t x = 17;

	if (!copy)
		tap_bail("no memory");
	for (size_t n = 0; n < len; n += n < 4096 ? 1 : 509) {
		unsigned char *exact = malloc(n ? n : 1); /* so that a sanitizer sees the first byte too many */

		if (!exact)
			tap_bail("no memory");
		memcpy(exact, whole->bytes, n);
		ask_all(exact, n);
		free(exact);
	}
	ok(true, "a file that ends anywhere is read no further");
	for (int round = 0; round < 3000; round++) {
		memcpy(copy, whole->bytes, whole->len);
		for (int k = 0; k < 4; k++) {
			x = x * 1664525u + 1013904223u;
			/* mostly in the headers, where it hurts */
			copy[(x >> 8) % (k ? sizeof(Elf64_Ehdr) + 13 * sizeof(Elf64_Phdr) : whole->len)] = (unsigned char)(x >> 3);
		}
		ask_all(copy, whole->len);
	}
	ok(true, "wrong bytes anywhere are survived");
	free(copy);
}

int main(void)
{
	struct rt_elf e;
	Dl_info libc;

	tap_begin(60);
	is_int(rt_elf_open(&e, "/proc/self/exe"), 0, "an executable is read");
	ok(e.interpreter && strstr(e.interpreter, "ld-linux"), "its interpreter is the loader");
	ok(needs(&e, "libc.so."), "it needs the C library");
	ok(!needs(&e, "libmpi"), "and no MPI");
	ok(!rt_elf_defines(&e, "printf"), "what it takes from others it does not define");
	test_broken(&e);
	rt_elf_close(&e);
	if (!dladdr(dlsym(RTLD_NEXT, "printf"), &libc))
		tap_bail("the C library is not to be found");
	is_int(rt_elf_open(&e, libc.dli_fname), 0, "a library is read");
	ok(rt_elf_defines(&e, "printf") && !rt_elf_defines(&e, "PMPI_Init"), "it defines its symbols and no others");
	rt_elf_close(&e);
	is_int(rt_elf_open(&e, "/nonexistent"), -ENOENT, "a file that is not there is an error");
	is_int(rt_elf_open(&e, "/"), -ENOEXEC, "a directory is no executable");
	is_int(rt_elf_parse(&e, "#!/bin/sh\n", 10), -ENOEXEC, "nor is a script");
	return tap_done();
}
