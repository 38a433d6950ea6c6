/* SPDX-License-Identifier: MIT */
#include "backing-fd.h"

#include "crew.h"
#include "util.h"

#include <sys/syscall.h>

/* Linux 6.5; its number is the same everywhere. Older headers have neither this nor its structs. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

#define ASK_FROM ((size_t)32 << 10)

static bool
is_in_memory(int fd, off_t offset, size_t size)
{
    struct {
        uint64_t offset, length;
    } range = {(uint64_t)offset, size};
    struct {
        uint64_t cached, dirty, writeback, evicted, recently_evicted;
    } found;

    return size > 0 && syscall(SYS_cachestat, fd, &range, &found, 0) == 0 &&
           found.cached >= sfs_page_round_up(size) >> SFS_PAGE_SHIFT;
}

void
sfs_fd_may_wait(int fd, off_t offset, size_t size)
{
    /* For little, asking would cost more than it saves. Of large reads that come from a disk, as
     * when a file is read in order, several have to be under way. */
    if (size < ASK_FROM)
        sfs_crew_may_wait();
    else if (!is_in_memory(fd, offset, size))
        sfs_crew_will_wait();
}

int
sfs_fd_backing_stat(SfsBacking *backing, struct stat *st)
{
    struct stat own;

    if (fstat(sfs_fd_backing_fd(backing), &own) != 0)
        return -errno;
    st->st_size = own.st_size;
    st->st_blocks = own.st_blocks;
    st->st_atim = own.st_atim;
    st->st_mtim = own.st_mtim;
    st->st_ctim = own.st_ctim;
    return 0;
}

ssize_t
sfs_fd_backing_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    return sfs_pread_full(sfs_fd_backing_fd(backing), buf, size, offset);
}

ssize_t
sfs_fd_backing_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset)
{
    return sfs_splice_from(sfs_fd_backing_fd(backing), offset, pipe, size);
}

/* Leaving no trace is a property of a descriptor, and rarely asked for: one is opened each time.
 * Where it takes a privilege that is not there, for files of others, there is a trace. */
ssize_t
sfs_fd_backing_read_quietly(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    sfs_autofd quiet = -1;
    char path[32];

    g_snprintf(path, sizeof path, "/proc/self/fd/%d", sfs_fd_backing_fd(backing));
    quiet = open(path, O_RDONLY | O_NOATIME | O_CLOEXEC | O_NONBLOCK);
    return sfs_pread_full(quiet >= 0 ? quiet : sfs_fd_backing_fd(backing), buf, size, offset);
}

off_t
sfs_fd_backing_seek(SfsBacking *backing, off_t offset, int whence)
{
    off_t at = lseek(sfs_fd_backing_fd(backing), offset, whence);

    return at >= 0 ? at : -errno;
}

int
sfs_fd_backing_set_times(SfsBacking *backing, const struct timespec times[2])
{
    return futimens(sfs_fd_backing_fd(backing), times) == 0 ? 0 : -errno;
}
