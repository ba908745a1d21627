# SPDX-License-Identifier: BSD-2-Clause
# The protocol's models, searched by spin: make check-model. Not part of make check: it takes minutes.
EXTRA_DIST += %D%/check-model %D%/move.pml %D%/inbox.pml %D%/net.pml %D%/pool.pml %D%/names.pml

.PHONY: check-model
check-model:
	$(srcdir)/%D%/check-model
