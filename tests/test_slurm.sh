# SPDX-License-Identifier: BSD-2-Clause
# tests/test_slurm: see driver/slurm.py
exec python3 "$top_srcdir"/tests/driver/slurm.py "$@"
