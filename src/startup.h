/* SPDX-License-Identifier: MIT */
/* The sections that a mount begins with: those of `-o sections=FILE`. */
#pragma once

#include "mount.h"

/* Makes them all, with the rights of whoever mounts. FALSE, and one sentence in @error: something
 * of that cannot be, and the mount is not to be. For the mount's first worker, once it serves, for
 * the files may lie behind the mount itself; blocks as opening files does. */
gboolean sfs_startup_sections(SfsMount *mount, GError **error);
