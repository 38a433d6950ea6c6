/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SMALL 4096u
#define FILLING 0x5a /* in every file before it is measured */
#define WRITTEN 0xa5 /* what the cases write */
#define SETTLE_US 10000
#define RANDOM_BATCH 256 /* operations in a run */

static guint8 buffer[BENCH_MIB];
static guint64 random_state;
static volatile guint64 sink;

static gint64
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (gint64)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Offset of a random 4 KiB block among the first @size bytes. Every turn starts from the same
 * seed, so both sides of a pair walk the same way. */
static off_t
random_block(gsize size)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (off_t)(random_state % (size / SMALL) * SMALL);
}

/* ---- single calls that must succeed ---- */

static void
read_at(const BenchSide *s, int fd, gsize bytes, off_t offset)
{
    ssize_t n = pread(fd, buffer, bytes, offset);
    if (n != (ssize_t)bytes)
        bench_fail("%s: read at %lld: %s", s->path, (long long)offset,
                   n < 0 ? g_strerror(errno) : "short");
}

static void
write_at(const BenchSide *s, int fd, gsize bytes, off_t offset)
{
    ssize_t n = pwrite(fd, buffer, bytes, offset);
    if (n != (ssize_t)bytes)
        bench_fail("%s: write at %lld: %s", s->path, (long long)offset,
                   n < 0 ? g_strerror(errno) : "short");
}

static void
flush(const BenchSide *s)
{
    if (fdatasync(s->fd) < 0)
        bench_fail("%s: fdatasync: %s", s->path, g_strerror(errno));
}

static guint8 *
map_shared(const BenchSide *s, int fd)
{
    void *map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        bench_fail("%s: mmap: %s", s->path, g_strerror(errno));
    return map;
}

/* With O_EXCL, so that it can never get a name: one that can is a section in the making, the writes
 * of which go through the daemon (see doc/SEMANTICS.md). */
static int
open_nameless(const BenchSide *s)
{
    int fd = open(s->dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_fail("%s: O_TMPFILE: %s", s->dir, g_strerror(errno));
    return fd;
}

/* One store or load in each page of a mapping. */
static gsize
touch(guint8 *map, gsize size, gboolean store)
{
    gsize step = (gsize)sysconf(_SC_PAGESIZE);
    volatile guint8 *p = map;
    guint64 sum = 0;

    for (gsize at = 0; at < size; at += step) {
        if (store)
            p[at] = WRITTEN;
        else
            sum += p[at];
    }
    sink = sum;
    return size / step;
}

/* ---- cases ---- */

static void
transfer_all(const BenchSide *s, int fd, void (*transfer)(const BenchSide *, int, gsize, off_t),
             BenchTally *t)
{
    gint64 start = now_ns();
    for (gsize at = 0; at < s->size; at += BENCH_MIB)
        transfer(s, fd, BENCH_MIB, (off_t)at);
    t->ns += now_ns() - start;
    t->ops += s->size / BENCH_MIB;
}

static void
run_sequential_read(const BenchSide *s, BenchTally *t)
{
    transfer_all(s, s->fd, read_at, t);
}

static void
run_sequential_write(const BenchSide *s, BenchTally *t)
{
    transfer_all(s, s->fd, write_at, t);
}

static void
run_sequential_write_new(const BenchSide *s, BenchTally *t)
{
    int fd = open_nameless(s);
    transfer_all(s, fd, write_at, t);
    close(fd);
}

static void
transfer_random(const BenchSide *s, gsize count,
                void (*transfer)(const BenchSide *, int, gsize, off_t), BenchTally *t)
{
    gint64 start = now_ns();
    for (gsize i = 0; i < count; i++)
        transfer(s, s->fd, SMALL, random_block(s->size));
    t->ns += now_ns() - start;
    t->ops += count;
}

static void
run_random_read(const BenchSide *s, BenchTally *t)
{
    transfer_random(s, RANDOM_BATCH, read_at, t);
}

static void
run_random_write(const BenchSide *s, BenchTally *t)
{
    transfer_random(s, RANDOM_BATCH, write_at, t);
}

/* What beneath it is still dirty: fsync(2) of a copy that nobody could find after a crash need not
 * write it, and then it is no part of what the side did, but would be on its neighbours' time, and
 * could not be given up. */
static void
settle(const BenchSide *s)
{
    for (gsize i = 0; i < s->n_beneath; i++) {
        if (fdatasync(s->beneath[i]) != 0)
            bench_fail("%s: what lies beneath: %s", s->label, g_strerror(errno));
    }
}

void
bench_side_give_up(const BenchSide *s)
{
    flush(s);
    settle(s);
    posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
    for (gsize i = 0; i < s->n_beneath; i++)
        posix_fadvise(s->beneath[i], 0, 0, POSIX_FADV_DONTNEED);
}

/* So few in a run that hardly a page comes twice. */
static gsize
cold_batch(const BenchSide *s)
{
    return MIN(s->size / SMALL / 16, 1024);
}

static void
run_cold_random_read(const BenchSide *s, BenchTally *t)
{
    bench_side_give_up(s);
    transfer_random(s, cold_batch(s), read_at, t);
}

static void
run_cold_random_write(const BenchSide *s, BenchTally *t)
{
    bench_side_give_up(s);
    transfer_random(s, cold_batch(s), write_at, t);
}

static void
run_cold_sequential_read(const BenchSide *s, BenchTally *t)
{
    bench_side_give_up(s);
    transfer_all(s, s->fd, read_at, t);
}

/* Every page of the turn's part, in random order. */
static void
run_once_random_write(const BenchSide *s, BenchTally *t)
{
    guint32 count = (guint32)(s->once_size / SMALL);
    g_autofree guint32 *order = g_new(guint32, count);

    for (guint32 i = 0; i < count; i++) {
        guint32 other = (guint32)((gsize)random_block((i + 1) * (gsize)SMALL) / SMALL);
        order[i] = order[other];
        order[other] = i;
    }
    gint64 start = now_ns();
    for (guint32 i = 0; i < count; i++)
        write_at(s, s->fd, SMALL, (off_t)(s->once_at + order[i] * (gsize)SMALL));
    t->ns += now_ns() - start;
    t->ops += count;
}

static void
run_once_sequential_write(const BenchSide *s, BenchTally *t)
{
    gint64 start = now_ns();
    for (gsize at = 0; at < s->once_size; at += BENCH_MIB)
        write_at(s, s->fd, BENCH_MIB, (off_t)(s->once_at + at));
    t->ns += now_ns() - start;
    t->ops += s->once_size / BENCH_MIB;
}

/* Maps anew and faults every page in. Only the faults are timed. */
static void
fault_in(const BenchSide *s, int fd, gboolean store, BenchTally *t)
{
    guint8 *map = map_shared(s, fd);
    gint64 start = now_ns();
    t->ops += touch(map, s->size, store);
    t->ns += now_ns() - start;
    munmap(map, s->size);
}

static void
run_first_load(const BenchSide *s, BenchTally *t)
{
    fault_in(s, s->fd, FALSE, t);
}

static void
run_first_store(const BenchSide *s, BenchTally *t)
{
    fault_in(s, s->fd, TRUE, t);
}

static void
run_first_store_new(const BenchSide *s, BenchTally *t)
{
    int fd = open_nameless(s);
    if (ftruncate(fd, (off_t)s->size) < 0)
        bench_fail("%s: ftruncate: %s", s->dir, g_strerror(errno));
    fault_in(s, fd, TRUE, t);
    close(fd);
}

static void
run_warm_load(const BenchSide *s, BenchTally *t)
{
    const volatile guint64 *p = (const volatile guint64 *)s->map;
    guint64 sum = 0;
    gint64 start = now_ns();
    for (gsize i = 0; i < s->size / sizeof *p; i++)
        sum += p[i];
    t->ns += now_ns() - start;
    t->ops += s->size / BENCH_MIB;
    sink = sum;
}

static void
run_warm_store(const BenchSide *s, BenchTally *t)
{
    volatile guint64 *p = (volatile guint64 *)s->map;
    gint64 start = now_ns();
    for (gsize i = 0; i < s->size / sizeof *p; i++)
        p[i] = i;
    t->ns += now_ns() - start;
    t->ops += s->size / BENCH_MIB;
}

static void
run_open_write_close(const BenchSide *s, BenchTally *t)
{
    enum { BATCH = 16 };
    gint64 start = now_ns();
    for (int i = 0; i < BATCH; i++) {
        int fd = open(s->path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            bench_fail("%s: %s", s->path, g_strerror(errno));
        write_at(s, fd, SMALL, random_block(BENCH_MIB));
        close(fd);
    }
    t->ns += now_ns() - start;
    t->ops += BATCH;
}

static void
run_open_close(const BenchSide *s, BenchTally *t)
{
    enum { BATCH = 64 };
    gint64 start = now_ns();
    for (int i = 0; i < BATCH; i++) {
        int fd = open(s->path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            bench_fail("%s: %s", s->path, g_strerror(errno));
        close(fd);
    }
    t->ns += now_ns() - start;
    t->ops += BATCH;
}

static void
run_stat(const BenchSide *s, BenchTally *t)
{
    enum { BATCH = 64 };
    struct stat st;
    gint64 start = now_ns();
    for (int i = 0; i < BATCH; i++) {
        if (stat(s->path, &st) < 0)
            bench_fail("%s: %s", s->path, g_strerror(errno));
    }
    t->ns += now_ns() - start;
    t->ops += BATCH;
}

const BenchCase bench_io_cases[] = {
    {"sequential write, 1 MiB", BENCH_MIB, BENCH_WRITES, run_sequential_write},
    {"sequential read, 1 MiB", BENCH_MIB, 0, run_sequential_read},
    {"random write, 4 KiB", SMALL, BENCH_WRITES, run_random_write},
    {"random read, 4 KiB", SMALL, 0, run_random_read},
    {"mmap first load, a page", SMALL, 0, run_first_load},
    {"mmap first store, a page", SMALL, BENCH_WRITES, run_first_store},
    {"mmap warm load", BENCH_MIB, BENCH_MAPPED, run_warm_load},
    {"mmap warm store", BENCH_MIB, BENCH_MAPPED | BENCH_WRITES, run_warm_store},
    {"sequential write, new pages", BENCH_MIB, BENCH_NEW_FILE, run_sequential_write_new},
    {"mmap first store, new page", SMALL, BENCH_NEW_FILE, run_first_store_new},
    {0},
};

const BenchCase bench_cow_cases[] = {
    {"open, write 4 KiB, close", SMALL, 0, run_open_write_close},
    {0},
};

const BenchCase bench_latency_cases[] = {
    {"open, close", 0, 0, run_open_close},
    {"stat", 0, 0, run_stat},
    {0},
};

const BenchCase bench_private_cases[] = {
    {"cold random read, 4 KiB", SMALL, 0, run_cold_random_read},
    {"warm random read, 4 KiB", SMALL, BENCH_WARM, run_random_read},
    {"cold sequential read, 1 MiB", BENCH_MIB, 0, run_cold_sequential_read},
    {"warm sequential read, 1 MiB", BENCH_MIB, BENCH_WARM, run_sequential_read},
    {"first random write, 4 KiB", SMALL, BENCH_WRITES | BENCH_ONCE, run_once_random_write},
    {"first sequential write, 1 MiB", BENCH_MIB, BENCH_WRITES | BENCH_ONCE,
     run_once_sequential_write},
    {"sequential write, 1 MiB", BENCH_MIB, BENCH_WRITES, run_sequential_write},
    {"random write, 4 KiB", SMALL, BENCH_WRITES, run_random_write},
    {"cold random write, 4 KiB", SMALL, BENCH_WRITES, run_cold_random_write},
    {"mmap first load, a page", SMALL, BENCH_WARM, run_first_load},
    {"mmap first store, a page", SMALL, BENCH_WARM | BENCH_WRITES, run_first_store},
    {"mmap warm load", BENCH_MIB, BENCH_MAPPED, run_warm_load},
    {"mmap warm store", BENCH_MIB, BENCH_MAPPED | BENCH_WRITES, run_warm_store},
    {0},
};

/* ---- sides ---- */

BenchSide *
bench_side_open(const char *label, const char *path, gsize size)
{
    BenchSide *s = g_new0(BenchSide, 1);

    s->label = label;
    s->path = g_strdup(path);
    s->dir = g_path_get_dirname(path);
    s->size = size;
    s->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->fd < 0)
        bench_fail("%s: %s", path, g_strerror(errno));
    return s;
}

void
bench_side_close(BenchSide *s)
{
    close(s->fd);
    g_free(s->path);
    g_free(s->dir);
    g_free(s);
}

void
bench_side_fill(const BenchSide *s, const BenchSide *twin)
{
    memset(buffer, FILLING, sizeof buffer);
    for (gsize at = 0; at < s->size; at += BENCH_MIB) {
        write_at(s, s->fd, BENCH_MIB, (off_t)at);
        if (twin)
            write_at(twin, twin->fd, BENCH_MIB, (off_t)at);
    }
}

gboolean
bench_side_is_filled(const BenchSide *s, gsize bytes)
{
    g_assert(bytes <= sizeof buffer);
    read_at(s, s->fd, bytes, 0);
    for (gsize i = 0; i < bytes; i++) {
        if (buffer[i] != FILLING)
            return FALSE;
    }
    return TRUE;
}

static void
read_singly(const BenchSide *s, int fd)
{
    /* This also turns reading ahead off, whose pieces are the large ones. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (gsize at = 0; at < s->size; at += BENCH_MIB)
        read_at(s, fd, BENCH_MIB, (off_t)at);
    posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
}

void
bench_side_load(const BenchSide *s, gboolean singly)
{
    BenchTally unused = {0};

    if (singly) {
        /* What lies beneath first: reading the file reads ahead there. */
        for (gsize i = 0; i < s->n_beneath; i++)
            read_singly(s, s->beneath[i]);
        read_singly(s, s->fd);
    } else {
        run_sequential_read(s, &unused);
    }
}

/* ---- comparing ---- */

BenchTurn
bench_take_turn(const BenchCase *what, BenchSide *s, double seconds)
{
    BenchTally tally = {0}, warming = {0};
    gint64 flush_ns = 0;

    random_state = 0x9e3779b97f4a7c15;
    if (what->flags & BENCH_WARM)
        run_sequential_read(s, &warming);
    memset(buffer, WRITTEN, sizeof buffer);
    if (what->flags & BENCH_MAPPED) {
        s->map = map_shared(s, s->fd);
        touch(s->map, s->size, (what->flags & BENCH_WRITES) != 0);
    }

    gint64 end = now_ns() + (gint64)(seconds * 1e9);
    do
        what->run(s, &tally);
    while (!(what->flags & BENCH_ONCE) && now_ns() < end);

    if (s->map) {
        munmap(s->map, s->size);
        s->map = NULL;
    }
    if (what->flags & BENCH_WRITES) {
        gint64 start = now_ns();
        flush(s);
        flush_ns = now_ns() - start;
        settle(s);
    }
    g_usleep(SETTLE_US); /* a daemon frees what was closed after close(2) has returned */

    return (BenchTurn){
        .ns = (double)tally.ns / (double)tally.ops,
        .flushed_ns = (double)(tally.ns + flush_ns) / (double)tally.ops,
    };
}

static int
compare_doubles(gconstpointer a, gconstpointer b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts a copy, as the rounds' order is worth keeping. */
static double
median(const GArray *values, double *min, double *max)
{
    g_autoptr(GArray) sorted = g_array_copy((GArray *)values);
    guint n = sorted->len;

    g_array_sort(sorted, compare_doubles);
    if (min)
        *min = g_array_index(sorted, double, 0);
    if (max)
        *max = g_array_index(sorted, double, n - 1);
    return (g_array_index(sorted, double, (n - 1) / 2) + g_array_index(sorted, double, n / 2)) / 2;
}

BenchResult *
bench_compare(const BenchCase *what, BenchSide *subject, BenchSide *reference, guint rounds,
              double seconds)
{
    BenchResult *r = g_new0(BenchResult, 1);
    g_autoptr(GArray) subject_ns = g_array_new(FALSE, FALSE, sizeof(double));
    g_autoptr(GArray) reference_ns = g_array_new(FALSE, FALSE, sizeof(double));

    r->name = what->name;
    r->bytes = what->bytes;
    r->subject = subject->label;
    r->reference = reference->label;
    r->ratios = g_array_new(FALSE, FALSE, sizeof(double));

    /* Not counted: first-time costs of either side. */
    bench_take_turn(what, subject, 0);
    bench_take_turn(what, reference, 0);

    for (guint i = 0; i < rounds; i++) {
        double a, b, ratio;
        if (i % 2 == 0) {
            a = bench_take_turn(what, subject, seconds).ns;
            b = bench_take_turn(what, reference, seconds).ns;
        } else {
            b = bench_take_turn(what, reference, seconds).ns;
            a = bench_take_turn(what, subject, seconds).ns;
        }
        ratio = b / a;
        g_array_append_val(subject_ns, a);
        g_array_append_val(reference_ns, b);
        g_array_append_val(r->ratios, ratio);
    }

    r->subject_ns = median(subject_ns, NULL, NULL);
    r->reference_ns = median(reference_ns, NULL, NULL);
    r->median = median(r->ratios, &r->min, &r->max);
    return r;
}

void
bench_result_free(BenchResult *r)
{
    g_array_unref(r->ratios);
    g_free(r);
}
