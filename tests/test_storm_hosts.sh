# SPDX-License-Identifier: BSD-2-Clause
# tests/test_storm_hosts: the storm over three hosts that this machine plays: no memory is shared between them, so messages
# go over the network, and a move changes the path of every channel of a rank. See driver/storm.py.
[ $# -gt 0 ] || set -- --moves 40 --ranks 4 --hosts 3 --clusters 3 --pace-ms 300 --seconds 120 --pairs
exec python3 "$top_srcdir"/tests/driver/storm.py "$@"
