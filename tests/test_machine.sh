# SPDX-License-Identifier: BSD-2-Clause
# tests/test_machine: see driver/machine.py
exec python3 "$top_srcdir"/tests/driver/machine.py "$@"
