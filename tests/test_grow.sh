# SPDX-License-Identifier: BSD-2-Clause
# tests/test_grow: see driver/grow.py
exec python3 "$top_srcdir"/tests/driver/grow.py "$@"
