# SPDX-License-Identifier: BSD-2-Clause
# tests/test_abi: see driver/abi.py
exec python3 "$top_srcdir"/tests/driver/abi.py "$@"
