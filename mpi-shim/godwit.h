/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * godwit.h: what an MPI program can say to, and ask of, the runtime that moves its ranks. All of it is optional.
 *
 * Godwit moves ranks of programs that know nothing of it. A program that does can ask to be moved, or to stay; say how much it has
 * to do, or that now is a good moment; learn where it is; and be called before and after a move.
 *
 * Godwit's mpicc, mpicxx and mpifort find this file and its library (libgodwit_mpix.a) by themselves. The library belongs to no MPI:
 * a program with these calls can be compiled with any other one's wrapper (-I..., -lgodwit_mpix), and under another runtime, or
 * without mpirun, each call does nothing and returns MPI_SUCCESS: MPIX_Migratable says 0, MPIX_Migrate says that the rank has
 * not moved.
 *
 * All calls are local: one rank makes them for itself, at any time between MPI_Init and MPI_Finalize, from any thread. A wrong
 * argument is MPI_ERR_ARG, a call at a wrong time MPI_ERR_OTHER; either goes to the error handler of MPI_COMM_SELF, like that of
 * any MPI call, and MPIX_Why has the sentence. That a rank could not be moved is no error.
 *
 * Fortran: include 'godwitf.h', and the same names with ierror at the end; doc/interface.md has both side by side.
 */
#ifndef GODWIT_H
#define GODWIT_H

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_INTERFACE 1 /* of this header; grows when calls are added */

/** MPIX_Migratable - *flag: 1 when Godwit runs this rank, so that the other calls do something; else 0 */
int MPIX_Migratable(int *flag);

/**
 * MPIX_Where - where this rank is. Costs no system call
 * @cluster: its number, as 'godwit status' shows it; -1: not under Godwit
 * @host: likewise; the name is MPI_Get_processor_name's
 * @moves: how often it has come to another cluster since MPI_Init
 * NULL: not wanted. When it moves at that moment each value is that before or that after.
 */
int MPIX_Where(int *cluster, int *host, int *moves);

/**
 * MPIX_Migrate - move this rank now, and wait for the end of it
 * @where: a cluster's number ("2"), a host's name ("node7"); "" or NULL: anywhere where fewer ranks share the processors
 * @timeout_ms: after that it is not begun any more; 0: after a minute
 * @moved: 1: it has moved; 0: it is where it was, and MPIX_Why has the reason
 * A number or name that the job does not have is a wrong argument. Other ranks need not take part.
 */
int MPIX_Migrate(const char *where, int timeout_ms, int *moved);

/** MPIX_Why - what was wrong with the last of these calls of this thread that failed, or why its last MPIX_Migrate left the rank where
 * it was; "" when that has moved it since
 * @sentence: at most @size bytes, with the NUL */
int MPIX_Why(char *sentence, int size);

/** MPIX_Pin, MPIX_Unpin - stay here, until MPIX_Unpin or 'godwit unpin'. When MPIX_Pin returns no move is under way */
int MPIX_Pin(void);
int MPIX_Unpin(void);

/**
 * MPIX_Load - how much this rank has to do, for whoever balances: instead of what is measured, until it is said again
 * @processors: that it keeps busy, waiting in MPI not counted: 0.5 is half of one. Negative: measure it again
 * Costs no system call. Ranks that expect work can say so before it shows.
 */
int MPIX_Load(double processors);

/**
 * MPIX_Moment - this is a good moment to be moved: little memory in use, nothing half done
 * @moved: 1: the rank has moved since the last MPIX_Moment, or just now; 0: not. NULL: not wanted
 * A few nanoseconds, unless a move waits for it: then it returns when that is over. A rank that has called it once is moved by
 * the balancer at such moments, unless none comes within 3 seconds.
 */
int MPIX_Moment(int *moved);

/* Why a hook is called: before ... */
#define MPIX_MOVE      1 /* the rank is about to move */
#define MPIX_REST      2 /* the job is about to be suspended, or written down (godwit suspend, checkpoint) */
/* ... and after */
#define MPIX_MOVED     1 /* it runs on another cluster now */
#define MPIX_STAYED    2 /* it runs where it was: the move was not possible, or the rest is over */
#define MPIX_RESTARTED 3 /* it goes on from a checkpoint: another job, perhaps other hosts */

typedef int MPIX_Before_function(int why, void *arg);
typedef void MPIX_After_function(int outcome, void *arg);

/**
 * MPIX_On_move - be called before and after a move
 * @before: return 0; anything else refuses a move (MPIX_MOVE only), which is told to whoever asked, with the number
 * @after: comes once for each @before, also for one that refused
 * NULL: nobody. The last call counts.
 *
 * Hooks run on a thread of the runtime, while those of the program go on. They must not call MPI, nor anything here but
 * MPIX_Where, MPIX_Load and MPIX_Migratable; may allocate and use locks, but none that is held where MPIX_On_move is called, which waits
 * until a hook that runs has returned; have all signals blocked and 64 KiB of stack; should take milliseconds: the move waits, and is
 * given up when a hook takes longer than its QUIESCE may (5 s).
 */
int MPIX_On_move(MPIX_Before_function *before, MPIX_After_function *after, void *arg);

#ifdef __cplusplus
}
#endif

#endif
