/* SPDX-License-Identifier: MIT */
/*
 * The names of a mount, as they are found: by directory and name, by directory in the order of
 * their readdir offsets, and by what they name. Only an index over records of the registry, made
 * anew by each worker. Not thread-safe: the namespace's lock protects it, and whatever it hands
 * out.
 */
#pragma once

#include "common.h"
#include "registry.h"

/* One name. Its text lies in the record where that has room for it, else in memory of its own. */
typedef struct SfsName {
    SfsDirentRec *rec;
    uint32_t slot;   /* of the record */
    uint32_t parent; /* slot of the directory */
    uint32_t length; /* bytes of the name, which no NUL need follow */
    const char *name;
    struct SfsName *next;  /* another name of the same node */
    struct SfsName **link; /* where this one is found in that list: there may be very many */
} SfsName;

typedef struct SfsNameIndex SfsNameIndex;

SfsNameIndex *sfs_name_index_new(SfsRegistry *registry);
void sfs_name_index_free(SfsNameIndex *index);

/* Takes in the record at @slot; and takes a name out, and frees it. */
void sfs_name_index_add(SfsNameIndex *index, SfsDirentRec *rec, uint32_t slot);
void sfs_name_index_remove(SfsNameIndex *index, SfsName *name);

/* NULL: there is none. */
SfsName *sfs_name_index_find(SfsNameIndex *index, uint32_t dir, const char *name);

/* The names of a node, the first of a list; NULL: it has none. */
SfsName *sfs_name_index_of(SfsNameIndex *index, uint32_t node);

/* The names in a directory: readdir offset (a pointer to one) → SfsName; NULL: it is empty. */
GTree *sfs_name_index_dir(SfsNameIndex *index, uint32_t dir);
