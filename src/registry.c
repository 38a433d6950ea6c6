/* SPDX-License-Identifier: MIT */
/*
 * See registry.h for who owns what and what a death leaves behind. In memory:
 *
 *    header | commit list | nodes | directory entries | handles | views | descriptors | chunks
 *
 * each table at a fixed offset with room for its full capacity. The memory is sparse: a page that
 * no record has touched costs nothing. Each table has a bound (atomic, in shared memory: slots at
 * or above it were never used) and a stack of freed slots below it, which is the worker's own and
 * rebuilt by scanning when the memory is opened.
 */
#include "registry.h"

#include "fault.h"
#include "log.h"

#include <string.h>
#include <sys/mman.h>

#define MAGIC 0x31302d7366637331ull /* "1scfs-01" */

/* One chunk of text. */
#define CHUNK_BYTES 112
typedef struct {
    _Atomic uint32_t state;
    uint32_t next;   /* slot, SFS_NO_SLOT at the end */
    uint32_t length; /* of the whole chain, in its first chunk */
    uint32_t first;  /* 1 in the first chunk of a chain */
    char bytes[CHUNK_BYTES];
} ChunkRec;

typedef struct {
    _Atomic uint32_t valid; /* number of changes to carry out, 0: none */
    SfsChange changes[SFS_COMMIT_MAX];
} CommitList;

typedef struct {
    _Atomic uint32_t bound[SFS_N_TABLES];
    CommitList commit;
} Shared;

static const struct {
    size_t record;     /* bytes */
    uint32_t capacity; /* slots */
} shape[SFS_N_TABLES] = {
    [SFS_TABLE_NODES] = {sizeof(SfsNodeRec), SFS_MAX_NODES},
    [SFS_TABLE_DIRENTS] = {sizeof(SfsDirentRec), 2 * SFS_MAX_NODES},
    [SFS_TABLE_HANDLES] = {sizeof(SfsHandleRec), 1u << 22},
    [SFS_TABLE_VIEWS] = {sizeof(SfsViewRec), 1u << 22},
    [SFS_TABLE_FDS] = {sizeof(SfsFdRec), 1u << 22},
    [SFS_TABLE_LOCKS] = {sizeof(SfsLockRec), 1u << 22},
    [SFS_TABLE_DONE] = {sizeof(SfsDoneRec), 1u << 20},
    [SFS_TABLE_CHUNKS] = {sizeof(ChunkRec), 2 * SFS_MAX_NODES},
};

G_STATIC_ASSERT(sizeof(SfsNodeRec) <= 256);
G_STATIC_ASSERT(sizeof(SfsDirentRec) <= 128);
G_STATIC_ASSERT(sizeof(ChunkRec) == 128);
G_STATIC_ASSERT(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2);

struct SfsRegistry {
    int fd;
    bool borrowed; /* fd is somebody else's */
    char *base;
    size_t size;
    SfsRegistryHeader *header;
    Shared *shared;
    char *table[SFS_N_TABLES];

    GMutex commit_lock;
    GMutex lock[SFS_N_TABLES];  /* each protects the two members below of its table */
    GArray *free[SFS_N_TABLES]; /* of uint32_t */
    uint32_t used[SFS_N_TABLES];
};

/* --- layout ---------------------------------------------------------------------------------- */

static size_t
align_page(size_t n)
{
    return (n + SFS_PAGE_SIZE - 1) & ~(size_t)(SFS_PAGE_SIZE - 1);
}

/* Fills in where everything is; the size of it all. */
static size_t
lay_out(SfsRegistry *registry)
{
    size_t at = 0;

    registry->header = (void *)(registry->base + at);
    at += align_page(sizeof *registry->header);
    registry->shared = (void *)(registry->base + at);
    at += align_page(sizeof *registry->shared);
    for (int t = 0; t < SFS_N_TABLES; t++) {
        registry->table[t] = registry->base + at;
        at += align_page(shape[t].record * (shape[t].capacity + (size_t)1));
    }
    return at;
}

static bool
map(SfsRegistry *registry, bool writable, GError **error)
{
    registry->size = lay_out(registry);
    registry->base = mmap(NULL, registry->size, PROT_READ | (writable ? PROT_WRITE : 0),
                          MAP_SHARED | MAP_NORESERVE, registry->fd, 0);
    if (registry->base == MAP_FAILED) {
        registry->base = NULL;
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "cannot map the registry: %s", g_strerror(errno));
        return false;
    }
    /* Whoever dumps core would read every page, and so make the kernel provide it, for good. */
    madvise(registry->base, registry->size, MADV_DONTDUMP);
    lay_out(registry);
    return true;
}

static SfsRegistry *
new_unmapped(int fd)
{
    SfsRegistry *registry = g_new0(SfsRegistry, 1);

    registry->fd = fd;
    g_mutex_init(&registry->commit_lock);
    for (int t = 0; t < SFS_N_TABLES; t++) {
        g_mutex_init(&registry->lock[t]);
        registry->free[t] = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    }
    return registry;
}

static _Atomic uint32_t *
state_of(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    /* Every record but the keeper's begins with its state. */
    return (_Atomic uint32_t *)(void *)(registry->table[table] + shape[table].record * slot);
}

/* --- life of the memory ---------------------------------------------------------------------- */

SfsRegistry *
sfs_registry_create(const SfsConfig *config, GError **error)
{
    g_autoptr(SfsRegistry) registry = new_unmapped(-1);
    SfsRegistryHeader *header;

    registry->fd = memfd_create("sectionfs-registry", MFD_CLOEXEC);
    if (registry->fd < 0 || ftruncate(registry->fd, (off_t)lay_out(registry)) != 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "cannot make memory for the registry: %s", g_strerror(errno));
        return NULL;
    }
    if (!map(registry, true, error))
        return NULL;
    header = registry->header;
    header->magic = MAGIC;
    header->layout = SFS_REGISTRY_LAYOUT;
    header->header_size = sizeof *header;
    header->config = *config;
    atomic_store(&header->next_serial, 2); /* 1 is the root's, see namespace.h */
    atomic_store(&header->next_cookie, 3); /* after "." and ".." */
    for (int t = 0; t < SFS_N_TABLES; t++)
        atomic_store(&registry->shared->bound[t], t == SFS_TABLE_NODES ? 0 : 1);
    return g_steal_pointer(&registry);
}

static void
make_change(SfsRegistry *registry, const SfsChange *change)
{
    char *record = registry->table[change->table] + shape[change->table].record * change->slot;

    /* Values are stored as such: the low bytes first, on the machines that this runs on. */
    if (change->size != 0)
        memcpy(record + change->offset, &change->value, change->size);
    else
        atomic_store(state_of(registry, change->table, change->slot), change->state);
}

/* Finishes a change that a dead worker had made valid but not carried out. */
static void
complete_commit(SfsRegistry *registry)
{
    CommitList *list = &registry->shared->commit;
    uint32_t n = atomic_load(&list->valid);

    for (uint32_t i = 0; i < n && i < SFS_COMMIT_MAX; i++)
        make_change(registry, &list->changes[i]);
    atomic_store(&list->valid, 0);
}

/* Builds the free lists, and frees what was only prepared when its worker died. */
static void
scan(SfsRegistry *registry)
{
    for (int t = 0; t < SFS_N_TABLES; t++) {
        uint32_t bound = atomic_load(&registry->shared->bound[t]);

        for (uint32_t slot = t == SFS_TABLE_NODES ? 0 : 1; slot < bound; slot++) {
            _Atomic uint32_t *state = state_of(registry, t, slot);

            if (t != SFS_TABLE_FDS && atomic_load(state) == SFS_PREPARED)
                atomic_store(state, SFS_FREE);
            if (atomic_load(state) == SFS_FREE)
                g_array_append_val(registry->free[t], slot);
            else
                registry->used[t]++;
        }
    }
}

/* @writable: else it is mapped for reading only. */
static SfsRegistry *
open_mapped(int fd, bool writable, GError **error)
{
    g_autoptr(SfsRegistry) registry = new_unmapped(fd);
    struct stat st;

    registry->borrowed = true;

    if (fstat(fd, &st) != 0 || (size_t)st.st_size != lay_out(registry)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "the registry has another size than this worker's: it is of another version");
        return NULL;
    }
    if (!map(registry, writable, error)) {
        return NULL;
    }
    if (registry->header->magic != MAGIC || registry->header->layout != SFS_REGISTRY_LAYOUT ||
        registry->header->header_size != sizeof *registry->header) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "the registry is of layout %u (header %u bytes), this worker knows %u (%zu)",
                    registry->header->layout, registry->header->header_size, SFS_REGISTRY_LAYOUT,
                    sizeof *registry->header);
        return NULL;
    }
    return g_steal_pointer(&registry);
}

SfsRegistry *
sfs_registry_open(int fd, GError **error)
{
    SfsRegistry *registry = open_mapped(fd, true, error);

    if (registry != NULL) {
        SFS_FAULT_INIT(registry->base, registry->size, &registry->header->fault_points);
        complete_commit(registry);
        scan(registry);
    }
    return registry;
}

SfsRegistry *
sfs_registry_open_to_look(int fd, GError **error)
{
    return open_mapped(fd, false, error);
}

void
sfs_registry_free(SfsRegistry *registry)
{
    if (registry == NULL)
        return;
    if (registry->base != NULL)
        munmap(registry->base, registry->size);
    if (!registry->borrowed)
        sfs_fd_clear(&registry->fd);
    for (int t = 0; t < SFS_N_TABLES; t++) {
        g_mutex_clear(&registry->lock[t]);
        g_array_unref(registry->free[t]);
    }
    g_mutex_clear(&registry->commit_lock);
    g_free(registry);
}

int
sfs_registry_fd(const SfsRegistry *registry)
{
    return registry->fd;
}

SfsRegistryHeader *
sfs_registry_header(SfsRegistry *registry)
{
    return registry->header;
}

/* --- records --------------------------------------------------------------------------------- */

void *
sfs_registry_alloc(SfsRegistry *registry, SfsTable table, uint32_t *slot)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&registry->lock[table]);
    GArray *freed = registry->free[table];
    void *record;

    if (freed->len > 0) {
        *slot = g_array_index(freed, uint32_t, freed->len - 1);
        g_array_set_size(freed, freed->len - 1);
    } else {
        uint32_t bound = atomic_load(&registry->shared->bound[table]);

        if (bound > shape[table].capacity)
            return NULL;
        *slot = bound;
        atomic_store(&registry->shared->bound[table], bound + 1);
    }
    registry->used[table]++;
    record = registry->table[table] + shape[table].record * *slot;
    /* A descriptor's record is the keeper's to write: it may still hold the one before. */
    if (table != SFS_TABLE_FDS) {
        memset(record, 0, shape[table].record);
        atomic_store(state_of(registry, table, *slot), SFS_PREPARED);
    }
    return record;
}

void
sfs_registry_publish(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    atomic_store_explicit(state_of(registry, table, slot), SFS_LIVE, memory_order_release);
}

/* Makes a slot, whose record is SFS_FREE already, available to sfs_registry_alloc(). */
static void
recycle(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&registry->lock[table]);

    g_array_append_val(registry->free[table], slot);
    registry->used[table]--;
}

void
sfs_registry_release(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    /* The keeper clears a descriptor's record itself, when it closes it. */
    if (table != SFS_TABLE_FDS)
        atomic_store_explicit(state_of(registry, table, slot), SFS_FREE, memory_order_release);
    recycle(registry, table, slot);
}

void *
sfs_registry_get(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    if (slot >= atomic_load_explicit(&registry->shared->bound[table], memory_order_acquire))
        return NULL;
    return registry->table[table] + shape[table].record * slot;
}

uint32_t
sfs_registry_bound(SfsRegistry *registry, SfsTable table)
{
    return atomic_load(&registry->shared->bound[table]);
}

uint32_t
sfs_registry_count(SfsRegistry *registry, SfsTable table)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&registry->lock[table]);

    return registry->used[table];
}

uint32_t
sfs_registry_capacity(SfsRegistry *registry, SfsTable table)
{
    return shape[table].capacity;
}

void
sfs_registry_commit(SfsRegistry *registry, const SfsChange *changes, unsigned n)
{
    CommitList *list = &registry->shared->commit;

    g_assert(n <= SFS_COMMIT_MAX);
    g_mutex_lock(&registry->commit_lock);
    memcpy(list->changes, changes, n * sizeof *changes);
    atomic_store_explicit(&list->valid, n, memory_order_release);
    complete_commit(registry);
    g_mutex_unlock(&registry->commit_lock);
    for (unsigned i = 0; i < n; i++) {
        if (changes[i].size == 0 && changes[i].state == SFS_FREE)
            recycle(registry, changes[i].table, changes[i].slot);
    }
}

uint64_t
sfs_registry_next_serial(SfsRegistry *registry)
{
    return atomic_fetch_add(&registry->header->next_serial, 1);
}

uint64_t
sfs_registry_next_cookie(SfsRegistry *registry)
{
    return atomic_fetch_add(&registry->header->next_cookie, 1);
}

/* --- text ------------------------------------------------------------------------------------ */

static ChunkRec *
chunk(SfsRegistry *registry, uint32_t slot)
{
    return sfs_registry_get(registry, SFS_TABLE_CHUNKS, slot);
}

uint32_t
sfs_registry_store_text(SfsRegistry *registry, const void *bytes, size_t length)
{
    uint32_t next = SFS_NO_SLOT;
    size_t chunks = (length + CHUNK_BYTES - 1) / CHUNK_BYTES;

    uint64_t limit = registry->header->config.text_limit;

    if (limit != 0 &&
        (sfs_registry_count(registry, SFS_TABLE_CHUNKS) + chunks) * sizeof(ChunkRec) > limit)
        return SFS_NO_SLOT;

    /* From the last chunk to the first, so that each is complete when the one before names it. */
    while (chunks > 0) {
        size_t start = --chunks * CHUNK_BYTES;
        uint32_t slot;
        ChunkRec *rec = sfs_registry_alloc(registry, SFS_TABLE_CHUNKS, &slot);

        if (rec == NULL) {
            sfs_registry_free_text(registry, next);
            return SFS_NO_SLOT;
        }
        memcpy(rec->bytes, (const char *)bytes + start, MIN(length - start, (size_t)CHUNK_BYTES));
        rec->next = next;
        rec->length = (uint32_t)(length - start);
        rec->first = start == 0;
        sfs_registry_publish(registry, SFS_TABLE_CHUNKS, slot);
        next = slot;
    }
    return next;
}

void
sfs_registry_free_text(SfsRegistry *registry, uint32_t first)
{
    while (first != SFS_NO_SLOT) {
        uint32_t next = chunk(registry, first)->next;

        sfs_registry_release(registry, SFS_TABLE_CHUNKS, first);
        first = next;
    }
}

/* The fields of records that chains of text start in. */
static const struct {
    SfsTable table;
    size_t offset;
} texts[] = {
    {SFS_TABLE_NODES, offsetof(SfsNodeRec, text)},
    {SFS_TABLE_NODES, offsetof(SfsNodeRec, xattrs)},
    {SFS_TABLE_DIRENTS, offsetof(SfsDirentRec, long_name)},
    {SFS_TABLE_HANDLES, offsetof(SfsHandleRec, text)},
};

void
sfs_registry_each_text(SfsRegistry *registry, SfsTable table, uint32_t slot,
                       void (*each)(SfsRegistry *registry, uint32_t first, void *data), void *data)
{
    const char *record = registry->table[table] + shape[table].record * slot;

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        uint32_t first;

        if (texts[i].table != table)
            continue;
        memcpy(&first, record + texts[i].offset, sizeof first);
        if (first != SFS_NO_SLOT)
            each(registry, first, data);
    }
}

bool
sfs_registry_chunk_next(SfsRegistry *registry, uint32_t slot, uint32_t *next)
{
    const ChunkRec *rec = chunk(registry, slot);

    *next = rec != NULL ? rec->next : SFS_NO_SLOT;
    return rec != NULL && atomic_load(&rec->state) == SFS_LIVE;
}

static void
mark_chain(SfsRegistry *registry, uint32_t first, void *data)
{
    uint8_t *marks = data;
    uint32_t bound = sfs_registry_bound(registry, SFS_TABLE_CHUNKS);

    for (uint32_t slot = first; slot != SFS_NO_SLOT && slot < bound && !marks[slot];
         slot = chunk(registry, slot)->next)
        marks[slot] = 1;
}

void
sfs_registry_sweep_text(SfsRegistry *registry)
{
    uint32_t bound = sfs_registry_bound(registry, SFS_TABLE_CHUNKS);
    g_autofree uint8_t *marks = g_malloc0(bound);

    for (int t = 0; t < SFS_TABLE_CHUNKS; t++) {
        for (uint32_t slot = 0; t != SFS_TABLE_FDS && slot < sfs_registry_bound(registry, t);
             slot++) {
            if (atomic_load(state_of(registry, t, slot)) == SFS_LIVE)
                sfs_registry_each_text(registry, t, slot, mark_chain, marks);
        }
    }
    for (uint32_t slot = 1; slot < bound; slot++) {
        if (!marks[slot] && atomic_load(&chunk(registry, slot)->state) == SFS_LIVE)
            sfs_registry_release(registry, SFS_TABLE_CHUNKS, slot);
    }
}

char *
sfs_registry_load_text(SfsRegistry *registry, uint32_t first, size_t *length)
{
    size_t total = first == SFS_NO_SLOT ? 0 : chunk(registry, first)->length;
    char *text = g_malloc(total + 1);
    size_t done = 0;

    for (uint32_t slot = first; slot != SFS_NO_SLOT && done < total;) {
        const ChunkRec *rec = chunk(registry, slot);
        size_t n = MIN(total - done, (size_t)CHUNK_BYTES);

        memcpy(text + done, rec->bytes, n);
        done += n;
        slot = rec->next;
    }
    text[done] = '\0';
    if (length != NULL)
        *length = done;
    return text;
}
