/* SPDX-License-Identifier: MIT */
/* File-backed bytes: a real file, at the same offsets, with nothing kept in between. Whether
 * writing is allowed was settled when the descriptor was opened, with the rights of whoever asked
 * for it. */
#include "backing.h"

#include "util.h"

#include <sys/uio.h>

typedef struct {
    SfsBacking base;
    int fd;
} FileBacking;

static int
file_fd(SfsBacking *backing)
{
    return ((FileBacking *)backing)->fd;
}

static int
file_stat(SfsBacking *backing, struct stat *st)
{
    struct stat own;

    if (fstat(file_fd(backing), &own) != 0)
        return -errno;
    st->st_size = own.st_size;
    st->st_blocks = own.st_blocks;
    st->st_atim = own.st_atim;
    st->st_mtim = own.st_mtim;
    st->st_ctim = own.st_ctim;
    return 0;
}

static ssize_t
file_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    return sfs_pread_full(file_fd(backing), buf, size, offset);
}

static ssize_t
file_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    struct iovec iov = {(void *)buf, size};
    ssize_t n;

    do {
        n = pwritev2(file_fd(backing), &iov, 1, offset, how & SFS_WRITE_APPEND ? RWF_APPEND : 0);
    } while (n < 0 && errno == EINTR);
    return n >= 0 ? n : -errno;
}

static int
file_truncate(SfsBacking *backing, off_t size)
{
    return ftruncate(file_fd(backing), size) == 0 ? 0 : -errno;
}

static int
file_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    return fallocate(file_fd(backing), mode, offset, length) == 0 ? 0 : -errno;
}

static off_t
file_seek(SfsBacking *backing, off_t offset, int whence)
{
    off_t at = lseek(file_fd(backing), offset, whence);

    return at >= 0 ? at : -errno;
}

static int
file_sync(SfsBacking *backing, bool data_only)
{
    int r = data_only ? fdatasync(file_fd(backing)) : fsync(file_fd(backing));

    return r == 0 ? 0 : -errno;
}

static int
file_set_times(SfsBacking *backing, const struct timespec times[2])
{
    return futimens(file_fd(backing), times) == 0 ? 0 : -errno;
}

static void
file_free(SfsBacking *backing)
{
    close(file_fd(backing));
    g_free(backing);
}

static const SfsBackingOps file_ops = {
    .kind = "file",
    .stat = file_stat,
    .read = file_read,
    .write = file_write,
    .truncate = file_truncate,
    .allocate = file_allocate,
    .seek = file_seek,
    .sync = file_sync,
    .set_times = file_set_times,
    .data_fd = file_fd,
    .lock_fd = file_fd,
    .free = file_free,
};

SfsBacking *
sfs_backing_file_new(int fd)
{
    FileBacking *new = g_new0(FileBacking, 1);

    sfs_backing_init(&new->base, &file_ops);
    new->fd = fd;
    return &new->base;
}
