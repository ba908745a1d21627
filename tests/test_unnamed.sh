# SPDX-License-Identifier: BSD-2-Clause
# tests/test_unnamed: see driver/unnamed.py
exec python3 "$top_srcdir"/tests/driver/unnamed.py "$@"
