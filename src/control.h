/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes: the control interface `user.section.KEY`, and the plain ones, which are
 * stored for whoever set them. One table in control.c is all there is to say about the keys.
 *
 * All functions return 0 or a negative errno: -ENODATA (no such attribute, or key without a value
 * here), -EINVAL (unknown key, malformed value), -EPERM (not the owner, or it cannot be removed),
 * -EROFS (seen through .cow or .info), -EEXIST, -ENOSPC, -EOPNOTSUPP (a namespace or value that is
 * not supported), and what section.h says of the keys that define a section. Thread-safe.
 */
#pragma once

#include "caller.h"
#include "defer.h"
#include "mount.h"
#include "node.h"

/* Whether setting this attribute, or getting it, may have to wait; and for what. */
bool sfs_control_waits(const char *name, bool set, SfsWaitFor *what);

/* Whether the section's names mean another nodeid once this attribute was set. */
bool sfs_control_renews(const char *name);

/* @value: g_string_free() by the caller on success. */
int sfs_control_get(SfsMount *mount, const SfsTarget *target, const char *name, GString **value);
int sfs_control_set(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                    const char *name, const void *value, size_t size, int flags);
int sfs_control_remove(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                       const char *name);

/* All names, each with its NUL, as listxattr(2) gives them. */
GString *sfs_control_list(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller);

/* Appends "key: value" lines of all keys that have a value. */
void sfs_control_describe(SfsMount *mount, const SfsTarget *target, GString *text);
