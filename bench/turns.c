/* SPDX-License-Identifier: MIT */
/*
 * turns: one case on many files that others have opened, in rounds. bench/cow is who calls it: a
 * copy-on-write view is an open file, so what is measured comes as inherited descriptors.
 *
 * In every round each file has its turn. Rounds begin with the next file, and every other round
 * goes backwards, so that nobody always comes after the same neighbour. Each turn is a line on
 * standard output: round, number of the file, nanoseconds an operation, and these with the flush.
 */
#include "config.h"

#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *opt_case;
static double opt_seconds = 0.2;
static int opt_rounds = 5, opt_size = 128;
static gboolean opt_singly;
static char **opt_files;

static const GOptionEntry options[] = {
    {"case", 0, 0, G_OPTION_ARG_STRING, &opt_case, "What to measure", "NAME"},
    {"seconds", 0, 0, G_OPTION_ARG_DOUBLE, &opt_seconds, "Length of a turn (default: 0.2)", "S"},
    {"rounds", 0, 0, G_OPTION_ARG_INT, &opt_rounds, "Rounds (default: 5)", "N"},
    {"size", 0, 0, G_OPTION_ARG_INT, &opt_size, "Of the files (default: 128)", "MIB"},
    {"singly", 0, 0, G_OPTION_ARG_NONE, &opt_singly, "Have the kernel keep each page for itself",
     NULL},
    {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt_files,
     "An open file, and those that it takes its bytes from", "FD[,FD...]"},
    {0},
};

void
bench_fail(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fputs("turns: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static const BenchCase *
find_case(const char *name)
{
    for (const BenchCase *c = bench_private_cases; c->name; c++) {
        if (strcmp(c->name, name) == 0)
            return c;
    }
    bench_fail("there is no case %s", name);
}

static BenchSide
side_of(const char *words)
{
    g_auto(GStrv) list = g_strsplit(words, ",", -1);
    guint n = g_strv_length(list);
    int *fds = g_new(int, n);

    for (guint i = 0; i < n; i++)
        fds[i] = atoi(list[i]);
    return (BenchSide){
        .label = words,
        .path = g_strdup_printf("/proc/self/fd/%d", fds[0]),
        .fd = fds[0],
        .size = (gsize)opt_size * BENCH_MIB,
        .beneath = fds + 1,
        .n_beneath = n - 1,
    };
}

/* What can be done once is spread over the rounds: small writes have the first half of the file,
 * large ones the other. */
static void
choose_part(const BenchCase *what, BenchSide *side, guint round)
{
    gsize half = side->size / 2 / BENCH_MIB * BENCH_MIB;

    side->once_size = half / (gsize)opt_rounds / BENCH_MIB * BENCH_MIB;
    side->once_at = round * side->once_size + (what->bytes < BENCH_MIB ? 0 : half);
}

/* Pages that lie side by side are read faster, by a half and more, and who gives up scattered ones
 * gets the same again. So all begin each round with new ones, from memory that was tidied up. */
static void
forget_places(const BenchSide *sides, guint n)
{
    int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

    for (guint i = 0; i < n; i++)
        bench_side_give_up(&sides[i]);
    if (fd < 0 || write(fd, "1", 1) != 1)
        g_printerr("turns: memory cannot be tidied up: %s\n", g_strerror(errno));
    if (fd >= 0)
        close(fd);
}

int
main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("turns: %s\n", error->message);
        return 2;
    }
    if (!opt_case || !opt_files || opt_rounds < 1 || opt_size < 2 * opt_rounds) {
        g_printerr("turns: a case, files, and two MiB of them for each round are needed\n");
        return 2;
    }

    const BenchCase *what = find_case(opt_case);
    guint rounds = (guint)opt_rounds, n = g_strv_length(opt_files);
    g_autofree BenchSide *sides = g_new(BenchSide, n);

    for (guint i = 0; i < n; i++) {
        sides[i] = side_of(opt_files[i]);
        if (!(what->flags & BENCH_WARM)) { /* that is set up in each round */
            bench_side_give_up(&sides[i]);
            bench_side_load(&sides[i], opt_singly);
        }
        /* Not counted: first-time costs. */
        if (!(what->flags & BENCH_ONCE))
            bench_take_turn(what, &sides[i], 0);
    }
    for (guint round = 0; round < rounds; round++) {
        if (what->flags & BENCH_WARM)
            forget_places(sides, n);
        for (guint k = 0; k < n; k++) {
            guint i = (round + (round % 2 ? n - k : k)) % n;
            choose_part(what, &sides[i], round);
            if (what->flags & BENCH_WARM)
                bench_side_load(&sides[i], opt_singly);
            BenchTurn turn = bench_take_turn(what, &sides[i], opt_seconds);
            printf("%u %u %.2f %.2f\n", round, i, turn.ns, turn.flushed_ns);
        }
    }
    for (guint i = 0; i < n; i++) {
        g_free((int *)sides[i].beneath - 1);
        g_free(sides[i].path);
    }
    return fflush(stdout) != 0;
}
