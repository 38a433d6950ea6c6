/* SPDX-License-Identifier: MIT */
/*
 * Nodes: the files of every type, apart from their names (namespace.c) and from what sections may
 * do (section.c). This room gives them their identity, keeps each one's bytes with it, and frees it
 * when nobody can reach it any more.
 *
 * Identity. A nodeid, the kernel's handle on a file, is a class, a registry slot and a serial,
 * never a pointer. Serials of files are never given twice, so a nodeid never means another file
 * than it did. The class tells which of the trees it is seen through: as itself, or by .cow or
 * .info. A copy-on-write name, which that of a writecopy section is as well, gets a fresh serial
 * each time it is looked up, which is what makes each open of it private; it costs nothing until it
 * is opened. The root directory is slot 0 with serial 1, that is nodeid 1.
 *
 * Life. A node is freed when it has no name (nlink), no reference of the kernel (nlookup), no
 * handle (opens) and no pin. Each of these counts is lowered, and all are looked at, under the lock
 * of the node. Once nlink and nlookup are 0 nothing can raise a count again.
 *
 * Locks: one of a fixed set for each node, by slot; two nodes may have the same one, so nobody
 * holds two. It is taken after the namespace's lock, and protects all of SfsNodeRec but nlink,
 * parent and state, and the backing. It is not held across anything that blocks.
 */
#pragma once

#include "backing.h"
#include "mount.h"

typedef enum {
    SFS_CLASS_NODE = 0,
    SFS_CLASS_COW = 1,
    SFS_CLASS_INFO = 2,
    SFS_CLASS_STATS = 3, /* the one file .stats */
    SFS_CLASS_OWN = 4,   /* a writecopy section by its own name: what is opened is a view */
} SfsClass;

#define SFS_CLASS_SHIFT 61
#define SFS_SLOT_SHIFT (SFS_CLASS_SHIFT - SFS_NODE_SLOT_BITS)
#define SFS_SERIAL_MASK (((uint64_t)1 << SFS_SLOT_SHIFT) - 1)

/* What a look-up by name is of: see SFS_CLASS_OWN. */
static inline SfsClass
sfs_class_by_name(SfsClass class, const SfsNodeRec *rec)
{
    return class == SFS_CLASS_NODE && S_ISREG(rec->mode) && rec->protect == SFS_PROTECT_WRITECOPY
               ? SFS_CLASS_OWN
               : class;
}

#define SFS_ROOT_SLOT 0u
#define SFS_ROOT_SERIAL 1u

static inline uint64_t
sfs_nodeid(SfsClass class, uint32_t slot, uint64_t serial)
{
    return (uint64_t) class << SFS_CLASS_SHIFT | (uint64_t)slot << SFS_SLOT_SHIFT |
           (serial & SFS_SERIAL_MASK);
}

/* What a nodeid means. Pins the node where the kernel's reference does not keep it (classes other
 * than SFS_CLASS_NODE), hence to be cleared. */
typedef struct {
    SfsNodes *nodes; /* NULL: nothing to clear */
    SfsClass class;
    uint32_t slot;
    uint64_t nodeid;
    SfsNodeRec *rec; /* NULL for SFS_CLASS_STATS */
} SfsTarget;

void sfs_target_clear(SfsTarget *target);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SfsTarget, sfs_target_clear)

static inline bool
sfs_target_is_dir(const SfsTarget *target)
{
    return target->rec != NULL && S_ISDIR(target->rec->mode);
}

/* Named by itself, and not as seen through .cow or .info: what is done to it, is done to it. */
static inline bool
sfs_target_is_itself(const SfsTarget *target)
{
    return target->class == SFS_CLASS_NODE || target->class == SFS_CLASS_OWN;
}

/* Opening it makes a copy-on-write view, or joins one. */
static inline bool
sfs_target_is_view(const SfsTarget *target)
{
    return (target->class == SFS_CLASS_COW || target->class == SFS_CLASS_OWN) &&
           S_ISREG(target->rec->mode);
}

/* A section: what has bytes. */
static inline bool
sfs_target_is_section(const SfsTarget *target)
{
    return target->rec != NULL && S_ISREG(target->rec->mode);
}

SfsNodes *sfs_nodes_new(SfsRegistry *registry, int device, int link);
void sfs_nodes_free(SfsNodes *nodes);

/* 0, or -ESTALE for a nodeid that means nothing (any more). */
int sfs_node_resolve(SfsNodes *nodes, uint64_t nodeid, SfsTarget *target);

/* The same for a node at hand, of which the caller knows that it lives. A copy-on-write name gets a
 * fresh nodeid. */
void sfs_node_target(SfsNodes *nodes, uint32_t slot, SfsClass class, SfsTarget *target);

/* The same only to look at: no fresh nodeid. */
void sfs_node_peek(SfsNodes *nodes, uint32_t slot, SfsClass class, SfsTarget *target);

/* The inode number that users see: the serial of birth, distinct in each class. */
static inline uint64_t
sfs_node_ino(SfsClass class, const SfsNodeRec *rec)
{
    return (class == SFS_CLASS_OWN ? 0 : (uint64_t) class << SFS_SLOT_SHIFT) | rec->serial;
}

/* Which attributes to set. */
enum {
    SFS_SET_MODE = 1 << 0,
    SFS_SET_UID = 1 << 1,
    SFS_SET_GID = 1 << 2,
    SFS_SET_SIZE = 1 << 3,
    SFS_SET_ATIME = 1 << 4,
    SFS_SET_MTIME = 1 << 5,
    SFS_SET_ATIME_NOW = 1 << 6,
    SFS_SET_MTIME_NOW = 1 << 7,
};

typedef struct {
    uint32_t mode; /* type and permissions */
    uint32_t uid, gid;
    uint32_t rdev;
    const char *link_target; /* symbolic links */
} SfsNodeSpec;

/* A prepared node with one reference of the kernel; sfs_registry_publish() by whoever names it, or
 * sfs_node_abandon(). NULL: no room. */
SfsNodeRec *sfs_node_new(SfsNodes *nodes, const SfsNodeSpec *spec, uint32_t *slot);
void sfs_node_abandon(SfsNodes *nodes, uint32_t slot);

/* Makes the root directory, if the registry has none yet. */
void sfs_node_make_root(SfsNodes *nodes, const SfsConfig *config);

/* Counts a reference for the kernel, which sfs_node_forget() takes back. Only for what has a name,
 * with the namespace's lock held; nothing for the other classes, whose nodeids cost nothing. */
static inline void
sfs_node_reference(const SfsTarget *target)
{
    if (target->class == SFS_CLASS_NODE)
        atomic_fetch_add(&target->rec->nlookup, 1);
}

void sfs_node_lock(SfsNodes *nodes, uint32_t slot);
void sfs_node_unlock(SfsNodes *nodes, uint32_t slot);

/* Lower a count and free the node if that was the last. */
void sfs_node_forget(SfsNodes *nodes, uint32_t slot, uint64_t nlookup);
void sfs_node_unpin(SfsNodes *nodes, uint32_t slot);
/* Node's nlink has become 0 (or was lowered). Namespace's lock held. */
void sfs_node_unlinked(SfsNodes *nodes, uint32_t slot);

/* The same for a caller that has the node locked and has lowered a count. */
void sfs_node_unlock_and_collect(SfsNodes *nodes, uint32_t slot);

void sfs_node_pin(SfsNodes *nodes, uint32_t slot);

/* The backing, with a reference for the caller; NULL: it has no bytes yet. */
SfsBacking *sfs_node_backing(SfsNodes *nodes, uint32_t slot);

/* The same with the node locked, and without a reference. */
SfsBacking *sfs_node_backing_locked(SfsNodes *nodes, uint32_t slot);

/* Gives it a backing (taken over) whose descriptor the keeper has under @fd_slot. Locked. The
 * former one is returned, for the caller to unref after unlocking; its slot has been dropped from
 * the record, its backing id withdrawn. */
SfsBacking *sfs_node_set_backing(SfsNodes *nodes, uint32_t slot, SfsBacking *backing,
                                 uint32_t fd_slot);

/* The same in memory alone, for whoever writes the record himself. Locked. */
SfsBacking *sfs_node_swap_backing(SfsNodes *nodes, uint32_t slot, SfsBacking *backing);

/* Withdrawing a backing id takes two steps, for the record must not name one that is withdrawn: the
 * first before the record is cleared of it, the second after. @id 0: nothing to do. */
_Atomic int32_t *sfs_node_begin_withdrawal(SfsNodes *nodes, int32_t id);
void sfs_node_end_withdrawal(SfsNodes *nodes, _Atomic int32_t *withdrawal);

/* --- going on after a worker's death: see resume.c ------------------------------------------- */

/* What @nlookup says of nodes that it is called for may be too much: what the kernel gives up while
 * nobody serves is not heard. @ask is called when that would keep a node alive for ever. */
typedef void (*SfsDoubtFunc)(uint32_t slot, void *data);
void sfs_nodes_doubt(SfsNodes *nodes, SfsDoubtFunc ask, void *data);
void sfs_node_doubt(SfsNodes *nodes, uint32_t slot);

/* The kernel was asked, and has no such node. */
void sfs_node_forgotten(SfsNodes *nodes, uint32_t slot);

/* Sets atime to now if that is due, as relatime has it. Not locked. */
void sfs_node_accessed(SfsNodes *nodes, uint32_t slot);

/* Sets ctime, and mtime as well with @modified, to now. Not locked. */
void sfs_node_touch(SfsNodes *nodes, uint32_t slot, bool modified);
