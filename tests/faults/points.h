/* SPDX-License-Identifier: MIT */
/*
 * Kill points: the places at which the worker of the build with faults can be ended. They are not
 * written into its code. The compiler puts a call before each store (it believes that it builds for
 * a race detector, whose entry points are here instead), and what lies in the registry is a point;
 * the system calls that change something which outlives the worker, or tell somebody of it, are
 * points before and after.
 *
 * A point has a number, counted through all workers of a mount (SECTIONFS_KILL_AT), and a site: the
 * place in the code and the calls that led there. The sites that are passed, and the one where the
 * worker is to be ended, are in a file that the environment variable SECTIONFS_POINTS names, and
 * that the test has mapped as well (tests/integration/points.py knows the layout, too).
 *
 * Not among the points: the stores of the keeper, since the mount ends with it anyhow; the count of
 * the points themselves (fault_points); what GLib and libc store by themselves, which is nothing in
 * the registry but through the functions wrapped here.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POINTS_MAGIC UINT64_C(0x31746e696f507353)
#define POINTS_SITES (1u << 15) /* room for so many */
#define POINTS_FRAMES 13
#define POINTS_KILLS 64

/* In the first frame: after the system call, or in the middle of many bytes. */
#define POINTS_AFTER (1u << 31)

/* Frames are addresses in the program, from its beginning, the innermost first. */
typedef struct {
    _Atomic uint64_t key; /* of all of the frames; 0: none */
    _Atomic uint32_t passed;
    /* When it was first passed, and what next was then. */
    _Atomic uint32_t order, next;
    uint32_t frame[POINTS_FRAMES];
} PointsSite;

typedef struct {
    uint64_t key; /* 0: any */
    _Atomic int64_t left;
} PointsKill;

typedef struct {
    uint64_t magic;                /* the test's */
    _Atomic uint32_t instrumented; /* stores are points in this build */
    _Atomic uint32_t full;         /* there was no room for another site */
    _Atomic uint32_t order;        /* how many were first passed */
    _Atomic uint32_t armed;        /* the kills are from next to this one, each after the last */
    _Atomic uint32_t next;
    uint32_t reserved;
    PointsKill kill[POINTS_KILLS];
    PointsSite site[POINTS_SITES];
} PointsFile;

/* From now on there are points: @base and @size of the registry, @counter in it of those passed. */
void points_init(const void *base, size_t size, _Atomic uint64_t *counter);
