/* SPDX-License-Identifier: MIT */
/*
 * What every room of the daemon may rely on: the page size, the closing descriptor, the state of
 * one configured mount. Nothing here does anything.
 */
#pragma once

#include "config.h"

#include "policy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* Copy-on-write works in pages of this size whatever the machine's own page size is: it is part
 * of what users see (a private page is 4096 bytes), not an implementation detail. */
#define SFS_PAGE_SIZE 4096u
#define SFS_PAGE_SHIFT 12

/* Names as the kernel's VFS limits them, in bytes without the final NUL. */
#define SFS_NAME_MAX 255
#define SFS_PATH_MAX 4096

/* A descriptor that closes itself at the end of its scope. -1 means none. (g_autofd needs a GLib
 * newer than the oldest this project supports.) */
static inline void
sfs_fd_clear(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
}
#define sfs_autofd __attribute__((cleanup(sfs_fd_clear))) int

/* Hands the descriptor out of its scope: the caller owns it from now on. */
static inline int
sfs_fd_steal(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

/* ~0 when a value was not given on the command line. */
#define SFS_UNSET UINT32_MAX

typedef enum {
    SFS_PASSTHROUGH_AUTO,
    SFS_PASSTHROUGH_ON,
    SFS_PASSTHROUGH_OFF,
} SfsPassthroughWish;

/*
 * One mount as its command line asked for it. Plain data without pointers, because it is copied
 * as it is into the registry, where every worker of the mount reads it. Written by options.c
 * before any process is forked, constant afterwards.
 */
typedef struct {
    char mountpoint[SFS_PATH_MAX]; /* absolute, symbolic links resolved */
    char fuse_options[2048];       /* for the kernel mount: "allow_other,nosuid,…" */
    uint64_t size;                 /* bytes the store may hold, 0: no limit */
    uint64_t nr_sections;          /* files, directories, links together, 0: registry's own limit */
    uint64_t text_limit;           /* bytes of attributes, long names, targets; 0: no limit */
    char sections_file[SFS_PATH_MAX]; /* absolute path of the list of sections, or empty */
    SfsPolicy policy;                 /* the root directory's */
    uint32_t root_mode;               /* permission bits of the root directory */
    uint32_t root_uid, root_gid;
    uint32_t drain_timeout; /* seconds that busy files may delay the end, 0: for ever */
    uint64_t cow_copy_max;  /* bytes up to which a view is a copy from the start */
    SfsPassthroughWish passthrough;
    bool foreground;
    bool debug;
    bool strict;     /* semantics=nt: an empty file backs no section */
    bool no_atime;   /* reading leaves no trace */
    bool reflink;    /* views may be clones on the disk of their file */
    bool allow_root; /* nobody but root and who mounted it */
} SfsConfig;
