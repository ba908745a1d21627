# SPDX-License-Identifier: BSD-2-Clause
# tests/test_faults: see driver/faults.py
exec python3 "$top_srcdir"/tests/driver/faults.py "$@"
