/* SPDX-License-Identifier: MIT */
/*
 * FUSE passthrough: files whose reads, writes and mappings the kernel does itself, on a backing
 * file that was made known to it under a backing id.
 *
 * Three of the kernel's rules shape the callers: all handles of an inode that are open at one time
 * use the same id (so a node keeps one, as long as its descriptor); the kernel opens the backing
 * file anew with the flags of whoever opens ours and the rights of the daemon (so who may write is
 * decided before); and an inode in passthrough cannot at the same time be in the page cache (so the
 * mode of a node stays while any handle is open).
 */
#pragma once

#include "common.h"

/* Whether this process could register backing files, as far as can be said before trying; a reason
 * for people otherwise (static text). The kernel's word on it comes with INIT. */
bool sfs_passthrough_possible(const char **reason);

/* Makes the file open at @fd known to the connection at @device: the id (> 0), or -EPERM, -ELOOP
 * (it lies on too many stacked file systems), -EOPNOTSUPP, -ENOMEM. What the kernel reads, writes
 * and maps it will with the rights that @uid and @gid have: quotas, reserved room and set-id bits
 * are as if they wrote it. What comes to the daemon all the same (fallocate, copy_file_range,
 * commits, mediated handles) is done with the daemon's own. */
int sfs_passthrough_register(int device, int fd, uid_t uid, gid_t gid);

/*
 * Whether nobody else has the file open or mapped that @fd is on: a real open of it, not the
 * descriptor that memfd_create() returned. In passthrough the kernel releases a handle when it is
 * closed, though a mapping made through it goes on; the mapping keeps the file open, and so shows
 * here. (The descriptor's duplicates and its backing id are no other opens.) True only as long as
 * the caller keeps others from opening it.
 */
bool sfs_passthrough_sole_user(int fd);

/* Notes an id that was given: ids rise, so a later worker looks near the highest for those that no
 * record has come to name. */
static inline void
sfs_passthrough_note(_Atomic int32_t *last_id, int id)
{
    int32_t last = atomic_load(last_id);

    while (id > last && !atomic_compare_exchange_weak(last_id, &last, id))
        ;
}

/* Withdraws an id that no handle being opened will use. Handles that are open keep their file. */
void sfs_passthrough_unregister(int device, int backing_id);
