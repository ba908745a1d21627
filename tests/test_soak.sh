# SPDX-License-Identifier: BSD-2-Clause
# tests/test_soak: see driver/soak.py; without arguments the short one of make check
exec python3 "$top_srcdir"/tests/driver/soak.py "$@"
