# SPDX-License-Identifier: BSD-2-Clause
# tests/test_files: see driver/files.py
exec python3 "$top_srcdir"/tests/driver/files.py "$@"
