/* SPDX-License-Identifier: MIT */
/* What can be said of a section: who uses it, and what memory it takes. */
#include "section-internal.h"

#include "holders.h"
#include "util.h"
#include "view.h"

#include <sys/syscall.h>

/* --- memory ---------------------------------------------------------------------------------- */

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* As the kernel has them (linux/mman.h of 6.5 and later). */
typedef struct {
    uint64_t off, len;
} CacheRange;

typedef struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
} CacheStat;

bool
sfs_section_memory(SfsMount *mount, const SfsTarget *target, uint64_t *resident, uint64_t *swapped)
{
    g_autoptr(SfsBacking) backing = sfs_node_backing(mount->nodes, target->slot);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    CacheRange all = {0, 0};
    CacheStat stat;

    *resident = *swapped = 0;
    if (backing == NULL)
        return true;
    if (syscall(SYS_cachestat, backing->ops->lock_fd(backing), &all, &stat, 0) != 0)
        return false;
    *resident = stat.cached * page;
    /* What was evicted of a real file is on its disk. */
    *swapped = target->rec->kind == SFS_KIND_PAGE ? stat.evicted * page : 0;
    return true;
}

/* --- users ----------------------------------------------------------------------------------- */

/* When @pid opened it, as far as the daemon was told: others have it from one who did. 0: unknown.
 */
static int64_t
opened_at(SfsMount *mount, uint32_t node, pid_t pid)
{
    int64_t own = 0, oldest = 0;

    for (uint32_t slot = 1; slot < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES); slot++) {
        const SfsHandleRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_HANDLES, slot);

        if (atomic_load(&rec->state) != SFS_LIVE || rec->node != node)
            continue;
        if (oldest == 0 || rec->since.sec < oldest)
            oldest = rec->since.sec;
        if ((pid_t)rec->pid == pid && (own == 0 || rec->since.sec < own))
            own = rec->since.sec;
    }
    return own != 0 ? own : oldest;
}

void
sfs_section_holders(SfsMount *mount, const SfsTarget *target, GString *text)
{
    g_autoptr(GArray) holders = g_array_new(FALSE, FALSE, sizeof(SfsHolder));
    dev_t dev = (dev_t)mount->header->mount_dev;

    /* Those of the section itself, and of views over it. */
    sfs_holders_find(dev, sfs_node_ino(SFS_CLASS_NODE, target->rec), holders);
    sfs_holders_find(dev, sfs_node_ino(SFS_CLASS_COW, target->rec), holders);
    for (guint i = 0; i < holders->len; i++) {
        const SfsHolder *holder = &g_array_index(holders, SfsHolder, i);
        int64_t since = opened_at(mount, target->slot, holder->pid);
        char command[SFS_HOLDER_COMMAND_MAX];

        g_string_append_printf(text, "%d %s %u %s%s%s ", (int)holder->pid,
                               sfs_holder_command(holder, command), holder->uid,
                               holder->reads ? "r" : "", holder->writes ? "w" : "",
                               holder->maps ? "m" : "");
        if (since != 0)
            g_string_append_printf(text, "%" PRId64 "\n", MAX(sfs_now().tv_sec - since, 0));
        else
            g_string_append(text, "-\n");
    }
}

/* --- the rest -------------------------------------------------------------------------------- */

off_t
sfs_section_lock_offset(SfsMount *mount, const SfsHandle *handle)
{
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, handle->node);

    return handle->class == SFS_CLASS_NODE && rec->kind == SFS_KIND_FILE && rec->bounded
               ? (off_t)rec->offset
               : 0;
}
