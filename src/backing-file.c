/* SPDX-License-Identifier: MIT */
/* File-backed bytes: a real file, at the same offsets, with nothing kept in between. Whether
 * writing is allowed was settled when the descriptor was opened, with the rights of whoever asked
 * for it. */
#include "backing-fd.h"

#include "crew.h"
#include "util.h"

#include <sys/uio.h>

typedef struct {
    SfsFdBacking common;
    off_t offset, length; /* of a window; length 0: to the end of the file */
    GMutex end;           /* held while it is truncated, and while bytes are written back */
    GMutex appending;     /* held while it is appended to; protects the rest */
    GCond appended;
    guint turns; /* how often it was */
    off_t next;  /* where the kernel goes on after what was appended last; -1: it was cut */
} FileBacking;

/* How long the piece of a write that was sent before may be on its way, with nothing appended
 * meanwhile. When it is certain that there is one, unless somebody has cut the file past the mount;
 * and when it may as well be that somebody has appended. */
#define SURE_TURN_US (500 * G_TIME_SPAN_MILLISECOND)
#define TURN_US (10 * G_TIME_SPAN_MILLISECOND)

static FileBacking *
file(SfsBacking *backing)
{
    return (FileBacking *)backing;
}

/* Of what is written back, how much is below the end of the file, which this section does not lower
 * before it is written. Others, past the mount, cannot be kept from that: what they cut off in this
 * moment may come back. Who waits for the lock would wait in the kernel for the file's own. */
static size_t
begin_write_back(SfsBacking *backing, size_t size, off_t offset)
{
    g_mutex_lock(&file(backing)->end);
    return sfs_below_end(sfs_fd_backing_fd(backing), size, offset);
}

static void
end_write_back(SfsBacking *backing)
{
    g_mutex_unlock(&file(backing)->end);
}

static ssize_t
file_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    sfs_fd_may_wait(sfs_fd_backing_fd(backing), offset, size);
    return sfs_fd_backing_read(backing, buf, size, offset);
}

static ssize_t
file_read_quietly(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    sfs_crew_may_wait();
    return sfs_fd_backing_read_quietly(backing, buf, size, offset);
}

static ssize_t
file_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset)
{
    sfs_fd_may_wait(sfs_fd_backing_fd(backing), offset, size);
    return sfs_fd_backing_splice_read(backing, pipe, size, offset);
}

static ssize_t
file_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    int flags = (how & SFS_WRITE_APPEND ? RWF_APPEND : 0) |
                (how & SFS_WRITE_DATA_SYNC ? RWF_DSYNC : 0) | (how & SFS_WRITE_SYNC ? RWF_SYNC : 0);
    bool back = how & SFS_WRITE_BACK;
    struct iovec iov = {(void *)buf, size};
    ssize_t n;

    if (how & (SFS_WRITE_DATA_SYNC | SFS_WRITE_SYNC))
        sfs_crew_will_wait();
    else
        sfs_crew_may_wait();
    if (back)
        iov.iov_len = begin_write_back(backing, size, offset);
    do {
        n = pwritev2(sfs_fd_backing_fd(backing), &iov, 1, offset, flags);
    } while (n < 0 && errno == EINTR);
    n = n >= 0 ? n : -errno;
    if (back)
        end_write_back(backing);
    return n == (ssize_t)iov.iov_len ? (ssize_t)size : n;
}

static ssize_t
file_splice_write(SfsBacking *backing, int pipe, size_t size, off_t offset, unsigned how)
{
    bool back = how & SFS_WRITE_BACK;
    size_t fits = size;
    ssize_t n;

    sfs_crew_may_wait();
    if (back)
        fits = begin_write_back(backing, size, offset);
    n = sfs_splice_full(pipe, sfs_fd_backing_fd(backing), fits, offset);
    if (back)
        end_write_back(backing);
    return n == (ssize_t)fits ? (ssize_t)size : n;
}

/* What is written asynchronously (io_uring, libaio) comes in pieces of SFS_READER_MAX_WRITE, all of
 * them at once; one that appended itself before the one before it would be in its place. The end of
 * the file tells where a write begins only as long as nobody else appends, hence `next`. */
static void
file_begin_append(SfsBacking *backing, off_t offset)
{
    FileBacking *self = file(backing);
    struct stat st;

    if (!g_mutex_trylock(&self->appending)) {
        sfs_crew_will_wait();
        g_mutex_lock(&self->appending);
    }
    while (offset != self->next && backing->ops->stat(backing, &st) == 0 && offset != st.st_size) {
        gint64 patience = offset > st.st_size ? SURE_TURN_US : TURN_US;
        guint turns = self->turns;

        sfs_crew_will_wait();
        /* From now on: those before it may take as long as their disk does. */
        if (!g_cond_wait_until(&self->appended, &self->appending,
                               g_get_monotonic_time() + patience) &&
            turns == self->turns)
            break;
    }
}

static void
file_end_append(SfsBacking *backing, off_t next)
{
    FileBacking *self = file(backing);

    self->next = next;
    self->turns++;
    g_cond_broadcast(&self->appended);
    g_mutex_unlock(&self->appending);
}

static int
file_truncate(SfsBacking *backing, off_t size)
{
    g_autoptr(GMutexLocker) locker = NULL;

    sfs_crew_will_wait();
    g_mutex_lock(&file(backing)->appending);
    file(backing)->next = -1;
    g_mutex_unlock(&file(backing)->appending);
    locker = g_mutex_locker_new(&file(backing)->end);
    return ftruncate(sfs_fd_backing_fd(backing), size) == 0 ? 0 : -errno;
}

static int
file_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    sfs_crew_will_wait();
    return fallocate(sfs_fd_backing_fd(backing), mode, offset, length) == 0 ? 0 : -errno;
}

static int
file_sync(SfsBacking *backing, bool data_only)
{
    int r;

    sfs_crew_will_wait();
    r = data_only ? fdatasync(sfs_fd_backing_fd(backing)) : fsync(sfs_fd_backing_fd(backing));
    return r == 0 ? 0 : -errno;
}

static void
file_free(SfsBacking *backing)
{
    close(sfs_fd_backing_fd(backing));
    g_mutex_clear(&file(backing)->end);
    g_mutex_clear(&file(backing)->appending);
    g_cond_clear(&file(backing)->appended);
    g_free(backing);
}

static const SfsBackingOps file_ops = {
    .kind = "file",
    .stat = sfs_fd_backing_stat,
    .read = file_read,
    .read_quietly = file_read_quietly,
    .splice_read = file_splice_read,
    .write = file_write,
    .splice_write = file_splice_write,
    .begin_append = file_begin_append,
    .end_append = file_end_append,
    .truncate = file_truncate,
    .allocate = file_allocate,
    .seek = sfs_fd_backing_seek,
    .sync = file_sync,
    .set_times = sfs_fd_backing_set_times,
    .data_fd = sfs_fd_backing_fd,
    .lock_fd = sfs_fd_backing_fd,
    .free = file_free,
};

static FileBacking *
new_backing(const SfsBackingOps *ops, int fd)
{
    FileBacking *new = g_new0(FileBacking, 1);

    sfs_backing_init(&new->common.base, ops);
    new->common.fd = fd;
    g_mutex_init(&new->end);
    g_mutex_init(&new->appending);
    g_cond_init(&new->appended);
    new->next = -1;
    return new;
}

SfsBacking *
sfs_backing_file_new(int fd)
{
    return &new_backing(&file_ops, fd)->common.base;
}

/* --- windows --------------------------------------------------------------------------------- */

/* How many of the bytes [offset, offset + size) of a window are in it, as far as its length goes.
 */
static uint64_t
within(const FileBacking *self, off_t offset, uint64_t size)
{
    off_t end = self->length != 0 ? self->length : INT64_MAX - self->offset;

    return offset >= end ? 0 : MIN(size, (uint64_t)(end - offset));
}

static int
window_stat(SfsBacking *backing, struct stat *st)
{
    const FileBacking *self = file(backing);
    int r = sfs_fd_backing_stat(backing, st);
    off_t size = MAX(st->st_size - self->offset, 0);

    if (r < 0)
        return r;
    st->st_size = self->length != 0 ? MIN(size, self->length) : size;
    st->st_blocks = MIN(st->st_blocks, (blkcnt_t)(sfs_page_round_up((uint64_t)st->st_size) / 512));
    return 0;
}

static ssize_t
window_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    const FileBacking *self = file(backing);

    size = (size_t)within(self, offset, size);
    return size > 0 ? file_read(backing, buf, size, self->offset + offset) : 0;
}

static ssize_t
window_read_quietly(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    const FileBacking *self = file(backing);

    size = (size_t)within(self, offset, size);
    return size > 0 ? file_read_quietly(backing, buf, size, self->offset + offset) : 0;
}

static ssize_t
window_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset)
{
    const FileBacking *self = file(backing);

    size = (size_t)within(self, offset, size);
    return size > 0 ? file_splice_read(backing, pipe, size, self->offset + offset) : 0;
}

static ssize_t
window_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    const FileBacking *self = file(backing);
    size_t fits = (size_t)within(self, offset, size);
    bool back = how & SFS_WRITE_BACK;
    ssize_t n;

    if (fits == 0)
        return size == 0 || back ? (ssize_t)size : -EFBIG;
    /* Only where the window goes to the end of the file is that end its own. */
    if (self->length != 0)
        how &= ~(unsigned)SFS_WRITE_APPEND;
    n = file_write(backing, buf, fits, self->offset + offset, how);
    return back && n == (ssize_t)fits ? (ssize_t)size : n;
}

static int
window_truncate(SfsBacking *backing, off_t size)
{
    const FileBacking *self = file(backing);
    struct stat st;
    int r = window_stat(backing, &st);

    if (r < 0 || size == st.st_size)
        return r;
    if (size < st.st_size)
        return -EPERM; /* its file is not shortened by it */
    return within(self, 0, (uint64_t)size) < (uint64_t)size
               ? -EFBIG
               : file_truncate(backing, self->offset + size);
}

static int
window_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    const FileBacking *self = file(backing);
    uint64_t fits = within(self, offset, (uint64_t)length);

    if (mode & FALLOC_FL_KEEP_SIZE && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        length = (off_t)fits; /* there is nothing beyond to take away */
    else if (fits < (uint64_t)length)
        return -EFBIG;
    return length > 0 ? file_allocate(backing, mode, self->offset + offset, length) : 0;
}

static off_t
window_seek(SfsBacking *backing, off_t offset, int whence)
{
    const FileBacking *self = file(backing);
    struct stat st;
    off_t at;
    int r = window_stat(backing, &st);

    if (r < 0)
        return r;
    if (offset < 0 || offset >= st.st_size)
        return -ENXIO;
    at = sfs_fd_backing_seek(backing, self->offset + offset, whence);
    if (at < 0)
        return at;
    at -= self->offset;
    if (at >= st.st_size)
        return whence == SEEK_HOLE ? st.st_size : -ENXIO;
    return at;
}

static const SfsBackingOps window_ops = {
    .kind = "file",
    .stat = window_stat,
    .read = window_read,
    .read_quietly = window_read_quietly,
    .splice_read = window_splice_read,
    .write = window_write,
    .begin_append = file_begin_append,
    .end_append = file_end_append,
    .truncate = window_truncate,
    .allocate = window_allocate,
    .seek = window_seek,
    .sync = file_sync,
    .set_times = sfs_fd_backing_set_times,
    .data_fd = NULL, /* the offsets differ */
    .lock_fd = sfs_fd_backing_fd,
    .free = file_free,
};

SfsBacking *
sfs_backing_window_new(int fd, off_t offset, off_t length)
{
    FileBacking *new = new_backing(&window_ops, fd);

    new->offset = offset;
    new->length = length;
    return &new->common.base;
}
