/* SPDX-License-Identifier: BSD-2-Clause */
/* A growing list of strings. */
#include <stdlib.h>

#include "runtime/launcher/options.h"

int strings_add(struct strings *s, const char *text)
{
	if (s->n + 2 > s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 16;
		char **bigger = realloc(s->list, cap * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		s->list = bigger;
		s->cap = cap;
	}
	s->list[s->n] = strdup(text);
	if (!s->list[s->n])
		return -ENOMEM;
	s->list[++s->n] = NULL;
	return 0;
}

void strings_fini(struct strings *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->list[i]);
	free(s->list);
	memset(s, 0, sizeof(*s));
}
