/* SPDX-License-Identifier: MIT */
/*
 * Plain attributes are kept as one chain of text a node: for each, a header, the name, the value. A
 * change builds a new chain and puts it in the old one's place by one atomic store.
 */
#include "control.h"

#include "section.h"
#include "util.h"

#include <string.h>
#include <sys/xattr.h>

#define PREFIX "user.section."

/* All plain attributes of one node together, in bytes. */
#define PLAIN_MAX ((size_t)256 << 10)

/* --- keys ------------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    /* Appends the value; false: it has none here. */
    bool (*get)(SfsMount *mount, const SfsTarget *target, GString *value);
    /* NULL: a fact. */
    int (*set)(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
               const char *value);
} Key;

static bool
get_kind(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_string_append(value, target->rec->kind == SFS_KIND_FILE ? "file" : "page");
    return true;
}

static bool
get_file(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_autofree char *path = NULL;

    if (target->rec->kind != SFS_KIND_FILE)
        return false;
    path = sfs_registry_load_text(mount->registry, target->rec->text, NULL);
    g_string_append(value, path);
    return true;
}

static int
set_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, const char *value)
{
    return sfs_section_define_file(mount, target, caller, value);
}

static bool
get_protect(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_string_append(value, target->rec->protect == SFS_PROTECT_READONLY ? "readonly" : "readwrite");
    return true;
}

static int
set_protect(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, const char *value)
{
    if (strcmp(value, "readonly") == 0)
        return sfs_section_set_protect(mount, target, caller, SFS_PROTECT_READONLY);
    if (strcmp(value, "readwrite") == 0)
        return sfs_section_set_protect(mount, target, caller, SFS_PROTECT_READWRITE);
    return -EINVAL;
}

static bool
get_mode(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_string_append(value, sfs_section_io_mode(mount, target));
    return true;
}

static bool
get_size(SfsMount *mount, const SfsTarget *target, GString *value)
{
    SfsTarget section = *target;
    struct stat st;

    /* Through .info, the size of the section and not that of the text about it. */
    if (section.class == SFS_CLASS_INFO)
        section.class = SFS_CLASS_NODE;
    if (sfs_section_stat(mount, &section, NULL, &st) < 0)
        return false;
    g_string_append_printf(value, "%" PRIu64, (uint64_t)st.st_size);
    return true;
}

static bool
get_opens(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_string_append_printf(value, "%u", target->rec->opens);
    return true;
}

static bool
get_private(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_string_append_printf(value, "%" PRIu64, sfs_section_private(mount, target));
    return true;
}

static const Key keys[] = {
    {"kind", get_kind, NULL},
    {"file", get_file, set_file},
    {"protect", get_protect, set_protect},
    {"mode", get_mode, NULL},
    {"size", get_size, NULL},
    {"opens", get_opens, NULL},
    {"private", get_private, NULL},
};

/* The key that an attribute's name means. *@is_ours: it is in the control interface's namespace. */
static const Key *
find_key(const char *name, bool *is_ours)
{
    *is_ours = g_str_has_prefix(name, PREFIX);
    if (!*is_ours)
        return NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (strcmp(name + strlen(PREFIX), keys[i].name) == 0)
            return &keys[i];
    }
    return NULL;
}

bool
sfs_control_may_block(const char *name)
{
    return strcmp(name, PREFIX "file") == 0;
}

void
sfs_control_describe(SfsMount *mount, const SfsTarget *target, GString *text)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autoptr(GString) value = g_string_new(NULL);

        if (keys[i].get(mount, target, value))
            g_string_append_printf(text, "%s: %s\n", keys[i].name, value->str);
    }
}

/* --- plain attributes ------------------------------------------------------------------------ */

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

static int
get_plain(SfsMount *mount, const SfsTarget *target, const char *name, GString **value)
{
    size_t size, at = 0;
    g_autofree char *all = load_plain(mount, target, &size);
    Plain plain;

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
    Plain plain;
    int r = 0;

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
            atomic_store(&rec->xattrs, chain);
            sfs_registry_free_text(mount->registry, old);
            sfs_time_set(&rec->ctime, sfs_now());
        }
    }
    sfs_node_unlock(mount->nodes, target->slot);
    return r;
}

/* Which namespaces are stored. POSIX ACLs ("system.") would have to be interpreted. */
static int
check_namespace(const char *name)
{
    return g_str_has_prefix(name, "user.") || g_str_has_prefix(name, "trusted.") ||
                   g_str_has_prefix(name, "security.")
               ? 0
               : -EOPNOTSUPP;
}

/* --- the calls ------------------------------------------------------------------------------- */

int
sfs_control_get(SfsMount *mount, const SfsTarget *target, const char *name, GString **value)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);
    int r;

    if (target->class == SFS_CLASS_STATS)
        return -ENODATA;
    if (is_ours) {
        g_autoptr(GString) text = g_string_new(NULL);

        if (key == NULL || !sfs_target_is_section(target) || !key->get(mount, target, text))
            return -ENODATA;
        *value = g_steal_pointer(&text);
        return 0;
    }
    r = check_namespace(name);
    return r < 0 ? r : get_plain(mount, target, name, value);
}

GString *
sfs_control_list(SfsMount *mount, const SfsTarget *target)
{
    GString *list = g_string_new(NULL);
    g_autofree char *all = NULL;
    size_t size, at = 0;
    Plain plain;

    if (target->class == SFS_CLASS_STATS)
        return list;
    for (size_t i = 0; i < G_N_ELEMENTS(keys) && sfs_target_is_section(target); i++) {
        g_autoptr(GString) value = g_string_new(NULL);

        if (keys[i].get(mount, target, value)) {
            g_string_append_printf(list, PREFIX "%s", keys[i].name);
            g_string_append_c(list, '\0');
        }
    }
    all = load_plain(mount, target, &size);
    while (next_plain(all, size, &at, &plain)) {
        g_string_append_len(list, plain.name, plain.header.name_length);
        g_string_append_c(list, '\0');
    }
    return list;
}

int
sfs_control_set(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, const char *name,
                const void *value, size_t size, int flags)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);
    g_autofree char *text = NULL;
    int r;

    if (target->class != SFS_CLASS_NODE)
        return -EROFS;
    if (!is_ours) {
        r = check_namespace(name);
        return r < 0 ? r : change_plain(mount, target, name, value, size, flags);
    }
    if (key == NULL || !sfs_target_is_section(target))
        return -EINVAL;
    if (key->set == NULL)
        return -EPERM;
    /* Values are text; a NUL at the end, as some languages add it, does no harm. */
    text = g_strndup(value != NULL ? value : "", size);
    if (strlen(text) + 1 < size)
        return -EINVAL;
    return key->set(mount, target, caller, text);
}

int
sfs_control_remove(SfsMount *mount, const SfsTarget *target, const char *name)
{
    bool is_ours;
    int r;

    find_key(name, &is_ours);
    if (target->class != SFS_CLASS_NODE)
        return -EROFS;
    if (is_ours)
        return -EPERM;
    r = check_namespace(name);
    return r < 0 ? r : change_plain(mount, target, name, NULL, 0, 0);
}
