/* SPDX-License-Identifier: MIT */
/* The texts under .info and in .stats: one `key: value` a line. */
#pragma once

#include "mount.h"
#include "node.h"

/* The text that a target of class SFS_CLASS_INFO or SFS_CLASS_STATS reads as, at this moment; NULL
 * for other classes. g_bytes_unref(). */
GBytes *sfs_info_text(SfsMount *mount, const SfsTarget *target);
