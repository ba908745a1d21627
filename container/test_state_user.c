/* SPDX-License-Identifier: BSD-2-Clause */
/* The tests of test_state.c as an ordinary user without privileges: root starts them and becomes nobody in particular. */
#define CT_TEST_UID 54321
#include "container/test_state.c"
