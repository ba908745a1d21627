# SPDX-License-Identifier: BSD-2-Clause
# GW_MPICH: find the MPICH that Godwit runs on, and refuse one that cannot serve.
#
# Sets MPICH_PREFIX, MPICH_VERSION, MPI_CPPFLAGS, MPI_LIBS (to compile an MPI program), FABRIC_CPPFLAGS, FABRIC_LIBS (for the provider).
AC_DEFUN([GW_MPICH], [
AC_ARG_WITH([mpich], [AS_HELP_STRING([--with-mpich=PREFIX],
	[an MPICH built for ch4:ofi, and its libfabric @<:@the one that mpi-shim/mpich/build-mpich put into the cache@:>@])],
	[], [with_mpich=default])
AC_MSG_CHECKING([for an MPICH built for ch4:ofi])
gw_cache=${GODWIT_CACHE:-$HOME/.cache/godwit}
AS_CASE([$with_mpich],
	[yes|no], [AC_MSG_ERROR([--with-mpich needs a prefix: Godwit's ranks are MPICH processes])],
	[default], [
		MPICH_PREFIX=
		AS_IF([test -x "$srcdir/mpi-shim/mpich/build-mpich"],
			[MPICH_PREFIX=`"$srcdir/mpi-shim/mpich/build-mpich" --print-prefix 2>/dev/null`])
		AS_IF([test -z "$MPICH_PREFIX" || test ! -x "$MPICH_PREFIX/bin/mpichversion"], [MPICH_PREFIX=none])
		AS_IF([test ! -x "$MPICH_PREFIX/bin/mpichversion"], [
			AC_MSG_RESULT([no])
			AC_MSG_ERROR([there is no MPICH for Godwit in $gw_cache;
	build it once (about ten minutes):  $srcdir/mpi-shim/mpich/build-mpich
	or name one that is there:          --with-mpich=PREFIX])])],
	[MPICH_PREFIX=$with_mpich])

AS_IF([test ! -x "$MPICH_PREFIX/bin/mpichversion"], [
	AC_MSG_RESULT([no])
	AC_MSG_ERROR([no MPICH in '$MPICH_PREFIX': bin/mpichversion is missing])])
gw_mpich_says=`"$MPICH_PREFIX/bin/mpichversion" 2>/dev/null`
gw_mpich_device=`AS_ECHO(["$gw_mpich_says"]) | $SED -n 's/^MPICH Device:@<:@@<:@:space:@:>@@:>@*//p'`
MPICH_VERSION=`AS_ECHO(["$gw_mpich_says"]) | $SED -n 's/^MPICH Version:@<:@@<:@:space:@:>@@:>@*//p'`
AS_CASE([$gw_mpich_device],
	[ch4:ofi*], [],
	[AC_MSG_RESULT([no])
	AC_MSG_ERROR([the MPICH in '$MPICH_PREFIX' was built for '$gw_mpich_device'; Godwit is a libfabric provider and needs ch4:ofi
	(Debian's own mpich is ch4:ucx and cannot serve); build the right one once: $srcdir/mpi-shim/mpich/build-mpich])])
AC_MSG_RESULT([$MPICH_PREFIX ($gw_mpich_device)])

MPI_CPPFLAGS="-isystem $MPICH_PREFIX/include"
# gcc takes MPI_STATUSES_IGNORE, which is (MPI_Status *)1, for a real address and warns of it; clang has no such warning.
AC_MSG_CHECKING([whether $CC has -Wstringop-overflow])
gw_saved_CFLAGS=$CFLAGS
CFLAGS="$CFLAGS -Werror -Wstringop-overflow"
AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes])
	MPI_CPPFLAGS="$MPI_CPPFLAGS -Wno-stringop-overflow"], [AC_MSG_RESULT([no])])
CFLAGS=$gw_saved_CFLAGS
MPI_LIBS="-L$MPICH_PREFIX/lib -Wl,-rpath,$MPICH_PREFIX/lib -lmpi"
FABRIC_CPPFLAGS="-isystem $MPICH_PREFIX/include"
FABRIC_LIBS="-L$MPICH_PREFIX/lib -lfabric"
gw_saved_CPPFLAGS=$CPPFLAGS
CPPFLAGS="$CPPFLAGS $FABRIC_CPPFLAGS"
AC_CHECK_HEADER([rdma/providers/fi_prov.h], [], [AC_MSG_ERROR(
	[the libfabric of the MPICH in '$MPICH_PREFIX' has no rdma/providers/fi_prov.h there;
	install libfabric with its headers into the same prefix, or on Debian: apt-get install libfabric-dev])])
CPPFLAGS=$gw_saved_CPPFLAGS
AM_CONDITIONAL([GW_HAVE_CXX], [test -x "$MPICH_PREFIX/bin/mpicxx"])
AM_CONDITIONAL([GW_HAVE_FORTRAN], [test -x "$MPICH_PREFIX/bin/mpifort"])
AC_SUBST([MPICH_PREFIX])
AC_SUBST([MPICH_VERSION])
AC_SUBST([MPI_CPPFLAGS])
AC_SUBST([MPI_LIBS])
AC_SUBST([FABRIC_CPPFLAGS])
AC_SUBST([FABRIC_LIBS])
])
