# SPDX-License-Identifier: BSD-2-Clause
# tests/test_tools: see driver/tools.py
exec python3 "$top_srcdir"/tests/driver/tools.py "$@"
