/* SPDX-License-Identifier: MIT */
/* The command line of sectionfs, as mount(8), fstab and people write it. */
#pragma once

#include "common.h"

typedef enum {
    SFS_RUN_MOUNT,
    SFS_RUN_HELP,    /* the text was printed */
    SFS_RUN_VERSION, /* the same */
} SfsRun;

/* Fills @config from `sectionfs [SOURCE] MOUNTPOINT [-f] [-d] [-o OPT,…]`. FALSE and one sentence
 * in
 * @error that names the option or argument and what is allowed. Looks at nothing but the command
 * line, the user running it and the amount of memory; the mountpoint is looked at by the keeper. */
gboolean sfs_options_parse(int argc, char **argv, SfsConfig *config, SfsRun *run, GError **error);
