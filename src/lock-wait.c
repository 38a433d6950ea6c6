/* SPDX-License-Identifier: MIT */
/*
 * A waiter sleeps in fcntl(2) or flock(2), and is got out of it by a signal. As a signal can come
 * just before it falls asleep, it is sent again and again until the waiter has woken up.
 */
#include "lock-internal.h"

#include "util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/file.h>

#define WAKE_SIGNAL SIGUSR1
#define WAKE_AGAIN_US 500

/* Links of a chain of waiting processes that are followed. */
#define RING_MAX 10

struct SfsLockWait {
    gatomicrefcount refs; /* of the waiter, and of whoever wakes it */
    SfsMount *mount;
    SfsHandle *handle;
    SfsLockOwner *owner; /* NULL: flock(2) */
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

/* --- rings ---------------------------------------------------------------------------------- */

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
        const SfsLockOwner *in_the_way =
            sfs_lock_holder(locks, at->owner->backing, at->owner->id, &at->record);

        if (in_the_way == NULL)
            return false;
        if (in_the_way->id == wait->owner->id)
            return true;
        at = find_wait(locks, in_the_way->id);
    }
    return false;
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
        wait->fd = fcntl(sfs_lock_flock_fd(mount->locks, handle), F_DUPFD_CLOEXEC, 0);
    } else {
        wait->record = *lock;
        wait->fd = -1;
        if (sfs_lock_owner_need(mount->locks, handle, id, &wait->owner) == 0)
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
    g_clear_pointer(&wait->owner, sfs_lock_owner_unref);
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
        sfs_lock_owner_note(wait->owner, wait->handle, &wait->record);
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

/* --- the room -------------------------------------------------------------------------------- */

static void
ignore_signal(int number)
{
}

void
sfs_lock_waits_init(SfsLocks *locks)
{
    /* no SA_RESTART: calls end with EINTR */
    struct sigaction action = {.sa_handler = ignore_signal};

    sigaction(WAKE_SIGNAL, &action, NULL);
    locks->waits = g_hash_table_new(NULL, NULL);
    locks->wakers = g_thread_pool_new(wake, NULL, 2, FALSE, NULL);
}

bool
sfs_locks_idle(SfsLocks *locks)
{
    return atomic_load(&locks->waiters) == 0;
}

void
sfs_lock_waits_clear(SfsLocks *locks)
{
    g_thread_pool_free(locks->wakers, FALSE, TRUE);
    g_hash_table_unref(locks->waits);
}
