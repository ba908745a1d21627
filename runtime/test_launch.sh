# SPDX-License-Identifier: BSD-2-Clause
# runtime/test_launch: see test_launch.py
exec python3 "$top_srcdir"/runtime/test_launch.py "$@"
