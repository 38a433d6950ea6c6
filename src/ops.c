/* SPDX-License-Identifier: MIT */
/*
 * Each operation has the same shape: resolve the nodeid (which replies by itself when it means
 * nothing), call the room whose job it is, reply once. A reply that hands a reference or a handle to
 * the kernel can fail, when the request was interrupted or the mount is gone; then the kernel does not
 * have it, and it is taken back here.
 *
 * Two operations may have to wait on this very mount: setting `user.section.file` to a path that leads
 * through it, and opening a copy-on-write view over a section of which the kernel has pages that it has
 * yet to write back. These are done on the threads of a pool of their own, so that the threads that answer
 * the lookups and writes are never among those that wait for them.
 */
#include "ops.h"

#include "control.h"
#include "info.h"
#include "lock.h"
#include "log.h"
#include "namespace.h"
#include "section.h"
#include "store.h"
#include "util.h"

#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

/* Names change through the kernel only, so it may remember them for as long as it likes; attributes as
 * sfs_section_attrs_stay() says. A copy-on-write name must be looked up for each open. */
#define REMEMBER 86400.0
#define ASK_AGAIN 0.0

#define WAITER_THREADS 4

/* --- what every operation needs ------------------------------------------------------------------ */

static SfsMount *
mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req); /* the worker hands us its SfsMount */
}

static SfsCaller
caller_of(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);

    return (SfsCaller){ .uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid };
}

static void
reply_result(fuse_req_t req, int r)
{
    fuse_reply_err(req, r < 0 ? -r : 0);
}

/* False: replied already. */
static bool
resolve(fuse_req_t req, fuse_ino_t ino, SfsTarget *target)
{
    int r = sfs_node_resolve(mount_of(req)->nodes, ino, target);

    if (r < 0)
        fuse_reply_err(req, -r);
    return r == 0;
}

/* A directory in which something is to be changed: .cow and .info are for looking. */
static bool
resolve_for_change(fuse_req_t req, fuse_ino_t ino, SfsTarget *target)
{
    if (!resolve(req, ino, target))
        return false;
    if (target->class == SFS_CLASS_NODE)
        return true;
    fuse_reply_err(req, EROFS);
    return false;
}

static SfsHandle *
handle_of(fuse_req_t req, const struct fuse_file_info *fi)
{
    return fi != NULL ? sfs_section_handle(mount_of(req), fi->fh) : NULL;
}

/* NULL: replied already. */
static SfsHandle *
need_handle(fuse_req_t req, const struct fuse_file_info *fi)
{
    SfsHandle *handle = handle_of(req, fi);

    if (handle == NULL)
        fuse_reply_err(req, EBADF);
    return handle;
}

static double
attr_timeout(fuse_req_t req, const SfsTarget *target)
{
    return sfs_section_attrs_stay(mount_of(req), target) ? REMEMBER : ASK_AGAIN;
}

static int
fill_entry(fuse_req_t req, const SfsTarget *target, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = target->nodeid;
    entry->attr_timeout = attr_timeout(req, target);
    entry->entry_timeout = target->class == SFS_CLASS_NODE ? REMEMBER : ASK_AGAIN;
    return sfs_section_stat(mount_of(req), target, NULL, &entry->attr);
}

/* Takes back a reference that the kernel was to get. */
static void
forget(SfsMount *mount, const SfsTarget *target, uint64_t n)
{
    if (target->class == SFS_CLASS_NODE)
        sfs_node_forget(mount->nodes, target->slot, n);
}

/* Replies with a target of which a reference was counted for the kernel. */
static void
reply_target(fuse_req_t req, const SfsTarget *target)
{
    SfsMount *mount = mount_of(req); /* req is gone after the reply */
    struct fuse_entry_param entry;
    int r = fill_entry(req, target, &entry);

    if (r < 0) {
        fuse_reply_err(req, -r);
        forget(mount, target, 1);
    } else if (fuse_reply_entry(req, &entry) != 0) {
        forget(mount, target, 1);
    }
}

/* A request on its way to the waiters' pool. */
typedef struct Waiting {
    void (*run)(struct Waiting *waiting); /* replies, and frees it */
} Waiting;

static void
run_waiting(gpointer data, gpointer unused)
{
    Waiting *waiting = data;

    waiting->run(waiting);
}

/* --- names -------------------------------------------------------------------------------------- */

static void
op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    g_auto(SfsTarget) dir = { 0 };
    g_auto(SfsTarget) child = { 0 };
    int r;

    if (!resolve(req, parent, &dir))
        return;
    r = sfs_namespace_lookup(mount_of(req)->names, &dir, name, &child);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_target(req, &child);
}

static void
forget_nodeid(SfsMount *mount, fuse_ino_t ino, uint64_t n)
{
    g_auto(SfsTarget) target = { 0 };

    if (sfs_node_resolve(mount->nodes, ino, &target) == 0)
        forget(mount, &target, n);
}

static void
op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    forget_nodeid(mount_of(req), ino, nlookup);
    fuse_reply_none(req);
}

static void
op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget_nodeid(mount_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void
make_node(fuse_req_t req, fuse_ino_t parent, const char *name, uint32_t mode, dev_t rdev,
          const char *link_target)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    SfsNodeSpec spec = { .mode = mode,
                         .uid = ctx->uid,
                         .gid = ctx->gid,
                         .rdev = (uint32_t)rdev,
                         .link_target = link_target };
    g_auto(SfsTarget) dir = { 0 };
    g_auto(SfsTarget) child = { 0 };
    int r;

    if (!resolve_for_change(req, parent, &dir))
        return;
    r = sfs_namespace_create(mount_of(req)->names, &dir, name, &spec, &child);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_target(req, &child);
}

static void
op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    make_node(req, parent, name, mode, rdev, NULL);
}

static void
op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make_node(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void
op_symlink(fuse_req_t req, const char *link_target, fuse_ino_t parent, const char *name)
{
    if (strlen(link_target) >= SFS_PATH_MAX)
        fuse_reply_err(req, ENAMETOOLONG);
    else
        make_node(req, parent, name, S_IFLNK | 0777, 0, link_target);
}

static void
op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    g_auto(SfsTarget) target = { 0 };
    g_autofree char *text = NULL;

    if (!resolve(req, ino, &target))
        return;
    if (target.rec == NULL || !S_ISLNK(target.rec->mode)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    text = sfs_registry_load_text(mount_of(req)->registry, target.rec->text, NULL);
    fuse_reply_readlink(req, text);
}

static void
op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    SfsMount *mount = mount_of(req);
    g_auto(SfsTarget) dir = { 0 };
    g_auto(SfsTarget) target = { 0 };
    g_auto(SfsTarget) linked = { 0 };
    int r;

    if (!resolve_for_change(req, new_parent, &dir) || !resolve(req, ino, &target))
        return;
    if (target.class != SFS_CLASS_NODE) {
        fuse_reply_err(req, EXDEV);
        return;
    }
    r = sfs_namespace_link(mount->names, &target, &dir, new_name);
    /* Its nodeid may have changed since the caller got hold of it, by being defined. */
    if (r == 0)
        r = sfs_namespace_lookup(mount->names, &dir, new_name, &linked);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_target(req, &linked);
}

static void
op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    g_auto(SfsTarget) dir = { 0 };

    if (resolve_for_change(req, parent, &dir))
        reply_result(req, sfs_namespace_unlink(mount_of(req)->names, &dir, name));
}

static void
op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    g_auto(SfsTarget) dir = { 0 };

    if (resolve_for_change(req, parent, &dir))
        reply_result(req, sfs_namespace_rmdir(mount_of(req)->names, &dir, name));
}

static void
op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
          const char *new_name, unsigned int flags)
{
    g_auto(SfsTarget) from = { 0 };
    g_auto(SfsTarget) to = { 0 };

    if (!resolve(req, parent, &from) || !resolve(req, new_parent, &to))
        return;
    if (from.class != to.class)
        fuse_reply_err(req, EXDEV);
    else if (from.class != SFS_CLASS_NODE)
        fuse_reply_err(req, EROFS);
    else
        reply_result(req, sfs_namespace_rename(mount_of(req)->names, &from, name, &to, new_name,
                                               flags));
}

/* --- directories ---------------------------------------------------------------------------------- */

typedef struct {
    fuse_req_t req;
    bool plus;
    char *buffer;
    size_t size, used;
} Listing;

static bool
add_entry(const char *name, const SfsTarget *child, uint64_t next, void *data)
{
    Listing *list = data;
    struct fuse_entry_param entry = { 0 };
    bool is_dot = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
    /* Attributes of a real file may take time to get, which is not to be spent here. */
    bool full = list->plus && !is_dot && child->class == SFS_CLASS_NODE &&
                child->rec->kind != SFS_KIND_FILE;
    size_t needed;

    if (full) {
        fill_entry(list->req, child, &entry);
    } else {
        /* A nodeid of 0 has the kernel take type and number only, and count no reference. */
        entry.attr.st_ino = sfs_node_ino(child->class, child->rec);
        entry.attr.st_mode = child->rec->mode;
    }
    if (list->plus)
        needed = fuse_add_direntry_plus(list->req, list->buffer + list->used,
                                        list->size - list->used, name, &entry, (off_t)next);
    else
        needed = fuse_add_direntry(list->req, list->buffer + list->used, list->size - list->used,
                                   name, &entry.attr, (off_t)next);
    if (needed > list->size - list->used)
        return false;
    list->used += needed;
    if (full)
        sfs_node_reference(child);
    return true;
}

static void
list_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
    g_auto(SfsTarget) dir = { 0 };
    g_autofree char *buffer = g_malloc(size);
    Listing list = { .req = req, .plus = plus, .buffer = buffer, .size = size };
    int r;

    if (!resolve(req, ino, &dir))
        return;
    r = sfs_namespace_list(mount_of(req)->names, &dir, (uint64_t)offset, add_entry, &list);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_buf(req, buffer, list.used);
}

static void
op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fuse_reply_open(req, fi);
}

static void
op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    list_dir(req, ino, size, offset, false);
}

static void
op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
               struct fuse_file_info *fi)
{
    list_dir(req, ino, size, offset, true);
}

static void
op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fuse_reply_err(req, 0);
}

static void
op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    fuse_reply_err(req, 0);
}

/* --- attributes ----------------------------------------------------------------------------------- */

static struct statx_timestamp
statx_time(struct timespec t)
{
    return (struct statx_timestamp){ .tv_sec = t.tv_sec, .tv_nsec = (uint32_t)t.tv_nsec };
}

static void
fill_statx(const SfsTarget *target, const struct stat *st, struct statx *stx)
{
    *stx = (struct statx){
        .stx_mask = STATX_BASIC_STATS,
        .stx_blksize = (uint32_t)st->st_blksize,
        .stx_nlink = (uint32_t)st->st_nlink,
        .stx_uid = st->st_uid,
        .stx_gid = st->st_gid,
        .stx_mode = (uint16_t)st->st_mode,
        .stx_ino = st->st_ino,
        .stx_size = (uint64_t)st->st_size,
        .stx_blocks = (uint64_t)st->st_blocks,
        .stx_rdev_major = major(st->st_rdev),
        .stx_rdev_minor = minor(st->st_rdev),
        .stx_atime = statx_time(st->st_atim),
        .stx_mtime = statx_time(st->st_mtim),
        .stx_ctime = statx_time(st->st_ctim),
    };
    if (target->rec != NULL) {
        stx->stx_mask |= STATX_BTIME;
        stx->stx_btime = statx_time(sfs_time_get(&target->rec->btime));
    }
}

static void
op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    g_auto(SfsTarget) target = { 0 };
    struct stat st;
    int r;

    if (!resolve(req, ino, &target))
        return;
    r = sfs_section_stat(mount_of(req), &target, handle_of(req, fi), &st);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &st, attr_timeout(req, &target));
}

/* As getattr, with what only statx(2) can ask for. */
static void
op_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask, struct fuse_file_info *fi)
{
    g_auto(SfsTarget) target = { 0 };
    struct stat st;
    struct statx stx;
    int r;

    if (!resolve(req, ino, &target))
        return;
    r = sfs_section_stat(mount_of(req), &target, handle_of(req, fi), &st);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    fill_statx(&target, &st, &stx);
    fuse_reply_statx(req, 0, &stx, attr_timeout(req, &target));
}

static void
op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
           struct fuse_file_info *fi)
{
    static const struct {
        int fuse;
        unsigned ours;
    } bits[] = {
        { FUSE_SET_ATTR_MODE, SFS_SET_MODE },
        { FUSE_SET_ATTR_UID, SFS_SET_UID },
        { FUSE_SET_ATTR_GID, SFS_SET_GID },
        { FUSE_SET_ATTR_SIZE, SFS_SET_SIZE },
        { FUSE_SET_ATTR_ATIME, SFS_SET_ATIME },
        { FUSE_SET_ATTR_MTIME, SFS_SET_MTIME },
        { FUSE_SET_ATTR_ATIME_NOW, SFS_SET_ATIME_NOW },
        { FUSE_SET_ATTR_MTIME_NOW, SFS_SET_MTIME_NOW },
    };
    SfsCaller caller = caller_of(req);
    g_auto(SfsTarget) target = { 0 };
    struct stat st;
    unsigned what = 0;
    int r;

    if (!resolve(req, ino, &target))
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(bits); i++) {
        if (to_set & bits[i].fuse)
            what |= bits[i].ours;
    }
    /* FUSE sets both bits of a time for "now". */
    if (what & SFS_SET_ATIME_NOW)
        what &= ~(unsigned)SFS_SET_ATIME;
    if (what & SFS_SET_MTIME_NOW)
        what &= ~(unsigned)SFS_SET_MTIME;
    r = sfs_section_set(mount_of(req), &target, handle_of(req, fi), &caller, attr, what);
    if (r == 0)
        r = sfs_section_stat(mount_of(req), &target, handle_of(req, fi), &st);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &st, attr_timeout(req, &target));
}

static void
op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    SfsMount *mount = mount_of(req);
    uint64_t files = mount->header->config.nr_sections;
    uint64_t used = sfs_registry_count(mount->registry, SFS_TABLE_NODES) - 1;
    struct statvfs st = { .f_bsize = SFS_PAGE_SIZE,
                          .f_frsize = SFS_PAGE_SIZE,
                          .f_namemax = SFS_NAME_MAX };
    SfsStoreUsage usage;

    sfs_store_usage(mount->store, &usage);
    st.f_blocks = usage.limit / SFS_PAGE_SIZE;
    st.f_bfree = usage.limit > usage.used ? (usage.limit - usage.used) / SFS_PAGE_SIZE : 0;
    st.f_bavail = st.f_bfree;
    st.f_files = files != 0 ? files : SFS_MAX_NODES;
    st.f_ffree = st.f_favail = st.f_files > used ? st.f_files - used : 0;
    fuse_reply_statfs(req, &st);
}

/* A value, or only its size when the caller asks with no room. */
static void
reply_sized(fuse_req_t req, GString *value, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(req, value->len);
    else if (value->len > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, value->str, value->len);
}

static void
op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    g_auto(SfsTarget) target = { 0 };
    g_autoptr(GString) value = NULL;
    int r;

    if (!resolve(req, ino, &target))
        return;
    r = sfs_control_get(mount_of(req), &target, name, &value);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_sized(req, value, size);
}

static void
op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    g_auto(SfsTarget) target = { 0 };
    g_autoptr(GString) list = NULL;

    if (!resolve(req, ino, &target))
        return;
    list = sfs_control_list(mount_of(req), &target);
    reply_sized(req, list, size);
}

/* A setxattr request on its way to the waiters' pool, or done at once. */
typedef struct {
    Waiting waiting;
    fuse_req_t req;
    fuse_ino_t ino;
    char *name;
    void *value;
    size_t size;
    int flags;
} Setting;

static void
set_attribute(const Setting *setting)
{
    SfsCaller caller = caller_of(setting->req);
    g_auto(SfsTarget) target = { 0 };

    if (resolve(setting->req, setting->ino, &target))
        reply_result(setting->req,
                     sfs_control_set(mount_of(setting->req), &target, &caller, setting->name,
                                     setting->value, setting->size, setting->flags));
}

static void
set_by_waiter(Waiting *waiting)
{
    Setting *setting = (Setting *)waiting;

    set_attribute(setting);
    g_free(setting->name);
    g_free(setting->value);
    g_free(setting);
}

static void
op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
            int flags)
{
    Setting setting = { { set_by_waiter }, req, ino, (char *)name, (void *)value, size, flags };
    Setting *copy;

    if (!sfs_control_may_block(name)) {
        set_attribute(&setting);
        return;
    }
    copy = g_memdup2(&setting, sizeof setting);
    copy->name = g_strdup(name);
    copy->value = g_memdup2(value, size);
    g_thread_pool_push(mount_of(req)->waiters, copy, NULL);
}

static void
op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    g_auto(SfsTarget) target = { 0 };

    if (resolve(req, ino, &target))
        reply_result(req, sfs_control_remove(mount_of(req), &target, name));
}

/* --- open and release ----------------------------------------------------------------------------- */

static void
fill_open(struct fuse_file_info *fi, const SfsHandle *handle, const SfsOpenReply *how)
{
    fi->fh = handle->slot;
    switch (how->mode) {
    case SFS_IO_PASSTHROUGH:
        fi->backing_id = how->backing_id;
        break;
    case SFS_IO_DIRECT:
        fi->direct_io = 1;
        break;
    default:
        fi->keep_cache = how->keep_cache;
        break;
    }
}

static int
open_target(fuse_req_t req, const SfsTarget *target, struct fuse_file_info *fi, SfsHandle **handle)
{
    SfsCaller caller = caller_of(req);
    g_autoptr(GBytes) text = sfs_info_text(mount_of(req), target);
    SfsOpenReply how;
    int r = sfs_section_open(mount_of(req), target, fi->flags, &caller, text, handle, &how);

    if (r == 0)
        fill_open(fi, *handle, &how);
    if (r == 0 && how.forget_attrs)
        fuse_lowlevel_notify_inval_inode(mount_of(req)->session, target->nodeid, -1, 0);
    return r;
}

static void
open_and_reply(fuse_req_t req, const SfsTarget *target, struct fuse_file_info *fi)
{
    SfsMount *mount = mount_of(req);
    SfsHandle *handle;
    int r = open_target(req, target, fi, &handle);

    if (r < 0)
        fuse_reply_err(req, -r);
    else if (fuse_reply_open(req, fi) != 0)
        sfs_section_release(mount, handle);
}

/* Opening a view, once the kernel has written back what was stored to its base by mappings. */
typedef struct {
    Waiting waiting;
    fuse_req_t req;
    fuse_ino_t ino;
    struct fuse_file_info fi;
} ViewOpening;

static void
open_view_by_waiter(Waiting *waiting)
{
    ViewOpening *opening = (ViewOpening *)waiting;
    g_auto(SfsTarget) target = { 0 };

    if (resolve(opening->req, opening->ino, &target)) {
        fuse_lowlevel_notify_inval_inode(
            mount_of(opening->req)->session,
            sfs_nodeid(SFS_CLASS_NODE, target.slot, target.rec->nodeid_serial), 0, 0);
        open_and_reply(opening->req, &target, &opening->fi);
    }
    g_free(opening);
}

static void
op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    ViewOpening opening = { { open_view_by_waiter }, req, ino, *fi };
    g_auto(SfsTarget) target = { 0 };

    if (!resolve(req, ino, &target))
        return;
    if (target.class == SFS_CLASS_COW && sfs_section_may_be_dirty(&target))
        g_thread_pool_push(mount_of(req)->waiters, g_memdup2(&opening, sizeof opening), NULL);
    else
        open_and_reply(req, &target, fi);
}

/* Opens and replies a section that was just made; takes it back where that fails. */
static void
reply_created(fuse_req_t req, const SfsTarget *child, struct fuse_file_info *fi)
{
    SfsMount *mount = mount_of(req);
    struct fuse_entry_param entry;
    SfsHandle *handle;
    int r;

    /* It is empty, which the kernel knows when it asks for O_TRUNC here. */
    fi->flags &= ~O_TRUNC;
    r = open_target(req, child, fi, &handle);
    if (r == 0) {
        r = fill_entry(req, child, &entry);
        if (r == 0 && fuse_reply_create(req, &entry, fi) == 0)
            return;
        sfs_section_release(mount, handle);
    }
    if (r < 0)
        fuse_reply_err(req, -r);
    forget(mount, child, 1);
}

static void
op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
          struct fuse_file_info *fi)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    SfsNodeSpec spec = { .mode = S_IFREG | (mode & 07777), .uid = ctx->uid, .gid = ctx->gid };
    g_auto(SfsTarget) dir = { 0 };
    g_auto(SfsTarget) child = { 0 };
    int r;

    if (!resolve_for_change(req, parent, &dir))
        return;
    r = sfs_namespace_create(mount_of(req)->names, &dir, name, &spec, &child);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_created(req, &child, fi);
}

static void
op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    SfsNodeSpec spec = { .mode = S_IFREG | (mode & 07777), .uid = ctx->uid, .gid = ctx->gid };
    g_auto(SfsTarget) dir = { 0 };
    g_auto(SfsTarget) child = { 0 };
    int r;

    if (!resolve_for_change(req, parent, &dir))
        return;
    r = sfs_namespace_create_unnamed(mount_of(req)->names, &dir, &spec, &child);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_created(req, &child, fi);
}

static void
op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    SfsHandle *handle = handle_of(req, fi);

    if (handle != NULL) {
        sfs_lock_release(mount_of(req), handle);
        sfs_section_release(mount_of(req), handle);
    }
    fuse_reply_err(req, 0);
}

/* --- bytes ---------------------------------------------------------------------------------------- */

/* A buffer of this thread's, at least @size bytes, which lives until the thread's next call. */
static void *
thread_buffer(size_t size)
{
    static GPrivate key = G_PRIVATE_INIT((GDestroyNotify)g_byte_array_unref);
    GByteArray *buffer = g_private_get(&key);

    if (buffer == NULL) {
        buffer = g_byte_array_new();
        g_private_set(&key, buffer);
    }
    if (buffer->len < size)
        g_byte_array_set_size(buffer, (guint)size);
    return buffer->data;
}

static void
op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    SfsHandle *handle = need_handle(req, fi);
    ssize_t n;
    char *buf;
    int fd;

    if (handle == NULL)
        return;
    if (handle->text != NULL) {
        g_autoptr(GBytes) text = g_bytes_ref(handle->text); /* a release may follow the reply at once */
        size_t length, from;
        const char *bytes = g_bytes_get_data(text, &length);

        from = MIN((size_t)offset, length);
        fuse_reply_buf(req, bytes + from, MIN(size, length - from));
        return;
    }
    if (handle->backing == NULL) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    fd = sfs_backing_data_fd(handle->backing);
    if (fd >= 0) {
        struct fuse_bufvec data = FUSE_BUFVEC_INIT(size);

        data.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
        data.buf[0].fd = fd;
        data.buf[0].pos = offset;
        fuse_reply_data(req, &data, 0);
        return;
    }
    buf = thread_buffer(size);
    n = handle->backing->ops->read(handle->backing, buf, size, offset);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_buf(req, buf, (size_t)n);
}

static void
op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
         struct fuse_file_info *fi)
{
    SfsHandle *handle = need_handle(req, fi);
    g_auto(SfsTarget) target = { 0 };
    unsigned how = 0;
    ssize_t n;

    if (handle == NULL)
        return;
    if (fi->kill_suidgid && sfs_node_resolve(mount_of(req)->nodes, ino, &target) == 0)
        sfs_section_drop_set_ids(mount_of(req), &target);
    if (fi->writepage)
        how = SFS_WRITE_BACK;
    else if (fi->flags & O_APPEND)
        how = SFS_WRITE_APPEND;
    n = sfs_section_write(mount_of(req), handle, buf, size, offset, how);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_write(req, (size_t)n);
}

/* Some process has closed a descriptor of it: that ends its record locks, and nothing else. */
static void
op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    SfsHandle *handle = handle_of(req, fi);

    if (handle != NULL)
        sfs_lock_closed(mount_of(req), handle, fi->lock_owner);
    fuse_reply_err(req, 0);
}

static void
op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    SfsHandle *handle = need_handle(req, fi);

    if (handle != NULL)
        reply_result(req, sfs_section_sync(mount_of(req), handle, datasync != 0));
}

static void
op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
             struct fuse_file_info *fi)
{
    SfsHandle *handle = need_handle(req, fi);

    if (handle != NULL)
        reply_result(req, sfs_section_allocate(mount_of(req), handle, mode, offset, length));
}

static void
op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    SfsHandle *handle = need_handle(req, fi);
    off_t at;

    if (handle == NULL)
        return;
    at = sfs_section_seek(mount_of(req), handle, offset, whence);
    if (at < 0)
        fuse_reply_err(req, (int)-at);
    else
        fuse_reply_lseek(req, at);
}

static void
op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
                   fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
                   int flags)
{
    SfsHandle *from = need_handle(req, fi_in);
    SfsHandle *to;
    ssize_t n;

    if (from == NULL)
        return;
    to = need_handle(req, fi_out);
    if (to == NULL)
        return;
    n = sfs_section_copy(mount_of(req), from, off_in, to, off_out, len);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_write(req, (size_t)n);
}

/* --- locks -------------------------------------------------------------------------------------------- */

static void
op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    SfsHandle *handle = need_handle(req, fi);
    int r;

    if (handle == NULL)
        return;
    r = sfs_lock_test(mount_of(req), handle, fi->lock_owner, lock);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_lock(req, lock);
}

static void
reply_locked(int result, void *data)
{
    fuse_req_t req = data;

    /* From here on nobody may interrupt a wait that is over. */
    fuse_req_interrupt_func(req, NULL, NULL);
    reply_result(req, result);
}

static void
interrupt_wait(fuse_req_t req, void *data)
{
    sfs_lock_wait_interrupt(data);
}

/* What it waits for does not come through this thread. */
static void
wait_for_lock(fuse_req_t req, SfsHandle *handle, const struct fuse_file_info *fi,
              const struct flock *lock, int operation)
{
    SfsLockWait *wait = sfs_lock_wait_new(mount_of(req), handle, fi->lock_owner, lock, operation,
                                          reply_locked, req);

    fuse_req_interrupt_func(req, interrupt_wait, wait);
    sfs_lock_wait_start(wait);
}

static void
op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
    SfsHandle *handle = need_handle(req, fi);
    int r;

    if (handle == NULL)
        return;
    r = sfs_lock_set(mount_of(req), handle, fi->lock_owner, lock);
    if (r == -EAGAIN && sleep)
        wait_for_lock(req, handle, fi, lock, 0);
    else
        reply_result(req, r);
}

static void
op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
    SfsHandle *handle = need_handle(req, fi);
    int r;

    if (handle == NULL)
        return;
    r = sfs_lock_flock(mount_of(req), handle, operation);
    if (r == -EAGAIN && !(operation & LOCK_NB))
        wait_for_lock(req, handle, fi, NULL, operation);
    else
        reply_result(req, r);
}

/* --- the table ------------------------------------------------------------------------------------ */

const struct fuse_lowlevel_ops *
sfs_ops(void)
{
    static const struct fuse_lowlevel_ops table = {
        .lookup = op_lookup,
        .forget = op_forget,
        .forget_multi = op_forget_multi,
        .getattr = op_getattr,
        .statx = op_statx,
        .setattr = op_setattr,
        .readlink = op_readlink,
        .mknod = op_mknod,
        .mkdir = op_mkdir,
        .unlink = op_unlink,
        .rmdir = op_rmdir,
        .symlink = op_symlink,
        .rename = op_rename,
        .link = op_link,
        .open = op_open,
        .read = op_read,
        .write = op_write,
        .flush = op_flush,
        .release = op_release,
        .fsync = op_fsync,
        .opendir = op_opendir,
        .readdir = op_readdir,
        .readdirplus = op_readdirplus,
        .releasedir = op_releasedir,
        .fsyncdir = op_fsyncdir,
        .statfs = op_statfs,
        .setxattr = op_setxattr,
        .getxattr = op_getxattr,
        .listxattr = op_listxattr,
        .removexattr = op_removexattr,
        .create = op_create,
        .tmpfile = op_tmpfile,
        .fallocate = op_fallocate,
        .copy_file_range = op_copy_file_range,
        .lseek = op_lseek,
        .getlk = op_getlk,
        .setlk = op_setlk,
        .flock = op_flock,
    };

    return &table;
}

void
sfs_ops_start(SfsMount *mount)
{
    mount->waiters = g_thread_pool_new(run_waiting, NULL, WAITER_THREADS, FALSE, NULL);
}

void
sfs_ops_stop(SfsMount *mount)
{
    g_thread_pool_free(mount->waiters, FALSE, TRUE);
}
