/* SPDX-License-Identifier: MIT */
/* The checker of the registry: content with one that is right, and with nothing that is not. */
#include "registry-check.h"

#include "fixture.h"
#include "node.h"

#include <string.h>
#include <sys/wait.h>

typedef struct {
    SfsRegistry *registry;
    SfsNodeRec *node;
    SfsDirentRec *name;
    SfsHandleRec *handle;
    SfsViewRec *view;
    uint32_t node_slot, name_slot, handle_slot, view_slot, fd_slot;
} Fixture;

static void *
make(Fixture *f, SfsTable table, uint32_t *slot)
{
    void *rec = sfs_registry_alloc(f->registry, table, slot);

    g_assert_nonnull(rec);
    sfs_registry_publish(f->registry, table, *slot);
    return rec;
}

/* A directory with one section in it, that has bytes and is open as a view. */
static void
set_up(Fixture *f, gconstpointer data)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;
    uint32_t root_slot;
    SfsNodeRec *root;

    f->registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    root = make(f, SFS_TABLE_NODES, &root_slot);
    g_assert_cmpuint(root_slot, ==, SFS_ROOT_SLOT);
    root->mode = S_IFDIR | 0755;
    root->nlink = 2;
    f->node = make(f, SFS_TABLE_NODES, &f->node_slot);
    f->node->mode = S_IFREG | 0644;
    f->node->nlink = 1;
    f->name = make(f, SFS_TABLE_DIRENTS, &f->name_slot);
    f->name->parent = SFS_ROOT_SLOT;
    f->name->node = f->node_slot;
    f->view = make(f, SFS_TABLE_VIEWS, &f->view_slot);
    f->view->node = f->node_slot;
    f->view->size = f->view->base_limit = 100;
    f->handle = make(f, SFS_TABLE_HANDLES, &f->handle_slot);
    f->handle->node = f->node_slot;
    f->handle->view = f->view_slot;
    g_assert_nonnull(sfs_registry_alloc(f->registry, SFS_TABLE_FDS, &f->fd_slot));
    atomic_store(&((SfsFdRec *)sfs_registry_get(f->registry, SFS_TABLE_FDS, f->fd_slot))->keeper_fd,
                 77);
    f->node->fd_slot = f->fd_slot;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    sfs_registry_free(f->registry);
}

static char *
problems_of(Fixture *f)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    sfs_registry_check(f->registry, problems);
    g_ptr_array_add(problems, NULL);
    return g_strjoinv("\n", (char **)problems->pdata);
}

/* It finds something, however many complaints that makes. */
static void
finds_something(Fixture *f)
{
    g_autofree char *found = problems_of(f);

    g_assert_cmpstr(found, !=, "");
}

/* It finds this, and only this. */
static void
finds(Fixture *f, const char *expected)
{
    g_autofree char *found = problems_of(f);

    g_assert_cmpstr(found, ==, expected);
}

static void
test_right(Fixture *f, gconstpointer data)
{
    finds(f, "");
}

static void
test_names(Fixture *f, gconstpointer data)
{
    uint32_t unused;

    f->node->nlink = 2;
    finds(f, "node 1 has 1 names and counts 2");
    f->node->nlink = 1;
    f->name->node = 5;
    f->node->nlink = 0;
    finds(f, "name 1 leads nowhere");
    f->name->node = f->node_slot;
    f->node->nlink = 1;
    f->name->parent = f->node_slot;
    f->node->nlink = 0;
    finds(f, "name 1 is in no directory");
    atomic_store(&f->name->gone, 1); /* one that waits for the kernel to be told leads nowhere */
    finds(f, "");
    make(f, SFS_TABLE_NODES, &unused);
    finds(f, "node 2 is held by nothing");
}

static void
test_views(Fixture *f, gconstpointer data)
{
    f->view->base_limit = 101;
    finds(f, "view 1 shows more than it has");
    f->view->base_limit = 0;
    f->handle->view = SFS_NO_SLOT;
    finds(f, "view 1 is open to nobody");
    f->handle->view = f->view_slot;
    sfs_registry_release(f->registry, SFS_TABLE_VIEWS, f->view_slot);
    finds(f, "handle 1 is of no view");
}

static void
test_handles(Fixture *f, gconstpointer data)
{
    SfsLockRec *lock;
    uint32_t slot;

    lock = make(f, SFS_TABLE_LOCKS, &slot);
    lock->handle = f->handle_slot;
    finds(f, "");
    lock->handle = SFS_NO_SLOT;
    finds(f, "");
    lock->handle = 9;
    finds(f, "lock 1 is of no handle");
    lock->handle = f->handle_slot;
    f->handle->node = 9;
    finds(f, "handle 1 is of no section");
}

static void
test_descriptors(Fixture *f, gconstpointer data)
{
    f->node->fd_slot = SFS_NO_SLOT;
    finds(f, "descriptor 1 is nothing's");
    f->handle->fd_slot = f->fd_slot;
    finds(f, "");
    f->handle->fd_slot = SFS_NO_SLOT;
    f->node->fd_slot = f->fd_slot;
    atomic_store(&((SfsFdRec *)sfs_registry_get(f->registry, SFS_TABLE_FDS, f->fd_slot))->keeper_fd,
                 0);
    finds(f, "node 1 has a descriptor that the keeper has not: 1");
}

static void
test_texts(Fixture *f, gconstpointer data)
{
    g_autofree char *text = g_strnfill(1000, 'x');
    uint32_t chain = sfs_registry_store_text(f->registry, text, strlen(text));

    g_assert_cmpuint(chain, !=, SFS_NO_SLOT);
    f->node->text = chain;
    finds(f, "");
    f->handle->text = chain;
    finds_something(f); /* is in two */
    f->handle->text = f->node->text = SFS_NO_SLOT;
    finds_something(f); /* is in none */
    f->node->text = 9999;
    finds_something(f);
}

static void
test_bases(Fixture *f, gconstpointer data)
{
    f->node->base = 9;
    finds(f, "node 1 is a copy of nothing");
}

static void
grow(SfsRegistry *registry)
{
    for (int i = 0; i < 100000; i++) {
        SfsDirentRec *name;
        SfsNodeRec *node;
        uint32_t node_slot, name_slot;

        node = sfs_registry_alloc(registry, SFS_TABLE_NODES, &node_slot);
        node->mode = S_IFREG | 0644;
        node->nlink = 1;
        sfs_registry_publish(registry, SFS_TABLE_NODES, node_slot);
        name = sfs_registry_alloc(registry, SFS_TABLE_DIRENTS, &name_slot);
        name->parent = SFS_ROOT_SLOT;
        name->node = node_slot;
        sfs_registry_publish(registry, SFS_TABLE_DIRENTS, name_slot);
    }
}

/* Of a mount that is in use it looks at what was there when it began. */
static void
test_growing(Fixture *f, gconstpointer data)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        grow(f->registry);
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0)
        g_free(problems_of(f));
    g_assert_cmpint(status, ==, 0);
    finds(f, "");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/registry-check/right", test_right);
    ADD("/registry-check/names", test_names);
    ADD("/registry-check/views", test_views);
    ADD("/registry-check/handles", test_handles);
    ADD("/registry-check/descriptors", test_descriptors);
    ADD("/registry-check/texts", test_texts);
    ADD("/registry-check/bases", test_bases);
    ADD("/registry-check/growing", test_growing);
    return g_test_run();
}
