/* SPDX-License-Identifier: MIT */
/* Attributes of sections, views and all other files. */
#include "section-internal.h"

#include "passthrough.h"
#include "util.h"
#include "view.h"
#include "xattr.h"

#include <string.h>

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
    if (sfs_target_is_view(target)) {
        st->st_mode = sfs_view_mode(st->st_mode);
        if (target->class == SFS_CLASS_COW)
            sfs_view_stat(mount, target, st);
        backing = sfs_view_backing(mount, target);
    }
    if (handle != NULL && target->class == SFS_CLASS_NODE)
        backing = sfs_backing_ref(handle->backing);
    if (backing == NULL)
        backing = sfs_section_bytes(mount, target);
    return backing != NULL ? stat_bytes(backing, st) : 0;
}

static void
take_privileges_off(SfsMount *mount, const SfsTarget *target, const SfsCaller *stranger)
{
    SfsNodeRec *rec = target->rec;
    uint32_t bits = S_ISUID | S_ISGID;

    if (sfs_xattr_has_capability(mount, target))
        sfs_xattr_remove(mount, target, SFS_XATTR_CAPABILITY);
    if (stranger == NULL || S_ISDIR(rec->mode) || !(rec->mode & bits))
        return;
    /* Without group execution, set-group-ID gives nobody rights; the group itself may keep it. */
    if (!(rec->mode & S_IXGRP) && (stranger->uid == 0 || sfs_caller_in_group(stranger, rec->gid)))
        bits = S_ISUID;
    sfs_node_lock(mount->nodes, target->slot);
    rec->mode &= ~bits;
    sfs_node_unlock(mount->nodes, target->slot);
}

void
sfs_section_drop_privileges(SfsMount *mount, const SfsTarget *target, const SfsCaller *stranger)
{
    /* What is written to a view is not written to the section. */
    if (target->class == SFS_CLASS_NODE)
        take_privileges_off(mount, target, stranger);
}

/* As the kernel has it for what is another's (fs.protected_hardlinks of proc(5)). */
int
sfs_section_check_link(const SfsTarget *target, const SfsCaller *caller)
{
    const uint32_t set_group = S_ISGID | S_IXGRP;
    const SfsNodeRec *rec = target->rec;
    char protected[16];

    if (target->class != SFS_CLASS_OWN || caller->uid == 0 || caller->uid == rec->uid ||
        sfs_read_text(AT_FDCWD, "/proc/sys/fs/protected_hardlinks", protected, sizeof protected) <=
            0 ||
        protected[0] == '0')
        return 0;
    return !(rec->mode & S_ISUID) && (rec->mode & set_group) != set_group &&
                   sfs_caller_may(caller, rec->uid, rec->gid, rec->mode, R_OK | W_OK)
               ? 0
               : -EPERM;
}

void
sfs_section_drop_file_set_ids(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller)
{
    g_autoptr(SfsBacking) backing = NULL;
    struct stat st;
    int fd;

    if (caller->uid == 0 || target->class != SFS_CLASS_NODE || target->rec->kind != SFS_KIND_FILE)
        return;
    backing = sfs_node_backing(mount->nodes, target->slot);
    fd = backing != NULL ? backing->ops->lock_fd(backing) : -1;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_mode & (S_ISUID | S_ISGID))
        fchmod(fd, st.st_mode & 07777 & ~(mode_t)(S_ISUID | (st.st_mode & S_IXGRP ? S_ISGID : 0)));
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

/* Where memory is committed, growing is taking it. */
static int
resize(const SfsTarget *target, SfsBacking *backing, off_t size)
{
    g_autoptr(GMutexLocker) held = sfs_section_hold_size(target);
    struct stat st;
    int r;

    if (target->class == SFS_CLASS_NODE && sfs_section_keeps_memory(target->rec)) {
        r = backing->ops->stat(backing, &st);
        if (r < 0)
            return r;
        if (size > st.st_size)
            return backing->ops->allocate(backing, 0, st.st_size, size - st.st_size);
    }
    return backing->ops->truncate(backing, size);
}

/* As truncate(2): nothing keeps the backing of an empty section in its place meanwhile. */
static int
truncate_unopened(SfsMount *mount, const SfsTarget *target, off_t size)
{
    bool stayed = false;
    int r = 0;

    while (r == 0 && !stayed) {
        g_autoptr(SfsBacking) backing = NULL;

        r = sfs_section_need_backing(mount, target, &backing);
        if (r == 0)
            r = resize(target, backing, size);
        sfs_node_lock(mount->nodes, target->slot);
        stayed = backing == sfs_node_backing_locked(mount->nodes, target->slot);
        sfs_node_unlock(mount->nodes, target->slot);
    }
    return r;
}

int
sfs_section_set_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                     const SfsCaller *caller, off_t size)
{
    g_autoptr(SfsBacking) backing = NULL;
    int r = 0;

    /* A handle has the rights that it was opened with. */
    if (handle == NULL)
        r = sfs_section_check_writable(target);
    else if ((handle->rec->flags & O_ACCMODE) == O_RDONLY && !(handle->rec->flags & O_TRUNC))
        r = -EINVAL; /* as ftruncate(2) has it */
    if (r == 0 && sfs_view_is_readonly(mount, target))
        r = sfs_section_refuse(target, -EACCES, "the view is for reading only");
    if (r < 0)
        return r;
    r = sfs_section_check_size(mount, target, handle, (uint64_t)size);
    if (r < 0)
        return r;
    sfs_section_drop_file_set_ids(mount, target, caller);
    if (handle == NULL && target->class == SFS_CLASS_NODE) {
        r = truncate_unopened(mount, target, size);
    } else {
        backing =
            handle != NULL ? sfs_backing_ref(handle->backing) : sfs_view_backing(mount, target);
        /* A copy-on-write name that nobody has open: the private view ends with this call. */
        if (backing != NULL)
            r = resize(target, backing, size);
    }
    if (r == 0)
        sfs_section_drop_privileges(mount, target, caller->uid != 0 ? caller : NULL);
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

    if (target->class != SFS_CLASS_NODE || target->rec->kind != SFS_KIND_FILE)
        return 0;
    if (target->rec->protect != SFS_PROTECT_READWRITE)
        return sfs_section_refuse(target, -EACCES, "its file is not to be changed");
    if (caller->uid == 0)
        return 0;
    if (!(what & (SFS_SET_ATIME | SFS_SET_MTIME)) && target->rec->fd_writable)
        return 0;
    if (fstat(backing->ops->lock_fd(backing), &st) == 0 && st.st_uid == caller->uid)
        return 0;
    return sfs_section_refuse(target, -EPERM, "the times of its file are its owner's to set");
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
    else if (sfs_target_is_view(target))
        backing = sfs_view_backing(mount, target);
    else if (sfs_target_is_section(target))
        backing = sfs_node_backing(mount->nodes, target->slot);
    if (backing != NULL) {
        r = check_file_times(target, backing, caller, what);
        return r < 0 ? r : backing->ops->set_times(backing, times);
    }
    if (sfs_target_is_view(target))
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
        r = sfs_section_set_size(mount, target, handle, caller, st->st_size);
    /* With nothing to set, the kernel wants the set-id bits off and the change noted: it does so
     * for a chown(2) that names nobody, and for writes that it passes through. */
    if (r == 0 && (what == 0 || what & (SFS_SET_MODE | SFS_SET_UID | SFS_SET_GID))) {
        if (what == 0)
            sfs_section_drop_privileges(mount, target, caller);
        /* A new owner has not asked for it to run with his rights. */
        else if (!(what & SFS_SET_MODE) && target->class != SFS_CLASS_COW)
            take_privileges_off(mount, target, caller);
        if (target->class == SFS_CLASS_COW)
            sfs_view_set(mount, target, st, what);
        else
            set_record(mount, target, st, what);
    }
    if (r == 0 && what & (SFS_SET_ATIME | SFS_SET_MTIME | SFS_SET_ATIME_NOW | SFS_SET_MTIME_NOW))
        r = set_times(mount, target, handle, caller, st, what);
    return r;
}
