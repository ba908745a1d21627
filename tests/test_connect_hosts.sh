# SPDX-License-Identifier: BSD-2-Clause
# tests/test_connect_hosts: see driver/connect_hosts.py
exec python3 "$top_srcdir"/tests/driver/connect_hosts.py "$@"
