/* SPDX-License-Identifier: BSD-2-Clause */
/* Program headers, the dynamic section and the dynamic symbols of an ELF file, each access checked against its end. */
#include "runtime/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* @size bytes at @offset, copied out because nothing in the file need be aligned; false: they are not all there */
static bool take(const struct rt_elf *e, void *out, uint64_t offset, size_t size)
{
	if (offset > e->len || size > e->len - offset)
		return false;
	memcpy(out, e->bytes + offset, size);
	return true;
}

static const char *string_at(const struct rt_elf *e, uint64_t table, uint64_t offset)
{
	uint64_t at = table + offset;

	if (at < table || at >= e->len || !memchr(e->bytes + at, '\0', e->len - at))
		return NULL;
	return (const char *)e->bytes + at;
}

/* Where in the file a virtual address is; false: in no segment that is loaded from it. */
static bool offset_of(const struct rt_elf *e, const Elf64_Ehdr *h, uint64_t address, uint64_t *offset)
{
	Elf64_Phdr p;

	for (uint32_t i = 0; i < h->e_phnum && take(e, &p, h->e_phoff + (uint64_t)i * sizeof(p), sizeof(p)); i++)
		if (p.p_type == PT_LOAD && address >= p.p_vaddr && address - p.p_vaddr < p.p_filesz) {
			*offset = p.p_offset + (address - p.p_vaddr);
			return true;
		}
	return false;
}

int rt_elf_parse(struct rt_elf *out, const void *bytes, size_t len)
{
	struct rt_elf e = { .bytes = bytes, .len = len };
	uint64_t strings = 0;
	Elf64_Ehdr h;
	Elf64_Phdr p;
	Elf64_Dyn d;

	if (!take(&e, &h, 0, sizeof(h)) || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
	    h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != EM_X86_64 || h.e_phentsize != sizeof(p) ||
	    h.e_phoff > len || (h.e_type != ET_EXEC && h.e_type != ET_DYN))
		return -ENOEXEC;
	for (uint32_t i = 0; i < h.e_phnum && take(&e, &p, h.e_phoff + (uint64_t)i * sizeof(p), sizeof(p)); i++) {
		if (p.p_type == PT_INTERP)
			e.interpreter = string_at(&e, p.p_offset, 0);
		if (p.p_type == PT_DYNAMIC && p.p_offset <= len && p.p_filesz <= len - p.p_offset) {
			e.dynamic = p.p_offset;
			e.n_dynamic = p.p_filesz / sizeof(d);
		}
	}
	for (size_t i = 0; i < e.n_dynamic; i++) {
		take(&e, &d, e.dynamic + i * sizeof(d), sizeof(d));
		if (d.d_tag == DT_NULL)
			e.n_dynamic = i;
		else if (d.d_tag == DT_STRTAB)
			strings = d.d_un.d_ptr;
	}
	if (!offset_of(&e, &h, strings, &e.strings))
		e.n_dynamic = 0;
	*out = e;
	return 0;
}

int rt_elf_open(struct rt_elf *out, const char *path)
{
	gw_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	void *bytes;
	int code;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size == 0)
		return -ENOEXEC;
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	code = rt_elf_parse(out, bytes, (size_t)st.st_size);
	if (code < 0)
		munmap(bytes, (size_t)st.st_size);
	else
		out->is_mapped = true;
	return code;
}

void rt_elf_close(struct rt_elf *e)
{
	if (e->is_mapped)
		munmap((void *)(uintptr_t)e->bytes, e->len);
	memset(e, 0, sizeof(*e));
}

const char *rt_elf_needed(const struct rt_elf *e, size_t i)
{
	Elf64_Dyn d;

	for (size_t k = 0; k < e->n_dynamic && take(e, &d, e->dynamic + k * sizeof(d), sizeof(d)); k++)
		if (d.d_tag == DT_NEEDED && i-- == 0)
			return string_at(e, e->strings, d.d_un.d_val);
	return NULL;
}

/* By the section headers: the dynamic section does not tell how many symbols there are. */
bool rt_elf_defines(const struct rt_elf *e, const char *symbol)
{
	Elf64_Ehdr h;
	Elf64_Shdr s, strings;
	Elf64_Sym sym;

	if (!take(e, &h, 0, sizeof(h)) || h.e_shentsize != sizeof(s))
		return false;
	for (uint32_t i = 0; i < h.e_shnum && take(e, &s, h.e_shoff + (uint64_t)i * sizeof(s), sizeof(s)); i++) {
		if (s.sh_type != SHT_DYNSYM || s.sh_link >= h.e_shnum ||
		    !take(e, &strings, h.e_shoff + (uint64_t)s.sh_link * sizeof(s), sizeof(s)))
			continue;
		for (uint64_t k = 0; k < s.sh_size / sizeof(sym) && take(e, &sym, s.sh_offset + k * sizeof(sym), sizeof(sym)); k++) {
			const char *name = sym.st_shndx == SHN_UNDEF ? NULL : string_at(e, strings.sh_offset, sym.st_name);

			if (name && strcmp(name, symbol) == 0)
				return true;
		}
	}
	return false;
}
