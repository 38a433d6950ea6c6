/* SPDX-License-Identifier: MIT */
/*
 * Definition: an empty page section becomes one over a real file, or over a window of it, or a copy
 * of another section.
 *
 * The kernel's inode may be bound to the empty bytes for as long as somebody has it open, so what
 * is defined gets a new nodeid. Handles on the former one keep the empty bytes, and count as pins.
 */
#include "section-internal.h"

#include "keeper-link.h"
#include "namespace.h"
#include "request.h"
#include "util.h"

#include <string.h>

static const char too_late[] = "it is too late to define it";

#define NODE_FIELD(target_, field_, value_)                                                        \
    SFS_CHANGE_FIELD(SFS_TABLE_NODES, (target_)->slot, SfsNodeRec, field_, value_)

/* --- a window -------------------------------------------------------------------------------- */

int
sfs_section_set_window(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                       const uint64_t *offset, const uint64_t *length)
{
    SfsNodeRec *rec = target->rec;
    int r = sfs_request_done() ? 0 : sfs_section_check_owner(target, caller);
    SfsChange changes[SFS_COMMIT_MAX];
    uint64_t from, size;
    unsigned n = 0;

    if (r < 0 || sfs_request_done())
        return r;
    sfs_node_lock(mount->nodes, target->slot);
    from = offset != NULL ? *offset : rec->offset;
    size = length != NULL ? *length : rec->length;
    r = sfs_section_check_definable(mount, target);
    if (r == 0 && (from > INT64_MAX || size > INT64_MAX - from))
        r = -EFBIG;
    if (r == 0) {
        changes[n++] = NODE_FIELD(target, offset, from);
        changes[n++] = NODE_FIELD(target, length, size);
        changes[n++] = NODE_FIELD(target, bounded, 1);
        sfs_registry_commit(mount->registry, changes, sfs_request_remember(changes, n));
    }
    sfs_node_unlock(mount->nodes, target->slot);
    return r < 0 ? sfs_section_refuse(target, r, "that cannot become its window") : 0;
}

/* Makes the file at least @size bytes long, with the room for them taken, or leaves it as it was.
 */
static int
extend(int fd, off_t now, off_t size)
{
    /* The room first, and the size with it, so that what others append meanwhile is not cut off. */
    int r = fallocate(fd, FALLOC_FL_KEEP_SIZE, now, size - now) == 0 &&
                    fallocate(fd, 0, now, size - now) == 0
                ? 0
                : -errno;
    struct stat st;

    if (r == -EOPNOTSUPP)
        return ftruncate(fd, size) == 0 ? 0 : -errno;
    if (r < 0 && fstat(fd, &st) == 0 && st.st_size == now && ftruncate(fd, now) != 0)
        g_info("a file could not be made as short again as it was: %s", g_strerror(errno));
    return r;
}

/* What a section is to be defined by: as it was when that began. */
typedef struct {
    uint64_t offset, length;
    uint8_t bounded, protect, protect_set;
} Plan;

/* Node locked. */
static Plan
plan_of(const SfsNodeRec *rec)
{
    return (Plan){rec->offset, rec->length, rec->bounded, rec->protect, rec->protect_set};
}

static bool
is_planned(const SfsNodeRec *rec, const Plan *plan)
{
    return rec->offset == plan->offset && rec->length == plan->length &&
           rec->bounded == plan->bounded && rec->protect == plan->protect &&
           rec->protect_set == plan->protect_set;
}

/* Whether the window lies in the file open at @fd, which is extended where it may be. */
static int
fit_window(const Plan *plan, int fd, bool writable, bool strict)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (!plan->bounded)
        return st.st_size == 0 && strict ? -EINVAL : 0;
    if (plan->length == 0)
        return plan->offset >= (uint64_t)st.st_size ? -EINVAL : 0;
    if (plan->offset + plan->length <= (uint64_t)st.st_size)
        return 0;
    return writable ? extend(fd, st.st_size, (off_t)(plan->offset + plan->length)) : -EFBIG;
}

/* --- a file ---------------------------------------------------------------------------------- */

/* Makes the section what @changes (of which there are @n, and room for 5 more) and its new bytes
 * say, all at once, with a new identity. Returns the former bytes. Node locked. */
static SfsBacking *
become(SfsMount *mount, const SfsTarget *target, SfsChange *changes, unsigned n,
       SfsBacking *backing, uint32_t fd_slot)
{
    SfsNodeRec *rec = target->rec;
    _Atomic int32_t *withdrawal = sfs_node_begin_withdrawal(mount->nodes, rec->backing_id);

    changes[n++] = NODE_FIELD(target, fd_slot, fd_slot);
    changes[n++] = NODE_FIELD(target, backing_id, 0);
    changes[n++] = NODE_FIELD(target, opened, 0); /* as what it is now */
    changes[n++] = NODE_FIELD(target, nodeid_serial, sfs_registry_next_serial(mount->registry));
    sfs_registry_commit(mount->registry, changes, sfs_request_remember(changes, n));
    sfs_node_end_withdrawal(mount->nodes, withdrawal);
    rec->pins += rec->opens; /* handles of the former nodeid: see sfs_lifetime_closed() */
    rec->opens = 0;
    rec->native_writers = 0;
    rec->io_mode = SFS_IO_UNDECIDED;
    rec->no_passthrough = 0;
    sfs_time_set(&rec->ctime, sfs_now());
    return sfs_node_swap_backing(mount->nodes, target->slot, backing);
}

/* Puts the file in place of the empty bytes. */
static int
become_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, SfsBacking *backing,
            uint32_t fd_slot, uint32_t text, bool writable, const Plan *plan)
{
    SfsProtect protect = writable ? SFS_PROTECT_READWRITE : SFS_PROTECT_READONLY;
    SfsChange changes[SFS_COMMIT_MAX];
    SfsBacking *old;
    unsigned n = 0;
    int r;

    sfs_node_lock(mount->nodes, target->slot);
    r = sfs_section_check_definable(mount, target);
    /* The file was opened for what the section was to be then; nothing else may come of it. */
    if (r == 0 && !is_planned(target->rec, plan))
        r = -EBUSY;
    if (r < 0) {
        sfs_node_unlock(mount->nodes, target->slot);
        return r;
    }
    changes[n++] = NODE_FIELD(target, kind, SFS_KIND_FILE);
    if (!target->rec->protect_set)
        changes[n++] = NODE_FIELD(target, protect, protect);
    changes[n++] = NODE_FIELD(target, fd_writable, writable);
    changes[n++] = NODE_FIELD(target, file_uid, caller->uid);
    changes[n++] = NODE_FIELD(target, file_gid, caller->gid);
    changes[n++] = NODE_FIELD(target, text, text);
    old = become(mount, target, changes, n, backing, fd_slot);
    sfs_node_unlock(mount->nodes, target->slot);
    sfs_backing_unref(old);
    return 0;
}

static SfsFileAccess
wanted_access(const Plan *plan)
{
    if (!plan->protect_set)
        return SFS_FILE_WRITE_IF_ALLOWED;
    return plan->protect == SFS_PROTECT_READWRITE ? SFS_FILE_WRITE : SFS_FILE_READ;
}

/* What can be said before anything is opened. */
static int
check_definition(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                 const char *path, Plan *plan)
{
    int r = sfs_section_check_owner(target, caller);

    if (r < 0)
        return r;
    if (path[0] == '\0' || strlen(path) >= SFS_PATH_MAX)
        return path[0] == '\0' ? -EINVAL : -ENAMETOOLONG;
    sfs_node_lock(mount->nodes, target->slot);
    r = sfs_section_check_definable(mount, target);
    *plan = plan_of(target->rec);
    sfs_node_unlock(mount->nodes, target->slot);
    return r < 0 ? sfs_section_refuse(target, r, too_late) : 0;
}

int
sfs_section_define_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        const char *path)
{
    sfs_autofd fd = -1;
    uint32_t fd_slot, text;
    SfsBacking *backing;
    bool writable;
    Plan plan;
    int r = sfs_request_done() ? 0 : check_definition(mount, target, caller, path, &plan);

    if (r < 0 || sfs_request_done())
        return r;
    r = fd = sfs_caller_open_file(caller, path, (dev_t)mount->header->mount_dev,
                                  wanted_access(&plan), &writable);
    if (r < 0)
        return sfs_section_refuse(target, r, "its file cannot be opened for the caller");
    r = fit_window(&plan, fd, writable, target->rec->strict);
    if (r < 0)
        return sfs_section_refuse(target, r, "its file is too short");
    r = sfs_link_put(mount->link, mount->registry, fd, &fd_slot);
    if (r < 0)
        return r;
    text = sfs_registry_store_text(mount->registry, path, strlen(path));
    backing = plan.bounded ? sfs_backing_window_new(sfs_fd_steal(&fd), (off_t)plan.offset,
                                                    (off_t)plan.length)
                           : sfs_backing_file_new(sfs_fd_steal(&fd));
    r = text == SFS_NO_SLOT
            ? -ENOSPC
            : become_file(mount, target, caller, backing, fd_slot, text, writable, &plan);
    if (r < 0) {
        sfs_backing_unref(backing);
        sfs_registry_free_text(mount->registry, text);
        sfs_link_drop(mount->link, mount->registry, fd_slot);
        return sfs_section_refuse(target, r, too_late);
    }
    return 0;
}

/* --- another section ------------------------------------------------------------------------- */

/* Looks up one name after the other, as the caller may. The section found is pinned. */
static int
find_base(SfsMount *mount, const SfsCaller *caller, const char *path, uint32_t *slot)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    uint32_t at = SFS_ROOT_SLOT;
    int r = 0;

    sfs_node_pin(mount->nodes, at);
    for (char **part = parts; r == 0 && *part != NULL; part++) {
        g_auto(SfsTarget) child = {0};
        SfsTarget dir;

        if (**part == '\0' || strcmp(*part, ".") == 0)
            continue;
        sfs_node_peek(mount->nodes, at, SFS_CLASS_NODE, &dir);
        if (!S_ISDIR(dir.rec->mode))
            r = -ENOTDIR;
        else if (!sfs_caller_may(caller, dir.rec->uid, dir.rec->gid, dir.rec->mode, X_OK))
            r = -EACCES;
        else
            r = sfs_namespace_lookup(mount->names, &dir, *part, &child);
        if (r < 0)
            break;
        if (child.rec == NULL || !sfs_target_is_itself(&child)) {
            r = -ENODEV; /* .cow and the like */
            break;
        }
        sfs_node_pin(mount->nodes, child.slot);
        if (child.class == SFS_CLASS_NODE)
            sfs_node_forget(mount->nodes, child.slot, 1);
        sfs_node_unpin(mount->nodes, at);
        at = child.slot;
    }
    *slot = at;
    if (r < 0)
        sfs_node_unpin(mount->nodes, at);
    return r;
}

/* As many bases can be above each other as links in a path: what works on a view goes down all of
 * them. */
#define BASES_MAX 40

/* Whether a section can be based on that one: it must not lead back to itself. */
static int
check_base(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, uint32_t base)
{
    const SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, base);
    unsigned bases = target->rec->height;

    if (!S_ISREG(rec->mode))
        return -ENODEV;
    if (!sfs_caller_may(caller, rec->uid, rec->gid, rec->mode, R_OK))
        return -EACCES;
    for (uint32_t at = base; at != SFS_NO_SLOT; at = rec->base) {
        if (at == target->slot || ++bases > BASES_MAX)
            return -ELOOP;
        rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, at);
    }
    return 0;
}

/* Counts a copy that its bytes are kept for, or takes that back. */
static int
count_copy(SfsMount *mount, uint32_t base, int by)
{
    SfsNodeRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, base);
    int r;

    sfs_node_lock(mount->nodes, base);
    r = by > 0 && rec->doomed ? -ENOENT : 0;
    if (r == 0)
        rec->copies += (uint32_t)by;
    sfs_node_unlock(mount->nodes, base);
    return r;
}

/* Notes what is above each base of it now. */
static void
note_heights(SfsMount *mount, const SfsTarget *target)
{
    unsigned height = target->rec->height;
    SfsNodeRec *rec = target->rec;

    while (rec->base != SFS_NO_SLOT) {
        rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, rec->base);
        height++;
        rec->height = (uint8_t)MAX(rec->height, height);
    }
}

/* Takes over the pin of @base. */
static int
become_copy(SfsMount *mount, const SfsTarget *target, uint32_t base, uint32_t text)
{
    SfsChange changes[SFS_COMMIT_MAX];
    SfsBacking *old;
    unsigned n = 0;
    int r = count_copy(mount, base, 1);

    if (r < 0)
        return r;
    sfs_node_lock(mount->nodes, target->slot);
    r = sfs_section_check_definable(mount, target);
    if (r < 0) {
        sfs_node_unlock(mount->nodes, target->slot);
        count_copy(mount, base, -1);
        return r;
    }
    changes[n++] = NODE_FIELD(target, base, base);
    changes[n++] = NODE_FIELD(target, text, text);
    changes[n++] = NODE_FIELD(target, protect, SFS_PROTECT_WRITECOPY);
    changes[n++] = NODE_FIELD(target, protect_set, 1);
    old = become(mount, target, changes, n, NULL, SFS_NO_SLOT);
    sfs_node_unlock(mount->nodes, target->slot);
    note_heights(mount, target);
    sfs_backing_unref(old);
    return 0;
}

int
sfs_section_define_base(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        const char *path)
{
    /* Two definitions at once could each be right and together be a ring. */
    static GMutex one_at_a_time;
    g_autoptr(GMutexLocker) locker = NULL;
    uint32_t base, text;
    Plan plan;
    int r = sfs_request_done() ? 0 : check_definition(mount, target, caller, path, &plan);

    if (r < 0 || sfs_request_done())
        return r;
    locker = g_mutex_locker_new(&one_at_a_time);
    r = find_base(mount, caller, path, &base);
    if (r < 0)
        return sfs_section_refuse(target, r, "its base cannot be found for the caller");
    text = sfs_registry_store_text(mount->registry, path, strlen(path));
    r = text == SFS_NO_SLOT ? -ENOSPC : check_base(mount, target, caller, base);
    if (r == 0)
        r = become_copy(mount, target, base, text);
    if (r < 0) {
        sfs_registry_free_text(mount->registry, text);
        sfs_node_unpin(mount->nodes, base);
        return sfs_section_refuse(target, r, "that cannot be its base");
    }
    return 0;
}
