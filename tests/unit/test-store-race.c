/* SPDX-License-Identifier: MIT */
/* The store's limit where several write at the same time. */
#include "store-rig.h"

typedef struct {
    Rig *rig;
    SfsStoreFile *file;
    uint32_t seed;
    uint64_t refused;
    bool directly; /* past the daemon, as with passthrough */
} Racer;

#define RACE_PAGES 96

static gpointer
race(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    g_autofree char *bytes = pattern(16 * SFS_PAGE_SIZE);
    int fd = sfs_store_file_fd(racer->file);

    for (int i = 0; i < 4000; i++) {
        off_t page = g_rand_int_range(rand, 0, RACE_PAGES);
        off_t n = g_rand_int_range(rand, 1, 17);
        ssize_t written;

        if (g_rand_int_range(rand, 0, 3) == 0) {
            if (g_rand_boolean(rand))
                sfs_store_file_truncate(racer->file, page * PAGE);
            else
                sfs_store_file_allocate(racer->file, PUNCH, page * PAGE, n * PAGE);
            continue;
        }
        written = racer->directly ? pwrite(fd, bytes, (size_t)(n * PAGE), page * PAGE)
                                  : sfs_store_file_write(racer->file, bytes, (size_t)(n * PAGE),
                                                         page * PAGE, false);
        g_assert_cmpint(written, !=, 0);
        racer->refused += written < n * PAGE;
    }
    return NULL;
}

static void
check_race(Rig *rig, Racer *racers, guint n, uint64_t *refused)
{
    GThread *threads[4];
    uint64_t truth = 0;

    for (guint i = 0; i < n; i++) {
        racers[i].rig = rig;
        racers[i].seed = (uint32_t)g_test_rand_int();
        threads[i] = g_thread_new("race", race, &racers[i]);
    }
    for (int i = 0; i < 2000; i++) {
        SfsStoreUsage now = usage(rig);

        g_assert_cmpuint(now.used, <=, rig->limit);
        g_assert_cmpuint(now.overlays, <=, now.used);
        if (i % 16 == 0)
            g_usleep(100);
    }
    for (guint i = 0; i < n; i++) {
        g_thread_join(threads[i]);
        truth += held(racers[i].file);
        *refused += racers[i].refused;
    }
    g_assert_cmpuint(usage(rig).used, ==, truth);
    g_assert_cmpuint(truth, <=, rig->limit);
}

static void
test_race(Rig *rig, gconstpointer data)
{
    Racer racers[2] = {{.file = new_file(rig, SFS_STORE_SECTION)},
                       {.file = new_file(rig, SFS_STORE_OVERLAY)}};
    uint64_t refused = 0;

    check_race(rig, racers, 2, &refused);
    g_assert_cmpuint(refused, >, 0);
    for (int i = 0; i < 2; i++)
        sfs_store_file_free(racers[i].file);
    wait_for_used(rig, 0);
}

/* Two threads in one file. */
static void
test_race_in_one(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);
    Racer racers[2] = {{.rig = rig, .file = file, .seed = 1},
                       {.rig = rig, .file = file, .seed = 2}};
    GThread *threads[2];

    for (int i = 0; i < 2; i++)
        threads[i] = g_thread_new("race", race, &racers[i]);
    for (int i = 0; i < 1000; i++) {
        g_assert_cmpuint(usage(rig).used, <=, rig->limit);
        g_usleep(10);
    }
    for (int i = 0; i < 2; i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(usage(rig).used, ==, held(file));
    sfs_store_file_free(file);
    wait_for_used(rig, 0);
}

/* Overwriting what is there needs nothing, so it takes nothing from others, not for a moment. */
static gpointer
overwrite(gpointer data)
{
    Racer *racer = data;

    for (int i = 0; i < 20000; i++)
        g_assert_cmpint(write_pages(racer->file, 0, 8, false), ==, 8 * PAGE);
    return NULL;
}

static void
test_race_overwrite(Rig *rig, gconstpointer data)
{
    Racer racer = {.rig = rig, .file = new_file(rig, SFS_STORE_SECTION)};
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);
    GThread *thread;

    g_assert_cmpint(write_pages(racer.file, 0, 8, false), ==, 8 * PAGE);
    thread = g_thread_new("overwrite", overwrite, &racer);
    for (int i = 0; i < 5000; i++) {
        g_assert_cmpint(write_pages(file, 0, 8, false), ==, 8 * PAGE);
        g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
    }
    g_thread_join(thread);
    sfs_store_file_free(racer.file);
    sfs_store_file_free(file);
}

static void
test_tmpfs_race(void)
{
    Rig rig = {0};
    Racer racers[4];
    uint64_t refused = 0;

    if (!start_tmpfs(&rig, 128 * PAGE))
        return;
    for (int i = 0; i < 4; i++) {
        racers[i] = (Racer){.directly = i % 2 == 0};
        racers[i].file = new_file(&rig, i % 2 == 0 ? SFS_STORE_SECTION : SFS_STORE_OVERLAY);
    }
    check_race(&rig, racers, 4, &refused);
    g_assert_cmpuint(refused, >, 0);
    for (int i = 0; i < 4; i++)
        sfs_store_file_free(racers[i].file);
    wait_for_used(&rig, 0);
    stop(&rig);
}

/* --- pieces that are written again and again ----------------------------------------------------
 */

#define PIECE ((size_t)1 << 20)
#define PIECES 4
#define PIECES_PAGES ((off_t)(PIECES * PIECE / SFS_PAGE_SIZE))
#define SPARE 288 /* pages that are left then: more than a piece, so that it may be charged for */

typedef struct {
    Rig *rig;
    SfsStoreFile *file;
    _Atomic bool stop;
    _Atomic uint64_t done;
} Rewriter;

static gpointer
rewrite_pieces(gpointer data)
{
    Rewriter *rewriter = data;
    g_autofree char *bytes = pattern(PIECE);

    while (!atomic_load(&rewriter->stop))
        for (int i = 0; i < PIECES; i++) {
            g_assert_cmpint(
                sfs_store_file_write(rewriter->file, bytes, PIECE, (off_t)i * (off_t)PIECE, false),
                ==, (ssize_t)PIECE);
            atomic_fetch_add(&rewriter->done, 1);
        }
    return NULL;
}

/* One file of @use is written anew, in pieces, by a thread of its own, while another one takes what
 * is left: page by page, then all at once, then more than there is. */
static void
check_beside_rewriter(Rig *rig, SfsStoreUse use)
{
    Rewriter rewriter = {.rig = rig, .file = new_file(rig, use)};
    SfsStoreFile *file = new_file(rig, SFS_STORE_OVERLAY);
    GThread *thread;

    g_assert_cmpint(write_pages(rewriter.file, 0, PIECES_PAGES, false), ==, PIECES_PAGES * PAGE);
    thread = g_thread_new("rewrite", rewrite_pieces, &rewriter);
    for (int i = 0; i < 60 || atomic_load(&rewriter.done) < 200; i++) {
        for (off_t page = 0; page < SPARE; page++)
            g_assert_cmpint(write_pages(file, 2 * page, 1, false), ==, PAGE);
        g_assert_cmpint(write_pages(file, 2 * SPARE, 1, false), ==, -ENOSPC);
        g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
        g_assert_cmpint(write_pages(file, 0, SPARE, false), ==, SPARE * PAGE);
        g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
        g_assert_cmpint(write_pages(file, 0, 2 * SPARE, false), ==, SPARE * PAGE);
        g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
        g_assert_cmpint(sfs_store_file_allocate(file, 0, 0, SPARE * PAGE), ==, 0);
        g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
    }
    /* What is written back is taken whatever there is, and counted. */
    g_assert_cmpint(write_pages(file, 0, 2 * SPARE, true), ==, 2 * SPARE * PAGE);
    atomic_store(&rewriter.stop, true);
    g_thread_join(thread);
    assert_used(rig, PIECES_PAGES + 2 * SPARE);
    g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
    assert_used(rig, PIECES_PAGES);
    g_assert_cmpuint(held(rewriter.file), ==, PIECES_PAGES * PAGE);
    sfs_store_file_free(file);
    sfs_store_file_free(rewriter.file);
    wait_for_used(rig, 0);
    g_assert_cmpuint(usage(rig).overlays, ==, 0);
}

static void
test_rewriter(Rig *rig, gconstpointer data)
{
    check_beside_rewriter(rig, SFS_STORE_SECTION);
    check_beside_rewriter(rig, SFS_STORE_OVERLAY);
}

static void
test_rewriter_tmpfs(void)
{
    Rig rig = {0};

    /* A tmpfs keeps a page to itself. */
    if (!start_tmpfs(&rig, (PIECES_PAGES + SPARE + 1) * PAGE))
        return;
    check_beside_rewriter(&rig, SFS_STORE_OVERLAY);
    stop(&rig);
}

/* Who writes past the daemon cannot be made to wait, so nothing may be taken from them that is not
 * needed, not for a moment. */
static void
test_rewriter_direct(void)
{
    Rig rig = {0};
    Rewriter rewriter = {.rig = &rig};
    SfsStoreFile *section;
    GThread *thread;
    off_t room;

    if (!start_tmpfs(&rig, (PIECES + 2) * PIECE))
        return;
    rewriter.file = new_file(&rig, SFS_STORE_OVERLAY);
    section = new_file(&rig, SFS_STORE_SECTION);
    g_assert_cmpint(write_pages(rewriter.file, 0, PIECES_PAGES, false), ==, PIECES_PAGES * PAGE);
    /* So that less than a piece is left of what is reserved in steps of a megabyte. */
    g_assert_cmpint(write_pages(rewriter.file, PIECES_PAGES, SPARE / 4, false), ==,
                    SPARE / 4 * PAGE);
    room = fill_directly(section);
    g_assert_cmpint(room, >=, (off_t)PIECE);
    g_assert_cmpint(sfs_store_file_truncate(section, 0), ==, 0);
    thread = g_thread_new("rewrite", rewrite_pieces, &rewriter);
    for (int i = 0; i < 60 || atomic_load(&rewriter.done) < 200; i++) {
        g_assert_cmpint(fill_directly(section), ==, room);
        g_assert_cmpint(sfs_store_file_truncate(section, 0), ==, 0);
    }
    atomic_store(&rewriter.stop, true);
    g_thread_join(thread);
    assert_used(&rig, PIECES_PAGES + SPARE / 4);
    sfs_store_file_free(section);
    sfs_store_file_free(rewriter.file);
    wait_for_used(&rig, 0);
    stop(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/store/race/counted", 100, test_race);
    add("/store/race/in-one", 50, test_race_in_one);
    add("/store/race/overwrite", 16, test_race_overwrite);
    g_test_add_func("/store/race/tmpfs", test_tmpfs_race);
    add("/store/race/rewriter", PIECES_PAGES + SPARE, test_rewriter);
    g_test_add_func("/store/race/rewriter-tmpfs", test_rewriter_tmpfs);
    g_test_add_func("/store/race/rewriter-direct", test_rewriter_direct);
    return g_test_run();
}
