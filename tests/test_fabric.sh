# SPDX-License-Identifier: BSD-2-Clause
# tests/test_fabric: see driver/fabric.py
exec python3 "$top_srcdir"/tests/driver/fabric.py "$@"
