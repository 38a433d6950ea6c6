/* SPDX-License-Identifier: MIT */
/*
 * Handles. One is made by open and freed by release; the kernel promises one release for each open
 * that was answered, and no operation on a handle after it. It holds a reference of its backing, so
 * that a section can be redefined or deleted under it.
 *
 * Locks: that of a node (node.h). It is not held across I/O on real files.
 */
#include "section-internal.h"

#include "lifetime.h"
#include "passthrough.h"
#include "request.h"
#include "util.h"
#include "view.h"
#include "xattr.h"

#include <string.h>
#include <sys/mman.h>

struct SfsSections {
    SfsHandle **handles; /* by slot; sparse memory */
    size_t handles_bytes;
    atomic_uint texts; /* handles on .info and .stats */
    GHashTable *made; /* request → slot, of the handles that an earlier worker has left; constant */
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
    sections->made = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    return sections;
}

static void
free_handle(SfsHandle *handle)
{
    sfs_fd_clear(&handle->flock_fd);
    sfs_backing_unref(handle->backing);
    g_clear_pointer(&handle->text, g_bytes_unref);
    g_clear_pointer(&handle->lockers, g_hash_table_unref);
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
    g_hash_table_unref(sections->made);
    g_free(sections);
}

/* --- open and release ------------------------------------------------------------------------ */

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
    if (mount->header->passthrough && !rec->no_passthrough && !rec->bounded &&
        !(privileged && may_change_mode(rec, backing))) {
        int id = rec->backing_id;

        if (id == 0)
            id = sfs_passthrough_register(mount->device, sfs_backing_data_fd(backing),
                                          rec->kind == SFS_KIND_FILE ? rec->file_uid : geteuid(),
                                          rec->kind == SFS_KIND_FILE ? rec->file_gid : getegid());
        if (id > 0) {
            rec->backing_id = id;
            sfs_passthrough_note(&mount->header->last_backing_id, id);
            return SFS_IO_PASSTHROUGH;
        }
        rec->no_passthrough = 1;
        g_info("section %" PRIu64 ": no passthrough: %s", rec->serial, g_strerror(-id));
    }
    /* A real file changes behind the page cache's back, so it is read and written directly. */
    return rec->kind == SFS_KIND_FILE && mount->direct_mmap ? SFS_IO_DIRECT : SFS_IO_CACHED;
}

/* Node locked. */
static void
note_open(SfsNodeRec *rec)
{
    rec->generation++;
}

/* It has a user now. What has no name yet is still being made. */
static void
note_use(SfsMount *mount, const SfsTarget *target)
{
    SfsNodeRec *rec = target->rec;

    if (!sfs_target_is_section(target) || rec->policy.lifetime != SFS_TEMPORARY)
        return;
    sfs_node_lock(mount->nodes, target->slot);
    if (rec->nlink > 0)
        rec->opened = 1;
    sfs_node_unlock(mount->nodes, target->slot);
}

/* Whether a handle's reads and writes have to come here though its mappings are passed through:
 * because of its policy, or because it may get one. (With O_EXCL it never gets a name.) */
static bool
is_mediated(const SfsNodeRec *rec, int flags)
{
    bool in_the_making = rec->nlink == 0 && (flags & O_TMPFILE) == O_TMPFILE && !(flags & O_EXCL);

    return (flags & O_ACCMODE) != O_RDONLY && (sfs_section_is_mediated(rec) || in_the_making);
}

/* Whether the kernel passes a handle's writes through. */
static bool
is_native(const SfsNodeRec *node, const SfsHandleRec *rec)
{
    return node->io_mode == SFS_IO_PASSTHROUGH && !rec->mediated &&
           (rec->flags & O_ACCMODE) != O_RDONLY;
}

static void
fill_reply(const SfsNodeRec *rec, const SfsHandleRec *handle, SfsOpenReply *reply)
{
    reply->mode = rec->io_mode;
    reply->mediated = handle->mediated;
    reply->backing_id = rec->io_mode == SFS_IO_PASSTHROUGH ? rec->backing_id : 0;
    reply->keep_cache =
        rec->io_mode == SFS_IO_CACHED && rec->kind == SFS_KIND_PAGE && rec->commits == 0;
}

static int
open_section(SfsMount *mount, const SfsTarget *target, SfsHandle *handle, SfsOpenReply *reply)
{
    SfsNodeRec *rec = target->rec;
    bool privileged = rec->mode & (S_ISUID | S_ISGID) || sfs_xattr_has_capability(mount, target);
    int r = sfs_section_lock_with_backing(mount, target, &handle->backing);

    if (r < 0)
        return r;
    /* Redefined long ago: the name must be looked up anew, which the kernel does on this error; the
     * inode that it has is still bound to the former bytes. */
    if ((target->nodeid & SFS_SERIAL_MASK) != rec->nodeid_serial || rec->doomed ||
        (rec->protect == SFS_PROTECT_WRITECOPY && rec->nlink > 0)) {
        sfs_node_unlock(mount->nodes, target->slot);
        return -ESTALE;
    }
    if (rec->shrinking) {
        sfs_node_unlock(mount->nodes, target->slot);
        return -EAGAIN;
    }
    if (rec->opens == 0)
        rec->io_mode = (uint8_t)choose_io_mode(mount, rec, handle->backing, privileged);
    note_open(rec);
    rec->opens++;
    handle->rec->fd_slot = rec->fd_slot;
    handle->rec->mediated = is_mediated(rec, (int)handle->rec->flags);
    handle->native = is_native(rec, handle->rec);
    if (handle->native)
        rec->native_writers++;
    fill_reply(rec, handle->rec, reply);
    sfs_node_unlock(mount->nodes, target->slot);
    return 0;
}

static int
open_view(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller, bool writes,
          SfsHandle *handle, SfsOpenReply *reply)
{
    SfsNodeRec *rec = target->rec;
    struct stat section;
    SfsViewWish wish = {.section = &section,
                        .caller = caller,
                        .writes = writes,
                        .joined = target->class == SFS_CLASS_OWN && rec->cow == SFS_COW_SECTION};
    g_autoptr(SfsBacking) base = NULL;
    SfsViewAccess access;
    int r = 0;

    sfs_node_lock(mount->nodes, target->slot);
    if (rec->doomed || (target->class == SFS_CLASS_OWN && rec->protect != SFS_PROTECT_WRITECOPY))
        r = -ESTALE;
    else if (rec->shrinking)
        r = -EAGAIN;
    if (r == 0) {
        note_open(rec);
        rec->views++;
        rec->pins++; /* until sfs_lifetime_view_closed() */
    }
    sfs_node_unlock(mount->nodes, target->slot);
    if (r < 0)
        return r;
    r = sfs_section_stat(mount, target, NULL, &section);
    if (r == 0 && (writes || wish.joined))
        r = sfs_section_need_bytes(mount, target, &base);
    else if (r == 0)
        base = sfs_section_bytes(mount, target);
    wish.base = base;
    if (r == 0)
        r = sfs_view_open(mount, target, &wish, &access);
    if (r < 0) {
        sfs_lifetime_view_closed(mount, target->slot);
        return r == -EACCES ? sfs_section_refuse(target, r, "the view is for reading only") : r;
    }
    handle->backing = access.backing;
    handle->rec->view = access.slot;
    reply->mode = access.backing_id != 0 ? SFS_IO_PASSTHROUGH : SFS_IO_CACHED;
    reply->backing_id = access.backing_id;
    reply->keep_cache = access.shared;
    return 0;
}

bool
sfs_section_open_may_wait(SfsMount *mount, const SfsTarget *target, int flags)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);

    return sfs_target_is_view(target) && sfs_view_open_may_wait(mount, target, writes);
}

static int
open_text(SfsMount *mount, const SfsTarget *target, SfsHandle *handle, SfsOpenReply *reply)
{
    gsize size;
    const void *text = g_bytes_get_data(handle->text, &size);

    reply->mode = SFS_IO_DIRECT;
    /* Where there is no room for it, a later worker has an empty one. */
    handle->rec->text = sfs_registry_store_text(mount->registry, text, size);
    atomic_fetch_add(&mount->sections->texts, 1);
    /* The handle outlives the operation that resolved the target. */
    if (target->class == SFS_CLASS_INFO)
        sfs_node_pin(mount->nodes, target->slot);
    return 0;
}

/* The handle that this very request has made at an earlier worker, if it comes again. */
static SfsHandle *
made_handle(SfsMount *mount)
{
    uint64_t number = sfs_request_number();
    gpointer slot = NULL;
    SfsHandle *handle;

    if (sfs_request_again())
        slot = g_hash_table_lookup(mount->sections->made, &number);
    handle = slot != NULL ? mount->sections->handles[GPOINTER_TO_UINT(slot)] : NULL;
    return handle != NULL && handle->rec->made_by == number ? handle : NULL;
}

bool
sfs_section_made(SfsMount *mount, SfsTarget *target)
{
    const SfsHandle *handle = made_handle(mount);

    if (handle == NULL || handle->class != SFS_CLASS_NODE)
        return false;
    sfs_node_target(mount->nodes, handle->node, SFS_CLASS_NODE, target);
    return true;
}

/* The same, and how it is to be used. */
static bool
find_made(SfsMount *mount, const SfsTarget *target, SfsHandle **handle, SfsOpenReply *reply)
{
    *handle = made_handle(mount);
    if (*handle == NULL || (*handle)->node != target->slot)
        return false;
    if (target->class == SFS_CLASS_NODE) {
        sfs_node_lock(mount->nodes, target->slot);
        fill_reply(target->rec, (*handle)->rec, reply);
        sfs_node_unlock(mount->nodes, target->slot);
    } else if (sfs_target_is_view(target)) {
        const SfsViewRec *view =
            sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, (*handle)->rec->view);

        reply->backing_id = view->backing_id;
        reply->mode = view->backing_id != 0 ? SFS_IO_PASSTHROUGH : SFS_IO_CACHED;
    } else {
        reply->mode = SFS_IO_DIRECT;
    }
    return true;
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
    if (find_made(mount, target, out, reply)) {
        handle = *out;
        goto opened;
    }
    if (writes && (target->class == SFS_CLASS_INFO || target->class == SFS_CLASS_STATS))
        return -EROFS;
    if (writes)
        r = sfs_section_check_writable(target);
    if (r < 0)
        return r;
    rec = sfs_registry_alloc(mount->registry, SFS_TABLE_HANDLES, &slot);
    if (rec == NULL)
        return -ENFILE;
    rec->serial = atomic_fetch_add(&mount->header->next_handle, 1);
    rec->made_by = sfs_request_number();
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
    if (target->class == SFS_CLASS_COW || target->class == SFS_CLASS_OWN)
        r = open_view(mount, target, caller, writes, handle, reply);
    else if (target->class == SFS_CLASS_NODE)
        r = open_section(mount, target, handle, reply);
    else
        r = open_text(mount, target, handle, reply);
    if (r < 0) {
        sfs_registry_release(mount->registry, SFS_TABLE_HANDLES, slot);
        free_handle(handle);
        return r;
    }
    mount->sections->handles[slot] = handle;
    sfs_registry_publish(mount->registry, SFS_TABLE_HANDLES, slot);
opened:
    if (writes && target->class == SFS_CLASS_NODE && target->rec->kind == SFS_KIND_FILE &&
        (reply->mode != SFS_IO_PASSTHROUGH || reply->mediated))
        sfs_section_drop_file_set_ids(mount, target, caller);
    if (flags & O_TRUNC)
        r = sfs_section_set_size(mount, target, handle, caller, 0);
    if (r < 0) {
        sfs_section_release(mount, handle);
        return r;
    }
    if (target->class != SFS_CLASS_INFO)
        note_use(mount, target);
    *out = handle;
    return 0;
}

void
sfs_section_release(SfsMount *mount, SfsHandle *handle)
{
    uint64_t nodeid = handle->rec->nodeid;
    uint32_t text = handle->rec->text;

    mount->sections->handles[handle->slot] = NULL;
    sfs_registry_release(mount->registry, SFS_TABLE_HANDLES, handle->slot);
    if (handle->class == SFS_CLASS_COW || handle->class == SFS_CLASS_OWN) {
        sfs_view_close(mount, nodeid);
        sfs_lifetime_view_closed(mount, handle->node);
    } else if (handle->class == SFS_CLASS_NODE)
        sfs_lifetime_closed(mount, handle->node, nodeid, handle->native);
    else if (handle->class == SFS_CLASS_INFO)
        sfs_node_unpin(mount->nodes, handle->node);
    sfs_registry_free_text(mount->registry, text);
    if (handle->text != NULL)
        atomic_fetch_sub(&mount->sections->texts, 1);
    free_handle(handle);
}

SfsHandle *
sfs_section_adopt(SfsMount *mount, uint32_t slot, SfsBacking *backing)
{
    SfsHandleRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_HANDLES, slot);
    SfsHandle *handle = g_new0(SfsHandle, 1);

    handle->slot = slot;
    handle->rec = rec;
    handle->class = (SfsClass)(rec->nodeid >> SFS_CLASS_SHIFT);
    handle->node = rec->node;
    handle->flock_fd = -1;
    handle->backing = sfs_backing_ref(backing);
    if (handle->class == SFS_CLASS_INFO || handle->class == SFS_CLASS_STATS) {
        gsize size;
        char *text = sfs_registry_load_text(mount->registry, rec->text, &size);

        handle->text = g_bytes_new_take(text, size);
        atomic_fetch_add(&mount->sections->texts, 1);
    } else if (handle->class == SFS_CLASS_NODE) {
        handle->native =
            is_native(sfs_registry_get(mount->registry, SFS_TABLE_NODES, rec->node), rec);
    }
    mount->sections->handles[slot] = handle;
    if (rec->made_by != 0)
        g_hash_table_insert(mount->sections->made, g_memdup2(&rec->made_by, sizeof rec->made_by),
                            GUINT_TO_POINTER(slot));
    return handle;
}

uint32_t
sfs_section_handles(SfsMount *mount)
{
    return sfs_registry_count(mount->registry, SFS_TABLE_HANDLES) -
           atomic_load(&mount->sections->texts);
}

SfsHandle *
sfs_section_handle_at(SfsMount *mount, uint32_t slot)
{
    return slot < sfs_registry_bound(mount->registry, SFS_TABLE_HANDLES)
               ? mount->sections->handles[slot]
               : NULL;
}

SfsHandle *
sfs_section_handle(SfsMount *mount, uint64_t fh)
{
    const uint32_t slot = (uint32_t)fh;
    const SfsHandleRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_HANDLES, slot);

    /* Of a release that comes again the slot may be another's, who is giving it up just now: only
     * the record can be looked at. In this order, for a serial is never given twice. */
    if (rec == NULL || atomic_load(&rec->state) != SFS_LIVE || rec->serial != (uint32_t)(fh >> 32))
        return NULL;
    return sfs_section_handle_at(mount, slot);
}
