# SPDX-License-Identifier: BSD-2-Clause
# tests/test_guide: see driver/guide.py
exec python3 "$top_srcdir"/tests/driver/guide.py "$@"
