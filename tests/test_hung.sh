# SPDX-License-Identifier: BSD-2-Clause
# tests/test_hung: see driver/hung.py
exec python3 "$top_srcdir"/tests/driver/hung.py "$@"
