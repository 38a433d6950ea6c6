/* SPDX-License-Identifier: MIT */
/* Whether a registry keeps the invariants that registry.h promises. */
#pragma once

#include "common.h"
#include "registry.h"

/* Adds a sentence to @problems for each thing that is not so. In a registry that is being worked
 * with, something may look wrong for a moment. */
void sfs_registry_check(SfsRegistry *registry, GPtrArray *problems);

/* `sectionfs --check-registry MOUNTPOINT`: looks at that of a mount as it goes on, and prints what
 * is wrong with it for good. The exit status: 0, or 1: something is, or 2: it cannot be looked at.
 */
int sfs_registry_check_mount(const char *mountpoint);
