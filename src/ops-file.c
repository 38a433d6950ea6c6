/* SPDX-License-Identifier: MIT */
/* Operations on open files: open and release, bytes, locks. In the shape that ops.c describes. */
#include "ops-internal.h"

#include "defer.h"
#include "fixed.h"
#include "info.h"
#include "lock.h"
#include "namespace.h"
#include "reader.h"
#include "section.h"
#include "util.h"

#include <string.h>
#include <sys/file.h>

/* How often an open looks whether a section is still being cut off. */
#define CUT_US 2000

/* --- open and release ------------------------------------------------------------------------ */

static void
fill_open(struct fuse_file_info *fi, const SfsHandle *handle, const SfsOpenReply *how)
{
    fi->fh = sfs_handle_fh(handle);
    switch (how->mode) {
    case SFS_IO_PASSTHROUGH:
        fi->backing_id = how->backing_id;
        fi->direct_io = how->mediated;
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
    SfsCaller caller = sfs_op_caller(req);
    g_autoptr(GBytes) text = sfs_info_text(sfs_op_mount(req), target);
    SfsOpenReply how;
    int r = sfs_section_open(sfs_op_mount(req), target, fi->flags, &caller, text, handle, &how);

    if (r == 0)
        fill_open(fi, *handle, &how);
    return r;
}

static void
open_and_reply(fuse_req_t req, const SfsTarget *target, struct fuse_file_info *fi)
{
    SfsMount *mount = sfs_op_mount(req);
    SfsHandle *handle;
    int r = open_target(req, target, fi, &handle);

    if (r == -EAGAIN && sfs_defer(req, SFS_WAIT_SCAN))
        return;
    while (r == -EAGAIN) {
        /* It is being cut off; and the kernel has yet to take note of that when it is told. */
        g_usleep(CUT_US);
        r = open_target(req, target, fi, &handle);
    }
    if (r < 0)
        fuse_reply_err(req, -r);
    else if (fuse_reply_open(req, fi) != 0)
        sfs_section_release(mount, handle);
    sfs_section_cut(mount);
}

void
sfs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    SfsMount *mount = sfs_op_mount(req);
    g_auto(SfsTarget) target = {0};
    uint64_t dirty;

    if (!sfs_op_resolve(req, ino, &target))
        return;
    if (fi->flags & O_TRUNC && sfs_section_size_waits(mount, &target, NULL, 0) &&
        sfs_defer(req, SFS_WAIT_SCAN))
        return;
    /* The text tells who has it open. */
    if (target.class == SFS_CLASS_INFO && sfs_target_is_section(&target) &&
        sfs_defer(req, SFS_WAIT_SCAN))
        return;
    dirty = sfs_section_dirty_inode(mount, &target);
    if ((dirty != 0 || sfs_section_open_may_wait(mount, &target, fi->flags)) &&
        sfs_defer(req, SFS_WAIT_VIEW))
        return;
    /* The kernel writes back what was stored to its base by mappings. */
    if (dirty != 0)
        fuse_lowlevel_notify_inval_inode(mount->session, dirty, 0, 0);
    open_and_reply(req, &target, fi);
}

/* Opens and replies a section that was just made. Where that fails, the reference for the kernel
 * and the name are for the caller to take back, and the error to reply, if nothing was @replied
 * yet. */
static int
reply_created(fuse_req_t req, const SfsTarget *child, struct fuse_file_info *fi, bool *replied)
{
    SfsMount *mount = sfs_op_mount(req);
    struct fuse_entry_param entry;
    SfsHandle *handle;
    int r;

    /* It is empty, which the kernel knows when it asks for O_TRUNC here. */
    fi->flags &= ~O_TRUNC;
    r = open_target(req, child, fi, &handle);
    if (r == 0) {
        r = sfs_op_fill_entry(req, child, &entry);
        entry.attr_timeout = SFS_OP_REMEMBER; /* nobody can have mapped it yet */
        *replied = r == 0;
        if (r == 0)
            r = fuse_reply_create(req, &entry, fi);
        if (r < 0)
            sfs_section_release(mount, handle);
    }
    return r;
}

/* Makes a section, with @name NULL one without a name, and opens it. */
static void
create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    SfsMount *mount = sfs_op_mount(req);
    SfsNodeSpec spec = {.mode = S_IFREG | (mode & 07777), .uid = ctx->uid, .gid = ctx->gid};
    g_auto(SfsTarget) dir = {0};
    g_auto(SfsTarget) child = {0};
    bool replied = false;
    int r;

    if (!sfs_op_resolve_for_change(req, parent, &dir))
        return;
    if (name != NULL)
        r = sfs_namespace_create(mount->names, &dir, name, &spec, &child);
    else if (sfs_section_made(mount, &child))
        r = 0;
    else
        r = sfs_namespace_create_unnamed(mount->names, &dir, &spec, &child);
    if (r == 0) {
        r = reply_created(req, &child, fi, &replied);
        if (r < 0 && name != NULL)
            sfs_namespace_unlink(mount->names, &dir, name);
        if (r < 0)
            sfs_op_forget(mount, &child, 1);
    }
    if (r < 0 && !replied)
        fuse_reply_err(req, -r);
}

void
sfs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
              struct fuse_file_info *fi)
{
    create(req, parent, name, mode, fi);
}

void
sfs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
    create(req, parent, NULL, mode, fi);
}

void
sfs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_handle(req, fi);

    if (handle != NULL) {
        sfs_lock_release(sfs_op_mount(req), handle);
        sfs_section_release(sfs_op_mount(req), handle);
    }
    fuse_reply_err(req, 0);
}

/* --- bytes ----------------------------------------------------------------------------------- */

/* What is smaller is copied: libfuse would, and a pipe costs more. */
#define SPLICE_MIN ((size_t)2 * SFS_PAGE_SIZE)

/* Replies with pages that were put into a pipe, not copied. False: it has to be read. */
static bool
reply_spliced(fuse_req_t req, SfsHandle *handle, size_t size, off_t offset, bool quietly)
{
    const int *pipe = size < SPLICE_MIN ? NULL : sfs_reader_reply_pipe();
    struct fuse_bufvec data = FUSE_BUFVEC_INIT(0);
    ssize_t n;

    if (pipe == NULL || size > SFS_READER_MAX_WRITE)
        return false;
    n = sfs_section_splice_read(sfs_op_mount(req), handle, pipe[1], size, offset, quietly);
    data.buf[0].flags = FUSE_BUF_IS_FD;
    data.buf[0].fd = pipe[0];
    data.buf[0].size = (size_t)MAX(n, 0);
    /* libfuse says 0 as well where it had to answer with an error. */
    if (n <= 0 || fuse_reply_data(req, &data, 0) != 0 || data.idx < data.count)
        sfs_reader_empty_reply_pipe();
    return n > 0;
}

void
sfs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    bool quietly = fi->flags & O_NOATIME || sfs_op_mount(req)->header->config.no_atime;
    ssize_t n;
    char *buf;

    if (handle == NULL)
        return;
    if (handle->text != NULL) {
        g_autoptr(GBytes) text =
            g_bytes_ref(handle->text); /* a release may follow the reply at once */
        size_t length, from;
        const char *bytes = g_bytes_get_data(text, &length);

        from = MIN((size_t)offset, length);
        sfs_op_reply_bytes(req, bytes + from, MIN(size, length - from));
        return;
    }
    if (reply_spliced(req, handle, size, offset, quietly))
        return;
    buf = sfs_fixed_buffer(size);
    n = sfs_section_read(sfs_op_mount(req), handle, buf, size, offset, quietly);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_buf(req, buf, (size_t)n);
}

static void
drop_privileges(fuse_req_t req, fuse_ino_t ino, bool by_stranger)
{
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};

    if (sfs_node_resolve(sfs_op_mount(req)->nodes, ino, &target) == 0)
        sfs_section_drop_privileges(sfs_op_mount(req), &target, by_stranger ? &caller : NULL);
}

/* The same of what the kernel does not say that about, nor whether who asks may leave the bits
 * alone; and of what comes here where writes do not. */
static void
drop_all_privileges(fuse_req_t req, fuse_ino_t ino)
{
    SfsMount *mount = sfs_op_mount(req);
    SfsCaller caller = sfs_op_caller(req);
    g_auto(SfsTarget) target = {0};

    if (sfs_node_resolve(mount->nodes, ino, &target) != 0)
        return;
    sfs_section_drop_privileges(mount, &target, caller.uid != 0 ? &caller : NULL);
    sfs_section_drop_file_set_ids(mount, &target, &caller);
}

/* When the kernel writes back, it takes whatever is not an error for all of it. @done of it is
 * there; the rest is in memory. */
static ssize_t
finish_write_back(SfsMount *mount, SfsHandle *handle, const char *buf, size_t size, off_t offset,
                  size_t done)
{
    while (done < size) {
        ssize_t n = sfs_section_write(mount, handle, buf + done, -1, size - done,
                                      offset + (off_t)done, SFS_WRITE_BACK);

        if (n <= 0)
            return n < 0 ? n : -EIO;
        done += (size_t)n;
    }
    return (ssize_t)size;
}

void
sfs_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
             struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    int pipe = sfs_reader_pipe();
    unsigned how;
    ssize_t n;

    if (handle == NULL)
        return;
    if (fi->writepage) {
        how = SFS_WRITE_BACK;
    } else {
        /* Which stores to a mapping leave alone. */
        drop_privileges(req, ino, fi->kill_suidgid);
        how = (fi->flags & O_APPEND ? SFS_WRITE_APPEND : 0) |
              (fi->flags & O_DSYNC ? SFS_WRITE_DATA_SYNC : 0) |
              ((fi->flags & O_SYNC) == O_SYNC ? SFS_WRITE_SYNC : 0);
    }
    if (pipe < 0 || !sfs_section_can_splice(handle, size, offset, how)) {
        sfs_reader_load(0);
        pipe = -1;
    }
    n = sfs_section_write(sfs_op_mount(req), handle, pipe < 0 ? buf : NULL, pipe, size, offset,
                          how);
    if (n == -EINVAL && pipe >= 0) {
        /* Not every real file takes bytes from a pipe. */
        sfs_reader_load(0);
        n = sfs_section_write(sfs_op_mount(req), handle, buf, -1, size, offset, how);
    }
    if (how & SFS_WRITE_BACK && n >= 0 && (size_t)n < size) {
        sfs_reader_load((size_t)n);
        n = finish_write_back(sfs_op_mount(req), handle, buf, size, offset, (size_t)n);
    }
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_write(req, (size_t)n);
}

/* Some process has closed a descriptor of it: that ends its record locks, and nothing else. */
void
sfs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_handle(req, fi);

    if (handle != NULL)
        sfs_lock_closed(sfs_op_mount(req), handle, fi->lock_owner);
    fuse_reply_err(req, 0);
}

void
sfs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);

    if (handle != NULL)
        sfs_op_reply(req, sfs_section_sync(sfs_op_mount(req), handle, datasync != 0));
}

void
sfs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                 struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);

    if (handle == NULL)
        return;
    drop_all_privileges(req, ino);
    sfs_op_reply(req, sfs_section_allocate(sfs_op_mount(req), handle, mode, offset, length));
}

void
sfs_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    SfsMount *mount = sfs_op_mount(req);
    off_t at;

    if (handle == NULL)
        return;
    at = sfs_section_seek(mount, handle, offset, whence);
    if (sfs_section_seek_may_err(mount, handle, offset, whence, at)) {
        if (sfs_defer(req, SFS_WAIT_HOLE))
            return;
        at = sfs_section_seek_surely(mount, handle, offset, whence, at);
    }
    if (at < 0)
        fuse_reply_err(req, (int)-at);
    else
        fuse_reply_lseek(req, at);
}

void
sfs_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
                       struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
                       struct fuse_file_info *fi_out, size_t len, int flags)
{
    SfsHandle *from = sfs_op_need_handle(req, fi_in);
    SfsHandle *to;
    ssize_t n;

    if (from == NULL)
        return;
    to = sfs_op_need_handle(req, fi_out);
    if (to == NULL)
        return;
    drop_all_privileges(req, ino_out);
    n = sfs_section_copy(sfs_op_mount(req), from, off_in, to, off_out, len);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else
        fuse_reply_write(req, (size_t)n);
}

static void
reply_diff(fuse_req_t req, SfsHandle *handle, const void *in, size_t in_size, size_t out_size)
{
    SectionDiff diff;
    int r = in_size < sizeof diff || out_size < sizeof diff ? -EINVAL : 0;

    if (r == 0) {
        memcpy(&diff, in, sizeof diff);
        r = sfs_section_view_diff(sfs_op_mount(req), handle, &diff);
    }
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_ioctl(req, 0, &diff, sizeof diff);
}

void
sfs_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi,
             unsigned flags, const void *in, size_t in_size, size_t out_size)
{
    SfsCaller caller = sfs_op_caller(req);
    SfsHandle *handle;
    int r;

    if (flags & FUSE_IOCTL_DIR) {
        /* They have no handles; and whoever asks whether it is a terminal expects this answer. */
        fuse_reply_err(req, ENOTTY);
        return;
    }
    handle = sfs_op_need_handle(req, fi);
    if (handle == NULL)
        return;
    switch (cmd) {
    case SECTION_IOC_DIFF:
        if (sfs_defer(req, SFS_WAIT_VERB))
            return;
        reply_diff(req, handle, in, in_size, out_size);
        return;
    case SECTION_IOC_RESET:
    case SECTION_IOC_COMMIT:
        if (sfs_defer(req, SFS_WAIT_VERB))
            return;
        r = cmd == SECTION_IOC_RESET ? sfs_section_view_reset(sfs_op_mount(req), handle)
                                     : sfs_section_view_commit(sfs_op_mount(req), handle, &caller);
        break;
    default:
        r = -ENOTTY;
        break;
    }
    if (r < 0)
        fuse_reply_err(req, -r);
    else
        fuse_reply_ioctl(req, 0, NULL, 0);
}

/* --- locks ----------------------------------------------------------------------------------- */

/* Locks of a window are on the file, where the window has them. */
static void
shift_lock(struct flock *lock, off_t by)
{
    lock->l_start =
        by > 0 && lock->l_start > INT64_MAX - by ? INT64_MAX : MAX(lock->l_start + by, 0);
    if (lock->l_len > INT64_MAX - lock->l_start)
        lock->l_len = 0; /* to the end of all files */
}

void
sfs_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    off_t offset;
    int r;

    if (handle == NULL)
        return;
    offset = sfs_section_lock_offset(sfs_op_mount(req), handle);
    shift_lock(lock, offset);
    r = sfs_lock_test(sfs_op_mount(req), handle, fi->lock_owner, lock);
    shift_lock(lock, -offset);
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
    sfs_op_reply(req, result);
}

static void
interrupt_wait(fuse_req_t req, void *data)
{
    sfs_lock_wait_interrupt(data);
}

/* What it waits for does not come through this thread. */
static void
wait_for_lock(fuse_req_t req, SfsHandle *handle, const struct fuse_file_info *fi,
              const struct flock *lock, int operation, bool for_a_moment)
{
    SfsLockWait *wait = sfs_lock_wait_new(sfs_op_mount(req), handle, fi->lock_owner, lock,
                                          operation, for_a_moment, reply_locked, req);

    fuse_req_interrupt_func(req, interrupt_wait, wait);
    sfs_lock_wait_start(wait);
}

void
sfs_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
             int sleep)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    bool had_closing; /* asked before, for the answer may change between */
    int r;

    if (handle == NULL)
        return;
    shift_lock(lock, sfs_section_lock_offset(sfs_op_mount(req), handle));
    had_closing = sfs_lock_may_pass(sfs_op_mount(req), handle);
    r = sfs_lock_set(sfs_op_mount(req), handle, fi->lock_owner, lock);
    if (r == -EAGAIN && (sleep || had_closing))
        wait_for_lock(req, handle, fi, lock, 0, !sleep);
    else
        sfs_op_reply(req, r);
}

void
sfs_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
    SfsHandle *handle = sfs_op_need_handle(req, fi);
    bool had_closing; /* asked before, for the answer may change between */
    int r;

    if (handle == NULL)
        return;
    had_closing = sfs_lock_may_pass(sfs_op_mount(req), handle);
    r = sfs_lock_flock(sfs_op_mount(req), handle, operation);
    if (r == -EAGAIN && (!(operation & LOCK_NB) || had_closing))
        wait_for_lock(req, handle, fi, NULL, operation, operation & LOCK_NB);
    else
        sfs_op_reply(req, r);
}
