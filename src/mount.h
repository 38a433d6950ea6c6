/* SPDX-License-Identifier: MIT */
/* One worker's view of the mount it serves: the rooms that the operations work with. Made by
 * worker.c before the first request, constant afterwards (what the rooms hold is theirs to
 * protect). */
#pragma once

#include "common.h"
#include "registry.h"

typedef struct SfsStore SfsStore;
typedef struct SfsNodes SfsNodes;
typedef struct SfsNamespace SfsNamespace;
typedef struct SfsSections SfsSections;
typedef struct SfsViews SfsViews;
typedef struct SfsLifetimes SfsLifetimes;
typedef struct SfsLocks SfsLocks;
typedef struct SfsDeferral SfsDeferral;
typedef struct SfsRequests SfsRequests;
typedef struct SfsDoubt SfsDoubt;

typedef struct {
    SfsRegistry *registry;
    SfsRegistryHeader *header; /* of the registry */
    int device;                /* /dev/fuse */
    int link;                  /* to the keeper */
    bool direct_mmap;          /* the kernel maps files that are open for direct I/O */
    SfsStore *store;
    SfsNodes *nodes;
    SfsNamespace *names;
    SfsSections *sections;
    SfsViews *views;
    SfsLifetimes *lifetimes;
    SfsLocks *locks;
    SfsRequests *requests;
    SfsDoubt *doubt; /* NULL: no worker has died yet */
    struct fuse_session *session;
    SfsDeferral *deferral;
} SfsMount;
