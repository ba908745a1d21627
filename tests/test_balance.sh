# SPDX-License-Identifier: BSD-2-Clause
# tests/test_balance: see driver/balance.py
exec python3 "$top_srcdir"/tests/driver/balance.py "$@"
