/* SPDX-License-Identifier: MIT */
/* An overlay as a whole: what it has changed is listed, forgotten, or written into the base. */
#include "cow-internal.h"

/* What is given back at a time under the lock. */
#define SWEEP_PAGES 4096u

int
sfs_cow_changed(SfsBacking *backing, off_t from, off_t *first, off_t *end)
{
    SfsCowBacking *self = sfs_cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    uint64_t stop = sfs_cow_pages_covering((off_t)self->rec->size), page = sfs_cow_page_of(from),
             next;
    bool is_private = false;

    if (page >= stop)
        return -ENXIO;
    next = sfs_page_map_run(self->map, page, stop, &is_private);
    if (!is_private) {
        page = next;
        if (page >= stop)
            return -ENXIO;
        next = sfs_page_map_run(self->map, page, stop, &is_private);
    }
    *first = sfs_cow_start_of(page);
    *end = sfs_cow_start_of(next);
    return 0;
}

/* Nothing is private any more; or a negative errno, and all stays as it was: a later worker must
 * not believe that there are pages whose memory was given back. That goes back afterwards, piece by
 * piece, so that nobody has to wait for the lock while it does. Lock held. */
static int
forget_all(SfsCowBacking *self)
{
    uint64_t end = sfs_cow_page_of(SFS_MAP_FILE_OFFSET);
    int r = self->overlay != NULL ? sfs_map_file_clear(&self->kept, self->overlay) : 0;

    if (r == 0)
        sfs_page_map_remove(self->map, 0, end);
    return r;
}

/* Gives back what the overlay holds below @size and the map does not know. */
static void
sweep_data(SfsCowBacking *self, off_t size)
{
    off_t at = 0, data;

    while (self->overlay != NULL && at < size) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
        uint64_t page;

        data = lseek(sfs_store_file_fd(self->overlay), at, SEEK_DATA);
        if (data < 0 || data >= size)
            return;
        page = sfs_cow_page_of(data);
        at = sfs_cow_start_of(sfs_cow_give_back(self, page, page + SWEEP_PAGES));
    }
}

/* The same of pages that were allocated and never written, which look like holes. */
static void
sweep_ahead(SfsCowBacking *self)
{
    const uint64_t end = sfs_cow_page_of(SFS_MAP_FILE_OFFSET);
    uint64_t page = 0;

    while (self->overlay != NULL && page < end) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

        page = sfs_cow_give_back(self, page, end);
    }
}

static void
sweep(SfsCowBacking *self, off_t size)
{
    sweep_data(self, size);
    sweep_ahead(self);
}

int
sfs_cow_reset(SfsBacking *backing, off_t size)
{
    SfsCowBacking *self = sfs_cow(backing);
    off_t old;
    int r;

    g_mutex_lock(&self->lock);
    old = (off_t)self->rec->size;
    sfs_cow_begin_cut(self);
    r = forget_all(self);
    if (r == 0) {
        atomic_store(&self->rec->base_limit, (uint64_t)size);
        atomic_store(&self->rec->size, (uint64_t)size);
        sfs_cow_modified(self);
    }
    sfs_cow_end_cut(self);
    g_mutex_unlock(&self->lock);
    if (r == 0)
        sweep(self, old);
    return r;
}

int
sfs_cow_commit(SfsBacking *backing, off_t size)
{
    SfsCowBacking *self = sfs_cow(backing);
    uint64_t changes;
    bool forgotten = false;
    off_t limit, end;
    int r;

    if (self->base == NULL)
        return -EOPNOTSUPP;
    g_mutex_lock(&self->lock);
    changes = self->changes;
    limit = (off_t)self->rec->base_limit;
    g_mutex_unlock(&self->lock);
    r = sfs_view_commit_bytes(backing, self->base, self->rec, limit, size);
    if (r < 0)
        return r;
    g_mutex_lock(&self->lock);
    end = (off_t)self->rec->size;
    if (changes == self->changes) {
        sfs_cow_begin_cut(self);
        atomic_store(&self->rec->base_limit, self->rec->size);
        /* What cannot be forgotten stays the view's own, and is the same as the base's. */
        forgotten = forget_all(self) == 0;
        sfs_cow_end_cut(self);
    }
    g_mutex_unlock(&self->lock);
    if (forgotten)
        sweep(self, end);
    return 0;
}
