/* SPDX-License-Identifier: MIT */
/*
 * What can be asked of an open copy-on-write view, as ioctl(2) on any descriptor of it.
 *
 * They speak of what the filesystem has been told of: call fsync(2) first, for the kernel to tell
 * of what was stored to mappings.
 */
#pragma once

#include <stdint.h>
#include <sys/ioctl.h>

typedef struct {
    uint64_t offset, length; /* whole pages of 4096 bytes; the last may go beyond the end */
} SectionRange;

#define SECTION_RANGES 64

typedef struct {
    uint64_t from;  /* in: where to begin; out: where to go on */
    uint32_t count; /* out: of the ranges; fewer than SECTION_RANGES: these are the last */
    uint32_t reserved;
    SectionRange ranges[SECTION_RANGES];
} SectionDiff;

/* The ranges that are the view's own, or zeros where the section has bytes, in order: with these
 * and its size the view can be made of the section. There may be more than was written. */
#define SECTION_IOC_DIFF _IOWR('S', 0x81, SectionDiff)

/* Makes the view as the section is now; the descriptor must be open for writing. What was mapped
 * shows it at once. */
#define SECTION_IOC_RESET _IO('S', 0x82)

/* Makes the section as the view is; the descriptor must be open for writing, and the caller be
 * somebody who may write the section (else EACCES). */
#define SECTION_IOC_COMMIT _IO('S', 0x83)
