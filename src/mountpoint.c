/* SPDX-License-Identifier: MIT */
#include "mountpoint.h"

#include "log.h"

#include <limits.h>
#include <poll.h>
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

/* Calls @each for every mount, in the order in which the kernel has them: of several at one place
 * the last one is what is seen there. @device: 0 for what is no FUSE filesystem. */
static void
each_mount(void (*each)(const char *where, dev_t device, void *data), void *data)
{
    g_autofree char *table = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL))
        return;
    lines = g_strsplit(table, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        /* 36 35 98:0 /root /mountpoint options - type source ... */
        g_auto(GStrv) fields = g_strsplit(*line, " ", -1);
        g_autofree char *where = NULL;
        char **type = fields;
        unsigned major_number, minor_number;

        if (g_strv_length(fields) < 9 ||
            sscanf(fields[2], "%u:%u", &major_number, &minor_number) != 2)
            continue;
        where = g_strcompress(fields[4]); /* blanks are written \040 */
        while (*type != NULL && strcmp(*type, "-") != 0)
            type++;
        each(where,
             *type != NULL && g_str_has_prefix(type[1], "fuse")
                 ? makedev(major_number, minor_number)
                 : 0,
             data);
    }
}

typedef struct {
    const char *path;
    dev_t device;
    GPtrArray *places;
} Search;

static void
note_device(const char *where, dev_t device, void *data)
{
    Search *search = data;

    if (strcmp(where, search->path) == 0)
        search->device = device;
}

dev_t
sfs_mountpoint_device(const char *path)
{
    Search search = {.path = path};

    each_mount(note_device, &search);
    return search.device;
}

static void
note_place(const char *where, dev_t device, void *data)
{
    Search *search = data;

    if (device == search->device)
        g_ptr_array_add(search->places, g_strdup(where));
}

/* Where the mount with this device is by now: it may have been moved, or bound to other places. */
static GPtrArray *
places_of(dev_t device)
{
    Search search = {.device = device, .places = g_ptr_array_new_with_free_func(g_free)};

    if (device != 0)
        each_mount(note_place, &search);
    return search.places;
}

/* A dead mount may be what the last name leads to, which then cannot be asked; realpath(3) does
 * without. */
static void
take_off_dead(const char *path)
{
    g_autofree char *bare = g_strdup(path);
    char resolved[PATH_MAX];

    for (size_t end = strlen(bare); end > 1 && bare[end - 1] == '/'; end--)
        bare[end - 1] = '\0';
    if (realpath(bare, resolved) == NULL || sfs_mountpoint_device(resolved) == 0 ||
        !is_dead(resolved))
        return;
    g_message("%s has a dead mount on it: taking it off", resolved);
    take_off(resolved);
}

gboolean
sfs_mountpoint_prepare(char *path, GError **error)
{
    char resolved[PATH_MAX];
    struct stat st;

    take_off_dead(path);
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

void
sfs_mountpoint_detach(const char *path, dev_t device)
{
    if (device != 0 && sfs_mountpoint_device(path) == device)
        take_off(path);
}

/* While this is so, the number of its device is nobody else's. */
static bool
is_connected(int connection)
{
    struct pollfd look = {.fd = connection};

    return poll(&look, 1, 0) == 0;
}

void
sfs_mountpoint_detach_moved(dev_t device, int connection)
{
    g_autoptr(GPtrArray) places = places_of(device);

    for (guint i = 0; i < places->len; i++) {
        const char *place = g_ptr_array_index(places, i);

        if (sfs_mountpoint_device(place) == device && is_connected(connection))
            take_off(place);
    }
}

void
sfs_mountpoint_detach_dead(dev_t device)
{
    g_autoptr(GPtrArray) places = places_of(device);

    for (guint i = 0; i < places->len; i++) {
        const char *place = g_ptr_array_index(places, i);

        if (sfs_mountpoint_device(place) == device && is_dead(place))
            take_off(place);
    }
}
