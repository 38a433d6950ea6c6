/* SPDX-License-Identifier: MIT */
/* The operations table for libfuse: decode, check, call, reply exactly once. No policy. */
#pragma once

#include "mount.h"

#include <fuse_lowlevel.h>

/* All operations but init, which is the worker's own. The session's userdata is the SfsMount. */
const struct fuse_lowlevel_ops *sfs_ops(void);

/* Starts the thread pools for requests that may have to wait on the mount itself. */
void sfs_ops_start(SfsMount *mount);
/* Stops them. False: some request is still waiting, for whatever it is, and uses the rooms. */
bool sfs_ops_stop(SfsMount *mount);
