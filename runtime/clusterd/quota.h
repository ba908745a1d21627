/* SPDX-License-Identifier: BSD-2-Clause */
/* How much processor time the control group of a process lets it have. */
#ifndef RT_CLUSTERD_QUOTA_H
#define RT_CLUSTERD_QUOTA_H

/**
 * quota_cores - processor seconds a second that the control group of a process, and those around it, allow; INFINITY: no limit
 * @proc: the process's directory, "/proc/self"
 * A container's or a batch system's limit (CFS bandwidth: cpu.max of control groups version 2, cpu.cfs_quota_us of version 1) is not
 * seen in the set of processors. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst.
 */
double quota_cores(const char *proc);

#endif
