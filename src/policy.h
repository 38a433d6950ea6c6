/* SPDX-License-Identifier: MIT */
/*
 * The policies that a section has and a directory hands down: their names, values and how they are
 * stored. What they mean is section.c's. One table in policy.c is all there is to say of each;
 * mount options, attributes and the list of sections are read with it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    SFS_PERMANENT = 0, /* stays until it is unlinked */
    SFS_TEMPORARY = 1, /* goes with its last user */
} SfsLifetime;

typedef enum {
    SFS_RESERVE = 0,   /* memory is taken when it is first touched */
    SFS_COMMITTED = 1, /* memory is taken when the section grows */
} SfsCommit;

typedef enum {
    SFS_RESIZE_FREE = 0,
    SFS_RESIZE_GROW = 1,  /* not to be shortened while others use it */
    SFS_RESIZE_FIXED = 2, /* the size it has is the one it keeps */
} SfsResize;

typedef enum {
    SFS_DELETE_POSIX = 0,
    SFS_DELETE_BUSY = 1, /* not to be unlinked while it is in use */
} SfsDelete;

/* Plain data: part of records and of the configuration. */
typedef struct {
    uint64_t limit;                           /* bytes it may grow to, 0: no limit */
    uint8_t lifetime, commit, resize, delete; /* the enums above */
    uint32_t reserved;
} SfsPolicy;

typedef enum {
    SFS_POLICY_LIFETIME,
    SFS_POLICY_COMMIT,
    SFS_POLICY_RESIZE,
    SFS_POLICY_DELETE,
    SFS_POLICY_LIMIT,
    SFS_POLICIES,
} SfsPolicyKey;

/* As Windows NT has them: temporary, committed, growing only, not deleted while in use. */
extern const SfsPolicy sfs_policy_nt;

bool sfs_policy_find(const char *name, SfsPolicyKey *key);

/* The values allowed, for people. */
const char *sfs_policy_values(SfsPolicyKey key);

/* Sets one of them from text; -EINVAL: not a value of it. */
int sfs_policy_parse(SfsPolicy *policy, SfsPolicyKey key, const char *text);
void sfs_policy_print(const SfsPolicy *policy, SfsPolicyKey key, GString *text);
