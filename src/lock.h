/* SPDX-License-Identifier: MIT */
/*
 * Advisory locks: POSIX record locks, OFD locks and flock(2).
 *
 * They are taken on the file that the bytes are in, by the kernel: on a file section that is the
 * real file, so a program that uses the section and one that uses the file exclude each other; on
 * page sections and copy-on-write views it is a file of the store.
 *
 * The daemon takes them for many owners, so each owner has an open file description of its own, and
 * the locks are OFD locks on that: they know ranges, and conflict with the POSIX locks of other
 * programs as with each other. Who looks at the real file's locks sees no process (pid -1). The
 * kernel does not notice processes that wait for each other in a ring then, so that is looked for
 * here, among the locks of this mount.
 *
 * The kernel tells of the last close of a handle after close(2) has returned. What was locked
 * through it by flock(2) or as OFD locks goes only then; so that nobody who knows of the close is
 * refused, a try waits a moment for a holder who has just closed a descriptor.
 *
 * Waiting for a lock never occupies a thread that serves requests: each waiter has one of its own,
 * of which there are at most SFS_LOCK_WAITERS_MAX.
 *
 * Functions return 0 or a negative errno: -EAGAIN (held by somebody else), -EDEADLK, -ENOLCK (no
 * more descriptors or waiters), -EINTR, -EBADF (the lock wants a file opened otherwise), -EINVAL.
 * All are thread-safe.
 * @owner is the kernel's name for whose lock it is: a process's open files, or an open file
 * description.
 */
#pragma once

#include "mount.h"
#include "section.h"

#define SFS_LOCK_WAITERS_MAX 1024

SfsLocks *sfs_locks_new(SfsRegistry *registry, int link);
/* Takes up the locks that a dead worker's clients hold. After the handles were. */
void sfs_locks_adopt(SfsMount *mount);
/* Whether nobody waits; and: nobody does. */
bool sfs_locks_idle(SfsLocks *locks);
void sfs_locks_free(SfsLocks *locks);

/* Finds who is in the way of @lock: it is overwritten by that lock, or its l_type by F_UNLCK. */
int sfs_lock_test(SfsMount *mount, SfsHandle *handle, uint64_t owner, struct flock *lock);

/* Sets or lifts, without waiting. */
int sfs_lock_set(SfsMount *mount, SfsHandle *handle, uint64_t owner, const struct flock *lock);
int sfs_lock_flock(SfsMount *mount, SfsHandle *handle, int operation);

/* The same, waiting. @done is called once, from another thread, with the result; it ends the wait's
 * life. */
typedef struct SfsLockWait SfsLockWait;
typedef void (*SfsLockDone)(int result, void *data);

/* Whether a lock that was refused may be free in a moment. */
bool sfs_lock_may_pass(SfsMount *mount, SfsHandle *handle);

/* A wait for a record lock, or with @lock NULL for a flock(2) @operation. Not begun yet.
 * @for_a_moment: it ends with -EAGAIN once who has closed is not the reason any more, or after
 * SFS_LOCK_MOMENT_US. */
#define SFS_LOCK_MOMENT_US 50000
SfsLockWait *sfs_lock_wait_new(SfsMount *mount, SfsHandle *handle, uint64_t owner,
                               const struct flock *lock, int operation, bool for_a_moment,
                               SfsLockDone done, void *data);
/* Begins it. */
void sfs_lock_wait_start(SfsLockWait *wait);
/* Has it end with -EINTR soon, if it has not ended. At any time before @done was called. */
void sfs_lock_wait_interrupt(SfsLockWait *wait);

/* @owner has closed a descriptor of the file: POSIX has its record locks go. */
void sfs_lock_closed(SfsMount *mount, SfsHandle *handle, uint64_t owner);

/* The handle's end: record locks made through it go with it (and flock(2)'s, when it is freed). */
void sfs_lock_release(SfsMount *mount, SfsHandle *handle);
