/* SPDX-License-Identifier: MIT */
#include "dying.h"

#include "util.h"

#include <dirent.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

char
sfs_dying_state(pid_t pid, pid_t thread)
{
    char path[64], stat[512];
    const char *name;

    g_snprintf(path, sizeof path, "/proc/%d/task/%d/stat", (int)pid, (int)thread);
    if (sfs_read_text(AT_FDCWD, path, stat, sizeof stat) <= 0)
        return '\0';
    name = strrchr(stat, ')');
    return name != NULL ? name[2] : '\0';
}

/* Whether this thread may still do something. */
static bool
is_active(pid_t pid, const char *thread)
{
    char state = thread[0] != '.' ? sfs_dying_state(pid, atoi(thread)) : '\0';

    return state != '\0' && strchr("DZX", state) == NULL;
}

bool
sfs_dying_is_active(pid_t pid)
{
    char path[64];
    alignas(struct dirent64) char entries[4096];
    sfs_autofd tasks = -1;
    bool active = false;
    ssize_t n;

    /* opendir(3) would allocate. */
    g_snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    tasks = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (tasks >= 0 && (n = getdents64(tasks, entries, sizeof entries)) > 0) {
        for (char *at = entries; at < entries + n; at += ((struct dirent64 *)at)->d_reclen)
            active = is_active(pid, ((struct dirent64 *)at)->d_name) || active;
    }
    return active;
}

int
sfs_dying_status(pid_t pid)
{
    char path[64], stat[1024];
    const char *last;

    g_snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (sfs_read_text(AT_FDCWD, path, stat, sizeof stat) <= 0)
        return 0;
    last = strrchr(stat, ' ');
    return last != NULL ? atoi(last + 1) : 0;
}
