# SPDX-License-Identifier: BSD-2-Clause
# tests/test_movable: see driver/movable.py
exec python3 "$top_srcdir"/tests/driver/movable.py "$@"
