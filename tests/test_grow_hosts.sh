# SPDX-License-Identifier: BSD-2-Clause
# tests/test_grow_hosts: see driver/grow_hosts.py
exec python3 "$top_srcdir"/tests/driver/grow_hosts.py "$@"
