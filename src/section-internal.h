/* SPDX-License-Identifier: MIT */
/* What the files that make up the sections share: section.c (policy and definition), section-open.c
 * (handles), section-attr.c (attributes), section-io.c (bytes). Nothing else includes this. */
#pragma once

#include "section.h"

#include "log.h"

/* --- section.c ------------------------------------------------------------------------------- */

/* Logs a refusal, and returns @error. */
int sfs_section_refuse(const SfsTarget *target, int error, const char *why);

/* Whether the section's bytes may be changed at all, by whomever. */
int sfs_section_check_writable(const SfsTarget *target);

/* --- section-open.c -------------------------------------------------------------------------- */

/* The section's backing, made now if a page section has none yet. A reference for the caller. */
int sfs_section_need_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing);

/* --- section-attr.c -------------------------------------------------------------------------- */

/* As ftruncate(2), or truncate(2) without a handle. */
int sfs_section_set_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                         const SfsCaller *caller, off_t size);
