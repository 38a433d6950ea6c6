/* SPDX-License-Identifier: MIT */
/*
 * The page map of a copy-on-write view as it is kept for a later worker: in the overlay's own file,
 * beyond all data.
 *
 * It begins as a list of runs in one page, and becomes a bitmap when that is full; so a view of
 * which little was written costs one page for it, and any other one for each 128 MiB. What is
 * written is always one entry or one page after another, the last of them the one that counts, so
 * that a death in between leaves the map before or after.
 *
 * Not thread-safe: the owner's lock protects it.
 */
#pragma once

#include "page-map.h"
#include "store.h"

typedef struct {
    uint32_t listed; /* entries in the list */
    bool bitmap;     /* the list does not count any more */
    bool behind;     /* it lacks pages that the map has: see sfs_map_file_add() */
    uint64_t last;   /* entry of the list, 0: none */
} SfsMapFile;

/* Where it lies: no page of data is as far. */
#define SFS_MAP_FILE_OFFSET ((off_t)1 << 62)

/* Notes that the pages [first, end) are about to be put into @map; what that has besides is noted
 * again where the copy is `behind`, which it no longer is then. The limit of the store does not
 * refuse it: what it tells of was accepted already. 0; or a negative errno, and a later worker
 * finds what it would have found before. */
int sfs_map_file_add(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
                     uint64_t end);

/* Notes that all pages from @first on were taken out of @map, of which @end was the last. Where
 * that fails a later worker may have some of them still. So the overlay must have holes there by
 * now, and the base must not show: then they read as zeros either way. */
void sfs_map_file_cut(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
                      uint64_t end);

/* Notes that there are no pages any more. It takes no memory. 0; or a negative errno, and nothing
 * was done. */
int sfs_map_file_clear(SfsMapFile *kept, SfsStoreFile *file);

/* Reads it into an empty map. 0 or a negative errno. */
int sfs_map_file_load(SfsMapFile *kept, int fd, SfsPageMap *map);
