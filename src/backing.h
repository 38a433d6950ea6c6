/* SPDX-License-Identifier: MIT */
/*
 * Where the bytes of an open file are: one ops struct that every kind implements. The rooms above
 * (section.c) decide what may be done; a backing only does it.
 *
 *   page   a file of the store                          backing-page.c
 *   file   a real file                                  backing-file.c
 *   cow    private pages over another backing           backing-cow.c
 *   copy   a whole private copy of another backing      backing-copy.c
 *
 * A backing is reference-counted: a section holds one reference for as long as it has bytes, each
 * view over it one, each operation in flight one. All hooks are thread-safe and may be called
 * concurrently on one backing; they return a negative errno on failure and never log. No hook calls
 * back into the rooms above.
 */
#pragma once

#include "common.h"
#include "store.h"

typedef struct SfsBacking SfsBacking;

/* How to write. */
enum {
    /* The bytes are those of a mapped page and were stored to already: the store's limit must not
     * refuse them. The size stays as it is: where O_TRUNC cuts the file while the kernel writes
     * back, requests with what is gone come after that. Bytes beyond the end count as written. */
    SFS_WRITE_BACK = 1 << 0,
    /* At the end of the file, wherever that is by now; @offset is where the kernel believes it to
     * be, and only where others write the file as well can that be wrong. */
    SFS_WRITE_APPEND = 1 << 1,
    /* The write is on its disk when it is answered, as O_DSYNC and O_SYNC have it. */
    SFS_WRITE_DATA_SYNC = 1 << 2,
    SFS_WRITE_SYNC = 1 << 3,
};

typedef struct {
    const char *kind; /* "page", "file", "cow", "copy" */

    /* Fills st_size, st_blocks, st_atim, st_mtim and st_ctim with what is true now; leaves the
     * other members alone. Required. */
    int (*stat)(SfsBacking *backing, struct stat *st);

    /* As pread(2): the bytes read, short only at the end of the file. Required. */
    ssize_t (*read)(SfsBacking *backing, void *buf, size_t size, off_t offset);

    /* The same, leaving no trace in the access time where that can be had. NULL: read leaves none.
     */
    ssize_t (*read_quietly)(SfsBacking *backing, void *buf, size_t size, off_t offset);

    /* The same as read, into an empty pipe with room for as many pages as @size bytes can touch: it
     * gets the pages themselves instead of a copy. -EAGAIN, or another negative errno: it must be
     * read, and what is in the pipe is to be thrown away. NULL: it cannot. */
    ssize_t (*splice_read)(SfsBacking *backing, int pipe, size_t size, off_t offset);

    /* Notes that somebody has read, as relatime has it. NULL: read does that, and reading through
     * data_fd as well. */
    void (*accessed)(SfsBacking *backing);

    /* As pwrite(2): bytes written, > 0 unless @size is 0. @how: flags below. Required. */
    ssize_t (*write)(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how);

    /* The same as write of bytes at the front of a pipe, whole pages of the backing, with no flag
     * but SFS_WRITE_BACK. With that it has taken from the pipe just as many as it returns, unless
     * it took all or failed, and may return 0 where the end of the file is within the first page.
     * NULL: it cannot. */
    ssize_t (*splice_write)(SfsBacking *backing, int pipe, size_t size, off_t offset, unsigned how);

    /* Around what is written with SFS_WRITE_APPEND: one after the other, in the order that the
     * kernel has given the pieces of a large write, of which several threads have one each.
     * @offset: as with that; @next: where the kernel goes on after it. NULL: the offset says it
     * all. */
    void (*begin_append)(SfsBacking *backing, off_t offset);
    void (*end_append)(SfsBacking *backing, off_t next);

    /* As ftruncate(2). Required. */
    int (*truncate)(SfsBacking *backing, off_t size);

    /* As fallocate(2), with the modes of it that FUSE carries (KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE);
     * -EOPNOTSUPP for a mode that it cannot do. Required. */
    int (*allocate)(SfsBacking *backing, int mode, off_t offset, off_t length);

    /* As lseek(2) with SEEK_DATA or SEEK_HOLE: the offset found, or -ENXIO. Required. */
    off_t (*seek)(SfsBacking *backing, off_t offset, int whence);

    /* As fsync(2), or fdatasync(2) with @data_only. NULL: nothing is ever unwritten. */
    int (*sync)(SfsBacking *backing, bool data_only);

    /* As futimens(2): two times, tv_nsec UTIME_OMIT and UTIME_NOW included. Required. */
    int (*set_times)(SfsBacking *backing, const struct timespec times[2]);

    /* --- of views alone: NULL for others --- */

    /* Bytes that belong to this view alone. */
    uint64_t (*private_bytes)(SfsBacking *backing);

    /* The first range at or after @from, in whole pages below the size, that is the view's own:
     * [*first, *end). -ENXIO: there is none. */
    int (*changed)(SfsBacking *backing, off_t from, off_t *first, off_t *end);

    /* The same for where it is zeros without having bytes for that, and the base has bytes; of what
     * begins before @stop. NULL: there is no such place. */
    int (*hidden)(SfsBacking *backing, off_t from, off_t stop, off_t *first, off_t *end);

    /* Makes it as the base is now, which has @size bytes. */
    int (*reset)(SfsBacking *backing, off_t size);

    /* Makes the base as the view is. -ENOSPC before anything was done, where room can be had
     * beforehand; done again from its start
     * after a death in between, it ends the same. What was not written to meanwhile is no longer
     * the view's own then. @size: what it was found to have, or -1; -EAGAIN if it has another, or
     * gets one meanwhile: then part of it may be done. */
    int (*commit)(SfsBacking *backing, off_t size);

    /* What it is a view of, NULL: nothing. Borrowed. */
    SfsBacking *(*of)(SfsBacking *backing);

    /* The descriptor whose bytes are this backing's, at the same offsets, for as long as it lives:
     * the one for passthrough and splicing. NULL: there is none such. */
    int (*data_fd)(SfsBacking *backing);

    /* A descriptor of the file that advisory locks are taken on, the backing's own (it is opened
     * anew for each owner of locks); or a negative errno. Required. */
    int (*lock_fd)(SfsBacking *backing);

    /* Releases all; called once, by the last sfs_backing_unref(). Required. */
    void (*free)(SfsBacking *backing);
} SfsBackingOps;

struct SfsBacking {
    const SfsBackingOps *ops;
    gatomicrefcount refs;
    /* Of a view, held by whoever resets or commits it; of what it is a view of, inside that, by
     * whoever commits to it. Across I/O, on threads that may wait. */
    GMutex verbs;
};

static inline void
sfs_backing_init(SfsBacking *backing, const SfsBackingOps *ops)
{
    backing->ops = ops;
    g_atomic_ref_count_init(&backing->refs);
    g_mutex_init(&backing->verbs);
}

static inline SfsBacking *
sfs_backing_ref(SfsBacking *backing)
{
    if (backing != NULL)
        g_atomic_ref_count_inc(&backing->refs);
    return backing;
}

static inline void
sfs_backing_unref(SfsBacking *backing)
{
    if (backing != NULL && g_atomic_ref_count_dec(&backing->refs)) {
        g_mutex_clear(&backing->verbs);
        backing->ops->free(backing);
    }
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SfsBacking, sfs_backing_unref)

/* The descriptor of a backing's bytes, or -1. */
static inline int
sfs_backing_data_fd(SfsBacking *backing)
{
    return backing->ops->data_fd != NULL ? backing->ops->data_fd(backing) : -1;
}

/* Zeros over whatever data there is within [@from, @end), for where no hole can be punched or none
 * may be: memory that was there stays. 0 or a negative errno. */
int sfs_backing_write_zeros(SfsBacking *backing, off_t from, off_t end);

/* A new empty file of the store. As sfs_store_file_new(); its slot is for the node's record. */
int sfs_backing_page_new(SfsStore *store, SfsBacking **backing, uint32_t *fd_slot);

/* The one under a slot, after a worker's death. As sfs_store_file_adopt(). */
SfsBacking *sfs_backing_page_adopt(SfsStore *store, uint32_t fd_slot);

/* Takes over @fd, open on a real file. The caller has given a duplicate to the keeper under
 * @fd_slot, and takes it back itself. */
SfsBacking *sfs_backing_file_new(int fd);

/* The same for a part of it: @length bytes from @offset on, 0: to its end, now and later. Nothing
 * outside is reached, and the file is never shortened. */
SfsBacking *sfs_backing_window_new(int fd, off_t offset, off_t length);

/*
 * A private view of @base (a reference is taken; NULL: nothing but zeros). Of the view's record, at
 * @slot of the registry, it keeps size, base_limit, fd_slot and times from now on; they are to be
 * set to how it starts, the size to at most SFS_COW_SIZE_MAX. The record is released with the
 * backing, because whoever still works on that works on the record. Cannot fail: nothing is
 * allocated in the store before the first write.
 */
#define SFS_COW_SIZE_MAX ((off_t)1 << 62)
SfsBacking *sfs_backing_cow_new(SfsStore *store, SfsBacking *base, SfsRegistry *registry,
                                uint32_t slot);

/* The same of the record that a dead worker has left, with its overlay. NULL if it cannot be told
 * which pages are private. */
SfsBacking *sfs_backing_cow_adopt(SfsStore *store, SfsBacking *base, SfsRegistry *registry,
                                  uint32_t slot);

/*
 * A view with a file of its own, that is as the base was when it was made: as much of @base (NULL:
 * nothing) as the size in the view's record says, in a file of the store; or the unnamed file @fd,
 * taken over, that is such a copy already and of which the keeper has a duplicate under @fd_slot.
 * The times in the record are carried over. Both may block on the base. Negative errno, with
 * nothing changed: among others -ENOSPC.
 *
 * _keep() settles it: fd_slot is written to the record, which is released with the backing.
 */
int sfs_backing_copy_new(SfsStore *store, SfsBacking *base, SfsRegistry *registry, uint32_t slot,
                         SfsBacking **copy);
SfsBacking *sfs_backing_clone_new(int fd, int link, uint32_t fd_slot, SfsBacking *base,
                                  SfsRegistry *registry, uint32_t slot);
void sfs_backing_copy_keep(SfsBacking *copy, uint32_t slot);

/* For `commit` of those two (view-commit.c): makes @base as @view with the record @rec is, whose
 * own bytes are those that `changed` tells; @limit: from there on nothing else of the base is to be
 * left. */
int sfs_view_commit_bytes(SfsBacking *view, SfsBacking *base, SfsViewRec *rec, off_t limit,
                          off_t size);

/* The one that a dead worker has kept in the record; @link: to the keeper. */
SfsBacking *sfs_backing_copy_adopt(SfsStore *store, int link, SfsBacking *base,
                                   SfsRegistry *registry, uint32_t slot);
