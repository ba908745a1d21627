# SPDX-License-Identifier: BSD-2-Clause
# mpi-shim: the libfabric provider "godwit", a module that MPICH's libfabric loads from FI_PROVIDER_PATH; the wrappers;
# the script that builds MPICH.
# pkglib_LTLIBRARIES += libgodwit-fi.la
# libgodwit_fi_la_SOURCES = %D%/provider.c
# libgodwit_fi_la_CPPFLAGS = $(AM_CPPFLAGS) $(FABRIC_CPPFLAGS)
# libgodwit_fi_la_LDFLAGS = $(AM_LDFLAGS) -module -avoid-version -shared -export-symbols-regex '^fi_prov_ini$$'
# libgodwit_fi_la_LIBADD = libnoc.la libct-rank.la libgw-base.la $(FABRIC_LIBS)
