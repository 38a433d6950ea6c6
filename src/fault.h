/* SPDX-License-Identifier: MIT */
/*
 * Faults on demand, for tests alone: in a build with SFS_FAULTS (tests/Makefile-inc.am makes one)
 * the environment can have the worker killed at the Nth points that it passes (SECTIONFS_KILL_AT, a
 * list), or end by itself. What calls fail in that build is in tests/faults/failing.c. In every
 * other build all of this is nothing.
 */
#pragma once

#include "common.h"

#ifdef SFS_FAULTS

#define SFS_FAULT_POINT() sfs_fault_point()
#define SFS_FAULT_REQUEST(opcode) sfs_fault_request(opcode)

/* @counter: where the points are counted, in memory that outlives the worker, so that each is
 * passed once. */
void sfs_fault_init(_Atomic uint64_t *counter);

/* Kills this process here, if SECTIONFS_KILL_AT says so. */
void sfs_fault_point(void);

/* Fails, as a fault of its own would have it, at a request with the opcode SECTIONFS_ABORT_AT. */
void sfs_fault_request(uint32_t opcode);

#else

#define SFS_FAULT_POINT() ((void)0)
#define SFS_FAULT_REQUEST(opcode) ((void)(opcode))

#endif
