# SPDX-License-Identifier: BSD-2-Clause
# runtime/test_moves: see test_moves.py
exec python3 "$top_srcdir"/runtime/test_moves.py "$@"
