# SPDX-License-Identifier: BSD-2-Clause
# tests/test_launch: see driver/launch.py
exec python3 "$top_srcdir"/tests/driver/launch.py "$@"
