/* SPDX-License-Identifier: MIT */
/*
 * Copy-on-write views: which there are, who has them open, and their own attributes. Their bytes
 * are in backing-cow.c.
 *
 * A view belongs to one nodeid, which was made for it when its name was looked up (node.h), and
 * comes into being when that is first opened. It belongs to its handles together: the last one to
 * be released takes it along. That is right for mappings, too. In the page cache's mode the kernel
 * releases a handle only when the last mapping made through it is gone; in passthrough it does so
 * earlier, but then a mapping keeps the file that it maps, and that is all there is to the view.
 *
 * One lock protects the table of views and the attributes in their records; it is taken before the
 * lock of a node and never held across I/O. All functions are thread-safe. @target is always of
 * class SFS_CLASS_COW.
 */
#pragma once

#include "caller.h"
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

/* What an open wants of a view, */
typedef struct {
    const struct stat *section; /* as which a new view starts */
    SfsBacking *base;           /* the bytes that it starts with; NULL: none */
    const SfsCaller *caller;
    bool writes; /* opened for writing */
    bool joined; /* others may open the same view later, for writing too */
} SfsViewWish;

/* and what it gets. */
typedef struct {
    SfsBacking *backing; /* a reference */
    uint32_t slot;       /* of the view's record */
    int backing_id;      /* with which the kernel is to do its I/O by itself; 0: it does not */
    bool shared;         /* others have it open */
} SfsViewAccess;

/*
 * Opens the view of this nodeid; one more sfs_view_close() is owed. The first open makes it, of the
 * section as it is described, in the fastest way that the case allows (view-make.c).
 * -ENFILE; -EFBIG; -EACCES: a view that was first opened for reading only stays so, for the kernel
 * may be reading the section itself in its place.
 */
int sfs_view_open(SfsMount *mount, const SfsTarget *target, const SfsViewWish *wish,
                  SfsViewAccess *access);

/* Whether opening it may wait for a disk, or for this very mount. */
bool sfs_view_open_may_wait(SfsMount *mount, const SfsTarget *target, bool writes);

void sfs_view_close(SfsMount *mount, uint64_t nodeid);

/* Takes up the view that a dead worker has left in the record at @slot, which @opens handles have
 * open; @base: the bytes of its section, or NULL. Its own bytes, without a reference; NULL if they
 * cannot be had any more. */
SfsBacking *sfs_view_adopt(SfsMount *mount, uint32_t slot, uint32_t opens, SfsBacking *base);
/* Ends what a worker that died had begun to write into the bases of views: before anybody is
 * answered. */
void sfs_views_finish_commits(SfsMount *mount);

/* Bytes of the store in copies that somebody has open. */
uint64_t sfs_views_copied(SfsMount *mount);

/* Whether somebody has it open, and nobody for writing, ever. */
bool sfs_view_is_readonly(SfsMount *mount, const SfsTarget *target);

/* How the bytes of a view are reached: "base", "copy", "clone" or "overlay"; or would be, if it
 * were opened for writing, unless its file can be cloned. */
const char *sfs_view_mode_name(SfsMount *mount, const SfsTarget *target);

/* The bytes of the view, with a reference for the caller; NULL while nobody has it open. */
SfsBacking *sfs_view_backing(SfsMount *mount, const SfsTarget *target);

/* How many handles have the view open; 0: nobody has. */
uint32_t sfs_view_viewers(SfsMount *mount, const SfsTarget *target);

/* Replaces mode, uid and gid in @st by the view's own; false while nobody has it open. */
bool sfs_view_stat(SfsMount *mount, const SfsTarget *target, struct stat *st);

/* Sets those of them that @what (SFS_SET_*) names. Nothing happens while nobody has it open. */
void sfs_view_set(SfsMount *mount, const SfsTarget *target, const struct stat *st, unsigned what);

/* --- view-make.c: for view.c alone ----------------------------------------------------------- */

typedef struct SfsViewMaker SfsViewMaker;

SfsViewMaker *sfs_view_maker_new(void);
void sfs_view_maker_free(SfsViewMaker *maker);

/* Gives the view with the record at @slot its bytes, and the record its kind and backing id. Cannot
 * fail: where nothing else is possible it is an overlay. */
SfsBacking *sfs_view_make(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target,
                          const SfsViewWish *wish, uint32_t slot);

/* Whether making it could come to clone a file. */
bool sfs_view_may_clone(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target);
