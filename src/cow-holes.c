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
            sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    sfs_cow_start_of(first), sfs_cow_start_of(end - first));
            sfs_map_file_cut(&self->kept, self->overlay, self->map, first, end);
        }
        sfs_cow_end_cut(self);
    } else {
        atomic_store(&self->rec->size, (uint64_t)size);
    }
    sfs_cow_modified(self);
    return 0;
}

/* Where the base shows data within [from, end), from the first of it on: [*from, *to). False:
 * nowhere. Not locked. */
static bool
next_shown(SfsCowBacking *self, off_t *from, off_t end, off_t *to)
{
    off_t limit = (off_t)atomic_load(&self->rec->base_limit);

    limit = MIN(limit, end);
    if (self->base == NULL || *from >= limit)
        return false;
    *from = self->base->ops->seek(self->base, *from, SEEK_DATA);
    if (*from < 0 || *from >= limit)
        return false;
    *to = self->base->ops->seek(self->base, *from, SEEK_HOLE);
    if (*to < 0 || *to > limit)
        *to = limit;
    return true;
}

/* Makes private where the base shows data: nothing else of it must the map say, for a hole of the
 * overlay reads as zeros whether the map has it or not. */
static int
hide_base(SfsCowBacking *self, uint64_t first, uint64_t end)
{
    off_t from = sfs_cow_start_of(first), to;

    while (next_shown(self, &from, sfs_cow_start_of(end), &to)) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
        uint64_t stop = sfs_cow_pages_covering(to);
        int r = sfs_cow_need_overlay(self);

        if (r < 0)
            return r;
        sfs_cow_make_private(self, sfs_cow_page_of(from), MIN(stop, end));
        from = sfs_cow_start_of(stop);
    }
    return 0;
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

        r = hide_base(self, first, end);
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

    return from < end ? sfs_cow_write_in_page(self, zeros, (size_t)(end - from), from, false) : 0;
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

/* End of the data, or of the hole, that @at lies in, within a run of pages alike that ends at @end:
 * *@data tells which it is. */
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
    next = is_private ? lseek(sfs_store_file_fd(self->overlay), at, SEEK_DATA)
                      : self->base->ops->seek(self->base, at, SEEK_DATA);
    if (next < 0 || next > at) {
        *data = false;
        return next < 0 ? end : MIN(next, end);
    }
    *data = true;
    hole = is_private ? lseek(sfs_store_file_fd(self->overlay), at, SEEK_HOLE)
                      : self->base->ops->seek(self->base, at, SEEK_HOLE);
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
        if (data == (whence == SEEK_DATA))
            return at;
        at = end;
    }
    return whence == SEEK_HOLE ? size : -ENXIO;
}
