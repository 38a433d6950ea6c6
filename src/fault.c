/* SPDX-License-Identifier: MIT */
#include "fault.h"

#ifdef SFS_FAULTS

#include <signal.h>
#include <stdlib.h>
#include <string.h>

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

/* Times that a step has failed in this process. */
static atomic_uint failures;

bool
sfs_fault_fails(const char *step)
{
    const char *wanted = g_getenv("SECTIONFS_FAIL");
    size_t length = strlen(step);
    unsigned times = UINT_MAX;

    if (wanted == NULL || strncmp(wanted, step, length) != 0)
        return false;
    if (wanted[length] == ':')
        times = (unsigned)g_ascii_strtoull(wanted + length + 1, NULL, 10);
    else if (wanted[length] != '\0')
        return false;
    return atomic_fetch_add(&failures, 1) < times;
}

#else

/* An empty translation unit is not C. */
typedef int SfsNoFaults;

#endif
