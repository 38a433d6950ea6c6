/* SPDX-License-Identifier: MIT */
#include "fault.h"

#ifdef SFS_FAULTS

#include <signal.h>
#include <stdlib.h>

static _Atomic uint64_t *points;

void
sfs_fault_init(_Atomic uint64_t *counter)
{
    points = counter;
}

void
sfs_fault_point(void)
{
    const char *at = g_getenv("SECTIONFS_KILL_AT");
    uint64_t point = points != NULL ? atomic_fetch_add(points, 1) + 1 : 0;
    char *end;

    for (; at != NULL && *at != '\0'; at = *end == ',' ? end + 1 : end) {
        if (g_ascii_strtoull(at, &end, 10) == point)
            kill(getpid(), SIGKILL);
        if (end == at)
            break;
    }
}

void
sfs_fault_request(uint32_t opcode)
{
    const char *at = g_getenv("SECTIONFS_ABORT_AT");

    if (at != NULL && g_ascii_strtoull(at, NULL, 10) == opcode)
        abort();
}

#else

/* An empty translation unit is not C. */
typedef int SfsNoFaults;

#endif
