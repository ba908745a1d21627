# SPDX-License-Identifier: BSD-2-Clause
# tests/test_top: see driver/top.py. Debian's python has the terminal emulator (python3-pyte), another first in PATH may not.
python=python3
python3 -c 'import pyte' 2>/dev/null || { [ -x /usr/bin/python3 ] && python=/usr/bin/python3; }
exec "$python" "$top_srcdir"/tests/driver/top.py "$@"
