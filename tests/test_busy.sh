# SPDX-License-Identifier: BSD-2-Clause
# tests/test_busy: see driver/busy.py
exec python3 "$top_srcdir"/tests/driver/busy.py "$@"
