/* SPDX-License-Identifier: MIT */
/*
 * Names: directories and what they hold. Knows nothing of bytes.
 *
 * The names themselves are in the registry; here is the index over them: one hash table of all
 * names by directory, and for each directory a tree by readdir offset. Offsets are never used
 * twice, so an entry that stays is listed exactly once, whatever comes and goes meanwhile.
 *
 * One lock (readers: lookup and readdir; writers: all that changes names) protects the index, the
 * directory entries, and nlink and parent of the nodes. It is held for memory operations only.
 *
 * All functions are thread-safe and return 0 or a negative errno: -ENOENT, -EEXIST, -ENOTDIR,
 * -EISDIR, -ENOTEMPTY, -ENAMETOOLONG, -ENOSPC (number of sections), -EINVAL, and -EBUSY for the
 * reserved names of the root. Who may change what was checked by the kernel (default_permissions).
 */
#pragma once

#include "node.h"

SfsNamespace *sfs_namespace_new(SfsRegistry *registry, SfsNodes *nodes, uint64_t nr_sections);
void sfs_namespace_free(SfsNamespace *names);

/* What @name in @dir is, in the class of @dir: the reserved names of the root lead to the others.
 * A reference of the kernel is counted (for SFS_CLASS_NODE), which sfs_node_forget() takes back. */
int sfs_namespace_lookup(SfsNamespace *names, const SfsTarget *dir, const char *name,
                         SfsTarget *child);

/* A new node with this name. The group and the set-group-id bit are inherited from a directory that
 * has that bit, as everywhere. @child as by lookup. */
int sfs_namespace_create(SfsNamespace *names, const SfsTarget *dir, const char *name,
                         const SfsNodeSpec *spec, SfsTarget *child);

/* The same without a name, until sfs_namespace_link() gives it one. */
int sfs_namespace_create_unnamed(SfsNamespace *names, const SfsTarget *dir, const SfsNodeSpec *spec,
                                 SfsTarget *child);

int sfs_namespace_link(SfsNamespace *names, const SfsTarget *node, const SfsTarget *dir,
                       const char *name);
int sfs_namespace_unlink(SfsNamespace *names, const SfsTarget *dir, const char *name);
int sfs_namespace_rmdir(SfsNamespace *names, const SfsTarget *dir, const char *name);

/* @flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE. */
int sfs_namespace_rename(SfsNamespace *names, const SfsTarget *dir, const char *name,
                         const SfsTarget *new_dir, const char *new_name, unsigned flags);

/* Calls @each for the entries of @dir that come after @offset (0: from the start), "." and ".."
 * first, until it returns false. @next is the offset to go on from. Called with the lock held: it
 * must neither call back nor block. An entry that it hands to the kernel as looked up, it counts by
 * sfs_node_reference(). */
typedef bool (*SfsEachEntry)(const char *name, const SfsTarget *child, uint64_t next, void *data);
int sfs_namespace_list(SfsNamespace *names, const SfsTarget *dir, uint64_t offset,
                       SfsEachEntry each, void *data);

/* Calls @each for every name of the node, with the nodeids of the directory it is in and of the
 * node itself; without the lock held. */
typedef void (*SfsEachName)(uint64_t dir_nodeid, const char *name, uint64_t nodeid, void *data);
void sfs_namespace_each_name(SfsNamespace *names, uint32_t slot, SfsEachName each, void *data);

/* Takes all names of a section away that is doomed (SfsNodeRec), and has @each tell the kernel,
 * which ends with sfs_namespace_told() for that @entry. */
typedef void (*SfsGoneName)(uint64_t dir_nodeid, const char *name, uint64_t nodeid, uint32_t entry,
                            void *data);
void sfs_namespace_remove_all(SfsNamespace *names, uint32_t slot, SfsGoneName each, void *data);
void sfs_namespace_told(SfsNamespace *names, uint32_t entry);

/* Has @each tell what a dead worker has not told any more. Before there are threads. */
void sfs_namespace_tell_again(SfsNamespace *names, SfsGoneName each, void *data);

/* The node that the name leads to; only to look at, for it may be gone by now. */
bool sfs_namespace_find(SfsNamespace *names, const SfsTarget *dir, const char *name,
                        uint32_t *slot);

/* Who is asked before the name of anything but a directory is taken away by unlink or rename: 0, or
 * the error for that. Called with the lock held: it must neither call back nor block. */
typedef int (*SfsMayRemove)(uint32_t slot, void *data);
void sfs_namespace_guard(SfsNamespace *names, SfsMayRemove may_remove, void *data);
