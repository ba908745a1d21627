/* SPDX-License-Identifier: BSD-2-Clause */
/* What another daemon says of a move: heads, PREPARE, whose parts lie within the frame, and memory that it has packed. */
#include "migration/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static uint8_t sum_of(const void *bytes, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum ^= ((const uint8_t *)bytes)[i];
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct gw_error why = { 0 };
	struct mig_prepare p;
	struct mig_head head;
	uint8_t memory[65536];
	uint16_t type;
	int n = mig_unpack(bytes, len, memory, len % sizeof(memory), &type, &why);

	if (n > (int)(len % sizeof(memory)) || (n >= 0 && type != MIG_F_DATA && type != MIG_F_PAGES))
		abort();
	if (n > 0 && sum_of(memory, (size_t)n) == 1)
		return 0;
	if (mig_head_parse(bytes, len, &head, &why) < 0 || mig_prepare_parse(bytes, len, &p, &why) < 0)
		return 0;
	if (p.needs.blob_len + p.hints_len + p.question_len > len)
		abort();
	return (sum_of(p.needs.blob, p.needs.blob_len) ^ sum_of(p.hints, p.hints_len) ^ sum_of(p.question, p.question_len)) & 0;
}
