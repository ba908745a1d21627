# SPDX-License-Identifier: BSD-2-Clause
# tests/test_programs: see driver/programs.py
exec python3 "$top_srcdir"/tests/driver/programs.py "$@"
