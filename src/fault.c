/* SPDX-License-Identifier: MIT */
#include "fault.h"

#ifdef SFS_FAULTS

#include <signal.h>
#include <stdlib.h>

static _Atomic uint64_t *points;
static uint64_t kill_at;

void
sfs_fault_init(_Atomic uint64_t *counter)
{
    const char *at = g_getenv("SECTIONFS_KILL_AT");

    kill_at = at != NULL ? g_ascii_strtoull(at, NULL, 10) : 0;
    points = counter;
}

void
sfs_fault_point(void)
{
    if (points != NULL && atomic_fetch_add(points, 1) + 1 == kill_at)
        kill(getpid(), SIGKILL);
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
    return g_strcmp0(g_getenv("SECTIONFS_FAIL"), step) == 0;
}

#else

/* An empty translation unit is not C. */
typedef int SfsNoFaults;

#endif
