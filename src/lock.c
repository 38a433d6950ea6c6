/* SPDX-License-Identifier: MIT */
/*
 * An Owner is what one owner has locked of one backing. It lives in the table from its first lock
 * until it closes the file, and beyond that as long as one of its waiters.
 *
 * The table's lock protects the table, and what the owners in it have noted; it is not held across
 * the locking itself, which on a network's file system takes time. What is noted of ranges serves
 * only to tell who holds a lock; the kernel's word is what counts.
 *
 * A waiter sleeps in fcntl(2) or flock(2), and is got out of it by a signal. As a signal can come
 * just before it falls asleep, it is sent again and again until the waiter has woken up.
 */
#include "lock.h"

#include "log.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>

#define WAKE_SIGNAL SIGUSR1
#define WAKE_AGAIN_US 500

typedef struct {
    off_t start, end; /* end exclusive; INT64_MAX: to the end of the file, wherever that is */
    short type;       /* F_RDLCK or F_WRLCK */
} Range;

typedef struct {
    const SfsBacking *backing; /* key, with id */
    uint64_t id;
    gatomicrefcount refs;
    int fd;              /* the open file description that holds the locks */
    pid_t pid;           /* of the process that locked last */
    GArray *ranges;      /* of Range, apart from each other */
    GHashTable *through; /* set of the handles that it locked through */
} Owner;

struct SfsLocks {
    GMutex lock;
    GHashTable *owners;
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
unref_owner(gpointer data)
{
    Owner *owner = data;

    if (!g_atomic_ref_count_dec(&owner->refs))
        return;
    close(owner->fd);
    g_array_unref(owner->ranges);
    g_hash_table_unref(owner->through);
    g_free(owner);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Owner, unref_owner)

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
        g_atomic_ref_count_inc(&owner->refs);
    g_mutex_unlock(&locks->lock);
    return owner;
}

/* The owner, made if need be; a reference for the caller. */
static int
need_owner(SfsLocks *locks, SfsHandle *handle, uint64_t id, Owner **out)
{
    Owner *owner, *other;
    int fd;

    *out = find_owner(locks, handle, id);
    if (*out != NULL)
        return 0;
    fd = open_description(handle);
    if (fd < 0)
        return fd;
    owner = g_new0(Owner, 1);
    g_atomic_ref_count_init(&owner->refs);
    owner->backing = handle->backing;
    owner->id = id;
    owner->fd = fd;
    owner->ranges = g_array_new(FALSE, FALSE, sizeof(Range));
    owner->through = g_hash_table_new(NULL, NULL);
    g_mutex_lock(&locks->lock);
    other = g_hash_table_lookup(locks->owners, owner);
    *out = other != NULL ? other : owner;
    g_atomic_ref_count_inc(&(*out)->refs);
    g_hash_table_add((*out)->through, handle);
    if (other == NULL)
        g_hash_table_add(locks->owners, owner);
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
note(Owner *owner, const SfsHandle *handle, const struct flock *lock)
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
    g_hash_table_add(owner->through, (gpointer)handle);
}

/* The process that holds a lock of ours which is in the way of @lock; -1: it is none of ours. */
static pid_t
holder(SfsLocks *locks, const SfsHandle *handle, uint64_t id, const struct flock *lock)
{
    Range wanted = range_of(lock);
    GHashTableIter iter;
    Owner *owner;
    pid_t pid = -1;

    g_mutex_lock(&locks->lock);
    g_hash_table_iter_init(&iter, locks->owners);
    while (pid < 0 && g_hash_table_iter_next(&iter, (gpointer *)&owner, NULL)) {
        if (owner->backing != handle->backing || owner->id == id)
            continue;
        for (guint i = 0; i < owner->ranges->len; i++) {
            const Range *range = &g_array_index(owner->ranges, Range, i);

            if (range->start < wanted.end && wanted.start < range->end &&
                (range->type == F_WRLCK || wanted.type == F_WRLCK))
                pid = owner->pid;
        }
    }
    g_mutex_unlock(&locks->lock);
    return pid;
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
note_locked(SfsLocks *locks, Owner *owner, const SfsHandle *handle, const struct flock *lock)
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
    int fd, made;

    g_mutex_lock(&locks->lock);
    fd = handle->flock_fd;
    g_mutex_unlock(&locks->lock);
    if (fd >= 0)
        return fd;
    made = open_description(handle);
    if (made < 0)
        return made;
    g_mutex_lock(&locks->lock);
    if (handle->flock_fd < 0)
        handle->flock_fd = sfs_fd_steal(&made);
    fd = handle->flock_fd;
    g_mutex_unlock(&locks->lock);
    sfs_fd_clear(&made); /* another thread was faster */
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
    if (wait->owner != NULL)
        unref_owner(wait->owner);
    sfs_fd_clear(&wait->fd);
    g_mutex_clear(&wait->lock);
    g_free(wait);
}

SfsLockWait *
sfs_lock_wait_new(SfsMount *mount, SfsHandle *handle, uint64_t id, const struct flock *lock,
                  int operation, SfsLockDone done, void *data)
{
    SfsLockWait *wait = g_new0(SfsLockWait, 1);

    g_atomic_ref_count_init(&wait->refs);
    g_mutex_init(&wait->lock);
    wait->mount = mount;
    wait->handle = handle;
    wait->operation = operation;
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

/* One try to fall asleep; what the system call says. */
static int
sleep_once(SfsLockWait *wait)
{
    struct flock own = wait->record;

    own.l_pid = 0;
    if (wait->owner == NULL)
        return flock(wait->fd, wait->operation) == 0 ? 0 : -errno;
    return fcntl(wait->fd, F_OFD_SETLKW, &own) == 0 ? 0 : -errno;
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

static gpointer
wait_for_lock(gpointer data)
{
    SfsLockWait *wait = data;
    SfsLocks *locks = wait->mount->locks;
    int r = wait->fd < 0 ? -ENOLCK : -EINTR;

    while (r == -EINTR && may_sleep(wait))
        r = sleep_once(wait);
    g_mutex_lock(&wait->lock);
    wait->asleep = false;
    wait->over = true;
    g_mutex_unlock(&wait->lock);
    if (r == 0 && wait->owner != NULL)
        note_locked(locks, wait->owner, wait->handle, &wait->record);
    wait->done(r, wait->data);
    unref_wait(wait);
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
    wait->done(-ENOLCK, wait->data);
    unref_wait(wait);
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
    g_thread_pool_push(wait->mount->locks->wakers, wait, NULL);
}

/* --- the end of locks ------------------------------------------------------------------------ */

void
sfs_lock_closed(SfsMount *mount, SfsHandle *handle, uint64_t id)
{
    SfsLocks *locks = mount->locks;
    Owner key = {.backing = handle->backing, .id = id};

    g_mutex_lock(&locks->lock);
    g_hash_table_remove(locks->owners, &key);
    g_mutex_unlock(&locks->lock);
}

static gboolean
locked_through(gpointer key, gpointer value, gpointer handle)
{
    const Owner *owner = key;

    return g_hash_table_contains(owner->through, handle);
}

void
sfs_lock_release(SfsMount *mount, SfsHandle *handle)
{
    SfsLocks *locks = mount->locks;

    g_mutex_lock(&locks->lock);
    /* OFD locks: their owner has no other name here than the handle. */
    if (g_hash_table_size(locks->owners) > 0)
        g_hash_table_foreach_remove(locks->owners, locked_through, handle);
    g_mutex_unlock(&locks->lock);
}

static void
ignore_signal(int number)
{
}

SfsLocks *
sfs_locks_new(void)
{
    struct sigaction action = {.sa_handler =
                                   ignore_signal}; /* no SA_RESTART: calls end with EINTR */
    SfsLocks *locks = g_new0(SfsLocks, 1);

    sigaction(WAKE_SIGNAL, &action, NULL);
    g_mutex_init(&locks->lock);
    locks->owners = g_hash_table_new_full(hash_owner, equal_owners, unref_owner, NULL);
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
    g_hash_table_unref(locks->owners);
    g_mutex_clear(&locks->lock);
    g_free(locks);
}
