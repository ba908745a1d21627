# SPDX-License-Identifier: BSD-2-Clause
# mpi-shim: the libfabric provider "godwit", a module that MPICH's libfabric loads from FI_PROVIDER_PATH; the wrappers;
# the script that builds MPICH.
noinst_LTLIBRARIES += libshim.la
libshim_la_SOURCES = %D%/shim.h %D%/match.h %D%/direct.h %D%/prov.c %D%/domain.c %D%/av.c %D%/cq.c %D%/ep.c %D%/tagged.c %D%/msg.c \
	%D%/rma.h %D%/mr.c %D%/rma.c %D%/atomic.c %D%/atomic_ops.c %D%/hold.c %D%/patience.c %D%/match.c \
	%D%/interface.h %D%/interface.c
libshim_la_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
libshim_la_LIBADD = libnoc.la libct-rank.la libgw-base.la

# One library for all that runs inside a rank, so that a program that uses noc.h and MPI has one member, one agent and one
# gate: libgodwit.so is what programs link for noc.h, and libgodwit-fi.so, a link to the same file (the loader knows a
# file by its inode), is what libfabric loads. noc/fabric.c calls the core providers of the same libfabric.
lib_LTLIBRARIES += libgodwit.la
libgodwit_la_SOURCES =
libgodwit_la_LDFLAGS = $(AM_LDFLAGS) -shared -version-info 0:0:0 -Wl,-rpath,$(MPICH_PREFIX)/lib
libgodwit_la_LIBADD = libshim.la libnoc-fabric.la $(FABRIC_LIBS) $(SODIUM_LIBS) -lpthread

all-local: .libs/libgodwit-fi.so
.libs/libgodwit-fi.so: libgodwit.la
	$(AM_V_GEN)ln -sf libgodwit.so.0 $@
GW_INSTALL_HOOKS += install-provider
GW_UNINSTALL_HOOKS += uninstall-provider
.PHONY: install-provider uninstall-provider
install-provider:
	$(MKDIR_P) $(DESTDIR)$(pkglibdir)
	$(LN_S) -f ../libgodwit.so.0 $(DESTDIR)$(pkglibdir)/libgodwit-fi.so
uninstall-provider:
	rm -f $(DESTDIR)$(pkglibdir)/libgodwit-fi.so

# MPICH's libraries under the names that Debian's wrappers link with: libraries without contents that need ours. mpirun puts
# them first (runtime/launcher/libraries.c). They find ours by DT_RPATH, so that no LD_LIBRARY_PATH comes between.
GW_STUBS = .libs/abi/libmpich.so.12
if GW_HAVE_FORTRAN
GW_STUBS += .libs/abi/libmpichfort.so.12
endif
if GW_HAVE_CXX
GW_STUBS += .libs/abi/libmpichcxx.so.12
endif
all-local: $(GW_STUBS)
.libs/abi/libmpich.so.12: GW_STUB_NEEDS = -lmpi
.libs/abi/libmpichfort.so.12: GW_STUB_NEEDS = -lmpifort -lmpi
.libs/abi/libmpichcxx.so.12: GW_STUB_NEEDS = -lmpicxx -lmpi
$(GW_STUBS): Makefile
	$(AM_V_GEN)$(MKDIR_P) .libs/abi && $(CC) -shared -nostdlib -x c /dev/null -x none -o $@ -Wl,-soname,$(@F) \
		-Wl,--no-as-needed,--disable-new-dtags,-rpath,$(MPICH_PREFIX)/lib,-z,noseparate-code,-z,norelro \
		-L$(MPICH_PREFIX)/lib $(GW_STUB_NEEDS)
GW_INSTALL_HOOKS += install-stubs
GW_UNINSTALL_HOOKS += uninstall-stubs
.PHONY: install-stubs uninstall-stubs
install-stubs: $(GW_STUBS)
	$(MKDIR_P) $(DESTDIR)$(pkglibdir)/abi
	$(INSTALL_PROGRAM) $(GW_STUBS) $(DESTDIR)$(pkglibdir)/abi
uninstall-stubs:
	rm -rf $(DESTDIR)$(pkglibdir)/abi

# Where that MPICH is, for who has to compare or preload it; a new date only when it says something new.
BUILT_SOURCES += mpi-shim/prefix.h
CLEANFILES += mpi-shim/prefix.h
mpi-shim/prefix.h: Makefile
	$(AM_V_GEN)$(MKDIR_P) mpi-shim && echo '#define GODWIT_MPICH_PREFIX "$(MPICH_PREFIX)"' > $@.tmp && \
		if cmp -s $@.tmp $@; then rm $@.tmp; else mv $@.tmp $@; fi

# The calls of godwit.h, linked into programs. Static and without an MPI of its own, so that a program that makes them runs under
# other MPIs too: a shared library would have to be there, and be found, on machines that have no Godwit. With weak symbols alone
# each call would have to be looked at before it is made.
lib_LIBRARIES = libgodwit_mpix.a
libgodwit_mpix_a_SOURCES = %D%/mpix.c %D%/mpix_f.c
libgodwit_mpix_a_CPPFLAGS = $(AM_CPPFLAGS) $(MPI_CPPFLAGS)
libgodwit_mpix_a_CFLAGS = $(AM_CFLAGS) -fPIC
include_HEADERS += %D%/godwit.h %D%/godwitf.h
dist_man_MANS += doc/godwit.3
EXTRA_DIST += doc/interface.md

# The compiler wrappers: usable from the build directory and installed.
GW_WRAPPERS = mpicc
if GW_HAVE_CXX
GW_WRAPPERS += mpicxx mpic++
endif
if GW_HAVE_FORTRAN
GW_WRAPPERS += mpifort mpif77 mpif90
endif
bin_SCRIPTS += $(GW_WRAPPERS)
CLEANFILES += $(GW_WRAPPERS)
EXTRA_DIST += doc/provider.md %D%/wrapper.in %D%/mpich/build-mpich %D%/mpich/recipe
$(GW_WRAPPERS): $(srcdir)/%D%/wrapper.in Makefile
	$(AM_V_GEN)$(SED) -e 's|@tool[@]|$@|g' -e 's|@MPICH_PREFIX[@]|$(MPICH_PREFIX)|g' -e 's|@source[@]|$(abs_top_srcdir)|g' \
		-e 's|@includedir[@]|$(includedir)|g' -e 's|@libdir[@]|$(libdir)|g' $(srcdir)/%D%/wrapper.in > $@.tmp && chmod +x $@.tmp && mv $@.tmp $@

# pkg-config files: mpich, as programs for MPICH ask for it, and godwit for noc.h.
pkgconfigdir = $(libdir)/pkgconfig
GW_PKGCONFIG = pkgconfig/mpich.pc pkgconfig/godwit.pc pkgconfig/godwit-mpix.pc
pkgconfig_DATA = $(GW_PKGCONFIG)
CLEANFILES += $(GW_PKGCONFIG)
EXTRA_DIST += %D%/mpich.pc.in %D%/godwit.pc.in %D%/godwit-mpix.pc.in
$(GW_PKGCONFIG): $(srcdir)/%D%/mpich.pc.in $(srcdir)/%D%/godwit.pc.in $(srcdir)/%D%/godwit-mpix.pc.in Makefile
	$(AM_V_GEN)$(MKDIR_P) pkgconfig && $(SED) -e 's|@MPICH_PREFIX[@]|$(MPICH_PREFIX)|g' -e 's|@MPICH_VERSION[@]|$(MPICH_VERSION)|' \
		-e 's|@prefix[@]|$(prefix)|' -e 's|@exec_prefix[@]|$(exec_prefix)|' -e 's|@libdir[@]|$(libdir)|' \
		-e 's|@includedir[@]|$(includedir)|' -e 's|@PACKAGE_VERSION[@]|$(PACKAGE_VERSION)|' \
		$(srcdir)/%D%/$(@F).in > $@.tmp && mv $@.tmp $@

check_PROGRAMS += %D%/test_match %D%/test_provider %D%/test_atomic
TESTS += %D%/test_match %D%/test_provider %D%/test_atomic
%C%_test_match_SOURCES = %D%/test_match.c
%C%_test_match_LDADD = libshim.la
%C%_test_atomic_SOURCES = %D%/test_atomic.c %D%/test_shim.h
%C%_test_atomic_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_test_atomic_LDADD = libshim.la
%C%_test_provider_SOURCES = %D%/test_provider.c %D%/test_shim.h
%C%_test_provider_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_test_provider_LDADD = libshim.la

# How many instructions a small message takes, with the gate and without: doc/performance.md
EXTRA_PROGRAMS += %D%/count %D%/count_open
%C%_count_SOURCES = %D%/count.c %D%/test_shim.h
%C%_count_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_count_LDADD = libshim.la
%C%_count_open_SOURCES = %D%/count.c %D%/test_shim.h %D%/tagged.c %D%/cq.c
%C%_count_open_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS) -DCT_NO_GATE
%C%_count_open_LDADD = libshim.la
.PHONY: count-instructions
count-instructions: %D%/count %D%/count_open
	for p in count count_open; do \
		echo $$p; valgrind -q --tool=callgrind --toggle-collect=pairs --callgrind-out-file=%D%/$$p.callgrind %D%/$$p && \
		callgrind_annotate --auto=no --threshold=99 %D%/$$p.callgrind | grep -aE 'TOTALS|:[a-z_]+ ' || exit 1; \
	done

# The user area beside the heap: tests/bench/area.py
EXTRA_PROGRAMS += %D%/area_bench %D%/area_heap_bench
%C%_area_bench_SOURCES = %D%/area_bench.c %D%/test_shim.h
%C%_area_bench_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_area_bench_LDADD = libshim.la
%C%_area_bench_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=ct_area_alloc
%C%_area_heap_bench_SOURCES = %D%/area_bench.c %D%/test_shim.h %D%/area_heap.c
%C%_area_heap_bench_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
%C%_area_heap_bench_LDADD = libshim.la
%C%_area_heap_bench_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=ct_area_alloc
CLEANFILES += %D%/area_bench %D%/area_heap_bench
CLEANFILES += %D%/count %D%/count_open %D%/count.callgrind %D%/count_open.callgrind
