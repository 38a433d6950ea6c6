/* SPDX-License-Identifier: MIT */
/*
 * Faults on demand, for tests alone: in a build with SFS_FAULTS (tests/faults, which has what is
 * declared here) the environment can have the worker killed at each point of its way, and have it
 * lack what it needs. In every other build all of this is nothing. Where the points are is in
 * tests/faults/points.h, what is lacking in tests/faults/failing.c; the code here does not say.
 */
#pragma once

#include "common.h"

#ifdef SFS_FAULTS

#define SFS_FAULT_INIT(registry, size, counter) sfs_fault_init(registry, size, counter)
#define SFS_FAULT_REQUEST(opcode) sfs_fault_request(opcode)

/* @registry, of @size bytes: what outlives the worker, with the @counter of the points that were
 * passed. */
void sfs_fault_init(const void *registry, size_t size, _Atomic uint64_t *counter);

/* Fails, as a fault of its own would have it, at a request with the opcode SECTIONFS_ABORT_AT. */
void sfs_fault_request(uint32_t opcode);

#else

#define SFS_FAULT_INIT(registry, size, counter) ((void)0)
#define SFS_FAULT_REQUEST(opcode) ((void)(opcode))

#endif
