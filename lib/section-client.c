/* SPDX-License-Identifier: MIT */

/*
 * The client library: see section-client.h for what it promises.
 *
 * Every operation opens its path once, with O_PATH, checks what mount it reached, and then works on
 * that very file through /proc/self/fd/N: the xattr calls take no O_PATH descriptor, and going back
 * to the path could reach another file than the one that was checked. O_PATH also matters in
 * itself. It opens nothing as far as the daemon can see, so looking at a section neither counts as
 * a use of it nor makes a copy-on-write view.
 */

#include "config.h"

#include "section-client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

/* Room for "/proc/self/fdinfo/" and any int. */
#define PROC_NAME_MAX 40

/* The mount type that counts as ours. Not in the header: the unit test, and only it, sets this to
 * NULL, which accepts any mount, so as to run where there is no sectionfs. */
extern const char *sc_internal_mount_type;
const char *sc_internal_mount_type = "fuse.sectionfs";

GQuark
sc_error_quark(void)
{
    return g_quark_from_static_string("sc-error-quark");
}

/* GLib has g_autofd from 2.76 on only. Keeps errno, as a failing path still has to report it. */
static inline void
clear_fd(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd);
    errno = saved;
}

#define auto_fd __attribute__((cleanup(clear_fd))) int

ScAttribute *
sc_attribute_new(const char *key, const char *value)
{
    ScAttribute *attribute = g_new(ScAttribute, 1);

    attribute->key = g_strdup(key);
    attribute->value = g_strdup(value);
    return attribute;
}

void
sc_attribute_free(ScAttribute *attribute)
{
    if (attribute == NULL)
        return;
    g_free(attribute->key);
    g_free(attribute->value);
    g_free(attribute);
}

/* Always FALSE, so that a caller can fail and return in one line. */
G_GNUC_PRINTF(5, 6)
static gboolean
fail(GError **error, int err, const char *operation, const char *path, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, SC_ERROR, err, "%s %s: %s", operation, path, what);
    return FALSE;
}

/* What an errno means when the operation gives it no meaning of its own. */
static const char *
plain_meaning(int err)
{
    switch (err) {
    case ENOENT:
        return "there is no such file or directory";
    case ENOTDIR:
        return "a part of the path is not a directory";
    case EACCES:
        return "you have no permission for this";
    case ELOOP:
        return "the path goes through too many symbolic links";
    case ENAMETOOLONG:
        return "the name is too long";
    case EROFS:
        return "the mount is read-only, or this part of it (.cow, .info, .stats)";
    case EOPNOTSUPP:
        return "sectionfs does not offer this";
    case ENOSPC:
        return "the store of the mount is full";
    case ENOTCONN:
    case ECONNABORTED:
        return "the sectionfs daemon of this mount is gone; unmount it and mount it again";
    default:
        return g_strerror(err);
    }
}

/* The type of the mount that fd lies on, or NULL where that cannot be found out: under a chroot, a
 * mount may be reachable and yet not be listed. */
static char *
mount_type(int fd)
{
    char name[PROC_NAME_MAX];
    g_autofree char *info = NULL;
    g_autofree char *mounts = NULL;
    g_auto(GStrv) lines = NULL;
    const char *field;
    g_autofree char *prefix = NULL;

    g_snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    if (!g_file_get_contents(name, &info, NULL, NULL) ||
        !g_file_get_contents("/proc/self/mountinfo", &mounts, NULL, NULL))
        return NULL;

    field = strstr(info, "mnt_id:");
    if (field == NULL)
        return NULL;
    prefix = g_strdup_printf("%ld ", strtol(field + strlen("mnt_id:"), NULL, 10));

    lines = g_strsplit(mounts, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        const char *type;

        if (!g_str_has_prefix(*line, prefix))
            continue;
        /* The fields before " - " vary in number, but none can hold a blank. */
        type = strstr(*line, " - ");
        if (type == NULL)
            return NULL;
        type += strlen(" - ");
        return g_strndup(type, strcspn(type, " "));
    }
    return NULL;
}

/* Any FUSE filesystem might store an attribute called user.section.file and do nothing about it, so
 * being FUSE is not enough. */
static gboolean
check_mount(int fd, const char *operation, const char *path, GError **error)
{
    struct statfs fs;
    g_autofree char *type = NULL;

    if (sc_internal_mount_type == NULL)
        return TRUE;
    if (fstatfs(fd, &fs) < 0)
        return fail(error, errno, operation, path, "%s", plain_meaning(errno));
    if (fs.f_type == FUSE_SUPER_MAGIC) {
        type = mount_type(fd);
        if (type == NULL || strcmp(type, sc_internal_mount_type) == 0)
            return TRUE;
    }
    return fail(error, ENOTSUP, operation, path, "is not on a sectionfs mount");
}

/* The name under which the file of fd can be handed to calls that want a path. */
static gboolean
proc_name(int fd, char name[PROC_NAME_MAX], const char *operation, const char *path, GError **error)
{
    struct stat st;

    g_snprintf(name, PROC_NAME_MAX, "/proc/self/fd/%d", fd);
    if (lstat(name, &st) < 0)
        return fail(error, ENOSYS, operation, path, "/proc is not mounted");
    return TRUE;
}

/* Open path for looking only and make sure that it is ours. *fd is the caller's also on failure. */
static gboolean
open_path(const char *path, int flags, int *fd, char name[PROC_NAME_MAX], const char *operation,
          GError **error)
{
    *fd = open(path, O_PATH | O_CLOEXEC | flags);
    if (*fd < 0)
        return fail(error, errno, operation, path, "%s", plain_meaning(errno));
    return proc_name(*fd, name, operation, path, error) && check_mount(*fd, operation, path, error);
}

static gboolean
xattr_name(const char *key, char **name, const char *operation, const char *path, GError **error)
{
    if (*key == '\0')
        return fail(error, EINVAL, operation, path, "the name of an attribute is empty");
    if (strlen(SC_XATTR_PREFIX) + strlen(key) > XATTR_NAME_MAX)
        return fail(error, EINVAL, operation, path,
                    "the name of an attribute is longer than %zu bytes",
                    (size_t)XATTR_NAME_MAX - strlen(SC_XATTR_PREFIX));
    *name = g_strconcat(SC_XATTR_PREFIX, key, NULL);
    return TRUE;
}

/* What a refused user.section.file means. The trouble is with the file, not with the section. */
static gboolean
fail_file(GError **error, int err, const char *operation, const char *path, const char *file)
{
    switch (err) {
    case ENODEV:
        return fail(error, err, operation, path,
                    "%s is not a regular file; only a regular file can back a section", file);
    case ELOOP:
        return fail(error, err, operation, path,
                    "%s lies on this same mount, or behind too many symbolic links; "
                    "a section is backed by a file from outside of its mount",
                    file);
    case ENOENT:
        return fail(error, err, operation, path, "%s does not exist", file);
    case ENOTDIR:
        return fail(error, err, operation, path, "a part of %s is not a directory", file);
    case EACCES:
        return fail(error, err, operation, path,
                    "no permission to open %s; you must be able to read it, and for "
                    "protect=readwrite to write it",
                    file);
    case EINVAL:
        return fail(error, err, operation, path,
                    "%s cannot back this section; it takes an absolute path, once, while the "
                    "section is page-file-backed and empty, and a part that is not empty",
                    file);
    case EFBIG:
        return fail(error, err, operation, path,
                    "%s ends before the section would, and is not to be written", file);
    case ENOSPC:
        return fail(error, err, operation, path,
                    "there is no room to make %s as long as the section, or no room on the mount",
                    file);
    case EBUSY:
        return fail(error, err, operation, path,
                    "cannot be backed by %s, because it is in use or not empty", file);
    case EPERM:
        return fail(error, err, operation, path,
                    "cannot be backed by %s; this is for its owner to do, and only once", file);
    case EEXIST:
        return fail(error, err, operation, path,
                    "cannot be backed by %s, because a file backs it already", file);
    case ETXTBSY:
        return fail(error, err, operation, path, "%s is a program that is being run", file);
    default:
        return fail(error, err, operation, path, "cannot be backed by %s: %s", file,
                    plain_meaning(err));
    }
}

/* The same for user.section.base. */
static gboolean
fail_base(GError **error, int err, const char *operation, const char *path, const char *base)
{
    const char *meaning;

    switch (err) {
    case ENOENT:
    case ENOTDIR:
        meaning = "there is no such section; its name is taken from the root of the mount";
        break;
    case ENODEV:
        meaning = "that is not a section";
        break;
    case EINVAL:
        meaning = "the name of a section is wanted, from the root of the mount";
        break;
    case ELOOP:
        meaning = "it would be based on itself, or on more than 40 sections above each other";
        break;
    case EACCES:
        meaning = "you have no permission to read that";
        break;
    case EBUSY:
        meaning = "it is in use, or not empty";
        break;
    case EPERM:
        meaning = "this is for its owner to do, and only once";
        break;
    default:
        meaning = plain_meaning(err);
        break;
    }
    return fail(error, err, operation, path, "cannot be based on %s: %s", base, meaning);
}

static gboolean
fail_set(GError **error, int err, const char *operation, const char *path, const char *key,
         const char *value)
{
    gboolean window = strcmp(key, "offset") == 0 || strcmp(key, "length") == 0;
    const char *meaning;

    if (strcmp(key, "file") == 0)
        return fail_file(error, err, operation, path, value);
    if (strcmp(key, "base") == 0)
        return fail_base(error, err, operation, path, value);

    switch (err) {
    case EINVAL:
    case ENODATA:
        meaning = "no such attribute can be set, or not to this value (see sectionctl(1))";
        break;
    case EPERM:
        meaning = "it is read-only, or you are not the owner";
        break;
    case EACCES:
        meaning = "you must own the section and be able to write it";
        break;
    case EBUSY:
    case ETXTBSY:
        meaning = window ? "it is set before file, while the section is empty and not in use"
                         : "the section is in use";
        break;
    case ENODEV:
        meaning = "a file of this kind cannot back a section";
        break;
    case EFBIG:
        meaning = "it is too large";
        break;
    case E2BIG:
    case ERANGE:
        return fail(error, err, operation, path, "the value of %s is longer than 64 KiB", key);
    default:
        meaning = plain_meaning(err);
        break;
    }
    return fail(error, err, operation, path, "cannot set %s=%s: %s", key, value, meaning);
}

/* name is the /proc name of the file; path only appears in messages. */
static gboolean
set_attribute(const char *name, const char *key, const char *value, const char *operation,
              const char *path, GError **error)
{
    g_autofree char *xattr = NULL;

    if (!xattr_name(key, &xattr, operation, path, error))
        return FALSE;
    if (setxattr(name, xattr, value, strlen(value), 0) < 0)
        return fail_set(error, errno, operation, path, key, value);
    return TRUE;
}

/* A fresh value, or NULL and errno. The largest possible buffer and one call, instead of asking for
 * the size first: the value may grow in between. */
static char *
read_attribute(const char *name, const char *xattr)
{
    g_autofree char *buffer = g_malloc(XATTR_SIZE_MAX);
    ssize_t length = getxattr(name, xattr, buffer, XATTR_SIZE_MAX);

    return length < 0 ? NULL : g_strndup(buffer, (gsize)length);
}

static gboolean
fail_get(GError **error, int err, const char *operation, const char *path, const char *key)
{
    switch (err) {
    case ENODATA:
    case EINVAL:
    case EOPNOTSUPP:
        return fail(error, err, operation, path, "has no attribute %s", key);
    case EACCES:
        return fail(error, err, operation, path,
                    "cannot read %s: you must be able to read the section", key);
    default:
        return fail(error, err, operation, path, "cannot read %s: %s", key, plain_meaning(err));
    }
}

gboolean
sc_get(const char *path, const char *key, char **value, GError **error)
{
    auto_fd fd = -1;
    char name[PROC_NAME_MAX];
    g_autofree char *xattr = NULL;
    char *text;

    if (!xattr_name(key, &xattr, "get", path, error) ||
        !open_path(path, 0, &fd, name, "get", error))
        return FALSE;
    text = read_attribute(name, xattr);
    if (text == NULL)
        return fail_get(error, errno, "get", path, key);
    *value = text;
    return TRUE;
}

gboolean
sc_set(const char *path, const char *key, const char *value, GError **error)
{
    auto_fd fd = -1;
    char name[PROC_NAME_MAX];

    return open_path(path, 0, &fd, name, "set", error) &&
           set_attribute(name, key, value, "set", path, error);
}

gboolean
sc_list(const char *path, GPtrArray **attributes, GError **error)
{
    auto_fd fd = -1;
    char name[PROC_NAME_MAX];
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)sc_attribute_free);
    g_autofree char *names = NULL;
    ssize_t length;

    if (!open_path(path, 0, &fd, name, "info", error))
        return FALSE;

    names = g_malloc(XATTR_LIST_MAX);
    length = listxattr(name, names, XATTR_LIST_MAX);
    if (length < 0)
        return fail(error, errno, "info", path, "%s", plain_meaning(errno));

    for (const char *xattr = names; xattr < names + length; xattr += strlen(xattr) + 1) {
        ScAttribute *attribute;
        char *value;

        if (!g_str_has_prefix(xattr, SC_XATTR_PREFIX))
            continue;
        value = read_attribute(name, xattr);
        if (value == NULL) {
            if (errno == ENODATA) /* Gone since it was listed. */
                continue;
            return fail_get(error, errno, "info", path, xattr + strlen(SC_XATTR_PREFIX));
        }
        attribute = g_new(ScAttribute, 1);
        attribute->key = g_strdup(xattr + strlen(SC_XATTR_PREFIX));
        attribute->value = value;
        g_ptr_array_add(list, attribute);
    }
    *attributes = g_steal_pointer(&list);
    return TRUE;
}

/* Further down anybody may have made a file .stats, with any text in it. */
#define ROOT_INODE 1

static gboolean
is_root(int dir)
{
    struct stat st;

    return sc_internal_mount_type == NULL || (fstat(dir, &st) == 0 && st.st_ino == ROOT_INODE);
}

gboolean
sc_stats(const char *mountpoint, char **text, GError **error)
{
    auto_fd dir = -1;
    auto_fd fd = -1;
    char name[PROC_NAME_MAX];
    g_autoptr(GString) content = g_string_new(NULL);
    char buffer[4096];
    ssize_t n;

    if (!open_path(mountpoint, O_DIRECTORY, &dir, name, "stats", error))
        return FALSE;
    if (is_root(dir))
        fd = openat(dir, ".stats", O_RDONLY | O_CLOEXEC);
    else
        errno = ENOENT;
    if (fd < 0 && errno == ENOENT)
        return fail(error, errno, "stats", mountpoint,
                    "is not the root of a sectionfs mount; the statistics are found there");
    if (fd < 0)
        return fail(error, errno, "stats", mountpoint, "%s", plain_meaning(errno));

    while ((n = read(fd, buffer, sizeof buffer)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(error, errno, "stats", mountpoint, "%s", plain_meaning(errno));
        g_string_append_len(content, buffer, n);
    }
    *text = g_string_free(g_steal_pointer(&content), FALSE);
    return TRUE;
}

/* The name that the daemon will look up, which does not share our working directory. ".." stays as
 * it is: only a walk that follows symbolic links knows what it means. */
static gboolean
absolute_name(const char *file, char **absolute, const char *path, GError **error)
{
    char *cwd;

    if (*file == '\0')
        return fail(error, EINVAL, "create", path, "the name of the backing file is empty");
    if (g_path_is_absolute(file)) {
        *absolute = g_strdup(file);
        return TRUE;
    }
    /* Not g_get_current_dir(): when it fails it says "/", which would be a different file. */
    cwd = getcwd(NULL, 0);
    if (cwd == NULL)
        return fail(error, errno, "create", path,
                    "%s is relative, and the working directory cannot be found: %s", file,
                    g_strerror(errno));
    *absolute = g_strconcat(cwd, strcmp(cwd, "/") == 0 ? "" : "/", file, NULL);
    free(cwd);
    return TRUE;
}

/* When an attribute is set. */
typedef enum {
    BEFORE_FILE, /* the file is opened by it */
    BEFORE_SIZE,
    AFTER_SIZE, /* it may take away the right to give the section its size */
} Stage;

static Stage
stage_of(const char *key, const ScCreateOptions *options)
{
    if (strcmp(key, "offset") == 0 || strcmp(key, "length") == 0)
        return BEFORE_FILE;
    if (strcmp(key, "protect") == 0)
        return options->file != NULL ? BEFORE_FILE : AFTER_SIZE;
    return strcmp(key, "resize") == 0 ? AFTER_SIZE : BEFORE_SIZE;
}

static gboolean
set_attributes(const char *name, const ScCreateOptions *options, Stage stage, const char *path,
               GError **error)
{
    const GPtrArray *attributes = options->attributes;

    for (guint i = 0; attributes != NULL && i < attributes->len; i++) {
        const ScAttribute *attribute = g_ptr_array_index(attributes, i);

        if (stage_of(attribute->key, options) == stage &&
            !set_attribute(name, attribute->key, attribute->value, "create", path, error))
            return FALSE;
    }
    return TRUE;
}

/* -1: the daemon knows what is normal. */
static gboolean
set_bytes(const char *name, const char *key, gint64 bytes, const char *path, GError **error)
{
    char value[24];

    if (bytes < 0)
        return TRUE;
    g_snprintf(value, sizeof value, "%" G_GINT64_FORMAT, bytes);
    return set_attribute(name, key, value, "create", path, error);
}

static gboolean
set_size(const char *name, gint64 size, const char *path, GError **error)
{
    const char *meaning;

    if (truncate(name, size) == 0)
        return TRUE;
    switch (errno) {
    case EFBIG:
        meaning = "it is beyond the limit of the section, or larger than any file can be";
        break;
    case ENOSPC:
        meaning = "the store of the mount has no room for it";
        break;
    case EPERM:
        meaning = "sections in this directory are of a fixed size";
        break;
    case EINVAL:
        meaning = "the section does not take this size";
        break;
    default:
        meaning = plain_meaning(errno);
        break;
    }
    return fail(error, errno, "create", path, "cannot make it %" G_GINT64_FORMAT " bytes large: %s",
                size, meaning);
}

static gboolean
check_options(const ScCreateOptions *options, const char *path, GError **error)
{
    if (options->file != NULL && options->base != NULL)
        return fail(error, EINVAL, "create", path, "takes a file or a base, not both");
    if (options->base != NULL && options->size >= 0)
        return fail(error, EINVAL, "create", path,
                    "takes a base or a size, not both; it is as large as its base");
    if (options->file == NULL && options->offset >= 0)
        return fail(error, EINVAL, "create", path, "takes an offset only together with a file");
    if (options->mode > 07777)
        return fail(error, EINVAL, "create", path, "the mode %o is not one of 0 to 7777",
                    (unsigned)options->mode);
    for (guint i = 0; options->attributes != NULL && i < options->attributes->len; i++) {
        const ScAttribute *attribute = g_ptr_array_index(options->attributes, i);

        /* They have to be set at their time: there is a member of its own for each. */
        if (strcmp(attribute->key, "file") == 0 || strcmp(attribute->key, "base") == 0)
            return fail(error, EINVAL, "create", path, "the %s is not to be given as an attribute",
                        attribute->key);
    }
    return TRUE;
}

/* Split path into the directory, opened as *dir (the caller's also on failure), and the name to
 * make in it, which points into path. */
static gboolean
open_parent(const char *path, int *dir, const char **base, GError **error)
{
    const char *slash = strrchr(path, '/');
    g_autofree char *parent = NULL;
    struct stat st;

    *base = slash == NULL ? path : slash + 1;
    if (**base == '\0' || strcmp(*base, ".") == 0 || strcmp(*base, "..") == 0)
        return fail(error, EINVAL, "create", path,
                    "names a directory; it must end in the name of a file");

    if (slash == NULL)
        parent = g_strdup(".");
    else
        parent = slash == path ? g_strdup("/") : g_strndup(path, (gsize)(slash - path));
    *dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0 && errno == ENOENT)
        return fail(error, errno, "create", path, "the directory %s does not exist", parent);
    if (*dir < 0 && errno == ENOTDIR)
        return fail(error, errno, "create", path, "%s is not a directory", parent);
    if (*dir < 0)
        return fail(error, errno, "create", path, "%s: %s", parent, plain_meaning(errno));
    if (!check_mount(*dir, "create", path, error))
        return FALSE;

    /* linkat() decides in the end. This is for not allocating a committed section in vain. */
    if (fstatat(*dir, *base, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return fail(error, EEXIST, "create", path, "already exists");
    return TRUE;
}

/* A new section without a name, as an O_PATH descriptor (the caller's also on failure). */
static gboolean
open_nameless(int dir, mode_t mode, int *fd, char name[PROC_NAME_MAX], const char *path,
              GError **error)
{
    auto_fd writable = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);

    if (writable < 0) {
        switch (errno) {
        case EACCES:
        case EPERM:
            return fail(error, errno, "create", path,
                        "no permission to create a section in its directory");
        case EOPNOTSUPP:
        case EISDIR: /* From kernels and filesystems that take O_TMPFILE for a plain O_DIRECTORY. */
            return fail(error, errno, "create", path,
                        "no section can be created in this directory");
        case ENOSPC:
            return fail(error, errno, "create", path,
                        "the mount has no room for another section; see its statistics");
        default:
            return fail(error, errno, "create", path, "%s", plain_meaning(errno));
        }
    }

    if (!proc_name(writable, name, "create", path, error))
        return FALSE;
    *fd = open(name, O_PATH | O_CLOEXEC);
    if (*fd < 0)
        return fail(error, errno, "create", path, "cannot reopen it: %s", plain_meaning(errno));

    /* The O_RDWR descriptor is closed here, and must be: where the kernel passes reads and writes
     * straight through it stays bound to the store as it is now, empty, and while it lives nobody
     * else could open the section over the file that backs it. The O_PATH descriptor keeps the
     * inode and binds nothing. */
    return proc_name(*fd, name, "create", path, error);
}

gboolean
sc_create(const char *path, const ScCreateOptions *options, GError **error)
{
    auto_fd dir = -1;
    auto_fd fd = -1;
    char name[PROC_NAME_MAX];
    const char *base;
    g_autofree char *file = NULL;
    /* Attributes and the size want write permission, which the mode may deny to its own owner. So a
     * chosen mode comes last; until then nobody else can reach the section. */
    mode_t first_mode = options->mode < 0 ? 0666 : 0600;

    if (!check_options(options, path, error) ||
        (options->file != NULL && !absolute_name(options->file, &file, path, error)) ||
        !open_parent(path, &dir, &base, error) ||
        !open_nameless(dir, first_mode, &fd, name, path, error))
        return FALSE;

    if (!set_attributes(name, options, BEFORE_FILE, path, error) ||
        !set_bytes(name, "offset", options->offset, path, error))
        return FALSE;
    if (file != NULL && (!set_bytes(name, "length", options->size, path, error) ||
                         !set_attribute(name, "file", file, "create", path, error)))
        return FALSE;
    if (options->base != NULL && !set_attribute(name, "base", options->base, "create", path, error))
        return FALSE;
    if (!set_attributes(name, options, BEFORE_SIZE, path, error))
        return FALSE;
    if (file == NULL && options->size >= 0 && !set_size(name, options->size, path, error))
        return FALSE;
    if (!set_attributes(name, options, AFTER_SIZE, path, error))
        return FALSE;
    if (options->mode >= 0 && chmod(name, (mode_t)options->mode) < 0)
        return fail(error, errno, "create", path, "cannot set its mode to %o: %s",
                    (unsigned)options->mode, plain_meaning(errno));

    if (linkat(AT_FDCWD, name, dir, base, AT_SYMLINK_FOLLOW) < 0) {
        if (errno == EEXIST)
            return fail(error, errno, "create", path, "already exists");
        return fail(error, errno, "create", path, "cannot give it its name: %s",
                    plain_meaning(errno));
    }
    return TRUE;
}

gboolean
sc_parse_size(const char *text, gint64 *size, GError **error)
{
    static const char suffixes[] = "KMGT";
    const char *suffix;
    char *end;
    guint64 n;
    guint shift = 0;

    /* g_ascii_strtoull() would take blanks and a sign. */
    if (!g_ascii_isdigit(*text))
        goto malformed;
    errno = 0;
    n = g_ascii_strtoull(text, &end, 10);
    if (errno == ERANGE)
        goto too_large;
    if (*end != '\0') {
        suffix = strchr(suffixes, g_ascii_toupper(*end));
        if (suffix == NULL || end[1] != '\0')
            goto malformed;
        shift = 10 * (guint)(suffix - suffixes + 1);
    }
    if (n > (guint64)G_MAXINT64 >> shift)
        goto too_large;
    *size = (gint64)(n << shift);
    return TRUE;

malformed:
    g_set_error(error, SC_ERROR, EINVAL,
                "\"%s\" is not a size; write a number of bytes, or one with K, M, G or T after it",
                text);
    return FALSE;
too_large:
    g_set_error(error, SC_ERROR, ERANGE,
                "the size %s is too large; the largest is %" G_GINT64_FORMAT, text, G_MAXINT64);
    return FALSE;
}

gboolean
sc_parse_mode(const char *text, int *mode, GError **error)
{
    size_t digits = strspn(text, "01234567");
    guint64 n;

    if (digits == 0 || text[digits] != '\0') {
        g_set_error(error, SC_ERROR, EINVAL, "\"%s\" is not a mode; write it in octal, like 0640",
                    text);
        return FALSE;
    }
    n = g_ascii_strtoull(text, NULL, 8); /* The largest number where there are too many digits. */
    if (n > 07777) {
        g_set_error(error, SC_ERROR, ERANGE, "the mode %s is too large; the largest is 7777", text);
        return FALSE;
    }
    *mode = (int)n;
    return TRUE;
}

gboolean
sc_parse_attribute(const char *text, ScAttribute **attribute, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autofree char *key = NULL;

    if (equals == NULL || equals == text) {
        g_set_error(error, SC_ERROR, EINVAL, "\"%s\" is not an attribute; write KEY=VALUE", text);
        return FALSE;
    }
    key = g_strndup(text, (gsize)(equals - text));
    *attribute = sc_attribute_new(key, equals + 1);
    return TRUE;
}
