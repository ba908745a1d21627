# SPDX-License-Identifier: BSD-2-Clause
# tests/test_pool: see driver/pool.py
exec python3 "$top_srcdir"/tests/driver/pool.py "$@"
