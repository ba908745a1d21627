# SPDX-License-Identifier: BSD-2-Clause
# tests/test_checkpoint: see driver/checkpoint.py
exec python3 "$top_srcdir"/tests/driver/checkpoint.py "$@"
