/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processor features that all ranks of a job keep to, so that each of them may go to every host.
 *
 * Libraries choose their code when a program starts, by asking the processor. What can be told to choose as if it were
 * a lesser one is told so, in the environment. A program that asks the processor by itself cannot.
 */
#ifndef RT_BASELINE_H
#define RT_BASELINE_H

#include "container/cpu.h"
#include "runtime/launcher/options.h"

#define BASELINE_VARIABLE "GODWIT_CPU_BASELINE" /* for the daemon, which moves the rank, and for who looks: the names */

/**
 * baseline_environment - let a program with the environment @env keep to @baseline
 * What the user has said stays; in GLIBC_TUNABLES both are joined. Pure. Return: 0 or -ENOMEM.
 */
int baseline_environment(struct strings *env, const struct ct_cpu *baseline);

struct head;
struct cluster;
/** baseline_cluster_up - start the ranks of @c; in a job of several hosts when all have said what their processors are */
void baseline_cluster_up(struct head *h, struct cluster *c);
void baseline_cluster_lost(struct head *h); /* nobody waits for it any more */

#endif
