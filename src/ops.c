/* SPDX-License-Identifier: MIT */
/*
 * Each operation has the same shape: resolve the nodeid (which replies by itself when it means
 * nothing), call the room whose job it is, reply once. A reply that hands a reference or a handle
 * to the kernel can fail, when the request was interrupted or the mount is gone; then the kernel
 * does not have it, and it is taken back here.
 *
 * Operations that may have to wait, for this very mount or for other processes, are put off to
 * threads that may (defer.h).
 */
#include "ops-internal.h"

#include "control.h"
#include "defer.h"
#include "fixed.h"
#include "info.h"
#include "lifetime.h"
#include "log.h"
#include "namespace.h"
#include "section.h"
#include "store.h"
#include "util.h"

#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

/* Names change through the kernel only, so it may remember them for as long as it likes; attributes
 * as sfs_section_attrs_stay() says. A copy-on-write name must be looked up for each open. */
#define ASK_AGAIN 0.0

/* --- what every operation needs -------------------------------------------------------------- */

SfsMount *
sfs_op_mount(fuse_req_t req)
{
    return fuse_req_userdata(req); /* the worker hands us its SfsMount */
}

SfsCaller
sfs_op_caller(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);

    return (SfsCaller){.uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid};
}

void
sfs_op_reply(fuse_req_t req, int r)
{
    fuse_reply_err(req, r < 0 ? -r : 0);
}

void
sfs_op_reply_bytes(fuse_req_t req, const void *bytes, size_t size)
{
    fuse_reply_buf(req, memcpy(sfs_fixed_buffer(size), bytes, size), size);
}

/* False: replied already. */
bool
sfs_op_resolve(fuse_req_t req, fuse_ino_t ino, SfsTarget *target)
{
    int r = sfs_node_resolve(sfs_op_mount(req)->nodes, ino, target);

    /* A section that is at its end means nothing any more: its names are about to go. */
    if (r == 0 && target->rec != NULL && target->rec->doomed)
        r = -ESTALE;
    if (r < 0)
        fuse_reply_err(req, -r);
    return r == 0;
}

/* A directory in which something is to be changed: .cow and .info are for looking. */
bool
sfs_op_resolve_for_change(fuse_req_t req, fuse_ino_t ino, SfsTarget *target)
{
    if (!sfs_op_resolve(req, ino, target))
        return false;
    if (target->class == SFS_CLASS_NODE)
        return true;
    fuse_reply_err(req, EROFS);
    return false;
}

SfsHandle *
sfs_op_handle(fuse_req_t req, const struct fuse_file_info *fi)
{
    return fi != NULL ? sfs_section_handle(sfs_op_mount(req), fi->fh) : NULL;
}

/* NULL: replied already. */
SfsHandle *
sfs_op_need_handle(fuse_req_t req, const struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_handle(req, fi);

    if (handle == NULL)
        fuse_reply_err(req, EBADF);
    return handle;
}

double
sfs_op_attr_timeout(fuse_req_t req, const SfsTarget *target)
{
    return sfs_section_attrs_stay(sfs_op_mount(req), target) ? SFS_OP_REMEMBER : ASK_AGAIN;
}

int
sfs_op_fill_entry(fuse_req_t req, const SfsTarget *target, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = target->nodeid;
    entry->attr_timeout = sfs_op_attr_timeout(req, target);
    entry->entry_timeout = target->class == SFS_CLASS_NODE ? SFS_OP_REMEMBER : ASK_AGAIN;
    return sfs_section_stat(sfs_op_mount(req), target, NULL, &entry->attr);
}

/* Directories and links: the bytes of others keep their own time. */
static void
accessed(fuse_req_t req, const SfsTarget *target)
{
    SfsMount *mount = sfs_op_mount(req);

    if (target->class == SFS_CLASS_NODE && !mount->header->config.no_atime)
        sfs_node_accessed(mount->nodes, target->slot);
}

/* Takes back a reference that the kernel was to get. */
void
sfs_op_forget(SfsMount *mount, const SfsTarget *target, uint64_t n)
{
    if (target->class == SFS_CLASS_NODE)
        sfs_node_forget(mount->nodes, target->slot, n);
}

/* Replies with a target of which a reference was counted for the kernel. */
static void
reply_target(fuse_req_t req, const SfsTarget *target)
{
    SfsMount *mount = sfs_op_mount(req); /* req is gone after the reply */
    struct fuse_entry_param entry;
    int r = sfs_op_fill_entry(req, target, &entry);

    if (r < 0) {
        fuse_reply_err(req, -r);
        sfs_op_forget(mount, target, 1);
    } else if (fuse_reply_entry(req, &entry) != 0) {
        sfs_op_forget(mount, target, 1);
    }
}

/* --- names ----------------------------------------------------------------------------------- */

static void
op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    g_auto(SfsTarget) dir = {0};
    g_auto(SfsTarget) child = {0};
    int r;

    if (!sfs_op_resolve(req, parent, &dir))
        return;
    r = sfs_namespace_lookup(sfs_op_mount(req)->names, &dir, name, &child);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    if (!sfs_lifetime_looked_up(sfs_op_mount(req), &child)) {
        sfs_op_forget(sfs_op_mount(req), &child, 1);
        fuse_reply_err(req, ENOENT);
        return;
    }
    reply_target(req, &child);
}

static void
forget_nodeid(SfsMount *mount, fuse_ino_t ino, uint64_t n)
{
    g_auto(SfsTarget) target = {0};

    if (sfs_node_resolve(mount->nodes, ino, &target) == 0)
        sfs_op_forget(mount, &target, n);
}

static void
op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    forget_nodeid(sfs_op_mount(req), ino, nlookup);
    fuse_reply_none(req);
}

static void
op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget_nodeid(sfs_op_mount(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void
make_node(fuse_req_t req, fuse_ino_t parent, const char *name, uint32_t mode, dev_t rdev,
          const char *link_target)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    SfsNodeSpec spec = {.mode = mode,
                        .uid = ctx->uid,
                        .gid = ctx->gid,
                        .rdev = (uint32_t)rdev,
                        .link_target = link_target};
    g_auto(SfsTarget) dir = {0};
    g_auto(SfsTarget) child = {0};
    int r;

    if (!sfs_op_resolve_for_change(req, parent, &dir))
        return;
    r = sfs_namespace_create(sfs_op_mount(req)->names, &dir, name, &spec, &child);
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
    g_auto(SfsTarget) target = {0};
    g_autofree char *text = NULL;

    if (!sfs_op_resolve(req, ino, &target))
        return;
    if (target.rec == NULL || !S_ISLNK(target.rec->mode)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    text = sfs_registry_load_text(sfs_op_mount(req)->registry, target.rec->text, NULL);
    accessed(req, &target);
    sfs_op_reply_bytes(req, text, strlen(text));
}

static void
op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    SfsMount *mount = sfs_op_mount(req);
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) dir = {0};
    g_auto(SfsTarget) target = {0};
    g_auto(SfsTarget) linked = {0};
    int r;

    if (!sfs_op_resolve_for_change(req, new_parent, &dir) || !sfs_op_resolve(req, ino, &target))
        return;
    if (!sfs_target_is_itself(&target)) {
        fuse_reply_err(req, EXDEV);
        return;
    }
    r = sfs_section_check_link(&target, &caller);
    if (r == 0)
        r = sfs_namespace_link(mount->names, &target, &dir, new_name);
    /* Its nodeid may have changed since the caller got hold of it, by being defined. */
    if (r == 0)
        r = sfs_namespace_lookup(mount->names, &dir, new_name, &linked);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_target(req, &linked);
}

/* Of a section that is not to be deleted while it is in use. False: that is for good. */
static bool
wait_until_unused(SfsMount *mount, const SfsTarget *dir, const char *name, gint64 deadline)
{
    uint32_t slot;

    return !sfs_namespace_find(mount->names, dir, name, &slot) ||
           sfs_lifetime_wait(mount, slot, deadline);
}

static void
op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    SfsMount *mount = sfs_op_mount(req);
    gint64 deadline = sfs_lifetime_patience();
    g_auto(SfsTarget) dir = {0};
    int r;

    if (!sfs_op_resolve_for_change(req, parent, &dir))
        return;
    r = sfs_namespace_unlink(mount->names, &dir, name);
    if (r == -EAGAIN && sfs_defer(req, SFS_WAIT_SCAN))
        return;
    while (r == -EAGAIN && wait_until_unused(mount, &dir, name, deadline))
        r = sfs_namespace_unlink(mount->names, &dir, name);
    sfs_op_reply(req, r == -EAGAIN ? -EBUSY : r);
}

static void
op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    g_auto(SfsTarget) dir = {0};

    if (sfs_op_resolve_for_change(req, parent, &dir))
        sfs_op_reply(req, sfs_namespace_rmdir(sfs_op_mount(req)->names, &dir, name));
}

static void
op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
          const char *new_name, unsigned int flags)
{
    SfsMount *mount = sfs_op_mount(req);
    gint64 deadline = sfs_lifetime_patience();
    g_auto(SfsTarget) from = {0};
    g_auto(SfsTarget) to = {0};
    int r;

    if (!sfs_op_resolve(req, parent, &from) || !sfs_op_resolve(req, new_parent, &to))
        return;
    if (from.class != to.class || from.class != SFS_CLASS_NODE) {
        fuse_reply_err(req, from.class != to.class ? EXDEV : EROFS);
        return;
    }
    r = sfs_namespace_rename(mount->names, &from, name, &to, new_name, flags);
    if (r == -EAGAIN && sfs_defer(req, SFS_WAIT_SCAN))
        return;
    while (r == -EAGAIN && wait_until_unused(mount, &to, new_name, deadline))
        r = sfs_namespace_rename(mount->names, &from, name, &to, new_name, flags);
    sfs_op_reply(req, r == -EAGAIN ? -EBUSY : r);
}

/* --- directories ----------------------------------------------------------------------------- */

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
    struct fuse_entry_param entry = {0};
    bool is_dot = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
    /* Attributes of a real file may take time to get, which is not to be spent here. */
    bool full = list->plus && !is_dot &&
                sfs_class_by_name(child->class, child->rec) == SFS_CLASS_NODE &&
                child->rec->kind != SFS_KIND_FILE;
    size_t needed;

    if (full) {
        sfs_op_fill_entry(list->req, child, &entry);
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
    g_auto(SfsTarget) dir = {0};
    char *buffer = sfs_fixed_buffer(size);
    Listing list = {.req = req, .plus = plus, .buffer = buffer, .size = size};
    int r;

    if (!sfs_op_resolve(req, ino, &dir))
        return;
    if (offset == 0)
        accessed(req, &dir);
    r = sfs_namespace_list(sfs_op_mount(req)->names, &dir, (uint64_t)offset, add_entry, &list);
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
op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
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

/* --- attributes ------------------------------------------------------------------------------ */

static struct statx_timestamp
statx_time(struct timespec t)
{
    return (struct statx_timestamp){.tv_sec = t.tv_sec, .tv_nsec = (uint32_t)t.tv_nsec};
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
    g_auto(SfsTarget) target = {0};
    struct stat st;
    int r;

    if (!sfs_op_resolve(req, ino, &target))
        return;
    r = sfs_section_stat(sfs_op_mount(req), &target, sfs_op_handle(req, fi), &st);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &st, sfs_op_attr_timeout(req, &target));
}

/* As getattr, with what only statx(2) can ask for. */
static void
op_statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask, struct fuse_file_info *fi)
{
    g_auto(SfsTarget) target = {0};
    struct stat st;
    struct statx stx;
    int r;

    if (!sfs_op_resolve(req, ino, &target))
        return;
    r = sfs_section_stat(sfs_op_mount(req), &target, sfs_op_handle(req, fi), &st);
    if (r < 0) {
        fuse_reply_err(req, -r);
        return;
    }
    fill_statx(&target, &st, &stx);
    fuse_reply_statx(req, 0, &stx, sfs_op_attr_timeout(req, &target));
}

static void
op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    static const struct {
        int fuse;
        unsigned ours;
    } bits[] = {
        {FUSE_SET_ATTR_MODE, SFS_SET_MODE},
        {FUSE_SET_ATTR_UID, SFS_SET_UID},
        {FUSE_SET_ATTR_GID, SFS_SET_GID},
        {FUSE_SET_ATTR_SIZE, SFS_SET_SIZE},
        {FUSE_SET_ATTR_ATIME, SFS_SET_ATIME},
        {FUSE_SET_ATTR_MTIME, SFS_SET_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, SFS_SET_ATIME_NOW},
        {FUSE_SET_ATTR_MTIME_NOW, SFS_SET_MTIME_NOW},
    };
    SfsMount *mount = sfs_op_mount(req);
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};
    struct stat st;
    unsigned what = 0;
    int r;

    if (!sfs_op_resolve(req, ino, &target))
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
    if (what & SFS_SET_SIZE &&
        sfs_section_size_waits(sfs_op_mount(req), &target, sfs_op_handle(req, fi), attr->st_size) &&
        sfs_defer(req, SFS_WAIT_SCAN))
        return;
    r = sfs_section_set(sfs_op_mount(req), &target, sfs_op_handle(req, fi), &caller, attr, what);
    if (r == 0)
        r = sfs_section_stat(sfs_op_mount(req), &target, sfs_op_handle(req, fi), &st);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_attr(req, &st, sfs_op_attr_timeout(req, &target));
    sfs_section_cut(mount);
}

static void
op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    SfsMount *mount = sfs_op_mount(req);
    uint64_t files = mount->header->config.nr_sections;
    uint64_t used = sfs_registry_count(mount->registry, SFS_TABLE_NODES) - 1;
    struct statvfs st = {
        .f_bsize = SFS_PAGE_SIZE, .f_frsize = SFS_PAGE_SIZE, .f_namemax = SFS_NAME_MAX};
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
        sfs_op_reply_bytes(req, value->str, value->len);
}

static void
op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    g_auto(SfsTarget) target = {0};
    g_autoptr(GString) value = NULL;
    SfsWaitFor what;
    int r;

    if (sfs_control_waits(name, false, &what) && sfs_defer(req, what))
        return;
    if (!sfs_op_resolve(req, ino, &target))
        return;
    r = sfs_control_get(sfs_op_mount(req), &target, name, &value);
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        reply_sized(req, value, size);
}

static void
op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};
    g_autoptr(GString) list = NULL;

    if (!sfs_op_resolve(req, ino, &target))
        return;
    list = sfs_control_list(sfs_op_mount(req), &target, &caller);
    reply_sized(req, list, size);
}

/* A section that was defined has another nodeid now. Opening it by a name that the kernel remembers
 * would find out, but not everything opens: watching it, for one, does not. */
static void
forget_names(fuse_req_t req, const SfsTarget *target)
{
    SfsMount *mount = sfs_op_mount(req);

    if (target->rec->nlink > 0)
        sfs_lifetime_renewed(mount, target->slot);
}

static void
op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
            int flags)
{
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};
    SfsWaitFor what;
    int r;

    if (sfs_control_waits(name, true, &what) && sfs_defer(req, what))
        return;
    if (!sfs_op_resolve(req, ino, &target))
        return;
    r = sfs_control_set(sfs_op_mount(req), &target, &caller, name, value, size, flags);
    if (r == 0 && sfs_control_renews(name))
        forget_names(req, &target);
    if (r == 0)
        sfs_lifetime_changed(sfs_op_mount(req), target.slot);
    sfs_op_reply(req, r);
}

static void
op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};
    SfsWaitFor what;
    int r;

    if (sfs_control_waits(name, true, &what) && sfs_defer(req, what))
        return;
    if (!sfs_op_resolve(req, ino, &target))
        return;
    r = sfs_control_remove(sfs_op_mount(req), &target, &caller, name);
    if (r == 0 && sfs_control_renews(name))
        forget_names(req, &target);
    sfs_op_reply(req, r);
}

/* --- the table ------------------------------------------------------------------------------- */

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
        .open = sfs_op_open,
        .read = sfs_op_read,
        .write = sfs_op_write,
        .flush = sfs_op_flush,
        .release = sfs_op_release,
        .fsync = sfs_op_fsync,
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
        .create = sfs_op_create,
        .tmpfile = sfs_op_tmpfile,
        .fallocate = sfs_op_fallocate,
        .copy_file_range = sfs_op_copy_file_range,
        .ioctl = sfs_op_ioctl,
        .lseek = sfs_op_lseek,
        .getlk = sfs_op_getlk,
        .setlk = sfs_op_setlk,
        .flock = sfs_op_flock,
    };

    return &table;
}
