/* SPDX-License-Identifier: MIT */
/*
 * Accounting. `used` counts the bytes of counted files, page by page as fstat(2) reports them. A
 * write first charges what it will have to allocate, writes, and then settles with what it did
 * allocate, under the lock of the file; so `used` is never less than the truth.
 *
 * What it will have to allocate can be found out, but that takes a walk through the file's pages.
 * So where there is room, all that it could be is charged, without looking ("generously"). Nobody
 * is refused for the sake of that: who finds no room waits until the generous charges are settled,
 * of which none is made meanwhile, and asks again. Who writes into the tmpfs past the daemon cannot
 * be made to wait, so room is taken off that for a generous charge only where plenty is left. Pages
 * that were allocated ahead (fallocate) and not written yet look like holes to lseek(2), so they
 * are noted.
 *
 * Where a tmpfs holds the page sections, a charge must come out of the tmpfs's free room: its size
 * is lowered by what is `reserved` for counted files. Lowering it below what it holds is refused by
 * the kernel (EINVAL), and that refusal is our ENOSPC: exact, however many passthrough writers race
 * with it. Reservations grow and shrink in steps, because each change costs some microseconds.
 *
 * Locks: SfsStoreFile.lock, then SfsStore.lock. Neither is held across anything but system calls on
 * memory files and the reconfiguration of the tmpfs.
 */
#include "store.h"

#include "keeper-link.h"
#include "log.h"
#include "page-map.h"
#include "util.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statfs.h>

/* What a store without a limit is limited to: tmpfs stops counting when told "none". */
#define NO_LIMIT ((uint64_t)1 << 60)

/* Steps of the reservation: taken at a time, and kept in hand at most. */
#define RESERVE_STEP ((uint64_t)1 << 20)
#define RESERVE_SPARE ((uint64_t)4 << 20)

/* What a tmpfs has to have free before room is taken off it that may not be needed. */
#define PLENTY ((uint64_t)16 << 20)

struct SfsStore {
    SfsRegistry *registry;
    int link;
    int tmpfs;
    uint64_t limit;
    GThreadPool *reaper;

    GMutex lock;       /* protects all below */
    uint64_t used;     /* bytes of counted files, charges included */
    uint64_t overlays; /* the part of it in overlays */
    uint64_t reserved; /* taken off the tmpfs; >= used unless forced */
    uint64_t generous; /* the part of `used` that was charged without looking */
    unsigned waiting;  /* those who have found no room, until all of that is settled */
    GCond settled;     /* generous is 0 */
};

struct SfsStoreFile {
    SfsStore *store;
    SfsStoreUse use;
    bool counted;
    int fd;
    uint32_t slot;

    GMutex lock;
    uint64_t bytes;    /* counted for this file; protected by lock */
    SfsPageMap *ahead; /* pages allocated ahead, NULL: none ever; protected by lock */
    uint64_t unseen; /* bytes that an earlier worker allocated ahead somewhere; protected by lock */
};

/* --- the private tmpfs ----------------------------------------------------------------------- */

static int
set_size(int context, uint64_t bytes)
{
    char text[32];

    g_snprintf(text, sizeof text, "%" PRIu64, bytes);
    return fsconfig(context, FSCONFIG_SET_STRING, "size", text, 0) == 0 ? 0 : -errno;
}

int
sfs_store_make_tmpfs(uint64_t limit, bool no_atime, GError **error)
{
    sfs_autofd context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    int mount = -1;

    if (context >= 0 && set_size(context, limit != 0 ? limit : NO_LIMIT) == 0 &&
        fsconfig(context, FSCONFIG_SET_STRING, "nr_inodes", "0", 0) == 0 &&
        fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0 &&
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = fsmount(context, FSMOUNT_CLOEXEC,
                        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                            (no_atime ? MOUNT_ATTR_NOATIME : MOUNT_ATTR_RELATIME));
    if (mount < 0)
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "cannot make the private tmpfs: %s", g_strerror(errno));
    return mount;
}

/* Sets how much the tmpfs may hold. -ENOSPC when it holds more already. */
static int
resize_tmpfs(SfsStore *store, uint64_t bytes)
{
    sfs_autofd context = fspick(store->tmpfs, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
    int r;

    if (context < 0)
        return -errno;
    r = set_size(context, bytes);
    if (r < 0)
        return r;
    if (fsconfig(context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) != 0)
        return errno == EINVAL ? -ENOSPC : -errno;
    return 0;
}

/* --- the count ------------------------------------------------------------------------------- */

static uint64_t
effective_limit(const SfsStore *store)
{
    return store->limit != 0 ? store->limit : NO_LIMIT;
}

/* The kernel compares what the tmpfs holds with its new size, and then sets that: who writes into
 * it in between is found out here. */
static bool
tmpfs_is_within(SfsStore *store)
{
    struct statfs st;

    return fstatfs(store->tmpfs, &st) == 0 && st.f_bfree <= st.f_blocks;
}

/* Makes the reservation at least @wanted bytes. Lock held. */
static int
reserve(SfsStore *store, uint64_t wanted)
{
    uint64_t steps[] = {wanted + RESERVE_STEP, wanted};

    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        /* 0 would mean "no limit" to tmpfs, so one page always stays with it. */
        if (steps[i] + SFS_PAGE_SIZE > effective_limit(store))
            continue;
        if (resize_tmpfs(store, effective_limit(store) - steps[i]) < 0)
            continue;
        if (tmpfs_is_within(store)) {
            store->reserved = steps[i];
            return 0;
        }
        resize_tmpfs(store, effective_limit(store) - store->reserved);
    }
    return -ENOSPC;
}

/* Gives back what is reserved beyond need. Failure leaves it reserved, which is only early ENOSPC
 * for others. Lock held. */
static void
give_back(SfsStore *store)
{
    uint64_t keep = store->used == 0 ? 0 : store->used + RESERVE_STEP;

    if (store->reserved > keep && (store->used == 0 || store->reserved - keep > RESERVE_SPARE) &&
        resize_tmpfs(store, effective_limit(store) - keep) == 0)
        store->reserved = keep;
}

/* Whether @bytes more fit, making room for them in the tmpfs. Lock held. */
static bool
make_room(SfsStore *store, uint64_t bytes)
{
    if (store->tmpfs < 0)
        return store->used + bytes <= effective_limit(store);
    return store->used + bytes <= store->reserved || reserve(store, store->used + bytes) == 0;
}

/* As make_room(), taking nothing that somebody else could miss. Lock held. */
static bool
make_spare_room(SfsStore *store, uint64_t bytes)
{
    struct statfs st;

    if (store->tmpfs >= 0 && store->used + bytes > store->reserved &&
        (fstatfs(store->tmpfs, &st) != 0 ||
         (uint64_t)st.f_bfree * (uint64_t)st.f_bsize < bytes + PLENTY))
        return false;
    return make_room(store, bytes);
}

/* Lock held. */
static void
count(SfsStoreFile *file, uint64_t bytes)
{
    file->store->used += bytes;
    if (file->use == SFS_STORE_OVERLAY)
        file->store->overlays += bytes;
}

/* Counts @bytes for @file, if they fit. */
static bool
charge(SfsStoreFile *file, uint64_t bytes, bool force)
{
    SfsStore *store = file->store;
    bool fits;

    /* What needs no room is never refused, not even above the limit. */
    if (bytes == 0)
        return true;
    g_mutex_lock(&store->lock);
    fits = make_room(store, bytes);
    while (!fits && !force && store->generous > 0) {
        store->waiting++;
        g_cond_wait(&store->settled, &store->lock);
        store->waiting--;
        fits = make_room(store, bytes);
    }
    if (fits || force)
        count(file, bytes);
    g_mutex_unlock(&store->lock);
    return fits || force;
}

/* Counts @bytes for @file that it may not need, until settle_generous(). False: no room for that.
 */
static bool
charge_generously(SfsStoreFile *file, uint64_t bytes)
{
    SfsStore *store = file->store;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&store->lock);

    if (store->waiting > 0 || !make_spare_room(store, bytes))
        return false;
    count(file, bytes);
    store->generous += bytes;
    return true;
}

static void
uncharge(SfsStoreFile *file, uint64_t bytes)
{
    SfsStore *store = file->store;

    if (bytes == 0)
        return;
    g_mutex_lock(&store->lock);
    store->used -= bytes;
    if (file->use == SFS_STORE_OVERLAY)
        store->overlays -= bytes;
    if (store->tmpfs >= 0)
        give_back(store);
    g_mutex_unlock(&store->lock);
}

/* Bytes, in whole pages, that lseek(2) takes for data. */
static uint64_t
data_bytes(const SfsStoreFile *file)
{
    uint64_t bytes = 0;
    off_t hole = 0, data;

    while ((data = lseek(file->fd, hole, SEEK_DATA)) >= 0) {
        hole = lseek(file->fd, data, SEEK_HOLE);
        if (hole < 0)
            break;
        bytes +=
            sfs_page_round_up((uint64_t)hole) - ((uint64_t)data & ~(uint64_t)(SFS_PAGE_SIZE - 1));
    }
    return bytes;
}

/* Replaces what was charged for an operation on @file by what it really holds. File locked. */
static void
settle(SfsStoreFile *file, uint64_t charged)
{
    struct stat st;
    uint64_t now = file->bytes + charged;

    if (fstat(file->fd, &st) == 0)
        now = (uint64_t)st.st_blocks * 512;
    if (now > file->bytes + charged)
        charge(file, now - file->bytes - charged, true);
    else
        uncharge(file, file->bytes + charged - now);
    file->bytes = now;
    if (file->unseen > 0) {
        uint64_t seen = data_bytes(file);

        file->unseen = now - MIN(now, seen);
    }
}

/* As settle(), of what was charged generously. */
static void
settle_generous(SfsStoreFile *file, uint64_t charged)
{
    SfsStore *store = file->store;

    settle(file, charged);
    g_mutex_lock(&store->lock);
    store->generous -= charged;
    if (store->generous == 0 && store->waiting > 0)
        g_cond_broadcast(&store->settled);
    g_mutex_unlock(&store->lock);
}

/* Pages of a hole, given in bytes, that were not allocated ahead. */
static uint64_t
pages_to_allocate(const SfsStoreFile *file, uint64_t from, uint64_t end)
{
    uint64_t page = from >> SFS_PAGE_SHIFT, stop = end >> SFS_PAGE_SHIFT, n = 0;

    if (file->ahead == NULL)
        return stop - page;
    while (page < stop) {
        bool ahead;
        uint64_t next = sfs_page_map_run(file->ahead, page, stop, &ahead);

        n += ahead ? 0 : next - page;
        page = next;
    }
    return n;
}

/* Bytes of the pages that a range touches. */
static uint64_t
covered(off_t offset, uint64_t length)
{
    return sfs_page_round_up((uint64_t)offset + length) -
           ((uint64_t)offset & ~(uint64_t)(SFS_PAGE_SIZE - 1));
}

/* Bytes, in whole pages, of this range that are not known to be there. File locked. */
static uint64_t
holes(const SfsStoreFile *file, off_t offset, uint64_t length)
{
    uint64_t end = sfs_page_round_up((uint64_t)offset + length);
    uint64_t at = (uint64_t)offset & ~(uint64_t)(SFS_PAGE_SIZE - 1);
    uint64_t pages = 0;

    while (at < end) {
        off_t data = lseek(file->fd, (off_t)at, SEEK_DATA);
        uint64_t hole_end = data < 0 ? end : MIN((uint64_t)data, end);
        off_t hole;

        pages += pages_to_allocate(file, at, hole_end);
        if (hole_end == end)
            break;
        hole = lseek(file->fd, data, SEEK_HOLE);
        /* The end of the file counts as a hole, though its last page is there as a whole. */
        at = hole < 0 ? end : sfs_page_round_up((uint64_t)hole);
    }
    return pages << SFS_PAGE_SHIFT;
}

/* Bytes, in whole pages, that writing this range would have to allocate. File locked. */
static uint64_t
missing(const SfsStoreFile *file, off_t offset, uint64_t length)
{
    uint64_t bytes = holes(file, offset, length);

    /* Which pages an earlier worker has allocated is not known, only how many: whoever writes first
     * gets them. What that gets wrong is found by settle(). */
    return bytes - MIN(bytes, file->unseen);
}

/* Bytes used of the limit by all. Lock held. */
static uint64_t
used_by_all(const SfsStore *store)
{
    struct statfs st;

    if (store->tmpfs < 0 || fstatfs(store->tmpfs, &st) != 0)
        return store->used;
    return store->used + (uint64_t)(st.f_blocks - st.f_bfree) * (uint64_t)st.f_bsize;
}

void
sfs_store_usage(SfsStore *store, SfsStoreUsage *usage)
{
    g_mutex_lock(&store->lock);
    usage->limit = store->limit;
    usage->used = used_by_all(store);
    usage->overlays = store->overlays;
    g_mutex_unlock(&store->lock);
}

const char *
sfs_store_engine(const SfsStore *store)
{
    return store->tmpfs >= 0 ? "tmpfs" : "memfd";
}

/* --- files ----------------------------------------------------------------------------------- */

/* On the reaper's thread. */
static void
reap(gpointer data, gpointer unused)
{
    SfsStoreFile *file = data;
    uint64_t bytes = file->bytes;

    /* The keeper is about to close its own, and gives back the memory if it is the last to do so:
     * meanwhile it takes no descriptors, and who opens something waits. Nobody but us has those
     * that are counted. */
    if (file->counted && ftruncate(file->fd, 0) != 0)
        g_debug("memory of a file cannot be given back before it is closed: %s", g_strerror(errno));
    close(file->fd);
    uncharge(file, bytes);
    sfs_page_map_free(file->ahead);
    g_mutex_clear(&file->lock);
    g_free(file);
}

/* What an earlier worker has taken off the tmpfs. */
static uint64_t
already_reserved(const SfsStore *store)
{
    struct statfs st;
    uint64_t size;

    if (store->tmpfs < 0 || fstatfs(store->tmpfs, &st) != 0)
        return 0;
    size = (uint64_t)st.f_blocks * (uint64_t)st.f_bsize;
    return effective_limit(store) - MIN(size, effective_limit(store));
}

SfsStore *
sfs_store_new(SfsRegistry *registry, int link, int tmpfs, uint64_t limit)
{
    SfsStore *store = g_new0(SfsStore, 1);

    store->registry = registry;
    store->link = link;
    store->tmpfs = tmpfs;
    store->limit = limit;
    store->reserved = already_reserved(store);
    g_mutex_init(&store->lock);
    g_cond_init(&store->settled);
    store->reaper = g_thread_pool_new(reap, NULL, 1, FALSE, NULL);
    return store;
}

void
sfs_store_free(SfsStore *store)
{
    if (store == NULL)
        return;
    g_thread_pool_free(store->reaper, FALSE, TRUE);
    g_cond_clear(&store->settled);
    g_mutex_clear(&store->lock);
    g_free(store);
}

int
sfs_store_file_new(SfsStore *store, SfsStoreUse use, SfsStoreFile **out)
{
    bool counted = use == SFS_STORE_OVERLAY || store->tmpfs < 0;
    sfs_autofd fd = -1;
    SfsStoreFile *file;
    uint32_t slot;
    int r;

    if (counted)
        fd = memfd_create(use == SFS_STORE_OVERLAY ? "sectionfs-overlay" : "sectionfs-section",
                          MFD_CLOEXEC);
    else
        fd = openat(store->tmpfs, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EMFILE ? -ENFILE : -errno; /* the limit is the mount's, not the caller's */
    r = sfs_link_put(store->link, store->registry, fd, &slot);
    if (r < 0)
        return r;
    file = g_new0(SfsStoreFile, 1);
    file->store = store;
    file->use = use;
    file->counted = counted;
    file->slot = slot;
    file->fd = sfs_fd_steal(&fd);
    g_mutex_init(&file->lock);
    *out = file;
    return 0;
}

SfsStoreFile *
sfs_store_file_adopt(SfsStore *store, SfsStoreUse use, uint32_t slot)
{
    SfsStoreFile *file = g_new0(SfsStoreFile, 1);
    struct stat st;

    file->store = store;
    file->use = use;
    file->counted = use == SFS_STORE_OVERLAY || store->tmpfs < 0;
    file->slot = slot;
    file->fd = sfs_link_inherited(store->registry, slot);
    g_mutex_init(&file->lock);
    if (file->counted && fstat(file->fd, &st) == 0) {
        file->bytes = (uint64_t)st.st_blocks * 512;
        file->unseen = file->bytes - MIN(file->bytes, data_bytes(file));
        store->used += file->bytes;
        if (use == SFS_STORE_OVERLAY)
            store->overlays += file->bytes;
    }
    return file;
}

void
sfs_store_adopted(SfsStore *store)
{
    if (store->tmpfs < 0)
        return;
    g_mutex_lock(&store->lock);
    /* What was allocated and not yet charged for: as if it had been forced. */
    if (store->used > store->reserved)
        reserve(store, store->used);
    else
        give_back(store);
    g_mutex_unlock(&store->lock);
}

void
sfs_store_file_free(SfsStoreFile *file)
{
    sfs_link_drop(file->store->link, file->store->registry, file->slot);
    sfs_pool_push(file->store->reaper, file);
}

int
sfs_store_file_fd(const SfsStoreFile *file)
{
    return file->fd;
}

uint32_t
sfs_store_file_slot(const SfsStoreFile *file)
{
    return file->slot;
}

/* What there is room for, if those who have been charged generously need none of that. */
static uint64_t
room_left(SfsStore *store)
{
    uint64_t limit = effective_limit(store), used;

    g_mutex_lock(&store->lock);
    used = used_by_all(store);
    used -= MIN(used, store->generous);
    g_mutex_unlock(&store->lock);
    return limit - MIN(used, limit);
}

/* How much of a write that does not fit as a whole may do so: to the end of the last page for which
 * there is room, taking less than @refused. File locked. */
static size_t
fitting(SfsStoreFile *file, size_t size, off_t offset, uint64_t refused)
{
    uint64_t room = room_left(file->store);
    size_t fits = 0;

    room = MIN(room, refused - SFS_PAGE_SIZE) + file->unseen;
    while (fits < size) {
        size_t page_end = fits + SFS_PAGE_SIZE - (size_t)(offset + (off_t)fits) % SFS_PAGE_SIZE;
        size_t next = MIN(page_end, size);
        uint64_t needed = holes(file, offset + (off_t)fits, next - fits);

        if (needed > room)
            break;
        room -= needed;
        fits = next;
    }
    return fits;
}

/* Writes @buf, or what the @pipe has where there is one, whatever the limit. */
static ssize_t
put(SfsStoreFile *file, const void *buf, int pipe, size_t size, off_t offset)
{
    int r;

    if (pipe >= 0)
        return sfs_splice_full(pipe, file->fd, size, offset);
    if (!file->counted) {
        ssize_t n = pwrite(file->fd, buf, size, offset);

        return n < 0 ? -errno : n;
    }
    r = sfs_pwrite_full(file->fd, buf, size, offset);
    return r < 0 ? r : (ssize_t)size;
}

/* File locked. */
static ssize_t
put_counted(SfsStoreFile *file, const void *buf, int pipe, size_t size, off_t offset, bool force)
{
    uint64_t charged = covered(offset, size);
    ssize_t n;

    if (charge_generously(file, charged)) {
        n = put(file, buf, pipe, size, offset);
        settle_generous(file, charged);
        return n;
    }
    charged = missing(file, offset, size);
    while (!charge(file, charged, force)) {
        size = fitting(file, size, offset, charged);
        if (size == 0)
            return -ENOSPC;
        charged = missing(file, offset, size);
    }
    n = put(file, buf, pipe, size, offset);
    settle(file, charged);
    return n;
}

static ssize_t
write_from(SfsStoreFile *file, const void *buf, int pipe, size_t size, off_t offset, bool force)
{
    g_autoptr(GMutexLocker) locker = NULL;
    size_t fits = size;
    ssize_t n;

    if (file->counted || force)
        locker = g_mutex_locker_new(&file->lock);
    /* Nobody truncates it now. An overlay ends where its view says. */
    if (force && file->use == SFS_STORE_SECTION) {
        fits = sfs_below_end(file->fd, size, offset);
        if (fits == 0)
            return (ssize_t)size;
    }
    n = file->counted ? put_counted(file, buf, pipe, fits, offset, force)
                      : put(file, buf, pipe, fits, offset);
    return n == (ssize_t)fits ? (ssize_t)size : n;
}

ssize_t
sfs_store_file_write(SfsStoreFile *file, const void *buf, size_t size, off_t offset, bool force)
{
    return write_from(file, buf, -1, size, offset, force);
}

ssize_t
sfs_store_file_splice(SfsStoreFile *file, int pipe, size_t size, off_t offset, bool force)
{
    return write_from(file, NULL, pipe, size, offset, force);
}

int
sfs_store_file_truncate(SfsStoreFile *file, off_t size)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&file->lock);

    if (ftruncate(file->fd, size) != 0)
        return -errno;
    if (file->ahead != NULL)
        sfs_page_map_remove(file->ahead, sfs_page_round_up((uint64_t)size) >> SFS_PAGE_SHIFT,
                            UINT64_MAX >> SFS_PAGE_SHIFT);
    if (file->counted)
        settle(file, 0);
    return 0;
}

/* Pages that are there now, or are not any more, though none of them was written. File locked. */
static void
note_ahead(SfsStoreFile *file, int mode, off_t offset, off_t length)
{
    uint64_t end = (uint64_t)offset + (uint64_t)length;

    if (mode & FALLOC_FL_PUNCH_HOLE) {
        if (file->ahead != NULL)
            sfs_page_map_remove(file->ahead, sfs_page_round_up((uint64_t)offset) >> SFS_PAGE_SHIFT,
                                end >> SFS_PAGE_SHIFT);
        return;
    }
    if (file->ahead == NULL)
        file->ahead = sfs_page_map_new();
    sfs_page_map_add(file->ahead, (uint64_t)offset >> SFS_PAGE_SHIFT,
                     sfs_page_round_up(end) >> SFS_PAGE_SHIFT);
}

int
sfs_store_file_allocate(SfsStoreFile *file, int mode, off_t offset, off_t length)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&file->lock);
    uint64_t charged = 0;
    int r;

    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE))
        return -EOPNOTSUPP; /* as memory files have it, before room is looked for */
    if (file->counted && !(mode & FALLOC_FL_PUNCH_HOLE)) {
        charged = missing(file, offset, (uint64_t)length);
        if (!charge(file, charged, false))
            return -ENOSPC;
    }
    r = fallocate(file->fd, mode, offset, length) == 0 ? 0 : -errno;
    if (file->counted) {
        if (r == 0)
            note_ahead(file, mode, offset, length);
        settle(file, charged);
    }
    return r;
}
