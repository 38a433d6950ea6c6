/* SPDX-License-Identifier: MIT */
/*
 * The keeper: the process that mounts, holds every descriptor that must outlive a worker, watches
 * over the worker, and unmounts. It parses nothing that a client sends.
 */
#pragma once

#include "common.h"

/* Called once, when the mount answers. */
typedef void (*SfsReadyFunc)(void *data);

/* Mounts and serves until the end of the mount. TRUE: it ended as it should; FALSE and one sentence
 * in
 * @error when it could not start, or its worker died. Takes the signals of the process over.
 * @keep_fd: a descriptor of the caller's to leave open, or -1; all others but 0 to 2 are closed. */
gboolean sfs_keeper_run(SfsConfig *config, int keep_fd, SfsReadyFunc ready, void *data,
                        GError **error);
