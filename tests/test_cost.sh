# SPDX-License-Identifier: BSD-2-Clause
# tests/test_cost: see driver/cost.py
exec python3 "$top_srcdir"/tests/driver/cost.py "$@"
