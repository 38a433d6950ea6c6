/* SPDX-License-Identifier: MIT */
/*
 * An Owner is what one owner has locked of one backing. It lives in the table from its first lock
 * until it closes the file, and beyond that as long as somebody uses it, as its waiters do: what
 * they get after the close is to stay.
 *
 * The table's lock protects the table, who uses the owners, and what they have noted; it is not
 * held across the locking or lifting itself, which on a network's file system takes time. What is
 * noted of ranges serves only to tell who holds a lock; the kernel's word is what counts.
 *
 * The keeper has a duplicate of every description that locks are held by, so that they outlive the
 * worker; therefore closing does not lift them here, and is never meant to. Whose they are is in
 * the registry (SfsLockRec; flock_slot of a handle), on what ranges is asked of the kernel.
 *
 * A waiter sleeps in fcntl(2) or flock(2), and is got out of it by a signal. As a signal can come
 * just before it falls asleep, it is sent again and again until the waiter has woken up.
 */
#include "lock.h"

#include "crew.h"
#include "keeper-link.h"
#include "log.h"
#include "util.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define WAKE_SIGNAL SIGUSR1
#define WAKE_AGAIN_US 500

/* Links of a chain of waiting processes that are followed. */
#define RING_MAX 10

typedef struct {
    off_t start, end; /* end exclusive; INT64_MAX: to the end of the file, wherever that is */
    short type;       /* F_RDLCK or F_WRLCK */
} Range;

typedef struct {
    const SfsBacking *backing; /* key, with id */
    uint64_t id;
    guint refs;
    SfsLocks *locks;
    uint32_t slot; /* of its record */
    SfsLockRec *rec;
    int fd;              /* the open file description that holds the locks */
    pid_t pid;           /* of the process that locked last */
    GArray *ranges;      /* of Range, apart from each other */
    GHashTable *through; /* set of the handles that it locked through, each of which knows it */
} Owner;

struct SfsLocks {
    SfsRegistry *registry;
    int link;
    GMutex lock;
    GHashTable *owners;
    GHashTable
        *closing;      /* set of the handles that hold locks and of which a descriptor was closed */
    GHashTable *waits; /* set of the SfsLockWait for record locks that are under way */
    GThreadPool *wakers;
    atomic_uint waiters;
};

struct SfsLockWait {
    gatomicrefcount refs; /* of the waiter, and of whoever wakes it */
    SfsMount *mount;
    SfsHandle *handle;
    Owner *owner; /* NULL: flock(2) */
    struct flock record;
    int operation;
    gint64 until; /* monotonic µs, 0: as long as it takes */
    int fd;
    SfsLockDone done;
    void *data;

    GMutex lock; /* protects the rest */
    bool interrupted, asleep, over;
    pthread_t thread;
};

/* --- owners ---------------------------------------------------------------------------------- */

static guint
hash_owner(gconstpointer key)
{
    const Owner *owner = key;

    return g_direct_hash(owner->backing) ^ g_int64_hash(&owner->id);
}

static gboolean
equal_owners(gconstpointer a, gconstpointer b)
{
    const Owner *x = a, *y = b;

    return x->backing == y->backing && x->id == y->id;
}

static void
lift_all(int fd)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    fcntl(fd, F_OFD_SETLK, &all);
}

static void
free_owner(Owner *owner)
{
    g_array_unref(owner->ranges);
    g_hash_table_unref(owner->through);
    g_free(owner);
}

static void
unref_owner(gpointer data)
{
    Owner *owner = data;
    SfsLocks *locks = owner->locks;
    uint32_t fd_slot = owner->rec->fd_slot;
    guint left;

    g_mutex_lock(&locks->lock);
    left = --owner->refs;
    /* It has closed, and nobody uses it any more: the table has no use for it either. */
    if (left == 1 && g_hash_table_size(owner->through) == 0 &&
        g_hash_table_lookup(locks->owners, owner) == owner) {
        g_hash_table_steal(locks->owners, owner);
        left = 0;
    }
    g_mutex_unlock(&locks->lock);
    if (left > 0)
        return;
    lift_all(owner->fd);
    sfs_registry_release(locks->registry, SFS_TABLE_LOCKS, owner->slot);
    sfs_link_drop(locks->link, locks->registry, fd_slot);
    close(owner->fd);
    free_owner(owner);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Owner, unref_owner)

/* The table's reference: the locks go with it, whoever else still has one. Table not locked. */
static void
drop_owner(gpointer data)
{
    lift_all(((Owner *)data)->fd);
    unref_owner(data);
}

/* A new open file description on the file that the backing's locks are on, to read and write it as
 * the backing may. -EAGAIN where somebody's lease is in the way, for which nobody here waits. */
static int
open_description(SfsHandle *handle)
{
    int fd = handle->backing != NULL ? handle->backing->ops->lock_fd(handle->backing) : -EINVAL;
    char path[32];
    int access, new;

    if (fd < 0)
        return fd;
    access = fcntl(fd, F_GETFL) & O_ACCMODE;
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    new = open(path, access | O_CLOEXEC | O_NONBLOCK);
    if (new < 0 && access != O_RDONLY && errno != EMFILE &&errno != ENFILE)
        new = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return new >= 0 ? new : errno == EMFILE || errno == ENFILE ? -ENOLCK : -errno;
}

static Owner *
find_owner(SfsLocks *locks, const SfsHandle *handle, uint64_t id)
{
    Owner key = {.backing = handle->backing, .id = id};
    Owner *owner;

    g_mutex_lock(&locks->lock);
    owner = g_hash_table_lookup(locks->owners, &key);
    if (owner != NULL)
        owner->refs++;
    g_mutex_unlock(&locks->lock);
    return owner;
}

static Owner *
new_owner(SfsLocks *locks, const SfsHandle *handle, uint32_t slot, SfsLockRec *rec, int fd)
{
    Owner *owner = g_new0(Owner, 1);

    owner->refs = 1;
    owner->locks = locks;
    owner->backing = handle->backing;
    owner->id = rec->owner;
    owner->slot = slot;
    owner->rec = rec;
    owner->fd = fd;
    owner->ranges = g_array_new(FALSE, FALSE, sizeof(Range));
    owner->through = g_hash_table_new(NULL, NULL);
    return owner;
}

/* Notes that @owner locks, or is about to, through @handle. One that is not in the table any more
 * is at its end. Table locked. */
static void
join(Owner *owner, SfsHandle *handle)
{
    if (g_hash_table_lookup(owner->locks->owners, owner) != owner)
        return;
    g_hash_table_add(owner->through, handle);
    if (handle->lockers == NULL)
        handle->lockers = g_hash_table_new(NULL, NULL);
    g_hash_table_add(handle->lockers, owner);
}

/* Takes that back, of all handles. Table locked. */
static void
part(Owner *owner)
{
    GHashTableIter iter;
    SfsHandle *handle;

    g_hash_table_iter_init(&iter, owner->through);
    while (g_hash_table_iter_next(&iter, (gpointer *)&handle, NULL))
        g_hash_table_remove(handle->lockers, owner);
    g_hash_table_remove_all(owner->through);
}

/* The owner, made if need be; a reference for the caller. */
static int
need_owner(SfsLocks *locks, SfsHandle *handle, uint64_t id, Owner **out)
{
    sfs_autofd fd = -1;
    Owner *owner, *other;
    uint32_t slot, fd_slot;
    SfsLockRec *rec;
    int r;

    *out = find_owner(locks, handle, id);
    if (*out != NULL)
        return 0;
    r = fd = open_description(handle);
    if (r < 0)
        return r;
    if (sfs_link_put(locks->link, locks->registry, fd, &fd_slot) < 0)
        return -ENOLCK;
    rec = sfs_registry_alloc(locks->registry, SFS_TABLE_LOCKS, &slot);
    if (rec == NULL) {
        sfs_link_drop(locks->link, locks->registry, fd_slot);
        return -ENOLCK;
    }
    rec->handle = handle->slot;
    rec->owner = id;
    rec->fd_slot = fd_slot;
    sfs_registry_publish(locks->registry, SFS_TABLE_LOCKS, slot);
    owner = new_owner(locks, handle, slot, rec, sfs_fd_steal(&fd));
    g_mutex_lock(&locks->lock);
    other = g_hash_table_lookup(locks->owners, owner);
    *out = other != NULL ? other : owner;
    (*out)->refs++;
    if (other == NULL)
        g_hash_table_add(locks->owners, owner);
    join(*out, handle);
    g_mutex_unlock(&locks->lock);
    if (other != NULL)
        unref_owner(owner);
    return 0;
}

/* --- ranges ---------------------------------------------------------------------------------- */

static Range
range_of(const struct flock *lock)
{
    Range range = {lock->l_start, INT64_MAX, lock->l_type};

    if (lock->l_len > 0 && lock->l_len < INT64_MAX - lock->l_start)
        range.end = lock->l_start + lock->l_len;
    return range;
}

/* Notes what the kernel has just done for @owner. Table locked. */
static void
note(Owner *owner, SfsHandle *handle, const struct flock *lock)
{
    Range new = range_of(lock);
    guint old_count = owner->ranges->len;

    for (guint i = 0; i < old_count; i++) {
        Range old = g_array_index(owner->ranges, Range, i);
        Range before = {old.start, MIN(old.end, new.start), old.type};
        Range after = {MAX(old.start, new.end), old.end, old.type};

        if (before.start < before.end)
            g_array_append_val(owner->ranges, before);
        if (after.start < after.end)
            g_array_append_val(owner->ranges, after);
    }
    if (old_count > 0)
        g_array_remove_range(owner->ranges, 0, old_count);
    if (new.type == F_UNLCK)
        return;
    g_array_append_val(owner->ranges, new);
    owner->pid = lock->l_pid;
    owner->rec->pid = (uint32_t)lock->l_pid;
    owner->rec->handle = handle->slot; /* the one before may be closed */
    join(owner, handle);
}

/* An owner other than @id who holds a lock that is in the way of @lock; NULL: none of ours. Table
 * locked. */
static const Owner *
find_holder(SfsLocks *locks, const SfsBacking *backing, uint64_t id, const struct flock *lock)
{
    Range wanted = range_of(lock);
    GHashTableIter iter;
    const Owner *owner;

    g_hash_table_iter_init(&iter, locks->owners);
    while (g_hash_table_iter_next(&iter, (gpointer *)&owner, NULL)) {
        if (owner->backing != backing || owner->id == id)
            continue;
        for (guint i = 0; i < owner->ranges->len; i++) {
            const Range *range = &g_array_index(owner->ranges, Range, i);

            if (range->start < wanted.end && wanted.start < range->end &&
                (range->type == F_WRLCK || wanted.type == F_WRLCK))
                return owner;
        }
    }
    return NULL;
}

/* The process that holds it; -1: it is none of ours. */
static pid_t
holder(SfsLocks *locks, const SfsHandle *handle, uint64_t id, const struct flock *lock)
{
    const Owner *owner;
    pid_t pid;

    g_mutex_lock(&locks->lock);
    owner = find_holder(locks, handle->backing, id, lock);
    pid = owner != NULL ? owner->pid : -1;
    g_mutex_unlock(&locks->lock);
    return pid;
}

static const SfsLockWait *
find_wait(SfsLocks *locks, uint64_t id)
{
    GHashTableIter iter;
    const SfsLockWait *wait;

    g_hash_table_iter_init(&iter, locks->waits);
    while (g_hash_table_iter_next(&iter, (gpointer *)&wait, NULL)) {
        if (wait->owner->id == id)
            return wait;
    }
    return NULL;
}

/* Whether who is in the way of @wait waits, for somebody who waits, and so on, for the owner of
 * @wait: as far as the kernel looks, too. Table locked. */
static bool
closes_ring(SfsLocks *locks, const SfsLockWait *wait)
{
    const SfsLockWait *at = wait;

    for (int hops = 0; at != NULL && hops < RING_MAX; hops++) {
        const Owner *in_the_way =
            find_holder(locks, at->owner->backing, at->owner->id, &at->record);

        if (in_the_way == NULL)
            return false;
        if (in_the_way->id == wait->owner->id)
            return true;
        at = find_wait(locks, in_the_way->id);
    }
    return false;
}

/* --- the calls that do not wait -------------------------------------------------------------- */

int
sfs_lock_test(SfsMount *mount, SfsHandle *handle, uint64_t id, struct flock *lock)
{
    g_autoptr(Owner) owner = find_owner(mount->locks, handle, id);
    sfs_autofd fd = owner == NULL ? open_description(handle) : -1;
    struct flock wanted = *lock;

    if (owner == NULL && fd < 0)
        return fd;
    lock->l_pid = 0;
    if (fcntl(owner != NULL ? owner->fd : fd, F_OFD_GETLK, lock) != 0)
        return -errno;
    if (lock->l_type != F_UNLCK && lock->l_pid < 0)
        lock->l_pid = holder(mount->locks, handle, id, &wanted);
    return 0;
}

static void
note_locked(SfsLocks *locks, Owner *owner, SfsHandle *handle, const struct flock *lock)
{
    g_mutex_lock(&locks->lock);
    note(owner, handle, lock);
    g_mutex_unlock(&locks->lock);
}

int
sfs_lock_set(SfsMount *mount, SfsHandle *handle, uint64_t id, const struct flock *lock)
{
    g_autoptr(Owner) owner = NULL;
    struct flock own = *lock;
    int r = 0;

    own.l_pid = 0; /* as F_OFD_SETLK wants it */
    if (lock->l_type == F_UNLCK)
        owner = find_owner(mount->locks, handle, id);
    else
        r = need_owner(mount->locks, handle, id, &owner);
    if (owner == NULL)
        return r; /* nothing to lift, or no description */
    if (fcntl(owner->fd, F_OFD_SETLK, &own) != 0)
        return errno == EACCES ? -EAGAIN : -errno;
    note_locked(mount->locks, owner, handle, lock);
    return 0;
}

/* The handle's own description, for flock(2). */
static int
need_flock_fd(SfsLocks *locks, SfsHandle *handle)
{
    sfs_autofd made = -1;
    uint32_t slot;
    int fd;

    g_mutex_lock(&locks->lock);
    fd = handle->flock_fd;
    g_mutex_unlock(&locks->lock);
    if (fd >= 0)
        return fd;
    fd = made = open_description(handle);
    if (fd < 0)
        return fd;
    if (sfs_link_put(locks->link, locks->registry, made, &slot) < 0)
        return -ENOLCK;
    g_mutex_lock(&locks->lock);
    if (handle->flock_fd < 0) {
        handle->flock_fd = sfs_fd_steal(&made);
        handle->rec->flock_slot = slot;
        slot = SFS_NO_SLOT;
    }
    fd = handle->flock_fd;
    g_mutex_unlock(&locks->lock);
    if (slot != SFS_NO_SLOT) /* another thread was faster */
        sfs_link_drop(locks->link, locks->registry, slot);
    return fd;
}

int
sfs_lock_flock(SfsMount *mount, SfsHandle *handle, int operation)
{
    int fd = need_flock_fd(mount->locks, handle);

    if (fd < 0)
        return fd;
    return flock(fd, operation | LOCK_NB) == 0 ? 0 : -errno;
}

/* --- waiting --------------------------------------------------------------------------------- */

static void
unref_wait(SfsLockWait *wait)
{
    if (!g_atomic_ref_count_dec(&wait->refs))
        return;
    sfs_fd_clear(&wait->fd);
    g_mutex_clear(&wait->lock);
    g_free(wait);
}

SfsLockWait *
sfs_lock_wait_new(SfsMount *mount, SfsHandle *handle, uint64_t id, const struct flock *lock,
                  int operation, bool for_a_moment, SfsLockDone done, void *data)
{
    SfsLockWait *wait = g_new0(SfsLockWait, 1);

    g_atomic_ref_count_init(&wait->refs);
    g_mutex_init(&wait->lock);
    wait->mount = mount;
    wait->handle = handle;
    wait->operation = operation;
    wait->until = for_a_moment ? g_get_monotonic_time() + SFS_LOCK_MOMENT_US : 0;
    wait->done = done;
    wait->data = data;
    /* A descriptor of its own, of the same description: the owner may close meanwhile. */
    if (lock == NULL) {
        wait->fd = fcntl(need_flock_fd(mount->locks, handle), F_DUPFD_CLOEXEC, 0);
    } else {
        wait->record = *lock;
        wait->fd = -1;
        if (need_owner(mount->locks, handle, id, &wait->owner) == 0)
            wait->fd = fcntl(wait->owner->fd, F_DUPFD_CLOEXEC, 0);
    }
    return wait;
}

static gboolean
is_closing(gpointer key, gpointer value, gpointer backing)
{
    return ((const SfsHandle *)key)->backing == backing;
}

bool
sfs_lock_may_pass(SfsMount *mount, SfsHandle *handle)
{
    SfsLocks *locks = mount->locks;
    bool may;

    g_mutex_lock(&locks->lock);
    may = g_hash_table_size(locks->closing) > 0 &&
          g_hash_table_find(locks->closing, is_closing, handle->backing) != NULL;
    g_mutex_unlock(&locks->lock);
    return may;
}

/* One try to fall asleep, or just one try; what the system call says. */
static int
sleep_once(SfsLockWait *wait)
{
    bool wait_long = wait->until == 0;
    bool may_pass = !wait_long && sfs_lock_may_pass(wait->mount, wait->handle);
    struct flock own = wait->record;
    int r;

    own.l_pid = 0;
    if (wait->owner == NULL)
        r = flock(wait->fd, wait_long ? wait->operation : wait->operation | LOCK_NB);
    else
        r = fcntl(wait->fd, wait_long ? F_OFD_SETLKW : F_OFD_SETLK, &own);
    if (r == 0)
        return 0;
    if (wait_long || (errno != EAGAIN && errno != EACCES))
        return -errno;
    if (g_get_monotonic_time() >= wait->until || !may_pass)
        return -EAGAIN;
    g_usleep(WAKE_AGAIN_US);
    return -EINTR; /* again */
}

static bool
may_sleep(SfsLockWait *wait)
{
    bool may;

    g_mutex_lock(&wait->lock);
    may = !wait->interrupted;
    wait->asleep = may;
    wait->thread = pthread_self();
    g_mutex_unlock(&wait->lock);
    return may;
}

/* -EINTR, for there is something to wait for; or -EDEADLK. */
static int
enter(SfsLocks *locks, SfsLockWait *wait)
{
    int r = -EINTR;

    if (wait->owner == NULL || wait->until != 0)
        return r;
    g_mutex_lock(&locks->lock);
    if (closes_ring(locks, wait))
        r = -EDEADLK;
    else
        g_hash_table_add(locks->waits, wait);
    g_mutex_unlock(&locks->lock);
    return r;
}

static void
leave(SfsLocks *locks, SfsLockWait *wait)
{
    g_mutex_lock(&locks->lock);
    g_hash_table_remove(locks->waits, wait);
    g_mutex_unlock(&locks->lock);
}

/* It was never begun, or there is nothing more to wait for. */
static void
end_wait(SfsLockWait *wait, int r)
{
    g_mutex_lock(&wait->lock);
    wait->asleep = false;
    wait->over = true;
    g_mutex_unlock(&wait->lock);
    /* Now, for once it is done the handle may go, and with it the backing that the owner names. */
    g_clear_pointer(&wait->owner, unref_owner);
    wait->done(r, wait->data);
    unref_wait(wait);
}

static gpointer
wait_for_lock(gpointer data)
{
    SfsLockWait *wait = data;
    SfsLocks *locks = wait->mount->locks;
    int r = wait->fd < 0 ? -ENOLCK : enter(locks, wait);

    while (r == -EINTR && may_sleep(wait))
        r = sleep_once(wait);
    leave(locks, wait);
    if (r == 0 && wait->owner != NULL)
        note_locked(locks, wait->owner, wait->handle, &wait->record);
    end_wait(wait, r);
    atomic_fetch_sub(&locks->waiters, 1);
    return NULL;
}

void
sfs_lock_wait_start(SfsLockWait *wait)
{
    SfsLocks *locks = wait->mount->locks;
    GThread *thread = NULL;

    if (atomic_fetch_add(&locks->waiters, 1) < SFS_LOCK_WAITERS_MAX)
        thread = g_thread_try_new("wait-for-lock", wait_for_lock, wait, NULL);
    if (thread != NULL) {
        g_thread_unref(thread);
        return;
    }
    atomic_fetch_sub(&locks->waiters, 1);
    end_wait(wait, -ENOLCK);
}

/* On a thread of the wakers' pool. */
static void
wake(gpointer data, gpointer unused)
{
    SfsLockWait *wait = data;
    bool over;

    do {
        g_mutex_lock(&wait->lock);
        over = wait->over;
        if (wait->asleep)
            pthread_kill(wait->thread, WAKE_SIGNAL);
        g_mutex_unlock(&wait->lock);
        g_usleep(WAKE_AGAIN_US);
    } while (!over);
    unref_wait(wait);
}

void
sfs_lock_wait_interrupt(SfsLockWait *wait)
{
    bool was;

    g_mutex_lock(&wait->lock);
    was = wait->interrupted;
    wait->interrupted = true;
    g_mutex_unlock(&wait->lock);
    if (was)
        return;
    g_atomic_ref_count_inc(&wait->refs);
    sfs_pool_push(wait->mount->locks->wakers, wait);
}

/* --- the end of locks ------------------------------------------------------------------------ */

static bool
is_locked_through(const SfsHandle *handle)
{
    return handle->lockers != NULL && g_hash_table_size(handle->lockers) > 0;
}

/* Table locked. */
static void
note_closing(SfsLocks *locks, SfsHandle *handle)
{
    g_hash_table_add(locks->closing, handle);
    atomic_store(&handle->rec->closing, 1);
}

/* Has @owner hold nothing, as far as is noted; a reference for the caller. Table locked. */
static void
empty(Owner *owner)
{
    owner->refs++;
    g_array_set_size(owner->ranges, 0);
    part(owner);
    /* The slot may be another handle's before the next lock. */
    owner->rec->handle = SFS_NO_SLOT;
}

void
sfs_lock_closed(SfsMount *mount, SfsHandle *handle, uint64_t id)
{
    SfsLocks *locks = mount->locks;
    Owner key = {.backing = handle->backing, .id = id};
    Owner *owner;

    g_mutex_lock(&locks->lock);
    owner = g_hash_table_lookup(locks->owners, &key);
    if (owner != NULL)
        empty(owner);
    /* What is left goes with the handle, if this was its last descriptor. */
    if (handle->flock_fd >= 0 || is_locked_through(handle))
        note_closing(locks, handle);
    g_mutex_unlock(&locks->lock);
    if (owner == NULL)
        return;
    /* It is in the table meanwhile, lest its own locks are in the way of another of its threads. */
    sfs_crew_may_wait();
    lift_all(owner->fd);
    unref_owner(owner);
}

static void
drop_flock_fd(SfsLocks *locks, SfsHandle *handle)
{
    uint32_t slot = handle->rec->flock_slot;

    flock(handle->flock_fd, LOCK_UN);
    handle->rec->flock_slot = SFS_NO_SLOT;
    sfs_link_drop(locks->link, locks->registry, slot);
    close(handle->flock_fd);
    handle->flock_fd = -1;
}

void
sfs_lock_release(SfsMount *mount, SfsHandle *handle)
{
    SfsLocks *locks = mount->locks;
    GList *gone = NULL;

    g_mutex_lock(&locks->lock);
    /* OFD locks: their owner has no other name here than the handle. */
    if (is_locked_through(handle))
        gone = g_hash_table_get_keys(handle->lockers);
    for (GList *at = gone; at != NULL; at = at->next) {
        part(at->data);
        g_hash_table_steal(locks->owners, at->data);
    }
    g_mutex_unlock(&locks->lock);
    if (gone != NULL || handle->flock_fd >= 0)
        sfs_crew_may_wait();
    if (handle->flock_fd >= 0)
        drop_flock_fd(locks, handle);
    g_list_free_full(gone, drop_owner);
    /* Only now, for until then a try is to wait for it. */
    g_mutex_lock(&locks->lock);
    g_hash_table_remove(locks->closing, handle);
    g_mutex_unlock(&locks->lock);
}

/* --- after a worker's death ------------------------------------------------------------------ */

/* What the kernel says that the description holds, as /proc tells it:
 * "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2e:5 0 EOF". */
static void
ask_ranges(Owner *owner)
{
    g_autofree char *text = g_malloc(64 << 10);
    char path[40];
    char *at = text;

    g_snprintf(path, sizeof path, "/proc/self/fdinfo/%d", owner->fd);
    if (sfs_read_text(AT_FDCWD, path, text, 64 << 10) <= 0)
        return;
    while ((at = strstr(at, "OFDLCK")) != NULL) {
        char type[16], end[24];
        long long start;

        if (sscanf(at, "OFDLCK %*s %15s %*s %*s %lld %23s", type, &start, end) == 3) {
            Range range = {start,
                           strcmp(end, "EOF") == 0 ? INT64_MAX : g_ascii_strtoll(end, NULL, 10) + 1,
                           strcmp(type, "WRITE") == 0 ? F_WRLCK : F_RDLCK};

            g_array_append_val(owner->ranges, range);
        }
        at++;
    }
}

/* Lets go of its record alone: its descriptor is the sweep's then, which would have the keeper drop
 * for a second time what were dropped here. */
static void
forget_owner(Owner *owner)
{
    lift_all(owner->fd);
    sfs_registry_release(owner->locks->registry, SFS_TABLE_LOCKS, owner->slot);
    free_owner(owner);
}

static void
adopt_owner(SfsMount *mount, uint32_t slot, SfsLockRec *rec)
{
    SfsHandle *handle = sfs_section_handle_at(mount, rec->handle);
    int fd = sfs_link_inherited(mount->registry, rec->fd_slot);
    Owner *owner, *other;

    if (handle == NULL || handle->backing == NULL || fd < 0) {
        sfs_registry_release(mount->registry, SFS_TABLE_LOCKS, slot);
        return;
    }
    owner = new_owner(mount->locks, handle, slot, rec, fd);
    owner->pid = (pid_t)rec->pid;
    ask_ranges(owner);
    /* Two of one name: threads that asked at one time, of whom one had not given up yet. */
    other = g_hash_table_lookup(mount->locks->owners, owner);
    if (other != NULL && owner->ranges->len == 0) {
        forget_owner(owner);
        return;
    }
    if (other != NULL) {
        part(other);
        g_hash_table_steal(mount->locks->owners, other);
        forget_owner(other);
    }
    g_hash_table_add(mount->locks->owners, owner);
    join(owner, handle);
}

void
sfs_locks_adopt(SfsMount *mount)
{
    for (uint32_t slot = 1; slot < sfs_registry_bound(mount->registry, SFS_TABLE_LOCKS); slot++) {
        SfsLockRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_LOCKS, slot);

        if (atomic_load(&rec->state) == SFS_LIVE)
            adopt_owner(mount, slot, rec);
    }
    for (uint32_t slot = 1; slot < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES); slot++) {
        SfsHandle *handle = sfs_section_handle_at(mount, slot);

        if (handle == NULL)
            continue;
        handle->flock_fd = sfs_link_inherited(mount->registry, handle->rec->flock_slot);
        if (atomic_load(&handle->rec->closing) != 0)
            g_hash_table_add(mount->locks->closing, handle);
    }
}

/* --- the room -------------------------------------------------------------------------------- */

static void
ignore_signal(int number)
{
}

SfsLocks *
sfs_locks_new(SfsRegistry *registry, int link)
{
    struct sigaction action = {.sa_handler =
                                   ignore_signal}; /* no SA_RESTART: calls end with EINTR */
    SfsLocks *locks = g_new0(SfsLocks, 1);

    sigaction(WAKE_SIGNAL, &action, NULL);
    locks->registry = registry;
    locks->link = link;
    g_mutex_init(&locks->lock);
    locks->owners = g_hash_table_new_full(hash_owner, equal_owners, drop_owner, NULL);
    locks->waits = g_hash_table_new(NULL, NULL);
    locks->closing = g_hash_table_new(NULL, NULL);
    locks->wakers = g_thread_pool_new(wake, NULL, 2, FALSE, NULL);
    return locks;
}

bool
sfs_locks_idle(SfsLocks *locks)
{
    return atomic_load(&locks->waiters) == 0;
}

void
sfs_locks_free(SfsLocks *locks)
{
    if (locks == NULL)
        return;
    g_thread_pool_free(locks->wakers, FALSE, TRUE);
    g_hash_table_unref(locks->waits);
    g_hash_table_unref(locks->closing);
    g_hash_table_unref(locks->owners);
    g_mutex_clear(&locks->lock);
    g_free(locks);
}
