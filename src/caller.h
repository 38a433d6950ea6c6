/* SPDX-License-Identifier: MIT */
/*
 * Who asks, and opening real files with that one's rights and no others.
 *
 * A path that a client names is resolved from the client's own root directory, and opened with its
 * user, group, supplementary groups and capabilities, so that the daemon cannot be used to reach
 * what the client itself cannot. What /proc tells of the client is only believed where it is
 * consistent with what the kernel said in the request: a process that took over the number of a
 * dead client gets no groups and no other root from it. Capabilities
 * count only for root, and only in the daemon's own user namespace: in another anybody has all of
 * them.
 */
#pragma once

#include "common.h"

typedef struct {
    uid_t uid;
    gid_t gid;
    pid_t pid; /* of the thread, in the daemon's view; 0 where that does not see it */
} SfsCaller;

/* Whether @gid is the caller's group or among the supplementary ones. */
bool sfs_caller_in_group(const SfsCaller *caller, gid_t gid);

typedef enum {
    SFS_FILE_WRITE_IF_ALLOWED, /* else for reading alone */
    SFS_FILE_WRITE,
    SFS_FILE_READ,
} SfsFileAccess;

/*
 * Opens the regular file @path (absolute) for @caller: for reading, and as @access says for writing
 * (@writable tells). The descriptor's path was checked not to lie on
 * the device @own_dev, this mount itself.
 *
 * The descriptor, or -EINVAL (not absolute), -ENOENT, -ENOTDIR, -EACCES, -ELOOP (on this mount, or
 * too many links), -ENODEV (not a regular file, or on a file
 * system of the kernel's own or of FUSE), -EPERM (the daemon may not take on this caller),
 * or what open(2) says. Blocks as open(2) may; it may ask this very mount while it resolves the
 * path, so it must not run on a thread that the mount needs for its answers.
 */
int sfs_caller_open_file(const SfsCaller *caller, const char *path, dev_t own_dev,
                         SfsFileAccess access, bool *writable);

/* Whether permission bits allow the caller what @want says: R_OK, W_OK or X_OK (for a directory).
 */
bool sfs_caller_may(const SfsCaller *caller, uid_t uid, gid_t gid, mode_t mode, int want);
