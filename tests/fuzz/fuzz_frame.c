/* SPDX-License-Identifier: BSD-2-Clause */
/* What comes from another rank: a frame is within the bounds of noc/net.h, or refused. */
#include "noc/local.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct noc_frame f;
	const void *payload;
	uint8_t sum = 0;

	if (noc_frame_parse(bytes, len, &f, &payload) < 0)
		return 0;
	for (uint32_t i = 0; i < f.len_here; i++)
		sum ^= ((const uint8_t *)payload)[i];
	if (f.len_here > NOC_FRAME_BYTES || f.port >= NOC_PORT_COUNT || (sum && !f.len_here))
		abort();
	return 0;
}
