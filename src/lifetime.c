/* SPDX-License-Identifier: MIT */
#include "lifetime.h"

#include "holders.h"
#include "log.h"
#include "namespace.h"
#include "passthrough.h"
#include "util.h"
#include "watch.h"

#include <fuse_lowlevel.h>
#include <string.h>

/* For how long after a look-up the name is not taken away, and how many looks that may cost. */
#define GRACE_US (20 * 1000)
#define GRACE_LOOKS 8

/* For how long a refusal is put off that a close on its way may make needless. */
#define PATIENCE_US (100 * 1000)

struct SfsLifetimes {
    SfsWatch *watch;
    GThreadPool *tellers;  /* tell the kernel of names that are gone */
    GThreadPool *scanners; /* look through /proc */

    GMutex lock; /* protects all below; with @closed, for waiting */
    GCond closed;
    GHashTable *to_scan;  /* set of slots that a scanner is going to look at */
    GHashTable *to_renew; /* set of the Tellings of names to be looked up anew that are not begun */
    uint64_t turns, told; /* of those: given out, and done; they are done in order */
};

typedef enum {
    UNUSED,
    IN_USE,
    UNCLEAR, /* somebody has its real file open, who may be none of its users */
} Use;

/* Node locked. */
static Use
use_of(SfsMount *mount, uint32_t slot)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    SfsBacking *backing = sfs_node_backing_locked(mount->nodes, slot);

    if (rec->opens > 0 || rec->views > 0)
        return IN_USE;
    if (backing == NULL || rec->backing_id == 0 || rec->unmapped == rec->generation)
        return UNUSED;
    if (sfs_passthrough_sole_user(sfs_backing_data_fd(backing)))
        return UNUSED;
    return rec->kind == SFS_KIND_FILE ? UNCLEAR : IN_USE;
}

/* The same; if somebody uses it, the end of that will be told. */
static Use
watch_use_of(SfsMount *mount, uint32_t slot)
{
    Use use = use_of(mount, slot);

    if (use == UNUSED)
        return use;
    sfs_watch_add(mount->lifetimes->watch,
                  sfs_backing_data_fd(sfs_node_backing_locked(mount->nodes, slot)), slot);
    /* Whoever it was may have let go between the two looks. */
    return use_of(mount, slot);
}

/* --- what happens at the end ----------------------------------------------------------------- */

/* What the kernel is told of a name: that it is gone, or, where somebody waits for that for a
 * while, that it is to be looked up anew. */
typedef struct {
    uint64_t dir, nodeid;
    uint32_t entry;
    char *name;
    uint64_t turn; /* 0: the name is gone */
} Telling;

static guint
hash_telling(gconstpointer key)
{
    const Telling *telling = key;

    return g_int64_hash(&telling->dir) ^ g_str_hash(telling->name);
}

static gboolean
equal_tellings(gconstpointer a, gconstpointer b)
{
    const Telling *x = a, *y = b;

    return x->dir == y->dir && strcmp(x->name, y->name) == 0;
}

/* On a thread of its own, for the kernel may have to wait for who works in the directory. */
static void
tell(gpointer data, gpointer user_data)
{
    SfsMount *mount = user_data;
    Telling *telling = data;
    SfsLifetimes *lifetimes = mount->lifetimes;
    size_t length = strlen(telling->name);

    if (telling->turn == 0) {
        fuse_lowlevel_notify_delete(mount->session, telling->dir, telling->nodeid, telling->name,
                                    length);
        sfs_namespace_told(mount->names, telling->entry);
    } else {
        /* What changes from here on has to be told for itself. */
        g_mutex_lock(&lifetimes->lock);
        g_hash_table_remove(lifetimes->to_renew, telling);
        g_mutex_unlock(&lifetimes->lock);
        fuse_lowlevel_notify_inval_entry(mount->session, telling->dir, telling->name, length);
        g_mutex_lock(&lifetimes->lock);
        lifetimes->told = telling->turn;
        g_cond_broadcast(&lifetimes->closed);
        g_mutex_unlock(&lifetimes->lock);
    }
    g_free(telling->name);
    g_free(telling);
}

static void
name_is_gone(uint64_t dir, const char *name, uint64_t nodeid, uint32_t entry, void *data)
{
    SfsMount *mount = data;
    Telling telling = {dir, nodeid, entry, g_strdup(name), 0};

    sfs_pool_push(mount->lifetimes->tellers, g_memdup2(&telling, sizeof telling));
}

typedef struct {
    SfsMount *mount;
    uint64_t turn; /* of the last of its names */
} Renewal;

/* A file can have very many names, and be changed faster than the kernel can be told: what is still
 * to be told is not noted once more. */
static void
name_is_renewed(uint64_t dir, const char *name, uint64_t nodeid, void *data)
{
    Renewal *renewal = data;
    SfsLifetimes *lifetimes = renewal->mount->lifetimes;
    Telling wanted = {dir, nodeid, SFS_NO_SLOT, (char *)name, 0};
    Telling *telling;

    g_mutex_lock(&lifetimes->lock);
    telling = g_hash_table_lookup(lifetimes->to_renew, &wanted);
    if (telling == NULL) {
        wanted.name = g_strdup(name);
        wanted.turn = ++lifetimes->turns;
        telling = g_memdup2(&wanted, sizeof wanted);
        g_hash_table_add(lifetimes->to_renew, telling);
        sfs_pool_push(lifetimes->tellers, telling);
    }
    renewal->turn = MAX(renewal->turn, telling->turn);
    g_mutex_unlock(&lifetimes->lock);
}

void
sfs_lifetime_renewed(SfsMount *mount, uint32_t slot)
{
    SfsLifetimes *lifetimes = mount->lifetimes;
    Renewal renewal = {mount, 0};
    gint64 deadline = sfs_lifetime_patience();
    bool more = true;

    sfs_namespace_each_name(mount->names, slot, name_is_renewed, &renewal);
    g_mutex_lock(&lifetimes->lock);
    while (more && lifetimes->told < renewal.turn)
        more = g_cond_wait_until(&lifetimes->closed, &lifetimes->lock, deadline);
    g_mutex_unlock(&lifetimes->lock);
}

/* Whether it is a page section with a file of the store in which there is nothing. Node locked. */
static bool
is_empty(SfsMount *mount, uint32_t slot)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    SfsBacking *backing = sfs_node_backing_locked(mount->nodes, slot);
    struct stat st;

    return backing != NULL && rec->kind == SFS_KIND_PAGE && backing->ops->stat(backing, &st) == 0 &&
           st.st_size == 0 && st.st_blocks == 0;
}

/* Takes its bytes from the section; the caller unrefs them after unlocking. Node locked. */
static SfsBacking *
take_backing(SfsMount *mount, uint32_t slot)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    SfsBacking *backing = sfs_node_backing_locked(mount->nodes, slot);
    struct stat st;

    if (backing != NULL && backing->ops->stat(backing, &st) == 0) {
        sfs_time_set(&rec->atime, st.st_atim);
        sfs_time_set(&rec->mtime, st.st_mtim);
        sfs_time_set(&rec->ctime, sfs_time_max(sfs_time_get(&rec->ctime), st.st_ctim));
    }
    return sfs_node_set_backing(mount->nodes, slot, NULL, SFS_NO_SLOT);
}

/* Once at a time: its file may be closed by others more often than /proc can be looked through. */
static void
scan_soon(SfsMount *mount, uint32_t slot)
{
    SfsLifetimes *lifetimes = mount->lifetimes;
    gpointer data = GUINT_TO_POINTER(slot);

    g_mutex_lock(&lifetimes->lock);
    if (g_hash_table_add(lifetimes->to_scan, data))
        sfs_pool_push(lifetimes->scanners, data);
    g_mutex_unlock(&lifetimes->lock);
}

static bool
was_just_looked_up(const SfsNodeRec *rec)
{
    return g_get_monotonic_time() < (gint64)rec->looked_up + GRACE_US;
}

/* Looks at a section that may have lost its last user. False: it wants another look, in a moment.
 */
static bool
look(SfsMount *mount, uint32_t slot, unsigned looks)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    bool ends, empty, done = true;
    SfsBacking *unused = NULL;
    Use use = IN_USE;

    sfs_node_lock(mount->nodes, slot);
    ends = atomic_load(&rec->state) == SFS_LIVE && S_ISREG(rec->mode) && rec->nlink > 0 &&
           rec->policy.lifetime == SFS_TEMPORARY && rec->opened && !rec->doomed;
    empty = atomic_load(&rec->state) == SFS_LIVE && S_ISREG(rec->mode) && is_empty(mount, slot);
    /* While it is open, the next close has it looked at. */
    if ((ends || empty) && rec->opens == 0 && rec->views == 0) {
        use = watch_use_of(mount, slot);
        done = use == UNUSED;
    }
    if (use == UNUSED && ends && looks < GRACE_LOOKS && was_just_looked_up(rec))
        done = false;
    else if (use == UNUSED && ends)
        rec->doomed = 1;
    /* Copies of it show its bytes for as long as they are there; of an empty one, those to come. */
    if (use == UNUSED && rec->copies == 0 && (rec->doomed || empty))
        unused = take_backing(mount, slot);
    ends = ends && rec->doomed;
    sfs_node_unlock(mount->nodes, slot);
    sfs_backing_unref(unused);
    if (ends) {
        g_debug("section %" PRIu64 " is at its end", rec->serial);
        sfs_namespace_remove_all(mount->names, slot, name_is_gone, mount);
    }
    if (use == UNCLEAR && looks == 0)
        scan_soon(mount, slot);
    return done;
}

/* --- being told ------------------------------------------------------------------------------ */

static bool
look_again(uint32_t slot, unsigned looks, void *data)
{
    return look(data, slot, looks);
}

static void
look_soon(SfsMount *mount, uint32_t slot)
{
    if (!look(mount, slot, 0))
        sfs_watch_later(mount->lifetimes->watch, slot);
}

static void
note_close(SfsMount *mount)
{
    SfsLifetimes *lifetimes = mount->lifetimes;

    g_mutex_lock(&lifetimes->lock);
    g_cond_broadcast(&lifetimes->closed);
    g_mutex_unlock(&lifetimes->lock);
}

void
sfs_lifetime_closed(SfsMount *mount, uint32_t slot, uint64_t nodeid, bool native)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    bool last;

    sfs_node_lock(mount->nodes, slot);
    /* A handle from before the section was redefined counts as a pin: see section.c. Another one
     * becomes a pin while this looks at the section. */
    if ((nodeid & SFS_SERIAL_MASK) == rec->nodeid_serial) {
        rec->opens--;
        rec->pins++;
        if (native)
            rec->native_writers--;
    }
    last = rec->opens == 0;
    if (last)
        rec->io_mode = SFS_IO_UNDECIDED;
    sfs_node_unlock(mount->nodes, slot);
    note_close(mount);
    if (last)
        look_soon(mount, slot);
    sfs_node_unpin(mount->nodes, slot);
}

void
sfs_lifetime_view_closed(SfsMount *mount, uint32_t slot)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
    bool last;

    sfs_node_lock(mount->nodes, slot);
    last = --rec->views == 0 && rec->opens == 0;
    sfs_node_unlock(mount->nodes, slot);
    note_close(mount);
    if (last)
        look_soon(mount, slot);
    sfs_node_unpin(mount->nodes, slot);
}

void
sfs_lifetime_changed(SfsMount *mount, uint32_t slot)
{
    look_soon(mount, slot);
}

void
sfs_lifetime_tell_again(SfsMount *mount)
{
    sfs_namespace_tell_again(mount->names, name_is_gone, mount);
}

void
sfs_lifetime_resume(SfsMount *mount, uint32_t slot)
{
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);

    if (rec->doomed)
        sfs_namespace_remove_all(mount->names, slot, name_is_gone, mount);
    else if (rec->opens == 0 && rec->views == 0)
        look_soon(mount, slot);
}

bool
sfs_lifetime_looked_up(SfsMount *mount, const SfsTarget *target)
{
    bool in_time;

    if (!sfs_target_is_section(target) || target->rec->policy.lifetime != SFS_TEMPORARY)
        return true;
    sfs_node_lock(mount->nodes, target->slot);
    in_time = !target->rec->doomed;
    target->rec->looked_up = (uint64_t)g_get_monotonic_time();
    sfs_node_unlock(mount->nodes, target->slot);
    return in_time;
}

int
sfs_lifetime_check_unused_locked(SfsMount *mount, uint32_t slot)
{
    return use_of(mount, slot) == UNUSED ? 0 : -EAGAIN;
}

int
sfs_lifetime_check_unused(SfsMount *mount, uint32_t slot)
{
    int r;

    sfs_node_lock(mount->nodes, slot);
    r = sfs_lifetime_check_unused_locked(mount, slot);
    sfs_node_unlock(mount->nodes, slot);
    return r;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* False: it cannot be said just now. */
static bool
find_mapping(SfsMount *mount, const SfsTarget *target, bool *mapped)
{
    int r = sfs_holders_mapped((dev_t)mount->header->mount_dev,
                               sfs_node_ino(SFS_CLASS_NODE, target->rec), mapped);

    if (r < 0)
        g_info("/proc does not say who has what mapped: %s", g_strerror(-r));
    return r != -EAGAIN;
}

bool
sfs_lifetime_is_mapped(SfsMount *mount, const SfsTarget *target)
{
    bool mapped = false;

    return !find_mapping(mount, target, &mapped) || mapped;
}

/* Looks in /proc whether a section without a handle is mapped; if not, that stays true until it is
 * opened again. False: it cannot be said just now. */
static bool
scan(SfsMount *mount, uint32_t slot)
{
    SfsTarget target;
    uint32_t generation;
    uint64_t serial;
    bool wanted, mapped = false;

    sfs_node_peek(mount->nodes, slot, SFS_CLASS_NODE, &target);
    sfs_node_lock(mount->nodes, slot);
    wanted = atomic_load(&target.rec->state) == SFS_LIVE && use_of(mount, slot) == UNCLEAR;
    generation = target.rec->generation;
    serial = target.rec->serial;
    sfs_node_unlock(mount->nodes, slot);
    if (wanted && !find_mapping(mount, &target, &mapped))
        return false;
    if (!wanted || mapped)
        return true;
    sfs_node_lock(mount->nodes, slot);
    if (generation == target.rec->generation && serial == target.rec->serial)
        target.rec->unmapped = generation;
    sfs_node_unlock(mount->nodes, slot);
    return true;
}

bool
sfs_lifetime_is_used(SfsMount *mount, uint32_t slot)
{
    Use use = UNCLEAR;

    for (int looks = 0; use == UNCLEAR && looks < 2; looks++) {
        if (looks > 0)
            scan(mount, slot);
        sfs_node_lock(mount->nodes, slot);
        use = use_of(mount, slot);
        sfs_node_unlock(mount->nodes, slot);
    }
    return use != UNUSED;
}

static void
scan_and_look(gpointer data, gpointer user_data)
{
    uint32_t slot = GPOINTER_TO_UINT(data);
    SfsMount *mount = user_data;

    g_mutex_lock(&mount->lifetimes->lock);
    g_hash_table_remove(mount->lifetimes->to_scan, data);
    g_mutex_unlock(&mount->lifetimes->lock);
    /* It may be that nobody else has this asked once more, and the section would never end. */
    while (!scan(mount, slot))
        g_usleep(PATIENCE_US);
    look(mount, slot, 1);
}

gint64
sfs_lifetime_patience(void)
{
    return g_get_monotonic_time() + PATIENCE_US;
}

bool
sfs_lifetime_wait(SfsMount *mount, uint32_t slot, gint64 deadline)
{
    SfsLifetimes *lifetimes = mount->lifetimes;
    bool more = g_get_monotonic_time() < deadline;

    scan(mount, slot);
    g_mutex_lock(&lifetimes->lock);
    /* A mapping's end is no close, and the close waited for may have come meanwhile: so this is not
     * slept through in one go. */
    if (more)
        g_cond_wait_until(&lifetimes->closed, &lifetimes->lock,
                          MIN(deadline, g_get_monotonic_time() + PATIENCE_US / 10));
    g_mutex_unlock(&lifetimes->lock);
    return more;
}

/* --- the room -------------------------------------------------------------------------------- */

static int
may_remove(uint32_t slot, void *data)
{
    SfsMount *mount = data;
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);

    return rec->policy.delete == SFS_DELETE_BUSY && S_ISREG(rec->mode)
               ? sfs_lifetime_check_unused(mount, slot)
               : 0;
}

SfsLifetimes *
sfs_lifetimes_new(SfsMount *mount)
{
    SfsLifetimes *lifetimes = g_new0(SfsLifetimes, 1);

    g_mutex_init(&lifetimes->lock);
    g_cond_init(&lifetimes->closed);
    lifetimes->to_scan = g_hash_table_new(NULL, NULL);
    lifetimes->to_renew = g_hash_table_new(hash_telling, equal_tellings);
    lifetimes->tellers = g_thread_pool_new(tell, mount, 1, FALSE, NULL);
    lifetimes->scanners = g_thread_pool_new(scan_and_look, mount, 1, FALSE, NULL);
    lifetimes->watch = sfs_watch_new(look_again, mount);
    sfs_namespace_guard(mount->names, may_remove, mount);
    return lifetimes;
}

bool
sfs_lifetimes_free(SfsLifetimes *lifetimes)
{
    if (g_thread_pool_get_num_threads(lifetimes->scanners) > 0)
        return false;
    sfs_watch_free(lifetimes->watch);
    /* Without a connection the kernel refuses to be told, at once. */
    g_thread_pool_free(lifetimes->tellers, FALSE, TRUE);
    g_thread_pool_free(lifetimes->scanners, TRUE, TRUE);
    g_mutex_clear(&lifetimes->lock);
    g_cond_clear(&lifetimes->closed);
    g_hash_table_unref(lifetimes->to_scan);
    g_hash_table_unref(lifetimes->to_renew);
    g_free(lifetimes);
    return true;
}
