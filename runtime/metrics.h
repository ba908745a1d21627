/* SPDX-License-Identifier: BSD-2-Clause */
/* runtime: what a site's monitoring reads: status as text for Prometheus. For mpirun -metrics and godwit metrics. */
#ifndef RT_METRICS_H
#define RT_METRICS_H

#include <jansson.h>
#include <stddef.h>

/**
 * rt_metrics_text - @status of doc/monitoring.md in Prometheus's text format, version 0.0.4. Pure.
 * What is not known has no line. Return: heap; NULL: no memory
 */
char *rt_metrics_text(const json_t *status);

#endif
