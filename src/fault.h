/* SPDX-License-Identifier: MIT */
/*
 * Faults on demand, for tests alone: in a build with SFS_FAULTS (tests/faults, which has what is
 * declared here) the environment can have the worker killed at each point of its way, and have it
 * lack what it needs. In every other build all of this is nothing. Where the points are is in
 * tests/faults/points.h; the code here does not say.
 *
 * SECTIONFS_FAIL names what fails in every worker but the first; with "@N" after it, in the Nth
 * alone. Besides the steps that ask sfs_fault_fails() these are "descriptors", of which there are
 * no more to be had, and "memory", of which there are SECTIONFS_ROOM KiB more.
 */
#pragma once

#include "common.h"

#ifdef SFS_FAULTS

#define SFS_FAULT_INIT(registry, size, counter, worker)                                            \
    sfs_fault_init(registry, size, counter, worker)
#define SFS_FAULT_FAILS(step) sfs_fault_fails(step)
#define SFS_FAULT_REQUEST(opcode) sfs_fault_request(opcode)
#define SFS_FAULT_RUN_OUT() sfs_fault_run_out()

/* In the @worker that is the so manyth. @registry, of @size bytes: what outlives it, with the
 * @counter of the points that were passed. */
void sfs_fault_init(const void *registry, size_t size, _Atomic uint64_t *counter, uint32_t worker);

/* From now on there is no more of what is to run out. */
void sfs_fault_run_out(void);

/* Fails, as a fault of its own would have it, at a request with the opcode SECTIONFS_ABORT_AT. */
void sfs_fault_request(uint32_t opcode);

/* Whether this step is to fail. */
bool sfs_fault_fails(const char *step);

#else

#define SFS_FAULT_INIT(registry, size, counter, worker) ((void)0)
#define SFS_FAULT_FAILS(step) false
#define SFS_FAULT_REQUEST(opcode) ((void)(opcode))
#define SFS_FAULT_RUN_OUT() ((void)0)

#endif
