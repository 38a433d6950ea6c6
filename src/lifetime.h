/* SPDX-License-Identifier: MIT */
/*
 * How long a section lasts: telling when nobody uses it any more, and what happens then.
 *
 * A section is in use while it has a handle, or a view over it has one, or somebody has it mapped.
 * A mapping outlives its handle only in passthrough (elsewhere the kernel releases a handle after
 * the last mapping made through it). Then it keeps the backing file open, which shows in
 * sfs_passthrough_sole_user(); and the kernel tells when it goes (watch.h). Only of a real file,
 * which others may have open as well, that says too little: there /proc is asked (holders.h).
 *
 * With its last user
 *  - a temporary section that was opened by its name is destroyed: from one instant on, under the
 *    lock of its node, it cannot be opened any more (-ESTALE, at which the kernel looks the name up
 *    again) and its names lead nowhere; then they are removed, and the kernel is told. Somebody who
 *    has just looked its name up, and so may be about to open it, has that put off for a moment;
 *  - an empty page section gives its file of the store back.
 *
 * All functions are thread-safe.
 */
#pragma once

#include "mount.h"
#include "node.h"

SfsLifetimes *sfs_lifetimes_new(SfsMount *mount);
/* False: something is still under way that waits for others, and uses the rooms. Else it is freed.
 */
bool sfs_lifetimes_free(SfsLifetimes *lifetimes);

/* A handle of the section, or of a view over it, was released. (@nodeid: that it was opened by;
 * @native: it could write past the daemon.) */
void sfs_lifetime_closed(SfsMount *mount, uint32_t slot, uint64_t nodeid, bool native);
void sfs_lifetime_view_closed(SfsMount *mount, uint32_t slot);

/* Its policy has changed: perhaps it is at its end already. */
void sfs_lifetime_changed(SfsMount *mount, uint32_t slot);

/* A worker has died in the meantime: what was under way of that is done to its end. First what was
 * not told, then for each section. */
void sfs_lifetime_tell_again(SfsMount *mount);
void sfs_lifetime_resume(SfsMount *mount, uint32_t slot);

/* Its names mean another nodeid now: has the kernel look them up anew, and waits until it knows.
 * Only for a moment, though. The kernel takes the lock of the directory for that; whoever holds it
 * may wait for the section's own, which is held by the request that this is done for. A name that
 * the kernel remembers too long is found out when it is opened (-ESTALE). */
void sfs_lifetime_renewed(SfsMount *mount, uint32_t slot);

/* Its name was looked up. False: too late, it is at its end. */
bool sfs_lifetime_looked_up(SfsMount *mount, const SfsTarget *target);

/* 0, or -EAGAIN while it is in use, as far as can be told without waiting. */
int sfs_lifetime_check_unused(SfsMount *mount, uint32_t slot);
/* The same, with its node locked. */
int sfs_lifetime_check_unused_locked(SfsMount *mount, uint32_t slot);

/* For threads that may wait: a close is told of a moment after it was done, so whoever is refused
 * because of one may have it tried again. Waits until some handle is released, and looks in /proc
 * whether the section is still mapped. False: it is @deadline (monotonic µs), which should be
 * sfs_lifetime_patience() from the first try. */
bool sfs_lifetime_wait(SfsMount *mount, uint32_t slot, gint64 deadline);
gint64 sfs_lifetime_patience(void);

/* Whether it is in use, by a handle, a view or a mapping: for threads that may wait. */
bool sfs_lifetime_is_used(SfsMount *mount, uint32_t slot);

/* Whether anybody has it mapped, from /proc: for threads that may wait. */
bool sfs_lifetime_is_mapped(SfsMount *mount, const SfsTarget *target);
