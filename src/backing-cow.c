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
 * may be missing or done; one that was answered is there. When a view is cut, size and base_limit
 * go first: whatever of the map is left beyond size then is dropped by whoever opens the registry
 * next.
 *
 * The lock is held across system calls on the overlay, which is memory, and never across reads of
 * the base, which may be a disk. So a page is read from the base first, and used under the lock
 * only if nobody made it private meanwhile.
 *
 * Reading takes no lock, so nobody waits for who writes: the page map can be looked at without one.
 * Only where base_limit is changed together with the map, or pages are taken out of that and given
 * back (begin_cut(), end_cut()), do readers have to see both or neither; they find out by `cuts`,
 * and read again under the lock.
 */
#include "backing.h"

#include "map-file.h"
#include "page-map.h"
#include "util.h"

#include <string.h>
#include <sys/mman.h>

#define MAP_OFFSET SFS_MAP_FILE_OFFSET /* = SFS_COW_SIZE_MAX */

/* What is given back at a time under the lock. */
#define SWEEP_PAGES 4096u

typedef struct {
    SfsBacking base_class;
    SfsStore *store;
    SfsBacking *base; /* NULL: zeros */
    SfsRegistry *registry;
    uint32_t slot; /* of the record */
    SfsViewRec *rec;

    GMutex times; /* protects the record's times; the innermost lock */

    GMutex lock;                   /* protects all below, and the record's sizes */
    SfsStoreFile *_Atomic overlay; /* NULL until something is private */
    SfsPageMap *map;
    _Atomic uint32_t cuts; /* how often pages or base were taken out of it; odd: they are now */
    SfsMapFile kept;       /* the map's copy in the overlay */
    uint64_t changes;      /* counts them */
    SfsStoreFile *locks;   /* an empty file for advisory locks, NULL until there is one */
} CowBacking;

static CowBacking *
cow(SfsBacking *backing)
{
    return (CowBacking *)backing;
}

static uint64_t
page_of(off_t offset)
{
    return (uint64_t)offset >> SFS_PAGE_SHIFT;
}

static off_t
start_of(uint64_t page)
{
    return (off_t)(page << SFS_PAGE_SHIFT);
}

static uint64_t
pages_covering(off_t end)
{
    return sfs_page_round_up((uint64_t)end) >> SFS_PAGE_SHIFT;
}

static void
modified(CowBacking *self)
{
    g_mutex_lock(&self->times);
    sfs_time_set(&self->rec->mtime, sfs_now());
    self->rec->ctime = self->rec->mtime;
    g_mutex_unlock(&self->times);
    self->changes++;
}

/* --- the overlay, lock held ------------------------------------------------------------------ */

static int
need_overlay(CowBacking *self)
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

static void
make_private(CowBacking *self, uint64_t first, uint64_t end)
{
    bool already;

    if (sfs_page_map_run(self->map, first, end, &already) == end && already)
        return;
    sfs_page_map_add(self->map, first, end);
    sfs_map_file_added(&self->kept, self->overlay, self->map, first, end);
}

static void
grow_to(CowBacking *self, off_t end)
{
    if ((uint64_t)end > self->rec->size)
        atomic_store(&self->rec->size, (uint64_t)end);
}

/* What is done in between shows to readers as one change. */
static void
begin_cut(CowBacking *self)
{
    atomic_fetch_add(&self->cuts, 1);
}

static void
end_cut(CowBacking *self)
{
    atomic_fetch_add(&self->cuts, 1);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Reads what shows of the base below @limit, and zeros for the rest. */
static int
read_base(CowBacking *self, uint64_t limit, char *buf, size_t size, off_t offset)
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
read_overlay(CowBacking *self, char *buf, size_t size, off_t offset)
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
    size_t n = (size_t)(start_of(page) - offset);

    return MIN(n, size);
}

/* Lock held. */
static Place
look_locked(CowBacking *self, size_t size, off_t offset)
{
    Place place = {.limit = self->rec->base_limit, .cuts = self->cuts};
    uint64_t end = pages_covering(offset + (off_t)size);

    end = sfs_page_map_run(self->map, page_of(offset), end, &place.is_private);
    place.size = up_to_page(end, size, offset);
    return place;
}

static Place
look(CowBacking *self, size_t size, off_t offset)
{
    Place place = {.cuts = atomic_load(&self->cuts)};
    uint64_t end = pages_covering(offset + (off_t)size);

    end = sfs_page_map_peek(self->map, page_of(offset), end, &place.is_private);
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
read_place(CowBacking *self, char *buf, size_t size, off_t offset)
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

static ssize_t
cow_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    CowBacking *self = cow(backing);
    uint64_t end = atomic_load(&self->rec->size);
    size_t done = 0;

    if ((uint64_t)offset >= end)
        return 0;
    size = (size_t)MIN((uint64_t)size, end - (uint64_t)offset);
    while (done < size) {
        ssize_t n = read_place(self, (char *)buf + done, size - done, offset + (off_t)done);

        if (n < 0)
            return n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static void
cow_accessed(SfsBacking *backing)
{
    SfsViewRec *rec = cow(backing)->rec;
    struct timespec now = sfs_now();
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&cow(backing)->times);

    if (sfs_atime_is_due(sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime),
                         sfs_time_get(&rec->ctime), now))
        sfs_time_set(&rec->atime, now);
}

/* --- writing --------------------------------------------------------------------------------- */

/* Writes within one page, completing it from the base where it is not private yet. 0 or a negative
 * errno: all of it or nothing. */
static int
write_in_page(CowBacking *self, const char *buf, size_t size, off_t offset, bool force)
{
    uint64_t number = page_of(offset);
    size_t in_page = (size_t)offset % SFS_PAGE_SIZE;
    char page[SFS_PAGE_SIZE];
    bool have_page = false;
    ssize_t n;
    int r = 0;

    g_mutex_lock(&self->lock);
    while (!sfs_page_map_has(self->map, number) && !have_page) {
        uint64_t limit = self->rec->base_limit;
        uint32_t cuts = self->cuts;

        g_mutex_unlock(&self->lock);
        r = read_base(self, limit, page, sizeof page, start_of(number));
        if (r < 0)
            return r;
        g_mutex_lock(&self->lock);
        /* Cut or committed meanwhile: what was read may show what is gone, or not what has come. */
        have_page = cuts == self->cuts;
    }
    r = need_overlay(self);
    if (r == 0 && sfs_page_map_has(self->map, number)) {
        n = sfs_store_file_write(self->overlay, buf, size, offset, force);
        r = n < 0 ? (int)n : 0;
    } else if (r == 0) {
        memcpy(page + in_page, buf, size);
        n = sfs_store_file_write(self->overlay, page, sizeof page, start_of(number), force);
        r = n < 0 ? (int)n : 0;
        if (r == 0)
            make_private(self, number, number + 1);
    }
    if (r == 0) {
        grow_to(self, offset + (off_t)size);
        modified(self);
    }
    g_mutex_unlock(&self->lock);
    return r;
}

/* Writes whole pages from @buf, or from the @pipe where there is one; how many bytes of them (whole
 * pages again), or a negative errno. */
static ssize_t
write_pages(CowBacking *self, const char *buf, int pipe, size_t size, off_t offset, bool force)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    ssize_t n;
    int r = need_overlay(self);

    if (r < 0)
        return r;
    n = pipe < 0 ? sfs_store_file_write(self->overlay, buf, size, offset, force)
                 : sfs_store_file_splice(self->overlay, pipe, size, offset, force);
    if (n < 0)
        return n;
    n -= n % SFS_PAGE_SIZE;
    if (n == 0)
        return -ENOSPC;
    make_private(self, page_of(offset), page_of(offset + n));
    grow_to(self, offset + n);
    modified(self);
    return n;
}

static ssize_t
cow_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    CowBacking *self = cow(backing);
    bool force = how & SFS_WRITE_BACK;
    size_t done = 0;

    if (offset >= MAP_OFFSET || (off_t)size > MAP_OFFSET - offset)
        return -EFBIG;
    while (done < size) {
        const char *from = (const char *)buf + done;
        off_t at = offset + (off_t)done;
        size_t rest = size - done;
        size_t in_page = (size_t)at % SFS_PAGE_SIZE;
        ssize_t n;

        if (in_page == 0 && rest >= SFS_PAGE_SIZE) {
            n = write_pages(self, from, -1, rest - rest % SFS_PAGE_SIZE, at, force);
        } else {
            size_t part = MIN(rest, SFS_PAGE_SIZE - in_page);
            int r = write_in_page(self, from, part, at, force);

            n = r < 0 ? r : (ssize_t)part;
        }
        if (n < 0)
            return done > 0 ? (ssize_t)done : n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

static ssize_t
cow_splice(SfsBacking *backing, int pipe, size_t size, off_t offset, unsigned how)
{
    if (offset >= MAP_OFFSET || (off_t)size > MAP_OFFSET - offset)
        return -EFBIG;
    return write_pages(cow(backing), NULL, pipe, size, offset, how & SFS_WRITE_BACK);
}

/* --- sizes and holes ------------------------------------------------------------------------- */

/* Zeros from @from to the end of its page, if that page is private. Lock held. */
static int
clear_rest_of_page(CowBacking *self, off_t from)
{
    static const char zeros[SFS_PAGE_SIZE];
    size_t in_page = (size_t)from % SFS_PAGE_SIZE;
    ssize_t n;

    if (in_page == 0 || !sfs_page_map_has(self->map, page_of(from)))
        return 0;
    n = sfs_store_file_write(self->overlay, zeros, SFS_PAGE_SIZE - in_page, from, true);
    return n < 0 ? (int)n : 0;
}

static int
cow_truncate(SfsBacking *backing, off_t size)
{
    CowBacking *self = cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    uint64_t old = self->rec->size;
    int r;

    if (size > MAP_OFFSET)
        return -EFBIG;
    if ((uint64_t)size < old) {
        uint64_t first = pages_covering(size), end = pages_covering((off_t)old);

        r = clear_rest_of_page(self, size);
        if (r < 0)
            return r;
        begin_cut(self);
        if (self->rec->base_limit > (uint64_t)size)
            atomic_store(&self->rec->base_limit, (uint64_t)size);
        atomic_store(&self->rec->size, (uint64_t)size);
        if (self->overlay != NULL && first < end) {
            sfs_page_map_remove(self->map, first, end);
            sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    start_of(first), start_of(end - first));
            sfs_map_file_cut(&self->kept, self->overlay, self->map, first, end);
        }
        end_cut(self);
    } else {
        atomic_store(&self->rec->size, (uint64_t)size);
    }
    modified(self);
    return 0;
}

/* Where the base shows data within [from, end), from the first of it on: [*from, *to). False:
 * nowhere. Not locked. */
static bool
next_shown(CowBacking *self, off_t *from, off_t end, off_t *to)
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
hide_base(CowBacking *self, uint64_t first, uint64_t end)
{
    off_t from = start_of(first), to;

    while (next_shown(self, &from, start_of(end), &to)) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
        uint64_t stop = pages_covering(to);
        int r = need_overlay(self);

        if (r < 0)
            return r;
        make_private(self, page_of(from), MIN(stop, end));
        from = start_of(stop);
    }
    return 0;
}

/* Makes whole pages read as zeros without holding memory. Neither time nor memory depends on how
 * large a hole is. */
static int
punch_pages(CowBacking *self, uint64_t first, uint64_t end)
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
                                        start_of(first), start_of(end - first));
        if (done)
            modified(self);
        g_mutex_unlock(&self->lock);
    }
    return r;
}

static int
write_zeros(CowBacking *self, off_t from, off_t end)
{
    static const char zeros[SFS_PAGE_SIZE];

    return from < end ? write_in_page(self, zeros, (size_t)(end - from), from, false) : 0;
}

/* Makes [offset, end) read as zeros; does not change the size. */
static int
punch(CowBacking *self, off_t offset, off_t end)
{
    off_t size = (off_t)atomic_load(&self->rec->size);
    off_t first, last, head_end;
    int r;

    end = MIN(end, size);
    if (offset >= end)
        return 0;
    first = start_of(pages_covering(offset));
    /* What follows the last byte of the file within its page is zero already. */
    last = start_of(end == size ? pages_covering(end) : page_of(end));
    head_end = MIN(first, end);
    r = write_zeros(self, offset, head_end);
    if (r == 0 && first < last)
        r = punch_pages(self, page_of(first), page_of(last));
    if (r == 0)
        r = write_zeros(self, MAX(last, head_end), end);
    return r;
}

static int
cow_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    CowBacking *self = cow(backing);
    off_t end;
    int r = 0;

    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    /* Making zeros of what is beyond the end, however far, is nothing to do. */
    if (mode & FALLOC_FL_KEEP_SIZE && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        offset = MIN(offset, MAP_OFFSET);
        length = MIN(length, MAP_OFFSET - offset);
    } else if (offset >= MAP_OFFSET || length > MAP_OFFSET - offset) {
        return -EFBIG;
    }
    end = offset + length;
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        r = punch(self, offset, end);
    } else {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

        /* The room is taken now, so that no later write can fail for want of it; the pages become
         * private when they are written. */
        r = need_overlay(self);
        if (r == 0)
            r = sfs_store_file_allocate(self->overlay, FALLOC_FL_KEEP_SIZE, offset, length);
    }
    if (r == 0) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

        if (!(mode & FALLOC_FL_KEEP_SIZE))
            grow_to(self, end);
        modified(self);
    }
    return r;
}

/* End of the data, or of the hole, that @at lies in, within a run of pages alike that ends at @end:
 * *@data tells which it is. */
static off_t
extent(CowBacking *self, bool is_private, uint64_t limit, off_t at, off_t end, bool *data)
{
    off_t next, hole;

    if (!is_private) {
        if (self->base == NULL || (uint64_t)at >= limit) {
            *data = false;
            return end;
        }
        end = MIN(end, start_of(pages_covering((off_t)limit)));
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

static off_t
cow_seek(SfsBacking *backing, off_t offset, int whence)
{
    CowBacking *self = cow(backing);
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
        run_end = sfs_page_map_run(self->map, page_of(at), pages_covering(size), &is_private);
        limit = self->rec->base_limit;
        cuts = self->cuts;
        g_mutex_unlock(&self->lock);
        end = extent(self, is_private, limit, at, MIN(start_of(run_end), size), &data);
        /* What it has looked at may have been given back already. */
        if (atomic_load(&self->cuts) != cuts)
            continue;
        if (data == (whence == SEEK_DATA))
            return at;
        at = end;
    }
    return whence == SEEK_HOLE ? size : -ENXIO;
}

/* --- the rest -------------------------------------------------------------------------------- */

static int
cow_stat(SfsBacking *backing, struct stat *st)
{
    CowBacking *self = cow(backing);
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

static int
cow_set_times(SfsBacking *backing, const struct timespec times[2])
{
    CowBacking *self = cow(backing);
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
    CowBacking *self = cow(backing);
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
    CowBacking *self = cow(backing);

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

/* In whole pages. */
static uint64_t
cow_private_bytes(SfsBacking *backing)
{
    CowBacking *self = cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);

    return sfs_page_map_count(self->map) * SFS_PAGE_SIZE;
}

/* --- what is done with a view as a whole ----------------------------------------------------- */

static int
cow_changed(SfsBacking *backing, off_t from, off_t *first, off_t *end)
{
    CowBacking *self = cow(backing);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
    uint64_t stop = pages_covering((off_t)self->rec->size), page = page_of(from), next;
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
    *first = start_of(page);
    *end = start_of(next);
    return 0;
}

/* Nothing is private any more. The memory goes back afterwards, piece by piece, so that nobody has
 * to wait for the lock while it does. Lock held. */
static void
forget_all(CowBacking *self)
{
    uint64_t end = pages_covering((off_t)self->rec->size);

    sfs_page_map_remove(self->map, 0, end);
    if (self->overlay != NULL)
        sfs_map_file_cut(&self->kept, self->overlay, self->map, 0, end);
}

/* Gives back what the overlay holds below @size and the map does not know. */
static void
sweep(CowBacking *self, off_t size)
{
    off_t at = 0, data;

    while (self->overlay != NULL && at < size) {
        g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&self->lock);
        uint64_t next;
        bool is_private;

        data = lseek(sfs_store_file_fd(self->overlay), at, SEEK_DATA);
        if (data < 0 || data >= size)
            return;
        at = data & ~(off_t)(SFS_PAGE_SIZE - 1);
        next = sfs_page_map_run(self->map, page_of(at), page_of(at) + SWEEP_PAGES, &is_private);
        if (!is_private)
            sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                                    start_of(next) - at);
        at = start_of(next);
    }
}

static int
cow_reset(SfsBacking *backing, off_t size)
{
    CowBacking *self = cow(backing);
    off_t old;

    g_mutex_lock(&self->lock);
    old = (off_t)self->rec->size;
    begin_cut(self);
    forget_all(self);
    atomic_store(&self->rec->base_limit, (uint64_t)size);
    atomic_store(&self->rec->size, (uint64_t)size);
    end_cut(self);
    modified(self);
    g_mutex_unlock(&self->lock);
    sweep(self, old);
    return 0;
}

static int
cow_commit(SfsBacking *backing)
{
    CowBacking *self = cow(backing);
    uint64_t changes;
    off_t limit, size;
    int r;

    if (self->base == NULL)
        return -EOPNOTSUPP;
    g_mutex_lock(&self->lock);
    changes = self->changes;
    limit = (off_t)self->rec->base_limit;
    g_mutex_unlock(&self->lock);
    r = sfs_view_commit_bytes(backing, self->base, self->rec, limit);
    if (r < 0)
        return r;
    g_mutex_lock(&self->lock);
    size = (off_t)self->rec->size;
    if (changes == self->changes) {
        begin_cut(self);
        atomic_store(&self->rec->base_limit, self->rec->size);
        forget_all(self);
        end_cut(self);
    }
    g_mutex_unlock(&self->lock);
    sweep(self, size);
    return 0;
}

static const SfsBackingOps cow_ops = {
    .kind = "cow",
    .stat = cow_stat,
    .read = cow_read,
    .accessed = cow_accessed,
    .write = cow_write,
    .splice = cow_splice,
    .truncate = cow_truncate,
    .allocate = cow_allocate,
    .seek = cow_seek,
    .sync = NULL,
    .set_times = cow_set_times,
    .private_bytes = cow_private_bytes,
    .changed = cow_changed,
    .reset = cow_reset,
    .commit = cow_commit,
    .data_fd = NULL,
    .lock_fd = cow_lock_fd,
    .free = cow_free,
};

SfsBacking *
sfs_backing_cow_new(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot)
{
    CowBacking *self = g_new0(CowBacking, 1);

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
drop_beyond_end(CowBacking *self)
{
    uint64_t first = pages_covering((off_t)self->rec->size), end = page_of(MAP_OFFSET);

    sfs_page_map_remove(self->map, first, end);
    sfs_store_file_allocate(self->overlay, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            start_of(first), MAP_OFFSET - start_of(first));
    sfs_map_file_cut(&self->kept, self->overlay, self->map, first, end);
    clear_rest_of_page(self, (off_t)self->rec->size);
}

SfsBacking *
sfs_backing_cow_adopt(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot)
{
    SfsBacking *backing = sfs_backing_cow_new(store, base, registry, slot);
    CowBacking *self = cow(backing);

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
