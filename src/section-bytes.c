/* SPDX-License-Identifier: MIT */
/* Where a section's bytes are: its own, made when they are needed, or those of what it is based on.
 */
#include "section-internal.h"

#include "util.h"
#include "view.h"

/* The view that all openers of a section have together, while it is open. */
static SfsBacking *
shared_view(SfsMount *mount, uint32_t slot, const SfsNodeRec *rec)
{
    SfsTarget target = {.class = SFS_CLASS_OWN, .slot = slot};

    if (rec->protect != SFS_PROTECT_WRITECOPY || rec->cow != SFS_COW_SECTION)
        return NULL;
    target.nodeid = sfs_nodeid(SFS_CLASS_OWN, slot, rec->nodeid_serial);
    return sfs_view_backing(mount, &target);
}

/* Times of a store file that is made late, for a section that was made earlier. */
static void
carry_times(SfsBacking *backing, const SfsNodeRec *rec)
{
    struct timespec times[2] = {sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime)};

    backing->ops->set_times(backing, times);
}

int
sfs_section_need_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing)
{
    SfsBacking *made = NULL;
    uint32_t fd_slot;
    int r;

    *backing = sfs_node_backing(mount->nodes, target->slot);
    if (*backing != NULL)
        return 0;
    if (target->rec->doomed || target->rec->base != SFS_NO_SLOT)
        return -ESTALE;
    r = sfs_backing_page_new(mount->store, &made, &fd_slot);
    if (r < 0)
        return r;
    sfs_node_lock(mount->nodes, target->slot);
    *backing = sfs_backing_ref(sfs_node_backing_locked(mount->nodes, target->slot));
    if (target->rec->doomed) {
        r = -ESTALE;
    } else if (*backing == NULL) {
        carry_times(made, target->rec);
        sfs_node_set_backing(mount->nodes, target->slot, made, fd_slot);
        *backing = sfs_backing_ref(made);
        made = NULL;
    }
    sfs_node_unlock(mount->nodes, target->slot);
    sfs_backing_unref(made); /* somebody else was faster */
    return r;
}

int
sfs_section_lock_with_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing)
{
    int r;

    while ((r = sfs_section_need_backing(mount, target, backing)) == 0) {
        sfs_node_lock(mount->nodes, target->slot);
        if (*backing == sfs_node_backing_locked(mount->nodes, target->slot))
            return 0;
        /* Redefined meanwhile, or taken away because it was empty. */
        sfs_node_unlock(mount->nodes, target->slot);
        g_clear_pointer(backing, sfs_backing_unref);
    }
    return r;
}

SfsBacking *
sfs_section_bytes(SfsMount *mount, const SfsTarget *target)
{
    const SfsNodeRec *rec = target->rec;
    uint32_t slot = target->slot;
    /* By its own name a section is not a copy of the view that it is making. */
    bool own = sfs_target_is_itself(target);

    while (true) {
        SfsBacking *shared = own ? NULL : shared_view(mount, slot, rec);

        if (shared != NULL || rec->base == SFS_NO_SLOT)
            return shared != NULL ? shared : sfs_node_backing(mount->nodes, slot);
        slot = rec->base;
        rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
        own = false;
    }
}

uint64_t
sfs_section_dirty_inode(SfsMount *mount, const SfsTarget *target)
{
    const SfsNodeRec *rec = target->rec;
    uint32_t slot = target->slot;
    bool own = sfs_target_is_itself(target);

    if (!sfs_target_is_view(target))
        return 0;
    while (true) {
        SfsBacking *shared = own ? NULL : shared_view(mount, slot, rec);

        if (shared != NULL) {
            sfs_backing_unref(shared);
            return sfs_nodeid(SFS_CLASS_OWN, slot, rec->nodeid_serial);
        }
        if (rec->opens > 0 && rec->io_mode != SFS_IO_PASSTHROUGH)
            return sfs_nodeid(SFS_CLASS_NODE, slot, rec->nodeid_serial);
        if (rec->base == SFS_NO_SLOT)
            return 0;
        slot = rec->base;
        rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
        own = false;
    }
}
