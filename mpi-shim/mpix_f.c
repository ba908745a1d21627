/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calls of godwit.h for Fortran: names in lower case with an underscore, arguments by reference, the lengths of strings behind
 * them, as gfortran, flang and ifort have it. godwitf.h declares them.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mpi-shim/godwit.h"

typedef int32_t fint; /* INTEGER, and LOGICAL: 0 and 1 */

void mpix_migratable_(fint *flag, fint *ierror);
void mpix_where_(fint *cluster, fint *host, fint *moves, fint *ierror);
void mpix_migrate_(const char *where, const fint *timeout_ms, fint *moved, fint *ierror, size_t len);
void mpix_why_(char *sentence, fint *ierror, size_t len);
void mpix_pin_(fint *ierror);
void mpix_unpin_(fint *ierror);
void mpix_load_(const double *processors, fint *ierror);
void mpix_moment_(fint *moved, fint *ierror);
typedef void before_f(const fint *why, fint *answer);
typedef void after_f(const fint *outcome);
void mpix_on_move_(before_f *before, after_f *after, fint *ierror);

void mpix_migratable_(fint *flag, fint *ierror)
{
	*ierror = MPIX_Migratable(flag);
}

void mpix_where_(fint *cluster, fint *host, fint *moves, fint *ierror)
{
	*ierror = MPIX_Where(cluster, host, moves);
}

void mpix_migrate_(const char *where, const fint *timeout_ms, fint *moved, fint *ierror, size_t len)
{
	char *text;

	while (len && where[len - 1] == ' ')
		len--;
	while (len && *where == ' ') {
		where++;
		len--;
	}
	text = strndup(where, len);
	*ierror = MPIX_Migrate(text ? text : "", *timeout_ms, moved);
	free(text);
}

void mpix_why_(char *sentence, fint *ierror, size_t len)
{
	char text[256] = "";
	size_t n;

	*ierror = MPIX_Why(text, (int)sizeof(text));
	n = strlen(text) < len ? strlen(text) : len;
	memcpy(sentence, text, n);
	memset(sentence + n, ' ', len - n);
}

void mpix_pin_(fint *ierror)
{
	*ierror = MPIX_Pin();
}

void mpix_unpin_(fint *ierror)
{
	*ierror = MPIX_Unpin();
}

void mpix_load_(const double *processors, fint *ierror)
{
	*ierror = MPIX_Load(*processors);
}

void mpix_moment_(fint *moved, fint *ierror)
{
	*ierror = MPIX_Moment(moved);
}

static before_f *before_in_fortran; /* process-wide, as there is one pair of hooks; set while none is */
static after_f *after_in_fortran;

static int call_before(int why, void *arg)
{
	fint reason = why, answer = 0;

	(void)arg;
	before_in_fortran(&reason, &answer);
	return answer;
}

static void call_after(int outcome, void *arg)
{
	fint how = outcome;

	(void)arg;
	after_in_fortran(&how);
}

void mpix_on_move_(before_f *before, after_f *after, fint *ierror)
{
	*ierror = MPIX_On_move(NULL, NULL, NULL);
	if (*ierror)
		return;
	before_in_fortran = before;
	after_in_fortran = after;
	*ierror = MPIX_On_move(call_before, call_after, NULL);
}
