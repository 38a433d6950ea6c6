/* SPDX-License-Identifier: MIT */
/*
 * Telling when somebody else lets go of a file of the store.
 *
 * In passthrough the kernel releases a handle while its own backing file may still be open: for a
 * moment, or as long as a mapping made through it lives. sfs_passthrough_sole_user() says whether
 * it is; this room says when to ask again. It is told by the kernel (inotify), it never polls.
 */
#pragma once

#include "common.h"

typedef struct SfsWatch SfsWatch;

/* Called on the watch's own thread after the file was closed by somebody, who need not have been
 * the last one. False: it still has other users. The kernel tells of a close a moment before it
 * counts it, so then it is called again a few times within some milliseconds; after that, only for
 * another sfs_watch_add(). */
typedef bool (*SfsWatchFunc)(uint32_t slot, void *data);

/* NULL where the kernel gives no inotify instance; the functions below then do nothing. */
SfsWatch *sfs_watch_new(SfsWatchFunc closed, void *data);
void sfs_watch_free(SfsWatch *watch);

/* From now on the next close of the file behind @fd calls back with @slot. What was closed before
 * is for the caller to look at after this, not before. Thread-safe; does not block. */
void sfs_watch_add(SfsWatch *watch, int fd, uint32_t slot);
