/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes as hexadecimal digits, where they go inside JSON. */
#include "runtime/clusterd/clusterd.h"

#include <stdlib.h>

char *bytes_to_hex(const void *bytes, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = bytes;
	char *hex = malloc(2 * len + 1);

	for (size_t i = 0; hex && i < len; i++) {
		hex[2 * i] = digits[p[i] >> 4];
		hex[2 * i + 1] = digits[p[i] & 15];
	}
	if (hex)
		hex[2 * len] = '\0';
	return hex;
}

int bytes_from_hex(const char *hex, void **bytes, size_t *len)
{
	size_t n = strlen(hex);
	unsigned char *out;

	if (n % 2 || strspn(hex, "0123456789abcdef") != n)
		return -EPROTO;
	out = malloc(n / 2 + 1);
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		unsigned char digit = (unsigned char)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);

		out[i / 2] = (unsigned char)(i % 2 ? out[i / 2] | digit : digit << 4);
	}
	*bytes = out;
	*len = n / 2;
	return 0;
}
