/* SPDX-License-Identifier: MIT */
#include "node.h"

#include "keeper-link.h"
#include "passthrough.h"
#include "request.h"
#include "util.h"

#include <string.h>
#include <sys/mman.h>

#define N_LOCKS 256

struct SfsNodes {
    SfsRegistry *registry;
    int device;
    int link;
    GMutex locks[N_LOCKS];
    SfsBacking **backings; /* by slot; sparse memory */
    uint8_t *doubtful;     /* by slot; sparse memory, NULL: none is */
    SfsDoubtFunc ask;
    void *ask_data;
};

#define DOUBTFUL_BYTES ((size_t)SFS_MAX_NODES + 1)
#define BACKINGS_BYTES (sizeof(SfsBacking *) * ((size_t)SFS_MAX_NODES + 1))

SfsNodes *
sfs_nodes_new(SfsRegistry *registry, int device, int link)
{
    SfsNodes *nodes = g_new0(SfsNodes, 1);

    nodes->registry = registry;
    nodes->device = device;
    nodes->link = link;
    for (int i = 0; i < N_LOCKS; i++)
        g_mutex_init(&nodes->locks[i]);
    nodes->backings = mmap(NULL, BACKINGS_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (nodes->backings == MAP_FAILED)
        g_error("no memory for the table of nodes");
    return nodes;
}

void
sfs_nodes_free(SfsNodes *nodes)
{
    if (nodes == NULL)
        return;
    for (uint32_t slot = 0; slot < sfs_registry_bound(nodes->registry, SFS_TABLE_NODES); slot++)
        sfs_backing_unref(nodes->backings[slot]);
    munmap(nodes->backings, BACKINGS_BYTES);
    if (nodes->doubtful != NULL)
        munmap(nodes->doubtful, DOUBTFUL_BYTES);
    for (int i = 0; i < N_LOCKS; i++)
        g_mutex_clear(&nodes->locks[i]);
    g_free(nodes);
}

static SfsNodeRec *
record(SfsNodes *nodes, uint32_t slot)
{
    return sfs_registry_get(nodes->registry, SFS_TABLE_NODES, slot);
}

void
sfs_node_lock(SfsNodes *nodes, uint32_t slot)
{
    g_mutex_lock(&nodes->locks[slot % N_LOCKS]);
}

void
sfs_node_unlock(SfsNodes *nodes, uint32_t slot)
{
    g_mutex_unlock(&nodes->locks[slot % N_LOCKS]);
}

/* --- identity -------------------------------------------------------------------------------- */

static bool
serial_fits(SfsClass class, const SfsNodeRec *rec, uint64_t serial)
{
    if (class == SFS_CLASS_OWN || (class == SFS_CLASS_COW && S_ISREG(rec->mode)))
        return serial >= rec->serial; /* given out after this user of the slot was born */
    return serial == rec->serial || serial == rec->nodeid_serial;
}

int
sfs_node_resolve(SfsNodes *nodes, uint64_t nodeid, SfsTarget *target)
{
    SfsClass class = (SfsClass)(nodeid >> SFS_CLASS_SHIFT);
    uint32_t slot = (uint32_t)(nodeid >> SFS_SLOT_SHIFT) & SFS_MAX_NODES;
    uint64_t serial = nodeid & SFS_SERIAL_MASK;
    SfsNodeRec *rec;
    bool good;

    *target = (SfsTarget){.class = class, .slot = slot, .nodeid = nodeid};
    if (class == SFS_CLASS_STATS)
        return 0;
    rec = record(nodes, slot);
    if (rec == NULL)
        return -ESTALE;
    sfs_node_lock(nodes, slot);
    good = atomic_load(&rec->state) == SFS_LIVE && serial_fits(class, rec, serial);
    if (good && class != SFS_CLASS_NODE)
        rec->pins++;
    sfs_node_unlock(nodes, slot);
    if (!good)
        return -ESTALE;
    target->rec = rec;
    target->nodes = class != SFS_CLASS_NODE ? nodes : NULL;
    return 0;
}

void
sfs_node_peek(SfsNodes *nodes, uint32_t slot, SfsClass class, SfsTarget *target)
{
    SfsNodeRec *rec = record(nodes, slot);

    *target = (SfsTarget){.class = class,
                          .slot = slot,
                          .nodeid = sfs_nodeid(class, slot, rec->nodeid_serial),
                          .rec = rec};
}

void
sfs_node_target(SfsNodes *nodes, uint32_t slot, SfsClass class, SfsTarget *target)
{
    class = sfs_class_by_name(class, record(nodes, slot));
    sfs_node_peek(nodes, slot, class, target);
    if (class == SFS_CLASS_NODE)
        return;
    /* The openers of a shared view share its nodeid. */
    if (sfs_target_is_view(target) &&
        !(class == SFS_CLASS_OWN && target->rec->cow == SFS_COW_SECTION))
        target->nodeid = sfs_nodeid(class, slot, sfs_registry_next_serial(nodes->registry));
    sfs_node_pin(nodes, slot);
    target->nodes = nodes;
}

void
sfs_target_clear(SfsTarget *target)
{
    if (target->nodes != NULL)
        sfs_node_unpin(target->nodes, target->slot);
    target->nodes = NULL;
}

/* --- birth ----------------------------------------------------------------------------------- */

static void
fill(SfsNodeRec *rec, const SfsNodeSpec *spec, uint64_t serial)
{
    rec->mode = spec->mode;
    rec->serial = rec->nodeid_serial = serial;
    rec->uid = spec->uid;
    rec->gid = spec->gid;
    rec->rdev = spec->rdev;
    rec->made_by = sfs_request_number();
    sfs_time_set(&rec->btime, sfs_now());
    rec->atime = rec->mtime = rec->ctime = rec->btime;
}

SfsNodeRec *
sfs_node_new(SfsNodes *nodes, const SfsNodeSpec *spec, uint32_t *slot)
{
    SfsNodeRec *rec = sfs_registry_alloc(nodes->registry, SFS_TABLE_NODES, slot);

    uint64_t serial;

    if (rec == NULL)
        return NULL;
    serial = sfs_registry_next_serial(nodes->registry);
    fill(rec, spec, serial);
    atomic_store(&rec->nlookup, 1);
    if (serial > SFS_SERIAL_MASK) {
        sfs_node_abandon(nodes, *slot); /* this mount has made 2^38 files */
        return NULL;
    }
    if (spec->link_target != NULL) {
        rec->size = strlen(spec->link_target);
        rec->text = sfs_registry_store_text(nodes->registry, spec->link_target, rec->size);
        if (rec->text == SFS_NO_SLOT) {
            sfs_node_abandon(nodes, *slot);
            return NULL;
        }
    }
    return rec;
}

/* Frees all that the record owns, and the record. Nobody can reach it any more. */
static void
destroy(SfsNodes *nodes, uint32_t slot)
{
    SfsNodeRec *rec = record(nodes, slot);
    SfsBacking *backing = sfs_node_set_backing(nodes, slot, NULL, SFS_NO_SLOT);
    uint32_t text = rec->text, xattrs = atomic_load(&rec->xattrs), base = rec->base;

    if (nodes->doubtful != NULL)
        nodes->doubtful[slot] = 0;
    sfs_registry_release(nodes->registry, SFS_TABLE_NODES, slot);
    sfs_registry_free_text(nodes->registry, text);
    sfs_registry_free_text(nodes->registry, xattrs);
    sfs_backing_unref(backing);
    if (base != SFS_NO_SLOT) {
        sfs_node_lock(nodes, base);
        record(nodes, base)->copies--;
        record(nodes, base)->pins--;
        sfs_node_unlock_and_collect(nodes, base);
    }
}

void
sfs_node_abandon(SfsNodes *nodes, uint32_t slot)
{
    destroy(nodes, slot);
}

void
sfs_node_make_root(SfsNodes *nodes, const SfsConfig *config)
{
    SfsNodeSpec spec = {
        .mode = S_IFDIR | config->root_mode, .uid = config->root_uid, .gid = config->root_gid};
    SfsNodeRec *rec = record(nodes, SFS_ROOT_SLOT);
    uint32_t slot;

    /* A worker may have died while it made it; then the slot is the only one, and free. */
    if (rec != NULL && atomic_load(&rec->state) == SFS_LIVE)
        return;
    rec = sfs_registry_alloc(nodes->registry, SFS_TABLE_NODES, &slot);
    g_assert(rec != NULL && slot == SFS_ROOT_SLOT);
    fill(rec, &spec, SFS_ROOT_SERIAL);
    rec->policy = config->policy;
    rec->strict = config->strict;
    rec->nlink = 2;
    rec->parent = SFS_ROOT_SLOT;
    sfs_registry_publish(nodes->registry, SFS_TABLE_NODES, slot);
}

/* --- end ------------------------------------------------------------------------------------- */

void
sfs_node_unlock_and_collect(SfsNodes *nodes, uint32_t slot)
{
    SfsNodeRec *rec = record(nodes, slot);
    bool dead = slot != SFS_ROOT_SLOT && rec->nlink == 0 && rec->nlookup == 0 && rec->opens == 0 &&
                rec->pins == 0 && atomic_load(&rec->state) == SFS_LIVE;

    /* From here on nobody finds it alive; the slot is not given out again before it is released. */
    if (dead)
        atomic_store(&rec->state, SFS_PREPARED);
    sfs_node_unlock(nodes, slot);
    if (dead)
        destroy(nodes, slot);
}

/* Whether only the kernel holds it, and perhaps not even that. Locked. */
static bool
has_to_ask(SfsNodes *nodes, uint32_t slot)
{
    const SfsNodeRec *rec = record(nodes, slot);

    return nodes->doubtful != NULL && nodes->doubtful[slot] != 0 && rec->nlink == 0 &&
           rec->nlookup > 0;
}

void
sfs_node_forget(SfsNodes *nodes, uint32_t slot, uint64_t nlookup)
{
    SfsNodeRec *rec = record(nodes, slot);
    bool ask;

    sfs_node_lock(nodes, slot);
    /* The kernel keeps count for the root without telling. */
    rec->nlookup -= MIN(nlookup, rec->nlookup);
    ask = has_to_ask(nodes, slot);
    sfs_node_unlock_and_collect(nodes, slot);
    if (ask)
        nodes->ask(slot, nodes->ask_data);
}

void
sfs_node_pin(SfsNodes *nodes, uint32_t slot)
{
    sfs_node_lock(nodes, slot);
    record(nodes, slot)->pins++;
    sfs_node_unlock(nodes, slot);
}

void
sfs_node_unpin(SfsNodes *nodes, uint32_t slot)
{
    sfs_node_lock(nodes, slot);
    record(nodes, slot)->pins--;
    sfs_node_unlock_and_collect(nodes, slot);
}

void
sfs_node_unlinked(SfsNodes *nodes, uint32_t slot)
{
    bool ask;

    sfs_node_lock(nodes, slot);
    ask = has_to_ask(nodes, slot);
    sfs_node_unlock_and_collect(nodes, slot);
    if (ask)
        nodes->ask(slot, nodes->ask_data);
}

/* --- after a worker's death ------------------------------------------------------------------ */

void
sfs_nodes_doubt(SfsNodes *nodes, SfsDoubtFunc ask, void *data)
{
    nodes->ask = ask;
    nodes->ask_data = data;
    nodes->doubtful = mmap(NULL, DOUBTFUL_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (nodes->doubtful == MAP_FAILED)
        g_error("no memory for the table of nodes");
}

void
sfs_node_doubt(SfsNodes *nodes, uint32_t slot)
{
    nodes->doubtful[slot] = 1;
}

void
sfs_node_forgotten(SfsNodes *nodes, uint32_t slot)
{
    SfsNodeRec *rec = record(nodes, slot);

    sfs_node_lock(nodes, slot);
    if (has_to_ask(nodes, slot))
        atomic_store(&rec->nlookup, 0);
    sfs_node_unlock_and_collect(nodes, slot);
}

/* --- bytes ----------------------------------------------------------------------------------- */

SfsBacking *
sfs_node_backing_locked(SfsNodes *nodes, uint32_t slot)
{
    return nodes->backings[slot];
}

SfsBacking *
sfs_node_backing(SfsNodes *nodes, uint32_t slot)
{
    SfsBacking *backing;

    sfs_node_lock(nodes, slot);
    backing = sfs_backing_ref(nodes->backings[slot]);
    sfs_node_unlock(nodes, slot);
    return backing;
}

SfsBacking *
sfs_node_swap_backing(SfsNodes *nodes, uint32_t slot, SfsBacking *backing)
{
    SfsBacking *old = nodes->backings[slot];

    nodes->backings[slot] = backing;
    return old;
}

_Atomic int32_t *
sfs_node_begin_withdrawal(SfsNodes *nodes, int32_t id)
{
    SfsRegistryHeader *header = sfs_registry_header(nodes->registry);

    /* There are more places than threads. */
    for (unsigned i = 0; id != 0; i = (i + 1) % SFS_RUNNING_MAX) {
        int32_t none = 0;

        if (atomic_compare_exchange_strong(&header->withdrawing[i], &none, id))
            return &header->withdrawing[i];
    }
    return NULL;
}

void
sfs_node_end_withdrawal(SfsNodes *nodes, _Atomic int32_t *withdrawal)
{
    if (withdrawal == NULL)
        return;
    sfs_passthrough_unregister(nodes->device, atomic_load(withdrawal));
    atomic_store(withdrawal, 0);
}

SfsBacking *
sfs_node_set_backing(SfsNodes *nodes, uint32_t slot, SfsBacking *backing, uint32_t fd_slot)
{
    SfsNodeRec *rec = record(nodes, slot);
    SfsBacking *old = nodes->backings[slot];
    uint32_t old_slot = rec->fd_slot;
    _Atomic int32_t *withdrawal = sfs_node_begin_withdrawal(nodes, rec->backing_id);

    rec->backing_id = 0;
    sfs_node_end_withdrawal(nodes, withdrawal);
    rec->fd_slot = fd_slot;
    nodes->backings[slot] = backing;
    /* A file of the store gives its slot back itself; a real file's is ours to give back. Not
     * before the record is without it: the slot may be another's at once. */
    if (old != NULL && rec->kind == SFS_KIND_FILE)
        sfs_link_drop(nodes->link, nodes->registry, old_slot);
    return old;
}

void
sfs_node_touch(SfsNodes *nodes, uint32_t slot, bool modified)
{
    SfsNodeRec *rec = record(nodes, slot);

    sfs_node_lock(nodes, slot);
    sfs_time_set(&rec->ctime, sfs_now());
    if (modified)
        rec->mtime = rec->ctime;
    sfs_node_unlock(nodes, slot);
}

void
sfs_node_accessed(SfsNodes *nodes, uint32_t slot)
{
    SfsNodeRec *rec = record(nodes, slot);
    struct timespec now = sfs_now();

    sfs_node_lock(nodes, slot);
    if (sfs_atime_is_due(sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime),
                         sfs_time_get(&rec->ctime), now))
        sfs_time_set(&rec->atime, now);
    sfs_node_unlock(nodes, slot);
}
