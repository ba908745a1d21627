# SPDX-License-Identifier: BSD-2-Clause
# tests/test_wear: thousands of moves of one rank: see driver/wear.py
exec python3 "$top_srcdir"/tests/driver/wear.py "$@"
