/* SPDX-License-Identifier: MIT */
/* What the files that make up an overlay share: backing-cow.c (what it is; reading and writing),
 * cow-holes.c (sizes and holes), cow-verbs.c (diff, reset, commit). Nothing else includes this. */
#pragma once

#include "backing.h"

#include "map-file.h"
#include "page-map.h"
#include "util.h"

typedef struct {
    SfsBacking base_class;
    SfsStore *store;
    SfsBacking *base; /* NULL: zeros */
    SfsRegistry *registry;
    uint32_t slot; /* of the record */
    SfsViewRec *rec;

    GMutex times; /* protects the record's times; the innermost lock */

    GMutex lock;                   /* protects all below, and the record's sizes */
    SfsStoreFile *_Atomic overlay; /* NULL until something is private */
    SfsPageMap *map;
    _Atomic uint32_t cuts; /* how often pages or base were taken out of it; odd: they are now */
    SfsMapFile kept;       /* the map's copy in the overlay */
    uint64_t changes;      /* counts them */
    SfsStoreFile *locks;   /* an empty file for advisory locks, NULL until there is one */
} SfsCowBacking;

static inline SfsCowBacking *
sfs_cow(SfsBacking *backing)
{
    return (SfsCowBacking *)backing;
}

/* --- pages: their numbers, and offsets in bytes ---------------------------------------------- */

static inline uint64_t
sfs_cow_page_of(off_t offset)
{
    return (uint64_t)offset >> SFS_PAGE_SHIFT;
}

static inline off_t
sfs_cow_start_of(uint64_t page)
{
    return (off_t)(page << SFS_PAGE_SHIFT);
}

static inline uint64_t
sfs_cow_pages_covering(off_t end)
{
    return sfs_page_round_up((uint64_t)end) >> SFS_PAGE_SHIFT;
}

/* --- backing-cow.c, lock held ---------------------------------------------------------------- */

/* Notes that bytes, size or holes were changed. */
void sfs_cow_modified(SfsCowBacking *self);

/* Makes the overlay if there is none. */
int sfs_cow_need_overlay(SfsCowBacking *self);

/* Pages [first, end) are no longer the base's. What the overlay has of them is there already, but
 * for holes. 0; or a negative errno where that cannot be kept for a later worker: then those that
 * were the base's still are. @force: they are private for this worker at least. */
int sfs_cow_make_private(SfsCowBacking *self, uint64_t first, uint64_t end, bool force);

/* Of the run of pages alike that @first begins, up to @end: gives back what the overlay holds of
 * them, if they are not private. The end of the run. */
uint64_t sfs_cow_give_back(SfsCowBacking *self, uint64_t first, uint64_t end);

/* Makes it no smaller than @end. */
void sfs_cow_grow_to(SfsCowBacking *self, off_t end);

/* Zeros from @from to the end of its page, if that page is private. */
int sfs_cow_clear_rest_of_page(SfsCowBacking *self, off_t from);

/* What is done in between shows to readers as one change. */
static inline void
sfs_cow_begin_cut(SfsCowBacking *self)
{
    atomic_fetch_add(&self->cuts, 1);
}

static inline void
sfs_cow_end_cut(SfsCowBacking *self)
{
    atomic_fetch_add(&self->cuts, 1);
}

/* --- backing-cow.c, lock not held ------------------------------------------------------------ */

/* Writes within one page, completing it from the base where it is not private yet. 0 or a negative
 * errno: all of it or nothing. @force: whatever the limit says. @within: only what is below the end
 * by then. */
int sfs_cow_write_in_page(SfsCowBacking *self, const char *buf, size_t size, off_t offset,
                          bool force, bool within);

/* --- hooks of backing.h that other files have ------------------------------------------------ */

int sfs_cow_truncate(SfsBacking *backing, off_t size);
int sfs_cow_allocate(SfsBacking *backing, int mode, off_t offset, off_t length);
off_t sfs_cow_seek(SfsBacking *backing, off_t offset, int whence);
int sfs_cow_hidden(SfsBacking *backing, off_t from, off_t stop, off_t *first, off_t *end);

int sfs_cow_changed(SfsBacking *backing, off_t from, off_t *first, off_t *end);
int sfs_cow_reset(SfsBacking *backing, off_t size);
int sfs_cow_commit(SfsBacking *backing, off_t size);
