/* SPDX-License-Identifier: MIT */
#include "lock-internal.h"

#include "crew.h"
#include "keeper-link.h"
#include "util.h"

#include <stdio.h>
#include <string.h>
#include <sys/file.h>

/* --- owners ---------------------------------------------------------------------------------- */

static guint
hash_owner(gconstpointer key)
{
    const SfsLockOwner *owner = key;

    return g_direct_hash(owner->backing) ^ g_int64_hash(&owner->id);
}

static gboolean
equal_owners(gconstpointer a, gconstpointer b)
{
    const SfsLockOwner *x = a, *y = b;

    return x->backing == y->backing && x->id == y->id;
}

static void
lift_all(int fd)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    fcntl(fd, F_OFD_SETLK, &all);
}

static void
free_owner(SfsLockOwner *owner)
{
    g_array_unref(owner->ranges);
    g_hash_table_unref(owner->through);
    g_free(owner);
}

void
sfs_lock_owner_unref(gpointer data)
{
    SfsLockOwner *owner = data;
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
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SfsLockOwner, sfs_lock_owner_unref)

/* The table's reference: the locks go with it, whoever else still has one. Table not locked. */
static void
drop_owner(gpointer data)
{
    lift_all(((SfsLockOwner *)data)->fd);
    sfs_lock_owner_unref(data);
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

static SfsLockOwner *
find_owner(SfsLocks *locks, const SfsHandle *handle, uint64_t id)
{
    SfsLockOwner key = {.backing = handle->backing, .id = id};
    SfsLockOwner *owner;

    g_mutex_lock(&locks->lock);
    owner = g_hash_table_lookup(locks->owners, &key);
    if (owner != NULL)
        owner->refs++;
    g_mutex_unlock(&locks->lock);
    return owner;
}

static SfsLockOwner *
new_owner(SfsLocks *locks, const SfsHandle *handle, uint32_t slot, SfsLockRec *rec, int fd)
{
    SfsLockOwner *owner = g_new0(SfsLockOwner, 1);

    owner->refs = 1;
    owner->locks = locks;
    owner->backing = handle->backing;
    owner->id = rec->owner;
    owner->slot = slot;
    owner->rec = rec;
    owner->fd = fd;
    owner->ranges = g_array_new(FALSE, FALSE, sizeof(SfsLockRange));
    owner->through = g_hash_table_new(NULL, NULL);
    return owner;
}

/* Notes that @owner locks, or is about to, through @handle. One that is not in the table any more
 * is at its end. Table locked. */
static void
join(SfsLockOwner *owner, SfsHandle *handle)
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
part(SfsLockOwner *owner)
{
    GHashTableIter iter;
    SfsHandle *handle;

    g_hash_table_iter_init(&iter, owner->through);
    while (g_hash_table_iter_next(&iter, (gpointer *)&handle, NULL))
        g_hash_table_remove(handle->lockers, owner);
    g_hash_table_remove_all(owner->through);
}

int
sfs_lock_owner_need(SfsLocks *locks, SfsHandle *handle, uint64_t id, SfsLockOwner **out)
{
    sfs_autofd fd = -1;
    SfsLockOwner *owner, *other;
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
        sfs_lock_owner_unref(owner);
    return 0;
}

/* --- ranges ---------------------------------------------------------------------------------- */

static SfsLockRange
range_of(const struct flock *lock)
{
    SfsLockRange range = {lock->l_start, INT64_MAX, lock->l_type};

    if (lock->l_len > 0 && lock->l_len < INT64_MAX - lock->l_start)
        range.end = lock->l_start + lock->l_len;
    return range;
}

/* Notes what the kernel has just done for @owner. Table locked. */
static void
note(SfsLockOwner *owner, SfsHandle *handle, const struct flock *lock)
{
    SfsLockRange new = range_of(lock);
    guint old_count = owner->ranges->len;

    for (guint i = 0; i < old_count; i++) {
        SfsLockRange old = g_array_index(owner->ranges, SfsLockRange, i);
        SfsLockRange before = {old.start, MIN(old.end, new.start), old.type};
        SfsLockRange after = {MAX(old.start, new.end), old.end, old.type};

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

const SfsLockOwner *
sfs_lock_holder(SfsLocks *locks, const SfsBacking *backing, uint64_t id, const struct flock *lock)
{
    SfsLockRange wanted = range_of(lock);
    GHashTableIter iter;
    const SfsLockOwner *owner;

    g_hash_table_iter_init(&iter, locks->owners);
    while (g_hash_table_iter_next(&iter, (gpointer *)&owner, NULL)) {
        if (owner->backing != backing || owner->id == id)
            continue;
        for (guint i = 0; i < owner->ranges->len; i++) {
            const SfsLockRange *range = &g_array_index(owner->ranges, SfsLockRange, i);

            if (range->start < wanted.end && wanted.start < range->end &&
                (range->type == F_WRLCK || wanted.type == F_WRLCK))
                return owner;
        }
    }
    return NULL;
}

/* The process that holds it; -1: it is none of ours. */
static pid_t
holder_pid(SfsLocks *locks, const SfsHandle *handle, uint64_t id, const struct flock *lock)
{
    const SfsLockOwner *owner;
    pid_t pid;

    g_mutex_lock(&locks->lock);
    owner = sfs_lock_holder(locks, handle->backing, id, lock);
    pid = owner != NULL ? owner->pid : -1;
    g_mutex_unlock(&locks->lock);
    return pid;
}

/* --- the calls that do not wait -------------------------------------------------------------- */

int
sfs_lock_test(SfsMount *mount, SfsHandle *handle, uint64_t id, struct flock *lock)
{
    g_autoptr(SfsLockOwner) owner = find_owner(mount->locks, handle, id);
    sfs_autofd fd = owner == NULL ? open_description(handle) : -1;
    struct flock wanted = *lock;

    if (owner == NULL && fd < 0)
        return fd;
    lock->l_pid = 0;
    if (fcntl(owner != NULL ? owner->fd : fd, F_OFD_GETLK, lock) != 0)
        return -errno;
    if (lock->l_type != F_UNLCK && lock->l_pid < 0)
        lock->l_pid = holder_pid(mount->locks, handle, id, &wanted);
    return 0;
}

void
sfs_lock_owner_note(SfsLockOwner *owner, SfsHandle *handle, const struct flock *lock)
{
    g_mutex_lock(&owner->locks->lock);
    note(owner, handle, lock);
    g_mutex_unlock(&owner->locks->lock);
}

int
sfs_lock_set(SfsMount *mount, SfsHandle *handle, uint64_t id, const struct flock *lock)
{
    g_autoptr(SfsLockOwner) owner = NULL;
    struct flock own = *lock;
    int r = 0;

    own.l_pid = 0; /* as F_OFD_SETLK wants it */
    if (lock->l_type == F_UNLCK)
        owner = find_owner(mount->locks, handle, id);
    else
        r = sfs_lock_owner_need(mount->locks, handle, id, &owner);
    if (owner == NULL)
        return r; /* nothing to lift, or no description */
    if (fcntl(owner->fd, F_OFD_SETLK, &own) != 0)
        return errno == EACCES ? -EAGAIN : -errno;
    sfs_lock_owner_note(owner, handle, lock);
    return 0;
}

int
sfs_lock_flock_fd(SfsLocks *locks, SfsHandle *handle)
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
    int fd = sfs_lock_flock_fd(mount->locks, handle);

    if (fd < 0)
        return fd;
    return flock(fd, operation | LOCK_NB) == 0 ? 0 : -errno;
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
empty(SfsLockOwner *owner)
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
    SfsLockOwner key = {.backing = handle->backing, .id = id};
    SfsLockOwner *owner;

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
    sfs_lock_owner_unref(owner);
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
ask_ranges(SfsLockOwner *owner)
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
            SfsLockRange range = {
                start, strcmp(end, "EOF") == 0 ? INT64_MAX : g_ascii_strtoll(end, NULL, 10) + 1,
                strcmp(type, "WRITE") == 0 ? F_WRLCK : F_RDLCK};

            g_array_append_val(owner->ranges, range);
        }
        at++;
    }
}

/* Lets go of its record alone: its descriptor is the sweep's then, which would have the keeper drop
 * for a second time what were dropped here. */
static void
forget_owner(SfsLockOwner *owner)
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
    SfsLockOwner *owner, *other;

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

SfsLocks *
sfs_locks_new(SfsRegistry *registry, int link)
{
    SfsLocks *locks = g_new0(SfsLocks, 1);

    locks->registry = registry;
    locks->link = link;
    g_mutex_init(&locks->lock);
    locks->owners = g_hash_table_new_full(hash_owner, equal_owners, drop_owner, NULL);
    locks->closing = g_hash_table_new(NULL, NULL);
    sfs_lock_waits_init(locks);
    return locks;
}

void
sfs_locks_free(SfsLocks *locks)
{
    if (locks == NULL)
        return;
    sfs_lock_waits_clear(locks);
    g_hash_table_unref(locks->closing);
    g_hash_table_unref(locks->owners);
    g_mutex_clear(&locks->lock);
    g_free(locks);
}
