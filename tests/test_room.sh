# SPDX-License-Identifier: BSD-2-Clause
# tests/test_room: see driver/room.py
exec python3 "$top_srcdir"/tests/driver/room.py "$@"
