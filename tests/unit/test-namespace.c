/* SPDX-License-Identifier: MIT */
/* Names and directories against a model, listing while names come and go, and the special names. */
#include "namespace.h"

#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES 112 /* of the registry's text */
#define ENTRY_SIZE 20   /* what an entry adds to its directory's size */

typedef struct {
    SfsRegistry *registry;
    SfsNodes *nodes;
    SfsNamespace *names;
    SfsTarget root;
} Rig;

static void
start(Rig *rig, uint64_t nr_sections)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;

    config->root_mode = 0755;
    config->root_uid = 5;
    config->root_gid = 6;
    rig->registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    rig->nodes = sfs_nodes_new(rig->registry, -1, -1);
    sfs_node_make_root(rig->nodes, config);
    rig->names = sfs_namespace_new(rig->registry, rig->nodes, nr_sections);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, 1, &rig->root), ==, 0);
    g_assert_cmpuint(rig->root.rec->nlink, ==, 2);
}

/* All names are gone, and all references given back. */
static void
stop(Rig *rig)
{
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_NODES), ==, 1);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_DIRENTS), ==, 0);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_CHUNKS), ==, 0);
    g_assert_cmpuint(rig->root.rec->nlink, ==, 2);
    g_assert_cmpuint(rig->root.rec->size, ==, 0);
    sfs_namespace_free(rig->names);
    sfs_nodes_free(rig->nodes);
    sfs_registry_free(rig->registry);
}

static void
set_up(Rig *rig, gconstpointer data)
{
    start(rig, GPOINTER_TO_UINT(data));
}

static void
tear_down(Rig *rig, gconstpointer data)
{
    stop(rig);
}

/* The index as a later worker builds it. */
static void
rebuild(Rig *rig)
{
    sfs_namespace_free(rig->names);
    rig->names = sfs_namespace_new(rig->registry, rig->nodes, 0);
}

static const SfsNodeSpec file_spec = {.mode = S_IFREG | 0644, .uid = 1, .gid = 2};
static const SfsNodeSpec dir_spec = {.mode = S_IFDIR | 0755, .uid = 1, .gid = 2};

static SfsTarget
create(Rig *rig, const SfsTarget *dir, const char *name, const SfsNodeSpec *spec)
{
    SfsTarget child;

    g_assert_cmpint(sfs_namespace_create(rig->names, dir, name, spec, &child), ==, 0);
    return child;
}

static void
forget(Rig *rig, const SfsTarget *target)
{
    sfs_node_forget(rig->nodes, target->slot, 1);
}

/* What a name leads to, without a reference kept. -ENOENT, …: as lookup has it. */
static int
look_up(Rig *rig, const SfsTarget *dir, const char *name, SfsTarget *child)
{
    int r = sfs_namespace_lookup(rig->names, dir, name, child);

    if (r == 0)
        forget(rig, child);
    return r;
}

/* --- listing ---------------------------------------------------------------------------------- */

typedef struct {
    char *name;
    uint64_t nodeid;
    uint64_t next;
} Listed;

typedef struct {
    GArray *entries; /* of Listed */
    guint most;
} Listing;

static void
clear_listed(gpointer data)
{
    g_free(((Listed *)data)->name);
}

static bool
take_entry(const char *name, const SfsTarget *child, uint64_t next, void *data)
{
    Listing *listing = data;
    Listed listed = {g_strdup(name), child->nodeid, next};

    if (listing->entries->len == listing->most) {
        g_free(listed.name);
        return false;
    }
    g_array_append_val(listing->entries, listed);
    return true;
}

/* At most @most entries after @offset. */
static GArray *
list(Rig *rig, const SfsTarget *dir, uint64_t offset, guint most)
{
    Listing listing = {g_array_new(FALSE, FALSE, sizeof(Listed)), most};

    g_array_set_clear_func(listing.entries, clear_listed);
    g_assert_cmpint(sfs_namespace_list(rig->names, dir, offset, take_entry, &listing), ==, 0);
    return listing.entries;
}

/* --- the model -------------------------------------------------------------------------------- */

typedef struct ModelNode ModelNode;
struct ModelNode {
    SfsTarget target;
    uint64_t refs; /* of the kernel */
    guint names;
    guint chunks;        /* of text that it holds itself */
    ModelNode *parent;   /* directories; NULL once removed */
    GHashTable *entries; /* directories: name → ModelNode */
};

typedef struct {
    Rig *rig;
    GPtrArray *nodes; /* ModelNode, the root first */
    char *pool[16];   /* of names */
    guint n_pool;
} Model;

static bool
is_dir(const ModelNode *node)
{
    return node->entries != NULL;
}

static ModelNode *
model_add(Model *model, const SfsTarget *target)
{
    ModelNode *node = g_new0(ModelNode, 1);

    node->target = *target;
    node->refs = 1;
    if (S_ISDIR(target->rec->mode))
        node->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_ptr_array_add(model->nodes, node);
    return node;
}

static void
model_free_node(ModelNode *node)
{
    g_clear_pointer(&node->entries, g_hash_table_unref);
    g_free(node);
}

/* Drops a node that nothing leads to: in the registry it must be gone, too. */
static void
model_collect(Model *model, ModelNode *node)
{
    SfsTarget target;

    if (node->refs > 0 || node->names > 0)
        return;
    g_assert_cmpint(sfs_node_resolve(model->rig->nodes, node->target.nodeid, &target), ==, -ESTALE);
    g_ptr_array_remove_fast(model->nodes, node);
    model_free_node(node);
}

static ModelNode *
model_find(ModelNode *dir, const char *name)
{
    return g_hash_table_lookup(dir->entries, name);
}

static void
model_name(ModelNode *dir, const char *name, ModelNode *node)
{
    g_hash_table_insert(dir->entries, g_strdup(name), node);
    node->names++;
    if (is_dir(node))
        node->parent = dir;
}

static void
model_unname(ModelNode *dir, const char *name, ModelNode *node)
{
    g_hash_table_remove(dir->entries, name);
    node->names--;
    if (is_dir(node) && node->names == 0)
        node->parent = NULL;
}

static bool
model_is_root(Model *model, const ModelNode *node)
{
    return node == g_ptr_array_index(model->nodes, 0);
}

static bool
is_removed(Model *model, const ModelNode *dir)
{
    return dir->names == 0 && !model_is_root(model, dir);
}

static bool
model_lies_in(const ModelNode *dir, const ModelNode *ancestor)
{
    for (; dir != NULL; dir = dir->parent) {
        if (dir == ancestor)
            return true;
    }
    return false;
}

static guint
chunks_of(size_t length)
{
    return (guint)((length + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static guint
expected_nlink(Model *model, const ModelNode *node)
{
    GHashTableIter iter;
    gpointer child;
    guint n = 2;

    if (!is_dir(node))
        return node->names;
    if (is_removed(model, node))
        return 0;
    g_hash_table_iter_init(&iter, node->entries);
    while (g_hash_table_iter_next(&iter, NULL, &child))
        n += is_dir(child);
    return n;
}

static void
check_dir(Model *model, ModelNode *dir, guint *chunks)
{
    g_autoptr(GArray) found = list(model->rig, &dir->target, 0, G_MAXUINT);
    const Listed *dots = (const Listed *)(void *)found->data;

    g_assert_cmpuint(found->len, ==, g_hash_table_size(dir->entries) + 2);
    g_assert_cmpstr(dots[0].name, ==, ".");
    g_assert_cmpuint(dots[0].nodeid, ==, dir->target.nodeid);
    g_assert_cmpstr(dots[1].name, ==, "..");
    if (!is_removed(model, dir))
        g_assert_cmpuint(dots[1].nodeid, ==,
                         (dir->parent != NULL ? dir->parent : dir)->target.nodeid);
    for (guint i = 2; i < found->len; i++) {
        const Listed *entry = &g_array_index(found, Listed, i);
        ModelNode *child = model_find(dir, entry->name);
        size_t length = strlen(entry->name);

        g_assert_nonnull(child);
        g_assert_cmpuint(entry->nodeid, ==, child->target.nodeid);
        g_assert_cmpuint(entry->next, >, dots[i - 1].next);
        *chunks += length > SFS_INLINE_NAME ? chunks_of(length) : 0;
    }
    g_assert_cmpuint(dir->target.rec->size, ==, ENTRY_SIZE * (found->len - 2));
}

static void
check_model(Model *model)
{
    guint entries = 0, chunks = 0;

    for (guint i = 0; i < model->nodes->len; i++) {
        ModelNode *node = g_ptr_array_index(model->nodes, i);

        g_assert_cmpuint(node->target.rec->state, ==, SFS_LIVE);
        g_assert_cmpuint(node->target.rec->nlink, ==, expected_nlink(model, node));
        g_assert_cmpuint(node->target.rec->nlookup, ==, node->refs);
        chunks += node->chunks;
        if (!is_dir(node))
            continue;
        entries += g_hash_table_size(node->entries);
        check_dir(model, node, &chunks);
    }
    g_assert_cmpuint(sfs_registry_count(model->rig->registry, SFS_TABLE_NODES), ==,
                     model->nodes->len);
    g_assert_cmpuint(sfs_registry_count(model->rig->registry, SFS_TABLE_DIRENTS), ==, entries);
    g_assert_cmpuint(sfs_registry_count(model->rig->registry, SFS_TABLE_CHUNKS), ==, chunks);
}

/* --- random operations -------------------------------------------------------------------------
 */

static ModelNode *
any_node(Model *model)
{
    return g_ptr_array_index(model->nodes,
                             (guint)g_test_rand_int_range(0, (gint)model->nodes->len));
}

static ModelNode *
any_dir(Model *model)
{
    ModelNode *node;

    do
        node = any_node(model);
    while (!is_dir(node));
    return node;
}

static const char *
any_name(Model *model)
{
    return model->pool[g_test_rand_int_range(0, (gint)model->n_pool)];
}

static int
expected_new(Model *model, ModelNode *dir, const char *name)
{
    if (is_removed(model, dir))
        return -ENOENT;
    return model_find(dir, name) != NULL ? -EEXIST : 0;
}

static void
do_create(Model *model)
{
    static const mode_t types[] = {S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO};
    ModelNode *dir = any_dir(model), *node;
    const char *name = any_name(model);
    int expected = expected_new(model, dir, name);
    mode_t type = types[g_test_rand_int_range(0, G_N_ELEMENTS(types))];
    g_autofree char *link_target = g_strnfill((gsize)g_test_rand_int_range(1, 500), 'l');
    SfsNodeSpec spec = {.mode = type | 0700,
                        .uid = 3,
                        .gid = 4,
                        .link_target = type == S_IFLNK ? link_target : NULL};
    SfsTarget child;

    if (model->nodes->len > 60)
        return;
    g_assert_cmpint(sfs_namespace_create(model->rig->names, &dir->target, name, &spec, &child), ==,
                    expected);
    if (expected < 0)
        return;
    node = model_add(model, &child);
    model_name(dir, name, node);
    g_assert_cmpuint(child.rec->mode, ==, spec.mode);
    if (type == S_IFLNK) {
        g_autofree char *text = sfs_registry_load_text(model->rig->registry, child.rec->text, NULL);

        node->chunks = chunks_of(strlen(link_target));
        g_assert_cmpuint(child.rec->size, ==, strlen(link_target));
        g_assert_cmpstr(text, ==, link_target);
    }
}

static void
do_create_unnamed(Model *model)
{
    ModelNode *dir = any_dir(model);
    SfsTarget child;

    if (model->nodes->len > 60)
        return;
    g_assert_cmpint(
        sfs_namespace_create_unnamed(model->rig->names, &dir->target, &file_spec, &child), ==, 0);
    model_add(model, &child);
}

static void
do_link(Model *model)
{
    ModelNode *dir = any_dir(model), *node = any_node(model);
    const char *name = any_name(model);
    int expected = expected_new(model, dir, name);

    /* Without a reference the kernel has nothing to link, and never a directory. */
    if (is_dir(node) || node->refs == 0)
        return;
    g_assert_cmpint(sfs_namespace_link(model->rig->names, &node->target, &dir->target, name), ==,
                    expected);
    if (expected == 0)
        model_name(dir, name, node);
}

static void
do_remove(Model *model, bool directory)
{
    ModelNode *dir = any_dir(model);
    const char *name = any_name(model);
    ModelNode *node = model_find(dir, name);
    int expected = 0, r;

    if (node == NULL)
        expected = -ENOENT;
    else if (is_dir(node) != directory)
        expected = directory ? -ENOTDIR : -EISDIR;
    else if (directory && g_hash_table_size(node->entries) > 0)
        expected = -ENOTEMPTY;
    r = directory ? sfs_namespace_rmdir(model->rig->names, &dir->target, name)
                  : sfs_namespace_unlink(model->rig->names, &dir->target, name);
    g_assert_cmpint(r, ==, expected);
    if (r < 0)
        return;
    model_unname(dir, name, node);
    model_collect(model, node);
}

/* Adds to the errors that one of which has to come. */
static void
rename_errors(Model *model, ModelNode *dir, ModelNode *from, ModelNode *new_dir, ModelNode *to,
              unsigned flags, GArray *errors)
{
    const bool exchange = flags & RENAME_EXCHANGE;
    const struct {
        bool applies;
        int error;
    } rules[] = {
        {from == NULL || is_removed(model, new_dir), -ENOENT},
        {exchange && to == NULL, -ENOENT},
        {from != NULL && is_dir(from) && model_lies_in(new_dir, from), -EINVAL},
        {exchange && to != NULL && is_dir(to) && model_lies_in(dir, to), -EINVAL},
        {(flags & RENAME_NOREPLACE) && to != NULL, -EEXIST},
        {!exchange && from != NULL && to != NULL && is_dir(from) && !is_dir(to), -ENOTDIR},
        {!exchange && from != NULL && to != NULL && !is_dir(from) && is_dir(to), -EISDIR},
        {!exchange && to != NULL && is_dir(to) && g_hash_table_size(to->entries) > 0, -ENOTEMPTY},
    };

    for (guint i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (rules[i].applies)
            g_array_append_val(errors, rules[i].error);
    }
}

static void
model_rename(Model *model, ModelNode *dir, const char *name, ModelNode *new_dir,
             const char *new_name, bool exchange)
{
    ModelNode *from = model_find(dir, name), *to = model_find(new_dir, new_name);

    if (to != NULL)
        model_unname(new_dir, new_name, to);
    model_unname(dir, name, from);
    model_name(new_dir, new_name, from);
    if (exchange)
        model_name(dir, name, to);
    else if (to != NULL)
        model_collect(model, to);
}

static void
do_rename(Model *model)
{
    static const unsigned all_flags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE};
    ModelNode *dir = any_dir(model), *new_dir = g_test_rand_bit() ? dir : any_dir(model);
    const char *name = any_name(model), *new_name = any_name(model);
    ModelNode *from = model_find(dir, name), *to = model_find(new_dir, new_name);
    unsigned flags = all_flags[g_test_rand_int_range(0, G_N_ELEMENTS(all_flags))];
    g_autoptr(GArray) errors = g_array_new(FALSE, FALSE, sizeof(int));
    bool same = from != NULL && from == to && !(flags & RENAME_NOREPLACE);
    int r = sfs_namespace_rename(model->rig->names, &dir->target, name, &new_dir->target, new_name,
                                 flags);

    if (!same)
        rename_errors(model, dir, from, new_dir, to, flags, errors);
    if (errors->len == 0) {
        g_assert_cmpint(r, ==, 0);
        if (!same)
            model_rename(model, dir, name, new_dir, new_name, flags & RENAME_EXCHANGE);
        return;
    }
    for (guint i = 0; i < errors->len; i++) {
        if (r == g_array_index(errors, int, i))
            return;
    }
    g_assert_cmpint(r, ==, g_array_index(errors, int, 0));
}

static void
do_lookup(Model *model)
{
    ModelNode *dir = any_dir(model);
    const char *name = any_name(model);
    ModelNode *node = model_find(dir, name);
    SfsTarget child;

    g_assert_cmpint(sfs_namespace_lookup(model->rig->names, &dir->target, name, &child), ==,
                    node != NULL ? 0 : -ENOENT);
    if (node == NULL)
        return;
    g_assert_cmpuint(child.nodeid, ==, node->target.nodeid);
    g_assert_true(child.rec == node->target.rec);
    node->refs++;
}

static void
do_forget(Model *model)
{
    ModelNode *node = any_node(model);
    uint64_t n = g_test_rand_bit() ? node->refs : MIN(node->refs, 1);

    /* The kernel keeps what it works in. */
    if (model_is_root(model, node) || n == 0 || (is_dir(node) && node->names > 0))
        return;
    sfs_node_forget(model->rig->nodes, node->target.slot, n);
    node->refs -= n;
    model_collect(model, node);
}

static void
do_one(Model *model)
{
    switch (g_test_rand_int_range(0, 14)) {
    case 0:
    case 1:
    case 2:
        do_create(model);
        break;
    case 3:
        do_create_unnamed(model);
        break;
    case 4:
        do_link(model);
        break;
    case 5:
        do_remove(model, false);
        break;
    case 6:
        do_remove(model, true);
        break;
    case 7:
        do_lookup(model);
        break;
    case 8:
    case 9:
        do_forget(model);
        break;
    default:
        do_rename(model);
        break;
    }
}

/* Takes away the names in a directory, from the leaves up. */
static void
empty(Model *model, ModelNode *dir)
{
    GHashTableIter iter;
    gpointer name, child;

    g_hash_table_iter_init(&iter, dir->entries);
    while (g_hash_table_iter_next(&iter, &name, &child)) {
        ModelNode *node = child;

        if (is_dir(node)) {
            empty(model, node);
            g_assert_cmpint(sfs_namespace_rmdir(model->rig->names, &dir->target, name), ==, 0);
        } else {
            g_assert_cmpint(sfs_namespace_unlink(model->rig->names, &dir->target, name), ==, 0);
        }
        node->names--;
    }
}

static void
end_model(Model *model)
{
    empty(model, g_ptr_array_index(model->nodes, 0));
    for (guint i = 0; i < model->nodes->len; i++) {
        ModelNode *node = g_ptr_array_index(model->nodes, i);

        if (i > 0 && node->refs > 0)
            sfs_node_forget(model->rig->nodes, node->target.slot, node->refs);
        model_free_node(node);
    }
    g_ptr_array_unref(model->nodes);
    for (guint i = 0; i < model->n_pool; i++)
        g_free(model->pool[i]);
}

static void
test_model(Rig *rig, gconstpointer data)
{
    static const gsize lengths[] = {SFS_INLINE_NAME - 1, SFS_INLINE_NAME, SFS_INLINE_NAME + 1,
                                    CHUNK_BYTES,         CHUNK_BYTES + 1, SFS_NAME_MAX};
    Model model = {.rig = rig, .nodes = g_ptr_array_new()};
    ModelNode *root = model_add(&model, &rig->root);

    root->refs = 0;
    for (guint i = 0; i < 5; i++)
        model.pool[model.n_pool++] = g_strdup_printf("%c", 'a' + i);
    model.pool[model.n_pool++] = g_strdup("\xff\x01 \n");
    for (guint i = 0; i < G_N_ELEMENTS(lengths); i++)
        model.pool[model.n_pool++] = g_strnfill(lengths[i], 'n');
    for (int i = 0; i < 15000; i++) {
        do_one(&model);
        if (i % 20 == 0)
            check_model(&model);
        if (i % 3000 == 0) {
            rebuild(rig);
            check_model(&model);
        }
    }
    check_model(&model);
    end_model(&model);
}

/* --- listing while names come and go ------------------------------------------------------------
 */

#define N_STAYING 300

/* Every entry that stays is listed once, none that was gone before, and no name twice. */
static void
test_cookies(Rig *rig, gconstpointer data)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) gone = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    SfsTarget dir = create(rig, &rig->root, "dir", &dir_spec);
    uint64_t offset = 0;
    guint n_new = 0, n_seen;

    for (guint i = 0; i < 2 * N_STAYING; i++) {
        g_autofree char *name = g_strdup_printf("%s-%u", i % 2 ? "stay" : "go", i / 2);
        SfsTarget child = create(rig, &dir, name, &file_spec);

        forget(rig, &child);
    }
    do {
        g_autoptr(GArray) part = list(rig, &dir, offset, (guint)g_test_rand_int_range(1, 9));
        g_autoptr(GArray) again = list(rig, &dir, offset, part->len);

        n_seen = part->len;
        g_assert_cmpuint(again->len, ==, part->len);
        for (guint i = 0; i < part->len; i++) {
            const Listed *entry = &g_array_index(part, Listed, i);

            g_assert_cmpuint(entry->next, ==, g_array_index(again, Listed, i).next);
            g_assert_cmpstr(entry->name, ==, g_array_index(again, Listed, i).name);
            g_assert_cmpuint(entry->next, >, offset);
            offset = entry->next;
            g_assert_false(g_hash_table_contains(gone, entry->name));
            g_assert_true(g_hash_table_add(seen, g_strdup(entry->name)));
        }
        /* Some names go, others come, one moves; never one that is to stay. */
        for (int i = 0; i < 4; i++) {
            g_autofree char *name = g_strdup_printf("go-%d", g_test_rand_int_range(0, N_STAYING));
            g_autofree char *other = g_strdup_printf("new-%u", n_new++);

            if (i == 0 && n_new < 4 * N_STAYING) {
                SfsTarget child = create(rig, &dir, other, &file_spec);

                forget(rig, &child);
            } else if (i == 1) {
                if (sfs_namespace_rename(rig->names, &dir, name, &dir, other, 0) == 0)
                    g_hash_table_add(gone, g_strdup(name));
            } else if (sfs_namespace_unlink(rig->names, &dir, name) == 0) {
                g_hash_table_add(gone, g_strdup(name));
            }
        }
        if (offset % 16 == 0)
            rebuild(rig);
    } while (n_seen > 0);
    for (guint i = 0; i < N_STAYING; i++) {
        g_autofree char *name = g_strdup_printf("stay-%u", i);

        g_assert_true(g_hash_table_contains(seen, name));
    }
    /* From the start, everything that is there now. */
    for (;;) {
        g_autoptr(GArray) all = list(rig, &dir, 2, 100);

        for (guint i = 0; i < all->len; i++)
            g_assert_cmpint(
                sfs_namespace_unlink(rig->names, &dir, g_array_index(all, Listed, i).name), ==, 0);
        if (all->len == 0)
            break;
    }
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "dir"), ==, 0);
    forget(rig, &dir);
}

/* --- names of every length ----------------------------------------------------------------------
 */

static void
test_long_names(Rig *rig, gconstpointer data)
{
    SfsTarget found, child;

    for (gsize length = 1; length <= SFS_NAME_MAX; length++) {
        g_autofree char *name = g_strnfill(length, 'x');

        child = create(rig, &rig->root, name, &file_spec);
        forget(rig, &child);
    }
    rebuild(rig);
    for (gsize length = 1; length <= SFS_NAME_MAX; length++) {
        g_autofree char *name = g_strnfill(length, 'x');
        g_autofree char *other = g_strnfill(length, 'y');

        g_assert_cmpint(look_up(rig, &rig->root, name, &found), ==, 0);
        g_assert_cmpint(look_up(rig, &rig->root, other, &found), ==, -ENOENT);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, name, &rig->root, other, 0),
                        ==, 0);
        g_assert_cmpint(look_up(rig, &rig->root, name, &found), ==, -ENOENT);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, other), ==, 0);
    }
}

static void
test_too_long(Rig *rig, gconstpointer data)
{
    g_autofree char *name = g_strnfill(SFS_NAME_MAX + 1, 'x');
    SfsTarget child = create(rig, &rig->root, "a", &file_spec), other;

    g_assert_cmpint(sfs_namespace_create(rig->names, &rig->root, name, &file_spec, &other), ==,
                    -ENAMETOOLONG);
    g_assert_cmpint(sfs_namespace_link(rig->names, &child, &rig->root, name), ==, -ENAMETOOLONG);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &rig->root, name, &other), ==, -ENAMETOOLONG);
    g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, "a", &rig->root, name, 0), ==,
                    -ENAMETOOLONG);
    g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, "a", &rig->root, "b", 1u << 4), ==,
                    -EINVAL);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "a"), ==, 0);
    forget(rig, &child);
}

/* A name that fills its place in the record to the last byte, exchanged. */
static void
test_exchange_full(Rig *rig, gconstpointer data)
{
    SfsTarget found, a, b, dir = create(rig, &rig->root, "dir", &dir_spec);

    for (gsize length = SFS_INLINE_NAME - 1; length <= SFS_INLINE_NAME + 1; length++) {
        g_autofree char *x = g_strnfill(length, 'x');
        g_autofree char *y = g_strnfill(length, 'y');

        a = create(rig, &rig->root, x, &file_spec);
        b = create(rig, &dir, y, &file_spec);
        for (int i = 0; i < 2; i++) {
            g_assert_cmpint(
                sfs_namespace_rename(rig->names, &rig->root, x, &dir, y, RENAME_EXCHANGE), ==, 0);
            g_assert_cmpint(look_up(rig, &rig->root, x, &found), ==, 0);
            g_assert_cmpuint(found.nodeid, ==, i == 0 ? b.nodeid : a.nodeid);
            g_assert_cmpint(look_up(rig, &dir, y, &found), ==, 0);
            g_assert_cmpuint(found.nodeid, ==, i == 0 ? a.nodeid : b.nodeid);
        }
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, x), ==, 0);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &dir, y), ==, 0);
        forget(rig, &a);
        forget(rig, &b);
    }
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "dir"), ==, 0);
    forget(rig, &dir);
}

/* --- special things -----------------------------------------------------------------------------
 */

static void
test_reserved(Rig *rig, gconstpointer data)
{
    static const char *const reserved[] = {".cow", ".info", ".stats"};
    static const SfsClass classes[] = {SFS_CLASS_COW, SFS_CLASS_INFO, SFS_CLASS_STATS};
    SfsTarget dir = create(rig, &rig->root, "dir", &dir_spec);
    SfsTarget file = create(rig, &rig->root, "file", &file_spec);
    SfsTarget found;

    for (guint i = 0; i < G_N_ELEMENTS(reserved); i++) {
        const char *name = reserved[i];
        SfsTarget child;

        g_assert_cmpint(sfs_namespace_lookup(rig->names, &rig->root, name, &child), ==, 0);
        g_assert_cmpint(child.class, ==, classes[i]);
        g_assert_cmpint(sfs_target_is_dir(&child), ==, i < 2);
        g_assert_cmpint(sfs_namespace_create(rig->names, &rig->root, name, &file_spec, &found), ==,
                        -EEXIST);
        g_assert_cmpint(sfs_namespace_link(rig->names, &file, &rig->root, name), ==, -EEXIST);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, name), ==, -EBUSY);
        g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, name), ==, -EBUSY);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, name, &rig->root, "b", 0), ==,
                        -EBUSY);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, "file", &rig->root, name, 0),
                        ==, -EBUSY);
        g_assert_cmpint(
            sfs_namespace_rename(rig->names, &rig->root, "file", &rig->root, name, RENAME_EXCHANGE),
            ==, -EBUSY);

        /* In other directories they are names as any. */
        child = create(rig, &dir, name, &file_spec);
        g_assert_cmpint(child.class, ==, SFS_CLASS_NODE);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &dir, name, &dir, "other", 0), ==, 0);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &dir, "other", &dir, name, 0), ==, 0);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &dir, name), ==, 0);
        forget(rig, &child);
    }
    {
        g_autoptr(GArray) all = list(rig, &rig->root, 0, 100);

        g_assert_cmpuint(all->len, ==, 4);
    }
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "file"), ==, 0);
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "dir"), ==, 0);
    forget(rig, &file);
    forget(rig, &dir);
}

/* The tree seen through .cow: each lookup of a section is another nodeid of the same node, and each
 * of them a reference that keeps it. */
static void
test_cow_tree(Rig *rig, gconstpointer data)
{
    SfsTarget dir = create(rig, &rig->root, "dir", &dir_spec);
    SfsTarget file = create(rig, &dir, "file", &file_spec);
    SfsTarget cow, cow_dir, again, first, second, resolved;
    g_autoptr(GArray) all = NULL;

    g_assert_cmpint(sfs_namespace_lookup(rig->names, &rig->root, ".cow", &cow), ==, 0);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &cow, ".cow", &resolved), ==, -ENOENT);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &cow, "dir", &cow_dir), ==, 0);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &cow, "dir", &again), ==, 0);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &cow_dir, "file", &first), ==, 0);
    g_assert_cmpint(sfs_namespace_lookup(rig->names, &cow_dir, "file", &second), ==, 0);
    g_assert_cmpint(cow_dir.class, ==, SFS_CLASS_COW);
    g_assert_cmpint(first.class, ==, SFS_CLASS_COW);
    g_assert_cmpuint(cow_dir.slot, ==, dir.slot);
    g_assert_cmpuint(cow_dir.nodeid, ==, again.nodeid);
    g_assert_cmpuint(cow_dir.nodeid, !=, dir.nodeid);
    g_assert_cmpuint(first.slot, ==, file.slot);
    g_assert_cmpuint(first.nodeid, !=, file.nodeid);
    g_assert_cmpuint(first.nodeid, !=, second.nodeid);
    /* Nodeids of this tree cost nothing: the kernel's references are not counted. */
    g_assert_cmpuint(file.rec->nlookup, ==, 1);
    g_assert_cmpuint(dir.rec->nlookup, ==, 1);
    all = list(rig, &cow_dir, 0, 100);
    g_assert_cmpuint(all->len, ==, 3);
    g_assert_cmpstr(g_array_index(all, Listed, 2).name, ==, "file");
    g_assert_cmpuint(file.rec->nlookup, ==, 1);

    /* What an operation has resolved stays for as long as that lasts. */
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &dir, "file"), ==, 0);
    forget(rig, &file);
    sfs_target_clear(&second);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, first.nodeid, &resolved), ==, 0);
    g_assert_true(resolved.rec == file.rec);
    sfs_target_clear(&resolved);
    sfs_target_clear(&first);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_NODES), ==, 2);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, first.nodeid, &resolved), ==, -ESTALE);

    sfs_target_clear(&cow);
    sfs_target_clear(&cow_dir);
    sfs_target_clear(&again);
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "dir"), ==, 0);
    forget(rig, &dir);
}

/* A pin keeps what has neither name nor reference. */
static void
test_pin(Rig *rig, gconstpointer data)
{
    SfsTarget file = create(rig, &rig->root, "file", &file_spec), resolved;

    sfs_node_pin(rig->nodes, file.slot);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "file"), ==, 0);
    forget(rig, &file);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, file.nodeid, &resolved), ==, 0);
    sfs_node_unpin(rig->nodes, file.slot);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, file.nodeid, &resolved), ==, -ESTALE);
}

/* A nodeid never comes to mean another file, however often its slot is used again. */
static void
test_nodeids(Rig *rig, gconstpointer data)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    SfsTarget resolved;

    for (int i = 0; i < 1000; i++) {
        SfsTarget child = create(rig, &rig->root, "a", &file_spec);
        uint64_t *nodeid = g_new(uint64_t, 1);

        *nodeid = child.nodeid;
        g_assert_true(g_hash_table_add(seen, nodeid));
        g_assert_cmpint(sfs_node_resolve(rig->nodes, child.nodeid, &resolved), ==, 0);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "a"), ==, 0);
        g_assert_cmpint(sfs_node_resolve(rig->nodes, child.nodeid, &resolved), ==, 0);
        forget(rig, &child);
        g_assert_cmpint(sfs_node_resolve(rig->nodes, child.nodeid, &resolved), ==, -ESTALE);
    }
    g_assert_cmpuint(sfs_registry_bound(rig->registry, SFS_TABLE_NODES), ==, 2);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, 0, &resolved), ==, -ESTALE);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, 2, &resolved), ==, -ESTALE);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, UINT64_MAX >> 2, &resolved), ==, -ESTALE);
    g_assert_cmpint(sfs_node_resolve(rig->nodes, 1, &resolved), ==, 0);
}

static void
test_not_a_directory(Rig *rig, gconstpointer data)
{
    SfsTarget file = create(rig, &rig->root, "file", &file_spec), other;
    Listing listing = {NULL, 0};

    g_assert_cmpint(sfs_namespace_lookup(rig->names, &file, "x", &other), ==, -ENOTDIR);
    g_assert_cmpint(sfs_namespace_create(rig->names, &file, "x", &file_spec, &other), ==, -ENOTDIR);
    g_assert_cmpint(sfs_namespace_create_unnamed(rig->names, &file, &file_spec, &other), ==,
                    -ENOTDIR);
    g_assert_cmpint(sfs_namespace_link(rig->names, &file, &file, "x"), ==, -ENOTDIR);
    g_assert_cmpint(sfs_namespace_list(rig->names, &file, 0, take_entry, &listing), ==, -ENOTDIR);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "file"), ==, 0);
    forget(rig, &file);
}

static void
test_inherited(Rig *rig, gconstpointer data)
{
    SfsNodeSpec spec = dir_spec;
    SfsTarget dir, sub, file;

    spec.gid = 77;
    spec.mode |= S_ISGID;
    dir = create(rig, &rig->root, "dir", &spec);
    g_assert_cmpuint(dir.rec->gid, ==, 77);
    sub = create(rig, &dir, "sub", &dir_spec);
    file = create(rig, &dir, "file", &file_spec);
    g_assert_cmpuint(sub.rec->gid, ==, 77);
    g_assert_cmpuint(sub.rec->mode, ==, S_IFDIR | S_ISGID | 0755);
    g_assert_cmpuint(file.rec->gid, ==, 77);
    g_assert_cmpuint(file.rec->uid, ==, 1);
    g_assert_cmpuint(file.rec->mode, ==, S_IFREG | 0644);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &dir, "file"), ==, 0);
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &dir, "sub"), ==, 0);
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "dir"), ==, 0);
    forget(rig, &file);
    forget(rig, &sub);
    forget(rig, &dir);
}

/* With nr_sections=4: the root does not count, what is held without a name does. */
static void
test_limit(Rig *rig, gconstpointer data)
{
    SfsTarget all[4], other;

    all[0] = create(rig, &rig->root, "a", &file_spec);
    all[1] = create(rig, &rig->root, "b", &dir_spec);
    all[2] = create(rig, &all[1], "c", &file_spec);
    g_assert_cmpint(sfs_namespace_create_unnamed(rig->names, &rig->root, &file_spec, &all[3]), ==,
                    0);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(sfs_namespace_create(rig->names, &rig->root, "d", &file_spec, &other), ==,
                        -ENOSPC);
        g_assert_cmpint(sfs_namespace_create_unnamed(rig->names, &rig->root, &file_spec, &other),
                        ==, -ENOSPC);
    }
    /* There may be as many names, and moving takes none. */
    g_assert_cmpint(sfs_namespace_link(rig->names, &all[3], &rig->root, "d"), ==, 0);
    g_assert_cmpint(sfs_namespace_link(rig->names, &all[0], &rig->root, "e"), ==, -ENOSPC);
    g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, "a", &all[1], "e", 0), ==, 0);
    g_assert_cmpint(sfs_namespace_link(rig->names, &all[0], &rig->root, "a"), ==, -ENOSPC);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &all[1], "e"), ==, 0);
    g_assert_cmpint(sfs_namespace_create(rig->names, &rig->root, "f", &file_spec, &other), ==,
                    -ENOSPC); /* still referenced */
    forget(rig, &all[0]);
    all[0] = create(rig, &rig->root, "f", &file_spec);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "f"), ==, 0);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "d"), ==, 0);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &all[1], "c"), ==, 0);
    g_assert_cmpint(sfs_namespace_rmdir(rig->names, &rig->root, "b"), ==, 0);
    for (int i = 0; i < 4; i++)
        forget(rig, &all[i]);
}

#define LINKS 40000

/* How long it takes to give all these names to a file and to take them away again, µs. */
static gint64
name_and_unname(Rig *rig, const SfsTarget *file, bool newest_first)
{
    gint64 begin = g_get_monotonic_time();
    char name[16];

    for (int i = 0; i < LINKS; i++) {
        g_snprintf(name, sizeof name, "%d", i);
        g_assert_cmpint(sfs_namespace_link(rig->names, file, &rig->root, name), ==, 0);
    }
    for (int i = 0; i < LINKS; i++) {
        g_snprintf(name, sizeof name, "%d", newest_first ? LINKS - 1 - i : i);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, name), ==, 0);
    }
    return g_get_monotonic_time() - begin;
}

/* Each is taken away as fast as any other, without a walk through those that came after it. */
static void
test_very_many_names(Rig *rig, gconstpointer data)
{
    SfsTarget file = create(rig, &rig->root, "file", &file_spec);
    gint64 newest = name_and_unname(rig, &file, true);
    gint64 oldest = name_and_unname(rig, &file, false);

    g_test_message("newest first %" PRIi64 " us, oldest first %" PRIi64 " us", newest, oldest);
    g_assert_cmpint(oldest, <, 5 * newest);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "file"), ==, 0);
    forget(rig, &file);
}

/* --- threads ---------------------------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    _Atomic bool *done;
} Reader;

/* A name that is replaced, or exchanged, is there at all times, and once. */
static gpointer
read_on(gpointer data)
{
    Reader *reader = data;
    SfsTarget found;

    while (!atomic_load(reader->done)) {
        guint n = 0;
        g_autoptr(GArray) all = list(reader->rig, &reader->rig->root, 0, 100);

        g_assert_cmpint(look_up(reader->rig, &reader->rig->root, "fixed", &found), ==, 0);
        for (guint i = 0; i < all->len; i++)
            n += strcmp(g_array_index(all, Listed, i).name, "fixed") == 0;
        g_assert_cmpuint(n, ==, 1);
        g_usleep(10);
    }
    return NULL;
}

static void
test_threads(Rig *rig, gconstpointer data)
{
    _Atomic bool done = false;
    Reader reader = {rig, &done};
    SfsTarget child = create(rig, &rig->root, "fixed", &file_spec);
    GThread *threads[2];

    forget(rig, &child);
    for (int i = 0; i < 2; i++)
        threads[i] = g_thread_new("reader", read_on, &reader);
    for (int i = 0; i < 3000; i++) {
        child = create(rig, &rig->root, "other", &file_spec);
        forget(rig, &child);
        g_assert_cmpint(sfs_namespace_rename(rig->names, &rig->root, "other", &rig->root, "fixed",
                                             i % 2 == 0 ? 0 : RENAME_EXCHANGE),
                        ==, 0);
        g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "other"), ==,
                        i % 2 == 0 ? -ENOENT : 0);
    }
    atomic_store(&done, true);
    for (int i = 0; i < 2; i++)
        g_thread_join(threads[i]);
    g_assert_cmpint(sfs_namespace_unlink(rig->names, &rig->root, "fixed"), ==, 0);
}

static void
add(const char *name, guint nr_sections, void (*test)(Rig *, gconstpointer))
{
    g_test_add(name, Rig, GUINT_TO_POINTER(nr_sections), set_up, test, tear_down);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/namespace/cookies", 0, test_cookies);
    add("/namespace/long-names", 0, test_long_names);
    add("/namespace/too-long", 0, test_too_long);
    add("/namespace/reserved", 0, test_reserved);
    add("/namespace/cow-tree", 0, test_cow_tree);
    add("/namespace/pin", 0, test_pin);
    add("/namespace/nodeids", 0, test_nodeids);
    add("/namespace/not-a-directory", 0, test_not_a_directory);
    add("/namespace/inherited", 0, test_inherited);
    add("/namespace/limit", 4, test_limit);
    add("/namespace/very-many-names", 0, test_very_many_names);
    add("/namespace/threads", 0, test_threads);
    add("/namespace/exchange-full", 0, test_exchange_full);
    add("/namespace/model", 0, test_model);
    return g_test_run();
}
