# SPDX-License-Identifier: BSD-2-Clause
# tests/test_spawn: see driver/spawn.py
exec python3 "$top_srcdir"/tests/driver/spawn.py "$@"
