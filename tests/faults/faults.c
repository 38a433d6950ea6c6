/* SPDX-License-Identifier: MIT */
#include "fault.h"

#include "keeper-link.h"
#include "points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static char failing[32]; /* "": nothing is to fail in this process */

void
sfs_fault_init(const void *registry, size_t size, _Atomic uint64_t *counter, uint32_t worker)
{
    const char *fail = g_getenv("SECTIONFS_FAIL");
    const char *which = fail != NULL ? strchr(fail, '@') : NULL;

    if (which != NULL ? g_ascii_strtoull(which + 1, NULL, 10) == worker : worker > 1)
        g_strlcpy(failing, fail != NULL ? fail : "", sizeof failing);
    failing[strcspn(failing, "@")] = '\0';
    points_init(registry, size, counter);
}

void
sfs_fault_request(uint32_t opcode)
{
    const char *at = g_getenv("SECTIONFS_ABORT_AT");

    if (at != NULL && g_ascii_strtoull(at, NULL, 10) == opcode)
        abort();
}

bool
sfs_fault_fails(const char *step)
{
    return strcmp(failing, step) == 0;
}

/* Bytes that this process has mapped. */
static rlim_t
address_space(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    if (file != NULL && fscanf(file, "%lu", &pages) != 1)
        pages = 0;
    if (file != NULL)
        fclose(file);
    return (rlim_t)pages * SFS_PAGE_SIZE;
}

void
sfs_fault_run_out(void)
{
    const char *room = g_getenv("SECTIONFS_ROOM");
    struct rlimit limit;

    if (sfs_fault_fails("descriptors")) {
        limit = (struct rlimit){SFS_FD_FIRST_FREE, SFS_FD_FIRST_FREE};
        setrlimit(RLIMIT_NOFILE, &limit);
    } else if (sfs_fault_fails("memory")) {
        limit.rlim_cur = limit.rlim_max =
            address_space() + (room != NULL ? g_ascii_strtoull(room, NULL, 10) : 0) * 1024;
        setrlimit(RLIMIT_AS, &limit);
    }
}
