/* SPDX-License-Identifier: MIT */
#include "view.h"

#include "passthrough.h"
#include "util.h"

typedef struct {
    uint64_t nodeid; /* key */
    uint32_t slot;
    SfsViewRec *rec;
    uint32_t node;
    int backing_id; /* ours to withdraw, 0: none */
    SfsBacking *backing;
} View;

struct SfsViews {
    SfsViewMaker *maker;
    GMutex lock;
    GHashTable *by_nodeid; /* of View */
};

SfsViews *
sfs_views_new(void)
{
    SfsViews *views = g_new0(SfsViews, 1);

    views->maker = sfs_view_maker_new();
    g_mutex_init(&views->lock);
    views->by_nodeid = g_hash_table_new(g_int64_hash, g_int64_equal);
    return views;
}

void
sfs_views_free(SfsViews *views)
{
    if (views == NULL)
        return;
    g_hash_table_unref(views->by_nodeid);
    g_mutex_clear(&views->lock);
    sfs_view_maker_free(views->maker);
    g_free(views);
}

static View *
find_locked(SfsMount *mount, uint64_t nodeid)
{
    return g_hash_table_lookup(mount->views->by_nodeid, &nodeid);
}

/* A new view that nobody has seen yet. */
static View *
make(SfsMount *mount, const SfsTarget *target, const SfsViewWish *wish)
{
    const struct stat *section = wish->section;
    uint32_t slot;
    SfsViewRec *rec = sfs_registry_alloc(mount->registry, SFS_TABLE_VIEWS, &slot);
    View *view;

    if (rec == NULL)
        return NULL;
    rec->node = target->slot;
    rec->nodeid = target->nodeid;
    rec->mode = section->st_mode & 07777;
    rec->uid = section->st_uid;
    rec->gid = section->st_gid;
    rec->readonly = !wish->writes && !wish->joined;
    rec->size = rec->base_limit = (uint64_t)section->st_size;
    sfs_time_set(&rec->atime, section->st_atim);
    sfs_time_set(&rec->mtime, section->st_mtim);
    sfs_time_set(&rec->ctime, section->st_ctim);
    view = g_new0(View, 1);
    view->nodeid = target->nodeid;
    view->slot = slot;
    view->rec = rec;
    view->node = target->slot;
    view->backing = sfs_view_make(mount, mount->views->maker, target, wish, slot);
    view->backing_id = rec->backing_id;
    sfs_registry_publish(mount->registry, SFS_TABLE_VIEWS, slot);
    sfs_node_pin(mount->nodes, target->slot);
    return view;
}

SfsBacking *
sfs_view_adopt(SfsMount *mount, uint32_t slot, uint32_t opens, SfsBacking *base)
{
    View *view = g_new0(View, 1);

    view->rec = sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, slot);
    view->nodeid = view->rec->nodeid;
    view->slot = slot;
    view->node = view->rec->node;
    view->backing_id = view->rec->backing_id;
    if (view->rec->kind == SFS_VIEW_COPY || view->rec->kind == SFS_VIEW_CLONE)
        view->backing =
            sfs_backing_copy_adopt(mount->store, mount->link, base, mount->registry, slot);
    else
        view->backing = sfs_backing_cow_adopt(mount->store, base, mount->registry, slot);
    if (view->backing == NULL) {
        g_free(view);
        return NULL;
    }
    atomic_store(&view->rec->opens, opens);
    sfs_node_pin(mount->nodes, view->node);
    g_hash_table_insert(mount->views->by_nodeid, &view->nodeid, view);
    return view->backing;
}

static void
destroy(SfsMount *mount, View *view)
{
    if (view->backing_id != 0)
        sfs_passthrough_unregister(mount->device, view->backing_id);
    sfs_backing_unref(view->backing);
    sfs_node_unpin(mount->nodes, view->node);
    g_free(view);
}

int
sfs_view_open(SfsMount *mount, const SfsTarget *target, const SfsViewWish *wish,
              SfsViewAccess *access)
{
    SfsViews *views = mount->views;
    View *view, *made = NULL;
    int r = 0;

    if (wish->section->st_size > SFS_COW_SIZE_MAX)
        return -EFBIG;
    g_mutex_lock(&views->lock);
    view = find_locked(mount, target->nodeid);
    if (view == NULL) {
        g_mutex_unlock(&views->lock);
        made = make(mount, target, wish);
        if (made == NULL)
            return -ENFILE;
        g_mutex_lock(&views->lock);
        view = find_locked(mount, target->nodeid);
        if (view == NULL) {
            view = g_steal_pointer(&made);
            g_hash_table_insert(views->by_nodeid, &view->nodeid, view);
        }
    }
    if (wish->writes && view->rec->readonly) {
        r = -EACCES;
    } else {
        access->shared = view->rec->opens > 0;
        view->rec->opens++;
        access->backing = sfs_backing_ref(view->backing);
        access->backing_id = view->backing_id;
        access->slot = view->slot;
    }
    g_mutex_unlock(&views->lock);
    if (made != NULL)
        destroy(mount, made);
    return r;
}

bool
sfs_view_open_may_wait(SfsMount *mount, const SfsTarget *target, bool writes)
{
    return writes && sfs_view_may_clone(mount, mount->views->maker, target);
}

/* The number of the section that it is a view of. */
static uint64_t
section_of(SfsMount *mount, const View *view)
{
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, view->node);

    return rec->serial;
}

void
sfs_views_finish_commits(SfsMount *mount)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, mount->views->by_nodeid);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        View *view = value;
        int r;

        if (!view->rec->committing)
            continue;
        r = view->backing->ops->commit(view->backing, -1);
        if (r < 0)
            g_warning("section %" PRIu64
                      ": what was begun to be written into it could not be ended: %s",
                      section_of(mount, view), g_strerror(-r));
        else
            g_message("section %" PRIu64 ": what was begun to be written into it was ended",
                      section_of(mount, view));
    }
}

uint64_t
sfs_views_copied(SfsMount *mount)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    GHashTableIter iter;
    gpointer value;
    uint64_t sum = 0;

    g_hash_table_iter_init(&iter, mount->views->by_nodeid);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        View *view = value;

        if (view->rec->kind == SFS_VIEW_COPY)
            sum += view->backing->ops->private_bytes(view->backing);
    }
    return sum;
}

bool
sfs_view_is_readonly(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    View *view = find_locked(mount, target->nodeid);

    return view != NULL && view->rec->readonly;
}

const char *
sfs_view_mode_name(SfsMount *mount, const SfsTarget *target)
{
    static const char *const names[] = {
        [SFS_VIEW_OVERLAY] = "overlay",
        [SFS_VIEW_BASE] = "base",
        [SFS_VIEW_COPY] = "copy",
        [SFS_VIEW_CLONE] = "clone",
    };
    SfsViews *views = mount->views;
    SfsViewKind kind = SFS_VIEW_OVERLAY;
    View *view;

    g_mutex_lock(&views->lock);
    view = find_locked(mount, target->nodeid);
    if (view != NULL)
        kind = view->rec->kind;
    g_mutex_unlock(&views->lock);
    return names[kind];
}

void
sfs_view_close(SfsMount *mount, uint64_t nodeid)
{
    SfsViews *views = mount->views;
    View *view;

    g_mutex_lock(&views->lock);
    view = find_locked(mount, nodeid);
    if (view != NULL && --view->rec->opens == 0)
        g_hash_table_remove(views->by_nodeid, &nodeid);
    else
        view = NULL;
    g_mutex_unlock(&views->lock);
    if (view != NULL)
        destroy(mount, view);
}

SfsBacking *
sfs_view_backing(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    View *view = find_locked(mount, target->nodeid);

    return view != NULL ? sfs_backing_ref(view->backing) : NULL;
}

uint32_t
sfs_view_viewers(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    const View *view = find_locked(mount, target->nodeid);

    return view != NULL ? view->rec->opens : 0;
}

bool
sfs_view_stat(SfsMount *mount, const SfsTarget *target, struct stat *st)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    const View *view = find_locked(mount, target->nodeid);

    if (view == NULL)
        return false;
    st->st_mode = S_IFREG | view->rec->mode;
    st->st_uid = view->rec->uid;
    st->st_gid = view->rec->gid;
    st->st_ctim = sfs_time_get(&view->rec->ctime);
    return true;
}

void
sfs_view_set(SfsMount *mount, const SfsTarget *target, const struct stat *st, unsigned what)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mount->views->lock);
    View *view = find_locked(mount, target->nodeid);

    if (view == NULL)
        return;
    if (what & SFS_SET_MODE)
        view->rec->mode = st->st_mode & 01777;
    if (what & SFS_SET_UID)
        view->rec->uid = st->st_uid;
    if (what & SFS_SET_GID)
        view->rec->gid = st->st_gid;
    sfs_time_set(&view->rec->ctime, sfs_now());
}
