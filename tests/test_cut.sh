# SPDX-License-Identifier: BSD-2-Clause
# tests/test_cut: see driver/cut.py
exec python3 "$top_srcdir"/tests/driver/cut.py "$@"
