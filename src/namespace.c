/* SPDX-License-Identifier: MIT */
#include "namespace.h"

#include "name-index.h"
#include "request.h"
#include "util.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#define DIRENT_SIZE 20

struct SfsNamespace {
    SfsRegistry *registry;
    SfsNodes *nodes;
    uint64_t nr_sections;
    SfsMayRemove may_remove;
    void *may_remove_data;

    GRWLock lock; /* protects the index, and what of records is the namespace's */
    SfsNameIndex *index;
};

/* --- the index ------------------------------------------------------------------------------- */

static SfsNodeRec *
node(SfsNamespace *names, uint32_t slot)
{
    return sfs_registry_get(names->registry, SFS_TABLE_NODES, slot);
}

/* A directory's size tells how much is in it, in tmpfs's unit. */
static void
count_entry(SfsNamespace *names, uint32_t dir, int by)
{
    sfs_node_lock(names->nodes, dir);
    node(names, dir)->size += (uint64_t)(int64_t)(by * DIRENT_SIZE);
    sfs_node_unlock(names->nodes, dir);
}

static void
index_add(SfsNamespace *names, SfsDirentRec *rec, uint32_t slot)
{
    sfs_name_index_add(names->index, rec, slot);
    count_entry(names, rec->parent, 1);
}

static void
index_remove(SfsNamespace *names, SfsName *entry)
{
    count_entry(names, entry->parent, -1);
    sfs_name_index_remove(names->index, entry);
}

static SfsName *
find(SfsNamespace *names, uint32_t dir, const char *name)
{
    return sfs_name_index_find(names->index, dir, name);
}

/* A section that has come to its end: its names are about to go. */
static bool
is_doomed(SfsNamespace *names, const SfsName *entry)
{
    return node(names, entry->rec->node)->doomed;
}

SfsNamespace *
sfs_namespace_new(SfsRegistry *registry, SfsNodes *nodes, uint64_t nr_sections)
{
    SfsNamespace *names = g_new0(SfsNamespace, 1);
    uint32_t bound = sfs_registry_bound(registry, SFS_TABLE_DIRENTS);

    names->registry = registry;
    names->nodes = nodes;
    names->nr_sections = nr_sections;
    g_rw_lock_init(&names->lock);
    names->index = sfs_name_index_new(registry);
    for (uint32_t slot = 0; slot < sfs_registry_bound(registry, SFS_TABLE_NODES); slot++) {
        if (S_ISDIR(node(names, slot)->mode))
            node(names, slot)->size = 0;
    }
    for (uint32_t slot = 1; slot < bound; slot++) {
        SfsDirentRec *rec = sfs_registry_get(registry, SFS_TABLE_DIRENTS, slot);

        if (atomic_load(&rec->state) == SFS_LIVE && atomic_load(&rec->gone) == 0)
            index_add(names, rec, slot);
    }
    return names;
}

void
sfs_namespace_free(SfsNamespace *names)
{
    if (names == NULL)
        return;
    sfs_name_index_free(names->index);
    g_rw_lock_clear(&names->lock);
    g_free(names);
}

/* --- looking --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    SfsClass class;
} reserved[] = {
    {".cow", SFS_CLASS_COW},
    {".info", SFS_CLASS_INFO},
    {".stats", SFS_CLASS_STATS},
};

/* Whether this is one of the root's names that are not in any directory. */
static bool
is_reserved(const SfsTarget *dir, const char *name, SfsClass *class)
{
    if (dir->class != SFS_CLASS_NODE || dir->slot != SFS_ROOT_SLOT)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(reserved); i++) {
        if (strcmp(name, reserved[i].name) == 0) {
            *class = reserved[i].class;
            return true;
        }
    }
    return false;
}

static int
check_name(const char *name)
{
    return strlen(name) > SFS_NAME_MAX ? -ENAMETOOLONG : 0;
}

int
sfs_namespace_lookup(SfsNamespace *names, const SfsTarget *dir, const char *name, SfsTarget *child)
{
    SfsClass class;
    SfsName *entry;
    int r = check_name(name);

    if (r < 0)
        return r;
    if (is_reserved(dir, name, &class)) {
        if (class == SFS_CLASS_STATS)
            *child = (SfsTarget){.class = class, .nodeid = sfs_nodeid(class, 0, 1)};
        else
            sfs_node_target(names->nodes, SFS_ROOT_SLOT, class, child);
        return 0;
    }
    if (!sfs_target_is_dir(dir))
        return -ENOTDIR;
    g_rw_lock_reader_lock(&names->lock);
    entry = find(names, dir->slot, name);
    if (entry != NULL && is_doomed(names, entry))
        entry = NULL;
    if (entry != NULL) {
        sfs_node_target(names->nodes, entry->rec->node, dir->class, child);
        sfs_node_reference(child);
    }
    g_rw_lock_reader_unlock(&names->lock);
    return entry != NULL ? 0 : -ENOENT;
}

int
sfs_namespace_list(SfsNamespace *names, const SfsTarget *dir, uint64_t offset, SfsEachEntry each,
                   void *data)
{
    bool more = true;
    GTree *tree;

    if (!sfs_target_is_dir(dir))
        return -ENOTDIR;
    g_rw_lock_reader_lock(&names->lock);
    if (offset < 1)
        more = each(".", dir, 1, data);
    if (more && offset < 2) {
        SfsTarget parent;

        sfs_node_peek(names->nodes, dir->rec->parent, dir->class, &parent);
        more = each("..", &parent, 2, data);
    }
    tree = sfs_name_index_dir(names->index, dir->slot);
    if (more && tree != NULL) {
        GTreeNode *at = g_tree_upper_bound(tree, &offset);

        for (; more && at != NULL; at = g_tree_node_next(at)) {
            const SfsName *entry = g_tree_node_value(at);
            SfsTarget child;
            g_autofree char *name = g_strndup(entry->name, entry->length);

            if (is_doomed(names, entry))
                continue;
            sfs_node_peek(names->nodes, entry->rec->node, dir->class, &child);
            more = each(name, &child, entry->rec->cookie, data);
        }
    }
    g_rw_lock_reader_unlock(&names->lock);
    return 0;
}

typedef struct {
    uint64_t dir_nodeid, nodeid;
    uint32_t entry; /* slot */
    char *name;
} Found;

static void
clear_found(gpointer data)
{
    g_free(((Found *)data)->name);
}

/* The names of a node, for use without the lock. Lock held. */
static GArray *
names_of(SfsNamespace *names, uint32_t slot)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(Found));
    SfsTarget target, dir;

    g_array_set_clear_func(found, clear_found);
    sfs_node_peek(names->nodes, slot, SFS_CLASS_NODE, &target);
    for (const SfsName *entry = sfs_name_index_of(names->index, slot); entry != NULL;
         entry = entry->next) {
        Found one;

        sfs_node_peek(names->nodes, entry->parent, SFS_CLASS_NODE, &dir);
        one =
            (Found){dir.nodeid, target.nodeid, entry->slot, g_strndup(entry->name, entry->length)};
        g_array_append_val(found, one);
    }
    return found;
}

static void
call_each(const GArray *found, SfsEachName each, void *data)
{
    for (guint i = 0; i < found->len; i++) {
        const Found *one = &g_array_index(found, Found, i);

        each(one->dir_nodeid, one->name, one->nodeid, data);
    }
}

void
sfs_namespace_each_name(SfsNamespace *names, uint32_t slot, SfsEachName each, void *data)
{
    g_autoptr(GArray) found = NULL;

    g_rw_lock_reader_lock(&names->lock);
    found = names_of(names, slot);
    g_rw_lock_reader_unlock(&names->lock);
    call_each(found, each, data);
}

/* --- changing: writer's lock held in all helpers --------------------------------------------- */

/* A prepared entry; NULL: no room. */
static SfsDirentRec *
prepare_entry(SfsNamespace *names, uint32_t dir, const char *name, size_t length, uint32_t target,
              uint32_t *slot)
{
    SfsDirentRec *rec = sfs_registry_alloc(names->registry, SFS_TABLE_DIRENTS, slot);

    if (rec == NULL)
        return NULL;
    rec->parent = dir;
    rec->node = target;
    rec->length = (uint16_t)length;
    rec->made_by = sfs_request_number();
    rec->cookie = sfs_registry_next_cookie(names->registry);
    if (length <= SFS_INLINE_NAME) {
        memcpy(rec->name, name, length);
    } else {
        rec->long_name = sfs_registry_store_text(names->registry, name, length);
        if (rec->long_name == SFS_NO_SLOT) {
            sfs_registry_release(names->registry, SFS_TABLE_DIRENTS, *slot);
            return NULL;
        }
    }
    return rec;
}

static void
count_link(SfsNamespace *names, uint32_t slot, int by)
{
    SfsNodeRec *rec = node(names, slot);

    sfs_node_lock(names->nodes, slot);
    rec->nlink = (uint32_t)((int64_t)rec->nlink + by);
    sfs_time_set(&rec->ctime, sfs_now());
    sfs_node_unlock(names->nodes, slot);
}

/* Takes the entry out of the index and frees what it owns; its record is free already. */
static void
forget_entry(SfsNamespace *names, SfsName *entry)
{
    uint32_t long_name = entry->rec->long_name;

    index_remove(names, entry);
    sfs_registry_free_text(names->registry, long_name);
}

/* A name of this node is gone: and perhaps so is the node. */
static void
drop_node(SfsNamespace *names, uint32_t dir, uint32_t slot)
{
    if (S_ISDIR(node(names, slot)->mode)) {
        count_link(names, dir, -1);
        count_link(names, slot, -2);
    } else {
        count_link(names, slot, -1);
    }
    sfs_node_unlinked(names->nodes, slot);
}

/* Takes one name away, whatever it is of. @asked: that is what the request at hand is for. */
static void
remove_entry(SfsNamespace *names, SfsName *entry, bool asked)
{
    uint32_t dir = entry->parent, slot = entry->rec->node;
    SfsChange changes[2] = {SFS_CHANGE(SFS_TABLE_DIRENTS, entry->slot, SFS_FREE)};

    sfs_registry_commit(names->registry, changes, asked ? sfs_request_remember(changes, 1) : 1);
    forget_entry(names, entry);
    drop_node(names, dir, slot);
    sfs_node_touch(names->nodes, dir, true);
}

/* The entry of this name, if it leads anywhere: what is left of a doomed section goes now. */
static SfsName *
find_for_change(SfsNamespace *names, uint32_t dir, const char *name)
{
    SfsName *entry = find(names, dir, name);

    if (entry == NULL || !is_doomed(names, entry))
        return entry;
    remove_entry(names, entry, false);
    return NULL;
}

/* Checks that @dir can take a new entry @name. */
static int
check_new(SfsNamespace *names, const SfsTarget *dir, const char *name)
{
    SfsClass class;
    int r = check_name(name);

    if (r < 0)
        return r;
    if (!sfs_target_is_dir(dir))
        return -ENOTDIR;
    if (dir->rec->nlink == 0)
        return -ENOENT;
    return find_for_change(names, dir->slot, name) != NULL || is_reserved(dir, name, &class)
               ? -EEXIST
               : 0;
}

static void
inherit(const SfsTarget *dir, SfsNodeSpec *spec)
{
    if (!(dir->rec->mode & S_ISGID))
        return;
    spec->gid = dir->rec->gid;
    if (S_ISDIR(spec->mode))
        spec->mode |= S_ISGID;
}

static int
new_node(SfsNamespace *names, const SfsTarget *dir, const SfsNodeSpec *wanted, SfsTarget *child)
{
    SfsNodeSpec spec = *wanted;
    uint32_t slot;

    /* The root is not one of the user's. */
    if (names->nr_sections != 0 &&
        sfs_registry_count(names->registry, SFS_TABLE_NODES) > names->nr_sections)
        return -ENOSPC;
    inherit(dir, &spec);
    if (sfs_node_new(names->nodes, &spec, &slot) == NULL)
        return -ENOSPC;
    sfs_node_target(names->nodes, slot, SFS_CLASS_NODE, child);
    child->rec->policy = dir->rec->policy;
    child->rec->strict = dir->rec->strict;
    return 0;
}

/* Whether this very request has made that name, and a node for it, at an earlier worker. The kernel
 * was not told, so the reference that was counted for it then is the one it gets now. */
static bool
find_made(SfsNamespace *names, const SfsTarget *dir, const char *name, SfsTarget *child)
{
    const SfsName *entry = find(names, dir->slot, name);

    if (entry == NULL || !sfs_request_made(node(names, entry->rec->node)->made_by))
        return false;
    sfs_node_target(names->nodes, entry->rec->node, SFS_CLASS_NODE, child);
    return true;
}

int
sfs_namespace_create(SfsNamespace *names, const SfsTarget *dir, const char *name,
                     const SfsNodeSpec *spec, SfsTarget *child)
{
    SfsDirentRec *entry;
    uint32_t slot;
    int r;

    g_rw_lock_writer_lock(&names->lock);
    r = check_new(names, dir, name);
    if (r == -EEXIST && find_made(names, dir, name, child)) {
        r = 0;
        goto out;
    }
    if (r == 0)
        r = new_node(names, dir, spec, child);
    if (r < 0)
        goto out;
    entry = prepare_entry(names, dir->slot, name, strlen(name), child->slot, &slot);
    if (entry == NULL) {
        sfs_node_abandon(names->nodes, child->slot);
        r = -ENOSPC;
        goto out;
    }
    child->rec->nlink = S_ISDIR(spec->mode) ? 2 : 1;
    child->rec->parent = dir->slot;
    sfs_registry_commit(names->registry,
                        (SfsChange[]){SFS_CHANGE(SFS_TABLE_NODES, child->slot, SFS_LIVE),
                                      SFS_CHANGE(SFS_TABLE_DIRENTS, slot, SFS_LIVE)},
                        2);
    index_add(names, entry, slot);
    if (S_ISDIR(spec->mode))
        count_link(names, dir->slot, 1);
    sfs_node_touch(names->nodes, dir->slot, true);
out:
    g_rw_lock_writer_unlock(&names->lock);
    return r;
}

int
sfs_namespace_create_unnamed(SfsNamespace *names, const SfsTarget *dir, const SfsNodeSpec *spec,
                             SfsTarget *child)
{
    int r;

    if (!sfs_target_is_dir(dir))
        return -ENOTDIR;
    g_rw_lock_writer_lock(&names->lock);
    r = new_node(names, dir, spec, child);
    if (r == 0)
        sfs_registry_publish(names->registry, SFS_TABLE_NODES, child->slot);
    g_rw_lock_writer_unlock(&names->lock);
    return r;
}

int
sfs_namespace_link(SfsNamespace *names, const SfsTarget *target, const SfsTarget *dir,
                   const char *name)
{
    SfsDirentRec *entry;
    SfsName *there;
    uint32_t slot;
    int r;

    g_rw_lock_writer_lock(&names->lock);
    r = check_new(names, dir, name);
    there = r == -EEXIST ? find(names, dir->slot, name) : NULL;
    if (there != NULL && there->rec->node == target->slot &&
        sfs_request_made(there->rec->made_by)) {
        r = 0;
        goto out;
    }
    /* Names take memory as files do. So there may be as many, all links counted; as tmpfs has it,
     * with which the two count together. */
    if (r == 0 && names->nr_sections != 0 &&
        sfs_registry_count(names->registry, SFS_TABLE_DIRENTS) >= names->nr_sections)
        r = -ENOSPC;
    if (r == 0 && target->rec->nlink == UINT32_MAX)
        r = -EMLINK;
    if (r == 0 && target->rec->doomed)
        r = -ENOENT;
    if (r < 0)
        goto out;
    entry = prepare_entry(names, dir->slot, name, strlen(name), target->slot, &slot);
    if (entry == NULL) {
        r = -ENOSPC;
        goto out;
    }
    sfs_registry_publish(names->registry, SFS_TABLE_DIRENTS, slot);
    index_add(names, entry, slot);
    count_link(names, target->slot, 1);
    sfs_node_touch(names->nodes, dir->slot, true);
out:
    g_rw_lock_writer_unlock(&names->lock);
    return r;
}

static bool
is_empty_dir(SfsNamespace *names, uint32_t slot)
{
    return sfs_name_index_dir(names->index, slot) == NULL;
}

static int
ask_guard(SfsNamespace *names, const SfsName *entry)
{
    return names->may_remove != NULL ? names->may_remove(entry->rec->node, names->may_remove_data)
                                     : 0;
}

static int
remove_name(SfsNamespace *names, const SfsTarget *dir, const char *name, bool directory)
{
    SfsClass class;
    SfsName *entry;
    int r = 0;

    if (sfs_request_done())
        return 0;
    g_rw_lock_writer_lock(&names->lock);
    entry = find_for_change(names, dir->slot, name);
    if (entry == NULL)
        r = is_reserved(dir, name, &class) ? -EBUSY : -ENOENT;
    else if (directory != (bool)S_ISDIR(node(names, entry->rec->node)->mode))
        r = directory ? -ENOTDIR : -EISDIR;
    else if (directory && !is_empty_dir(names, entry->rec->node))
        r = -ENOTEMPTY;
    if (r == 0 && !directory)
        r = ask_guard(names, entry);
    if (r == 0)
        remove_entry(names, entry, true);
    g_rw_lock_writer_unlock(&names->lock);
    return r;
}

int
sfs_namespace_unlink(SfsNamespace *names, const SfsTarget *dir, const char *name)
{
    return remove_name(names, dir, name, false);
}

int
sfs_namespace_rmdir(SfsNamespace *names, const SfsTarget *dir, const char *name)
{
    return remove_name(names, dir, name, true);
}

/* Takes one name of a doomed section away, all but the record, which says what to tell. */
static void
retire_entry(SfsNamespace *names, SfsName *entry, uint64_t nodeid)
{
    uint32_t dir = entry->parent, slot = entry->rec->node;

    atomic_store(&entry->rec->gone, nodeid);
    index_remove(names, entry);
    drop_node(names, dir, slot);
    sfs_node_touch(names->nodes, dir, true);
}

void
sfs_namespace_remove_all(SfsNamespace *names, uint32_t slot, SfsGoneName each, void *data)
{
    g_autoptr(GArray) found = NULL;

    g_rw_lock_writer_lock(&names->lock);
    if (sfs_name_index_of(names->index, slot) != NULL &&
        is_doomed(names, sfs_name_index_of(names->index, slot))) {
        found = names_of(names, slot);
        for (guint i = 0; i < found->len; i++)
            retire_entry(names, sfs_name_index_of(names->index, slot),
                         g_array_index(found, Found, i).nodeid);
    }
    g_rw_lock_writer_unlock(&names->lock);
    for (guint i = 0; found != NULL && i < found->len; i++) {
        const Found *one = &g_array_index(found, Found, i);

        each(one->dir_nodeid, one->name, one->nodeid, one->entry, data);
    }
}

void
sfs_namespace_told(SfsNamespace *names, uint32_t entry)
{
    const SfsDirentRec *rec = sfs_registry_get(names->registry, SFS_TABLE_DIRENTS, entry);
    uint32_t long_name = rec->long_name;

    sfs_registry_release(names->registry, SFS_TABLE_DIRENTS, entry);
    sfs_registry_free_text(names->registry, long_name);
}

void
sfs_namespace_tell_again(SfsNamespace *names, SfsGoneName each, void *data)
{
    for (uint32_t slot = 1; slot < sfs_registry_bound(names->registry, SFS_TABLE_DIRENTS); slot++) {
        const SfsDirentRec *rec = sfs_registry_get(names->registry, SFS_TABLE_DIRENTS, slot);
        uint64_t nodeid = atomic_load(&rec->gone);
        g_autofree char *name = NULL;
        SfsTarget dir;

        if (atomic_load(&rec->state) != SFS_LIVE || nodeid == 0)
            continue;
        name = rec->long_name == SFS_NO_SLOT
                   ? g_strndup(rec->name, rec->length)
                   : sfs_registry_load_text(names->registry, rec->long_name, NULL);
        /* If the directory is gone, too, this means another one, where the kernel finds no such
         * node by that name. */
        sfs_node_peek(names->nodes, rec->parent, SFS_CLASS_NODE, &dir);
        each(dir.nodeid, name, nodeid, slot, data);
    }
}

bool
sfs_namespace_find(SfsNamespace *names, const SfsTarget *dir, const char *name, uint32_t *slot)
{
    const SfsName *entry;

    g_rw_lock_reader_lock(&names->lock);
    entry = find(names, dir->slot, name);
    if (entry != NULL)
        *slot = entry->rec->node;
    g_rw_lock_reader_unlock(&names->lock);
    return entry != NULL;
}

void
sfs_namespace_guard(SfsNamespace *names, SfsMayRemove may_remove, void *data)
{
    names->may_remove = may_remove;
    names->may_remove_data = data;
}

/* Whether @dir is @ancestor or lies in it. */
static bool
lies_in(SfsNamespace *names, uint32_t dir, uint32_t ancestor)
{
    while (dir != ancestor && dir != SFS_ROOT_SLOT)
        dir = node(names, dir)->parent;
    return dir == ancestor;
}

static int
check_rename(SfsNamespace *names, const SfsName *from, const SfsTarget *new_dir, const SfsName *to,
             unsigned flags)
{
    bool from_is_dir = S_ISDIR(node(names, from->rec->node)->mode);
    bool to_is_dir = to != NULL && S_ISDIR(node(names, to->rec->node)->mode);

    if (new_dir->rec->nlink == 0)
        return -ENOENT;
    if (from_is_dir && lies_in(names, new_dir->slot, from->rec->node))
        return -EINVAL;
    if (flags & RENAME_EXCHANGE) {
        if (to == NULL)
            return -ENOENT;
        return to_is_dir && lies_in(names, from->parent, to->rec->node) ? -EINVAL : 0;
    }
    if (to == NULL)
        return 0;
    if (flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (from_is_dir != to_is_dir)
        return to_is_dir ? -EISDIR : -ENOTDIR;
    if (to_is_dir)
        return is_empty_dir(names, to->rec->node) ? 0 : -ENOTEMPTY;
    return ask_guard(names, to);
}

/* Directories know where they are, and count those in them. */
static void
moved(SfsNamespace *names, uint32_t slot, uint32_t from, uint32_t to)
{
    SfsNodeRec *rec = node(names, slot);

    sfs_node_touch(names->nodes, slot, false);
    if (!S_ISDIR(rec->mode) || from == to)
        return;
    rec->parent = to;
    count_link(names, from, -1);
    count_link(names, to, 1);
}

static int
exchange(SfsNamespace *names, SfsName *a, SfsName *b)
{
    uint32_t a_node = a->rec->node, b_node = b->rec->node;
    uint32_t a_dir = a->parent, b_dir = b->parent;
    SfsDirentRec *new_a, *new_b;
    SfsChange changes[5];
    uint32_t a_slot, b_slot;

    new_a = prepare_entry(names, a_dir, a->name, a->length, b_node, &a_slot);
    if (new_a == NULL)
        return -ENOSPC;
    new_b = prepare_entry(names, b_dir, b->name, b->length, a_node, &b_slot);
    if (new_b == NULL) {
        uint32_t long_name = new_a->long_name;

        sfs_registry_release(names->registry, SFS_TABLE_DIRENTS, a_slot);
        sfs_registry_free_text(names->registry, long_name);
        return -ENOSPC;
    }
    changes[0] = SFS_CHANGE(SFS_TABLE_DIRENTS, a_slot, SFS_LIVE);
    changes[1] = SFS_CHANGE(SFS_TABLE_DIRENTS, b_slot, SFS_LIVE);
    changes[2] = SFS_CHANGE(SFS_TABLE_DIRENTS, a->slot, SFS_FREE);
    changes[3] = SFS_CHANGE(SFS_TABLE_DIRENTS, b->slot, SFS_FREE);
    sfs_registry_commit(names->registry, changes, sfs_request_remember(changes, 4));
    forget_entry(names, a);
    forget_entry(names, b);
    index_add(names, new_a, a_slot);
    index_add(names, new_b, b_slot);
    moved(names, a_node, a_dir, b_dir);
    moved(names, b_node, b_dir, a_dir);
    return 0;
}

static int
move(SfsNamespace *names, SfsName *from, const SfsTarget *new_dir, const char *new_name,
     SfsName *to)
{
    uint32_t moving = from->rec->node, from_dir = from->parent;
    uint32_t replaced = to != NULL ? to->rec->node : SFS_NO_SLOT;
    SfsDirentRec *rec;
    SfsChange changes[4];
    unsigned n = 0;
    uint32_t slot;

    rec = prepare_entry(names, new_dir->slot, new_name, strlen(new_name), moving, &slot);
    if (rec == NULL)
        return -ENOSPC;
    changes[n++] = SFS_CHANGE(SFS_TABLE_DIRENTS, slot, SFS_LIVE);
    changes[n++] = SFS_CHANGE(SFS_TABLE_DIRENTS, from->slot, SFS_FREE);
    if (to != NULL)
        changes[n++] = SFS_CHANGE(SFS_TABLE_DIRENTS, to->slot, SFS_FREE);
    sfs_registry_commit(names->registry, changes, sfs_request_remember(changes, n));
    forget_entry(names, from);
    if (to != NULL)
        forget_entry(names, to);
    index_add(names, rec, slot);
    moved(names, moving, from_dir, new_dir->slot);
    if (to != NULL)
        drop_node(names, new_dir->slot, replaced);
    return 0;
}

int
sfs_namespace_rename(SfsNamespace *names, const SfsTarget *dir, const char *name,
                     const SfsTarget *new_dir, const char *new_name, unsigned flags)
{
    SfsName *from, *to;
    SfsClass class;
    int r;

    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    r = check_name(new_name);
    if (r < 0)
        return r;
    if (is_reserved(dir, name, &class) || is_reserved(new_dir, new_name, &class))
        return -EBUSY;
    if (sfs_request_done())
        return 0;
    g_rw_lock_writer_lock(&names->lock);
    from = find_for_change(names, dir->slot, name);
    to = find_for_change(names, new_dir->slot, new_name);
    if (from == NULL)
        r = -ENOENT;
    else if (to != NULL && from->rec->node == to->rec->node && !(flags & RENAME_NOREPLACE))
        goto out; /* two names of one file: POSIX has nothing happen */
    else
        r = check_rename(names, from, new_dir, to, flags);
    if (r == 0)
        r = flags & RENAME_EXCHANGE ? exchange(names, from, to)
                                    : move(names, from, new_dir, new_name, to);
    if (r == 0) {
        sfs_node_touch(names->nodes, dir->slot, true);
        sfs_node_touch(names->nodes, new_dir->slot, true);
    }
out:
    g_rw_lock_writer_unlock(&names->lock);
    return r;
}
