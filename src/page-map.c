/* SPDX-License-Identifier: MIT */
/*
 * A balanced tree (GTree) of leaves, keyed by leaf number, so that a run over nothing skips from
 * leaf to leaf however large the file is. A leaf with few pages lists them in order; one with more
 * is a bitmap. So a view of which a page was written here and there costs some bytes a page.
 */
#include "page-map.h"

#include <string.h>

#define WORD_BITS 64
#define LEAF_WORDS (SFS_MAP_LEAF_PAGES / WORD_BITS)
#define LIST_MAX 128u

typedef struct {
    uint64_t number; /* key: page / SFS_MAP_LEAF_PAGES */
    uint32_t count;  /* pages in it */
    uint32_t room;   /* of the list */
    uint16_t *list;  /* in order; NULL: a bitmap */
    uint64_t *words; /* NULL: a list */
} Leaf;

/* Bit n of byte m of a leaf is in word m / 8 only on little-endian machines; the others convert. */
#if G_BYTE_ORDER != G_LITTLE_ENDIAN
#error "page-map.c keeps its bitmaps in little-endian order"
#endif

struct SfsPageMap {
    GTree *leaves;
    uint64_t count;
};

static gint
compare(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void
free_leaf(gpointer data)
{
    Leaf *leaf = data;

    g_free(leaf->list);
    g_free(leaf->words);
    g_free(leaf);
}

SfsPageMap *
sfs_page_map_new(void)
{
    SfsPageMap *map = g_new0(SfsPageMap, 1);

    map->leaves = g_tree_new_full(compare, NULL, NULL, free_leaf);
    return map;
}

void
sfs_page_map_free(SfsPageMap *map)
{
    if (map == NULL)
        return;
    g_tree_unref(map->leaves);
    g_free(map);
}

static Leaf *
find(const SfsPageMap *map, uint64_t page)
{
    uint64_t number = page / SFS_MAP_LEAF_PAGES;

    return g_tree_lookup(map->leaves, &number);
}

/* --- one leaf -------------------------------------------------------------------------------- */

/* Where in the list the first page at or after this one is. */
static uint32_t
list_place(const Leaf *leaf, uint32_t page)
{
    uint32_t low = 0, high = leaf->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (leaf->list[middle] < page)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool
test(const Leaf *leaf, uint32_t page)
{
    uint32_t place;

    if (leaf->words != NULL)
        return leaf->words[page / WORD_BITS] >> (page % WORD_BITS) & 1;
    place = list_place(leaf, page);
    return place < leaf->count && leaf->list[place] == page;
}

static void
become_bitmap(Leaf *leaf)
{
    leaf->words = g_new0(uint64_t, LEAF_WORDS);
    for (uint32_t i = 0; i < leaf->count; i++)
        leaf->words[leaf->list[i] / WORD_BITS] |= (uint64_t)1 << (leaf->list[i] % WORD_BITS);
    g_clear_pointer(&leaf->list, g_free);
}

static void
list_add(Leaf *leaf, uint32_t page)
{
    uint32_t place = list_place(leaf, page);

    if (place < leaf->count && leaf->list[place] == page)
        return;
    if (leaf->count == leaf->room) {
        leaf->room = MAX(8, 2 * leaf->room);
        leaf->list = g_renew(uint16_t, leaf->list, leaf->room);
    }
    memmove(leaf->list + place + 1, leaf->list + place, (leaf->count - place) * sizeof *leaf->list);
    leaf->list[place] = (uint16_t)page;
    leaf->count++;
}

static void
change_list(Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    if (set) {
        while (from < to)
            list_add(leaf, from++);
    } else {
        uint32_t first = list_place(leaf, from), end = list_place(leaf, to);

        if (first < end)
            memmove(leaf->list + first, leaf->list + end, (leaf->count - end) * sizeof *leaf->list);
        leaf->count -= end - first;
    }
}

static void
change_bitmap(Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    uint32_t changed = 0;

    while (from < to) {
        uint32_t low = from % WORD_BITS;
        uint32_t n = MIN(WORD_BITS - low, to - from);
        uint64_t mask = (n == WORD_BITS ? UINT64_MAX : ((uint64_t)1 << n) - 1) << low;
        uint64_t *word = &leaf->words[from / WORD_BITS];
        uint64_t new = set ? *word | mask : *word & ~mask;

        changed += (uint32_t)__builtin_popcountll(*word ^ new);
        *word = new;
        from += n;
    }
    leaf->count = set ? leaf->count + changed : leaf->count - changed;
}

/* Puts the pages [from, to) of a leaf in, or takes them out; by how many it changed. */
static uint32_t
change(Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    uint32_t before = leaf->count;

    if (leaf->words == NULL && set && leaf->count + (to - from) > LIST_MAX)
        become_bitmap(leaf);
    if (leaf->words != NULL)
        change_bitmap(leaf, from, to, set);
    else
        change_list(leaf, from, to, set);
    return set ? leaf->count - before : before - leaf->count;
}

/* --- all of them ----------------------------------------------------------------------------- */

bool
sfs_page_map_has(const SfsPageMap *map, uint64_t page)
{
    const Leaf *leaf = find(map, page);

    return leaf != NULL && test(leaf, page % SFS_MAP_LEAF_PAGES);
}

void
sfs_page_map_add(SfsPageMap *map, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t number = first / SFS_MAP_LEAF_PAGES;
        uint64_t stop = MIN(end, (number + 1) * SFS_MAP_LEAF_PAGES);
        Leaf *leaf = find(map, first);

        if (leaf == NULL) {
            leaf = g_new0(Leaf, 1);
            leaf->number = number;
            g_tree_insert(map->leaves, &leaf->number, leaf);
        }
        map->count += change(leaf, first % SFS_MAP_LEAF_PAGES,
                             (uint32_t)(stop - number * SFS_MAP_LEAF_PAGES), true);
        first = stop;
    }
}

/* The first leaf that holds @page or one after it. */
static Leaf *
leaf_from(const SfsPageMap *map, uint64_t page)
{
    uint64_t number = page / SFS_MAP_LEAF_PAGES;
    GTreeNode *node = g_tree_lower_bound(map->leaves, &number);

    return node != NULL ? g_tree_node_value(node) : NULL;
}

void
sfs_page_map_remove(SfsPageMap *map, uint64_t first, uint64_t end)
{
    Leaf *leaf;

    while (first < end && (leaf = leaf_from(map, first)) != NULL) {
        uint64_t base = leaf->number * SFS_MAP_LEAF_PAGES;
        uint64_t from = MAX(first, base);
        uint64_t stop = MIN(end, base + SFS_MAP_LEAF_PAGES);

        if (from >= end)
            break;
        map->count -= change(leaf, (uint32_t)(from - base), (uint32_t)(stop - base), false);
        if (leaf->count == 0)
            g_tree_remove(map->leaves, &leaf->number);
        first = stop;
    }
}

uint64_t
sfs_page_map_count(const SfsPageMap *map)
{
    return map->count;
}

/* First page at or after @from that is not @in; SFS_MAP_LEAF_PAGES if there is none. */
static uint32_t
next_other(const Leaf *leaf, uint32_t from, bool in)
{
    if (leaf->words == NULL) {
        uint32_t place = list_place(leaf, from);

        if (!in)
            return place < leaf->count ? leaf->list[place] : SFS_MAP_LEAF_PAGES;
        while (place < leaf->count && leaf->list[place] == from) {
            place++;
            from++;
        }
        return from;
    }
    while (from < SFS_MAP_LEAF_PAGES) {
        uint64_t word = leaf->words[from / WORD_BITS] ^ (in ? UINT64_MAX : 0);

        word >>= from % WORD_BITS;
        if (word != 0)
            return from + (uint32_t)__builtin_ctzll(word);
        from = (from / WORD_BITS + 1) * WORD_BITS;
    }
    return SFS_MAP_LEAF_PAGES;
}

uint64_t
sfs_page_map_run(const SfsPageMap *map, uint64_t first, uint64_t end, bool *in)
{
    uint64_t page = first;

    *in = sfs_page_map_has(map, first);
    while (page < end) {
        const Leaf *leaf = *in ? find(map, page) : leaf_from(map, page);
        uint64_t base;
        uint32_t bit;

        if (leaf == NULL)
            return *in ? MIN(page, end) : end;
        base = leaf->number * SFS_MAP_LEAF_PAGES;
        page = MAX(page, base);
        bit = next_other(leaf, (uint32_t)(page - base), *in);
        page = base + bit;
        if (bit < SFS_MAP_LEAF_PAGES)
            break;
    }
    return MIN(page, end);
}

void
sfs_page_map_bits(const SfsPageMap *map, uint64_t page, uint8_t bits[SFS_MAP_LEAF_BYTES])
{
    const Leaf *leaf = find(map, page);

    memset(bits, 0, SFS_MAP_LEAF_BYTES);
    if (leaf != NULL && leaf->words != NULL)
        memcpy(bits, leaf->words, SFS_MAP_LEAF_BYTES);
    for (uint32_t i = 0; leaf != NULL && leaf->words == NULL && i < leaf->count; i++)
        bits[leaf->list[i] / 8] |= (uint8_t)(1 << leaf->list[i] % 8);
}
