/* SPDX-License-Identifier: MIT */
/*
 * The store: anonymous, swap-backed files, for the bytes of page sections and for the private pages
 * of copy-on-write views. Nothing in it ever has a name or reaches a disk other than as swap.
 *
 * The limit (`size=`) holds for all of it together. How it is enforced depends on who sees the
 * writes:
 *  - Page sections in passthrough mode are written without the daemon's knowledge, so they are
 *    unnamed files of a private, never attached tmpfs, and the kernel refuses what does not fit.
 *  - Without passthrough every write passes here: page sections are memfds and are counted.
 *  - Overlays are always counted memfds, because a mapped page that was already stored to must be
 *    accepted even above the limit (@force below): its writer can no longer be told.
 * Where both kinds exist, what the overlays use is taken off the tmpfs's own size (in steps, see
 * store.c), so that the sum keeps the limit.
 *
 * Ownership: the keeper holds a duplicate of every descriptor made here, and holds it before the
 * constructor returns. All functions are thread-safe.
 */
#pragma once

#include "common.h"
#include "registry.h"

typedef struct SfsStore SfsStore;
typedef struct SfsStoreFile SfsStoreFile;

typedef enum {
    SFS_STORE_SECTION,
    SFS_STORE_OVERLAY,
} SfsStoreUse;

/* Makes the private tmpfs and returns its descriptor; -1 and @error where this process may not.
 * @limit in bytes, 0: none; @no_atime: reading leaves no trace. Keeper only. */
int sfs_store_make_tmpfs(uint64_t limit, bool no_atime, GError **error);

/* @tmpfs: descriptor of the private tmpfs, not taken over; -1: count memfds. @link: to the keeper.
 */
SfsStore *sfs_store_new(SfsRegistry *registry, int link, int tmpfs, uint64_t limit);
void sfs_store_free(SfsStore *store);

/* Bytes: the limit (0: none), what is used of it by all, and by overlays alone. */
typedef struct {
    uint64_t limit, used, overlays;
} SfsStoreUsage;
void sfs_store_usage(SfsStore *store, SfsStoreUsage *usage);
const char *sfs_store_engine(const SfsStore *store); /* "tmpfs" or "memfd" */

/* A new empty file. 0, -ENFILE (no more descriptors), -ENOMEM. */
int sfs_store_file_new(SfsStore *store, SfsStoreUse use, SfsStoreFile **file);

/* After a worker's death: the file under a slot of the descriptor table, at the number that the
 * keeper has it at. All of them before anything else is done with the store, then
 * sfs_store_adopted(). */
SfsStoreFile *sfs_store_file_adopt(SfsStore *store, SfsStoreUse use, uint32_t slot);
void sfs_store_adopted(SfsStore *store);

/* Closes it here and at the keeper: its pages go once no mapping is left. The closing happens on a
 * thread of its own, for it takes long where there is much to give back. */
void sfs_store_file_free(SfsStoreFile *file);

int sfs_store_file_fd(const SfsStoreFile *file);
uint32_t sfs_store_file_slot(const SfsStoreFile *file);

/* As pwrite(2): bytes written, short where only part of it fits into the limit, or -ENOSPC when
 * nothing does. @force: accept it above the limit; what is beyond the end of a section's file is
 * left out then, and counts as written (SFS_WRITE_BACK). */
ssize_t sfs_store_file_write(SfsStoreFile *file, const void *buf, size_t size, off_t offset,
                             bool force);

/* The same of bytes that a pipe has. */
ssize_t sfs_store_file_splice(SfsStoreFile *file, int pipe, size_t size, off_t offset, bool force);

/* As ftruncate(2) and fallocate(2); 0 or a negative errno. */
int sfs_store_file_truncate(SfsStoreFile *file, off_t size);
int sfs_store_file_allocate(SfsStoreFile *file, int mode, off_t offset, off_t length);
