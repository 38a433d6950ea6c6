/* SPDX-License-Identifier: MIT */
/* Size and holes: as on a file of tmpfs. A hole that hides the base holds no memory. */
#include "cow-internal.h"

int
sfs_cow_truncate(SfsBacking *backing, off_t size)
{
    SfsCowBacking *self = sfs_cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    uint64_t old = self->rec->size;
    int r;

    if (size > SFS_MAP_FILE_OFFSET)
        return -EFBIG;
    if ((uint64_t)size < old) {
        uint64_t first = sfs_cow_pages_covering(size), end = sfs_cow_pages_covering((off_t)old);

        r = sfs_cow_clear_rest_of_page(self, size);
        if (r < 0)
            return r;
        sfs_cow_begin_cut(self);
        if (self->rec->base_limit > (uint64_t)size)
            atomic_store(&self->rec->base_limit, (uint64_t)size);
        atomic_store(&self->rec->size, (uint64_t)size);
        if (self->overlay != NULL && first < end) {
            sfs_page_map_remove(self->map, first, end);
            /* With what was allocated beyond the end. */
            sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    sfs_cow_start_of(first),
                                    SFS_MAP_FILE_OFFSET - sfs_cow_start_of(first));
            sfs_map_file_cut(&self->kept, self->overlay, self->map, first, end);
        }
        sfs_cow_end_cut(self);
    } else {
        atomic_store(&self->rec->size, (uint64_t)size);
    }
    sfs_cow_modified(self);
    return 0;
}

/* Where the base has data within [from, end), from the first of it on: [*from, *to). -ENXIO:
 * nowhere; or another negative errno. Not locked. */
static int
next_in_base(SfsCowBacking *self, off_t *from, off_t end, off_t *to)
{
    off_t data, hole;

    if (self->base == NULL || *from >= end)
        return -ENXIO;
    data = self->base->ops->seek(self->base, *from, SEEK_DATA);
    if (data < 0 || data >= end)
        return data < 0 ? (int)data : -ENXIO;
    hole = self->base->ops->seek(self->base, data, SEEK_HOLE);
    if (hole < 0 && hole != -ENXIO)
        return (int)hole;
    *from = data;
    *to = hole < 0 ? end : MIN(hole, end);
    return 0;
}

/* The same of what the base shows. */
static int
next_shown(SfsCowBacking *self, off_t *from, off_t end, off_t *to)
{
    off_t limit = (off_t)atomic_load(&self->rec->base_limit);

    return next_in_base(self, from, MIN(limit, end), to);
}

int
sfs_cow_hidden(SfsBacking *backing, off_t from, off_t stop, off_t *first, off_t *end)
{
    SfsCowBacking *self = sfs_cow(backing);
    off_t size = (off_t)atomic_load(&self->rec->size), to;
    int r;

    from = MAX(from, (off_t)atomic_load(&self->rec->base_limit));
    stop = MIN(stop, size);
    while ((r = next_in_base(self, &from, stop, &to)) == 0) {
        uint64_t run_end;
        bool is_private;

        g_mutex_lock(&self->lock);
        run_end = sfs_page_map_run(self->map, sfs_cow_page_of(from), sfs_cow_pages_covering(size),
                                   &is_private);
        g_mutex_unlock(&self->lock);
        if (!is_private) {
            *first = sfs_cow_start_of(sfs_cow_page_of(from));
            *end = sfs_cow_start_of(MIN(sfs_cow_pages_covering(to), run_end));
            return 0;
        }
        from = sfs_cow_start_of(run_end);
    }
    return r;
}

/* Makes private where the base shows data: nothing else of it must the map say, for a hole of the
 * overlay reads as zeros whether the map has it or not. No more of that once something was taken
 * out of it after @cuts, the end of the file for one. */
static int
hide_base(SfsCowBacking *self, uint64_t first, uint64_t end, uint32_t cuts)
{
    off_t from = sfs_cow_start_of(first), to;
    int r;

    while ((r = next_shown(self, &from, sfs_cow_start_of(end), &to)) == 0) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
        uint64_t stop = sfs_cow_pages_covering(to);

        if (self->cuts != cuts)
            return 0;
        r = sfs_cow_need_overlay(self);
        if (r < 0)
            return r;
        r = sfs_cow_make_private(self, sfs_cow_page_of(from), MIN(stop, end), false);
        if (r < 0)
            return r;
        from = sfs_cow_start_of(stop);
    }
    return r == -ENXIO ? 0 : r;
}

/* Makes whole pages read as zeros without holding memory. Neither time nor memory depends on how
 * large a hole is. */
static int
punch_pages(SfsCowBacking *self, uint64_t first, uint64_t end)
{
    bool done = false;
    int r = 0;

    while (r == 0 && !done) {
        uint32_t cuts = atomic_load(&self->cuts);

        r = hide_base(self, first, end, cuts);
        if (r < 0)
            break;
        g_mutex_lock(&self->lock);
        /* If it was reset or committed meanwhile, the base may show again. */
        done = self->cuts == cuts;
        if (done && self->overlay != NULL)
            r = sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                        sfs_cow_start_of(first), sfs_cow_start_of(end - first));
        if (done)
            sfs_cow_modified(self);
        g_mutex_unlock(&self->lock);
    }
    return r;
}

static int
zero_in_page(SfsCowBacking *self, off_t from, off_t end)
{
    static const char zeros[SFS_PAGE_SIZE];

    if (from >= end)
        return 0;
    return sfs_cow_write_in_page(self, zeros, (size_t)(end - from), from, false, true);
}

/* Makes [offset, end) read as zeros; does not change the size. */
static int
punch(SfsCowBacking *self, off_t offset, off_t end)
{
    off_t size = (off_t)atomic_load(&self->rec->size);
    off_t first, last, head_end;
    int r;

    end = MIN(end, size);
    if (offset >= end)
        return 0;
    first = sfs_cow_start_of(sfs_cow_pages_covering(offset));
    /* What follows the last byte of the file within its page is zero already. */
    last = sfs_cow_start_of(end == size ? sfs_cow_pages_covering(end) : sfs_cow_page_of(end));
    head_end = MIN(first, end);
    r = zero_in_page(self, offset, head_end);
    if (r == 0 && first < last)
        r = punch_pages(self, sfs_cow_page_of(first), sfs_cow_page_of(last));
    if (r == 0)
        r = zero_in_page(self, MAX(last, head_end), end);
    return r;
}

int
sfs_cow_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    SfsCowBacking *self = sfs_cow(backing);
    off_t end;
    int r = 0;

    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    /* Making zeros of what is beyond the end, however far, is nothing to do. */
    if (mode & FALLOC_FL_KEEP_SIZE && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        offset = MIN(offset, SFS_MAP_FILE_OFFSET);
        length = MIN(length, SFS_MAP_FILE_OFFSET - offset);
    } else if (offset >= SFS_MAP_FILE_OFFSET || length > SFS_MAP_FILE_OFFSET - offset) {
        return -EFBIG;
    }
    end = offset + length;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        r = punch(self, offset, end);
    } else {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

        /* The room is taken now, so that no later write can fail for want of it; the pages become
         * private when they are written. */
        r = sfs_cow_need_overlay(self);
        if (r == 0)
            r = sfs_store_file_allocate(self->overlay, FALLOC_FL_KEEP_SIZE, offset, length);
    }
    if (r == 0) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

        if (!(mode & FALLOC_FL_KEEP_SIZE))
            sfs_cow_grow_to(self, end);
        sfs_cow_modified(self);
    }
    return r;
}

static off_t
seek_overlay(SfsCowBacking *self, off_t at, int whence)
{
    off_t found = lseek(sfs_store_file_fd(self->overlay), at, whence);

    return found >= 0 ? found : -errno;
}

/* End of the data, or of the hole, that @at lies in, within a run of pages alike that ends at @end:
 * *@data tells which it is. Or a negative errno. */
static off_t
extent(SfsCowBacking *self, bool is_private, uint64_t limit, off_t at, off_t end, bool *data)
{
    off_t next, hole;

    if (!is_private) {
        if (self->base == NULL || (uint64_t)at >= limit) {
            *data = false;
            return end;
        }
        end = MIN(end, sfs_cow_start_of(sfs_cow_pages_covering((off_t)limit)));
    }
    next = is_private ? seek_overlay(self, at, SEEK_DATA)
                      : self->base->ops->seek(self->base, at, SEEK_DATA);
    if (next < 0 && next != -ENXIO)
        return next;
    *data = next == at;
    if (next != at)
        return next < 0 ? end : MIN(next, end);
    hole = is_private ? seek_overlay(self, at, SEEK_HOLE)
                      : self->base->ops->seek(self->base, at, SEEK_HOLE);
    if (hole < 0 && hole != -ENXIO)
        return hole;
    return hole < 0 ? end : MIN(hole, end);
}

off_t
sfs_cow_seek(SfsBacking *backing, off_t offset, int whence)
{
    SfsCowBacking *self = sfs_cow(backing);
    off_t size = (off_t)atomic_load(&self->rec->size);
    off_t at = offset;

    if (offset < 0 || offset >= size)
        return -ENXIO;
    while (at < size) {
        uint64_t run_end, limit;
        bool is_private, data;
        uint32_t cuts;
        off_t end;

        /* Under the lock: without, it is not known how far nothing is private. */
        g_mutex_lock(&self->lock);
        run_end = sfs_page_map_run(self->map, sfs_cow_page_of(at), sfs_cow_pages_covering(size),
                                   &is_private);
        limit = self->rec->base_limit;
        cuts = self->cuts;
        g_mutex_unlock(&self->lock);
        end = extent(self, is_private, limit, at, MIN(sfs_cow_start_of(run_end), size), &data);
        /* What it has looked at may have been given back already. */
        if (atomic_load(&self->cuts) != cuts)
            continue;
        if (end < 0)
            return end;
        if (data == (whence == SEEK_DATA))
            return at;
        at = end;
    }
    return whence == SEEK_HOLE ? size : -ENXIO;
}
