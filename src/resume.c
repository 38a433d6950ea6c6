/* SPDX-License-Identifier: MIT */
/*
 * Derived here, because nobody keeps them right across a death: link counts and the directories'
 * places (of the names), opens and pins (of the handles and views), what the store holds (of its
 * files). Undone here: views without a handle, nodes that nothing leads to, descriptors, texts and
 * backing ids that no record carries. What the registry calls valid is never given up.
 */
#include "resume.h"

#include "doubt.h"
#include "keeper-link.h"
#include "lifetime.h"
#include "lock.h"
#include "log.h"
#include "node.h"
#include "passthrough.h"
#include "reader.h"
#include "registry-check.h"
#include "request.h"
#include "section.h"
#include "view.h"

#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* Part of the protocol since 7.40; older headers lack it. */
#define NOTIFY_RESEND 7

/* Backing ids that threads may have been given and not noted, above the last that was. */
#define IDS_IN_HAND 64

struct SfsResume {
    GMutex lock;         /* protects the queues */
    GQueue *queue[2];    /* of GBytes: requests, and suspects among them; oldest first */
    GHashTable *numbers; /* set of uint64_t: of all of them */
    GHashTable
        *under_way;      /* set of uint64_t: what threads were working on and did not come again */
    GHashTable *refused; /* set of uint64_t: those that were answered with EIO */
    bool has_init;
};

static const struct fuse_in_header *
header_of(GBytes *request)
{
    return g_bytes_get_data(request, NULL);
}

static uint64_t
number_of(const struct fuse_in_header *in)
{
    return in->unique & ~SFS_REQUEST_AGAIN;
}

static gint
older_first(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t x = number_of(header_of((GBytes *)a)), y = number_of(header_of((GBytes *)b));

    return x < y ? -1 : x > y;
}

/* --- reading what comes again ---------------------------------------------------------------- */

static int
ask_to_resend(int device)
{
    struct fuse_out_header out = {.len = sizeof out, .error = NOTIFY_RESEND, .unique = 0};

    return write(device, &out, sizeof out) == (ssize_t)sizeof out ? 0 : -errno;
}

/* What the kernel puts before all requests that wait. */
static bool
goes_first(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

/* What comes again comes before what comes for the first time: it ends with that, or with nothing.
 */
static int
read_all(SfsResume *resume, int device)
{
    SfsReader *reader = sfs_reader_new();
    void *request = NULL;
    bool more = true;
    ssize_t n = 0;

    while (more) {
        struct pollfd fd = {.fd = device, .events = POLLIN};
        const struct fuse_in_header *in;

        if (poll(&fd, 1, 0) <= 0)
            break;
        n = sfs_reader_next(reader, device, &request);
        if (n < 0)
            break;
        if (n == 0)
            continue;
        sfs_reader_load(0);
        in = request;
        more = in->unique & SFS_REQUEST_AGAIN || goes_first(in->opcode);
        if (in->unique & SFS_REQUEST_AGAIN) {
            uint64_t number = number_of(in);

            g_hash_table_add(resume->numbers, g_memdup2(&number, sizeof number));
        }
        if (in->opcode == FUSE_INIT)
            resume->has_init = true;
        g_queue_push_tail(resume->queue[0], g_bytes_new(request, (gsize)n));
    }
    sfs_reader_free(reader);
    g_queue_sort(resume->queue[0], older_first, NULL);
    return n < 0 ? (int)n : 0;
}

/* --- suspects -------------------------------------------------------------------------------- */

static bool
worker_failed(const SfsRegistryHeader *header)
{
    int status = header->death_status;

    return !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static SfsSuspect *
find_suspect(SfsRegistryHeader *header, uint64_t number)
{
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        if (header->suspects[i].unique == number)
            return &header->suspects[i];
    }
    return NULL;
}

/* Takes notice of what the dead worker was working on. */
static void
note_suspects(SfsResume *resume, SfsRegistryHeader *header)
{
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        SfsSuspect *suspect = &header->suspects[i];

        if (suspect->unique != 0 && !g_hash_table_contains(resume->numbers, &suspect->unique))
            memset(suspect, 0, sizeof *suspect); /* it was answered */
    }
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        SfsRunning *running = &header->running[i];
        uint64_t number = atomic_load(&running->unique);
        SfsSuspect *suspect;

        if (running->process != 0)
            running->process = 0; /* whoever uses it next may die before saying who it is */
        if (number == 0)
            continue;
        if (!g_hash_table_contains(resume->numbers, &number)) {
            g_hash_table_add(resume->under_way, g_memdup2(&number, sizeof number));
        } else if (worker_failed(header)) {
            suspect = find_suspect(header, number);
            if (suspect == NULL)
                suspect = find_suspect(header, 0);
            if (suspect != NULL) {
                *suspect =
                    (SfsSuspect){number, running->nodeid, running->opcode, suspect->deaths + 1};
            }
        }
        atomic_store(&running->unique, 0);
    }
}

/* False: the kernel could not be told, and whoever asked still waits. */
static bool
refuse(SfsMount *mount, GBytes *request)
{
    const struct fuse_in_header *in = header_of(request);
    struct fuse_out_header out = {.len = sizeof out, .error = -EIO, .unique = in->unique};
    const SfsNodeRec *rec = sfs_registry_get(
        mount->registry, SFS_TABLE_NODES, (uint32_t)(in->nodeid >> SFS_SLOT_SHIFT) & SFS_MAX_NODES);

    g_critical("request %" PRIu64 " (opcode %u, section %" PRIu64
               ") has ended %d workers: it is answered with EIO",
               number_of(in), in->opcode, rec != NULL ? rec->serial : 0, SFS_DEATHS_MAX);
    return write(mount->device, &out, sizeof out) >= 0 || errno == ENOENT;
}

/* Sorts the suspects out of the queue. */
static bool
single_out(SfsResume *resume, SfsMount *mount)
{
    for (GList *link = resume->queue[0]->head, *next; link != NULL; link = next) {
        GBytes *request = link->data;
        const SfsSuspect *suspect = find_suspect(mount->header, number_of(header_of(request)));

        next = link->next;
        if (suspect == NULL || suspect->unique == 0)
            continue;
        g_queue_delete_link(resume->queue[0], link);
        if (suspect->deaths >= SFS_DEATHS_MAX) {
            uint64_t number = suspect->unique;

            if (!refuse(mount, request)) {
                g_snprintf(mount->header->startup_error, sizeof mount->header->startup_error,
                           "a request cannot be refused: %s", g_strerror(errno));
                return false;
            }
            g_hash_table_remove(resume->numbers, &number);
            g_hash_table_add(resume->refused, g_memdup2(&number, sizeof number));
            g_bytes_unref(request);
        } else {
            g_queue_push_tail(resume->queue[1], request);
        }
    }
    return true;
}

SfsResume *
sfs_resume_read(SfsMount *mount, bool *ended)
{
    SfsRegistryHeader *header = mount->header;
    SfsResume *resume;
    int r;

    *ended = false;
    if (header->worker_starts <= 1)
        return NULL;
    resume = g_new0(SfsResume, 1);
    g_mutex_init(&resume->lock);
    for (int i = 0; i < 2; i++)
        resume->queue[i] = g_queue_new();
    resume->numbers = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    resume->under_way = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    resume->refused = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    r = ask_to_resend(mount->device);
    if (r == 0)
        r = read_all(resume, mount->device);
    *ended = r == -ENODEV || r == -ECONNABORTED || r == -EPERM;
    if (r < 0 && !*ended) {
        /* They wait for ever for a worker that has not heard of them. */
        g_snprintf(header->startup_error, sizeof header->startup_error,
                   "requests cannot be read again: %s", g_strerror(-r));
        _exit(1);
    }
    sfs_requests_note_held(header, resume->numbers);
    note_suspects(resume, mount->header);
    mount->header->resent += g_hash_table_size(resume->numbers);
    return resume;
}

void
sfs_resume_free(SfsResume *resume)
{
    if (resume == NULL)
        return;
    for (int i = 0; i < 2; i++)
        g_queue_free_full(resume->queue[i], (GDestroyNotify)g_bytes_unref);
    g_hash_table_unref(resume->numbers);
    g_hash_table_unref(resume->under_way);
    g_hash_table_unref(resume->refused);
    g_mutex_clear(&resume->lock);
    g_free(resume);
}

bool
sfs_resume_has_init(const SfsResume *resume)
{
    return resume->has_init;
}

bool
sfs_resume_next(SfsResume *resume, bool suspect, struct fuse_buf *buf)
{
    GBytes *request;
    gsize size;

    g_mutex_lock(&resume->lock);
    request = g_queue_pop_head(resume->queue[suspect]);
    g_mutex_unlock(&resume->lock);
    if (request == NULL)
        return false;
    buf->mem = g_bytes_unref_to_data(request, &size);
    buf->size = size;
    return true;
}

/* --- what is derived ------------------------------------------------------------------------- */

static SfsNodeRec *
node_at(SfsMount *mount, uint32_t slot)
{
    return sfs_registry_get(mount->registry, SFS_TABLE_NODES, slot);
}

static bool
is_live(const void *rec)
{
    return rec != NULL && atomic_load((_Atomic uint32_t *)rec) == SFS_LIVE;
}

#define EACH_LIVE(mount_, table_, type_, rec_, slot_)                                              \
    for (uint32_t slot_ = (table_) == SFS_TABLE_NODES ? 0 : 1;                                     \
         slot_ < sfs_registry_bound((mount_)->registry, table_); slot_++)                          \
        for (type_ *rec_ = sfs_registry_get((mount_)->registry, table_, slot_);                    \
             rec_ != NULL && is_live(rec_); rec_ = NULL)

static void
count_names(SfsMount *mount)
{
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        rec->nlink = slot == SFS_ROOT_SLOT ? 2 : 0;
        rec->native_writers = 0;
        rec->shrinking = 0;
        rec->copies = 0;
        atomic_store(&rec->opens, 0);
        atomic_store(&rec->pins, 0);
        atomic_store(&rec->views, 0);
    }
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        if (rec->base == SFS_NO_SLOT)
            continue;
        node_at(mount, rec->base)->pins++;
        node_at(mount, rec->base)->copies++;
    }
    EACH_LIVE(mount, SFS_TABLE_DIRENTS, SfsDirentRec, entry, slot)
    {
        SfsNodeRec *rec = node_at(mount, entry->node), *dir = node_at(mount, entry->parent);

        if (atomic_load(&entry->gone) != 0)
            continue;
        if (!is_live(rec) || !is_live(dir)) {
            g_critical("a name leads nowhere");
            continue;
        }
        if (!S_ISDIR(rec->mode)) {
            rec->nlink++;
            continue;
        }
        rec->nlink += 2;
        rec->parent = entry->parent;
        dir->nlink++;
    }
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void
unref_backing(gpointer backing)
{
    sfs_backing_unref(backing);
}

/* Bytes by the slot of their descriptor. @node: whose they are, as far as that is known. */
static SfsBacking *
adopt_bytes(SfsMount *mount, GHashTable *by_slot, uint32_t fd_slot, const SfsNodeRec *node)
{
    SfsBacking *backing = g_hash_table_lookup(by_slot, GUINT_TO_POINTER(fd_slot));
    int fd = sfs_link_inherited(mount->registry, fd_slot);

    if (backing != NULL || fd < 0)
        return backing;
    if (node == NULL || node->kind == SFS_KIND_PAGE)
        backing = sfs_backing_page_adopt(mount->store, fd_slot);
    else if (node->bounded)
        backing = sfs_backing_window_new(fd, (off_t)node->offset, (off_t)node->length);
    else
        backing = sfs_backing_file_new(fd);
    g_hash_table_insert(by_slot, GUINT_TO_POINTER(fd_slot), backing);
    return backing;
}

static void
adopt_nodes(SfsMount *mount, GHashTable *by_slot)
{
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        SfsBacking *backing;

        if (rec->fd_slot == SFS_NO_SLOT)
            continue;
        backing = adopt_bytes(mount, by_slot, rec->fd_slot, rec);
        sfs_node_swap_backing(mount->nodes, slot, sfs_backing_ref(backing));
    }
}

static SfsClass
class_of(uint64_t nodeid)
{
    return (SfsClass)(nodeid >> SFS_CLASS_SHIFT);
}

typedef struct {
    uint32_t slot, depth;
} ViewOrder;

/* A view can be over the view that all openers of another section share. */
static uint32_t
order_of(SfsMount *mount, const SfsViewRec *rec)
{
    uint32_t depth = class_of(rec->nodeid) == SFS_CLASS_OWN ? 0 : 1;

    for (uint32_t at = node_at(mount, rec->node)->base; at != SFS_NO_SLOT;
         at = node_at(mount, at)->base)
        depth += 2;
    return depth;
}

static gint
bases_first(gconstpointer a, gconstpointer b)
{
    uint32_t x = ((const ViewOrder *)a)->depth, y = ((const ViewOrder *)b)->depth;

    return x < y ? -1 : x > y;
}

/* What was promised to somebody has to be there as a whole: no section is shown without its bytes.
 */
static bool
give_up(SfsMount *mount, const char *what, uint64_t serial)
{
    SfsRegistryHeader *header = mount->header;

    g_snprintf(header->startup_error, sizeof header->startup_error,
               "%s section %" PRIu64 " cannot be found again", what, serial);
    return false;
}

static bool
is_there(SfsMount *mount, uint32_t fd_slot)
{
    return fd_slot == SFS_NO_SLOT || sfs_link_inherited(mount->registry, fd_slot) >= 0;
}

/* Whether the keeper has every descriptor that a record speaks of. */
static bool
all_there(SfsMount *mount)
{
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        if (!is_there(mount, rec->fd_slot))
            return give_up(mount, "the bytes of", rec->serial);
    }
    EACH_LIVE(mount, SFS_TABLE_HANDLES, SfsHandleRec, rec, slot)
    {
        const SfsViewRec *view = sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, rec->view);
        bool has_view = rec->view != SFS_NO_SLOT;
        uint64_t serial = node_at(mount, rec->node)->serial;

        if (!is_there(mount, rec->fd_slot) || (has_view && !is_there(mount, view->fd_slot)))
            return give_up(mount, "the bytes of an open file of", serial);
        if (!is_there(mount, rec->flock_slot) || (has_view && !is_there(mount, view->lock_slot)))
            return give_up(mount, "the locks of an open file of", serial);
    }
    EACH_LIVE(mount, SFS_TABLE_LOCKS, SfsLockRec, rec, slot)
    {
        const SfsHandleRec *handle =
            sfs_registry_get(mount->registry, SFS_TABLE_HANDLES, rec->handle);

        /* Of a handle that is gone nothing is locked any more. */
        if (is_live(handle) && !is_there(mount, rec->fd_slot))
            return give_up(mount, "the locks of", node_at(mount, handle->node)->serial);
    }
    return true;
}

/* Views go with their last handle; that of a view being made may not have come into being. */
static bool
adopt_views(SfsMount *mount, SfsBacking **by_view)
{
    uint32_t bound = sfs_registry_bound(mount->registry, SFS_TABLE_VIEWS);
    g_autofree uint32_t *opens = g_new0(uint32_t, bound);
    g_autoptr(GArray) order = g_array_new(FALSE, FALSE, sizeof(ViewOrder));

    EACH_LIVE(mount, SFS_TABLE_HANDLES, SfsHandleRec, handle, slot)
    {
        if (handle->view < bound)
            opens[handle->view]++;
    }
    EACH_LIVE(mount, SFS_TABLE_VIEWS, SfsViewRec, rec, slot)
    {
        ViewOrder one = {slot, order_of(mount, rec)};

        if (opens[slot] == 0) {
            if (rec->backing_id != 0)
                sfs_passthrough_unregister(mount->device, rec->backing_id);
            sfs_registry_release(mount->registry, SFS_TABLE_VIEWS, slot);
        } else
            g_array_append_val(order, one);
    }
    g_array_sort(order, bases_first);
    for (guint i = 0; i < order->len; i++) {
        uint32_t slot = g_array_index(order, ViewOrder, i).slot;
        const SfsViewRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, slot);
        SfsTarget target = {.class = class_of(rec->nodeid),
                            .slot = rec->node,
                            .nodeid = rec->nodeid,
                            .rec = node_at(mount, rec->node)};
        g_autoptr(SfsBacking) base = sfs_section_bytes(mount, &target);

        by_view[slot] = sfs_view_adopt(mount, slot, opens[slot], base);
        if (by_view[slot] == NULL)
            return give_up(mount, "the bytes of a view of", target.rec->serial);
    }
    return true;
}

static void
adopt_handles(SfsMount *mount, GHashTable *by_slot, SfsBacking **by_view)
{
    EACH_LIVE(mount, SFS_TABLE_HANDLES, SfsHandleRec, rec, slot)
    {
        SfsNodeRec *node = node_at(mount, rec->node);
        SfsBacking *backing = NULL;
        bool current = (rec->nodeid & SFS_SERIAL_MASK) == node->nodeid_serial;
        SfsHandle *handle;

        switch (class_of(rec->nodeid)) {
        case SFS_CLASS_NODE:
            /* Of bytes that the section has left behind nobody else knows. */
            backing = adopt_bytes(mount, by_slot, rec->fd_slot,
                                  rec->fd_slot == node->fd_slot ? node : NULL);
            if (current)
                node->opens++;
            else
                node->pins++;
            break;
        case SFS_CLASS_COW:
        case SFS_CLASS_OWN:
            backing = by_view[rec->view];
            node->views++;
            node->pins++;
            break;
        case SFS_CLASS_INFO:
            node->pins++;
            break;
        case SFS_CLASS_STATS:
            break;
        }
        handle = sfs_section_adopt(mount, slot, backing);
        /* One from before the section was redefined writes to its former bytes. */
        handle->native = handle->native && current;
        if (handle->native)
            node->native_writers++;
    }
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        if (rec->opens == 0)
            rec->io_mode = SFS_IO_UNDECIDED;
    }
}

/* --- what nothing leads to ------------------------------------------------------------------- */

/* Until here nothing may have been dropped: the keeper may not have heard of it yet, so it would
 * look inherited still, be dropped once more, and its slot be given to two. */
static void
sweep_descriptors(SfsMount *mount)
{
    uint32_t bound = sfs_registry_bound(mount->registry, SFS_TABLE_FDS);
    g_autofree uint8_t *used = g_malloc0(bound);

    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot) used[rec->fd_slot] = 1;
    EACH_LIVE(mount, SFS_TABLE_LOCKS, SfsLockRec, rec, slot) used[rec->fd_slot] = 1;
    EACH_LIVE(mount, SFS_TABLE_VIEWS, SfsViewRec, rec, slot)
    used[rec->fd_slot] = used[rec->lock_slot] = 1;
    EACH_LIVE(mount, SFS_TABLE_HANDLES, SfsHandleRec, rec, slot)
    used[rec->fd_slot] = used[rec->flock_slot] = 1;
    for (uint32_t slot = 1; slot < bound; slot++) {
        int fd = sfs_link_inherited(mount->registry, slot);

        if (fd < 0 || used[slot])
            continue;
        close(fd);
        sfs_link_drop(mount->link, mount->registry, slot);
    }
}

static void
sweep_backing_ids(SfsMount *mount)
{
    SfsRegistryHeader *header = mount->header;
    g_autoptr(GHashTable) used = g_hash_table_new(NULL, NULL);
    int32_t last = atomic_load(&header->last_backing_id);

    if (!header->passthrough)
        return;
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        if (rec->backing_id != 0)
            g_hash_table_add(used, GINT_TO_POINTER(rec->backing_id));
    }
    EACH_LIVE(mount, SFS_TABLE_VIEWS, SfsViewRec, rec, slot)
    {
        if (rec->backing_id != 0)
            g_hash_table_add(used, GINT_TO_POINTER(rec->backing_id));
    }
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        int32_t id = atomic_exchange(&header->withdrawing[i], 0);

        if (id != 0 && !g_hash_table_contains(used, GINT_TO_POINTER(id)))
            sfs_passthrough_unregister(mount->device, id);
    }
    for (int32_t id = MAX(last - IDS_IN_HAND, 1); id <= last + IDS_IN_HAND; id++) {
        if (!g_hash_table_contains(used, GINT_TO_POINTER(id)))
            sfs_passthrough_unregister(mount->device, id);
    }
}

/* Nodes that nobody holds; and those that perhaps nobody does. */
static void
settle_nodes(SfsResume *resume, SfsMount *mount)
{
    mount->doubt = sfs_doubt_new(mount, resume->under_way);
    sfs_lifetime_tell_again(mount);
    EACH_LIVE(mount, SFS_TABLE_NODES, SfsNodeRec, rec, slot)
    {
        if (slot == SFS_ROOT_SLOT)
            continue;
        if (rec->nlookup > 0)
            sfs_node_doubt(mount->nodes, slot);
        if (S_ISREG(rec->mode))
            sfs_lifetime_resume(mount, slot);
        if (rec->nlink > 0)
            continue;
        /* The request that made it comes again, so the kernel does not know it. With a handle it is
         * complete, and will be found by that; else it is made anew. */
        if (rec->opens == 0 && g_hash_table_contains(resume->numbers, &rec->made_by))
            atomic_store(&rec->nlookup, 0);
        if (rec->opens == 0 || !g_hash_table_contains(resume->numbers, &rec->made_by))
            sfs_node_unlinked(mount->nodes, slot);
    }
}

/* Nobody will ever hear of what they have opened. */
static void
release_refused(SfsResume *resume, SfsMount *mount)
{
    EACH_LIVE(mount, SFS_TABLE_HANDLES, SfsHandleRec, rec, slot)
    {
        if (g_hash_table_contains(resume->refused, &rec->made_by)) {
            sfs_lock_release(mount, sfs_section_handle_at(mount, slot));
            sfs_section_release(mount, sfs_section_handle_at(mount, slot));
        }
    }
}

#ifdef SFS_DEBUG
/* What the keeper has been told to drop, it may not have dropped yet; and nodes that nothing holds
 * are about to go. */
static void
check(SfsMount *mount)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);

    sfs_registry_check(mount->registry, problems);
    for (guint i = 0; i < problems->len; i++) {
        const char *problem = g_ptr_array_index(problems, i);

        if (!g_str_has_suffix(problem, "is nothing's") && !g_str_has_suffix(problem, "by nothing"))
            g_critical("in the registry: %s", problem);
    }
}
#endif

bool
sfs_resume_adopt(SfsResume *resume, SfsMount *mount)
{
    g_autoptr(GHashTable) by_slot = g_hash_table_new_full(NULL, NULL, NULL, unref_backing);
    g_autofree SfsBacking **by_view =
        g_new0(SfsBacking *, sfs_registry_bound(mount->registry, SFS_TABLE_VIEWS));

    if (!all_there(mount))
        return false;
    sfs_requests_prune(mount->requests, resume->numbers);
    if (!single_out(resume, mount))
        return false;
    count_names(mount);
    adopt_nodes(mount, by_slot);
    if (!adopt_views(mount, by_view))
        return false;
    adopt_handles(mount, by_slot, by_view);
    sfs_locks_adopt(mount);
    sfs_store_adopted(mount->store);
    sfs_views_finish_commits(mount);
    sweep_descriptors(mount);
    sfs_registry_sweep_text(mount->registry);
    sweep_backing_ids(mount);
#ifdef SFS_DEBUG
    check(mount);
#endif
    settle_nodes(resume, mount);
    release_refused(resume, mount);
    return true;
}
