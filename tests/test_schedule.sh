# SPDX-License-Identifier: BSD-2-Clause
# tests/test_schedule: see driver/schedule.py
exec python3 "$top_srcdir"/tests/driver/schedule.py "$@"
