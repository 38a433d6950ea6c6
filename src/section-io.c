/* SPDX-License-Identifier: MIT */
/* Bytes of open sections and views: what was decided at open is only done here. */
#include "section-internal.h"

#include "request.h"

#include <fuse_lowlevel.h>
#include <string.h>

/* The most that one copy request moves: a request must not hold a thread for long. */
#define COPY_AT_A_TIME ((size_t)8 << 20)
#define COPY_BUFFER ((size_t)256 << 10)

/* How much of what others have appended is looked through, besides. */
#define APPENDED_BY_OTHERS ((uint64_t)1 << 20)

/* What is found without a doubt may be another hole, about which there is one: so often at most. */
#define SEEKS 16

/* For operations through a handle: it has bytes, and was opened for writing. (The kernel checks the
 * latter as well; but it is not the one whose file this is.) */
static int
check_handle(const SfsHandle *handle, bool writes)
{
    if (handle->backing == NULL)
        return -EINVAL;
    if (writes && (handle->rec->flags & O_ACCMODE) == O_RDONLY)
        return -EBADF;
    return 0;
}

static void
note_access(SfsHandle *handle)
{
    const SfsBackingOps *ops = handle->backing->ops;

    if (ops->accessed != NULL)
        ops->accessed(handle->backing);
}

ssize_t
sfs_section_read(SfsMount *mount, SfsHandle *handle, void *buf, size_t size, off_t offset,
                 bool quietly)
{
    const SfsBackingOps *ops;
    ssize_t n;
    int r = check_handle(handle, false);

    if (r < 0)
        return r;
    ops = handle->backing->ops;
    if (quietly && ops->read_quietly != NULL)
        return ops->read_quietly(handle->backing, buf, size, offset);
    n = ops->read(handle->backing, buf, size, offset);
    if (n > 0 && !quietly)
        note_access(handle);
    return n;
}

ssize_t
sfs_section_splice_read(SfsMount *mount, SfsHandle *handle, int pipe, size_t size, off_t offset,
                        bool quietly)
{
    const SfsBackingOps *ops;
    ssize_t n;

    if (handle->backing == NULL)
        return -EINVAL;
    ops = handle->backing->ops;
    if (ops->splice_read == NULL || (quietly && ops->read_quietly != NULL))
        return -EAGAIN;
    n = ops->splice_read(handle->backing, pipe, size, offset);
    if (n > 0 && !quietly)
        note_access(handle);
    return n;
}

static uint64_t
end_of(SfsBacking *backing)
{
    struct stat st;

    return backing->ops->stat(backing, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Appending to a real file is the one write that must not be done twice: others are at an offset
 * that the kernel has chosen. Whether this very request has done so at an earlier worker shows in
 * what follows the end that the file had then; others, past the mount, may have appended as well.
 */
static bool
was_appended(SfsBacking *backing, const void *bytes, size_t size)
{
    g_autofree char *tail = NULL;
    uint64_t from, end;
    ssize_t n;

    if (size == 0 || !sfs_request_intended(&from))
        return false;
    end = end_of(backing);
    if (end < from + size)
        return false;
    end = MIN(end, from + 16 * (uint64_t)size + APPENDED_BY_OTHERS);
    tail = g_malloc(end - from);
    n = backing->ops->read(backing, tail, end - from, (off_t)from);
    return n >= (ssize_t)size && memmem(tail, (size_t)n, bytes, size) != NULL;
}

bool
sfs_section_can_splice(const SfsHandle *handle, size_t size, off_t offset, unsigned how)
{
    return handle->backing != NULL && handle->backing->ops->splice_write != NULL &&
           (how & ~(unsigned)SFS_WRITE_BACK) == 0 && size % SFS_PAGE_SIZE == 0 &&
           offset % SFS_PAGE_SIZE == 0;
}

/* At @offset, or the end that the file has now. */
static ssize_t
write_admitted(SfsMount *mount, SfsHandle *handle, const void *buf, int pipe, size_t size,
               off_t offset, unsigned how)
{
    const SfsBackingOps *ops = handle->backing->ops;
    int r = sfs_section_admit_write(mount, handle, offset, &size, how);

    if (r < 0)
        return r;
    if (how & SFS_WRITE_APPEND && ops->begin_append != NULL)
        sfs_request_intend(end_of(handle->backing));
    if (buf == NULL)
        return ops->splice_write(handle->backing, pipe, size, offset, how);
    return ops->write(handle->backing, buf, size, offset, how);
}

static ssize_t
append(SfsMount *mount, SfsHandle *handle, const void *buf, size_t size, off_t offset, unsigned how)
{
    SfsBacking *backing = handle->backing;
    ssize_t n;

    backing->ops->begin_append(backing, offset);
    n = was_appended(backing, buf, size)
            ? (ssize_t)size
            : write_admitted(mount, handle, buf, -1, size, offset, how);
    backing->ops->end_append(backing, offset + (n < 0 ? (off_t)size : (off_t)n));
    return n;
}

ssize_t
sfs_section_write(SfsMount *mount, SfsHandle *handle, const void *buf, int pipe, size_t size,
                  off_t offset, unsigned how)
{
    g_autoptr(GMutexLocker) held = NULL;
    SfsTarget target;
    /* Written back pages come with any handle of the inode that can write. */
    int r = check_handle(handle, true);

    if (r < 0)
        return r;
    if (how & SFS_WRITE_APPEND && handle->backing->ops->begin_append != NULL)
        return append(mount, handle, buf, size, offset, how);
    if (handle->class == SFS_CLASS_NODE && !(how & SFS_WRITE_BACK)) {
        sfs_node_peek(mount->nodes, handle->node, handle->class, &target);
        if (sfs_section_keeps_memory(target.rec))
            held = sfs_section_hold_size(&target);
    }
    return write_admitted(mount, handle, buf, pipe, size, offset, how);
}

int
sfs_section_allocate(SfsMount *mount, SfsHandle *handle, int mode, off_t offset, off_t length)
{
    g_autoptr(GMutexLocker) held = NULL;
    SfsTarget target;
    struct stat st;
    int r = check_handle(handle, true);

    if (r < 0)
        return r;
    sfs_node_peek(mount->nodes, handle->node, handle->class, &target);
    held = sfs_section_hold_size(&target);
    r = handle->backing->ops->stat(handle->backing, &st);
    if (r == 0 && !(mode & FALLOC_FL_KEEP_SIZE) && offset + length > st.st_size)
        r = sfs_section_check_size(mount, &target, handle, (uint64_t)(offset + length));
    else if (r == 0 && !(mode & FALLOC_FL_PUNCH_HOLE) && offset + length > st.st_size)
        r = sfs_section_check_room(&target, (uint64_t)(offset + length));
    if (r == 0 && handle->class == SFS_CLASS_NODE && sfs_section_keeps_memory(target.rec)) {
        /* It reads as zeros, and is still there. */
        if (mode & FALLOC_FL_PUNCH_HOLE)
            return sfs_backing_write_zeros(handle->backing, offset,
                                           MIN(offset + length, st.st_size));
        /* No hole may be left before it. */
        if (!(mode & FALLOC_FL_KEEP_SIZE) && offset > st.st_size) {
            length += offset - st.st_size;
            offset = st.st_size;
        }
    }
    return r < 0 ? r : handle->backing->ops->allocate(handle->backing, mode, offset, length);
}

off_t
sfs_section_seek(SfsMount *mount, SfsHandle *handle, off_t offset, int whence)
{
    int r = check_handle(handle, false);

    return r < 0 ? r : handle->backing->ops->seek(handle->backing, offset, whence);
}

/* The hole that a seek has found, up to its end or, with @length 0, that of everything. False: it
 * has found none. */
static bool
found_hole(SfsBacking *backing, off_t offset, int whence, off_t at, off_t *from, off_t *length)
{
    off_t end = at;

    *from = offset;
    if (whence == SEEK_HOLE) {
        if (at < 0 || (uint64_t)at >= end_of(backing))
            return false;
        *from = at;
        end = backing->ops->seek(backing, at, SEEK_DATA);
    }
    *length = end > *from ? end - *from : 0;
    return end > *from || (end == -ENXIO && (uint64_t)*from < end_of(backing));
}

/* Whether stores to mappings are with the kernel until it writes them back. */
static bool
is_cached(SfsMount *mount, const SfsHandle *handle)
{
    SfsTarget target;

    if (handle->class != SFS_CLASS_NODE)
        return handle->backing->ops->data_fd == NULL;
    sfs_node_peek(mount->nodes, handle->node, handle->class, &target);
    return target.rec->io_mode != SFS_IO_PASSTHROUGH;
}

bool
sfs_section_seek_may_err(SfsMount *mount, const SfsHandle *handle, off_t offset, int whence,
                         off_t at)
{
    off_t from, length;

    return handle->backing != NULL && is_cached(mount, handle) &&
           found_hole(handle->backing, offset, whence, at, &from, &length);
}

off_t
sfs_section_seek_surely(SfsMount *mount, SfsHandle *handle, off_t offset, int whence, off_t at)
{
    off_t before = -EAGAIN, from, length;

    for (int i = 0; i < SEEKS && at != before &&
                    found_hole(handle->backing, offset, whence, at, &from, &length);
         i++) {
        fuse_lowlevel_notify_inval_inode(mount->session, handle->rec->nodeid, from, length);
        before = at;
        at = sfs_section_seek(mount, handle, offset, whence);
    }
    return at;
}

int
sfs_section_sync(SfsMount *mount, SfsHandle *handle, bool data_only)
{
    if (handle->backing == NULL || handle->backing->ops->sync == NULL)
        return 0;
    return handle->backing->ops->sync(handle->backing, data_only);
}

/* The kernel's own copy where both are plain files, which on some file systems shares extents. The
 * store is left out: it has to account for what it gets. */
static ssize_t
copy_by_kernel(SfsMount *mount, SfsHandle *from, off_t from_offset, SfsHandle *to, off_t to_offset,
               size_t length)
{
    int in = sfs_backing_data_fd(from->backing), out = sfs_backing_data_fd(to->backing);
    ssize_t n;
    int r;

    if (in < 0 || out < 0 || strcmp(to->backing->ops->kind, "file") != 0)
        return -EOPNOTSUPP;
    r = sfs_section_admit_write(mount, to, to_offset, &length, 0);
    if (r < 0)
        return r;
    n = copy_file_range(in, &from_offset, out, &to_offset, length, 0);
    return n >= 0 ? n : -errno;
}

static ssize_t
copy_by_hand(SfsMount *mount, SfsHandle *from, off_t from_offset, SfsHandle *to, off_t to_offset,
             size_t length)
{
    g_autofree char *buffer = g_malloc(MIN(length, COPY_BUFFER));
    size_t done = 0;

    while (done < length) {
        ssize_t got = from->backing->ops->read(
            from->backing, buffer, MIN(length - done, COPY_BUFFER), from_offset + (off_t)done);
        ssize_t put;

        if (got <= 0)
            return done > 0 || got == 0 ? (ssize_t)done : got;
        put = sfs_section_write(mount, to, buffer, -1, (size_t)got, to_offset + (off_t)done, 0);
        if (put < 0)
            return done > 0 ? (ssize_t)done : put;
        done += (size_t)put;
        if (put < got)
            break;
    }
    return (ssize_t)done;
}

ssize_t
sfs_section_copy(SfsMount *mount, SfsHandle *from, off_t from_offset, SfsHandle *to,
                 off_t to_offset, size_t length)
{
    ssize_t n;
    int r = check_handle(from, false);

    if (r == 0)
        r = check_handle(to, true);
    if (r < 0)
        return r;
    length = MIN(length, COPY_AT_A_TIME);
    n = copy_by_kernel(mount, from, from_offset, to, to_offset, length);
    if (n >= 0 || n == -ENOSPC || n == -EIO || n == -EFBIG || n == -EPERM)
        return n;
    n = copy_by_hand(mount, from, from_offset, to, to_offset, length);
    if (n > 0)
        note_access(from);
    return n;
}
