/* SPDX-License-Identifier: MIT */
#include "name-index.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define BY_NODE_BYTES (sizeof(SfsName *) * ((size_t)SFS_MAX_NODES + 1))

struct SfsNameIndex {
    SfsRegistry *registry;
    GHashTable *by_name; /* set of SfsName, owns them */
    SfsName **by_node;   /* node slot → its names; sparse memory */
    GHashTable *dirs;    /* directory slot → GTree: readdir offset → SfsName */
};

/* Names are chosen by clients: a secret keeps them from choosing such as fall together. The name is
 * taken as a polynomial over the prime 2^61-1, at a point that nobody knows: two names of n bytes
 * fall together in n of 2^61 cases. */
static uint64_t hash_secret;

#define PRIME (((uint64_t)1 << 61) - 1)

static uint64_t
multiply(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    uint64_t sum = (uint64_t)(product & PRIME) + (uint64_t)(product >> 61);

    return sum >= PRIME ? sum - PRIME : sum;
}

static void
choose_secret(void)
{
    while (hash_secret < 256) {
        if (getrandom(&hash_secret, sizeof hash_secret, 0) != sizeof hash_secret)
            hash_secret = (uint64_t)g_random_int() << 32 | g_random_int();
        hash_secret %= PRIME;
    }
}

static guint
hash_entry(gconstpointer key)
{
    const SfsName *entry = key;
    uint64_t hash = entry->parent + 1;

    for (uint32_t i = 0; i < entry->length; i++)
        hash = multiply(hash, hash_secret) + (guchar)entry->name[i];
    return (guint)(multiply(hash, hash_secret) >> 16);
}

static gboolean
equal_entries(gconstpointer a, gconstpointer b)
{
    const SfsName *x = a, *y = b;

    return x->parent == y->parent && x->length == y->length &&
           memcmp(x->name, y->name, x->length) == 0;
}

static void
free_entry(gpointer data)
{
    SfsName *entry = data;

    if (entry->name != entry->rec->name)
        g_free((char *)entry->name);
    g_free(entry);
}

static gint
compare_cookies(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

SfsNameIndex *
sfs_name_index_new(SfsRegistry *registry)
{
    SfsNameIndex *index = g_new0(SfsNameIndex, 1);

    index->registry = registry;
    choose_secret();
    index->by_node = mmap(NULL, BY_NODE_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (index->by_node == MAP_FAILED)
        g_error("no memory for the table of names");
    index->by_name = g_hash_table_new_full(hash_entry, equal_entries, free_entry, NULL);
    index->dirs = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_tree_unref);
    return index;
}

void
sfs_name_index_free(SfsNameIndex *index)
{
    g_hash_table_unref(index->dirs);
    g_hash_table_unref(index->by_name);
    munmap(index->by_node, BY_NODE_BYTES);
    g_free(index);
}

GTree *
sfs_name_index_dir(SfsNameIndex *index, uint32_t dir)
{
    return g_hash_table_lookup(index->dirs, GUINT_TO_POINTER(dir));
}

SfsName *
sfs_name_index_of(SfsNameIndex *index, uint32_t node)
{
    return index->by_node[node];
}

SfsName *
sfs_name_index_find(SfsNameIndex *index, uint32_t dir, const char *name)
{
    SfsName key = {.parent = dir, .length = (uint32_t)strlen(name), .name = name};

    return g_hash_table_lookup(index->by_name, &key);
}

void
sfs_name_index_add(SfsNameIndex *index, SfsDirentRec *rec, uint32_t slot)
{
    SfsName *name = g_new(SfsName, 1);
    GTree *tree = sfs_name_index_dir(index, rec->parent);

    *name = (SfsName){.rec = rec, .slot = slot, .parent = rec->parent, .length = rec->length};
    name->name = rec->long_name == SFS_NO_SLOT
                     ? rec->name
                     : sfs_registry_load_text(index->registry, rec->long_name, NULL);
    if (tree == NULL) {
        tree = g_tree_new_full(compare_cookies, NULL, NULL, NULL);
        g_hash_table_insert(index->dirs, GUINT_TO_POINTER(rec->parent), tree);
    }
    g_tree_insert(tree, &rec->cookie, name);
    g_hash_table_add(index->by_name, name);
    name->link = &index->by_node[rec->node];
    name->next = *name->link;
    if (name->next != NULL)
        name->next->link = &name->next;
    *name->link = name;
}

void
sfs_name_index_remove(SfsNameIndex *index, SfsName *name)
{
    GTree *tree = sfs_name_index_dir(index, name->parent);

    *name->link = name->next;
    if (name->next != NULL)
        name->next->link = name->link;
    g_tree_remove(tree, &name->rec->cookie);
    if (g_tree_nnodes(tree) == 0)
        g_hash_table_remove(index->dirs, GUINT_TO_POINTER(name->parent));
    g_hash_table_remove(index->by_name, name);
}
