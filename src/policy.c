/* SPDX-License-Identifier: MIT */
#include "policy.h"

#include "util.h"

#include <string.h>

static const struct {
    const char *name;
    const char *values[4]; /* by enum; none: a size in bytes */
    size_t at;             /* of the enum's byte in SfsPolicy */
    const char *allowed;
} table[SFS_POLICIES] = {
    [SFS_POLICY_LIFETIME] = {"lifetime",
                             {"permanent", "temporary"},
                             offsetof(SfsPolicy, lifetime),
                             "permanent and temporary are allowed"},
    [SFS_POLICY_COMMIT] = {"commit",
                           {"reserve", "commit"},
                           offsetof(SfsPolicy, commit),
                           "reserve and commit are allowed"},
    [SFS_POLICY_RESIZE] = {"resize",
                           {"free", "grow", "fixed"},
                           offsetof(SfsPolicy, resize),
                           "free, grow and fixed are allowed"},
    [SFS_POLICY_DELETE] = {"delete",
                           {"posix", "busy"},
                           offsetof(SfsPolicy, delete),
                           "posix and busy are allowed"},
    [SFS_POLICY_LIMIT] = {"limit",
                          {NULL},
                          0,
                          "a size such as 1073741824 or 512M is allowed (0: no limit)"},
};

const SfsPolicy sfs_policy_nt = {
    .lifetime = SFS_TEMPORARY,
    .commit = SFS_COMMITTED,
    .resize = SFS_RESIZE_GROW,
    .delete = SFS_DELETE_BUSY,
};

bool
sfs_policy_find(const char *name, SfsPolicyKey *key)
{
    for (*key = 0; *key < SFS_POLICIES; (*key)++) {
        if (strcmp(name, table[*key].name) == 0)
            return true;
    }
    return false;
}

const char *
sfs_policy_values(SfsPolicyKey key)
{
    return table[key].allowed;
}

int
sfs_policy_parse(SfsPolicy *policy, SfsPolicyKey key, const char *text)
{
    if (key == SFS_POLICY_LIMIT)
        return sfs_parse_size(text, &policy->limit) < 0 ? -EINVAL : 0;
    for (uint8_t i = 0; table[key].values[i] != NULL; i++) {
        if (strcmp(text, table[key].values[i]) == 0) {
            *((uint8_t *)policy + table[key].at) = i;
            return 0;
        }
    }
    return -EINVAL;
}

void
sfs_policy_print(const SfsPolicy *policy, SfsPolicyKey key, GString *text)
{
    if (key == SFS_POLICY_LIMIT)
        g_string_append_printf(text, "%" PRIu64, policy->limit);
    else
        g_string_append(text, table[key].values[*((const uint8_t *)policy + table[key].at)]);
}
