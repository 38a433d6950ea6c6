/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write views: which there are, who has them open, and their own attributes. Their bytes
 * are in backing-cow.c.
 *
 * A view belongs to one nodeid, which was made for it when its name was looked up (node.h), and
 * comes into being when that is first opened. It belongs to its handles together: the last one to
 * be released takes it along. That is right for mappings, too, because a view is in the page
 * cache's mode, in which the kernel releases a handle only when the last mapping made through it is
 * gone.
 *
 * One lock protects the table of views and the attributes in their records; it is taken before the
 * lock of a node and never held across I/O. All functions are thread-safe. @target is always of
 * class SFS_CLASS_COW.
 */
#pragma once

#include "mount.h"
#include "node.h"

SfsViews *sfs_views_new(void);
void sfs_views_free(SfsViews *views); /* all handles released */

/* Mode of a copy-on-write name: whoever may read the section may write a view of it. Which is why
 * it never runs with its owner's rights: a view has no set-id bits. */
static inline uint32_t
sfs_view_mode(uint32_t section_mode)
{
    return (section_mode & ~(uint32_t)(S_ISUID | S_ISGID)) | (section_mode & 0444) >> 1;
}

/* Opens the view of this nodeid; one more sfs_view_close() is owed. If it is the first open, the
 * view is made of the section as @section describes it. @backing gets a reference, @slot that of
 * the record;
 * *@shared tells that others have it open. -ENFILE, -EFBIG. */
int sfs_view_open(SfsMount *mount, const SfsTarget *target, const struct stat *section,
                  SfsBacking **backing, uint32_t *slot, bool *shared);
void sfs_view_close(SfsMount *mount, uint64_t nodeid);

/* Takes up the view that a dead worker has left in the record at @slot, which @opens handles have
 * open; @base: the bytes of its section, or NULL. Its own bytes, without a reference. */
SfsBacking *sfs_view_adopt(SfsMount *mount, uint32_t slot, uint32_t opens, SfsBacking *base);

/* The bytes of the view, with a reference for the caller; NULL while nobody has it open. */
SfsBacking *sfs_view_backing(SfsMount *mount, const SfsTarget *target);

/* Replaces mode, uid and gid in @st by the view's own; false while nobody has it open. */
bool sfs_view_stat(SfsMount *mount, const SfsTarget *target, struct stat *st);

/* Sets those of them that @what (SFS_SET_*) names. Nothing happens while nobody has it open. */
void sfs_view_set(SfsMount *mount, const SfsTarget *target, const struct stat *st, unsigned what);
