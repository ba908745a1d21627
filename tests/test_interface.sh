# SPDX-License-Identifier: BSD-2-Clause
# tests/test_interface: see driver/interface.py
exec python3 "$top_srcdir"/tests/driver/interface.py "$@"
