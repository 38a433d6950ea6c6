/* SPDX-License-Identifier: MIT */
#include "connection.h"

#include <string.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

void
sfs_connection_loosen_write_back(dev_t device)
{
    static const char *const settings[][2] = {{"strict_limit", "0"}, {"max_ratio", "100"}};

    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        char path[64];
        sfs_autofd fd = -1;

        g_snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/%s", major(device), minor(device),
                   settings[i][0]);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, settings[i][1], strlen(settings[i][1])) < 0)
            g_debug("%s stays as it is: %s", path, g_strerror(errno));
    }
}

int
sfs_connection_open_abort(dev_t device)
{
    sfs_autofd context = -1, mount = -1;
    char path[64];
    int fd;

    g_snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", minor(device));
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    context = fsopen("fusectl", FSOPEN_CLOEXEC);
    if (context >= 0 && fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
    if (mount < 0)
        return -1;
    g_snprintf(path, sizeof path, "%u/abort", minor(device));
    return openat(mount, path, O_WRONLY | O_CLOEXEC);
}
