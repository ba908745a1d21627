/* SPDX-License-Identifier: BSD-2-Clause */
/* A program with System V shared memory attached, a message queue, and semaphores that it is to give back when it ends. */
#include "container/victim.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void change(int set, unsigned short num, int by)
{
	struct sembuf op = { num, (short)by, SEM_UNDO };

	if (semop(set, &op, 1) < 0)
		say("bad semop: %s", strerror(errno));
}

/* @set: three semaphores of 1, 0 and 30000; after it has ended they hold that again */
int sysv(int set, int queue, int segment)
{
	struct { long type; char text[16]; } m = { 1, "waits" };
	unsigned char *shared = shmat(segment, NULL, 0);
	const unsigned char *seen = shmat(segment, NULL, SHM_RDONLY);
	pthread_t thread;
	unsigned round = 0;
	char line[64];

	if (shared == (void *)-1 || seen == (void *)-1)
		say("bad shmat: %s", strerror(errno));
	pthread_create(&thread, NULL, idle, NULL);
	change(set, 0, -1);
	change(set, 1, 3);
	change(set, 1, 4);
	change(set, 2, -20000);
	if (msgsnd(queue, &m, sizeof(m.text), 0) < 0)
		say("bad msgsnd: %s", strerror(errno));
	memset(shared, 9, 100);
	say("ready");
	while (hear(line, sizeof(line)) && strcmp(line, "end") != 0) {
		if (semctl(set, 0, GETVAL) != 0 || semctl(set, 1, GETVAL) != 7 || semctl(set, 2, GETVAL) != 10000)
			say("bad semaphores: %d %d %d", semctl(set, 0, GETVAL), semctl(set, 1, GETVAL), semctl(set, 2, GETVAL));
		if (msgrcv(queue, &m, sizeof(m.text), 0, IPC_NOWAIT) != (ssize_t)sizeof(m.text) || strcmp(m.text, "waits") != 0 ||
		    msgsnd(queue, &m, sizeof(m.text), 0) < 0)
			say("bad message queue: %s", strerror(errno));
		if (shared[round % 100] != 9 || seen[round % 100] != 9 || shared[100 + round] != round)
			say("bad shared memory: %u %u", shared[round % 100], shared[100 + round]); /* the last is written by somebody else */
		round++;
		change(set, 0, 1); /* it changes while it lives, too */
		change(set, 0, -1);
		say("ok %s", line);
	}
	if (shmdt(seen) < 0)
		say("bad shmdt: %s", strerror(errno));
	say("done");
	return 7;
}
