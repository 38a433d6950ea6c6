/* SPDX-License-Identifier: MIT */
/*
 * Measuring: the same work done two ways, in turns, in one run.
 *
 * A *side* is one way to the work: an open file and its path. A *case* is the work. Comparing runs
 * a case on both sides, round after round; each round gives one ratio of their speeds, and what is
 * reported is the median, least and greatest of these. A machine that is slow today, or busy for
 * a second, is so for both sides of a pair. Who goes first changes with every round.
 *
 * To measure against something else, open another side; to measure something else, add a case.
 * Nothing here returns an error: bench_fail() ends the process (bench.c cleans up after it).
 */
#pragma once

#include <glib.h>

#define BENCH_MIB ((gsize)1 << 20)
#define BENCH_GIB ((gsize)1 << 30)

typedef struct {
    const char *label; /* the column's heading */
    char *path;        /* what latency cases open and stat */
    char *dir;         /* where cases that want new pages make their nameless files */
    int fd;            /* open for reading and writing */
    gsize size;        /* of the part to work on: whole MiB */
    guint8 *map;       /* the part, mapped and touched, while a BENCH_MAPPED case runs */
    gsize once_at;     /* where the turn of a BENCH_ONCE case works, and on how much: whole MiB */
    gsize once_size;
    const int *beneath; /* open files that @fd takes its bytes from: cold cases give them up too */
    gsize n_beneath;
} BenchSide;

/* What a case has done so far, and the time it took without its own preparations. */
typedef struct {
    guint64 ops;
    gint64 ns;
} BenchTally;

enum {
    BENCH_MAPPED = 1,   /* wants side->map */
    BENCH_WRITES = 2,   /* leaves dirty pages: flushed, untimed, before the other side's turn */
    BENCH_NEW_FILE = 4, /* makes files in side->dir: only where these are of the same kind */
    BENCH_WARM = 8,     /* wants the part in memory: read, untimed, before the turn */
    BENCH_ONCE = 16,    /* a turn is one run, on side->once_at */
};

typedef struct BenchCase BenchCase;
struct BenchCase {
    const char *name;
    gsize bytes; /* in one operation; from 1 MiB up it is shown as a bandwidth, else as a time */
    guint flags;
    void (*run)(const BenchSide *side, BenchTally *tally); /* a few milliseconds' worth */
};

typedef struct {
    const char *group;
    const char *name;
    const char *subject; /* the sides' labels */
    const char *reference;
    gsize bytes;
    double subject_ns; /* median time of one operation */
    double reference_ns;
    double median, min, max; /* of the ratios: speed of the subject / speed of the reference */
    GArray *ratios;          /* double, in order */
} BenchResult;

/* Each ends with a case whose name is NULL. */
extern const BenchCase bench_io_cases[];
extern const BenchCase bench_cow_cases[];
extern const BenchCase bench_latency_cases[];
extern const BenchCase bench_private_cases[]; /* for files of one's own, see turns.c */

void bench_fail(const char *format, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;

/* @path stays the caller's; its folder is where new files are made. Fails if it cannot be opened.
 */
BenchSide *bench_side_open(const char *label, const char *path, gsize size);
void bench_side_close(BenchSide *side);

/* Writes the side's part of the file, so that no case meets a hole. @twin, if not NULL, is of the
 * same size and filled in step, so that the two lie alike in memory: of two files on one tmpfs,
 * filled one after the other, one was read at 0.7 to 1.1 times the speed of the other. */
void bench_side_fill(const BenchSide *side, const BenchSide *twin);
/* Whether the side's first bytes are still those that bench_side_fill() wrote. Only for files
 * that no writing case was run on. */
gboolean bench_side_is_filled(const BenchSide *side, gsize bytes);

/* Gives up what is in memory of the side, and of what lies beneath. */
void bench_side_give_up(const BenchSide *side);

/* Reads what was given up, if @singly so that the kernel keeps each page for itself, else in order:
 * then some file systems keep large pieces, which are several times as fast to map and faster to
 * read. Without this, what came before decides. */
void bench_side_load(const BenchSide *side, gboolean singly);

/* What one operation took. */
typedef struct {
    double ns;
    double
        flushed_ns; /* with its share of the flush after the turn; as ns if nothing was written */
} BenchTurn;

/* Works for @seconds, at least once. What the turn leaves behind is settled before it ends: the
 * other sides must not pay for it. */
BenchTurn bench_take_turn(const BenchCase *what, BenchSide *side, double seconds);

BenchResult *bench_compare(const BenchCase *what, BenchSide *subject, BenchSide *reference,
                           guint rounds, double seconds);
void bench_result_free(BenchResult *result);
