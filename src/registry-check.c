/* SPDX-License-Identifier: MIT */
#include "registry-check.h"

#include "keeper-link.h"
#include "node.h"
#include "util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is wrong for good is so at every one of several looks. */
#define LOOKS 30
#define LOOK_PAUSE_US 100000

/* Of a plain field that its owner may be changing. */
#define READ_ONCE(field) (*(volatile const __typeof__(field) *)&(field))

typedef struct {
    SfsRegistry *registry;
    GPtrArray *problems;
    /* What is added while we look is not looked at: there is no room for it below. */
    uint32_t bound[SFS_N_TABLES];
    uint32_t *nlink;  /* by node slot, counted */
    uint8_t *held;    /* by node slot: something but a name or the kernel keeps it */
    uint8_t *chunks;  /* by chunk slot: in how many chains */
    uint8_t *fds;     /* by descriptor slot: whether a record carries it */
    uint8_t *handled; /* by view slot */
} Check;

static void complain(Check *check, const char *what, uint32_t slot, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static void
complain(Check *check, const char *what, uint32_t slot, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(check->problems, g_strdup_printf("%s %u %s", what, slot, text));
}

static bool
is_live(Check *check, SfsTable table, uint32_t slot)
{
    const void *rec = sfs_registry_get(check->registry, table, slot);

    return slot < check->bound[table] && atomic_load((_Atomic uint32_t *)rec) == SFS_LIVE;
}

static const SfsNodeRec *
node(Check *check, uint32_t slot)
{
    return sfs_registry_get(check->registry, SFS_TABLE_NODES, slot);
}

static void
check_chain(SfsRegistry *registry, uint32_t first, void *data)
{
    Check *check = data;

    for (uint32_t slot = first, next; slot != SFS_NO_SLOT; slot = next) {
        if (slot >= check->bound[SFS_TABLE_CHUNKS] ||
            !sfs_registry_chunk_next(registry, slot, &next)) {
            complain(check, "chunk", slot, "of the text at %u is not there", first);
            return;
        }
        if (check->chunks[slot]++ > 0) {
            complain(check, "chunk", slot, "is in two texts, one of them at %u", first);
            return;
        }
    }
}

static void
check_text(Check *check, SfsTable table, uint32_t slot)
{
    sfs_registry_each_text(check->registry, table, slot, check_chain, check);
}

static void
check_fd(Check *check, const char *what, uint32_t slot, uint32_t fd_slot)
{
    if (fd_slot == SFS_NO_SLOT)
        return;
    if (fd_slot >= check->bound[SFS_TABLE_FDS] || sfs_link_inherited(check->registry, fd_slot) < 0)
        complain(check, what, slot, "has a descriptor that the keeper has not: %u", fd_slot);
    else
        check->fds[fd_slot] = 1;
}

/* Fields are read once: they may lead elsewhere a moment later. */
static void
check_dirent(Check *check, uint32_t slot)
{
    const SfsDirentRec *rec = sfs_registry_get(check->registry, SFS_TABLE_DIRENTS, slot);
    uint32_t parent = READ_ONCE(rec->parent), named = READ_ONCE(rec->node);

    check_text(check, SFS_TABLE_DIRENTS, slot);
    if (atomic_load(&rec->gone) != 0)
        return;
    if (!is_live(check, SFS_TABLE_NODES, parent) || !S_ISDIR(node(check, parent)->mode))
        complain(check, "name", slot, "is in no directory");
    else if (!is_live(check, SFS_TABLE_NODES, named))
        complain(check, "name", slot, "leads nowhere");
    else if (!S_ISDIR(node(check, named)->mode))
        check->nlink[named]++;
    else {
        check->nlink[named] += 2;
        check->nlink[parent]++;
        if (node(check, named)->parent != parent)
            complain(check, "directory", named, "does not know where it is");
    }
}

static void
check_handle(Check *check, uint32_t slot)
{
    const SfsHandleRec *rec = sfs_registry_get(check->registry, SFS_TABLE_HANDLES, slot);
    uint32_t of = READ_ONCE(rec->node), view = READ_ONCE(rec->view);

    check_text(check, SFS_TABLE_HANDLES, slot);
    if (!is_live(check, SFS_TABLE_NODES, of))
        complain(check, "handle", slot, "is of no section");
    else
        check->held[of] = 1;
    if (view != SFS_NO_SLOT && !is_live(check, SFS_TABLE_VIEWS, view))
        complain(check, "handle", slot, "is of no view");
    else
        check->handled[view] = 1;
    check_fd(check, "handle", slot, rec->fd_slot);
    check_fd(check, "handle", slot, rec->flock_slot);
}

static void
check_view(Check *check, uint32_t slot)
{
    const SfsViewRec *rec = sfs_registry_get(check->registry, SFS_TABLE_VIEWS, slot);
    uint32_t over = READ_ONCE(rec->node);

    if (!is_live(check, SFS_TABLE_NODES, over))
        complain(check, "view", slot, "is over no section");
    else
        check->held[over] = 1;
    if (!check->handled[slot])
        complain(check, "view", slot, "is open to nobody");
    if (rec->base_limit > rec->size)
        complain(check, "view", slot, "shows more than it has");
    check_fd(check, "view", slot, rec->fd_slot);
    check_fd(check, "view", slot, rec->lock_slot);
}

static void
check_lock(Check *check, uint32_t slot)
{
    const SfsLockRec *rec = sfs_registry_get(check->registry, SFS_TABLE_LOCKS, slot);

    if (rec->handle != SFS_NO_SLOT && !is_live(check, SFS_TABLE_HANDLES, rec->handle))
        complain(check, "lock", slot, "is of no handle");
    check_fd(check, "lock", slot, rec->fd_slot);
}

static void
check_node(Check *check, uint32_t slot)
{
    const SfsNodeRec *rec = node(check, slot);
    uint32_t counted = check->nlink[slot] + (slot == SFS_ROOT_SLOT ? 2 : 0);

    check_text(check, SFS_TABLE_NODES, slot);
    if (rec->nlink != counted)
        complain(check, "node", slot, "has %u names and counts %u", counted, rec->nlink);
    if (slot != SFS_ROOT_SLOT && counted == 0 && rec->nlookup == 0 && !check->held[slot])
        complain(check, "node", slot, "is held by nothing");
    check_fd(check, "node", slot, rec->fd_slot);
}

/* Calls @each for every live record. */
static void
each_live(Check *check, SfsTable table, void (*each)(Check *check, uint32_t slot))
{
    for (uint32_t slot = table == SFS_TABLE_NODES ? 0 : 1; slot < check->bound[table]; slot++) {
        if (is_live(check, table, slot))
            each(check, slot);
    }
}

static void
note_base(Check *check, uint32_t slot)
{
    uint32_t base = READ_ONCE(node(check, slot)->base);

    if (base == SFS_NO_SLOT)
        return;
    if (is_live(check, SFS_TABLE_NODES, base))
        check->held[base] = 1;
    else
        complain(check, "node", slot, "is a copy of nothing");
}

static void
check_chunk(Check *check, uint32_t slot)
{
    if (check->chunks[slot] == 0)
        complain(check, "chunk", slot, "is in no text");
}

void
sfs_registry_check(SfsRegistry *registry, GPtrArray *problems)
{
    Check check = {.registry = registry, .problems = problems};

    for (int t = 0; t < SFS_N_TABLES; t++)
        check.bound[t] = sfs_registry_bound(registry, t);
    check.nlink = g_new0(uint32_t, check.bound[SFS_TABLE_NODES] + 1);
    check.held = g_malloc0(check.bound[SFS_TABLE_NODES] + 1);
    check.chunks = g_malloc0(check.bound[SFS_TABLE_CHUNKS] + 1);
    check.fds = g_malloc0(check.bound[SFS_TABLE_FDS] + 1);
    check.handled = g_malloc0(check.bound[SFS_TABLE_VIEWS] + 1);
    each_live(&check, SFS_TABLE_NODES, note_base);
    each_live(&check, SFS_TABLE_DIRENTS, check_dirent);
    each_live(&check, SFS_TABLE_HANDLES, check_handle);
    each_live(&check, SFS_TABLE_VIEWS, check_view);
    each_live(&check, SFS_TABLE_LOCKS, check_lock);
    each_live(&check, SFS_TABLE_NODES, check_node);
    each_live(&check, SFS_TABLE_CHUNKS, check_chunk);
    for (uint32_t slot = 1; slot < check.bound[SFS_TABLE_FDS]; slot++) {
        if (!check.fds[slot] && sfs_link_inherited(registry, slot) >= 0)
            complain(&check, "descriptor", slot, "is nothing's");
    }
    g_free(check.nlink);
    g_free(check.held);
    g_free(check.chunks);
    g_free(check.fds);
    g_free(check.handled);
}

/* --- the program ----------------------------------------------------------------------------- */

/* The registry of a mount, from its keeper's hands. -1 and a sentence: that cannot be had. */
static int
open_registry_of(const char *mountpoint)
{
    g_autofree char *path = g_strdup_printf("%s/.stats", mountpoint);
    g_autofree char *registry = NULL;
    char text[4096];
    const char *at;
    int fd = -1;

    if (sfs_read_text(AT_FDCWD, path, text, sizeof text) > 0 &&
        (at = strstr(text, "\nkeeper_pid: ")) != NULL) {
        registry =
            g_strdup_printf("/proc/%d/fd/%d", atoi(at + strlen("\nkeeper_pid: ")), SFS_FD_REGISTRY);
        fd = open(registry, O_RDONLY | O_CLOEXEC);
    } else {
        errno = ENOENT;
    }
    if (fd < 0)
        fprintf(stderr, "sectionfs: no registry of a sectionfs at %s: %s\n", mountpoint,
                g_strerror(errno));
    return fd;
}

/* Leaves in @lasting what is in @now as well. */
static void
keep_lasting(GPtrArray *lasting, GPtrArray *now)
{
    for (guint i = lasting->len; i > 0; i--) {
        if (!g_ptr_array_find_with_equal_func(now, g_ptr_array_index(lasting, i - 1), g_str_equal,
                                              NULL))
            g_ptr_array_remove_index(lasting, i - 1);
    }
}

int
sfs_registry_check_mount(const char *mountpoint)
{
    sfs_autofd fd = open_registry_of(mountpoint);
    g_autoptr(GPtrArray) lasting = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    g_autoptr(SfsRegistry) registry = fd >= 0 ? sfs_registry_open_to_look(fd, &error) : NULL;

    if (registry == NULL) {
        if (error != NULL)
            fprintf(stderr, "sectionfs: %s\n", error->message);
        return 2;
    }
    sfs_registry_check(registry, lasting);
    for (int looks = 1; looks < LOOKS && lasting->len > 0; looks++) {
        g_autoptr(GPtrArray) now = g_ptr_array_new_with_free_func(g_free);

        g_usleep(LOOK_PAUSE_US);
        sfs_registry_check(registry, now);
        keep_lasting(lasting, now);
    }
    for (guint i = 0; i < lasting->len; i++)
        puts(g_ptr_array_index(lasting, i));
    return lasting->len > 0 ? 1 : 0;
}
