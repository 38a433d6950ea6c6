/* SPDX-License-Identifier: MIT */
/* What kinds of bytes that a descriptor reaches have in common: hooks for backings whose first
 * member is an SfsFdBacking. The descriptor is the kind's own to close. */
#pragma once

#include "backing.h"

typedef struct {
    SfsBacking base;
    int fd;
} SfsFdBacking;

static inline int
sfs_fd_backing_fd(SfsBacking *backing)
{
    return ((SfsFdBacking *)backing)->fd;
}

/* Before bytes of a file on a disk are read: others are let in unless they are in memory. */
void sfs_fd_may_wait(int fd, off_t offset, size_t size);

int sfs_fd_backing_stat(SfsBacking *backing, struct stat *st);
ssize_t sfs_fd_backing_read(SfsBacking *backing, void *buf, size_t size, off_t offset);
ssize_t sfs_fd_backing_read_quietly(SfsBacking *backing, void *buf, size_t size, off_t offset);
ssize_t sfs_fd_backing_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset);
off_t sfs_fd_backing_seek(SfsBacking *backing, off_t offset, int whence);
int sfs_fd_backing_set_times(SfsBacking *backing, const struct timespec times[2]);
