/* SPDX-License-Identifier: MIT */
/* Each is made as a client would make it, by the attributes, in an order in which they agree.
 * Clients are served meanwhile, so it gets its name last: nobody sees it half made. */
#include "startup.h"

#include "control.h"
#include "namespace.h"
#include "section-list.h"
#include "section.h"

#include <string.h>

typedef struct {
    SfsMount *mount;
    const SfsSectionList *list;
    SfsCaller caller;
} Maker;

static const char *
explain(SfsSpecKey key, int r)
{
    switch (r) {
    case -EINVAL:
        return key == SFS_SPEC_FILE ? "nothing of that file is in the section" : g_strerror(EINVAL);
    case -ELOOP:
        return "that is on this very mount (base is for that)";
    case -ENODEV:
        return "that is nothing that a section can be of";
    case -ENOSPC:
        return "there is not enough room for it in the store";
    case -EFBIG:
        return key == SFS_SPEC_FILE
                   ? "that file is shorter than the window, and may not be extended"
                   : "that is too large";
    default:
        return g_strerror(-r);
    }
}

static gboolean
fail(const Maker *maker, const SfsSectionSpec *spec, SfsSpecKey key, int r, GError **error)
{
    sfs_section_spec_error(maker->list, spec, key, error, "%s", explain(key, r));
    return FALSE;
}

/* The directory that a section lies in, made if need be. */
static int
need_directory(Maker *maker, const SfsSectionSpec *spec, SfsTarget *dir)
{
    g_auto(GStrv) parts = g_strsplit(spec->path, "/", -1);
    SfsNodeSpec wanted = {
        .mode = S_IFDIR | 0755, .uid = maker->caller.uid, .gid = maker->caller.gid};
    SfsMount *mount = maker->mount;

    sfs_node_peek(mount->nodes, SFS_ROOT_SLOT, SFS_CLASS_NODE, dir);
    for (char **part = parts; part[0] != NULL && part[1] != NULL; part++) {
        SfsTarget child;
        int r = sfs_namespace_lookup(mount->names, dir, *part, &child);

        if (r == -ENOENT)
            r = sfs_namespace_create(mount->names, dir, *part, &wanted, &child);
        if (r < 0)
            return r;
        if (child.class != SFS_CLASS_NODE || !S_ISDIR(child.rec->mode)) {
            if (child.class == SFS_CLASS_NODE)
                sfs_node_forget(mount->nodes, child.slot, 1);
            sfs_target_clear(&child);
            return child.class == SFS_CLASS_NODE ? -ENOTDIR : -EBUSY;
        }
        /* Nobody takes it away: it is not empty for long. */
        sfs_node_forget(mount->nodes, child.slot, 1);
        *dir = child;
    }
    return 0;
}

static int
set(Maker *maker, uint32_t slot, SfsSpecKey key, const char *value)
{
    g_autofree char *name = g_strconcat("user.section.", sfs_spec_key_name(key), NULL);
    SfsTarget target;

    sfs_node_peek(maker->mount->nodes, slot, SFS_CLASS_NODE, &target);
    return sfs_control_set(maker->mount, &target, &maker->caller, name, value, strlen(value), 0);
}

static int
set_size(Maker *maker, uint32_t slot, uint64_t size)
{
    struct stat st = {.st_size = (off_t)size};
    SfsTarget target;

    sfs_node_peek(maker->mount->nodes, slot, SFS_CLASS_NODE, &target);
    return sfs_section_set(maker->mount, &target, NULL, &maker->caller, &st, SFS_SET_SIZE);
}

/* What the file says of a key, as text; NULL: nothing. */
static char *
value_of(const SfsSectionSpec *spec, SfsSpecKey key)
{
    const char *texts[SFS_SPEC_N_KEYS] = {
        [SFS_SPEC_FILE] = spec->file,         [SFS_SPEC_BASE] = spec->base,
        [SFS_SPEC_PROTECT] = spec->protect,   [SFS_SPEC_COW] = spec->cow,
        [SFS_SPEC_LIFETIME] = spec->lifetime, [SFS_SPEC_COMMIT] = spec->commit,
        [SFS_SPEC_RESIZE] = spec->resize,     [SFS_SPEC_DELETE] = spec->delete,
    };
    uint64_t number = key == SFS_SPEC_OFFSET   ? spec->offset
                      : key == SFS_SPEC_LENGTH ? spec->length
                                               : spec->limit;

    if (spec->lines[key] == 0)
        return NULL;
    return texts[key] != NULL ? g_strdup(texts[key]) : g_strdup_printf("%" PRIu64, number);
}

static bool
has_own_bytes(const SfsSectionSpec *spec)
{
    return spec->lines[SFS_SPEC_FILE] == 0 && spec->lines[SFS_SPEC_BASE] == 0;
}

static gboolean
make(Maker *maker, const SfsSectionSpec *spec, GError **error)
{
    /* What it is comes before what it may become; the size comes before it is fixed. How a file is
     * opened depends on the protection; what has bytes of its own gets them before it is protected.
     */
    static const SfsSpecKey order[] = {
        SFS_SPEC_OFFSET, SFS_SPEC_LENGTH, SFS_SPEC_PROTECT,  SFS_SPEC_COW,  SFS_SPEC_FILE,
        SFS_SPEC_BASE,   SFS_SPEC_COMMIT, SFS_SPEC_LIMIT,    SFS_SPEC_SIZE, SFS_SPEC_PROTECT,
        SFS_SPEC_RESIZE, SFS_SPEC_DELETE, SFS_SPEC_LIFETIME,
    };
    bool sized = false;
    const char *slash = strrchr(spec->path, '/');
    SfsNodeSpec wanted = {
        .mode = S_IFREG | 0644, .uid = maker->caller.uid, .gid = maker->caller.gid};
    SfsTarget dir, made;
    int r = need_directory(maker, spec, &dir);

    if (r == 0)
        r = sfs_namespace_create_unnamed(maker->mount->names, &dir, &wanted, &made);
    if (r < 0)
        return fail(maker, spec, SFS_SPEC_N_KEYS, r, error);
    for (size_t i = 0; i < G_N_ELEMENTS(order); i++) {
        g_autofree char *value = value_of(spec, order[i]);

        sized |= order[i] == SFS_SPEC_SIZE;
        if (value == NULL || (order[i] == SFS_SPEC_PROTECT && sized != has_own_bytes(spec)))
            continue;
        r = order[i] == SFS_SPEC_SIZE ? set_size(maker, made.slot, spec->size)
                                      : set(maker, made.slot, order[i], value);
        if (r < 0)
            return fail(maker, spec, order[i], r, error);
    }
    /* After the keys, for whoever is not its owner could not have set them. */
    sfs_node_lock(maker->mount->nodes, made.slot);
    if (spec->lines[SFS_SPEC_PERMISSIONS] != 0)
        made.rec->mode = S_IFREG | (uint32_t)spec->permissions;
    if (spec->lines[SFS_SPEC_UID] != 0)
        made.rec->uid = (uint32_t)spec->uid;
    if (spec->lines[SFS_SPEC_GID] != 0)
        made.rec->gid = (uint32_t)spec->gid;
    sfs_node_unlock(maker->mount->nodes, made.slot);
    /* Its directory may have been taken away meanwhile, as it was empty. */
    r = need_directory(maker, spec, &dir);
    if (r == 0)
        r = sfs_namespace_link(maker->mount->names, &made, &dir,
                               slash != NULL ? slash + 1 : spec->path);
    if (r < 0)
        return fail(maker, spec, SFS_SPEC_N_KEYS, r, error);
    sfs_node_forget(maker->mount->nodes, made.slot, 1);
    return TRUE;
}

gboolean
sfs_startup_sections(SfsMount *mount, GError **error)
{
    const char *path = mount->header->config.sections_file;
    Maker maker = {.mount = mount, .caller = {geteuid(), getegid(), getpid()}};
    g_autoptr(SfsSectionList) list = NULL;

    if (path[0] == '\0')
        return TRUE;
    list = sfs_section_list_load(path, error);
    if (list == NULL)
        return FALSE;
    maker.list = list;
    for (guint i = 0; i < list->specs->len; i++) {
        if (!make(&maker, g_ptr_array_index(list->specs, i), error))
            return FALSE;
    }
    return TRUE;
}
