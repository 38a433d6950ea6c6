/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write bytes: an overlay of private pages over a base.
 *
 * The overlay is one file of the store. A private page lies in it at the page's own offset; which
 * pages are private is the page map, kept in memory and, for a later worker, in the same file
 * beyond all data (map-file.h). A page that is in the map is never looked up in the base again; a
 * hole of the overlay where the map has the page reads as zeros, which is how holes are punched.
 *
 * What shows of the base ends at `base_limit`, in bytes: truncating lowers it for good, so that
 * what is cut off never comes back when the view grows again. Invariants, under the lock:
 *  - base_limit <= size;
 *  - no page that begins at or after size is in the map;
 *  - bytes of a private page at or after size are zero.
 *
 * Order, for a death in between: bytes before map, map before reply. A write that was not answered
 * may be missing or done; one that was answered is there, and one of which the map cannot be kept
 * is refused. Holes are the other way round: map, and then nothing there. When a view is cut, size
 * and base_limit go first: whatever of the map is left beyond size then is dropped by whoever opens
 * the registry next.
 *
 * The lock is held across system calls on the overlay, which is memory, and never across reads of
 * the base, which may be a disk. So a page is read from the base first, and used under the lock
 * only if nobody made it private meanwhile.
 *
 * Reading takes no lock, so nobody waits for who writes: the page map can be looked at without one.
 * Only where base_limit is changed together with the map, or pages are taken out of that and given
 * back (sfs_cow_begin_cut(), sfs_cow_end_cut()), do readers have to see both or neither; they find
 * out by `cuts`, and read again under the lock.
 */
#include "cow-internal.h"

#include <string.h>

void
sfs_cow_modified(SfsCowBacking *self)
{
    g_mutex_lock(&self->times);
    sfs_time_set(&self->rec->mtime, sfs_now());
    self->rec->ctime = self->rec->mtime;
    g_mutex_unlock(&self->times);
    self->changes++;
}

/* --- the overlay, lock held ------------------------------------------------------------------ */

int
sfs_cow_need_overlay(SfsCowBacking *self)
{
    SfsStoreFile *overlay;
    int r;

    if (self->overlay != NULL)
        return 0;
    r = sfs_store_file_new(self->store, SFS_STORE_OVERLAY, &overlay);
    if (r < 0)
        return r;
    self->rec->fd_slot = sfs_store_file_slot(overlay);
    self->overlay = overlay;
    return 0;
}

uint64_t
sfs_cow_give_back(SfsCowBacking *self, uint64_t first, uint64_t end)
{
    bool is_private;
    uint64_t next = sfs_page_map_run(self->map, first, end, &is_private);

    if (!is_private)
        sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                sfs_cow_start_of(first), sfs_cow_start_of(next - first));
    return next;
}

/* What was written of pages that are the base's still must not come to light with a hole that is
 * punched there later. */
static void
take_back(SfsCowBacking *self, uint64_t first, uint64_t end)
{
    while (first < end)
        first = sfs_cow_give_back(self, first, end);
}

int
sfs_cow_make_private(SfsCowBacking *self, uint64_t first, uint64_t end, bool force)
{
    bool already;
    int r;

    if (sfs_page_map_run(self->map, first, end, &already) == end && already && !self->kept.behind)
        return 0;
    /* First where it can fail: nobody sees what is refused. */
    r = sfs_map_file_add(&self->kept, self->overlay, self->map, first, end);
    if (r < 0 && !force) {
        take_back(self, first, end);
        return r;
    }
    /* Whoever has stored to a mapping cannot be told. The bytes are there unless this worker dies
     * before the next page is made private. */
    if (r < 0)
        self->kept.behind = true;
    sfs_page_map_add(self->map, first, end);
    return 0;
}

void
sfs_cow_grow_to(SfsCowBacking *self, off_t end)
{
    if ((uint64_t)end > self->rec->size)
        atomic_store(&self->rec->size, (uint64_t)end);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Reads what shows of the base below @limit, and zeros for the rest. */
static int
read_base(SfsCowBacking *self, uint64_t limit, char *buf, size_t size, off_t offset)
{
    size_t n = 0;

    if (self->base != NULL && (uint64_t)offset < limit) {
        ssize_t got = self->base->ops->read(
            self->base, buf, (size_t)MIN((uint64_t)size, limit - (uint64_t)offset), offset);

        if (got < 0)
            return (int)got;
        n = (size_t)got;
    }
    memset(buf + n, 0, size - n);
    return 0;
}

static int
read_overlay(SfsCowBacking *self, char *buf, size_t size, off_t offset)
{
    ssize_t n = sfs_pread_full(sfs_store_file_fd(self->overlay), buf, size, offset);

    if (n < 0)
        return (int)n;
    memset(buf + n, 0, size - (size_t)n);
    return 0;
}

/* Where bytes are: in the overlay, or else in the base below @limit. */
typedef struct {
    bool is_private;
    uint64_t limit;
    size_t size; /* so many of them */
    uint32_t cuts;
} Place;

static size_t
up_to_page(uint64_t page, size_t size, off_t offset)
{
    size_t n = (size_t)(sfs_cow_start_of(page) - offset);

    return MIN(n, size);
}

/* Lock held. */
static Place
look_locked(SfsCowBacking *self, size_t size, off_t offset)
{
    Place place = {.limit = self->rec->base_limit, .cuts = self->cuts};
    uint64_t end = sfs_cow_pages_covering(offset + (off_t)size);

    end = sfs_page_map_run(self->map, sfs_cow_page_of(offset), end, &place.is_private);
    place.size = up_to_page(end, size, offset);
    return place;
}

static Place
look(SfsCowBacking *self, size_t size, off_t offset)
{
    Place place = {.cuts = atomic_load(&self->cuts)};
    uint64_t end = sfs_cow_pages_covering(offset + (off_t)size);

    end = sfs_page_map_peek(self->map, sfs_cow_page_of(offset), end, &place.is_private);
    place.limit = atomic_load(&self->rec->base_limit);
    place.size = up_to_page(end, size, offset);
    if (place.cuts % 2 != 0 || atomic_load(&self->cuts) != place.cuts) {
        g_mutex_lock(&self->lock);
        place = look_locked(self, size, offset);
        g_mutex_unlock(&self->lock);
    }
    return place;
}

/* Reads what is in one place: how many bytes that is, or a negative errno. */
static ssize_t
read_place(SfsCowBacking *self, char *buf, size_t size, off_t offset)
{
    Place place = look(self, size, offset);
    int r = 0;

    if (place.is_private) {
        r = read_overlay(self, buf, place.size, offset);
        atomic_thread_fence(memory_order_seq_cst);
        if (r == 0 && atomic_load(&self->cuts) != place.cuts) {
            /* It may have been given back already when it was read. */
            g_mutex_lock(&self->lock);
            place = look_locked(self, size, offset);
            if (place.is_private)
                r = read_overlay(self, buf, place.size, offset);
            g_mutex_unlock(&self->lock);
        }
    }
    if (!place.is_private)
        r = read_base(self, place.limit, buf, place.size, offset);
    return r < 0 ? r : (ssize_t)place.size;
}

/* How many of @size bytes there are from @offset on. */
static size_t
below_end(SfsCowBacking *self, size_t size, off_t offset)
{
    uint64_t end = atomic_load(&self->rec->size);

    return (uint64_t)offset >= end ? 0 : (size_t)MIN((uint64_t)size, end - (uint64_t)offset);
}

static ssize_t
cow_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    SfsCowBacking *self = sfs_cow(backing);
    size_t done = 0;

    size = below_end(self, size, offset);
    while (done < size) {
        ssize_t n = read_place(self, (char *)buf + done, size - done, offset + (off_t)done);

        if (n < 0)
            return n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* What is in one place, into a pipe: how many bytes that is, or a negative errno. */
static ssize_t
splice_place(SfsCowBacking *self, int pipe, size_t size, off_t offset)
{
    Place place = look(self, size, offset);
    SfsBacking *base = self->base;
    ssize_t n = -EAGAIN;

    if (place.is_private) {
        n = sfs_splice_from(sfs_store_file_fd(self->overlay), offset, pipe, place.size);
        atomic_thread_fence(memory_order_seq_cst);
        /* It may have been given back already when it was read. */
        if (atomic_load(&self->cuts) != place.cuts)
            n = -EAGAIN;
    } else if (base != NULL && base->ops->splice_read != NULL &&
               (uint64_t)offset + place.size <= place.limit) {
        n = base->ops->splice_read(base, pipe, place.size, offset);
    }
    /* What is missing is zeros. */
    return n < 0 || (size_t)n == place.size ? n : -EAGAIN;
}

static ssize_t
cow_splice_read(SfsBacking *backing, int pipe, size_t size, off_t offset)
{
    SfsCowBacking *self = sfs_cow(backing);
    size_t done = 0;

    size = below_end(self, size, offset);
    while (done < size) {
        ssize_t n = splice_place(self, pipe, size - done, offset + (off_t)done);

        if (n < 0)
            return n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static void
cow_accessed(SfsBacking *backing)
{
    SfsViewRec *rec = sfs_cow(backing)->rec;
    struct timespec now = sfs_now();
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&sfs_cow(backing)->times);

    if (sfs_atime_is_due(sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime),
                         sfs_time_get(&rec->ctime), now))
        sfs_time_set(&rec->atime, now);
}

/* --- writing --------------------------------------------------------------------------------- */

/* Writes within a page, of which @page is what the base has where it is not private. Lock held. */
static int
put_in_page(SfsCowBacking *self, char *page, const char *buf, size_t size, off_t offset, bool force)
{
    uint64_t number = sfs_cow_page_of(offset);
    bool is_private = sfs_page_map_has(self->map, number);
    ssize_t n;
    int r = sfs_cow_need_overlay(self);

    if (r < 0)
        return r;
    if (!is_private) {
        memcpy(page + (size_t)offset % SFS_PAGE_SIZE, buf, size);
        n = sfs_store_file_write(self->overlay, page, SFS_PAGE_SIZE, sfs_cow_start_of(number),
                                 force);
    } else {
        n = sfs_store_file_write(self->overlay, buf, size, offset, force);
    }
    if (n < 0)
        return (int)n;
    if (!is_private)
        r = sfs_cow_make_private(self, number, number + 1, force);
    if (r < 0)
        return r;
    sfs_cow_grow_to(self, offset + (off_t)size);
    sfs_cow_modified(self);
    return 0;
}

int
sfs_cow_write_in_page(SfsCowBacking *self, const char *buf, size_t size, off_t offset, bool force,
                      bool within)
{
    uint64_t number = sfs_cow_page_of(offset);
    char page[SFS_PAGE_SIZE];
    bool have_page = false;
    int r = 0;

    g_mutex_lock(&self->lock);
    while (!sfs_page_map_has(self->map, number) && !have_page) {
        uint64_t limit = self->rec->base_limit;
        uint32_t cuts = self->cuts;

        g_mutex_unlock(&self->lock);
        r = read_base(self, limit, page, sizeof page, sfs_cow_start_of(number));
        if (r < 0)
            return r;
        g_mutex_lock(&self->lock);
        /* Cut or committed meanwhile: what was read may show what is gone, or not what has come. */
        have_page = cuts == self->cuts;
    }
    if (within)
        size = below_end(self, size, offset);
    if (size > 0)
        r = put_in_page(self, page, buf, size, offset, force);
    g_mutex_unlock(&self->lock);
    return r;
}

/* Some of the bytes that are refused may be there: nobody is to see them when the view grows. */
static ssize_t
refuse_pages(SfsCowBacking *self, size_t size, off_t offset, ssize_t error)
{
    take_back(self, sfs_cow_page_of(offset), sfs_cow_pages_covering(offset + (off_t)size));
    sfs_cow_clear_rest_of_page(self, (off_t)self->rec->size);
    return error;
}

/* Writes whole pages from @buf, or from the @pipe where there is one; how many bytes of them (whole
 * pages again), or a negative errno. */
static ssize_t
write_pages(SfsCowBacking *self, const char *buf, int pipe, size_t size, off_t offset, bool force)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    ssize_t n;
    int r;

    if (force)
        size = below_end(self, size, offset) / SFS_PAGE_SIZE * SFS_PAGE_SIZE;
    if (size == 0)
        return 0;
    r = sfs_cow_need_overlay(self);
    if (r < 0)
        return r;
    n = pipe < 0 ? sfs_store_file_write(self->overlay, buf, size, offset, force)
                 : sfs_store_file_splice(self->overlay, pipe, size, offset, force);
    /* What the pipe has lost of a page cannot be written back any more. */
    if (n > 0 && force && n % SFS_PAGE_SIZE != 0)
        n = -EIO;
    if (n >= 0 && n < SFS_PAGE_SIZE)
        n = -ENOSPC;
    if (n < 0)
        return refuse_pages(self, size, offset, n);
    n -= n % SFS_PAGE_SIZE;
    r = sfs_cow_make_private(self, sfs_cow_page_of(offset), sfs_cow_page_of(offset + n), force);
    if (r < 0)
        return refuse_pages(self, size, offset, r);
    sfs_cow_grow_to(self, offset + n);
    sfs_cow_modified(self);
    return n;
}

static ssize_t
cow_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    SfsCowBacking *self = sfs_cow(backing);
    bool force = how & SFS_WRITE_BACK;
    size_t done = 0;

    if (offset >= SFS_MAP_FILE_OFFSET || (off_t)size > SFS_MAP_FILE_OFFSET - offset)
        return -EFBIG;
    while (done < size) {
        const char *from = (const char *)buf + done;
        off_t at = offset + (off_t)done;
        size_t rest = force ? below_end(self, size - done, at) : size - done;
        size_t in_page = (size_t)at % SFS_PAGE_SIZE;
        ssize_t n;

        if (rest == 0)
            break;
        if (in_page == 0 && rest >= SFS_PAGE_SIZE) {
            n = write_pages(self, from, -1, rest - rest % SFS_PAGE_SIZE, at, force);
        } else {
            size_t part = MIN(rest, SFS_PAGE_SIZE - in_page);
            int r = sfs_cow_write_in_page(self, from, part, at, force, force);

            n = r < 0 ? r : (ssize_t)part;
        }
        if (n < 0)
            return done > 0 && !force ? (ssize_t)done : n;
        done += (size_t)n;
    }
    return (ssize_t)size;
}

static ssize_t
cow_splice_write(SfsBacking *backing, int pipe, size_t size, off_t offset, unsigned how)
{
    if (offset >= SFS_MAP_FILE_OFFSET || (off_t)size > SFS_MAP_FILE_OFFSET - offset)
        return -EFBIG;
    return write_pages(sfs_cow(backing), NULL, pipe, size, offset, how & SFS_WRITE_BACK);
}

int
sfs_cow_clear_rest_of_page(SfsCowBacking *self, off_t from)
{
    static const char zeros[SFS_PAGE_SIZE];
    size_t in_page = (size_t)from % SFS_PAGE_SIZE;
    ssize_t n;

    if (in_page == 0 || !sfs_page_map_has(self->map, sfs_cow_page_of(from)))
        return 0;
    n = sfs_store_file_write(self->overlay, zeros, SFS_PAGE_SIZE - in_page, from, true);
    return n < 0 ? (int)n : 0;
}

/* --- the rest -------------------------------------------------------------------------------- */

static int
cow_stat(SfsBacking *backing, struct stat *st)
{
    SfsCowBacking *self = sfs_cow(backing);
    struct stat base = {0};
    uint64_t private;

    if (self->base != NULL)
        self->base->ops->stat(self->base, &base);
    g_mutex_lock(&self->lock);
    private = sfs_page_map_count(self->map) * (SFS_PAGE_SIZE / 512);
    st->st_size = (off_t)self->rec->size;
    g_mutex_lock(&self->times);
    st->st_atim = sfs_time_get(&self->rec->atime);
    st->st_mtim = sfs_time_get(&self->rec->mtime);
    st->st_ctim = sfs_time_get(&self->rec->ctime);
    g_mutex_unlock(&self->times);
    g_mutex_unlock(&self->lock);
    /* As a shared extent counts on file systems that share them: what shows of the base is not
     * free, or programs would take the view for one large hole. */
    st->st_blocks = (blkcnt_t)MIN(MAX((uint64_t)base.st_blocks, private),
                                  sfs_page_round_up((uint64_t)st->st_size) / 512);
    return 0;
}

/* Memory needs no flushing. But if a later worker would not know of all pages, that is told here,
 * or mended. */
static int
cow_sync(SfsBacking *backing, bool data_only)
{
    SfsCowBacking *self = sfs_cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

    return self->kept.behind ? sfs_map_file_add(&self->kept, self->overlay, self->map, 0, 0) : 0;
}

static int
cow_set_times(SfsBacking *backing, const struct timespec times[2])
{
    SfsCowBacking *self = sfs_cow(backing);
    SfsTime *fields[2] = {&self->rec->atime, &self->rec->mtime};
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->times);

    for (int i = 0; i < 2; i++) {
        if (times[i].tv_nsec == UTIME_NOW)
            sfs_time_set(fields[i], sfs_now());
        else if (times[i].tv_nsec != UTIME_OMIT)
            sfs_time_set(fields[i], times[i]);
    }
    sfs_time_set(&self->rec->ctime, sfs_now());
    return 0;
}

/* Locks on a view concern nobody but its users: they are taken on a file of their own. */
static int
cow_lock_fd(SfsBacking *backing)
{
    SfsCowBacking *self = sfs_cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

    if (self->locks == NULL) {
        int r = sfs_store_file_new(self->store, SFS_STORE_OVERLAY, &self->locks);

        if (r < 0)
            return r;
        self->rec->lock_slot = sfs_store_file_slot(self->locks);
    }
    return sfs_store_file_fd(self->locks);
}

static void
cow_free(SfsBacking *backing)
{
    SfsCowBacking *self = sfs_cow(backing);

    sfs_registry_release(self->registry, SFS_TABLE_VIEWS, self->slot);
    if (self->locks != NULL)
        sfs_store_file_free(self->locks);
    if (self->overlay != NULL)
        sfs_store_file_free(self->overlay);
    sfs_backing_unref(self->base);
    sfs_page_map_free(self->map);
    g_mutex_clear(&self->times);
    g_mutex_clear(&self->lock);
    g_free(self);
}

static SfsBacking *
cow_of(SfsBacking *backing)
{
    return sfs_cow(backing)->base;
}

/* In whole pages. */
static uint64_t
cow_private_bytes(SfsBacking *backing)
{
    SfsCowBacking *self = sfs_cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

    return sfs_page_map_count(self->map) * SFS_PAGE_SIZE;
}

static const SfsBackingOps cow_ops = {
    .kind = "cow",
    .stat = cow_stat,
    .read = cow_read,
    .splice_read = cow_splice_read,
    .accessed = cow_accessed,
    .write = cow_write,
    .splice_write = cow_splice_write,
    .truncate = sfs_cow_truncate,
    .allocate = sfs_cow_allocate,
    .seek = sfs_cow_seek,
    .sync = cow_sync,
    .set_times = cow_set_times,
    .private_bytes = cow_private_bytes,
    .changed = sfs_cow_changed,
    .hidden = sfs_cow_hidden,
    .reset = sfs_cow_reset,
    .commit = sfs_cow_commit,
    .of = cow_of,
    .data_fd = NULL,
    .lock_fd = cow_lock_fd,
    .free = cow_free,
};

SfsBacking *
sfs_backing_cow_new(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot)
{
    SfsCowBacking *self = g_new0(SfsCowBacking, 1);

    sfs_backing_init(&self->base_class, &cow_ops);
    g_mutex_init(&self->times);
    g_mutex_init(&self->lock);
    self->store = store;
    self->base = sfs_backing_ref(base);
    self->registry = registry;
    self->slot = slot;
    self->rec = sfs_registry_get(registry, SFS_TABLE_VIEWS, slot);
    self->map = sfs_page_map_new();
    return &self->base_class;
}

/* A death while the view was written or cut may have left pages beyond its end. */
static void
drop_beyond_end(SfsCowBacking *self)
{
    uint64_t first = sfs_cow_pages_covering((off_t)self->rec->size),
             end = sfs_cow_page_of(SFS_MAP_FILE_OFFSET);

    sfs_page_map_remove(self->map, first, end);
    sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            sfs_cow_start_of(first), SFS_MAP_FILE_OFFSET - sfs_cow_start_of(first));
    sfs_map_file_cut(&self->kept, self->overlay, self->map, first, end);
    sfs_cow_clear_rest_of_page(self, (off_t)self->rec->size);
}

SfsBacking *
sfs_backing_cow_adopt(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot)
{
    SfsBacking *backing = sfs_backing_cow_new(store, base, registry, slot);
    SfsCowBacking *self = sfs_cow(backing);

    if (self->rec->lock_slot != SFS_NO_SLOT)
        self->locks = sfs_store_file_adopt(store, SFS_STORE_OVERLAY, self->rec->lock_slot);
    if (self->rec->fd_slot != SFS_NO_SLOT) {
        self->overlay = sfs_store_file_adopt(store, SFS_STORE_OVERLAY, self->rec->fd_slot);
        if (sfs_map_file_load(&self->kept, sfs_store_file_fd(self->overlay), self->map) < 0)
            return NULL; /* the record stays, and with it what this worker has made of it */
        drop_beyond_end(self);
    }
    if (self->rec->base_limit > self->rec->size)
        atomic_store(&self->rec->base_limit, self->rec->size);
    return backing;
}
