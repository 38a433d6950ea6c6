/* SPDX-License-Identifier: MIT */
/*
 * The socket between keeper and worker: what the worker tells, the keeper does. It runs one way and
 * is never answered: a message that was sent is in the keeper's hands even when the worker dies in
 * the next instruction, because the keeper empties the socket before it starts another worker.
 * A descriptor therefore is safe as soon as sfs_link_put() returns, which must be before the reply
 * of the request that made it.
 */
#pragma once

#include "common.h"
#include "registry.h"

/* Descriptors that keeper and worker have at the same numbers, by inheritance. Those of the store
 * are at whatever numbers above them the keeper got. */
enum {
    SFS_FD_DEVICE = 3, /* /dev/fuse, connected */
    SFS_FD_REGISTRY = 4,
    SFS_FD_LINK = 5,    /* the worker's end of this socket */
    SFS_FD_STORE = 6,   /* the private tmpfs, where there is one */
    SFS_FD_SESSION = 7, /* the worker's own: what libfuse takes for the device */
    SFS_FD_LIFE = 8,    /* a socket on which nothing is said, see keeper.c */
    SFS_FD_FIRST_FREE = 9,
};

typedef enum {
    SFS_LINK_PUT = 1, /* keep the descriptor that comes along, under this slot */
    SFS_LINK_DROP,    /* close the one under this slot */
    SFS_LINK_READY,   /* the mount answers */
} SfsLinkVerb;

typedef struct {
    uint32_t verb;
    uint32_t slot; /* of SFS_TABLE_FDS */
} SfsLinkMessage;

/* Worker's side. Thread-safe; 0 or a negative errno (-EPIPE: the keeper is gone). May wait for the
 * keeper to make room in the socket, and for nothing else. */

/* Gives the keeper a duplicate of @fd under a slot of the descriptor table, which is the caller's
 * until sfs_link_drop(). -ENFILE when the table is full. */
int sfs_link_put(int link, SfsRegistry *registry, int fd, uint32_t *slot);

/* Has the keeper close the one under @slot, and frees the slot. */
void sfs_link_drop(int link, SfsRegistry *registry, uint32_t slot);

/* The number at which a worker has inherited the descriptor under @slot; -1: there is none. */
int sfs_link_inherited(SfsRegistry *registry, uint32_t slot);

/* Tells that the mount answers. */
int sfs_link_ready(int link);

/* Keeper's side. One message, with the descriptor that came along in @fd (-1: none; the caller's,
 * without close-on-exec, for workers inherit it). 1, 0 when there is none at present or the worker
 * is gone (*@eof), or a negative errno. */
int sfs_link_receive(int link, SfsLinkMessage *message, int *fd, bool *eof);
