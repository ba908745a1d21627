# SPDX-License-Identifier: BSD-2-Clause
# tests/test_storm: see driver/storm.py; without arguments the short one of make check
[ $# -gt 0 ] || set -- --moves 60
exec python3 "$top_srcdir"/tests/driver/storm.py "$@"
