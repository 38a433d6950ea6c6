/* SPDX-License-Identifier: MIT */
/* The directory that is mounted on: looking at it without asking the filesystem itself, and taking
 * the mount off it. Used by keeper and worker, of which neither may touch the mount. */
#pragma once

#include "common.h"

/* Replaces @path, which has room for SFS_PATH_MAX bytes, by its absolute form; sees that it is a
 * directory, and takes off a dead mount (ENOTCONN) that a killed daemon may have left. FALSE and
 * one sentence otherwise. */
gboolean sfs_mountpoint_prepare(char *path, GError **error);

/* st_dev of the FUSE filesystem that is mounted at @path; 0 where there is none, or something else
 * on top of it. */
dev_t sfs_mountpoint_device(const char *path);

/* Takes the mount with this device off @path: names lead elsewhere at once, open files live on.
 * Does nothing where another is mounted there, or none. May wait for the filesystem. */
void sfs_mountpoint_detach(const char *path, dev_t device);

/* The same wherever it has been moved or bound to. @connection: that of this mount. Device numbers
 * are given out again at once, and what is found may be another's where the connection has ended.
 */
void sfs_mountpoint_detach_moved(dev_t device, int connection);

/* The same where nobody serves the mount any more; leaves one alone that is served. For the end,
 * when the mount found may be a successor of ours. */
void sfs_mountpoint_detach_dead(dev_t device);
