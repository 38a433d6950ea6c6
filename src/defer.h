/* SPDX-License-Identifier: MIT */
/*
 * Requests that may have to wait: for this very mount, or for other processes. They are done on
 * threads of their own, so that those that answer everything else are never among the ones that
 * wait.
 *
 * What is put off is the request as the kernel sent it; a waiting thread processes it from the
 * start, and there the operation finds that it may wait.
 */
#pragma once

#include "mount.h"

#include <fuse_lowlevel.h>

/* What for. Each has threads of its own: those of one sort may wait for one another. */
typedef enum {
    SFS_WAIT_PATH, /* a file is opened by a path that may lead through this mount */
    SFS_WAIT_VIEW, /* the kernel writes back what was stored to the base of a view */
    SFS_WAIT_HOLE, /* or to what was found to be a hole */
    SFS_WAIT_VERB, /* a view is gone through as a whole, or somebody else does that */
    SFS_WAIT_SCAN, /* /proc is looked through, or a close that was told of is waited for */
    SFS_WAIT_HELD, /* a thread of a dead worker is still at it: sfs_request_held() */
    SFS_WAITS,
} SfsWaitFor;

SfsDeferral *sfs_deferral_new(void);
/* False: some request is still waiting, for whatever it is, and uses the rooms. Else it is freed.
 */
bool sfs_deferral_free(SfsDeferral *deferral);

/* Processes a request on the calling thread; one that is held on another, once it is not. */
void sfs_defer_process(SfsMount *mount, const struct fuse_buf *buf);

/* True: the request is on its way to a thread that may wait, and the caller has nothing more to do
 * with it. False: this is such a thread. */
bool sfs_defer(fuse_req_t req, SfsWaitFor what);
