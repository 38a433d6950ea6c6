/* SPDX-License-Identifier: MIT */
/*
 * What the kernel may have given up without being heard.
 *
 * FORGET is never answered, so one that a dying worker had read is lost; a reference that it
 * counted for an answer it never gave is counted again; and a process that is killed in the moment
 * in which its request waits to be read for a second time takes it back. So after a death the
 * registry may hold nodes and handles that the kernel has not. It never lacks any that the kernel
 * has.
 *
 * The kernel can be asked: it says whether it has an inode of a nodeid. It has one as long as
 * anything of it is open or named. Asking is done on a thread of its own, for the answer may wait
 * for this mount; and not of what is younger than a few seconds, because the process that was told
 * of it may not have been running since.
 */
#pragma once

#include "mount.h"
#include "node.h"

/* Begins to look after the nodes for which sfs_node_doubt() was called. @requests: the numbers
 * (uint64_t) of those that were under way and did not come again; of the handles that they made it
 * is not known whether the kernel has them. */
SfsDoubt *sfs_doubt_new(SfsMount *mount, GHashTable *requests);
void sfs_doubt_free(SfsDoubt *doubt);
