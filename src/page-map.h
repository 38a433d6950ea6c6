/* SPDX-License-Identifier: MIT */
/*
 * Which pages of a copy-on-write view are private: a sparse set of page numbers, in leaves of 32768
 * pages (128 MiB) that exist only where a page was ever in the set. Not thread-safe: its owner's
 * lock protects it; but peek() needs no lock.
 */
#pragma once

#include "common.h"

#define SFS_MAP_LEAF_PAGES 32768u
#define SFS_MAP_LEAF_BYTES (SFS_MAP_LEAF_PAGES / 8)

typedef struct SfsPageMap SfsPageMap;

SfsPageMap *sfs_page_map_new(void);
void sfs_page_map_free(SfsPageMap *map);

bool sfs_page_map_has(const SfsPageMap *map, uint64_t page);

/* Puts the pages [first, end) in, or takes them out. */
void sfs_page_map_add(SfsPageMap *map, uint64_t first, uint64_t end);
void sfs_page_map_remove(SfsPageMap *map, uint64_t first, uint64_t end);

/* Pages in the set. */
uint64_t sfs_page_map_count(const SfsPageMap *map);

/* End of the run of pages alike @first (in the set, or not), at most @end; *@in tells which. */
uint64_t sfs_page_map_run(const SfsPageMap *map, uint64_t first, uint64_t end, bool *in);

/* The same without a lock, in any number of threads, beside one that changes the map: of each page
 * what was so at some moment of the call. Looks no further than the leaf that holds @first. */
uint64_t sfs_page_map_peek(SfsPageMap *map, uint64_t first, uint64_t end, bool *in);

/* The bitmap of the leaf that holds @page: bit n of byte m is page 8m+n of the leaf. For keeping a
 * copy elsewhere. */
void sfs_page_map_bits(const SfsPageMap *map, uint64_t page, uint8_t bits[SFS_MAP_LEAF_BYTES]);
