/* SPDX-License-Identifier: MIT */
#include "fault.h"

#include "points.h"

#include <stdlib.h>

void
sfs_fault_init(const void *registry, size_t size, _Atomic uint64_t *counter)
{
    points_init(registry, size, counter);
}

void
sfs_fault_request(uint32_t opcode)
{
    const char *at = g_getenv("SECTIONFS_ABORT_AT");

    if (at != NULL && g_ascii_strtoull(at, NULL, 10) == opcode)
        abort();
}
