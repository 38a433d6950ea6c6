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

/* Called on the watch's own thread, once for each sfs_watch_add(), after the file was closed by
 * somebody; that need not have been the last one. */
typedef void (*SfsWatchFunc)(uint32_t slot, void *data);

/* NULL where the kernel gives no inotify instance; the functions below then do nothing. */
SfsWatch *sfs_watch_new(SfsWatchFunc closed, void *data);
void sfs_watch_free(SfsWatch *watch);

/* From now on the next close of the file behind @fd calls back with @slot. What was closed before
 * is for the caller to look at after this, not before. Thread-safe; does not block. */
void sfs_watch_add(SfsWatch *watch, int fd, uint32_t slot);
