/* SPDX-License-Identifier: BSD-2-Clause */
/* What atomic operations do to memory: every datatype and operation that MPI asks for, element by element. */
#include <complex.h>

#include "mpi-shim/rma.h"

size_t shim_atomic_size(enum fi_datatype type)
{
	static const uint8_t sizes[] = {
		[FI_INT8] = 1, [FI_UINT8] = 1, [FI_INT16] = 2, [FI_UINT16] = 2, [FI_INT32] = 4, [FI_UINT32] = 4,
		[FI_INT64] = 8, [FI_UINT64] = 8, [FI_FLOAT] = sizeof(float), [FI_DOUBLE] = sizeof(double),
		[FI_FLOAT_COMPLEX] = sizeof(float complex), [FI_DOUBLE_COMPLEX] = sizeof(double complex),
		[FI_LONG_DOUBLE] = sizeof(long double), [FI_LONG_DOUBLE_COMPLEX] = sizeof(long double complex),
	};

	return (unsigned)type < GW_ARRAY_LEN(sizes) ? sizes[type] : 0;
}

bool shim_atomic_is_valid(enum fi_datatype type, enum fi_op op, enum shim_atomic_kind kind)
{
	bool is_complex = type == FI_FLOAT_COMPLEX || type == FI_DOUBLE_COMPLEX || type == FI_LONG_DOUBLE_COMPLEX;
	bool is_real = type == FI_FLOAT || type == FI_DOUBLE || type == FI_LONG_DOUBLE;

	if (!shim_atomic_size(type))
		return false;
	switch (op) {
	case FI_SUM:
	case FI_PROD:
	case FI_ATOMIC_WRITE:
		return kind != SHIM_ATOMIC_COMPARE;
	case FI_ATOMIC_READ:
		return kind == SHIM_ATOMIC_FETCH;
	case FI_MIN:
	case FI_MAX:
	case FI_LOR:
	case FI_LAND:
	case FI_LXOR:
		return kind != SHIM_ATOMIC_COMPARE && !is_complex;
	case FI_BOR:
	case FI_BAND:
	case FI_BXOR:
		return kind != SHIM_ATOMIC_COMPARE && !is_complex && !is_real;
	case FI_CSWAP:
		return kind == SHIM_ATOMIC_COMPARE && !is_complex && !is_real;
	default:
		return false;
	}
}

/* One function for each datatype. Its elements may lie anywhere. Several at a time where the compiler can: gcc does so from -O3 on
 * only, and long accumulates are nothing else than these loops. */
#ifndef __clang__
#pragma GCC optimize("O3")
#endif
#define EACH(expression) \
	if (o) { \
		for (size_t i = 0; i < n; i++) { \
			T is = d[i], by = s[i]; \
			o[i] = is; \
			d[i] = (T)(expression); \
		} \
	} else { \
		for (size_t i = 0; i < n; i++) { \
			T is = d[i], by = s[i]; \
			d[i] = (T)(expression); \
		} \
	} \
	break

#define CASES_OF_ALL \
	case FI_SUM: EACH(ADD(is, by)); \
	case FI_PROD: EACH(TIMES(is, by));
#define CASES_OF_ORDERED \
	case FI_MIN: EACH(is < by ? is : by); \
	case FI_MAX: EACH(is > by ? is : by); \
	case FI_LOR: EACH(is || by); \
	case FI_LAND: EACH(is && by); \
	case FI_LXOR: EACH(!is != !by);
#define CASES_OF_INTEGERS \
	case FI_BOR: EACH(is | by); \
	case FI_BAND: EACH(is & by); \
	case FI_BXOR: EACH(is ^ by); \
	case FI_CSWAP: EACH(is == c[i] ? by : is);

#define FUNCTION(name, type, cases) \
	static void name(enum fi_op op, void *dst, const void *src, const void *compare, void *old, size_t n) \
	{ \
		typedef type __attribute__((aligned(1), may_alias)) T; \
		T *d = dst, *o = old; \
		const T *s = src, *c = compare; \
		(void)c; \
		switch (op) { \
		cases \
		default: \
			break; \
		} \
	}

/* Signed numbers wrap, as the processor's do. */
#define ADD(a, b) ((uint64_t)(a) + (uint64_t)(b))
#define TIMES(a, b) ((uint64_t)(a) * (uint64_t)(b))
FUNCTION(apply_int8, int8_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_uint8, uint8_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_int16, int16_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_uint16, uint16_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_int32, int32_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_uint32, uint32_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_int64, int64_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
FUNCTION(apply_uint64, uint64_t, CASES_OF_ALL CASES_OF_ORDERED CASES_OF_INTEGERS)
#undef ADD
#undef TIMES
#define ADD(a, b) ((a) + (b))
#define TIMES(a, b) ((a) * (b))
FUNCTION(apply_float, float, CASES_OF_ALL CASES_OF_ORDERED)
FUNCTION(apply_double, double, CASES_OF_ALL CASES_OF_ORDERED)
FUNCTION(apply_long_double, long double, CASES_OF_ALL CASES_OF_ORDERED)
FUNCTION(apply_float_complex, float complex, CASES_OF_ALL)
FUNCTION(apply_double_complex, double complex, CASES_OF_ALL)
FUNCTION(apply_long_double_complex, long double complex, CASES_OF_ALL)

void shim_atomic_apply(enum fi_datatype type, enum fi_op op, void *dst, const void *src, const void *compare, void *old,
                       size_t n)
{
	static void (*const functions[])(enum fi_op, void *, const void *, const void *, void *, size_t) = {
		[FI_INT8] = apply_int8, [FI_UINT8] = apply_uint8, [FI_INT16] = apply_int16, [FI_UINT16] = apply_uint16,
		[FI_INT32] = apply_int32, [FI_UINT32] = apply_uint32, [FI_INT64] = apply_int64, [FI_UINT64] = apply_uint64,
		[FI_FLOAT] = apply_float, [FI_DOUBLE] = apply_double, [FI_LONG_DOUBLE] = apply_long_double,
		[FI_FLOAT_COMPLEX] = apply_float_complex, [FI_DOUBLE_COMPLEX] = apply_double_complex,
		[FI_LONG_DOUBLE_COMPLEX] = apply_long_double_complex,
	};
	size_t len = n * shim_atomic_size(type);

	if (op != FI_ATOMIC_READ && op != FI_ATOMIC_WRITE) {
		functions[type](op, dst, src, compare, old, n);
		return;
	}
	if (len == 8 && (uintptr_t)dst % 8 == 0) { /* not by bytes: the program may read it meanwhile */
		uint64_t word;

		if (old)
			memcpy(old, dst, 8);
		if (op == FI_ATOMIC_WRITE) {
			memcpy(&word, src, 8);
			__atomic_store_n((uint64_t *)dst, word, __ATOMIC_RELEASE);
		}
		return;
	}
	if (old)
		memcpy(old, dst, len);
	if (op == FI_ATOMIC_WRITE)
		memcpy(dst, src, len);
}
