# SPDX-License-Identifier: BSD-2-Clause
# tests/test_grow_storm: see driver/grow_storm.py; longer in 'make check-hosts'
exec python3 "$top_srcdir"/tests/driver/grow_storm.py "$@"
