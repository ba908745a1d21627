# SPDX-License-Identifier: BSD-2-Clause
# tests/test_rig: see driver/hosts.py
exec python3 "$top_srcdir"/tests/driver/hosts.py "$@"
