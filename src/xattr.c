/* SPDX-License-Identifier: MIT */
/*
 * They are kept as one chain of text a node: for each, a header, the name, the value. A
 * change builds a new chain and puts it in the old one's place in one step.
 */
#include "xattr.h"

#include "request.h"
#include "util.h"

#include <string.h>
#include <sys/xattr.h>

/* All of one node together, in bytes. */
#define PLAIN_MAX ((size_t)256 << 10)

static int
check_namespace(const char *name)
{
    static const char *const stored[] = {"user.", "trusted.", "security."};

    for (size_t i = 0; i < G_N_ELEMENTS(stored); i++) {
        if (g_str_has_prefix(name, stored[i]))
            return name[strlen(stored[i])] != '\0' ? 0 : -EINVAL;
    }
    return -EOPNOTSUPP;
}

typedef struct {
    uint32_t name_length;
    uint32_t value_length;
} PlainHeader;

/* What is stored of a node, all of it; to be read with next_plain(). */
static char *
load_plain(SfsMount *mount, const SfsTarget *target, size_t *size)
{
    char *all;

    sfs_node_lock(mount->nodes, target->slot);
    all = sfs_registry_load_text(mount->registry, atomic_load(&target->rec->xattrs), size);
    sfs_node_unlock(mount->nodes, target->slot);
    return all;
}

typedef struct {
    const char *name; /* not NUL-terminated */
    const char *value;
    PlainHeader header;
} Plain;

/* Steps through them: false at the end. *@at starts at 0. */
static bool
next_plain(const char *all, size_t size, size_t *at, Plain *plain)
{
    if (size - *at < sizeof(PlainHeader))
        return false;
    memcpy(&plain->header, all + *at, sizeof(PlainHeader));
    plain->name = all + *at + sizeof(PlainHeader);
    plain->value = plain->name + plain->header.name_length;
    *at += sizeof(PlainHeader) + plain->header.name_length + plain->header.value_length;
    return true;
}

static bool
is_named(const Plain *plain, const char *name)
{
    return plain->header.name_length == strlen(name) &&
           memcmp(plain->name, name, plain->header.name_length) == 0;
}

int
sfs_xattr_get(SfsMount *mount, const SfsTarget *target, const char *name, GString **value)
{
    g_autofree char *all = NULL;
    size_t size, at = 0;
    Plain plain;
    int r = check_namespace(name);

    if (r < 0)
        return r;
    if (target->class != SFS_CLASS_NODE && strcmp(name, SFS_XATTR_CAPABILITY) == 0)
        return -ENODATA;
    all = load_plain(mount, target, &size);
    while (next_plain(all, size, &at, &plain)) {
        if (is_named(&plain, name)) {
            *value = g_string_new_len(plain.value, plain.header.value_length);
            return 0;
        }
    }
    return -ENODATA;
}

static void
append_plain(GString *all, const char *name, const void *value, size_t size)
{
    PlainHeader header = {(uint32_t)strlen(name), (uint32_t)size};

    g_string_append_len(all, (const char *)&header, sizeof header);
    g_string_append_len(all, name, header.name_length);
    g_string_append_len(all, value, (gssize)size);
}

/* Sets, or with @value NULL removes. */
static int
change_plain(SfsMount *mount, const SfsTarget *target, const char *name, const void *value,
             size_t value_size, int flags)
{
    g_autoptr(GString) new = g_string_new(NULL);
    g_autofree char *all = NULL;
    SfsNodeRec *rec = target->rec;
    uint32_t old, chain;
    size_t size, at = 0;
    bool found = false;
    SfsChange changes[2];
    Plain plain;
    int r = 0;

    if (sfs_request_done())
        return 0;
    sfs_node_lock(mount->nodes, target->slot);
    old = atomic_load(&rec->xattrs);
    all = sfs_registry_load_text(mount->registry, old, &size);
    for (size_t start = 0; next_plain(all, size, &at, &plain); start = at) {
        if (is_named(&plain, name))
            found = true;
        else
            g_string_append_len(new, all + start, (gssize)(at - start));
    }
    if (value != NULL)
        append_plain(new, name, value, value_size);
    if (found && (flags & XATTR_CREATE))
        r = -EEXIST;
    else if (!found && (value == NULL || (flags & XATTR_REPLACE)))
        r = -ENODATA;
    else if (new->len > PLAIN_MAX)
        r = -ENOSPC;
    if (r == 0) {
        chain = sfs_registry_store_text(mount->registry, new->str, new->len);
        if (chain == SFS_NO_SLOT && new->len > 0) {
            r = -ENOSPC;
        } else {
            changes[0] = SFS_CHANGE_FIELD(SFS_TABLE_NODES, target->slot, SfsNodeRec, xattrs, chain);
            sfs_registry_commit(mount->registry, changes, sfs_request_remember(changes, 1));
            sfs_registry_free_text(mount->registry, old);
            sfs_time_set(&rec->ctime, sfs_now());
        }
    }
    sfs_node_unlock(mount->nodes, target->slot);
    return r;
}

int
sfs_xattr_set(SfsMount *mount, const SfsTarget *target, const char *name, const void *value,
              size_t size, int flags)
{
    int r = check_namespace(name);

    return r < 0 ? r : change_plain(mount, target, name, value != NULL ? value : "", size, flags);
}

int
sfs_xattr_remove(SfsMount *mount, const SfsTarget *target, const char *name)
{
    int r = check_namespace(name);

    return r < 0 ? r : change_plain(mount, target, name, NULL, 0, 0);
}

void
sfs_xattr_list(SfsMount *mount, const SfsTarget *target, bool trusted, GString *list)
{
    size_t size, at = 0;
    g_autofree char *all = load_plain(mount, target, &size);
    Plain plain;

    while (next_plain(all, size, &at, &plain)) {
        if (!trusted && g_str_has_prefix(plain.name, "trusted."))
            continue; /* not to be known to exist */
        g_string_append_len(list, plain.name, plain.header.name_length);
        g_string_append_c(list, '\0');
    }
}

bool
sfs_xattr_has_capability(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(GString) value = NULL;

    return atomic_load(&target->rec->xattrs) != SFS_NO_SLOT &&
           sfs_xattr_get(mount, target, SFS_XATTR_CAPABILITY, &value) == 0;
}
