# SPDX-License-Identifier: BSD-2-Clause
# tests/test_crowd: many ranks, and a storm of moves, on real hosts of a rig: see driver/crowd.py
exec python3 "$top_srcdir"/tests/driver/crowd.py "$@"
