/* SPDX-License-Identifier: BSD-2-Clause */
/* The three messages that come before anything is proved, and a secret from standard input. */
#include "runtime/base/trust.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct gw_trust_msg m;
	uint8_t secret[GW_TRUST_SECRET];
	char *text = malloc(len + 1);

	for (int kind = GW_TRUST_GREET; kind <= GW_TRUST_PROOF; kind++) {
		struct gw_error why = { 0 };
		int code = gw_trust_parse(bytes, len, (enum gw_trust_kind)kind, &m, &why);

		if ((code < 0) != !!why.text[0] || (code > 0 && (len < sizeof(m) || m.kind != kind || strlen(m.build) >= sizeof(m.build))))
			abort();
	}
	if (!text)
		return 0;
	memcpy(text, bytes, len);
	text[len] = '\0';
	gw_trust_secret_parse(secret, text);
	free(text);
	return 0;
}
