/* SPDX-License-Identifier: BSD-2-Clause */
/* The same as an ordinary user who may watch missing pages: CAP_SYS_PTRACE, and a /dev/userfaultfd that he may open. */
#define CT_TEST_UID 65534
#define CT_TEST_FETCHES 1
#include "container/test_fetch.c"
