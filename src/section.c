/* SPDX-License-Identifier: MIT */
/*
 * What may be done with a section: protection, sizes, policies. The rest of the sections asks here
 * before it does anything.
 *
 * The kernel keeps to some of it by itself, and is made to ask about the rest. In passthrough it
 * writes to a section without telling, and so past any end. Where that is not as the policy has it
 * (limit, fixed size, committed memory), handles that can write are mediated: their reads and
 * writes come here, their mappings are passed through as ever, for a mapping cannot grow a file. So
 * a policy of that sort cannot begin while a native handle can write.
 */
#include "section-internal.h"

#include "lifetime.h"
#include "request.h"
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
sfs_section_check_owner(const SfsTarget *target, const SfsCaller *caller)
{
    if (caller->uid != 0 && caller->uid != target->rec->uid)
        return sfs_section_refuse(target, -EPERM, "that is for its owner to say");
    return 0;
}

/* --- protection ------------------------------------------------------------------------------ */

int
sfs_section_check_writable(const SfsTarget *target)
{
    if (sfs_target_is_view(target))
        return 0; /* the view is written, never the section */
    switch (target->rec->protect) {
    case SFS_PROTECT_READONLY:
        return sfs_section_refuse(target, -EACCES, "the section is readonly");
    case SFS_PROTECT_WRITECOPY:
        return sfs_section_refuse(target, -EACCES, "the section is writecopy");
    default:
        return 0;
    }
}

/* Whether the section is still nothing, and so can become anything. Node locked. One handle may be
 * that of the caller itself, or of a close on its way. */
int
sfs_section_check_definable(SfsMount *mount, const SfsTarget *target)
{
    const SfsNodeRec *rec = target->rec;
    SfsBacking *backing = sfs_node_backing_locked(mount->nodes, target->slot);
    struct stat st;

    if (rec->kind != SFS_KIND_PAGE || rec->base != SFS_NO_SLOT || rec->opens > 1 || rec->views > 0)
        return -EBUSY;
    if (backing != NULL && (backing->ops->stat(backing, &st) < 0 || st.st_size != 0))
        return -EBUSY;
    return 0;
}

/* Whether its names can come to mean a view, or no view any more: not while somebody has it open or
 * mapped, whose stores would go on going elsewhere. Node locked. */
static int
check_switch(SfsMount *mount, const SfsTarget *target)
{
    if (sfs_lifetime_check_unused_locked(mount, target->slot) == 0)
        return 0;
    return sfs_section_check_definable(mount, target);
}

/* Node locked. */
static int
change_protect(SfsMount *mount, const SfsTarget *target, SfsProtect protect)
{
    SfsNodeRec *rec = target->rec;
    int r = 0;

    if (protect == SFS_PROTECT_READWRITE && rec->kind == SFS_KIND_FILE && !rec->fd_writable)
        return -EACCES; /* its file is open for reading only */
    if (protect != SFS_PROTECT_WRITECOPY && rec->base != SFS_NO_SLOT)
        return -EACCES; /* its bytes are another's */
    if (protect != rec->protect &&
        (protect == SFS_PROTECT_WRITECOPY || rec->protect == SFS_PROTECT_WRITECOPY))
        r = check_switch(mount, target);
    if (r == 0) {
        rec->protect = (uint8_t)protect;
        rec->protect_set = 1;
    }
    return r;
}

int
sfs_section_set_protect(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        SfsProtect protect)
{
    gint64 deadline = sfs_lifetime_patience();
    int r = sfs_section_check_owner(target, caller);

    if (r < 0)
        return r;
    do {
        sfs_node_lock(mount->nodes, target->slot);
        r = change_protect(mount, target, protect);
        sfs_node_unlock(mount->nodes, target->slot);
    } while (r == -EBUSY && sfs_lifetime_wait(mount, target->slot, deadline));
    return r < 0 ? sfs_section_refuse(target, r, "its protection cannot become that now") : 0;
}

int
sfs_section_set_cow(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, SfsCow cow)
{
    SfsNodeRec *rec = target->rec;
    gint64 deadline = sfs_lifetime_patience();
    int r = sfs_section_check_owner(target, caller);

    if (r < 0)
        return r;
    do {
        sfs_node_lock(mount->nodes, target->slot);
        r = cow == rec->cow ? 0 : check_switch(mount, target);
        if (r == 0)
            rec->cow = (uint8_t)cow;
        sfs_node_unlock(mount->nodes, target->slot);
    } while (r == -EBUSY && sfs_lifetime_wait(mount, target->slot, deadline));
    return r < 0 ? sfs_section_refuse(target, r, "it is open") : 0;
}

/* --- sizes ----------------------------------------------------------------------------------- */

static bool
is_committed(const SfsNodeRec *rec, const SfsPolicy *policy)
{
    return rec->kind == SFS_KIND_PAGE && policy->commit == SFS_COMMITTED;
}

/* Whether the policy has a say in writes. */
static bool
minds_writes(const SfsNodeRec *rec, const SfsPolicy *policy)
{
    return policy->limit != 0 || policy->resize == SFS_RESIZE_FIXED || is_committed(rec, policy);
}

bool
sfs_section_is_mediated(const SfsNodeRec *rec)
{
    return minds_writes(rec, &rec->policy);
}

GMutexLocker *
sfs_section_hold_size(const SfsTarget *target)
{
    static GMutex locks[256]; /* by slot; held across operations on memory only */

    return target->class == SFS_CLASS_NODE && target->rec->kind == SFS_KIND_PAGE
               ? g_mutex_locker_new(&locks[target->slot % G_N_ELEMENTS(locks)])
               : NULL;
}

bool
sfs_section_keeps_memory(const SfsNodeRec *rec)
{
    return is_committed(rec, &rec->policy);
}

/* The bytes an operation is about: those of the handle, or of the section. NULL: it has none yet.
 */
static SfsBacking *
bytes_of(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle)
{
    return handle != NULL ? sfs_backing_ref(handle->backing)
                          : sfs_node_backing(mount->nodes, target->slot);
}

static uint64_t
size_of(SfsBacking *backing)
{
    struct stat st = {0};

    return backing != NULL && backing->ops->stat(backing, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* The section that this thread is cutting off; SFS_NO_SLOT: none. */
static _Thread_local uint32_t cutting;

/* Keeps others from opening the section, if nobody but the handle, if one is given, has it open. */
static bool
begin_cut(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle)
{
    SfsNodeRec *rec = target->rec;
    bool alone;

    sfs_node_lock(mount->nodes, target->slot);
    alone = rec->opens == (handle != NULL ? 1 : 0) && rec->views == 0 && !rec->shrinking;
    if (alone) {
        rec->shrinking = 1;
        rec->pins++; /* until sfs_section_cut() */
        cutting = target->slot;
    }
    sfs_node_unlock(mount->nodes, target->slot);
    return alone;
}

void
sfs_section_cut(SfsMount *mount)
{
    SfsNodeRec *rec;

    if (cutting == SFS_NO_SLOT)
        return;
    rec = sfs_registry_get(mount->registry, SFS_TABLE_NODES, cutting);
    sfs_node_lock(mount->nodes, cutting);
    rec->shrinking = 0;
    sfs_node_unlock(mount->nodes, cutting);
    sfs_node_unpin(mount->nodes, cutting);
    cutting = SFS_NO_SLOT;
}

/* Looking for mappings takes some time, in which nobody must open it and make one. */
static int
check_shrink(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle)
{
    gint64 deadline = sfs_lifetime_patience();

    while (true) {
        if (begin_cut(mount, target, handle)) {
            if (!sfs_lifetime_is_mapped(mount, target))
                return 0;
            sfs_section_cut(mount);
        }
        if (!sfs_lifetime_wait(mount, target->slot, deadline))
            return sfs_section_refuse(target, -ETXTBSY, "others use what would be cut off");
    }
}

bool
sfs_section_size_waits(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                       off_t size)
{
    g_autoptr(SfsBacking) backing = NULL;

    if (target->class != SFS_CLASS_NODE || !S_ISREG(target->rec->mode) ||
        target->rec->policy.resize != SFS_RESIZE_GROW)
        return false;
    backing = bytes_of(mount, target, handle);
    return (uint64_t)size < size_of(backing);
}

int
sfs_section_check_size(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                       uint64_t size)
{
    const SfsNodeRec *rec = target->rec;
    const SfsPolicy *policy = &rec->policy;
    g_autoptr(SfsBacking) backing = NULL;
    uint64_t now;

    if (target->class != SFS_CLASS_NODE)
        return 0;
    backing = bytes_of(mount, target, handle);
    now = size_of(backing);
    if (size == now)
        return 0;
    if (policy->resize == SFS_RESIZE_FIXED && now != 0)
        return sfs_section_refuse(target, -EPERM, "its size is fixed");
    if (rec->bounded && size < now)
        return sfs_section_refuse(target, -EPERM, "a window does not shorten its file");
    if (size > now && policy->limit != 0 && size > policy->limit)
        return sfs_section_refuse(target, -EFBIG, "that is above its limit");
    return size < now && policy->resize == SFS_RESIZE_GROW ? check_shrink(mount, target, handle)
                                                           : 0;
}

int
sfs_section_check_room(const SfsTarget *target, uint64_t end)
{
    const SfsPolicy *policy = &target->rec->policy;

    return target->class == SFS_CLASS_NODE && policy->limit != 0 && end > policy->limit
               ? sfs_section_refuse(target, -EFBIG, "that is above its limit")
               : 0;
}

int
sfs_section_admit_write(SfsMount *mount, const SfsHandle *handle, off_t offset, size_t *size,
                        unsigned how)
{
    SfsTarget target;
    const SfsPolicy *policy;
    uint64_t now, most = INT64_MAX;

    /* What was stored to a mapping is within the file, and was agreed to long ago. */
    if (handle->class != SFS_CLASS_NODE || *size == 0 || how & SFS_WRITE_BACK)
        return 0;
    sfs_node_peek(mount->nodes, handle->node, handle->class, &target);
    policy = &target.rec->policy;
    if (!minds_writes(target.rec, policy))
        return 0;
    now = size_of(handle->backing);
    if (how & SFS_WRITE_APPEND && target.rec->kind == SFS_KIND_FILE)
        offset = (off_t)now;
    if (policy->limit != 0)
        most = MAX(policy->limit, now);
    if (policy->resize == SFS_RESIZE_FIXED && now != 0)
        most = now;
    if ((uint64_t)offset >= most)
        return policy->resize == SFS_RESIZE_FIXED && now != 0
                   ? sfs_section_refuse(&target, -EPERM, "its size is fixed")
                   : sfs_section_refuse(&target, -EFBIG, "that is above its limit");
    *size = MIN(*size, most - (uint64_t)offset);
    if (is_committed(target.rec, policy) && (uint64_t)offset + *size > now)
        return handle->backing->ops->allocate(handle->backing, 0, (off_t)now,
                                              offset + (off_t)*size - (off_t)now);
    return 0;
}

/* --- policies -------------------------------------------------------------------------------- */

/* Node locked. @used: somebody has it open or mapped. */
static int
change_policy(SfsMount *mount, const SfsTarget *target, SfsPolicyKey key, const SfsPolicy *policy,
              bool used)
{
    SfsNodeRec *rec = target->rec;

    if (rec->doomed)
        return -ESTALE; /* too late: its name is about to go */
    if (S_ISREG(rec->mode) && minds_writes(rec, policy) && !minds_writes(rec, &rec->policy) &&
        rec->native_writers > 0)
        return -EBUSY;
    rec->policy = *policy;
    /* Whoever uses it by its name uses it for the first time, as it were. */
    if (key == SFS_POLICY_LIFETIME)
        rec->opened = rec->nlink > 0 && used;
    sfs_time_set(&rec->ctime, sfs_now());
    return 0;
}

/* Takes the memory that the section could be short of. */
static int
commit_all(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(GMutexLocker) held = sfs_section_hold_size(target);
    g_autoptr(SfsBacking) backing = sfs_node_backing(mount->nodes, target->slot);
    uint64_t size = size_of(backing);

    return size > 0 ? backing->ops->allocate(backing, 0, 0, (off_t)size) : 0;
}

int
sfs_section_set_policy(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                       SfsPolicyKey key, const char *value)
{
    SfsNodeRec *rec = target->rec;
    gint64 deadline = sfs_lifetime_patience();
    SfsPolicy policy;
    bool was_committed;
    int r = sfs_section_check_owner(target, caller);

    if (r < 0)
        return r;
    do {
        uint32_t generation = rec->generation;
        bool used = key == SFS_POLICY_LIFETIME && sfs_lifetime_is_used(mount, target->slot);

        sfs_node_lock(mount->nodes, target->slot);
        policy = rec->policy;
        was_committed = is_committed(rec, &policy);
        r = sfs_policy_parse(&policy, key, value);
        if (r == 0 && generation != rec->generation)
            r = -EAGAIN; /* opened since it was looked at */
        if (r == 0)
            r = change_policy(mount, target, key, &policy, used);
        sfs_node_unlock(mount->nodes, target->slot);
    } while (r == -EAGAIN || (r == -EBUSY && sfs_lifetime_wait(mount, target->slot, deadline)));
    if (r == -EBUSY)
        return sfs_section_refuse(target, r, "a handle is open that could write past this policy");
    /* If this is asked again, the policy may be there already and the memory not. */
    if (r == 0 && S_ISREG(rec->mode) && is_committed(rec, &policy) &&
        (!was_committed || sfs_request_again())) {
        r = commit_all(mount, target);
        if (r < 0) {
            sfs_node_lock(mount->nodes, target->slot);
            rec->policy.commit = SFS_RESERVE;
            sfs_node_unlock(mount->nodes, target->slot);
        }
    }
    return r;
}

/* --- facts ----------------------------------------------------------------------------------- */

uint64_t
sfs_section_private(SfsMount *mount, const SfsTarget *target)
{
    g_autoptr(SfsBacking) backing = NULL;

    if (sfs_target_is_view(target))
        backing = sfs_view_backing(mount, target);
    return backing != NULL && backing->ops->private_bytes != NULL
               ? backing->ops->private_bytes(backing)
               : 0;
}

const char *
sfs_section_io_mode(SfsMount *mount, const SfsTarget *target)
{
    const SfsNodeRec *rec = target->rec;
    SfsIoMode mode = rec->io_mode;

    if (sfs_target_is_view(target))
        return sfs_view_mode_name(mount, target);
    if (rec->protect == SFS_PROTECT_WRITECOPY)
        return "overlay";
    if (mode == SFS_IO_UNDECIDED) {
        if (mount->header->passthrough && !rec->no_passthrough && !rec->bounded)
            mode = SFS_IO_PASSTHROUGH;
        else
            mode = rec->kind == SFS_KIND_FILE && mount->direct_mmap ? SFS_IO_DIRECT : SFS_IO_CACHED;
    }
    if (mode == SFS_IO_PASSTHROUGH)
        return sfs_section_is_mediated(rec) ? "mapped" : "passthrough";
    return mode == SFS_IO_DIRECT ? "direct" : "cached";
}
