/* SPDX-License-Identifier: MIT */
/*
 * Going on where another worker was ended: the worker's half. In these steps, all of them on the
 * main thread, before there is another:
 *  1. the kernel is told to send again what it has no answer to, and all of that is read;
 *  2. libfuse is given the bytes of the kernel's INIT, and its answer is thrown away (worker.c);
 *  3. the rooms take up what the registry and the keeper hold: bytes, views, handles, locks. What
 *     only half came into being is undone, what can be derived is derived;
 *  4. the requests are served: first those that came again, in their order.
 *
 * A request that was being worked on when a worker failed (by itself: being killed proves nothing)
 * is suspect from then on. Suspects are served one after the other, on the main thread, so
 * that the next failure tells which it was; after SFS_DEATHS_MAX of them it is answered with EIO.
 */
#pragma once

#include "mount.h"

#include <fuse_lowlevel.h>

#define SFS_DEATHS_MAX 3

typedef struct SfsResume SfsResume;

/* Step 1; NULL: no worker was here before, there is nothing to go on with. *@ended: there is no
 * mount any more. */
SfsResume *sfs_resume_read(SfsMount *mount, bool *ended);
void sfs_resume_free(SfsResume *resume);

/* Whether the kernel still waits for the answer to INIT. It is then the only request. */
bool sfs_resume_has_init(const SfsResume *resume);

/* Step 3. After INIT. False: that cannot be, and startup_error says why: bytes that
 * cannot be found again, for one. */
bool sfs_resume_adopt(SfsResume *resume, SfsMount *mount);

/* Step 4: the next request to serve, its mem to be freed with g_free(); false: none. @suspect: of
 * those. Thread-safe. */
bool sfs_resume_next(SfsResume *resume, bool suspect, struct fuse_buf *buf);
