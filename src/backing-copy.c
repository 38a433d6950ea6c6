/* SPDX-License-Identifier: MIT */
/*
 * A view's bytes as a file of their own, which is the view's as a whole: a copy in the store, or a
 * clone on the disk of the base's file. The kernel can use such a file by itself, so all that comes
 * here is what passthrough leaves to the daemon.
 *
 * Its limits are enforced by whatever holds it: the store's tmpfs, or the file system of the clone.
 * So, unlike the overlay (backing-cow.c), it can refuse a store to a mapping of a hole.
 *
 * Nothing here changes after it was made; the file protects itself.
 */
#include "backing-fd.h"

#include "crew.h"
#include "keeper-link.h"
#include "util.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#define COPY_BUFFER ((off_t)256 << 10)

typedef struct {
    SfsBacking base;
    SfsBacking *of;     /* what it is a copy of, NULL: nothing */
    SfsStoreFile *file; /* NULL: a clone */
    int fd;             /* of the file, or of the clone, which we own */
    int link;
    uint32_t fd_slot; /* of a clone */
    SfsRegistry *registry;
    uint32_t slot;           /* of the record that is released with it, SFS_NO_SLOT: none yet */
    struct timespec made;    /* the file's ctime when it was made, */
    struct timespec changed; /* which means this of the view */
} CopyBacking;

static CopyBacking *
copy(SfsBacking *backing)
{
    return (CopyBacking *)backing;
}

static int
copy_fd(SfsBacking *backing)
{
    return copy(backing)->fd;
}

static int
copy_stat(SfsBacking *backing, struct stat *st)
{
    CopyBacking *self = copy(backing);
    struct stat own;

    if (fstat(self->fd, &own) != 0)
        return -errno;
    st->st_size = own.st_size;
    st->st_blocks = own.st_blocks;
    st->st_atim = own.st_atim;
    st->st_mtim = own.st_mtim;
    st->st_ctim = sfs_time_compare(own.st_ctim, self->made) == 0 ? self->changed : own.st_ctim;
    return 0;
}

/* Before it is read: a clone is on a disk. */
static void
may_wait(const CopyBacking *self, off_t offset, size_t size)
{
    if (self->file == NULL)
        sfs_fd_may_wait(self->fd, offset, size);
}

static ssize_t
copy_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    may_wait(copy(backing), offset, size);
    return sfs_pread_full(copy_fd(backing), buf, size, offset);
}

static ssize_t
copy_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset)
{
    may_wait(copy(backing), offset, size);
    return sfs_splice_from(copy_fd(backing), offset, pipe, size);
}

static ssize_t
copy_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    CopyBacking *self = copy(backing);
    int r;

    /* Nothing is ever written back to it: the kernel maps the file itself. */
    if (self->file != NULL)
        return sfs_store_file_write(self->file, buf, size, offset, false);
    sfs_crew_will_wait();
    r = sfs_pwrite_full(self->fd, buf, size, offset);
    return r < 0 ? r : (ssize_t)size;
}

static int
copy_truncate(SfsBacking *backing, off_t size)
{
    CopyBacking *self = copy(backing);

    if (self->file != NULL)
        return size > SFS_COW_SIZE_MAX ? -EFBIG : sfs_store_file_truncate(self->file, size);
    sfs_crew_will_wait();
    return ftruncate(self->fd, size) == 0 ? 0 : -errno;
}

/* Files of the store have no ZERO_RANGE, which views have: it makes a hole. */
static int
zero_range(CopyBacking *self, int mode, off_t offset, off_t length)
{
    struct stat st;
    int r = 0;

    if (!(mode & FALLOC_FL_KEEP_SIZE) && fstat(self->fd, &st) == 0 && st.st_size < offset + length)
        r = sfs_store_file_truncate(self->file, offset + length);
    if (r == 0)
        r = sfs_store_file_allocate(self->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                    length);
    return r;
}

static int
copy_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    CopyBacking *self = copy(backing);
    bool zeros = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);

    if (self->file == NULL) {
        sfs_crew_will_wait();
        return fallocate(self->fd, mode, offset, length) == 0 ? 0 : -errno;
    }
    /* As large as any view. */
    if (!(zeros && mode & FALLOC_FL_KEEP_SIZE) &&
        (offset >= SFS_COW_SIZE_MAX || length > SFS_COW_SIZE_MAX - offset))
        return -EFBIG;
    if (mode & FALLOC_FL_ZERO_RANGE)
        return zero_range(self, mode, offset, length);
    return sfs_store_file_allocate(self->file, mode, offset, length);
}

static off_t
copy_seek(SfsBacking *backing, off_t offset, int whence)
{
    off_t at = lseek(copy_fd(backing), offset, whence);

    return at >= 0 ? at : -errno;
}

static int
copy_set_times(SfsBacking *backing, const struct timespec times[2])
{
    return futimens(copy_fd(backing), times) == 0 ? 0 : -errno;
}

typedef struct {
    uint64_t start, end; /* in the file */
    uint64_t at;         /* on the disk */
    bool shared;         /* with some other file */
    bool encoded;        /* `at` is that of all that was compressed together */
} Extent;

/* The first extent of a file that ends after @from. What was not written to the disk yet is, first.
 */
static bool
next_extent(int fd, uint64_t from, Extent *found)
{
    struct {
        struct fiemap map;
        struct fiemap_extent extent;
    } ask = {.map = {.fm_start = from,
                     .fm_length = FIEMAP_MAX_OFFSET - from,
                     .fm_flags = FIEMAP_FLAG_SYNC,
                     .fm_extent_count = 1}};

    if (ioctl(fd, FS_IOC_FIEMAP, &ask) != 0 || ask.map.fm_mapped_extents == 0)
        return false;
    *found = (Extent){.start = ask.extent.fe_logical,
                      .end = ask.extent.fe_logical + ask.extent.fe_length,
                      .at = ask.extent.fe_physical,
                      .shared = ask.extent.fe_flags & FIEMAP_EXTENT_SHARED,
                      .encoded = ask.extent.fe_flags & FIEMAP_EXTENT_ENCODED};
    return true;
}

/* Bytes of a clone that it shares with no other file. */
static uint64_t
unshared_bytes(int fd)
{
    uint64_t total = 0;
    Extent extent = {0};

    while (next_extent(fd, extent.end, &extent))
        total += extent.shared ? 0 : extent.end - extent.start;
    return total;
}

static uint64_t
copy_private_bytes(SfsBacking *backing)
{
    CopyBacking *self = copy(backing);
    struct stat st;

    if (self->file == NULL)
        return unshared_bytes(self->fd);
    return fstat(self->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void
copy_free(SfsBacking *backing)
{
    CopyBacking *self = copy(backing);

    if (self->file != NULL) {
        sfs_store_file_free(self->file);
    } else {
        sfs_link_drop(self->link, self->registry, self->fd_slot);
        close(self->fd);
    }
    if (self->slot != SFS_NO_SLOT)
        sfs_registry_release(self->registry, SFS_TABLE_VIEWS, self->slot);
    sfs_backing_unref(self->of);
    g_free(self);
}

/* What is made of a base: a file that is new, or that of a copy, over what it holds. */
typedef struct {
    SfsStoreFile *file;
    SfsBacking *over; /* NULL: it is new, and so all zeros */
} Making;

static int
clear(const Making *made, off_t from, off_t end)
{
    return made->over != NULL ? sfs_backing_write_zeros(made->over, from, end) : 0;
}

static int
copy_range(const Making *made, SfsBacking *base, char *buffer, off_t at, off_t end)
{
    while (at < end) {
        ssize_t got = base->ops->read(base, buffer, (size_t)MIN(end - at, COPY_BUFFER), at), put;

        if (got < 0)
            return (int)got;
        if (got == 0)
            return clear(made, at, end); /* cut meanwhile */
        put = sfs_store_file_write(made->file, buffer, (size_t)got, at, false);
        if (put < got)
            return put < 0 ? (int)put : -ENOSPC;
        at += put;
    }
    return 0;
}

/* What the base has below @size, its holes as well. */
static int
copy_data(const Making *made, SfsBacking *base, off_t size)
{
    g_autofree char *buffer = g_malloc((size_t)MIN(size, COPY_BUFFER));
    off_t at = 0;
    int r = 0;

    while (r == 0 && at < size) {
        off_t data = base != NULL ? base->ops->seek(base, at, SEEK_DATA) : -ENXIO, end;

        if (data < 0 && data != -ENXIO)
            return (int)data;
        if (data < 0 || data > size)
            data = size;
        if (data > at)
            r = clear(made, at, data);
        end = data < size ? base->ops->seek(base, data, SEEK_HOLE) : size;
        if (end < 0 && end != -ENXIO)
            return (int)end;
        if (r == 0 && end > data)
            r = copy_range(made, base, buffer, data, MIN(end, size));
        at = MAX(data, end);
    }
    return r;
}

/* Has all pages first, for later a store to its mapping could find no room for one: -ENOSPC before
 * anything was changed. The file is not cut before it is done: it may be mapped. Where the base
 * cannot be read to its end, what it held is partly replaced. */
static int
copy_over(const Making *made, SfsBacking *base, off_t size)
{
    SfsStoreFile *file = made->file;
    struct stat own;
    int r = fstat(sfs_store_file_fd(file), &own) == 0 ? 0 : -errno;

    if (r == 0 && size > 0)
        r = sfs_store_file_allocate(file, FALLOC_FL_KEEP_SIZE, 0, size);
    if (r == 0 && own.st_size < size)
        r = sfs_store_file_truncate(file, size);
    if (r == 0 && size > 0)
        r = copy_data(made, base, size);
    return r == 0 && own.st_size > size ? sfs_store_file_truncate(file, size) : r;
}

/* --- what is done with a view as a whole ----------------------------------------------------- */

static bool
page_is_as_base(CopyBacking *self, off_t at)
{
    char own[SFS_PAGE_SIZE], base[SFS_PAGE_SIZE];
    ssize_t n = sfs_pread_full(self->fd, own, sizeof own, at), m = 0;

    if (self->of != NULL)
        m = self->of->ops->read(self->of, base, sizeof base, at);
    memset(base + MAX(m, 0), 0, sizeof base - (size_t)MAX(m, 0));
    return n >= 0 && m >= 0 && memcmp(own, base, (size_t)n) == 0;
}

/* Of a copy: what is not as in the base now. */
static int
next_different(CopyBacking *self, off_t from, off_t *first, off_t *end)
{
    struct stat own, base = {0};
    off_t at = from & ~(off_t)(SFS_PAGE_SIZE - 1);

    if (self->of != NULL)
        self->of->ops->stat(self->of, &base);
    if (fstat(self->fd, &own) != 0)
        return -errno;
    while (at < own.st_size && page_is_as_base(self, at)) {
        at += SFS_PAGE_SIZE;
        if (at >= base.st_size && at < own.st_size) {
            off_t data = lseek(self->fd, at, SEEK_DATA);

            at = data < 0 ? own.st_size : MAX(at, data & ~(off_t)(SFS_PAGE_SIZE - 1));
        }
    }
    if (at >= own.st_size)
        return -ENXIO;
    *first = at;
    do
        at += SFS_PAGE_SIZE;
    while (at < own.st_size && !page_is_as_base(self, at));
    *end = at;
    return 0;
}

/* Whether two files have the same on the disk at @at, which lies in the extent @own of the one.
 * *@end: up to where that is so. */
static bool
is_shared_with(int fd, const Extent *own, uint64_t at, uint64_t *end)
{
    Extent other;

    *end = own->end;
    if (!own->shared || !next_extent(fd, at, &other))
        return false;
    *end = MIN(own->end, other.start > at ? other.start : other.end);
    if (other.start > at || !other.shared)
        return false;
    if (own->encoded || other.encoded)
        return own->at == other.at;
    return own->at + (at - own->start) == other.at + (at - other.start);
}

/* Of a clone: what it has on the disk and the base has not. That something is shared does not say
 * with whom. */
static int
next_unshared(CopyBacking *self, off_t from, off_t *first, off_t *end)
{
    int base = sfs_backing_data_fd(self->of);
    uint64_t at = (uint64_t)from;
    bool found = false;
    struct stat st;
    Extent own;

    if (fstat(self->fd, &st) != 0)
        return -errno;
    while (at < (uint64_t)st.st_size && next_extent(self->fd, at, &own)) {
        uint64_t upto;
        bool same;

        if (found && own.start > at)
            break;
        at = MAX(at, own.start);
        same = is_shared_with(base, &own, at, &upto);
        if (found && same)
            break;
        if (!same && !found)
            *first = (off_t)at;
        found = found || !same;
        at = upto;
        *end = (off_t)upto;
    }
    return found && *first < st.st_size ? 0 : -ENXIO;
}

/* Of a clone: its holes where the base has data. SEEK_HOLE would not find those of which zeros are
 * in the page cache and for which XFS has room at hand. */
static int
copy_hidden(SfsBacking *backing, off_t from, off_t stop, off_t *first, off_t *end)
{
    CopyBacking *self = copy(backing);
    struct stat st;

    if (self->file != NULL || self->of == NULL)
        return -ENXIO; /* that they differ is told already */
    if (fstat(self->fd, &st) != 0)
        return -errno;
    stop = MIN(stop, st.st_size);
    while (from < stop) {
        off_t data = self->of->ops->seek(self->of, from, SEEK_DATA), hole;
        Extent own = {.start = (uint64_t)stop};

        if (data < 0 || data >= stop)
            return data < 0 ? (int)data : -ENXIO;
        if (next_extent(self->fd, (uint64_t)data, &own) && own.start <= (uint64_t)data) {
            from = (off_t)own.end;
            continue;
        }
        hole = self->of->ops->seek(self->of, data, SEEK_HOLE);
        *first = data;
        *end = MIN((off_t)own.start, hole < 0 ? stop : MIN(hole, stop));
        return 0;
    }
    return -ENXIO;
}

static int
copy_changed(SfsBacking *backing, off_t from, off_t *first, off_t *end)
{
    CopyBacking *self = copy(backing);

    return self->file != NULL ? next_different(self, from, first, end)
                              : next_unshared(self, from, first, end);
}

/* Makes of a larger file the same as @from. An end within a block can only be shared where nothing
 * follows it: it is copied first, so that the file is cut when nothing can fail any more. */
static int
clone_into(int fd, int from, const struct stat *like)
{
    off_t block = like->st_blksize, at = like->st_size - like->st_size % block;
    struct file_clone_range whole = {.src_fd = from, .src_length = (uint64_t)at};
    struct file_clone_range rest = {
        .src_fd = from, .src_offset = (uint64_t)at, .dest_offset = (uint64_t)at};
    size_t size = (size_t)(like->st_size - at);
    g_autofree char *buffer = g_malloc0((size_t)block); /* zeros, if it is cut meanwhile */
    ssize_t n;
    int r;

    if (at > 0 && ioctl(fd, FICLONERANGE, &whole) != 0)
        return -errno;
    n = sfs_pread_full(from, buffer, size, at);
    r = n < 0 ? (int)n : sfs_pwrite_full(fd, buffer, size, at);
    if (r == 0 && ftruncate(fd, like->st_size) != 0)
        return -errno;
    if (r == 0 && like->st_size > at && ioctl(fd, FICLONERANGE, &rest) != 0)
        g_debug("the end of a file is not shared: %s", g_strerror(errno));
    return r;
}

/* Makes a file share all of another one's extents. If that fails, it is as long as it was. */
static int
clone_over(int fd, int from)
{
    struct stat st, like;

    if (fstat(fd, &st) != 0 || fstat(from, &like) != 0)
        return -errno;
    if (st.st_size > like.st_size)
        return clone_into(fd, from, &like);
    return ioctl(fd, FICLONE, from) == 0 ? 0 : -errno;
}

static int
copy_reset(SfsBacking *backing, off_t size)
{
    CopyBacking *self = copy(backing);
    int base_fd = self->of != NULL ? sfs_backing_data_fd(self->of) : -1;
    struct stat st;
    int r;

    if (self->file == NULL) {
        r = clone_over(self->fd, base_fd);
        /* Not without need: the block that the end is in would be written. */
        if (r == 0 && fstat(self->fd, &st) == 0 && st.st_size != size &&
            ftruncate(self->fd, size) != 0)
            return -errno;
        return r;
    }
    return copy_over(&(Making){self->file, backing}, self->of, size);
}

static SfsBacking *
copy_of(SfsBacking *backing)
{
    return copy(backing)->of;
}

static int
copy_commit(SfsBacking *backing, off_t size)
{
    CopyBacking *self = copy(backing);
    SfsViewRec *rec = sfs_registry_get(self->registry, SFS_TABLE_VIEWS, self->slot);
    g_autoptr(GMutexLocker) locker = NULL;
    struct stat st;
    int r = 0;

    if (self->of == NULL)
        return -EOPNOTSUPP;
    if (fstat(self->fd, &st) != 0)
        return -errno;
    if (self->file != NULL)
        return sfs_view_commit_bytes(backing, self->of, rec, st.st_size, size);
    if (size >= 0 && st.st_size != size)
        return -EAGAIN;
    locker = g_mutex_locker_new(&self->of->verbs);
    atomic_store(&rec->committing, 1);
    r = clone_over(sfs_backing_data_fd(self->of), self->fd); /* it goes back as it came */
    if (r == 0 && self->of->ops->sync != NULL)
        r = self->of->ops->sync(self->of, false);
    atomic_store(&rec->committing, 0);
    return r;
}

static const SfsBackingOps copy_ops = {
    .kind = "copy",
    .stat = copy_stat,
    .read = copy_read,
    .splice_read = copy_splice_read,
    .write = copy_write,
    .truncate = copy_truncate,
    .allocate = copy_allocate,
    .seek = copy_seek,
    .sync = NULL,
    .set_times = copy_set_times,
    .private_bytes = copy_private_bytes,
    .changed = copy_changed,
    .hidden = copy_hidden,
    .reset = copy_reset,
    .commit = copy_commit,
    .of = copy_of,
    .data_fd = copy_fd,
    .lock_fd = copy_fd,
    .free = copy_free,
};

static SfsBacking *
new_backing(SfsStoreFile *file, int fd, SfsBacking *of, SfsRegistry *registry, uint32_t slot)
{
    SfsViewRec *rec = sfs_registry_get(registry, SFS_TABLE_VIEWS, slot);
    struct timespec times[2] = {sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime)};
    CopyBacking *self = g_new0(CopyBacking, 1);
    struct stat st = {0};

    sfs_backing_init(&self->base, &copy_ops);
    self->file = file;
    self->fd = fd;
    self->of = sfs_backing_ref(of);
    self->registry = registry;
    futimens(fd, times);
    fstat(fd, &st);
    self->made = st.st_ctim;
    self->changed = sfs_time_get(&rec->ctime);
    return &self->base;
}

void
sfs_backing_copy_keep(SfsBacking *backing, uint32_t slot)
{
    CopyBacking *self = copy(backing);
    SfsViewRec *rec = sfs_registry_get(self->registry, SFS_TABLE_VIEWS, slot);

    self->slot = slot;
    /* The times are the file's own from now on, so there is room for this one. */
    sfs_time_set(&rec->mtime, self->made);
    rec->fd_slot = self->file != NULL ? sfs_store_file_slot(self->file) : self->fd_slot;
}

int
sfs_backing_copy_new(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot,
                     SfsBacking **out)
{
    SfsViewRec *rec = sfs_registry_get(registry, SFS_TABLE_VIEWS, slot);
    off_t size = (off_t)rec->size;
    SfsStoreFile *file;
    int r = sfs_store_file_new(store, SFS_STORE_SECTION, &file);

    if (r < 0)
        return r;
    r = copy_over(&(Making){file, NULL}, base, size);
    if (r < 0) {
        sfs_store_file_free(file);
        return r;
    }
    *out = new_backing(file, sfs_store_file_fd(file), base, registry, slot);
    return 0;
}

SfsBacking *
sfs_backing_clone_new(int fd, int link, uint32_t fd_slot, SfsBacking *base, SfsRegistry *registry,
                      uint32_t slot)
{
    SfsBacking *backing = new_backing(NULL, fd, base, registry, slot);

    copy(backing)->link = link;
    copy(backing)->fd_slot = fd_slot;
    return backing;
}

SfsBacking *
sfs_backing_copy_adopt(SfsStore *store, int link, SfsBacking *base, SfsRegistry *registry,
                       uint32_t slot)
{
    SfsViewRec *rec = sfs_registry_get(registry, SFS_TABLE_VIEWS, slot);
    CopyBacking *self = g_new0(CopyBacking, 1);

    sfs_backing_init(&self->base, &copy_ops);
    if (rec->kind == SFS_VIEW_COPY)
        self->file = sfs_store_file_adopt(store, SFS_STORE_SECTION, rec->fd_slot);
    self->fd = self->file != NULL ? sfs_store_file_fd(self->file)
                                  : sfs_link_inherited(registry, rec->fd_slot);
    self->link = link;
    self->fd_slot = rec->fd_slot;
    self->of = sfs_backing_ref(base);
    self->registry = registry;
    self->slot = slot;
    self->made = sfs_time_get(&rec->mtime);
    self->changed = sfs_time_get(&rec->ctime);
    return &self->base;
}
