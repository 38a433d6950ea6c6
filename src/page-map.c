/* SPDX-License-Identifier: MIT */
/* A balanced tree (GTree) of bitmaps, keyed by leaf number, so that a run over nothing skips from
 * leaf to leaf however large the file is. */
#include "page-map.h"

#include <string.h>

#define WORD_BITS 64
#define LEAF_WORDS (SFS_MAP_LEAF_PAGES / WORD_BITS)

typedef struct {
    uint64_t number; /* key: page / SFS_MAP_LEAF_PAGES */
    uint32_t count;  /* bits set */
    uint64_t words[LEAF_WORDS];
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

SfsPageMap *
sfs_page_map_new(void)
{
    SfsPageMap *map = g_new0(SfsPageMap, 1);

    map->leaves = g_tree_new_full(compare, NULL, NULL, g_free);
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

static bool
test(const Leaf *leaf, uint32_t bit)
{
    return leaf->words[bit / WORD_BITS] >> (bit % WORD_BITS) & 1;
}

bool
sfs_page_map_has(const SfsPageMap *map, uint64_t page)
{
    const Leaf *leaf = find(map, page);

    return leaf != NULL && test(leaf, page % SFS_MAP_LEAF_PAGES);
}

/* Sets or clears the bits [from, to) of a leaf; by how many the leaf's count changed. */
static uint32_t
change(Leaf *leaf, uint32_t from, uint32_t to, bool set)
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
    return changed;
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

/* First bit at or after @from whose value is not @value; SFS_MAP_LEAF_PAGES if there is none. */
static uint32_t
next_other(const Leaf *leaf, uint32_t from, bool value)
{
    while (from < SFS_MAP_LEAF_PAGES) {
        uint64_t word = leaf->words[from / WORD_BITS] ^ (value ? UINT64_MAX : 0);

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

const uint8_t *
sfs_page_map_leaf(const SfsPageMap *map, uint64_t page)
{
    const Leaf *leaf = find(map, page);

    return leaf != NULL ? (const uint8_t *)leaf->words : NULL;
}
