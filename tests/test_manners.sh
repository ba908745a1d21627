# SPDX-License-Identifier: BSD-2-Clause
# tests/test_manners: see driver/manners.py
exec python3 "$top_srcdir"/tests/driver/manners.py "$@"
