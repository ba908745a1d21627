# SPDX-License-Identifier: BSD-2-Clause
# tests/test_preempt: see driver/preempt.py
exec python3 "$top_srcdir"/tests/driver/preempt.py "$@"
