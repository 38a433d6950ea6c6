/* SPDX-License-Identifier: MIT */
/* The operations table for libfuse: decode, check, call, reply exactly once. No policy. */
#pragma once

#include "mount.h"

#include <fuse_lowlevel.h>

/* All operations but init, which is the worker's own. The session's userdata is the SfsMount. */
const struct fuse_lowlevel_ops *sfs_ops(void);
