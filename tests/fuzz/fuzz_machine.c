/* SPDX-License-Identifier: BSD-2-Clause */
/* Machine files: what is taken is a machine whose parts all can be asked for; what is not, is refused with a sentence. */
#include "runtime/balance/balance.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct gw_error why = { 0 };
	struct bal_machine *m = NULL;
	uint32_t n, compute = 0;

	if (bal_machine_parse(&m, (const char *)bytes, len, &why) < 0) {
		if (m || why.code >= 0 || !why.text[0])
			abort();
		return 0;
	}
	n = bal_machine_clusters(m);
	for (uint32_t c = 0; c < n; c++) {
		uint32_t service = bal_machine_service(m, c);

		compute += !bal_machine_is_service(m, c);
		if (bal_machine_cores(m, c) == 0 || (service != BAL_NONE && (service >= n || !bal_machine_is_service(m, service))))
			abort();
	}
	if (n == 0 || compute == 0 || compute != bal_machine_compute(m))
		abort();
	for (uint32_t c = 0; c < n && c < 64; c++) {
		struct bal_cluster two[2] = { { .number = c }, { .number = n - 1 - c % n } };
		struct bal_snapshot s = { .clusters = two, .nclusters = 2, .machine = m };

		if (bal_hops(&s, 0, 1) != bal_hops(&s, 1, 0) || (bal_hops(&s, 0, 1) == 0) != (two[0].number == two[1].number))
			abort();
	}
	bal_machine_destroy(m);
	return 0;
}
