# SPDX-License-Identifier: BSD-2-Clause
# tests/test_pool_hosts: see driver/pool_hosts.py
exec python3 "$top_srcdir"/tests/driver/pool_hosts.py "$@"
