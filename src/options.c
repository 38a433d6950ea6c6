/* SPDX-License-Identifier: MIT */
#include "options.h"

#include "registry.h"
#include "util.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

/* Measured: making a copy of this size costs as much more than making an overlay as writing five
 * pages into one, and from then on the copy is at the speed of memory. */
#define COW_COPY_MAX ((uint64_t)256 << 10)

/* Of the memory, that the store may have. */
#define PERCENT_MAX 1000000

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, __VA_ARGS__);                 \
        return FALSE;                                                                              \
    } while (0)

/* Options of the kernel and of FUSE that are handed on as they are. */
static const char *const handed_on[] = {
    "allow_other", "ro",           "rw",        "suid",        "nosuid", "dev",
    "nodev",       "exec",         "noexec",    "async",       "sync",   "dirsync",
    "nodiratime",  "auto_unmount", "symfollow", "nosymfollow",
};

/* Written into fstab for mount(8) and others, and of no meaning here. */
static const char *const ignored[] = {
    "defaults", "auto",    "noauto", "user",  "nouser",   "users",       "owner",
    "group",    "_netdev", "nofail", "atime", "relatime", "strictatime", "default_permissions",
};

/* Ours that are nothing without a value; so are the policies. */
static const char *const valued[] = {
    "size",        "nr_sections",  "mode",    "uid",           "gid",    "semantics", "sections",
    "passthrough", "cow_copy_max", "reflink", "drain_timeout", "fsname", "max_read",
};

static bool
is_among(const char *word, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(word, words[i]) == 0)
            return true;
    }
    return false;
}

static uint64_t
total_memory(void)
{
    struct sysinfo info;

    return sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 0;
}

/* Whole pages, of which one is never given out; so never 0, which would mean no limit. */
static uint64_t
round_store_size(uint64_t size)
{
    return MAX(size & ~(uint64_t)(SFS_PAGE_SIZE - 1), (uint64_t)2 * SFS_PAGE_SIZE);
}

static gboolean
parse_store_size(const char *value, uint64_t *size, GError **error)
{
    size_t len = strlen(value);
    uint64_t percent;

    if (len > 1 && value[len - 1] == '%') {
        g_autofree char *number = g_strndup(value, len - 1);

        if (sfs_parse_number(number, 10, PERCENT_MAX, &percent) < 0)
            FAIL("option size=%s: not a whole number of percent from 0 to %d", value, PERCENT_MAX);
        *size = round_store_size(total_memory() / 100 * percent);
        return TRUE;
    }
    if (sfs_parse_size(value, size) < 0)
        FAIL("option size=%s: not a size such as 1073741824, 512M or 50%% (0: no limit)", value);
    if (*size != 0)
        *size = round_store_size(*size);
    return TRUE;
}

static gboolean
parse_number_option(const char *key, const char *value, int base, uint64_t max, uint32_t *result,
                    GError **error)
{
    uint64_t n;

    if (sfs_parse_number(value, base, max, &n) < 0)
        FAIL(base == 8 ? "option %s=%s: not an octal number from 0 to %" PRIo64
                       : "option %s=%s: not a whole number from 0 to %" PRIu64,
             key, value, max);
    *result = (uint32_t)n;
    return TRUE;
}

static gboolean
parse_passthrough(const char *value, SfsPassthroughWish *wish, GError **error)
{
    if (strcmp(value, "auto") == 0)
        *wish = SFS_PASSTHROUGH_AUTO;
    else if (strcmp(value, "on") == 0)
        *wish = SFS_PASSTHROUGH_ON;
    else if (strcmp(value, "off") == 0)
        *wish = SFS_PASSTHROUGH_OFF;
    else
        FAIL("option passthrough=%s: auto, on and off are allowed", value);
    return TRUE;
}

static gboolean
parse_semantics(const char *value, SfsConfig *config, GError **error)
{
    static const SfsPolicy posix = {0};

    config->strict = strcmp(value, "nt") == 0;
    if (!config->strict && strcmp(value, "posix") != 0)
        FAIL("option semantics=%s: posix and nt are allowed", value);
    config->policy = config->strict ? sfs_policy_nt : posix;
    return TRUE;
}

/* The daemon changes its folder before it reads the file. */
static gboolean
parse_sections(const char *value, SfsConfig *config, GError **error)
{
    g_autofree char *path = g_canonicalize_filename(value, NULL);

    if (value[0] == '\0')
        FAIL("option sections: the name of a file is missing");
    if (g_strlcpy(config->sections_file, path, sizeof config->sections_file) >=
        sizeof config->sections_file)
        FAIL("option sections: the path is longer than %zu bytes",
             sizeof config->sections_file - 1);
    return TRUE;
}

static gboolean
parse_reflink(const char *value, bool *reflink, GError **error)
{
    if (strcmp(value, "auto") != 0 && strcmp(value, "off") != 0)
        FAIL("option reflink=%s: auto and off are allowed", value);
    *reflink = strcmp(value, "auto") == 0;
    return TRUE;
}

/* What is wrong with an option that is not known in this form. */
static gboolean
refuse_option(const char *option, const char *key, bool has_value, GError **error)
{
    static const char *const plain[] = {"allow_root", "noatime", "debug"};
    SfsPolicyKey policy;

    if (!has_value &&
        (is_among(key, valued, G_N_ELEMENTS(valued)) || sfs_policy_find(key, &policy)))
        FAIL("option '%s' needs a value (see sectionfs(8))", option);
    if (has_value && (is_among(key, plain, G_N_ELEMENTS(plain)) ||
                      is_among(key, handed_on, G_N_ELEMENTS(handed_on)) ||
                      is_among(key, ignored, G_N_ELEMENTS(ignored))))
        FAIL("option '%s' takes no value (see sectionfs(8))", option);
    FAIL("unknown option '%s' (see sectionfs(8))", option);
}

static void
hand_on(GString *fuse_options, const char *option)
{
    if (fuse_options->len > 0)
        g_string_append_c(fuse_options, ',');
    g_string_append(fuse_options, option);
}

/* One option of -o, "key" or "key=value". */
static gboolean
parse_mount_option(const char *option, SfsConfig *config, GString *fuse_options, GError **error)
{
    const char *equals = strchr(option, '=');
    g_autofree char *key = equals ? g_strndup(option, (gsize)(equals - option)) : g_strdup(option);
    const char *value = equals ? equals + 1 : NULL;
    SfsPolicyKey policy;
    uint32_t nr;

    if (value == NULL) {
        if (strcmp(key, "allow_root") == 0) {
            /* The kernel lets everybody in; libfuse, in the worker, refuses the others. */
            config->allow_root = true;
            hand_on(fuse_options, "allow_other");
        } else if (strcmp(key, "noatime") == 0) {
            config->no_atime = true;
            hand_on(fuse_options, option);
        } else if (strcmp(key, "debug") == 0) {
            config->debug = true;
        } else if (is_among(key, handed_on, G_N_ELEMENTS(handed_on))) {
            hand_on(fuse_options, option);
        } else if (!is_among(key, ignored, G_N_ELEMENTS(ignored)) && !g_str_has_prefix(key, "x-")) {
            return refuse_option(option, key, false, error);
        }
        return TRUE;
    }
    if (strcmp(key, "size") == 0)
        return parse_store_size(value, &config->size, error);
    if (strcmp(key, "mode") == 0)
        return parse_number_option(key, value, 8, 07777, &config->root_mode, error);
    if (strcmp(key, "uid") == 0)
        return parse_number_option(key, value, 10, UINT32_MAX - 1, &config->root_uid, error);
    if (strcmp(key, "gid") == 0)
        return parse_number_option(key, value, 10, UINT32_MAX - 1, &config->root_gid, error);
    if (strcmp(key, "drain_timeout") == 0)
        return parse_number_option(key, value, 10, 86400, &config->drain_timeout, error);
    if (strcmp(key, "cow_copy_max") == 0) {
        if (sfs_parse_size(value, &config->cow_copy_max) < 0)
            FAIL("option cow_copy_max=%s: not a size such as 65536 or 256K (0: never)", value);
        return TRUE;
    }
    if (strcmp(key, "reflink") == 0)
        return parse_reflink(value, &config->reflink, error);
    if (strcmp(key, "passthrough") == 0)
        return parse_passthrough(value, &config->passthrough, error);
    if (strcmp(key, "semantics") == 0)
        return parse_semantics(value, config, error);
    if (strcmp(key, "sections") == 0)
        return parse_sections(value, config, error);
    if (sfs_policy_find(key, &policy)) {
        if (sfs_policy_parse(&config->policy, policy, value) < 0)
            FAIL("option %s: %s", option, sfs_policy_values(policy));
        return TRUE;
    }
    if (strcmp(key, "nr_sections") == 0) {
        if (!parse_number_option(key, value, 10, SFS_MAX_NODES, &nr, error))
            return FALSE;
        config->nr_sections = nr;
        return TRUE;
    }
    if (strcmp(key, "fsname") == 0 || strcmp(key, "max_read") == 0 ||
        g_str_has_suffix(key, "context")) {
        hand_on(fuse_options, option);
        return TRUE;
    }
    if (!g_str_has_prefix(key, "x-") && strcmp(key, "user") != 0)
        return refuse_option(option, key, true, error);
    return TRUE;
}

static gboolean
parse_mount_options(char **lists, SfsConfig *config, GError **error)
{
    g_autoptr(GString) fuse_options = g_string_new(NULL);
    bool fsname = false, allow_other = false;

    for (char **list = lists; list != NULL && *list != NULL; list++) {
        g_auto(GStrv) options = g_strsplit(*list, ",", -1);

        for (char **option = options; *option != NULL; option++) {
            if (**option == '\0')
                continue;
            if (!parse_mount_option(*option, config, fuse_options, error))
                return FALSE;
            fsname = fsname || g_str_has_prefix(*option, "fsname=");
            allow_other = allow_other || g_str_has_prefix(*option, "allow_");
        }
    }
    hand_on(fuse_options, "default_permissions");
    if (!fsname)
        hand_on(fuse_options, "fsname=sectionfs");
    hand_on(fuse_options, "subtype=sectionfs");
    if (geteuid() == 0 && !allow_other)
        hand_on(fuse_options, "allow_other");
    if (g_strlcpy(config->fuse_options, fuse_options->str, sizeof config->fuse_options) >=
        sizeof config->fuse_options)
        FAIL("the mount options are longer than %zu bytes", sizeof config->fuse_options - 1);
    return TRUE;
}

static gboolean
take_mountpoint(char **arguments, SfsConfig *config, GError **error)
{
    guint n = arguments != NULL ? g_strv_length(arguments) : 0;

    if (n == 0)
        FAIL("missing MOUNTPOINT (usage: sectionfs [SOURCE] MOUNTPOINT [-f] [-d] [-o OPTION,...])");
    if (n > 2)
        FAIL("too many arguments at '%s' (usage: sectionfs [SOURCE] MOUNTPOINT [-f] [-d] "
             "[-o OPTION,...])",
             arguments[2]);
    if (arguments[n - 1][0] == '\0')
        FAIL("MOUNTPOINT is empty");
    if (g_strlcpy(config->mountpoint, arguments[n - 1], sizeof config->mountpoint) >=
        sizeof config->mountpoint)
        FAIL("MOUNTPOINT is longer than %zu bytes", sizeof config->mountpoint - 1);
    return TRUE;
}

static void
set_defaults(SfsConfig *config)
{
    memset(config, 0, sizeof *config);
    config->size = MAX(total_memory() / 2 & ~(uint64_t)(SFS_PAGE_SIZE - 1), SFS_PAGE_SIZE);
    config->root_mode = geteuid() == 0 ? 01777 : 0755;
    config->root_uid = geteuid();
    config->root_gid = getegid();
    config->drain_timeout = 10;
    /* As tmpfs: one for every two pages of memory. */
    config->nr_sections = CLAMP(total_memory() / SFS_PAGE_SIZE / 2, 1024, SFS_MAX_NODES);
    config->text_limit = MAX(total_memory() / 64, (uint64_t)16 << 20);
    config->passthrough = SFS_PASSTHROUGH_AUTO;
    config->cow_copy_max = COW_COPY_MAX;
    config->reflink = true;
}

gboolean
sfs_options_parse(int argc, char **argv, SfsConfig *config, SfsRun *run, GError **error)
{
    gboolean foreground = FALSE, debug = FALSE, help = FALSE, version = FALSE, ignore = FALSE;
    g_autofree char *ignored_text = NULL;
    g_auto(GStrv) lists = NULL;
    g_auto(GStrv) arguments = NULL;
    g_auto(GStrv) copy = g_new0(char *, 2 * (gsize)argc + 1);
    g_autoptr(GOptionContext) context = g_option_context_new("[SOURCE] MOUNTPOINT");
    const GOptionEntry entries[] = {
        {"foreground", 'f', 0, G_OPTION_ARG_NONE, &foreground,
         "Stay in the foreground, log to stderr", NULL},
        {"debug", 'd', 0, G_OPTION_ARG_NONE, &debug, "The same, and log every request and refusal",
         NULL},
        {"options", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &lists, "Mount options", "OPTION,..."},
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, "Show this text", NULL},
        {"version", 'V', 0, G_OPTION_ARG_NONE, &version, "Show the version", NULL},
        /* mount(8) gives these to its helpers. */
        {"no-mtab", 'n', G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &ignore, NULL, NULL},
        {"sloppy", 's', G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &ignore, NULL, NULL},
        {"verbose", 'v', G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &ignore, NULL, NULL},
        {"type", 't', G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_STRING, &ignored_text, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &arguments, NULL, NULL},
        {NULL, 0, 0, 0, NULL, NULL, NULL},
    };

    set_defaults(config);
    /* "-oOPT" is how mount(8)'s friends like to write it; GOption wants the two apart. */
    for (int i = 0, n = 0; i < argc; i++) {
        bool attached = i > 0 && argv[i][0] == '-' && argv[i][1] == 'o' && argv[i][2] != '\0';

        if (attached)
            copy[n++] = g_strdup("-o");
        copy[n++] = g_strdup(attached ? argv[i] + 2 : argv[i]);
    }
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_summary(
        context,
        "Mounts a filesystem whose files are section objects: named shared memory, views of "
        "real files, and private copy-on-write views.\nMount options are described in "
        "sectionfs(8).");
    if (!g_option_context_parse_strv(context, &copy, error))
        return FALSE;
    *run = SFS_RUN_MOUNT;
    if (help) {
        g_autofree char *text = g_option_context_get_help(context, TRUE, NULL);

        *run = SFS_RUN_HELP;
        fputs(text, stdout);
        return TRUE;
    }
    if (version) {
        *run = SFS_RUN_VERSION;
        printf("sectionfs %s\n", PACKAGE_VERSION);
        return TRUE;
    }
    if (!parse_mount_options(lists, config, error) || !take_mountpoint(arguments, config, error))
        return FALSE;
    config->debug = config->debug || debug;
    config->foreground = foreground || config->debug;
    return TRUE;
}
