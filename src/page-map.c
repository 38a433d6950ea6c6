/* SPDX-License-Identifier: MIT */
/*
 * A balanced tree (GTree) of leaves, keyed by leaf number, so that a run over nothing skips from
 * leaf to leaf however large the file is. A leaf with few pages lists them in order; one with more
 * is a bitmap. So a view of which a page was written here and there costs some bytes a page.
 *
 * For those who only look, with sfs_page_map_peek(), the leaves are in a hash table besides. What
 * they can reach is not changed, except for the words of bitmaps: a list, or the table, is replaced
 * by another. What was replaced is freed by the first change that finds nobody looking. To look
 * takes some dozens of instructions, so that is soon.
 */
#include "page-map.h"

#include <string.h>

#define WORD_BITS 64
#define LEAF_WORDS (SFS_MAP_LEAF_PAGES / WORD_BITS)
#define LIST_MAX 128u

/* In order. Never changed. */
typedef struct {
    uint32_t count;
    uint16_t pages[];
} List;

typedef struct {
    uint64_t number;         /* key: page / SFS_MAP_LEAF_PAGES */
    uint32_t count;          /* pages in it */
    List *_Atomic list;      /* NULL: no pages, or a bitmap */
    uint64_t *_Atomic words; /* NULL: a list */
} Leaf;

/* Places are looked through from the one that a leaf's number hashes to, up to one that is NULL. */
typedef struct {
    uint32_t mask;  /* of the hash: how many places there are, less one */
    uint32_t taken; /* of them are not NULL; at most half */
    Leaf *_Atomic places[];
} Table;

/* In the place of a leaf that was removed. */
static Leaf gone = {.number = UINT64_MAX};

/* Bit n of byte m of a leaf is in word m / 8 only on little-endian machines; the others convert. */
#if G_BYTE_ORDER != G_LITTLE_ENDIAN
#error "page-map.c keeps its bitmaps in little-endian order"
#endif

struct SfsPageMap {
    GTree *leaves;
    uint64_t count;
    Table *_Atomic table; /* NULL: there are no leaves */
    _Atomic uint32_t lookers;
    GSList *replaced; /* what somebody may still be looking at */
};

static gint
compare(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

SfsPageMap *
sfs_page_map_new(void)
{
    SfsPageMap *map = g_new0(SfsPageMap, 1);

    map->leaves = g_tree_new(compare);
    return map;
}

static gboolean
free_leaf(gpointer key, gpointer value, gpointer unused)
{
    Leaf *leaf = value;

    g_free(leaf->list);
    g_free(leaf->words);
    g_free(leaf);
    return FALSE;
}

void
sfs_page_map_free(SfsPageMap *map)
{
    if (map == NULL)
        return;
    g_tree_foreach(map->leaves, free_leaf, NULL);
    g_tree_unref(map->leaves);
    g_free(map->table);
    g_slist_free_full(map->replaced, g_free);
    g_free(map);
}

static Leaf *
find(const SfsPageMap *map, uint64_t page)
{
    uint64_t number = page / SFS_MAP_LEAF_PAGES;

    return g_tree_lookup(map->leaves, &number);
}

/* --- what may be looked at ------------------------------------------------------------------- */

/* @memory cannot be reached any more. */
static void
retire(SfsPageMap *map, void *memory)
{
    if (memory != NULL)
        map->replaced = g_slist_prepend(map->replaced, memory);
}

static void
free_replaced(SfsPageMap *map)
{
    if (map->replaced == NULL)
        return;
    /* Who begins to look from here on does not find it. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&map->lookers) == 0)
        g_slist_free_full(g_steal_pointer(&map->replaced), g_free);
}

/* The place of a leaf, or the one that is free for it. */
static Leaf *_Atomic *
place_of(Table *table, uint64_t number)
{
    uint32_t place = (uint32_t)(number * UINT64_C(0x9E3779B97F4A7C15) >> 32) & table->mask;
    const Leaf *leaf;

    while ((leaf = atomic_load(&table->places[place])) != NULL && leaf->number != number)
        place = (place + 1) & table->mask;
    return &table->places[place];
}

static void
put_in_table(Table *table, Leaf *leaf)
{
    atomic_store(place_of(table, leaf->number), leaf);
    table->taken++;
}

static gboolean
put_in(gpointer key, gpointer value, gpointer table)
{
    put_in_table(table, value);
    return FALSE;
}

static void
replace_table(SfsPageMap *map)
{
    uint32_t n = (uint32_t)g_tree_nnodes(map->leaves), places = 4;
    Table *table = NULL;

    while (places < 4 * n)
        places *= 2;
    if (n > 0) {
        table = g_malloc0(sizeof *table + places * sizeof table->places[0]);
        table->mask = places - 1;
        g_tree_foreach(map->leaves, put_in, table);
    }
    retire(map, atomic_exchange(&map->table, table));
}

static Leaf *
add_leaf(SfsPageMap *map, uint64_t number)
{
    Table *table = map->table;
    Leaf *leaf = g_new0(Leaf, 1);

    leaf->number = number;
    g_tree_insert(map->leaves, &leaf->number, leaf);
    if (table != NULL && 2 * table->taken <= table->mask)
        put_in_table(table, leaf);
    else
        replace_table(map);
    return leaf;
}

static void
remove_leaf(SfsPageMap *map, Leaf *leaf)
{
    atomic_store(place_of(map->table, leaf->number), &gone);
    g_tree_remove(map->leaves, &leaf->number);
    if (g_tree_nnodes(map->leaves) == 0)
        replace_table(map);
    retire(map, leaf->list);
    retire(map, leaf->words);
    retire(map, leaf);
}

/* --- one leaf -------------------------------------------------------------------------------- */

/* The pages of a leaf as they are now; both NULL: none. */
typedef struct {
    const List *list;
    const uint64_t *words;
} Pages;

static Pages
pages_of(const Leaf *leaf)
{
    Pages pages = {NULL, atomic_load(&leaf->words)};

    if (pages.words == NULL)
        pages.list = atomic_load(&leaf->list);
    /* It may have become a bitmap in between. */
    if (pages.words == NULL && pages.list == NULL)
        pages.words = atomic_load(&leaf->words);
    return pages;
}

static uint64_t
word_at(const uint64_t *words, uint32_t page)
{
    return __atomic_load_n(&words[page / WORD_BITS], __ATOMIC_ACQUIRE);
}

/* Where in the list the first page at or after this one is. */
static uint32_t
list_place(const List *list, uint32_t page)
{
    uint32_t low = 0, high = list != NULL ? list->count : 0;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (list->pages[middle] < page)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool
test(Pages pages, uint32_t page)
{
    uint32_t place;

    if (pages.words != NULL)
        return word_at(pages.words, page) >> (page % WORD_BITS) & 1;
    place = list_place(pages.list, page);
    return pages.list != NULL && place < pages.list->count && pages.list->pages[place] == page;
}

static void
become_bitmap(SfsPageMap *map, Leaf *leaf)
{
    uint64_t *words = g_new0(uint64_t, LEAF_WORDS);
    const List *list = leaf->list;

    for (uint32_t i = 0; i < leaf->count; i++)
        words[list->pages[i] / WORD_BITS] |= (uint64_t)1 << (list->pages[i] % WORD_BITS);
    atomic_store(&leaf->words, words);
    retire(map, atomic_exchange(&leaf->list, NULL));
}

/* Another list, with what is in it of [from, to) changed. */
static void
change_list(SfsPageMap *map, Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    const List *old = leaf->list;
    uint32_t low = list_place(old, from), high = list_place(old, to);
    uint32_t between = set ? to - from : 0, after = leaf->count - high;
    List *new = NULL;

    if (high - low == between)
        return;
    leaf->count = low + between + after;
    if (leaf->count > 0) {
        new = g_malloc(sizeof *new + leaf->count * sizeof new->pages[0]);
        new->count = leaf->count;
        for (uint32_t i = 0; i < between; i++)
            new->pages[low + i] = (uint16_t)(from + i);
        if (low > 0)
            memcpy(new->pages, old->pages, low * sizeof new->pages[0]);
        if (after > 0)
            memcpy(new->pages + low + between, old->pages + high, after * sizeof new->pages[0]);
    }
    retire(map, atomic_exchange(&leaf->list, new));
}

static void
change_bitmap(Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    uint64_t *words = leaf->words;
    uint32_t changed = 0;

    while (from < to) {
        uint32_t low = from % WORD_BITS;
        uint32_t n = MIN(WORD_BITS - low, to - from);
        uint64_t mask = (n == WORD_BITS ? UINT64_MAX : ((uint64_t)1 << n) - 1) << low;
        uint64_t old = words[from / WORD_BITS];
        uint64_t new = set ? old | mask : old & ~mask;

        changed += (uint32_t)__builtin_popcountll(old ^ new);
        __atomic_store_n(&words[from / WORD_BITS], new, __ATOMIC_RELEASE);
        from += n;
    }
    leaf->count = set ? leaf->count + changed : leaf->count - changed;
}

/* Puts the pages [from, to) of a leaf in, or takes them out. */
static void
change(SfsPageMap *map, Leaf *leaf, uint32_t from, uint32_t to, bool set)
{
    uint32_t before = leaf->count;

    if (leaf->words == NULL && set && leaf->count + (to - from) > LIST_MAX)
        become_bitmap(map, leaf);
    if (leaf->words != NULL)
        change_bitmap(leaf, from, to, set);
    else
        change_list(map, leaf, from, to, set);
    map->count += leaf->count;
    map->count -= before;
}

/* First page at or after @from that is not @in; SFS_MAP_LEAF_PAGES if there is none. */
static uint32_t
next_other(Pages pages, uint32_t from, bool in)
{
    if (pages.words == NULL) {
        uint32_t place = list_place(pages.list, from);
        uint32_t count = pages.list != NULL ? pages.list->count : 0;

        if (!in)
            return place < count ? pages.list->pages[place] : SFS_MAP_LEAF_PAGES;
        while (place < count && pages.list->pages[place] == from) {
            place++;
            from++;
        }
        return from;
    }
    while (from < SFS_MAP_LEAF_PAGES) {
        uint64_t word = word_at(pages.words, from) ^ (in ? UINT64_MAX : 0);

        word >>= from % WORD_BITS;
        if (word != 0)
            return from + (uint32_t)__builtin_ctzll(word);
        from = (from / WORD_BITS + 1) * WORD_BITS;
    }
    return SFS_MAP_LEAF_PAGES;
}

/* --- all of them ----------------------------------------------------------------------------- */

bool
sfs_page_map_has(const SfsPageMap *map, uint64_t page)
{
    const Leaf *leaf = find(map, page);

    return leaf != NULL && test(pages_of(leaf), page % SFS_MAP_LEAF_PAGES);
}

void
sfs_page_map_add(SfsPageMap *map, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t number = first / SFS_MAP_LEAF_PAGES;
        uint64_t stop = MIN(end, (number + 1) * SFS_MAP_LEAF_PAGES);
        Leaf *leaf = find(map, first);

        if (leaf == NULL)
            leaf = add_leaf(map, number);
        change(map, leaf, first % SFS_MAP_LEAF_PAGES,
               (uint32_t)(stop - number * SFS_MAP_LEAF_PAGES), true);
        first = stop;
    }
    free_replaced(map);
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
        change(map, leaf, (uint32_t)(from - base), (uint32_t)(stop - base), false);
        if (leaf->count == 0)
            remove_leaf(map, leaf);
        first = stop;
    }
    free_replaced(map);
}

uint64_t
sfs_page_map_count(const SfsPageMap *map)
{
    return map->count;
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
        bit = next_other(pages_of(leaf), (uint32_t)(page - base), *in);
        page = base + bit;
        if (bit < SFS_MAP_LEAF_PAGES)
            break;
    }
    return MIN(page, end);
}

uint64_t
sfs_page_map_peek(SfsPageMap *map, uint64_t first, uint64_t end, bool *in)
{
    uint64_t number = first / SFS_MAP_LEAF_PAGES, base = number * SFS_MAP_LEAF_PAGES;
    uint64_t stop = base + SFS_MAP_LEAF_PAGES;
    const Leaf *leaf = NULL;
    Table *table;

    *in = false;
    atomic_fetch_add(&map->lookers, 1);
    table = atomic_load(&map->table);
    if (table != NULL)
        leaf = atomic_load(place_of(table, number));
    /* The place that was free for it may be another one's by now. */
    if (leaf != NULL && leaf->number == number) {
        Pages pages = pages_of(leaf);
        uint32_t page = (uint32_t)(first - base), other;

        *in = test(pages, page);
        other = next_other(pages, page, *in);
        /* That page is one of the run, though it may have become another meanwhile. */
        stop = base + MAX(other, page + 1);
    }
    atomic_fetch_sub(&map->lookers, 1);
    return MIN(stop, end);
}

void
sfs_page_map_bits(const SfsPageMap *map, uint64_t page, uint8_t bits[SFS_MAP_LEAF_BYTES])
{
    const Leaf *leaf = find(map, page);
    Pages pages = leaf != NULL ? pages_of(leaf) : (Pages){0};

    memset(bits, 0, SFS_MAP_LEAF_BYTES);
    if (pages.words != NULL)
        memcpy(bits, pages.words, SFS_MAP_LEAF_BYTES);
    for (uint32_t i = 0; pages.list != NULL && i < pages.list->count; i++)
        bits[pages.list->pages[i] / 8] |= (uint8_t)(1 << pages.list->pages[i] % 8);
}
