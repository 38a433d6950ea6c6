/* SPDX-License-Identifier: MIT */
/*
 * Telling when somebody else lets go of a file of the store, or of a real file.
 *
 * In passthrough the kernel releases a handle while its own backing file may still be open: for a
 * moment, or as long as a mapping made through it lives. sfs_passthrough_sole_user() says whether
 * it is; this room says when to ask again. It is told by the kernel (inotify), it does not poll.
 */
#pragma once

#include "common.h"

typedef struct SfsWatch SfsWatch;

/* Called on the watch's own thread: the file of this slot was closed by somebody, who need not have
 * been the last one, or sfs_watch_later() asked for it. False: look again. That is done after
 * 2, 4, 8, … ms, with @looks counting up, until SFS_WATCH_LOOKS; for the kernel tells of a close a
 * moment before it counts it. */
typedef bool (*SfsWatchFunc)(uint32_t slot, unsigned looks, void *data);
#define SFS_WATCH_LOOKS 11 /* two seconds in all */

/* Where the kernel gives no inotify instance, it is looked by the clock instead, for as long as it
 * takes. */
SfsWatch *sfs_watch_new(SfsWatchFunc look, void *data);
void sfs_watch_free(SfsWatch *watch);

/* From now on the next close of the file behind @fd has @slot looked at. What was closed before is
 * for the caller to look at after this, not before. Thread-safe; does not block. */
void sfs_watch_add(SfsWatch *watch, int fd, uint32_t slot);

/* Has @slot looked at in a moment. Thread-safe; does not block. */
void sfs_watch_later(SfsWatch *watch, uint32_t slot);
