/* SPDX-License-Identifier: MIT */
/*
 * What the files of locking share: lock.c, who holds what; lock-wait.c, who waits for it. For
 * nobody else.
 *
 * An SfsLockOwner is what one owner has locked of one backing. It lives in the table from its first
 * lock until it closes the file, and beyond that as long as somebody uses it, as its waiters do:
 * what they get after the close is to stay.
 *
 * The table's lock protects the table, who uses the owners, and what they have noted; it is not
 * held across the locking or lifting itself, which on a network's file system takes time. What is
 * noted of ranges serves only to tell who holds a lock; the kernel's word is what counts.
 *
 * The keeper has a duplicate of every description that locks are held by, so that they outlive the
 * worker; therefore closing does not lift them here, and is never meant to. Whose they are is in
 * the registry (SfsLockRec; flock_slot of a handle), on what ranges is asked of the kernel.
 */
#pragma once

#include "lock.h"

typedef struct {
    off_t start, end; /* end exclusive; INT64_MAX: to the end of the file, wherever that is */
    short type;       /* F_RDLCK or F_WRLCK */
} SfsLockRange;

typedef struct {
    const SfsBacking *backing; /* key, with id */
    uint64_t id;
    guint refs;
    SfsLocks *locks;
    uint32_t slot; /* of its record */
    SfsLockRec *rec;
    int fd;              /* the open file description that holds the locks */
    pid_t pid;           /* of the process that locked last */
    GArray *ranges;      /* of SfsLockRange, apart from each other */
    GHashTable *through; /* set of the handles that it locked through, each of which knows it */
} SfsLockOwner;

struct SfsLocks {
    SfsRegistry *registry;
    int link;
    GMutex lock;
    GHashTable *owners;
    GHashTable *closing; /* set of the handles with locks of which a descriptor was closed */
    GHashTable *waits;   /* set of the SfsLockWait for record locks that are under way */
    GThreadPool *wakers;
    atomic_uint waiters;
};

/* --- lock.c: who holds what ------------------------------------------------------------------ */

/* The owner, made if need be; a reference for the caller. 0 or a negative errno. */
int sfs_lock_owner_need(SfsLocks *locks, SfsHandle *handle, uint64_t id, SfsLockOwner **out);

/* Table not locked. */
void sfs_lock_owner_unref(gpointer owner);

/* Notes what the kernel has just done for it, through the handle. Table not locked. */
void sfs_lock_owner_note(SfsLockOwner *owner, SfsHandle *handle, const struct flock *lock);

/* An owner other than @id who holds a lock that is in the way of @lock; NULL: none of ours. Table
 * locked. */
const SfsLockOwner *sfs_lock_holder(SfsLocks *locks, const SfsBacking *backing, uint64_t id,
                                    const struct flock *lock);

/* The handle's own description, for flock(2), or a negative errno. The handle's; table not locked.
 */
int sfs_lock_flock_fd(SfsLocks *locks, SfsHandle *handle);

/* --- lock-wait.c: who waits for it ----------------------------------------------------------- */

void sfs_lock_waits_init(SfsLocks *locks);
void sfs_lock_waits_clear(SfsLocks *locks);
