/* SPDX-License-Identifier: MIT */
/*
 * Faults on demand, for tests alone: in a build with SFS_FAULTS (tests/Makefile-inc.am makes one)
 * the environment can have the worker killed at the Nth points that it passes (SECTIONFS_KILL_AT, a
 * list), and have it lack what it needs. In every other build all of this is nothing.
 *
 * SECTIONFS_FAIL names what fails in every worker but the first; with "@N" after it, in the Nth
 * alone. Besides the steps that ask sfs_fault_fails() these are "descriptors", of which there are
 * no more to be had, and "memory", of which there are SECTIONFS_ROOM KiB more.
 */
#pragma once

#include "common.h"

#ifdef SFS_FAULTS

#define SFS_FAULT_POINT() sfs_fault_point()
#define SFS_FAULT_FAILS(step) sfs_fault_fails(step)
#define SFS_FAULT_REQUEST(opcode) sfs_fault_request(opcode)
#define SFS_FAULT_RUN_OUT() sfs_fault_run_out()

/* @counter: where the points are counted, in memory that outlives the worker, so that each is
 * passed once. @worker: the how manyth this is. */
void sfs_fault_init(_Atomic uint64_t *counter, uint32_t worker);

/* From now on there is no more of what is to run out. */
void sfs_fault_run_out(void);

/* Kills this process here, if SECTIONFS_KILL_AT says so. */
void sfs_fault_point(void);

/* Fails, as a fault of its own would have it, at a request with the opcode SECTIONFS_ABORT_AT. */
void sfs_fault_request(uint32_t opcode);

/* Whether this step is to fail. */
bool sfs_fault_fails(const char *step);

#else

#define SFS_FAULT_POINT() ((void)0)
#define SFS_FAULT_FAILS(step) false
#define SFS_FAULT_REQUEST(opcode) ((void)(opcode))
#define SFS_FAULT_RUN_OUT() ((void)0)

#endif
