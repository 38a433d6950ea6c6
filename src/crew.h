/* SPDX-License-Identifier: MIT */
/*
 * The threads that serve, and how many of them do so at a time.
 *
 * A thread has a seat while it waits for a request and while it works on one, and there are seats
 * for half of the processors: the other half is for those who ask. With more, each request wakes a
 * thread that has nothing to do before the one at work is done, and on two processors it is the
 * client that has to wait for its own (a fifth of the time that it takes to read a file in order).
 * NT's completion ports and the kernel's work queues count running threads for the same reason.
 *
 * So that no request waits for what another one waits for, a thread that is about to wait lets
 * somebody else have its seat, and does without until its request is done. What may take long says
 * so: sfs_crew_will_wait() if it often does (a file server, a flush), sfs_crew_may_wait() if it
 * mostly does not (reading). For all that does not say so, a watch takes the seat away from a
 * thread that has been at one request for ten milliseconds.
 */
#pragma once

#include "common.h"

typedef struct SfsCrew SfsCrew;

/* For at most @members threads that get their requests from @device; @seats 0: as above. It may end
 * up with a seat for each of them, if there is no thread to be had for the watch. */
SfsCrew *sfs_crew_new(int device, guint members, guint seats);

/* After all of its members have left. */
void sfs_crew_free(SfsCrew *crew);

/* --- for a thread that serves ---------------------------------------------------------------- */

/* It is a member from now on, without a seat. */
void sfs_crew_enter(SfsCrew *crew);
void sfs_crew_leave(void);

/* Waits until it has a seat: before it waits for a request. */
void sfs_crew_sit(void);

/* It has a request to work on. Nothing for a thread that is no member. */
void sfs_crew_work(void);

/* --- for whatever it calls; nothing for a thread that is no member, or has no seat ------------ */

/* What comes next takes long, as a rule: somebody else is let in. */
void sfs_crew_will_wait(void);

/* What comes next may take long. Letting somebody in costs as much as a read from a fast disk, so
 * that is done where there was somebody, now and then when it was not. */
void sfs_crew_may_wait(void);
