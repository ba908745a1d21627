# SPDX-License-Identifier: BSD-2-Clause
# tests/test_cold: see driver/cold.py
exec python3 "$top_srcdir"/tests/driver/cold.py "$@"
