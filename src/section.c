/* SPDX-License-Identifier: MIT */
/* What may be done with a section, and what it is: protection and definition. */
#include "section-internal.h"

#include "keeper-link.h"
#include "util.h"
#include "view.h"

#include <string.h>

int
sfs_section_refuse(const SfsTarget *target, int error, const char *why)
{
    g_info("section %" PRIu64 ": %s: %s", target->rec->serial, why, g_strerror(-error));
    return error;
}

int
sfs_section_check_writable(const SfsTarget *target)
{
    if (target->class == SFS_CLASS_COW)
        return 0; /* the view is written, never the section */
    if (target->rec->protect == SFS_PROTECT_READONLY)
        return sfs_section_refuse(target, -EACCES, "the section is readonly");
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

/* --- definition ------------------------------------------------------------------------------ */

static int
check_owner(const SfsTarget *target, const SfsCaller *caller)
{
    if (caller->uid != 0 && caller->uid != target->rec->uid)
        return sfs_section_refuse(target, -EPERM, "only its owner may define it");
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
        return sfs_section_refuse(target, r, "it is too late to define it by a file");
    r = fd = sfs_caller_open_file(caller, path, (dev_t)mount->header->mount_dev, &writable);
    if (r < 0)
        return sfs_section_refuse(target, r, "its file cannot be opened for the caller");
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
        return sfs_section_refuse(target, r, "it is too late to define it by a file");
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
    return r < 0 ? sfs_section_refuse(target, r, "its file is open for reading only") : 0;
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
