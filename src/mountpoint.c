/* SPDX-License-Identifier: MIT */
#include "mountpoint.h"

#include "log.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, __VA_ARGS__);                        \
        return FALSE;                                                                              \
    } while (0)

/* mount(2)'s way first, which needs privilege; else the helper that users have. */
static void
take_off(const char *path)
{
    const char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", path, NULL};
    g_autoptr(GError) error = NULL;

    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return;
    if (!g_spawn_sync("/", (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                      NULL, NULL, NULL, NULL, NULL, &error))
        g_warning("cannot unmount %s: %s", path, error->message);
}

/* Whether the FUSE filesystem that is mounted there has lost its daemon. The kernel may still know
 * the attributes of its root, so stat(2) does not tell; statfs(2) always has to ask. */
static bool
is_dead(const char *path)
{
    struct statfs st;

    return statfs(path, &st) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

gboolean
sfs_mountpoint_prepare(char *path, GError **error)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    char resolved[PATH_MAX];
    struct stat st;

    if (sfs_mountpoint_device(absolute) != 0 && is_dead(absolute)) {
        g_message("%s has a dead mount on it: taking it off", absolute);
        take_off(absolute);
    }
    if (stat(path, &st) != 0)
        FAIL("mountpoint %s: %s", path,
             errno == ENOENT ? "there is no such directory" : g_strerror(errno));
    if (!S_ISDIR(st.st_mode))
        FAIL("mountpoint %s: not a directory", path);
    if (realpath(path, resolved) == NULL)
        FAIL("mountpoint %s: %s", path, g_strerror(errno));
    g_strlcpy(path, resolved, SFS_PATH_MAX);
    return TRUE;
}

dev_t
sfs_mountpoint_device(const char *path)
{
    g_autofree char *table = NULL;
    g_auto(GStrv) lines = NULL;
    dev_t device = 0;

    if (!g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL))
        return 0;
    lines = g_strsplit(table, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        /* 36 35 98:0 /root /mountpoint options - type source ... */
        g_auto(GStrv) fields = g_strsplit(*line, " ", -1);
        g_autofree char *where = NULL;
        char **type = fields;
        unsigned major_number, minor_number;

        if (g_strv_length(fields) < 9)
            continue;
        where = g_strcompress(fields[4]); /* blanks are written \040 */
        while (*type != NULL && strcmp(*type, "-") != 0)
            type++;
        if (strcmp(where, path) != 0 || *type == NULL || !g_str_has_prefix(type[1], "fuse") ||
            sscanf(fields[2], "%u:%u", &major_number, &minor_number) != 2)
            continue;
        device = makedev(major_number, minor_number);
    }
    return device;
}

void
sfs_mountpoint_detach(const char *path, dev_t device)
{
    if (device != 0 && sfs_mountpoint_device(path) == device)
        take_off(path);
}

void
sfs_mountpoint_detach_dead(const char *path, dev_t device)
{
    if (device != 0 && sfs_mountpoint_device(path) == device && is_dead(path))
        take_off(path);
}
