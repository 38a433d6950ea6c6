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

/* One of the sections that a target shows: itself, what it is based on, and so on. */
typedef struct {
    uint32_t slot;
    const SfsNodeRec *rec;
    SfsBacking *shared; /* the view that its openers share; the caller's */
} Layer;

static Layer
first_layer(SfsMount *mount, const SfsTarget *target)
{
    /* By its own name a section is not a copy of the view that it is making. */
    SfsBacking *shared =
        sfs_target_is_itself(target) ? NULL : shared_view(mount, target->slot, target->rec);

    return (Layer){target->slot, target->rec, shared};
}

static Layer
layer_below(SfsMount *mount, const Layer *layer)
{
    uint32_t slot = layer->rec->base;
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);

    return (Layer){slot, rec, shared_view(mount, slot, rec)};
}

/* The one whose bytes it shows: where somebody shares a view of it, that; else the lowest. */
static Layer
layer_with_bytes(SfsMount *mount, const SfsTarget *target)
{
    Layer layer = first_layer(mount, target);

    while (layer.shared == NULL && layer.rec->base != SFS_NO_SLOT)
        layer = layer_below(mount, &layer);
    return layer;
}

SfsBacking *
sfs_section_bytes(SfsMount *mount, const SfsTarget *target)
{
    Layer layer = layer_with_bytes(mount, target);

    return layer.shared != NULL ? layer.shared : sfs_node_backing(mount->nodes, layer.slot);
}

int
sfs_section_need_bytes(SfsMount *mount, const SfsTarget *target, SfsBacking **bytes)
{
    Layer layer = layer_with_bytes(mount, target);
    SfsTarget bottom;
    int r;

    *bytes = layer.shared;
    if (*bytes != NULL)
        return 0;
    sfs_node_peek(mount->nodes, layer.slot, SFS_CLASS_NODE, &bottom);
    r = sfs_section_need_backing(mount, &bottom, bytes);
    return r == -ESTALE ? 0 : r; /* it has no name any more, and stays empty */
}

uint64_t
sfs_section_dirty_inode(SfsMount *mount, const SfsTarget *target)
{
    if (!sfs_target_is_view(target))
        return 0;
    for (Layer layer = first_layer(mount, target);; layer = layer_below(mount, &layer)) {
        if (layer.shared != NULL) {
            sfs_backing_unref(layer.shared);
            return sfs_nodeid(SFS_CLASS_OWN, layer.slot, layer.rec->nodeid_serial);
        }
        if (layer.rec->opens > 0 && layer.rec->io_mode != SFS_IO_PASSTHROUGH)
            return sfs_nodeid(SFS_CLASS_NODE, layer.slot, layer.rec->nodeid_serial);
        if (layer.rec->base == SFS_NO_SLOT)
            return 0;
    }
}
