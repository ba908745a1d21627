# SPDX-License-Identifier: BSD-2-Clause
# tests/test_storm: see driver/storm.py
exec python3 "$top_srcdir"/tests/driver/storm.py --moves 60 "$@"
