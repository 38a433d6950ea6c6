/* SPDX-License-Identifier: MIT */
/*
 * Handles. One is made by open and freed by release; the kernel promises one release for each open
 * that was answered, and no operation on a handle after it. It holds a reference of its backing, so
 * that a section can be redefined or deleted under it.
 *
 * Locks: that of a node (node.h). It is not held across I/O on real files.
 */
#include "section-internal.h"

#include "passthrough.h"
#include "util.h"
#include "view.h"
#include "xattr.h"

#include <string.h>
#include <sys/mman.h>

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

/* --- bytes at hand --------------------------------------------------------------------------- */

/* Times of a store file that is made late, for a section that was made earlier. */
static void
carry_times(SfsBacking *backing, const SfsNodeRec *rec)
{
    struct timespec times[2] = {sfs_time_get(&rec->atime), sfs_time_get(&rec->mtime)};

    backing->ops->set_times(backing, times);
}

int
sfs_section_need_backing(SfsMount *mount, const SfsTarget *target, SfsBacking **backing)
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

    while ((r = sfs_section_need_backing(mount, target, backing)) == 0) {
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
        r = sfs_section_check_writable(target);
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
        r = sfs_section_set_size(mount, target, handle, caller, 0);
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
