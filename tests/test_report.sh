# SPDX-License-Identifier: BSD-2-Clause
# tests/test_report: see driver/report.py
exec python3 "$top_srcdir"/tests/driver/report.py "$@"
