/* SPDX-License-Identifier: MIT */
/* What can be asked of a connection to the kernel beside the connection itself, by the number of
 * its device. Only the keeper does. */
#pragma once

#include "common.h"

/* The kernel lets a FUSE filesystem have but one hundredth of the dirty pages that others may have,
 * and makes who stores to mappings wait for the daemon beyond that. Here what is dirty is memory
 * before and after. Only root may say so; for others it stays as it is. */
void sfs_connection_loosen_write_back(dev_t device);

/* A descriptor to which writing ends the connection; -1: there is none to be had. Where nobody has
 * mounted the filesystem in which connections are ended, it is mounted on nothing, which takes
 * privilege; users go without. */
int sfs_connection_open_abort(dev_t device);
