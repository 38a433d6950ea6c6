/* SPDX-License-Identifier: MIT */
/* A process that was killed and does not end: what may still come of it. Asks /proc alone, and
 * allocates nothing. */
#pragma once

#include "common.h"

/* The state of a thread, a letter as in proc(5); 0: it is not to be found. */
char sfs_dying_state(pid_t pid, pid_t thread);

/* Whether some thread of it may still do something: all but those that the kernel has asleep for
 * good, from which no signal gets them. */
bool sfs_dying_is_active(pid_t pid);

/* The status that it will have, as waitpid(2) would give it; 0: it is not to be found. */
int sfs_dying_status(pid_t pid);
