# SPDX-License-Identifier: BSD-2-Clause
# tests/test_examples: see driver/examples.py
exec python3 "$top_srcdir"/tests/driver/examples.py "$@"
