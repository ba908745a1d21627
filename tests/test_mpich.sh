# SPDX-License-Identifier: BSD-2-Clause
# tests/test_mpich: MPICH's own suite; see driver/mpich.py. Without arguments a quick part of it, with moves, for make check.
have=
if [ $# -eq 0 ]; then
	set -- --names "$top_srcdir"/tests/mpich/quick --moves
	have=--have # make check fetches nothing
fi
if ! suite=$("$top_srcdir"/tests/mpich/suite $have 2>"${TMPDIR:-/tmp}/godwit-suite.$$"); then
	why=$(tail -n 1 "${TMPDIR:-/tmp}/godwit-suite.$$"); rm -f "${TMPDIR:-/tmp}/godwit-suite.$$"
	[ -n "$have" ] || { echo "Bail out! $why"; exit 1; }
	echo "1..0 # SKIP $why"; exit 0
fi
rm -f "${TMPDIR:-/tmp}/godwit-suite.$$"
exec python3 "$top_srcdir"/tests/driver/mpich.py --suite "$suite" "$@"
