/* SPDX-License-Identifier: MIT */
#include "doubt.h"

#include "lock.h"
#include "log.h"
#include "section.h"
#include "util.h"

#include <fuse_lowlevel.h>

/* Seconds for which a process that was answered may be thought not to have run since. */
#define TOO_YOUNG 3

struct SfsDoubt {
    SfsMount *mount;
    GThread *thread;
    GAsyncQueue *asked; /* node slots + 1, 0: the end */
    GHashTable *nodes;  /* set of node slots to ask about; the thread's own, as all below */
    GArray *handles;    /* of uint64_t: fh */
};

static bool
kernel_has(SfsDoubt *doubt, uint64_t nodeid)
{
    /* With a negative offset it forgets attributes and nothing else. */
    return fuse_lowlevel_notify_inval_inode(doubt->mount->session, nodeid, -1, 0) != -ENOENT;
}

static bool
is_young(const SfsTime *since)
{
    return sfs_now().tv_sec - since->sec < TOO_YOUNG;
}

/* Asks about one node. FALSE: it is to be asked about again. */
static gboolean
settle_node(gpointer key, gpointer value, gpointer data)
{
    SfsDoubt *doubt = data;
    uint32_t slot = GPOINTER_TO_UINT(key) - 1;
    const SfsNodeRec *rec = sfs_registry_get(doubt->mount->registry, SFS_TABLE_NODES, slot);

    if (atomic_load(&rec->state) != SFS_LIVE)
        return TRUE;
    if (is_young(&rec->btime))
        return FALSE;
    if (!kernel_has(doubt, sfs_nodeid(SFS_CLASS_NODE, slot, rec->serial)) &&
        (rec->nodeid_serial == rec->serial ||
         !kernel_has(doubt, sfs_nodeid(SFS_CLASS_NODE, slot, rec->nodeid_serial))))
        sfs_node_forgotten(doubt->mount->nodes, slot);
    return TRUE;
}

/* Asks about one handle. True: it need not be asked about again. */
static bool
settle_handle(SfsDoubt *doubt, uint64_t fh)
{
    SfsHandle *handle = sfs_section_handle(doubt->mount, fh);

    if (handle == NULL)
        return true;
    if (is_young(&handle->rec->since) || kernel_has(doubt, handle->rec->nodeid))
        return false;
    g_info("handle of section %u: nobody has it", handle->node);
    sfs_lock_release(doubt->mount, handle);
    sfs_section_release(doubt->mount, handle);
    return true;
}

static gpointer
run(gpointer data)
{
    SfsDoubt *doubt = data;

    for (;;) {
        bool waiting = g_hash_table_size(doubt->nodes) > 0 || doubt->handles->len > 0;
        gpointer asked = waiting ? g_async_queue_timeout_pop(doubt->asked, G_USEC_PER_SEC)
                                 : g_async_queue_pop(doubt->asked);

        if (asked == GUINT_TO_POINTER(UINT_MAX))
            return NULL;
        if (asked != NULL)
            g_hash_table_add(doubt->nodes, asked);
        g_hash_table_foreach_remove(doubt->nodes, settle_node, doubt);
        for (guint i = doubt->handles->len; i > 0; i--) {
            if (settle_handle(doubt, g_array_index(doubt->handles, uint64_t, i - 1)))
                g_array_remove_index_fast(doubt->handles, i - 1);
        }
    }
}

static void
ask(uint32_t slot, void *data)
{
    g_async_queue_push(((SfsDoubt *)data)->asked, GUINT_TO_POINTER(slot + 1));
}

SfsDoubt *
sfs_doubt_new(SfsMount *mount, GHashTable *requests)
{
    SfsDoubt *doubt = g_new0(SfsDoubt, 1);

    doubt->mount = mount;
    doubt->asked = g_async_queue_new();
    doubt->nodes = g_hash_table_new(NULL, NULL);
    doubt->handles = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (uint32_t slot = 1; slot < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES); slot++) {
        const SfsHandle *handle = sfs_section_handle_at(mount, slot);

        if (handle != NULL && g_hash_table_contains(requests, &handle->rec->made_by)) {
            uint64_t fh = sfs_handle_fh(handle);

            g_array_append_val(doubt->handles, fh);
        }
    }
    sfs_nodes_doubt(mount->nodes, ask, doubt);
    doubt->thread = g_thread_new("doubt", run, doubt);
    return doubt;
}

void
sfs_doubt_free(SfsDoubt *doubt)
{
    if (doubt == NULL)
        return;
    g_async_queue_push(doubt->asked, GUINT_TO_POINTER(UINT_MAX));
    g_thread_join(doubt->thread);
    g_async_queue_unref(doubt->asked);
    g_hash_table_unref(doubt->nodes);
    g_array_unref(doubt->handles);
    g_free(doubt);
}
