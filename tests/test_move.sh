# SPDX-License-Identifier: BSD-2-Clause
# tests/test_move: see driver/move.py
exec python3 "$top_srcdir"/tests/driver/move.py "$@"
