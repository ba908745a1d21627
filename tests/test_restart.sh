# SPDX-License-Identifier: BSD-2-Clause
# tests/test_restart: see driver/restart.py
exec python3 "$top_srcdir"/tests/driver/restart.py "$@"
