# SPDX-License-Identifier: BSD-2-Clause
# tests/test_hosts: see driver/remote.py
exec python3 "$top_srcdir"/tests/driver/remote.py "$@"
