/* SPDX-License-Identifier: MIT */
/*
 * Plain extended attributes, which are stored for whoever set them: those of the namespaces user,
 * trusted and security. POSIX ACLs ("system.") would have to be interpreted, and are not.
 *
 * Functions return 0 or a negative errno: -ENODATA, -EEXIST, -ENOSPC (256 KiB a file, or the
 * mount's limit), -EINVAL (a name without a name), -EOPNOTSUPP (another namespace). Thread-safe.
 */
#pragma once

#include "mount.h"
#include "node.h"

/* @value: g_string_free() by the caller on success. Seen through .cow or .info a file has no
 * capabilities: what is run there is not what was given them. */
int sfs_xattr_get(SfsMount *mount, const SfsTarget *target, const char *name, GString **value);

/* @flags: of setxattr(2). */
int sfs_xattr_set(SfsMount *mount, const SfsTarget *target, const char *name, const void *value,
                  size_t size, int flags);
int sfs_xattr_remove(SfsMount *mount, const SfsTarget *target, const char *name);

/* Appends all names, each with its NUL. Those of trusted only with @trusted. */
void sfs_xattr_list(SfsMount *mount, const SfsTarget *target, bool trusted, GString *list);

/* Capabilities that a program gets when the file is run. */
#define SFS_XATTR_CAPABILITY "security.capability"
bool sfs_xattr_has_capability(SfsMount *mount, const SfsTarget *target);
