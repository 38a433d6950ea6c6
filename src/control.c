/* SPDX-License-Identifier: MIT */
#include "control.h"

#include "section.h"
#include "util.h"
#include "xattr.h"

#include <string.h>

#define PREFIX "user.section."

/* --- keys ------------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    /* Appends the value; false: it has none here. */
    bool (*get)(SfsMount *mount, const SfsTarget *target, GString *value);
    /* NULL: a fact. */
    int (*set)(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
               const char *value);
    const char *const *values; /* of a fact, NULL-terminated; NULL: it is a number */
    const char *normal; /* value of what can be set after it was removed; NULL: it cannot be */
} Key;

static const char *const kinds[] = {"page", "file", NULL};
static const char *const modes[] = {"passthrough", "cached", "direct", NULL};

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
    {"kind", get_kind, NULL, kinds, NULL},
    {"file", get_file, set_file, NULL, NULL},
    {"protect", get_protect, set_protect, NULL, "readwrite"},
    {"mode", get_mode, NULL, modes, NULL},
    {"size", get_size, NULL, NULL, NULL},
    {"opens", get_opens, NULL, NULL, NULL},
    {"private", get_private, NULL, NULL, NULL},
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

/* --- the calls ------------------------------------------------------------------------------- */

int
sfs_control_get(SfsMount *mount, const SfsTarget *target, const char *name, GString **value)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);

    if (target->class == SFS_CLASS_STATS)
        return -ENODATA;
    if (is_ours) {
        g_autoptr(GString) text = g_string_new(NULL);

        if (key == NULL || !sfs_target_is_section(target) || !key->get(mount, target, text))
            return -ENODATA;
        *value = g_steal_pointer(&text);
        return 0;
    }
    return sfs_xattr_get(mount, target, name, value);
}

GString *
sfs_control_list(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller)
{
    GString *list = g_string_new(NULL);

    if (target->class == SFS_CLASS_STATS)
        return list;
    for (size_t i = 0; i < G_N_ELEMENTS(keys) && sfs_target_is_section(target); i++) {
        g_autoptr(GString) value = g_string_new(NULL);

        if (keys[i].get(mount, target, value)) {
            g_string_append_printf(list, PREFIX "%s", keys[i].name);
            g_string_append_c(list, '\0');
        }
    }
    sfs_xattr_list(mount, target, caller->uid == 0, list);
    return list;
}

/* Facts cannot be set. But tools that copy a file copy its attributes, facts as well, and take a
 * refusal for a failed copy; so the owner may write what could be such a fact, and it has no
 * effect. */
static int
check_fact(const Key *key, const SfsTarget *target, const SfsCaller *caller, const char *value)
{
    uint64_t number;

    if (caller->uid != 0 && caller->uid != target->rec->uid)
        return -EPERM;
    if (key->get == get_kind && strcmp(value, kinds[1 - target->rec->kind]) == 0)
        return -EPERM; /* what it is does not change by saying so */
    if (key->values == NULL)
        return sfs_parse_number(value, 10, UINT64_MAX, &number) == 0 ? 0 : -EINVAL;
    for (const char *const *allowed = key->values; *allowed != NULL; allowed++) {
        if (strcmp(value, *allowed) == 0)
            return 0;
    }
    return -EINVAL;
}

int
sfs_control_set(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, const char *name,
                const void *value, size_t size, int flags)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);
    g_autofree char *text = NULL;

    if (target->class != SFS_CLASS_NODE)
        return -EROFS;
    if (!is_ours) {
        return sfs_xattr_set(mount, target, name, value, size, flags);
    }
    if (key == NULL || !sfs_target_is_section(target))
        return -EINVAL;
    /* Values are text; a NUL at the end, as some languages add it, does no harm. */
    text = g_strndup(value != NULL ? value : "", size);
    if (strlen(text) + 1 < size)
        return -EINVAL;
    if (key->set == NULL)
        return check_fact(key, target, caller, text);
    return key->set(mount, target, caller, text);
}

int
sfs_control_remove(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                   const char *name)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);

    if (target->class != SFS_CLASS_NODE)
        return -EROFS;
    if (!is_ours)
        return sfs_xattr_remove(mount, target, name);
    if (key == NULL)
        return -ENODATA;
    /* For the sake of the same tools. What a section is cannot be removed from it. */
    if (key->set == NULL)
        return 0;
    return key->normal != NULL ? key->set(mount, target, caller, key->normal) : -EPERM;
}
