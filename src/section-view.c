/* SPDX-License-Identifier: MIT */
/*
 * What is done with an open view as a whole: telling what is its own, dropping that, and writing it
 * into what it is a view of.
 *
 * A commit is all or nothing as far as a death goes (view-commit.c). What the kernel has cached of
 * the section meanwhile is old in part. `commits` in the section's record says so: who opens it has
 * nothing kept of that, and when it is done all of it is dropped; a later worker's is the same.
 */
#include "section-internal.h"

#include "util.h"
#include "view.h"

#include <fuse_lowlevel.h>

static int
check_view(const SfsHandle *handle, bool writes)
{
    if (handle->backing == NULL || handle->backing->ops->changed == NULL)
        return -ENOTTY;
    if (writes && (handle->rec->flags & O_ACCMODE) == O_RDONLY)
        return -EBADF;
    return 0;
}

/* Looks through a view for where it differs from what it is a view of. */
typedef struct {
    SfsBacking *backing;
    int r; /* of what is its own: 0, and then it is [first, end); or a negative errno */
    off_t first, end;
} Look;

/* The next range from @from on that is the view's own, or zeros in place of what the base has. */
static int
next_difference(Look *look, off_t from, off_t *first, off_t *end)
{
    const SfsBackingOps *ops = look->backing->ops;
    off_t stop = INT64_MAX;
    int r = -ENXIO;

    if (look->r == 0 && look->end <= from)
        look->r = ops->changed(look->backing, from, &look->first, &look->end);
    if (look->r < 0 && look->r != -ENXIO)
        return look->r;
    if (look->r == 0)
        stop = look->first;
    if (ops->hidden != NULL && from < stop)
        r = ops->hidden(look->backing, from, stop, first, end);
    if (r != -ENXIO) {
        *end = MIN(*end, stop);
        return r;
    }
    *first = MAX(look->first, from);
    *end = look->end;
    return look->r;
}

int
sfs_section_view_diff(SfsMount *mount, SfsHandle *handle, SectionDiff *diff)
{
    Look look = {.backing = handle->backing};
    int r = check_view(handle, false);

    if (r == 0 && diff->from > INT64_MAX)
        r = -EINVAL;
    if (r < 0)
        return r;
    for (diff->count = 0; diff->count < SECTION_RANGES; diff->count++) {
        off_t first, end;

        r = next_difference(&look, (off_t)diff->from, &first, &end);
        if (r < 0)
            return r == -ENXIO ? 0 : r;
        first -= first % SFS_PAGE_SIZE;
        end = (off_t)sfs_page_round_up((uint64_t)end);
        diff->ranges[diff->count] =
            (SectionRange){.offset = (uint64_t)first, .length = (uint64_t)(end - first)};
        diff->from = (uint64_t)end;
    }
    return 0;
}

static uint64_t
nodeid_of(uint32_t slot, const SfsNodeRec *rec)
{
    return sfs_nodeid(SFS_CLASS_NODE, slot, rec->nodeid_serial);
}

/* Has the kernel write back what was stored to mappings of an inode, and read anew. */
static void
settle_inode(SfsMount *mount, uint64_t nodeid)
{
    fuse_lowlevel_notify_inval_inode(mount->session, nodeid, 0, 0);
}

/* The kernel asks for a size that it was told is old when it is to read or to tell that, but not
 * when it appends, splices or has a page fault: what was appended would go over what has come. So
 * it is told of one that has grown beyond @before, by the last byte. (Of one that has become
 * smaller it cannot be told.) To be settled after that. */
static void
tell_growth(SfsMount *mount, uint64_t nodeid, SfsBacking *backing, off_t before)
{
    char last = 0;
    struct fuse_bufvec bytes = FUSE_BUFVEC_INIT(sizeof last);
    struct stat st;

    bytes.buf[0].mem = &last;
    if (backing->ops->stat(backing, &st) == 0 && st.st_size > before &&
        backing->ops->read(backing, &last, sizeof last, st.st_size - 1) == sizeof last)
        fuse_lowlevel_notify_store(mount->session, nodeid, st.st_size - 1, &bytes, 0);
}

/* The same of a section that views are written into, and settles it. One that is passed through has
 * handles that are not. */
static void
settle_base(SfsMount *mount, uint32_t slot, const SfsNodeRec *rec, off_t before)
{
    g_autoptr(SfsBacking) backing = sfs_node_backing(mount->nodes, slot);

    if (backing != NULL && rec->opens > 0)
        tell_growth(mount, nodeid_of(slot, rec), backing, before);
    settle_inode(mount, nodeid_of(slot, rec));
}

int
sfs_section_view_reset(SfsMount *mount, SfsHandle *handle)
{
    g_autoptr(GMutexLocker) locker = NULL;
    g_autoptr(SfsBacking) base = NULL;
    SfsTarget target;
    struct stat st = {0}, before;
    int r = check_view(handle, true);

    if (r < 0)
        return r;
    sfs_node_peek(mount->nodes, handle->node, handle->class, &target);
    locker = g_mutex_locker_new(&handle->backing->verbs);
    base = sfs_section_bytes(mount, &target);
    if (handle->backing->ops->of(handle->backing) != base)
        return -ESTALE; /* a shared view that has gone; or bytes of what was defined anew since */
    if (base != NULL)
        r = base->ops->stat(base, &st);
    if (r == 0)
        r = handle->backing->ops->stat(handle->backing, &before);
    if (r < 0)
        return r;
    /* What was stored before must not come in afterwards. */
    settle_inode(mount, handle->rec->nodeid);
    r = handle->backing->ops->reset(handle->backing, st.st_size);
    tell_growth(mount, handle->rec->nodeid, handle->backing, before.st_size);
    settle_inode(mount, handle->rec->nodeid);
    return r;
}

/* The section that the view's bytes go to. */
static int
find_base(SfsMount *mount, const SfsHandle *handle, const SfsCaller *caller, SfsTarget *base)
{
    const SfsNodeRec *rec;

    sfs_node_peek(mount->nodes, handle->node, SFS_CLASS_NODE, base);
    rec = base->rec;
    if (handle->class == SFS_CLASS_OWN && rec->base != SFS_NO_SLOT) {
        sfs_node_peek(mount->nodes, rec->base, SFS_CLASS_NODE, base);
        rec = base->rec;
    }
    /* One that is writecopy shows its own bytes to each as a copy, and so they stay. */
    if (rec->protect != SFS_PROTECT_READWRITE)
        return sfs_section_refuse(base, -EACCES, "it is not to be written");
    if (!sfs_caller_may(caller, rec->uid, rec->gid, rec->mode, W_OK))
        return sfs_section_refuse(base, -EACCES, "its mode does not allow writing");
    return 0;
}

/* Takes the memory that a committed section of this size has. */
static int
promise_memory(SfsMount *mount, const SfsTarget *base, off_t size)
{
    g_autoptr(SfsBacking) backing = NULL;
    g_autoptr(GMutexLocker) held = NULL;

    if (!sfs_section_keeps_memory(base->rec) || size == 0)
        return 0;
    held = sfs_section_hold_size(base);
    backing = sfs_node_backing(mount->nodes, base->slot);
    return backing != NULL ? backing->ops->allocate(backing, FALLOC_FL_KEEP_SIZE, 0, size) : 0;
}

static int
commit(SfsMount *mount, SfsHandle *handle, const SfsCaller *caller)
{
    g_autoptr(GMutexLocker) locker = NULL;
    g_autoptr(SfsBacking) bytes = NULL;
    SfsTarget base;
    struct stat st, before = {0};
    int r = check_view(handle, true);

    if (r == 0)
        r = find_base(mount, handle, caller, &base);
    if (r < 0)
        return r;
    locker = g_mutex_locker_new(&handle->backing->verbs);
    bytes = sfs_node_backing(mount->nodes, base.slot);
    if (handle->backing->ops->of(handle->backing) != bytes)
        return -ESTALE; /* the base was empty, and was defined by a file since */
    /* What was stored to mappings of either before must not come in afterwards. */
    settle_inode(mount, handle->rec->nodeid);
    settle_inode(mount, nodeid_of(base.slot, base.rec));
    r = handle->backing->ops->stat(handle->backing, &st);
    if (r == 0 && bytes != NULL)
        r = bytes->ops->stat(bytes, &before);
    if (r == 0)
        r = sfs_section_check_size(mount, &base, NULL, (uint64_t)st.st_size);
    if (r == 0)
        r = promise_memory(mount, &base, st.st_size);
    if (r < 0)
        return r;
    sfs_section_drop_privileges(mount, &base, caller);
    sfs_section_drop_file_set_ids(mount, &base, caller);
    atomic_fetch_add(&base.rec->commits, 1);
    r = handle->backing->ops->commit(handle->backing, st.st_size);
    if (r == 0)
        r = promise_memory(mount, &base, st.st_size); /* holes that were made are filled */
    settle_base(mount, base.slot, base.rec, before.st_size);
    atomic_fetch_sub(&base.rec->commits, 1);
    return r;
}

int
sfs_section_view_commit(SfsMount *mount, SfsHandle *handle, const SfsCaller *caller)
{
    int r = commit(mount, handle, caller);

    /* Nobody may open it while it is made smaller (sfs_section_check_size()). */
    sfs_section_cut(mount);
    return r;
}

GArray *
sfs_section_resume_commits(SfsMount *mount)
{
    uint32_t bound = sfs_registry_bound(mount->registry, SFS_TABLE_NODES);
    GArray *slots = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    for (uint32_t slot = 0; slot < bound; slot++) {
        SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);

        if (rec == NULL || atomic_load(&rec->commits) == 0)
            continue;
        /* Those that had begun were ended, or begin anew; this one stands for what is cached. */
        atomic_store(&rec->commits, 1);
        fuse_lowlevel_notify_inval_inode(mount->session, nodeid_of(slot, rec), -1, 0);
        g_array_append_val(slots, slot);
    }
    return slots;
}

void
sfs_section_end_commits(SfsMount *mount, GArray *slots)
{
    for (guint i = 0; i < slots->len; i++) {
        uint32_t slot = g_array_index(slots, uint32_t, i);
        SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);

        settle_base(mount, slot, rec, 0);
        if (atomic_load(&rec->commits) > 0) /* it may be another section by now */
            atomic_fetch_sub(&rec->commits, 1);
    }
    g_array_unref(slots);
}
