/* SPDX-License-Identifier: MIT */
/* What the files that make up the sections share: section.c (policy), section-define.c,
 * section-bytes.c (where they are), section-attr.c (attributes), section-open.c (handles),
 * section-io.c (reading and writing), section-facts.c, section-view.c. Nothing else includes this.
 */
#pragma once

#include "section.h"

#include "log.h"

/* --- section.c: policy ----------------------------------------------------------------------- */

/* Logs a refusal, and returns @error. */
int sfs_section_refuse(const SfsTarget *target, int error, const char *why);

/* -EPERM for whoever is neither the owner nor root. */
int sfs_section_check_owner(const SfsTarget *target, const SfsCaller *caller);

/* Whether the section's bytes may be changed at all, by whomever. */
int sfs_section_check_writable(const SfsTarget *target);

/* Whether it is still empty and undefined; else -EBUSY. Node locked. */
int sfs_section_check_definable(SfsMount *mount, const SfsTarget *target);

/* Whether the size may become @size: -EPERM, -EFBIG, -ETXTBSY. May wait where
 * sfs_section_size_waits() says so. */
int sfs_section_check_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                           uint64_t size);

/* Whether there may be memory, or room on a disk, up to @end beyond the size: -EFBIG. */
int sfs_section_check_room(const SfsTarget *target, uint64_t end);

/* Whether that may be written, or the first *@size bytes of it. Takes the memory for it where that
 * is promised. @how: as in backing.h. */
int sfs_section_admit_write(SfsMount *mount, const SfsHandle *handle, off_t offset, size_t *size,
                            unsigned how);

/* Whether writes have to come here, whatever the kernel could do. */
bool sfs_section_is_mediated(const SfsNodeRec *rec);

/* Changes of a page section's size and memory that must not come between each other: where memory
 * is committed, growing takes it from the end on, wherever that is. NULL: it needs none. */
GMutexLocker *sfs_section_hold_size(const SfsTarget *target);

/* Whether memory that it has, it keeps. */
bool sfs_section_keeps_memory(const SfsNodeRec *rec);

/* --- section-bytes.c ------------------------------------------------------------------------- */

/* The section's backing, made now if a page section has none yet. A reference for the caller. */
int sfs_section_need_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing);

/* As sfs_section_bytes(), made now where there are none yet: for a view that can be reset, or
 * written into what it is a view of. NULL: there will never be any. */
int sfs_section_need_bytes(SfsMount *mount, const SfsTarget *target, SfsBacking **bytes);

/* As _need_backing(), with the node locked and the backing still its own. On failure it is not
 * locked. */
int sfs_section_lock_with_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing);

/* --- section-attr.c -------------------------------------------------------------------------- */

/* As ftruncate(2), or truncate(2) without a handle. */
int sfs_section_set_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                         const SfsCaller *caller, off_t size);
