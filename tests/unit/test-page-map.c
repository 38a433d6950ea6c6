/* SPDX-License-Identifier: MIT */
/* The page map against a plain array of booleans, at the beginning of the numbers and at their end.
 */
#include "page-map.h"

#include <string.h>

#define N_LEAVES 4u
#define N_PAGES (N_LEAVES * SFS_MAP_LEAF_PAGES)
#define N_OPERATIONS 20000

typedef struct {
    SfsPageMap *map;
    uint64_t origin; /* page number of model[0]: the beginning of a leaf */
    uint64_t count;
    bool model[N_PAGES];
} Pair;

/* A range of the model: mostly short, often across or up to a leaf's border, now and then large. */
static void
random_range(uint32_t *first, uint32_t *end)
{
    uint32_t length;

    switch (g_test_rand_int_range(0, 6)) {
    case 0: /* up to, from or across a border */
        *first = (uint32_t)g_test_rand_int_range(1, N_LEAVES) * SFS_MAP_LEAF_PAGES -
                 (uint32_t)g_test_rand_int_range(0, 130);
        length = (uint32_t)g_test_rand_int_range(0, 200);
        break;
    case 1: /* whole leaves, or nearly */
        *first = (uint32_t)g_test_rand_int_range(0, N_LEAVES) * SFS_MAP_LEAF_PAGES;
        length = (uint32_t)g_test_rand_int_range(1, 3) * SFS_MAP_LEAF_PAGES -
                 (uint32_t)g_test_rand_int_range(0, 2);
        break;
    case 2: /* anything */
        *first = (uint32_t)g_test_rand_int_range(0, N_PAGES);
        length = (uint32_t)g_test_rand_int_range(0, N_PAGES);
        break;
    case 3: /* one page */
        *first = (uint32_t)g_test_rand_int_range(0, N_PAGES);
        length = 1;
        break;
    default:
        *first = (uint32_t)g_test_rand_int_range(0, N_PAGES);
        length = (uint32_t)g_test_rand_int_range(0, 300);
        break;
    }
    *end = MIN(*first + length, N_PAGES);
}

static void
set_model(Pair *pair, uint32_t first, uint32_t end, bool value)
{
    for (uint32_t i = first; i < end; i++) {
        if (pair->model[i] != value)
            pair->count += value ? 1 : UINT64_MAX;
        pair->model[i] = value;
    }
}

static void
check_run(Pair *pair, uint32_t first, uint32_t end)
{
    bool expected = pair->model[first];
    uint32_t stop = first;
    bool in = !expected;

    while (stop < end && pair->model[stop] == expected)
        stop++;
    g_assert_cmpuint(sfs_page_map_run(pair->map, pair->origin + first, pair->origin + end, &in), ==,
                     pair->origin + stop);
    g_assert_cmpint(in, ==, expected);
    /* No further than the leaf. */
    stop = MIN(stop, first / SFS_MAP_LEAF_PAGES * SFS_MAP_LEAF_PAGES + SFS_MAP_LEAF_PAGES);
    g_assert_cmpuint(sfs_page_map_peek(pair->map, pair->origin + first, pair->origin + end, &in),
                     ==, pair->origin + stop);
    g_assert_cmpint(in, ==, expected);
}

/* Every page, by runs, and the bitmaps. */
static void
check_all(Pair *pair)
{
    uint64_t end = pair->origin + N_PAGES;
    uint64_t in_set = 0;
    bool in;

    for (uint64_t at = pair->origin, stop; at < end; at = stop) {
        stop = sfs_page_map_run(pair->map, at, end, &in);
        g_assert_cmpuint(stop, >, at);
        for (uint64_t page = at; page < stop; page++)
            g_assert_true(pair->model[page - pair->origin] == in);
        in_set += in ? stop - at : 0;
    }
    g_assert_cmpuint(in_set, ==, pair->count);
    for (uint32_t leaf = 0; leaf < N_LEAVES; leaf++) {
        const bool *model = pair->model + leaf * SFS_MAP_LEAF_PAGES;
        uint64_t first = pair->origin + leaf * SFS_MAP_LEAF_PAGES;
        uint8_t bits[SFS_MAP_LEAF_BYTES];

        sfs_page_map_bits(pair->map, first + SFS_MAP_LEAF_PAGES - 1, bits);
        for (uint32_t i = 0; i < SFS_MAP_LEAF_PAGES; i++)
            g_assert_true((bits[i / 8] >> (i % 8) & 1) == model[i]);
    }
}

static void
test_random(gconstpointer data)
{
    g_autofree Pair *pair = g_new0(Pair, 1);

    pair->origin = *(const uint64_t *)data;
    pair->map = sfs_page_map_new();
    for (int i = 0; i < N_OPERATIONS; i++) {
        uint32_t first, end, at;

        random_range(&first, &end);
        switch (g_test_rand_int_range(0, 6)) {
        case 0:
        case 1:
            sfs_page_map_add(pair->map, pair->origin + first, pair->origin + end);
            set_model(pair, first, end, true);
            break;
        case 2:
        case 3:
            sfs_page_map_remove(pair->map, pair->origin + first, pair->origin + end);
            set_model(pair, first, end, false);
            break;
        default:
            check_run(pair, first, end);
            break;
        }
        at = (uint32_t)g_test_rand_int_range(0, N_PAGES);
        g_assert_cmpint(sfs_page_map_has(pair->map, pair->origin + at), ==, pair->model[at]);
        if (first > 0)
            check_run(pair, first - 1, end);
        check_run(pair, first, N_PAGES);
        g_assert_cmpuint(sfs_page_map_count(pair->map), ==, pair->count);
        if (i % 500 == 0)
            check_all(pair);
    }
    check_all(pair);
    sfs_page_map_remove(pair->map, 0, UINT64_MAX);
    set_model(pair, 0, N_PAGES, false);
    check_all(pair);
    g_assert_cmpuint(sfs_page_map_count(pair->map), ==, 0);
    sfs_page_map_free(pair->map);
}

static void
test_empty(void)
{
    SfsPageMap *map = sfs_page_map_new();
    bool in = true;

    g_assert_false(sfs_page_map_has(map, 0));
    g_assert_false(sfs_page_map_has(map, (uint64_t)1 << 50));
    g_assert_cmpuint(sfs_page_map_count(map), ==, 0);
    g_assert_cmpuint(sfs_page_map_run(map, 0, (uint64_t)1 << 50, &in), ==, (uint64_t)1 << 50);
    g_assert_false(in);
    sfs_page_map_remove(map, 0, (uint64_t)1 << 50);
    sfs_page_map_add(map, 7, 7);
    sfs_page_map_remove(map, 7, 7);
    g_assert_cmpuint(sfs_page_map_count(map), ==, 0);
    sfs_page_map_free(map);
    sfs_page_map_free(NULL);
}

/* Few pages far apart: a run over nothing skips them however far. */
static void
test_sparse(void)
{
    SfsPageMap *map = sfs_page_map_new();
    const uint64_t last = ((uint64_t)1 << 50) - 1;
    uint64_t previous = 0;
    bool in;

    for (int shift = 20; shift < 50; shift++)
        sfs_page_map_add(map, (uint64_t)1 << shift, ((uint64_t)1 << shift) + 1);
    sfs_page_map_add(map, last, last + 1);
    g_assert_cmpuint(sfs_page_map_count(map), ==, 31);
    for (int shift = 20; shift < 50; shift++) {
        uint64_t page = (uint64_t)1 << shift;

        g_assert_cmpuint(sfs_page_map_run(map, previous, last, &in), ==, page);
        g_assert_false(in);
        g_assert_cmpuint(sfs_page_map_run(map, page, last, &in), ==, page + 1);
        g_assert_true(in);
        g_assert_cmpuint(sfs_page_map_run(map, previous, page - 1, &in), ==, page - 1);
        g_assert_false(in);
        previous = page + 1;
    }
    g_assert_cmpuint(sfs_page_map_run(map, previous, UINT64_MAX, &in), ==, last);
    g_assert_false(in);
    g_assert_cmpuint(sfs_page_map_run(map, last, UINT64_MAX, &in), ==, last + 1);
    g_assert_true(in);
    sfs_page_map_remove(map, (uint64_t)1 << 21, last);
    g_assert_cmpuint(sfs_page_map_count(map), ==, 2);
    g_assert_true(sfs_page_map_has(map, (uint64_t)1 << 20));
    g_assert_true(sfs_page_map_has(map, last));
    sfs_page_map_free(map);
}

/* One run over several full leaves. */
static void
test_long_run(void)
{
    SfsPageMap *map = sfs_page_map_new();
    const uint64_t first = SFS_MAP_LEAF_PAGES - 3, end = 5 * SFS_MAP_LEAF_PAGES + 3;
    bool in;

    sfs_page_map_add(map, first, end);
    g_assert_cmpuint(sfs_page_map_count(map), ==, end - first);
    for (uint64_t at = first; at < end; at += SFS_MAP_LEAF_PAGES - 1) {
        g_assert_cmpuint(sfs_page_map_run(map, at, UINT64_MAX, &in), ==, end);
        g_assert_true(in);
        g_assert_cmpuint(sfs_page_map_run(map, at, end - 1, &in), ==, MAX(at, end - 1));
        g_assert_true(in);
    }
    sfs_page_map_remove(map, 2 * SFS_MAP_LEAF_PAGES, 4 * SFS_MAP_LEAF_PAGES);
    g_assert_cmpuint(sfs_page_map_run(map, first, end, &in), ==, 2 * SFS_MAP_LEAF_PAGES);
    g_assert_true(in);
    g_assert_cmpuint(sfs_page_map_run(map, 2 * SFS_MAP_LEAF_PAGES, end, &in), ==,
                     4 * SFS_MAP_LEAF_PAGES);
    g_assert_false(in);
    sfs_page_map_free(map);
}

/* --- without a lock -------------------------------------------------------------------------- */

#define N_LOOKERS 3
#define N_CHANGES 30000
#define N_FAR 9

/* Of every 64 pages the first is always in, the second never; the others come and go. */
static gpointer
look_on(gpointer data)
{
    Pair *pair = data;
    GRand *rng = g_rand_new_with_seed(7);
    uint64_t looks = 0;

    while (!__atomic_load_n(&pair->model[0], __ATOMIC_SEQ_CST)) {
        uint64_t page = (uint64_t)g_rand_int_range(rng, 0, N_PAGES) / 64 * 64;
        bool in;

        g_assert_cmpuint(sfs_page_map_peek(pair->map, page, page + 64, &in), ==, page + 1);
        g_assert_true(in);
        g_assert_cmpuint(sfs_page_map_peek(pair->map, page + 1, page + 64, &in), >, page + 1);
        g_assert_false(in);
        g_assert_cmpuint(sfs_page_map_peek(pair->map, page + 2, page + 64, &in), >, page + 2);
        /* A leaf that never comes, though others may come to where it would be. */
        page = N_PAGES + (uint64_t)g_rand_int_range(rng, N_FAR, 8 * N_FAR) * SFS_MAP_LEAF_PAGES;
        g_assert_cmpuint(sfs_page_map_peek(pair->map, page, page + 9, &in), ==, page + 9);
        g_assert_false(in);
        looks++;
    }
    g_rand_free(rng);
    return GSIZE_TO_POINTER(looks);
}

/* Leaves that have nothing but what comes and goes are beyond those that are looked at closely. */
static void
come_and_go(Pair *pair)
{
    uint64_t page = (uint64_t)g_test_rand_int_range(0, N_PAGES) / 64 * 64;
    uint64_t far = N_PAGES + (uint64_t)g_test_rand_int_range(0, N_FAR) * SFS_MAP_LEAF_PAGES;
    bool in;

    if (g_test_rand_bit()) {
        sfs_page_map_add(pair->map, page + 2, page + 64);
        sfs_page_map_add(pair->map, far, far + 3);
    } else {
        sfs_page_map_remove(pair->map, page + 2, page + 64);
        sfs_page_map_remove(pair->map, far, far + 3);
    }
    sfs_page_map_peek(pair->map, far, far + 9, &in);
}

static void
test_without_lock(void)
{
    Pair *pair = g_new0(Pair, 1);
    GThread *threads[N_LOOKERS];

    pair->map = sfs_page_map_new();
    for (uint64_t page = 0; page < N_PAGES; page += 64)
        sfs_page_map_add(pair->map, page, page + 1);
    for (int i = 0; i < N_LOOKERS; i++)
        threads[i] = g_thread_new("look", look_on, pair);
    for (int i = 0; i < N_CHANGES; i++)
        come_and_go(pair);
    __atomic_store_n(&pair->model[0], true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < N_LOOKERS; i++)
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(threads[i])), >, 0);
    sfs_page_map_free(pair->map);
    g_free(pair);
}

int
main(int argc, char **argv)
{
    static const uint64_t low = 0, middle = (uint64_t)77 * SFS_MAP_LEAF_PAGES;
    static const uint64_t high = ((uint64_t)1 << 50) - N_PAGES;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/empty", test_empty);
    g_test_add_func("/page-map/sparse", test_sparse);
    g_test_add_func("/page-map/long-run", test_long_run);
    g_test_add_func("/page-map/without-lock", test_without_lock);
    g_test_add_data_func("/page-map/random/low", &low, test_random);
    g_test_add_data_func("/page-map/random/middle", &middle, test_random);
    g_test_add_data_func("/page-map/random/high", &high, test_random);
    return g_test_run();
}
