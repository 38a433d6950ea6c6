/* SPDX-License-Identifier: MIT */
/*
 * Ownership. A handle is made by open and freed by release; the kernel promises one release for
 * each open that was answered, and no operation on a handle after it. It holds a reference of its
 * backing, so that a section can be redefined or deleted under it.
 *
 * Locks: that of a node (node.h). It is not held across I/O on real files.
 */
#include "section.h"

#include "keeper-link.h"
#include "log.h"
#include "passthrough.h"
#include "store.h"
#include "util.h"
#include "view.h"
#include "xattr.h"

#include <string.h>
#include <sys/mman.h>

/* The most that one copy request moves: a request must not hold a thread for long. */
#define COPY_AT_A_TIME ((size_t)8 << 20)
#define COPY_BUFFER ((size_t)256 << 10)

struct SfsSections {
    SfsHandle **handles; /* by slot; sparse memory */
    size_t handles_bytes;
    atomic_uint texts; /* handles on .info and .stats */
};

SfsSections *
sfs_sections_new(SfsMount *mount)
{
    SfsSections *sections = g_new0(SfsSections, 1);

    sections->handles_bytes =
        sizeof(SfsHandle *) *
        ((size_t)sfs_registry_capacity(mount->registry, SFS_TABLE_HANDLES) + 1);
    sections->handles = mmap(NULL, sections->handles_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sections->handles == MAP_FAILED)
        g_error("no memory for the table of handles");
    return sections;
}

static void
free_handle(SfsHandle *handle)
{
    sfs_fd_clear(&handle->flock_fd);
    sfs_backing_unref(handle->backing);
    g_clear_pointer(&handle->text, g_bytes_unref);
    g_free(handle);
}

void
sfs_sections_free(SfsMount *mount)
{
    SfsSections *sections = mount->sections;

    for (uint32_t slot = 1; slot < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES); slot++) {
        if (sections->handles[slot] != NULL)
            sfs_section_release(mount, sections->handles[slot]);
    }
    munmap(sections->handles, sections->handles_bytes);
    g_free(sections);
}

/* --- the base of it all ---------------------------------------------------------------------- */

/* Times of a store file that is made late, for a section that was made earlier. */
static void
carry_times(SfsBacking *backing, const SfsNodeRec *rec)
{
    struct timespec times[2] = {sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime)};

    backing->ops->set_times(backing, times);
}

/* The section's backing, made now if a page section has none yet. A reference for the caller. */
static int
need_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing)
{
    SfsBacking *made = NULL;
    uint32_t fd_slot;
    int r;

    *backing = sfs_node_backing(mount->nodes, target->slot);
    if (*backing != NULL)
        return 0;
    r = sfs_backing_page_new(mount->store, &made, &fd_slot);
    if (r < 0)
        return r;
    sfs_node_lock(mount->nodes, target->slot);
    *backing = sfs_backing_ref(sfs_node_backing_locked(mount->nodes, target->slot));
    if (*backing == NULL) {
        carry_times(made, target->rec);
        sfs_node_set_backing(mount->nodes, target->slot, made, fd_slot);
        *backing = sfs_backing_ref(made);
        made = NULL;
    }
    sfs_node_unlock(mount->nodes, target->slot);
    sfs_backing_unref(made); /* somebody else was faster */
    return 0;
}

static int
refuse(const SfsTarget *target, int error, const char *why)
{
    g_info("section %" PRIu64 ": %s: %s", target->rec->serial, why, g_strerror(-error));
    return error;
}

/* Whether the section's bytes may be changed at all, by whomever. */
static int
check_writable(const SfsTarget *target)
{
    if (target->class == SFS_CLASS_COW)
        return 0; /* the view is written, never the section */
    if (target->rec->protect == SFS_PROTECT_READONLY)
        return refuse(target, -EACCES, "the section is readonly");
    return 0;
}

/* --- views, as far as they are sections ------------------------------------------------------ */

bool
sfs_section_may_be_dirty(const SfsTarget *target)
{
    return target->rec->opens > 0 && target->rec->io_mode != SFS_IO_PASSTHROUGH;
}

uint64_t
sfs_section_private(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(SfsBacking) backing = NULL;

    if (target->class == SFS_CLASS_COW)
        backing = sfs_view_backing(mount, target);
    return backing != NULL ? sfs_backing_cow_private(backing) : 0;
}

/* --- attributes ------------------------------------------------------------------------------ */

/* What the record says. */
static void
stat_record(SfsMount *mount, const SfsTarget *target, struct stat *st)
{
    const SfsNodeRec *rec = target->rec;

    sfs_node_lock(mount->nodes, target->slot);
    st->st_mode = rec->mode;
    st->st_nlink = rec->nlink;
    st->st_uid = rec->uid;
    st->st_gid = rec->gid;
    st->st_rdev = rec->rdev;
    st->st_size = (off_t)rec->size;
    st->st_atim = sfs_time_get(&rec->atime);
    st->st_mtim = sfs_time_get(&rec->mtime);
    st->st_ctim = sfs_time_get(&rec->ctime);
    sfs_node_unlock(mount->nodes, target->slot);
    st->st_ino = sfs_node_ino(target->class, rec);
}

static int
stat_bytes(SfsBacking *backing, struct stat *st)
{
    struct timespec changed = st->st_ctim;
    int r = backing->ops->stat(backing, st);

    st->st_ctim = sfs_time_max(changed, st->st_ctim);
    return r;
}

int
sfs_section_stat(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle, struct stat *st)
{
    g_autoptr(SfsBacking) backing = NULL;

    memset(st, 0, sizeof *st);
    st->st_blksize = SFS_PAGE_SIZE;
    if (target->class == SFS_CLASS_STATS) {
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
        st->st_ino = (uint64_t)SFS_CLASS_STATS << SFS_SLOT_SHIFT;
        st->st_uid = mount->header->config.root_uid;
        st->st_gid = mount->header->config.root_gid;
        st->st_atim = st->st_mtim = st->st_ctim = sfs_now();
        return 0;
    }
    stat_record(mount, target, st);
    if (target->class == SFS_CLASS_INFO) {
        /* A text about it: its size is not known before it is read. */
        if (!S_ISDIR(st->st_mode))
            st->st_mode = S_IFREG | (st->st_mode & 0444);
        st->st_nlink = S_ISDIR(st->st_mode) ? st->st_nlink : 1;
        st->st_size = 0;
        return 0;
    }
    if (!S_ISREG(st->st_mode))
        return 0;
    if (target->class == SFS_CLASS_COW) {
        st->st_mode = sfs_view_mode(st->st_mode);
        if (sfs_view_stat(mount, target, st))
            backing = sfs_view_backing(mount, target);
    }
    if (handle != NULL && target->class == SFS_CLASS_NODE)
        backing = sfs_backing_ref(handle->backing);
    if (backing == NULL)
        backing = sfs_node_backing(mount->nodes, target->slot);
    return backing != NULL ? stat_bytes(backing, st) : 0;
}

/* What is left of permissions without the bits that a write or a new owner takes off. */
static uint32_t
without_set_ids(uint32_t mode)
{
    return mode & ~(uint32_t)(S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}

void
sfs_section_drop_set_ids(SfsMount *mount, const SfsTarget *target)
{
    SfsNodeRec *rec = target->rec;

    if (target->class == SFS_CLASS_NODE && sfs_xattr_has_capability(mount, target))
        sfs_xattr_remove(mount, target, SFS_XATTR_CAPABILITY);
    if (target->class == SFS_CLASS_NODE && !S_ISDIR(rec->mode) && rec->mode & (S_ISUID | S_ISGID)) {
        sfs_node_lock(mount->nodes, target->slot);
        rec->mode = without_set_ids(rec->mode);
        sfs_node_unlock(mount->nodes, target->slot);
    }
}

bool
sfs_section_attrs_stay(SfsMount *mount, const SfsTarget *target)
{
    SfsNodeRec *rec = target->rec;
    SfsBacking *backing;
    bool stay;

    if (target->class != SFS_CLASS_NODE || !S_ISREG(rec->mode))
        return target->class == SFS_CLASS_NODE;
    if (rec->kind == SFS_KIND_FILE)
        return false;
    if (!mount->header->passthrough)
        return true;
    sfs_node_lock(mount->nodes, target->slot);
    backing = sfs_node_backing_locked(mount->nodes, target->slot);
    stay = rec->opens == 0 && (backing == NULL || rec->backing_id == 0 ||
                               sfs_passthrough_sole_user(sfs_backing_data_fd(backing)));
    sfs_node_unlock(mount->nodes, target->slot);
    return stay;
}

static void
set_record(SfsMount *mount, const SfsTarget *target, const struct stat *st, unsigned what)
{
    SfsNodeRec *rec = target->rec;

    sfs_node_lock(mount->nodes, target->slot);
    if (what & SFS_SET_MODE)
        rec->mode = (rec->mode & S_IFMT) | (st->st_mode & 07777);
    if (what & SFS_SET_UID)
        rec->uid = st->st_uid;
    if (what & SFS_SET_GID)
        rec->gid = st->st_gid;
    sfs_time_set(&rec->ctime, sfs_now());
    sfs_node_unlock(mount->nodes, target->slot);
}

/* As truncate(2): nothing keeps the backing of an empty section in its place meanwhile. */
static int
truncate_unopened(SfsMount *mount, const SfsTarget *target, off_t size)
{
    bool stayed = false;
    int r = 0;

    while (r == 0 && !stayed) {
        g_autoptr(SfsBacking) backing = NULL;

        r = need_backing(mount, target, &backing);
        if (r == 0)
            r = backing->ops->truncate(backing, size);
        sfs_node_lock(mount->nodes, target->slot);
        stayed = backing == sfs_node_backing_locked(mount->nodes, target->slot);
        sfs_node_unlock(mount->nodes, target->slot);
    }
    return r;
}

static int
set_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle, const SfsCaller *caller,
         off_t size)
{
    g_autoptr(SfsBacking) backing = NULL;
    int r = check_writable(target);

    if (r < 0)
        return r;
    if (handle == NULL && target->class == SFS_CLASS_NODE) {
        r = truncate_unopened(mount, target, size);
    } else {
        backing =
            handle != NULL ? sfs_backing_ref(handle->backing) : sfs_view_backing(mount, target);
        /* A copy-on-write name that nobody has open: the private view ends with this call. */
        if (backing != NULL)
            r = backing->ops->truncate(backing, size);
    }
    if (r == 0 && caller->uid != 0)
        sfs_section_drop_set_ids(mount, target);
    return r;
}

static struct timespec
wanted_time(struct timespec given, unsigned what, unsigned set, unsigned now)
{
    if (what & now)
        given.tv_nsec = UTIME_NOW;
    else if (!(what & set))
        given.tv_nsec = UTIME_OMIT;
    return given;
}

/* Times of a real file are its owner's to set; whoever may write it may set them to now. */
static int
check_file_times(const SfsTarget *target, SfsBacking *backing, const SfsCaller *caller,
                 unsigned what)
{
    struct stat st;

    if (target->class != SFS_CLASS_NODE || target->rec->kind != SFS_KIND_FILE || caller->uid == 0)
        return 0;
    if (!(what & (SFS_SET_ATIME | SFS_SET_MTIME)) && target->rec->fd_writable)
        return 0;
    if (fstat(sfs_backing_data_fd(backing), &st) == 0 && st.st_uid == caller->uid)
        return 0;
    return refuse(target, -EPERM, "the times of its file are its owner's to set");
}

static int
set_times(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
          const SfsCaller *caller, const struct stat *st, unsigned what)
{
    struct timespec times[2] = {
        wanted_time(st->st_atim, what, SFS_SET_ATIME, SFS_SET_ATIME_NOW),
        wanted_time(st->st_mtim, what, SFS_SET_MTIME, SFS_SET_MTIME_NOW),
    };
    SfsTime *fields[2] = {&target->rec->atime, &target->rec->mtime};
    g_autoptr(SfsBacking) backing = NULL;
    int r = 0;

    if (handle != NULL)
        backing = sfs_backing_ref(handle->backing);
    else if (target->class == SFS_CLASS_COW)
        backing = sfs_view_backing(mount, target);
    else if (sfs_target_is_section(target))
        backing = sfs_node_backing(mount->nodes, target->slot);
    if (backing != NULL) {
        r = check_file_times(target, backing, caller, what);
        return r < 0 ? r : backing->ops->set_times(backing, times);
    }
    if (target->class == SFS_CLASS_COW)
        return 0;
    sfs_node_lock(mount->nodes, target->slot);
    for (int i = 0; i < 2; i++) {
        if (times[i].tv_nsec == UTIME_NOW)
            sfs_time_set(fields[i], sfs_now());
        else if (times[i].tv_nsec != UTIME_OMIT)
            sfs_time_set(fields[i], times[i]);
    }
    sfs_time_set(&target->rec->ctime, sfs_now());
    sfs_node_unlock(mount->nodes, target->slot);
    return r;
}

int
sfs_section_set(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                const SfsCaller *caller, const struct stat *st, unsigned what)
{
    int r = 0;

    if (target->class == SFS_CLASS_INFO || target->class == SFS_CLASS_STATS ||
        (target->class == SFS_CLASS_COW && !S_ISREG(target->rec->mode)))
        return -EROFS;
    if (what & SFS_SET_SIZE)
        r = set_size(mount, target, handle, caller, st->st_size);
    /* With nothing to set, the kernel wants the set-id bits off and the change noted: it does so
     * for a chown(2) that names nobody, and for writes that it passes through. */
    if (r == 0 && (what == 0 || what & (SFS_SET_MODE | SFS_SET_UID | SFS_SET_GID))) {
        if (target->class == SFS_CLASS_COW)
            sfs_view_set(mount, target, st, what);
        else
            set_record(mount, target, st, what);
        /* A new owner has not asked for it to run with his rights. */
        if (!(what & SFS_SET_MODE))
            sfs_section_drop_set_ids(mount, target);
    }
    if (r == 0 && what & (SFS_SET_ATIME | SFS_SET_MTIME | SFS_SET_ATIME_NOW | SFS_SET_MTIME_NOW))
        r = set_times(mount, target, handle, caller, st, what);
    return r;
}

/* --- open and release ------------------------------------------------------------------------ */

/* The daemon's own writes to a real file leave its set-id bits alone, where it runs as root. So
 * they go when somebody without privileges opens it for writing. (The kernel's, in passthrough, are
 * done with the rights of whoever defined the section, and take them off.) */
static void
drop_file_set_ids(SfsBacking *backing, const SfsCaller *caller)
{
    int fd = sfs_backing_data_fd(backing);
    struct stat st;

    if (caller->uid != 0 && fstat(fd, &st) == 0 && st.st_mode & (S_ISUID | S_ISGID))
        fchmod(fd, st.st_mode & 07777 & ~(mode_t)(S_ISUID | (st.st_mode & S_IXGRP ? S_ISGID : 0)));
}

static bool
may_change_mode(const SfsNodeRec *rec, SfsBacking *backing)
{
    return rec->backing_id == 0 || sfs_passthrough_sole_user(sfs_backing_data_fd(backing));
}

/* How the I/O of a node that nobody has open is to be done. Node locked. @privileged: who runs it
 * gets rights from it, which a write has to take off; the kernel does not, for writes that it
 * passes through. But what was passed through once may still be mapped that way, and two ways at
 * once would not agree. */
static SfsIoMode
choose_io_mode(SfsMount *mount, SfsNodeRec *rec, SfsBacking *backing, bool privileged)
{
    if (mount->header->passthrough && !rec->no_passthrough &&
        !(privileged && may_change_mode(rec, backing))) {
        int id = rec->backing_id;

        if (id == 0)
            id = sfs_passthrough_register(mount->device, sfs_backing_data_fd(backing),
                                          rec->kind == SFS_KIND_FILE ? rec->file_uid : geteuid(),
                                          rec->kind == SFS_KIND_FILE ? rec->file_gid : getegid());
        if (id > 0) {
            rec->backing_id = id;
            return SFS_IO_PASSTHROUGH;
        }
        rec->no_passthrough = 1;
        g_info("section %" PRIu64 ": no passthrough: %s", rec->serial, g_strerror(-id));
    }
    /* A real file changes behind the page cache's back, so it is read and written directly. */
    return rec->kind == SFS_KIND_FILE && mount->direct_mmap ? SFS_IO_DIRECT : SFS_IO_CACHED;
}

/* Locks the node with its backing at hand, of which @backing gets a reference. On failure it is not
 * locked. */
static int
lock_with_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing)
{
    int r;

    while ((r = need_backing(mount, target, backing)) == 0) {
        sfs_node_lock(mount->nodes, target->slot);
        if (*backing == sfs_node_backing_locked(mount->nodes, target->slot))
            return 0;
        /* Redefined meanwhile, or taken away because it was empty. */
        sfs_node_unlock(mount->nodes, target->slot);
        g_clear_pointer(backing, sfs_backing_unref);
    }
    return r;
}

static int
open_section(SfsMount *mount, const SfsTarget *target, SfsHandle *handle, SfsOpenReply *reply)
{
    SfsNodeRec *rec = target->rec;
    bool privileged = rec->mode & (S_ISUID | S_ISGID) || sfs_xattr_has_capability(mount, target);
    int r = lock_with_backing(mount, target, &handle->backing);

    if (r < 0)
        return r;
    /* Redefined long ago: the name must be looked up anew, which the kernel does on this error; the
     * inode that it has is still bound to the former bytes. */
    if ((target->nodeid & SFS_SERIAL_MASK) != rec->nodeid_serial) {
        sfs_node_unlock(mount->nodes, target->slot);
        return -ESTALE;
    }
    if (rec->opens == 0)
        rec->io_mode = (uint8_t)choose_io_mode(mount, rec, handle->backing, privileged);
    rec->opens++;
    reply->mode = rec->io_mode;
    reply->backing_id = rec->io_mode == SFS_IO_PASSTHROUGH ? rec->backing_id : 0;
    reply->keep_cache = rec->io_mode == SFS_IO_CACHED && rec->kind == SFS_KIND_PAGE;
    sfs_node_unlock(mount->nodes, target->slot);
    return 0;
}

static int
open_view(SfsMount *mount, const SfsTarget *target, SfsHandle *handle, SfsOpenReply *reply)
{
    struct stat section;
    int r = sfs_section_stat(mount, target, NULL, &section);

    if (r == 0)
        r = sfs_view_open(mount, target, &section, &handle->backing, &handle->rec->view,
                          &reply->keep_cache);
    reply->mode = SFS_IO_CACHED;
    return r;
}

static int
open_text(SfsMount *mount, const SfsTarget *target, SfsOpenReply *reply)
{
    reply->mode = SFS_IO_DIRECT;
    atomic_fetch_add(&mount->sections->texts, 1);
    /* The handle outlives the operation that resolved the target. */
    if (target->class == SFS_CLASS_INFO)
        sfs_node_pin(mount->nodes, target->slot);
    return 0;
}

int
sfs_section_open(SfsMount *mount, const SfsTarget *target, int flags, const SfsCaller *caller,
                 GBytes *text, SfsHandle **out, SfsOpenReply *reply)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
    SfsHandle *handle;
    SfsHandleRec *rec;
    uint32_t slot;
    int r = 0;

    memset(reply, 0, sizeof *reply);
    if (writes && (target->class == SFS_CLASS_INFO || target->class == SFS_CLASS_STATS))
        return -EROFS;
    if (writes)
        r = check_writable(target);
    if (r < 0)
        return r;
    rec = sfs_registry_alloc(mount->registry, SFS_TABLE_HANDLES, &slot);
    if (rec == NULL)
        return -ENFILE;
    rec->node = target->slot;
    rec->nodeid = target->nodeid;
    rec->flags = (uint32_t)flags;
    rec->uid = caller->uid;
    rec->pid = (uint32_t)caller->pid;
    sfs_time_set(&rec->since, sfs_now());
    handle = g_new0(SfsHandle, 1);
    handle->slot = slot;
    handle->rec = rec;
    handle->class = target->class;
    handle->node = target->slot;
    handle->flock_fd = -1;
    handle->text = text != NULL ? g_bytes_ref(text) : NULL;
    if (target->class == SFS_CLASS_COW)
        r = open_view(mount, target, handle, reply);
    else if (target->class == SFS_CLASS_NODE)
        r = open_section(mount, target, handle, reply);
    else
        r = open_text(mount, target, reply);
    if (r < 0) {
        sfs_registry_release(mount->registry, SFS_TABLE_HANDLES, slot);
        free_handle(handle);
        return r;
    }
    mount->sections->handles[slot] = handle;
    sfs_registry_publish(mount->registry, SFS_TABLE_HANDLES, slot);
    if (writes && target->class == SFS_CLASS_NODE && target->rec->kind == SFS_KIND_FILE &&
        reply->mode != SFS_IO_PASSTHROUGH)
        drop_file_set_ids(handle->backing, caller);
    if (flags & O_TRUNC)
        r = set_size(mount, target, handle, caller, 0);
    if (r < 0) {
        sfs_section_release(mount, handle);
        return r;
    }
    *out = handle;
    return 0;
}

void
sfs_section_release(SfsMount *mount, SfsHandle *handle)
{
    uint64_t nodeid = handle->rec->nodeid;

    mount->sections->handles[handle->slot] = NULL;
    sfs_registry_release(mount->registry, SFS_TABLE_HANDLES, handle->slot);
    if (handle->class == SFS_CLASS_COW)
        sfs_view_close(mount, nodeid);
    else if (handle->class == SFS_CLASS_NODE)
        sfs_node_close(mount->nodes, handle->node, nodeid);
    else if (handle->class == SFS_CLASS_INFO)
        sfs_node_unpin(mount->nodes, handle->node);
    if (handle->text != NULL)
        atomic_fetch_sub(&mount->sections->texts, 1);
    free_handle(handle);
}

uint32_t
sfs_section_handles(SfsMount *mount)
{
    return sfs_registry_count(mount->registry, SFS_TABLE_HANDLES) -
           atomic_load(&mount->sections->texts);
}

SfsHandle *
sfs_section_handle(SfsMount *mount, uint64_t fh)
{
    return fh < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES)
               ? mount->sections->handles[fh]
               : NULL;
}

/* --- bytes ----------------------------------------------------------------------------------- */

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

ssize_t
sfs_section_write(SfsMount *mount, SfsHandle *handle, const void *buf, size_t size, off_t offset,
                  unsigned how)
{
    /* Written back pages come with any handle of the inode that can write. */
    int r = check_handle(handle, true);

    if (r < 0)
        return r;
    return handle->backing->ops->write(handle->backing, buf, size, offset, how);
}

int
sfs_section_allocate(SfsMount *mount, SfsHandle *handle, int mode, off_t offset, off_t length)
{
    int r = check_handle(handle, true);

    return r < 0 ? r : handle->backing->ops->allocate(handle->backing, mode, offset, length);
}

off_t
sfs_section_seek(SfsMount *mount, SfsHandle *handle, off_t offset, int whence)
{
    int r = check_handle(handle, false);

    return r < 0 ? r : handle->backing->ops->seek(handle->backing, offset, whence);
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
copy_by_kernel(SfsHandle *from, off_t from_offset, SfsHandle *to, off_t to_offset, size_t length)
{
    int in = sfs_backing_data_fd(from->backing), out = sfs_backing_data_fd(to->backing);
    ssize_t n;

    if (in < 0 || out < 0 || strcmp(to->backing->ops->kind, "file") != 0)
        return -EOPNOTSUPP;
    n = copy_file_range(in, &from_offset, out, &to_offset, length, 0);
    return n >= 0 ? n : -errno;
}

static ssize_t
copy_by_hand(SfsHandle *from, off_t from_offset, SfsHandle *to, off_t to_offset, size_t length)
{
    g_autofree char *buffer = g_malloc(MIN(length, COPY_BUFFER));
    size_t done = 0;

    while (done < length) {
        ssize_t got = from->backing->ops->read(
            from->backing, buffer, MIN(length - done, COPY_BUFFER), from_offset + (off_t)done);
        ssize_t put;

        if (got <= 0)
            return done > 0 || got == 0 ? (ssize_t)done : got;
        put = to->backing->ops->write(to->backing, buffer, (size_t)got, to_offset + (off_t)done, 0);
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
    n = copy_by_kernel(from, from_offset, to, to_offset, length);
    if (n >= 0 || n == -ENOSPC || n == -EIO || n == -EFBIG)
        return n;
    return copy_by_hand(from, from_offset, to, to_offset, length);
}

/* --- definition ------------------------------------------------------------------------------ */

static int
check_owner(const SfsTarget *target, const SfsCaller *caller)
{
    if (caller->uid != 0 && caller->uid != target->rec->uid)
        return refuse(target, -EPERM, "only its owner may define it");
    return 0;
}

/* Whether it can still become something else. Node locked. */
static int
check_definable(SfsMount *mount, const SfsTarget *target)
{
    SfsBacking *backing = sfs_node_backing_locked(mount->nodes, target->slot);
    struct stat st;

    if (target->rec->kind != SFS_KIND_PAGE)
        return -EBUSY;
    /* One handle may be that of the caller itself, or of a close on its way. */
    if (target->rec->opens > 1)
        return -EBUSY;
    if (backing != NULL && (backing->ops->stat(backing, &st) < 0 || st.st_size != 0))
        return -EBUSY;
    return 0;
}

/* Puts the file in place of the empty bytes; a new nodeid, for the kernel's inode may be bound to
 * those. */
static int
become_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, SfsBacking *backing,
            uint32_t fd_slot, uint32_t text, bool writable)
{
    SfsNodeRec *rec = target->rec;
    SfsBacking *old;
    int r;

    sfs_node_lock(mount->nodes, target->slot);
    r = check_definable(mount, target);
    if (r < 0) {
        sfs_node_unlock(mount->nodes, target->slot);
        return r;
    }
    old = sfs_node_set_backing(mount->nodes, target->slot, backing, fd_slot);
    rec->kind = SFS_KIND_FILE;
    rec->protect = writable ? SFS_PROTECT_READWRITE : SFS_PROTECT_READONLY;
    rec->fd_writable = writable;
    rec->file_uid = caller->uid;
    rec->file_gid = caller->gid;
    rec->text = text;
    rec->nodeid_serial = sfs_registry_next_serial(mount->registry);
    rec->pins += rec->opens; /* handles of the former nodeid: see sfs_node_close() */
    rec->opens = 0;
    rec->io_mode = SFS_IO_UNDECIDED;
    rec->no_passthrough = 0;
    sfs_time_set(&rec->ctime, sfs_now());
    sfs_node_unlock(mount->nodes, target->slot);
    sfs_backing_unref(old);
    return 0;
}

int
sfs_section_define_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        const char *path)
{
    sfs_autofd fd = -1;
    uint32_t fd_slot, text;
    SfsBacking *backing;
    bool writable;
    int r = check_owner(target, caller);

    if (r < 0)
        return r;
    if (path[0] == '\0' || strlen(path) >= SFS_PATH_MAX)
        return path[0] == '\0' ? -EINVAL : -ENAMETOOLONG;
    sfs_node_lock(mount->nodes, target->slot);
    r = check_definable(mount, target);
    sfs_node_unlock(mount->nodes, target->slot);
    if (r < 0)
        return refuse(target, r, "it is too late to define it by a file");
    r = fd = sfs_caller_open_file(caller, path, (dev_t)mount->header->mount_dev, &writable);
    if (r < 0)
        return refuse(target, r, "its file cannot be opened for the caller");
    r = sfs_link_put(mount->link, mount->registry, fd, &fd_slot);
    if (r < 0)
        return r;
    text = sfs_registry_store_text(mount->registry, path, strlen(path));
    backing = sfs_backing_file_new(sfs_fd_steal(&fd));
    r = text == SFS_NO_SLOT ? -ENOSPC
                            : become_file(mount, target, caller, backing, fd_slot, text, writable);
    if (r < 0) {
        sfs_backing_unref(backing);
        sfs_registry_free_text(mount->registry, text);
        sfs_link_drop(mount->link, mount->registry, fd_slot);
        return refuse(target, r, "it is too late to define it by a file");
    }
    return 0;
}

int
sfs_section_set_protect(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        SfsProtect protect)
{
    SfsNodeRec *rec = target->rec;
    int r = check_owner(target, caller);

    if (r < 0)
        return r;
    sfs_node_lock(mount->nodes, target->slot);
    if (protect == SFS_PROTECT_READWRITE && rec->kind == SFS_KIND_FILE && !rec->fd_writable)
        r = -EACCES;
    else
        rec->protect = (uint8_t)protect;
    sfs_node_unlock(mount->nodes, target->slot);
    return r < 0 ? refuse(target, r, "its file is open for reading only") : 0;
}

const char *
sfs_section_io_mode(SfsMount *mount, const SfsTarget *target)
{
    const SfsNodeRec *rec = target->rec;
    SfsIoMode mode = rec->io_mode;

    if (target->class == SFS_CLASS_COW)
        return "cached";
    if (mode == SFS_IO_UNDECIDED) {
        if (mount->header->passthrough && !rec->no_passthrough)
            mode = SFS_IO_PASSTHROUGH;
        else
            mode = rec->kind == SFS_KIND_FILE && mount->direct_mmap ? SFS_IO_DIRECT : SFS_IO_CACHED;
    }
    return mode == SFS_IO_PASSTHROUGH ? "passthrough" : mode == SFS_IO_DIRECT ? "direct" : "cached";
}
