/* SPDX-License-Identifier: MIT */
#include "control.h"

#include "request.h"
#include "section.h"
#include "util.h"
#include "view.h"
#include "xattr.h"

#include <string.h>
#include <sys/xattr.h>

#define PREFIX "user.section."

/* --- keys ------------------------------------------------------------------------------------ */

/* What a key is of, and how it is set. */
enum {
    OF_DIRECTORIES = 1 << 0, /* too: there it is what is handed down */
    MAY_SCAN = 1 << 1,       /* getting it looks through /proc */
    MAY_WAIT = 1 << 2,       /* setting it waits for closes on their way */
    OPENS_PATH = 1 << 3,     /* setting it waits for this very mount */
    RENEWS = 1 << 4,         /* its names mean another nodeid once it is set */
};

typedef struct Key {
    const char *name;
    unsigned how;
    /* Appends the value; false: it has none here. With @value NULL only that is asked. */
    bool (*get)(const struct Key *key, SfsMount *mount, const SfsTarget *target, GString *value);
    /* NULL: a fact. */
    int (*set)(const struct Key *key, SfsMount *mount, const SfsTarget *target,
               const SfsCaller *caller, const char *value);
    const char *const *values; /* words that are allowed, NULL-terminated; NULL: others */
    const char *normal; /* value of what can be set after it was removed; NULL: it cannot be */
    SfsPolicyKey policy;
} Key;

static const char *const kinds[] = {"page", "file", NULL};
static const char *const modes[] = {"passthrough", "mapped", "cached",  "direct", "base",
                                    "copy",        "clone",  "overlay", NULL};
static const char *const protections[] = {"readwrite", "readonly", "writecopy", NULL};
static const char *const cows[] = {"open", "section", NULL};
static const char *const lines[] = {NULL}; /* a text of any form */

static int
find_word(const char *const *words, const char *word)
{
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0)
            return i;
    }
    return -1;
}

static bool
get_kind(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append(value, kinds[target->rec->kind]);
    return true;
}

static void
append_text(SfsMount *mount, const SfsTarget *target, GString *value)
{
    g_autofree char *text = sfs_registry_load_text(mount->registry, target->rec->text, NULL);

    g_string_append(value, text);
}

static bool
get_file(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (target->rec->kind != SFS_KIND_FILE)
        return false;
    if (value != NULL)
        append_text(mount, target, value);
    return true;
}

static int
set_file(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
         const char *value)
{
    return sfs_section_define_file(mount, target, caller, value);
}

static bool
get_base(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (target->rec->base == SFS_NO_SLOT)
        return false;
    if (value != NULL)
        append_text(mount, target, value);
    return true;
}

static int
set_base(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
         const char *value)
{
    return sfs_section_define_base(mount, target, caller, value);
}

static bool
get_offset(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (!target->rec->bounded)
        return false;
    if (value != NULL)
        g_string_append_printf(value, "%" PRIu64, target->rec->offset);
    return true;
}

static bool
get_length(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (!target->rec->bounded)
        return false;
    if (value != NULL)
        g_string_append_printf(value, "%" PRIu64, target->rec->length);
    return true;
}

/* A copying tool writes back what it found. */
static bool
is_same(const Key *key, SfsMount *mount, const SfsTarget *target, const char *value)
{
    g_autoptr(GString) now = g_string_new(NULL);

    return key->get(key, mount, target, now) && strcmp(now->str, value) == 0;
}

static int
set_window(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
           const char *value)
{
    uint64_t number;
    int r = sfs_parse_size(value, &number);

    if (r < 0)
        return r == -ERANGE ? -EFBIG : r;
    if (is_same(key, mount, target, value))
        return 0;
    return key->get == get_offset ? sfs_section_set_window(mount, target, caller, &number, NULL)
                                  : sfs_section_set_window(mount, target, caller, NULL, &number);
}

static bool
get_protect(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append(value, protections[target->rec->protect]);
    return true;
}

static int
set_protect(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
            const char *value)
{
    return sfs_section_set_protect(mount, target, caller,
                                   (SfsProtect)find_word(protections, value));
}

static bool
get_cow(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append(value, cows[target->rec->cow]);
    return true;
}

static int
set_cow(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
        const char *value)
{
    return sfs_section_set_cow(mount, target, caller, (SfsCow)find_word(cows, value));
}

static bool
get_policy(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        sfs_policy_print(&target->rec->policy, key->policy, value);
    return true;
}

static int
set_policy(const Key *key, SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
           const char *value)
{
    return sfs_section_set_policy(mount, target, caller, key->policy, value);
}

static bool
get_mode(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append(value, sfs_section_io_mode(mount, target));
    return true;
}

static bool
get_size(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    SfsTarget section = *target;
    struct stat st;

    /* Through .info, the size of the section and not that of the text about it. */
    if (section.class == SFS_CLASS_INFO)
        section.class = SFS_CLASS_NODE;
    if (value == NULL)
        return true;
    if (sfs_section_stat(mount, &section, NULL, &st) < 0)
        return false;
    g_string_append_printf(value, "%" PRIu64, (uint64_t)st.st_size);
    return true;
}

static bool
get_opens(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append_printf(value, "%u", target->rec->opens + target->rec->views);
    return true;
}

static bool
get_holders(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        sfs_section_holders(mount, target, value);
    return true;
}

static bool
get_memory(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    uint64_t resident, swapped;

    if (value == NULL)
        return true;
    if (!sfs_section_memory(mount, target, &resident, &swapped))
        return false;
    g_string_append_printf(value, "%" PRIu64, key->name[0] == 'r' ? resident : swapped);
    return true;
}

static bool
get_private(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (value != NULL)
        g_string_append_printf(value, "%" PRIu64, sfs_section_private(mount, target));
    return true;
}

static bool
get_viewers(const Key *key, SfsMount *mount, const SfsTarget *target, GString *value)
{
    if (!sfs_target_is_view(target))
        return false;
    if (value != NULL)
        g_string_append_printf(value, "%u", sfs_view_viewers(mount, target));
    return true;
}

#define POLICY(name, key, normal)                                                                  \
    {                                                                                              \
        name, OF_DIRECTORIES | MAY_WAIT, get_policy, set_policy, NULL, normal, key                 \
    }

static const Key keys[] = {
    {"kind", 0, get_kind, NULL, kinds, NULL, 0},
    {"file", OPENS_PATH | RENEWS, get_file, set_file, NULL, NULL, 0},
    {"base", OPENS_PATH | RENEWS, get_base, set_base, NULL, NULL, 0},
    {"offset", 0, get_offset, set_window, NULL, NULL, 0},
    {"length", 0, get_length, set_window, NULL, NULL, 0},
    {"protect", MAY_WAIT | RENEWS, get_protect, set_protect, protections, "readwrite", 0},
    {"cow", MAY_WAIT | RENEWS, get_cow, set_cow, cows, "open", 0},
    POLICY("lifetime", SFS_POLICY_LIFETIME, "permanent"),
    POLICY("commit", SFS_POLICY_COMMIT, "reserve"),
    POLICY("resize", SFS_POLICY_RESIZE, "free"),
    POLICY("delete", SFS_POLICY_DELETE, "posix"),
    POLICY("limit", SFS_POLICY_LIMIT, "0"),
    {"mode", 0, get_mode, NULL, modes, NULL, 0},
    {"size", 0, get_size, NULL, NULL, NULL, 0},
    {"opens", 0, get_opens, NULL, NULL, NULL, 0},
    {"holders", MAY_SCAN, get_holders, NULL, lines, NULL, 0},
    {"resident", 0, get_memory, NULL, NULL, NULL, 0},
    {"swapped", 0, get_memory, NULL, NULL, NULL, 0},
    {"private", 0, get_private, NULL, NULL, NULL, 0},
    {"viewers", 0, get_viewers, NULL, NULL, NULL, 0},
};

/* Whether what the target is has this key at all. */
static bool
has_key(const Key *key, const SfsTarget *target)
{
    return sfs_target_is_section(target) ||
           (sfs_target_is_dir(target) && key->how & OF_DIRECTORIES);
}

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
sfs_control_waits(const char *name, bool set, SfsWaitFor *what)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);
    unsigned how = key != NULL ? key->how : 0;

    *what = how & OPENS_PATH ? SFS_WAIT_PATH : SFS_WAIT_SCAN;
    return how & (set ? OPENS_PATH | MAY_WAIT : MAY_SCAN);
}

bool
sfs_control_renews(const char *name)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);

    return key != NULL && key->how & RENEWS;
}

/* A text of several lines goes on in lines of its own. */
static void
append_value(GString *text, const char *name, char *value)
{
    g_auto(GStrv) parts = g_strsplit(g_strchomp(value), "\n", -1);

    g_string_append_printf(text, "%s: %s\n", name, parts[0] != NULL ? parts[0] : "");
    for (char **part = parts; *part != NULL && *++part != NULL;)
        g_string_append_printf(text, "%s: %s\n", name, *part);
}

void
sfs_control_describe(SfsMount *mount, const SfsTarget *target, GString *text)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autoptr(GString) value = g_string_new(NULL);

        if (has_key(&keys[i], target) && keys[i].get(&keys[i], mount, target, value))
            append_value(text, keys[i].name, value->str);
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

        if (key == NULL || !has_key(key, target) || !key->get(key, mount, target, text))
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
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (has_key(&keys[i], target) && keys[i].get(&keys[i], mount, target, NULL)) {
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
    return key->values == lines || find_word(key->values, value) >= 0 ? 0 : -EINVAL;
}

/* The kernel has attributes of a user's set by whoever may write the file. But that of a writecopy
 * section shows as to be written by all who may read it, for the sake of their views. */
static int
check_plain(const SfsTarget *target, const SfsCaller *caller, const char *name)
{
    const SfsNodeRec *rec = target->rec;

    if (target->class != SFS_CLASS_OWN || !g_str_has_prefix(name, "user."))
        return 0;
    return sfs_caller_may(caller, rec->uid, rec->gid, rec->mode, W_OK) ? 0 : -EACCES;
}

/* XATTR_CREATE and XATTR_REPLACE, for what can be set. 0 or a negative errno. */
static int
check_presence(const Key *key, SfsMount *mount, const SfsTarget *target, int flags)
{
    g_autoptr(GString) now = g_string_new(NULL);
    bool there = flags != 0 && key->get(key, mount, target, now);

    if (sfs_request_done()) /* by this very request, so what is there says nothing */
        return 0;
    if (there && flags & XATTR_CREATE)
        return -EEXIST;
    return !there && flags & XATTR_REPLACE ? -ENODATA : 0;
}

int
sfs_control_set(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, const char *name,
                const void *value, size_t size, int flags)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);
    g_autofree char *text = NULL;
    int r;

    if (!sfs_target_is_itself(target))
        return -EROFS;
    if (!is_ours) {
        r = check_plain(target, caller, name);
        return r < 0 ? r : sfs_xattr_set(mount, target, name, value, size, flags);
    }
    if (key == NULL || !has_key(key, target))
        return -EINVAL;
    /* Values are text; a NUL at the end, as some languages add it, does no harm. */
    text = g_strndup(value != NULL ? value : "", size);
    if (strlen(text) + 1 < size)
        return -EINVAL;
    if (key->set == NULL)
        return check_fact(key, target, caller, text);
    if (key->values != NULL && find_word(key->values, text) < 0)
        return -EINVAL;
    r = check_presence(key, mount, target, flags);
    return r < 0 ? r : key->set(key, mount, target, caller, text);
}

int
sfs_control_remove(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                   const char *name)
{
    bool is_ours;
    const Key *key = find_key(name, &is_ours);

    if (!sfs_target_is_itself(target))
        return -EROFS;
    if (!is_ours) {
        int r = check_plain(target, caller, name);

        return r < 0 ? r : sfs_xattr_remove(mount, target, name);
    }
    if (key == NULL || !has_key(key, target))
        return -ENODATA;
    /* For the sake of the same tools. What a section is cannot be removed from it. */
    if (key->set == NULL)
        return 0;
    return key->normal != NULL ? key->set(key, mount, target, caller, key->normal) : -EPERM;
}
