# SPDX-License-Identifier: BSD-2-Clause
# tests/test_denied: see driver/denied.py
exec python3 "$top_srcdir"/tests/driver/denied.py "$@"
