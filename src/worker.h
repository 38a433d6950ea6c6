/* SPDX-License-Identifier: MIT */
/*
 * The worker: the process that serves FUSE. The keeper starts it, with the descriptors that
 * keeper-link.h names and everything else to be found in the registry.
 */
#pragma once

/* Whether this program can go on with the registry of the keeper that starts it so: 0 or 1. */
int sfs_worker_check(void);

/* Serves until the filesystem is unmounted. The process's exit status: 0 then, 1 when it could not
 * start (the registry's startup_error says why). Anything else is a death. */
int sfs_worker_main(void);
