/* SPDX-License-Identifier: MIT */
/* Copy-on-write views against a plain array of bytes. The keeper is a thread at the other end of
 * the link. */
#include "backing.h"

#include "keeper-link.h"
#include "map-file.h"
#include "page-map.h"
#include "util.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define PAGE ((size_t)SFS_PAGE_SIZE)
#define LEAF ((size_t)SFS_MAP_LEAF_PAGES * PAGE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* The greatest size; beyond it the copy of the map lies in the overlay. */
#define MAP_OFFSET SFS_COW_SIZE_MAX

typedef struct {
    SfsRegistry *registry;
    int ends[2];            /* of the link: the keeper's and ours */
    _Atomic uint32_t heard; /* how often the keeper was asked whether it is up to date */
    GThread *keeper;
    SfsStore *store;

    SfsBacking *base;
    uint8_t *base_bytes;
    size_t base_size;

    /* One view, and what it should hold. Bytes of the model beyond its size are zero. */
    SfsBacking *view;
    SfsViewRec *rec;
    size_t max; /* no operation reaches further */
    size_t model_size;
    uint8_t *model;
    const size_t *windows; /* where operations begin, beside anywhere if NULL; ends with SIZE_MAX */
    bool limited;          /* -ENOSPC may come */
    uint64_t refusals;
    int pipe[2];
} Rig;

/* --- reading through a pipe --------------------------------------------------------------------
 */

/* As much as is read so at a time. */
#define PIPE_BYTES (64 * PAGE)

/* As read, through a pipe where that can be. */
static ssize_t
read_by_pipe(SfsBacking *view, const int pipe[2], uint8_t *buf, size_t size, off_t offset)
{
    ssize_t n = view->ops->splice_read(view, pipe[1], size, offset);
    uint8_t unwanted[PAGE];

    if (n > 0)
        return read(pipe[0], buf, (size_t)n);
    while (read(pipe[0], unwanted, sizeof unwanted) > 0)
        ;
    return n == 0 ? 0 : view->ops->read(view, buf, size, offset);
}

static void
open_pipe(int ends[2])
{
    g_assert_cmpint(pipe2(ends, O_CLOEXEC | O_NONBLOCK), ==, 0);
    g_assert_cmpint(fcntl(ends[0], F_SETPIPE_SZ, 2 * PIPE_BYTES), >, 0);
}

static void
close_pipe(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

/* --- the keeper ------------------------------------------------------------------------------- */

static gpointer
keep(gpointer data)
{
    Rig *rig = data;
    SfsLinkMessage message;
    bool eof = false;
    int fd;

    while (!eof) {
        struct pollfd wait = {rig->ends[0], POLLIN, 0};

        poll(&wait, 1, -1);
        while (sfs_link_receive(rig->ends[0], &message, &fd, &eof) == 1) {
            SfsFdRec *rec = sfs_registry_get(rig->registry, SFS_TABLE_FDS, message.slot);
            int old;

            if (message.verb == SFS_LINK_READY) {
                atomic_fetch_add(&rig->heard, 1);
                continue;
            }
            old = atomic_exchange(&rec->keeper_fd, MAX(fd, 0));
            if (old > 0)
                close(old);
        }
    }
    return NULL;
}

/* The keeper's descriptor, that a later worker would inherit, once the keeper has heard all that
 * was told to it (the slot may have been another's); -1: none. */
static int
keepers_fd(Rig *rig, uint32_t slot)
{
    uint32_t heard = atomic_load(&rig->heard);
    SfsFdRec *rec;

    if (slot == SFS_NO_SLOT)
        return -1;
    g_assert_cmpint(sfs_link_ready(rig->ends[1]), ==, 0);
    while (atomic_load(&rig->heard) == heard)
        g_usleep(100);
    rec = sfs_registry_get(rig->registry, SFS_TABLE_FDS, slot);
    g_assert_nonnull(rec);
    g_assert_cmpint(atomic_load(&rec->keeper_fd), >, 0);
    return atomic_load(&rec->keeper_fd);
}

/* --- making and ending ------------------------------------------------------------------------ */

static uint8_t *
zero_bytes(size_t size)
{
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(bytes != MAP_FAILED);
    return bytes;
}

static void
fill(uint8_t *bytes, size_t size)
{
    uint32_t word = (uint32_t)g_test_rand_int();

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((word >> (i % 24)) + i / 7 + 1);
}

static void
write_base(Rig *rig, size_t offset, size_t size)
{
    fill(rig->base_bytes + offset, size);
    g_assert_cmpint(
        rig->base->ops->write(rig->base, rig->base_bytes + offset, size, (off_t)offset, 0), ==,
        (ssize_t)size);
}

static void
start(Rig *rig, uint64_t limit, size_t base_size, size_t max)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;
    uint32_t slot;

    rig->registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, rig->ends));
    rig->keeper = g_thread_new("keeper", keep, rig);
    open_pipe(rig->pipe);
    rig->store = sfs_store_new(rig->registry, rig->ends[1], -1, limit);
    g_assert_cmpint(sfs_backing_page_new(rig->store, &rig->base, &slot), ==, 0);
    rig->base_size = base_size;
    rig->base_bytes = zero_bytes(base_size + PAGE);
    g_assert_cmpint(rig->base->ops->truncate(rig->base, (off_t)base_size), ==, 0);
    rig->max = max;
}

static void
open_view(Rig *rig)
{
    uint32_t slot;

    rig->rec = sfs_registry_alloc(rig->registry, SFS_TABLE_VIEWS, &slot);
    rig->rec->size = rig->rec->base_limit = rig->base_size;
    rig->model_size = rig->base_size;
    rig->model = zero_bytes(rig->max + PAGE);
    for (size_t at = 0; at < rig->base_size; at += PAGE) {
        /* Where the base has nothing, the model needs nothing either. */
        off_t data = rig->base->ops->seek(rig->base, (off_t)at, SEEK_DATA);

        if (data < 0)
            break;
        at = (size_t)data / PAGE * PAGE;
        memcpy(rig->model + at, rig->base_bytes + at, MIN(PAGE, rig->base_size - at));
    }
    rig->view = sfs_backing_cow_new(rig->store, rig->base, rig->registry, slot);
    g_assert_cmpstr(rig->view->ops->kind, ==, "cow");
    g_assert_cmpuint(rig->view->ops->private_bytes(rig->view), ==, 0);
    g_assert_cmpuint(rig->rec->fd_slot, ==, SFS_NO_SLOT);
}

static void
close_view(Rig *rig)
{
    sfs_backing_unref(rig->view);
    munmap(rig->model, rig->max + PAGE);
    rig->view = NULL;
}

static void
check_base(Rig *rig)
{
    g_autofree uint8_t *found = g_malloc(LEAF / 128);
    struct stat st;

    g_assert_cmpint(rig->base->ops->stat(rig->base, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, (off_t)rig->base_size);
    for (size_t at = 0; at < rig->base_size; at += LEAF / 128) {
        size_t n = MIN(LEAF / 128, rig->base_size - at);

        g_assert_cmpint(rig->base->ops->read(rig->base, found, n, (off_t)at), ==, (ssize_t)n);
        g_assert_cmpint(memcmp(found, rig->base_bytes + at, n), ==, 0);
    }
}

static void
stop(Rig *rig)
{
    SfsStoreUsage usage;

    sfs_backing_unref(rig->base);
    close_pipe(rig->pipe);
    for (int i = 0; i < 5000; i++) {
        sfs_store_usage(rig->store, &usage);
        if (usage.used == 0)
            break;
        g_usleep(1000);
    }
    g_assert_cmpuint(usage.used, ==, 0);
    g_assert_cmpuint(usage.overlays, ==, 0);
    sfs_store_free(rig->store);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_FDS), ==, 0);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_VIEWS), ==, 0);
    close(rig->ends[1]);
    g_thread_join(rig->keeper);
    close(rig->ends[0]);
    sfs_registry_free(rig->registry);
    munmap(rig->base_bytes, rig->base_size + PAGE);
}

/* --- the model -------------------------------------------------------------------------------- */

static void
model_zero(Rig *rig, size_t from, size_t end)
{
    size_t first = (from + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;

    if (from >= end)
        return;
    if (first + 64 * PAGE >= last) {
        memset(rig->model + from, 0, end - from);
        return;
    }
    memset(rig->model + from, 0, first - from);
    memset(rig->model + last, 0, end - last);
    g_assert_no_errno(madvise(rig->model + first, last - first, MADV_DONTNEED));
}

static void
model_resize(Rig *rig, size_t size)
{
    if (size < rig->model_size)
        model_zero(rig, size, rig->model_size);
    rig->model_size = size;
}

static bool
all_zero(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* Where much is claimed to be a hole, it is looked at here and there. */
static void
check_zero(Rig *rig, size_t from, size_t end)
{
    const size_t much = 256 * PAGE;

    if (end - from <= much) {
        g_assert_true(all_zero(rig->model + from, end - from));
        return;
    }
    g_assert_true(all_zero(rig->model + from, much / 2));
    g_assert_true(all_zero(rig->model + end - much / 2, much / 2));
    for (const size_t *window = rig->windows; window != NULL && *window != SIZE_MAX; window++) {
        size_t a = MAX(from, *window), b = MIN(end, *window + much);

        if (a < b)
            g_assert_true(all_zero(rig->model + a, b - a));
    }
}

/* --- checking --------------------------------------------------------------------------------- */

static void
check_read(Rig *rig, size_t offset, size_t length)
{
    size_t expected = offset < rig->model_size ? MIN(length, rig->model_size - offset) : 0;
    g_autofree uint8_t *found = g_malloc(length + 1);

    found[expected] = 0xee;
    g_assert_cmpint(rig->view->ops->read(rig->view, found, length, (off_t)offset), ==,
                    (ssize_t)expected);
    g_assert_cmpint(memcmp(found, rig->model + offset, expected), ==, 0);
    g_assert_cmpint(found[expected], ==, 0xee);
    if (length <= PIPE_BYTES) {
        memset(found, 0xdd, expected);
        g_assert_cmpint(read_by_pipe(rig->view, rig->pipe, found, length, (off_t)offset), ==,
                        (ssize_t)expected);
        g_assert_cmpint(memcmp(found, rig->model + offset, expected), ==, 0);
        g_assert_cmpint(found[expected], ==, 0xee);
    }
}

static void
check_seek(Rig *rig, size_t offset)
{
    size_t size = rig->model_size;
    off_t data = rig->view->ops->seek(rig->view, (off_t)offset, SEEK_DATA);
    off_t hole = rig->view->ops->seek(rig->view, (off_t)offset, SEEK_HOLE);

    if (offset >= size) {
        g_assert_cmpint(data, ==, -ENXIO);
        g_assert_cmpint(hole, ==, -ENXIO);
        return;
    }
    if (data == -ENXIO) {
        g_assert_cmpint(hole, ==, (off_t)offset);
        check_zero(rig, offset, size);
        return;
    }
    g_assert_cmpint(data, >=, (off_t)offset);
    g_assert_cmpint(data, <, (off_t)size);
    check_zero(rig, offset, (size_t)data);
    g_assert_cmpint(rig->view->ops->seek(rig->view, data, SEEK_DATA), ==, data);
    g_assert_cmpint(hole, >=, (off_t)offset);
    g_assert_cmpint(hole, <=, (off_t)size);
    /* One of them is here, and not both. */
    g_assert_cmpint(data == (off_t)offset, !=, hole == (off_t)offset);
    if (hole < (off_t)size)
        g_assert_cmpint(rig->view->ops->seek(rig->view, hole, SEEK_HOLE), ==, hole);
}

static void
check_stat(Rig *rig)
{
    struct stat st;

    g_assert_cmpint(rig->view->ops->stat(rig->view, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, (off_t)rig->model_size);
    g_assert_cmpuint(rig->rec->size, ==, rig->model_size);
    g_assert_cmpuint(rig->rec->base_limit, <=, rig->model_size);
    g_assert_cmpint(st.st_blocks, >=, 0);
    g_assert_cmpuint((uint64_t)st.st_blocks * 512, <=, sfs_page_round_up(rig->model_size));
    g_assert_cmpuint(rig->view->ops->private_bytes(rig->view), <=,
                     sfs_page_round_up(rig->model_size));
}

static void
check_all(Rig *rig)
{
    const size_t step = 1024 * PAGE;

    check_stat(rig);
    for (size_t at = 0; at <= rig->model_size; at += step)
        check_read(rig, at, step);
}

/* The map as a later worker finds it in the overlay. */
static SfsPageMap *
kept_map(int overlay)
{
    SfsPageMap *map = sfs_page_map_new();
    SfsMapFile kept;

    if (overlay >= 0)
        sfs_map_file_load(&kept, overlay, map);
    return map;
}

/* What a later worker would make of the record, the overlay and its map: the same bytes. */
static void
check_kept(Rig *rig, size_t from, size_t end)
{
    int overlay = keepers_fd(rig, rig->rec->fd_slot);
    SfsPageMap *map = kept_map(overlay);
    uint64_t limit = rig->rec->base_limit;
    uint8_t page[PAGE];

    end = MIN(end, rig->model_size);
    for (size_t at = from / PAGE * PAGE; at < end; at += PAGE) {
        size_t n = MIN(PAGE, end - at);

        memset(page, 0, sizeof page);
        if (sfs_page_map_has(map, at / PAGE)) {
            g_assert_cmpint(pread(overlay, page, n, (off_t)at), >=, 0);
        } else if (at < limit) {
            size_t shown = MIN(n, limit - at);

            memcpy(page, rig->base_bytes + at, shown);
        }
        g_assert_cmpint(memcmp(page, rig->model + at, n), ==, 0);
    }
    sfs_page_map_free(map);
}

static void
check_kept_count(Rig *rig)
{
    SfsPageMap *map = kept_map(keepers_fd(rig, rig->rec->fd_slot));

    g_assert_cmpuint(sfs_page_map_count(map) * PAGE, ==, rig->view->ops->private_bytes(rig->view));
    sfs_page_map_free(map);
}

/* --- operations ------------------------------------------------------------------------------- */

static size_t
random_below(size_t n)
{
    return n == 0 ? 0 : (size_t)g_test_rand_int_range(0, (gint32)MIN(n, G_MAXINT32));
}

/* Often from, up to or across the borders of pages, sometimes of leaves or the end. */
static void
random_range(Rig *rig, size_t *offset, size_t *length)
{
    size_t n = 0;

    *length = 1 + random_below(g_test_rand_int_range(0, 4) == 0 ? 24 * PAGE : 3 * PAGE);
    *offset = random_below(rig->max);
    if (rig->windows != NULL) {
        while (rig->windows[n] != SIZE_MAX)
            n++;
        *offset = rig->windows[random_below(n)] + random_below(256 * PAGE);
    }
    switch (g_test_rand_int_range(0, 6)) {
    case 0:
        *offset -= *offset % PAGE;
        break;
    case 1:
        *offset -= *offset % PAGE;
        *length += PAGE - *length % PAGE;
        break;
    case 2: /* up to the end of a page */
        *length += PAGE - (*offset + *length) % PAGE;
        break;
    case 3: /* around the end of the file */
        *offset = rig->model_size - MIN(rig->model_size, random_below(2 * PAGE));
        break;
    default:
        break;
    }
    *offset = MIN(*offset, rig->max - 1);
    *length = MIN(*length, rig->max - *offset);
}

static void
do_write(Rig *rig, size_t offset, size_t length)
{
    g_autofree uint8_t *bytes = g_malloc(length);
    bool force = g_test_rand_int_range(0, 8) == 0;
    ssize_t n;

    fill(bytes, length);
    n = rig->view->ops->write(rig->view, bytes, length, (off_t)offset, force ? SFS_WRITE_BACK : 0);
    if (rig->limited && !force && n != (ssize_t)length) {
        rig->refusals++;
        if (n == -ENOSPC)
            return;
    } else {
        g_assert_cmpint(n, ==, (ssize_t)length);
    }
    g_assert_cmpint(n, >, 0);
    g_assert_cmpint(n, <=, (ssize_t)length);
    if (force)
        n = (ssize_t)(MIN(offset + length, MAX(rig->model_size, offset)) - offset);
    memcpy(rig->model + offset, bytes, (size_t)n);
    if (n > 0)
        rig->model_size = MAX(rig->model_size, offset + (size_t)n);
}

static void
do_truncate(Rig *rig, size_t size)
{
    g_assert_cmpint(rig->view->ops->truncate(rig->view, (off_t)size), ==, 0);
    model_resize(rig, size);
    if (size == 0)
        g_assert_cmpuint(rig->view->ops->private_bytes(rig->view), ==, 0);
}

/* Each byte of a range that could be zeroed only in part is the old one or zero. */
static void
take_over_zeros(Rig *rig, size_t from, size_t end)
{
    g_autofree uint8_t *found = g_malloc(end - from);

    g_assert_cmpint(rig->view->ops->read(rig->view, found, end - from, (off_t)from), ==,
                    (ssize_t)(end - from));
    for (size_t i = 0; i < end - from; i++) {
        g_assert_true(found[i] == 0 || found[i] == rig->model[from + i]);
        rig->model[from + i] = found[i];
    }
}

static void
do_zero(Rig *rig, int mode, size_t offset, size_t length)
{
    size_t end = MIN(offset + length, rig->model_size);
    size_t first = (offset + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
    int r = rig->view->ops->allocate(rig->view, mode, (off_t)offset, (off_t)length);

    if (rig->limited && r == -ENOSPC) {
        rig->refusals++;
        if (offset < end)
            take_over_zeros(rig, offset, end);
        return;
    }
    g_assert_cmpint(r, ==, 0);
    model_zero(rig, offset, end);
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        rig->model_size = MAX(rig->model_size, offset + length);
    /* Whole pages of zeros are holes. */
    if (first < last) {
        off_t data = rig->view->ops->seek(rig->view, (off_t)first, SEEK_DATA);

        g_assert_true(data == -ENXIO || data >= (off_t)last);
    }
}

static void
do_allocate(Rig *rig, int mode, size_t offset, size_t length)
{
    int r = rig->view->ops->allocate(rig->view, mode, (off_t)offset, (off_t)length);

    if (rig->limited && r == -ENOSPC) {
        rig->refusals++;
        return;
    }
    g_assert_cmpint(r, ==, 0);
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        rig->model_size = MAX(rig->model_size, offset + length);
}

static void
do_one(Rig *rig)
{
    size_t offset, length;

    random_range(rig, &offset, &length);
    switch (g_test_rand_int_range(0, 20)) {
    case 0:
        do_truncate(rig, random_below(3) == 0 ? offset - offset % PAGE : offset);
        break;
    case 1:
        /* Mostly back to a size at which there is something to do. */
        do_truncate(rig, rig->max - random_below(rig->max / 4));
        break;
    case 2:
    case 3:
    case 4:
        do_zero(rig, PUNCH, offset, length);
        break;
    case 5:
        do_zero(rig, FALLOC_FL_ZERO_RANGE, offset, length);
        break;
    case 6:
        do_zero(rig, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
        break;
    case 7:
        do_allocate(rig, 0, offset, length);
        break;
    case 8:
        do_allocate(rig, FALLOC_FL_KEEP_SIZE, offset, length);
        break;
    case 9:
    case 10:
    case 11:
        check_seek(rig, offset);
        break;
    case 12:
    case 13:
    case 14:
        check_read(rig, offset, length);
        break;
    default:
        do_write(rig, offset, length);
        break;
    }
    /* What the last operation did, and what lies beside it. */
    check_read(rig, offset - MIN(offset, random_below(2 * PAGE)), length + 2 * PAGE);
    check_stat(rig);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void
run(Rig *rig, int n)
{
    open_view(rig);
    for (int i = 0; i < n; i++) {
        do_one(rig);
        if (i % 300 == 0 && rig->windows == NULL) {
            check_all(rig);
            check_kept(rig, 0, rig->max);
            check_kept_count(rig);
        } else if (i % 300 == 0) {
            check_kept_count(rig);
            for (const size_t *window = rig->windows; *window != SIZE_MAX; window++)
                check_kept(rig, *window, *window + 256 * PAGE);
        }
    }
    check_all(rig);
    check_kept_count(rig);
    close_view(rig);
}

/* A base with data, holes and an end within a page. */
static void
test_model(void)
{
    for (int i = 0; i < 5; i++) {
        Rig rig = {0};

        start(&rig, 0, 30 * PAGE + random_below(60 * PAGE), 100 * PAGE);
        for (size_t page = 0; page + 4 < rig.base_size / PAGE; page += 1 + random_below(12))
            write_base(&rig, page * PAGE, (1 + random_below(4)) * PAGE);
        write_base(&rig, rig.base_size - 77, 77);
        run(&rig, 4000);
        check_base(&rig);
        stop(&rig);
    }
}

/* Without a single byte to begin with. */
static void
test_model_empty(void)
{
    Rig rig = {0};

    start(&rig, 0, 0, 40 * PAGE);
    run(&rig, 2000);
    check_base(&rig);
    stop(&rig);
}

/* Several leaves of the page map, and operations around their borders. */
static void
test_model_large(void)
{
    static const size_t windows[] = {0, LEAF - 128 * PAGE, 2 * LEAF - 128 * PAGE,
                                     2 * LEAF + 744 * PAGE, SIZE_MAX};
    Rig rig = {.windows = windows};

    start(&rig, 0, 2 * LEAF + 900 * PAGE + 5, 2 * LEAF + 1000 * PAGE);
    for (const size_t *window = windows; *window != SIZE_MAX; window++) {
        write_base(&rig, *window + 20 * PAGE, 70 * PAGE);
        write_base(&rig, *window + 120 * PAGE, 16 * PAGE);
    }
    open_view(&rig);
    for (int i = 0; i < 3000; i++) {
        do_one(&rig);
        /* Across everything. */
        if (i % 100 == 50)
            do_zero(&rig, PUNCH, random_below(200 * PAGE), LEAF + random_below(LEAF));
        if (i % 100 == 70)
            do_zero(&rig, PUNCH, LEAF - random_below(9 * PAGE), LEAF + random_below(9 * PAGE));
        if (i % 250 == 90) {
            do_truncate(&rig, random_below(LEAF + 100 * PAGE));
            do_truncate(&rig, rig.max - random_below(200 * PAGE));
        }
        if (i % 200 == 0) {
            check_kept_count(&rig);
            for (const size_t *window = windows; *window != SIZE_MAX; window++)
                check_kept(&rig, *window, *window + 256 * PAGE);
            check_seek(&rig, 0);
        }
    }
    check_all(&rig);
    close_view(&rig);
    check_base(&rig);
    stop(&rig);
}

/* With a store that is full much of the time. */
static void
test_model_limited(void)
{
    Rig rig = {.limited = true};

    start(&rig, 60 * PAGE, 60 * PAGE - 100, 70 * PAGE);
    for (size_t page = 0; page < 56; page += 7)
        write_base(&rig, page * PAGE, (1 + random_below(4)) * PAGE);
    write_base(&rig, rig.base_size - 300, 300);
    for (int i = 0; i < 4; i++)
        run(&rig, 1500);
    g_assert_cmpuint(rig.refusals, >, 0);
    check_base(&rig);
    stop(&rig);
}

/* Nothing is allocated before the first write, and a view of nothing is zeros. */
static void
test_untouched(void)
{
    Rig rig = {0};
    SfsStoreUsage before, after;
    SfsBacking *nothing;
    SfsViewRec *rec;
    uint32_t slot;
    uint8_t bytes[100];

    start(&rig, 0, 5 * PAGE, 10 * PAGE);
    write_base(&rig, PAGE, 4 * PAGE);
    sfs_store_usage(rig.store, &before);
    open_view(&rig);
    check_all(&rig);
    check_seek(&rig, 0);
    do_truncate(&rig, 7 * PAGE);
    do_truncate(&rig, 2 * PAGE + 5);
    do_truncate(&rig, 9 * PAGE);
    check_all(&rig);
    check_seek(&rig, 2 * PAGE);
    /* What was cut off is a hole, although the base has it: the rest of the page may count as data.
     */
    g_assert_cmpint(rig.view->ops->seek(rig.view, 2 * (off_t)PAGE, SEEK_HOLE), <=, 3 * PAGE);
    g_assert_cmpuint(rig.rec->fd_slot, ==, SFS_NO_SLOT);
    g_assert_cmpuint(rig.rec->base_limit, ==, 2 * PAGE + 5);
    sfs_store_usage(rig.store, &after);
    g_assert_cmpuint(after.used, ==, before.used);

    rec = sfs_registry_alloc(rig.registry, SFS_TABLE_VIEWS, &slot);
    rec->size = 10000;
    nothing = sfs_backing_cow_new(rig.store, NULL, rig.registry, slot);
    memset(bytes, 1, sizeof bytes);
    g_assert_cmpint(nothing->ops->read(nothing, bytes, 100, 9950), ==, 50);
    g_assert_true(all_zero(bytes, 50));
    g_assert_cmpint(nothing->ops->seek(nothing, 0, SEEK_DATA), ==, -ENXIO);
    g_assert_cmpint(nothing->ops->seek(nothing, 5, SEEK_HOLE), ==, 5);
    g_assert_cmpint(nothing->ops->write(nothing, "abc", 3, 5000, 0), ==, 3);
    g_assert_cmpint(nothing->ops->read(nothing, bytes, 100, 4990), ==, 100);
    g_assert_true(all_zero(bytes, 10));
    g_assert_cmpint(memcmp(bytes + 10, "abc", 3), ==, 0);
    g_assert_true(all_zero(bytes + 13, 87));
    g_assert_cmpint(nothing->ops->seek(nothing, 0, SEEK_DATA), ==, PAGE);
    g_assert_cmpuint(nothing->ops->private_bytes(nothing), ==, PAGE);
    sfs_backing_unref(nothing);
    close_view(&rig);
    stop(&rig);
}

static void
test_refused(void)
{
    Rig rig = {0};
    char byte = 'x';

    start(&rig, 0, 100, 2 * PAGE);
    open_view(&rig);
    g_assert_cmpint(rig.view->ops->write(rig.view, &byte, 1, MAP_OFFSET, 0), ==, -EFBIG);
    g_assert_cmpint(rig.view->ops->write(rig.view, "xy", 2, MAP_OFFSET - 1, 0), ==, -EFBIG);
    g_assert_cmpint(rig.view->ops->truncate(rig.view, MAP_OFFSET + 1), ==, -EFBIG);
    g_assert_cmpint(rig.view->ops->allocate(rig.view, 0, MAP_OFFSET, 1), ==, -EFBIG);
    g_assert_cmpint(rig.view->ops->allocate(rig.view, 0, 1, INT64_MAX), ==, -EFBIG);
    /* Making zeros to the end of all files, and beyond the end of this one, is nothing to refuse.
     */
    g_assert_cmpint(rig.view->ops->allocate(rig.view, PUNCH, INT64_MAX - 1, 1), ==, 0);
    g_assert_cmpint(rig.view->ops->allocate(rig.view, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), ==,
                    -EOPNOTSUPP);
    g_assert_cmpint(rig.view->ops->allocate(rig.view, FALLOC_FL_INSERT_RANGE, 0, 4096), ==,
                    -EOPNOTSUPP);
    g_assert_cmpint(rig.view->ops->seek(rig.view, -1, SEEK_DATA), ==, -ENXIO);
    g_assert_cmpint(rig.view->ops->write(rig.view, &byte, 0, 50, 0), ==, 0);
    g_assert_cmpint(rig.view->ops->read(rig.view, &byte, 0, 50), ==, 0);
    check_all(&rig);

    /* The last byte there can be. */
    g_assert_cmpint(rig.view->ops->write(rig.view, &byte, 1, MAP_OFFSET - 1, 0), ==, 1);
    g_assert_cmpuint(rig.rec->size, ==, MAP_OFFSET);
    byte = 0;
    g_assert_cmpint(rig.view->ops->read(rig.view, &byte, 1, MAP_OFFSET - 1), ==, 1);
    g_assert_cmpint(byte, ==, 'x');
    g_assert_cmpint(rig.view->ops->seek(rig.view, (off_t)PAGE, SEEK_DATA), ==,
                    MAP_OFFSET - (off_t)PAGE);
    g_assert_cmpint(rig.view->ops->truncate(rig.view, 100), ==, 0);
    g_assert_cmpuint(rig.view->ops->private_bytes(rig.view), ==, 0);
    check_all(&rig);
    close_view(&rig);
    stop(&rig);
}

/* What a pipe brings back, of pages from the first on: how many bytes are taken from it for that.
 */
static ssize_t
splice_back(Rig *rig, size_t first, size_t pages, char byte, ssize_t *taken)
{
    g_autofree char *bytes = g_malloc(pages * PAGE), *left = g_malloc(pages * PAGE);
    ssize_t n, rest;

    memset(bytes, byte, pages * PAGE);
    g_assert_cmpint(write(rig->pipe[1], bytes, pages * PAGE), ==, (ssize_t)(pages * PAGE));
    n = rig->view->ops->splice_write(rig->view, rig->pipe[0], pages * PAGE, (off_t)(first * PAGE),
                                     SFS_WRITE_BACK);
    rest = read(rig->pipe[0], left, pages * PAGE);
    *taken = (ssize_t)(pages * PAGE) - MAX(rest, 0);
    for (size_t i = 0; n > 0 && i < (size_t)n; i++)
        rig->model[first * PAGE + i] = (uint8_t)byte;
    return n;
}

/* What is written back comes late when the file was cut meanwhile. */
static void
test_write_back(void)
{
    static char bytes[4 * PAGE];
    Rig rig = {0};
    ssize_t taken;

    start(&rig, 0, 8 * PAGE, 8 * PAGE);
    open_view(&rig);
    memset(bytes, 'w', sizeof bytes);
    do_truncate(&rig, 0);
    g_assert_cmpint(rig.view->ops->write(rig.view, bytes, sizeof bytes, 0, SFS_WRITE_BACK), ==,
                    sizeof bytes);
    g_assert_cmpint(rig.view->ops->write(rig.view, bytes, 10, 5, SFS_WRITE_BACK), ==, 10);
    g_assert_cmpint(splice_back(&rig, 0, 2, 's', &taken), ==, 0);
    g_assert_cmpint(taken, ==, 0);
    g_assert_cmpuint(rig.rec->size, ==, 0);
    g_assert_cmpuint(rig.view->ops->private_bytes(rig.view), ==, 0);
    check_all(&rig);

    /* In the middle of a page, and in the middle of what comes. */
    do_truncate(&rig, 2 * PAGE + 7);
    check_all(&rig);
    g_assert_cmpint(rig.view->ops->write(rig.view, bytes, sizeof bytes, 10, SFS_WRITE_BACK), ==,
                    sizeof bytes);
    memset(rig.model + 10, 'w', 2 * PAGE + 7 - 10);
    check_all(&rig);
    g_assert_cmpint(splice_back(&rig, 0, 4, 's', &taken), ==, 2 * PAGE);
    g_assert_cmpint(taken, ==, 2 * PAGE);
    g_assert_cmpint(splice_back(&rig, 2, 2, 't', &taken), ==, 0);
    g_assert_cmpint(splice_back(&rig, 3, 2, 'u', &taken), ==, 0);
    g_assert_cmpint(splice_back(&rig, 1, 1, 'v', &taken), ==, PAGE);
    g_assert_cmpuint(rig.rec->size, ==, 2 * PAGE + 7);
    check_all(&rig);
    do_truncate(&rig, 5 * PAGE);
    check_all(&rig);
    close_view(&rig);
    stop(&rig);
}

/* The section is cut while it is viewed: what is gone reads as zeros, and what was written stays.
 */
static void
test_base_cut(void)
{
    Rig rig = {0};

    start(&rig, 0, 20 * PAGE, 30 * PAGE);
    write_base(&rig, 0, 20 * PAGE);
    open_view(&rig);
    do_write(&rig, 10 * PAGE + 5, 100);
    g_assert_cmpint(rig.base->ops->truncate(rig.base, 5 * (off_t)PAGE + 9), ==, 0);
    model_zero(&rig, 5 * PAGE + 9, 10 * PAGE);
    model_zero(&rig, 11 * PAGE, 20 * PAGE);
    check_all(&rig);
    check_seek(&rig, 5 * PAGE + 9);
    check_seek(&rig, 10 * PAGE);
    check_seek(&rig, 11 * PAGE);
    do_write(&rig, 15 * PAGE + 5, 100);
    do_zero(&rig, PUNCH, 4 * PAGE + 7, 8 * PAGE);
    check_all(&rig);
    close_view(&rig);
    rig.base_size = 5 * PAGE + 9;
    check_base(&rig);
    stop(&rig);
}

static void
test_times(void)
{
    Rig rig = {0};
    struct timespec both[2] = {{1000, 1}, {2000, 2}};
    struct stat st;

    start(&rig, 0, 100, 4 * PAGE);
    open_view(&rig);
    g_assert_cmpint(rig.view->ops->set_times(rig.view, both), ==, 0);
    rig.view->ops->stat(rig.view, &st);
    g_assert_cmpint(st.st_atim.tv_sec, ==, 1000);
    g_assert_cmpint(st.st_atim.tv_nsec, ==, 1);
    g_assert_cmpint(st.st_mtim.tv_sec, ==, 2000);
    g_assert_cmpint(st.st_mtim.tv_nsec, ==, 2);
    g_assert_cmpint(st.st_ctim.tv_sec, >, 1000000);
    both[0].tv_nsec = UTIME_OMIT;
    both[1].tv_nsec = UTIME_NOW;
    g_assert_cmpint(rig.view->ops->set_times(rig.view, both), ==, 0);
    rig.view->ops->stat(rig.view, &st);
    g_assert_cmpint(st.st_atim.tv_sec, ==, 1000);
    g_assert_cmpint(st.st_mtim.tv_sec, >, 1000000);
    both[1] = (struct timespec){3000, 0};
    g_assert_cmpint(rig.view->ops->set_times(rig.view, both), ==, 0);
    do_write(&rig, 50, 10);
    rig.view->ops->stat(rig.view, &st);
    g_assert_cmpint(st.st_mtim.tv_sec, >, 1000000);
    close_view(&rig);
    stop(&rig);
}

/* Room that was allocated is taken: writes there cannot fail for want of it. */
static void
test_allocated(void)
{
    Rig rig = {0};
    g_autofree uint8_t *bytes = g_malloc0(40 * PAGE);
    SfsStoreFile *other;
    ssize_t n;

    start(&rig, 60 * PAGE, 10 * PAGE, 30 * PAGE);
    write_base(&rig, 0, 10 * PAGE);
    open_view(&rig);
    do_allocate(&rig, 0, 0, 20 * PAGE);
    check_all(&rig);
    g_assert_cmpint(sfs_store_file_new(rig.store, SFS_STORE_SECTION, &other), ==, 0);
    n = sfs_store_file_write(other, bytes, 40 * PAGE, 0, false);
    g_assert_cmpint(n, ==, 30 * (ssize_t)PAGE);
    for (size_t page = 0; page < 20; page++)
        do_write(&rig, page * PAGE + (page % 2 == 0 ? 0 : 100), 1000);
    check_all(&rig);
    sfs_store_file_free(other);
    close_view(&rig);
    stop(&rig);
}

/* --- maps that cannot be kept ----------------------------------------------------------------- */

/* Data can be written, and nothing of the map. */
#define NO_MAP ((rlim_t)1 << 30)

/* Of a map that is a bitmap, what lies in the first leaf can be written. */
#define ONE_LEAF ((rlim_t)MAP_OFFSET + PAGE)

static void
limit_files(rlim_t most)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    g_assert_no_errno(getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = most;
    g_assert_no_errno(setrlimit(RLIMIT_FSIZE, &limit));
}

static ssize_t
splice_write(Rig *rig, const uint8_t *bytes, size_t size, size_t offset)
{
    uint8_t unwanted[PAGE];
    ssize_t n;

    g_assert_cmpint(write(rig->pipe[1], bytes, size), ==, (ssize_t)size);
    n = rig->view->ops->splice_write(rig->view, rig->pipe[0], size, (off_t)offset, 0);
    while (read(rig->pipe[0], unwanted, sizeof unwanted) > 0)
        ;
    return n;
}

/* What would make these pages private, none of which is, and the first of which shows the base's
 * data, is refused. Neither the view nor what a later worker would make of it has changed. */
static void
check_refused(Rig *rig, size_t offset, size_t length)
{
    const SfsBackingOps *ops = rig->view->ops;
    g_autofree uint8_t *bytes = g_malloc(length);
    uint64_t own = ops->private_bytes(rig->view);
    off_t last = (off_t)(offset + length - PAGE);
    SfsStoreUsage before, after;

    fill(bytes, length);
    /* As much memory as a map that came to nothing may take. */
    ops->write(rig->view, bytes, length, (off_t)offset, 0);
    sfs_store_usage(rig->store, &before);
    g_assert_cmpint(ops->write(rig->view, bytes, length, (off_t)offset, 0), ==, -EFBIG);
    g_assert_cmpint(ops->write(rig->view, bytes, 9, last + 7, 0), ==, -EFBIG);
    g_assert_cmpint(splice_write(rig, bytes, length, offset), ==, -EFBIG);
    g_assert_cmpint(ops->allocate(rig->view, PUNCH, (off_t)offset, (off_t)length), ==, -EFBIG);
    g_assert_cmpint(ops->allocate(rig->view, PUNCH, last + 7, 9), ==, -EFBIG);
    g_assert_cmpint(ops->write(rig->view, bytes, 9, (off_t)rig->model_size + (off_t)PAGE, 0), ==,
                    -EFBIG);
    sfs_store_usage(rig->store, &after);
    g_assert_cmpuint(after.overlays, ==, before.overlays);
    g_assert_cmpuint(ops->private_bytes(rig->view), ==, own);
    check_stat(rig);
    check_read(rig, offset - MIN(offset, PAGE), length + 2 * PAGE);
    check_kept(rig, offset - MIN(offset, 64 * PAGE), offset + length + 64 * PAGE);
    check_kept_count(rig);
}

/* What was stored to mappings already: whatever happens. */
static void
write_back(Rig *rig, size_t offset, size_t length)
{
    fill(rig->model + offset, length);
    g_assert_cmpint(rig->view->ops->write(rig->view, rig->model + offset, length, (off_t)offset,
                                          SFS_WRITE_BACK),
                    ==, (ssize_t)length);
    check_all(rig);
}

static void
do_reset(Rig *rig)
{
    g_assert_cmpint(rig->view->ops->reset(rig->view, (off_t)rig->base_size), ==, 0);
    model_resize(rig, 0);
    model_resize(rig, rig->base_size);
    memcpy(rig->model, rig->base_bytes, rig->base_size);
    g_assert_cmpuint(rig->view->ops->private_bytes(rig->view), ==, 0);
}

/* Kept as a list. */
static void
test_map_refused(void)
{
    Rig rig = {0};

    start(&rig, 0, 90 * PAGE, 100 * PAGE);
    write_base(&rig, 0, 90 * PAGE);
    open_view(&rig);

    /* The first one that there would be, and one more. */
    limit_files(NO_MAP);
    check_refused(&rig, 0, 3 * PAGE);
    check_refused(&rig, 60 * PAGE, PAGE);
    limit_files(RLIM_INFINITY);
    do_write(&rig, 20 * PAGE, 10 * PAGE);
    limit_files(NO_MAP);
    check_refused(&rig, 30 * PAGE, 2 * PAGE);
    check_refused(&rig, 50 * PAGE, 2 * PAGE);

    /* What is private already is not asked for again; within a write that is refused as a whole it
     * may be written. */
    do_write(&rig, 22 * PAGE, 3 * PAGE);
    do_zero(&rig, PUNCH, 25 * PAGE + 9, 2 * PAGE);
    g_assert_cmpint(rig.view->ops->write(rig.view, rig.base_bytes, 3 * PAGE, 18 * PAGE, 0), ==,
                    -EFBIG);
    memcpy(rig.model + 20 * PAGE, rig.base_bytes + 2 * PAGE, PAGE);
    check_all(&rig);
    check_kept(&rig, 0, rig.max);
    check_kept_count(&rig);

    /* What is cut stays so for a later worker as well. */
    do_truncate(&rig, 24 * PAGE + 5);
    check_kept(&rig, 0, rig.max);
    do_truncate(&rig, 80 * PAGE);
    check_kept(&rig, 0, rig.max);
    do_reset(&rig);
    check_all(&rig);
    check_kept(&rig, 0, rig.max);
    check_kept_count(&rig);

    /* A page that was stored to is there at once, and kept with the next one. */
    write_back(&rig, 70 * PAGE, 4 * PAGE);
    write_back(&rig, 75 * PAGE + 8, 50);
    g_assert_cmpint(rig.view->ops->write(rig.view, "x", 1, 0, 0), ==, -EFBIG);
    check_all(&rig);
    limit_files(RLIM_INFINITY);
    do_write(&rig, 2 * PAGE, 9);
    check_all(&rig);
    check_kept(&rig, 0, rig.max);
    check_kept_count(&rig);
    close_view(&rig);
    check_base(&rig);
    stop(&rig);
}

/* One that is too long for a list, or becomes so. */
static void
test_map_refused_bitmap(void)
{
    static const size_t windows[] = {0, LEAF - 128 * PAGE, SIZE_MAX};
    const size_t border = LEAF - 2 * PAGE;
    Rig rig = {.windows = windows};

    start(&rig, 0, LEAF + 100 * PAGE, LEAF + 200 * PAGE);
    write_base(&rig, 0, 1200 * PAGE);
    write_base(&rig, LEAF - 100 * PAGE, 200 * PAGE);
    open_view(&rig);
    for (size_t page = 0; page < 511; page++)
        do_write(&rig, 2 * page * PAGE, PAGE);

    /* It does not become one; and what an attempt has left does not count when it does. */
    limit_files(ONE_LEAF);
    check_refused(&rig, 1101 * PAGE, PAGE);
    check_refused(&rig, border, 4 * PAGE);
    limit_files(RLIM_INFINITY);
    do_truncate(&rig, 1010 * PAGE);
    do_truncate(&rig, rig.base_size);
    for (int round = 0; round < 2; round++) {
        for (size_t page = 0; page < 600; page++)
            do_write(&rig, (2 * page + 1) * PAGE, PAGE);
        check_kept(&rig, 0, 1300 * PAGE);
        check_kept_count(&rig);
        if (round == 0)
            do_reset(&rig);
    }

    /* In a part that is kept already, in one that is not, and across both. */
    limit_files(NO_MAP);
    check_refused(&rig, 0, PAGE);
    check_refused(&rig, LEAF + 9 * PAGE, 5 * PAGE);
    limit_files(ONE_LEAF);
    check_refused(&rig, border, 4 * PAGE);
    do_write(&rig, border, 2 * PAGE);
    check_refused(&rig, LEAF, 4 * PAGE);
    check_kept(&rig, border - 64 * PAGE, rig.max);

    write_back(&rig, LEAF + 8, 7 * PAGE);
    limit_files(RLIM_INFINITY);
    do_write(&rig, 2 * PAGE, 9);
    check_all(&rig);
    check_kept(&rig, 0, 1300 * PAGE);
    check_kept(&rig, border - 64 * PAGE, rig.max);
    check_kept_count(&rig);

    limit_files(NO_MAP);
    do_truncate(&rig, 3 * PAGE + 5);
    do_truncate(&rig, rig.base_size);
    check_kept(&rig, 0, 1300 * PAGE);
    do_reset(&rig);
    check_all(&rig);
    check_kept(&rig, 0, 1300 * PAGE);
    check_kept_count(&rig);
    limit_files(RLIM_INFINITY);
    close_view(&rig);
    check_base(&rig);
    stop(&rig);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define OLD 1
#define NEW 2
#define SHARED_PAGES 64
#define SHARED_BYTES (SHARED_PAGES * PAGE)

typedef struct {
    SfsBacking *view;
    uint32_t seed;
    size_t phase; /* of a writer: which stripes are its own */
    _Atomic bool *done;
    uint64_t reads;
} Racer;

/* A byte is the old or the new one, never anything else, and never again the old one. */
static gpointer
read_on(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    g_autofree uint8_t *seen = g_malloc(SHARED_BYTES);
    g_autofree uint8_t *now = g_malloc(SHARED_BYTES);
    bool last = false;
    int pipe[2];

    open_pipe(pipe);
    memset(seen, OLD, SHARED_BYTES);
    while (!last) {
        size_t offset = (size_t)g_rand_int_range(rand, 0, (gint32)SHARED_BYTES);
        size_t length = (size_t)g_rand_int_range(rand, 1, 6 * (gint32)PAGE);
        bool wrong = false;
        ssize_t n;

        last = atomic_load(racer->done);
        length = MIN(length, SHARED_BYTES - offset);
        if (g_rand_boolean(rand))
            n = racer->view->ops->read(racer->view, now, length, (off_t)offset);
        else
            n = read_by_pipe(racer->view, pipe, now, length, (off_t)offset);
        g_assert_cmpint(n, ==, (ssize_t)length);
        for (size_t i = 0; i < length; i++) {
            wrong = wrong || (now[i] != OLD && now[i] != NEW) || now[i] < seen[offset + i];
            seen[offset + i] = now[i];
        }
        g_assert_false(wrong);
        /* The lock is not fair: the writer is to have its turn as well. */
        if (racer->reads++ % 4 == 0)
            g_usleep(20);
    }
    close_pipe(pipe);
    return NULL;
}

#define STRIPE 64

/* Writes its stripes, in random order, by which every page is completed from the base by one of the
 * writers and must keep what the others wrote. */
static gpointer
write_stripes(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    const guint n = SHARED_BYTES / STRIPE / 2;
    g_autofree guint *order = g_new(guint, n);
    uint8_t bytes[STRIPE];

    memset(bytes, NEW, sizeof bytes);
    for (guint i = 0; i < n; i++) {
        guint j = (guint)g_rand_int_range(rand, 0, (gint32)i + 1);

        order[i] = order[j];
        order[j] = i;
    }
    for (guint i = 0; i < n; i++) {
        off_t at = (off_t)((2 * order[i] + racer->phase) * STRIPE);

        g_assert_cmpint(racer->view->ops->write(racer->view, bytes, STRIPE, at, 0), ==, STRIPE);
    }
    return NULL;
}

static void
race(Rig *rig, GThreadFunc write, size_t n_writers, size_t n_readers)
{
    _Atomic bool done = false;
    Racer racers[4];
    GThread *threads[4];

    for (size_t i = 0; i < n_writers + n_readers; i++) {
        racers[i] = (Racer){
            .view = rig->view, .seed = (uint32_t)g_test_rand_int(), .phase = i, .done = &done};
        threads[i] = g_thread_new("race", i < n_writers ? write : read_on, &racers[i]);
    }
    for (size_t i = 0; i < n_writers + n_readers; i++) {
        if (i == n_writers)
            atomic_store(&done, true);
        g_thread_join(threads[i]);
    }
}

static void
start_race(Rig *rig)
{
    start(rig, 0, SHARED_BYTES, SHARED_BYTES);
    memset(rig->base_bytes, OLD, SHARED_BYTES);
    g_assert_cmpint(rig->base->ops->write(rig->base, rig->base_bytes, SHARED_BYTES, 0, 0), ==,
                    (ssize_t)SHARED_BYTES);
    open_view(rig);
}

static void
stop_race(Rig *rig)
{
    memset(rig->model, NEW, SHARED_BYTES);
    check_all(rig);
    check_kept(rig, 0, rig->max);
    check_kept_count(rig);
    close_view(rig);
    check_base(rig);
    stop(rig);
}

static void
test_writers(void)
{
    for (int i = 0; i < 10; i++) {
        Rig rig = {0};

        start_race(&rig);
        race(&rig, write_stripes, 2, 2);
        stop_race(&rig);
    }
}

/* One that writes ranges of any kind, in the end everything. */
static gpointer
write_ranges(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    g_autofree uint8_t *bytes = g_malloc(SHARED_BYTES);

    memset(bytes, NEW, SHARED_BYTES);
    for (int i = 0; i < 300; i++) {
        size_t offset = (size_t)g_rand_int_range(rand, 0, (gint32)SHARED_BYTES);
        size_t length = (size_t)g_rand_int_range(rand, 1, 3 * (gint32)PAGE);

        length = MIN(length, SHARED_BYTES - offset);
        g_assert_cmpint(racer->view->ops->write(racer->view, bytes, length, (off_t)offset, 0), ==,
                        (ssize_t)length);
        g_thread_yield();
    }
    g_assert_cmpint(racer->view->ops->write(racer->view, bytes, SHARED_BYTES, 0, 0), ==,
                    (ssize_t)SHARED_BYTES);
    return NULL;
}

static void
test_readers(void)
{
    for (int i = 0; i < 4; i++) {
        Rig rig = {0};

        start_race(&rig);
        race(&rig, write_ranges, 1, 2);
        stop_race(&rig);
    }
}

static gpointer
write_here_and_there(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    const uint8_t byte = NEW;

    while (!atomic_load(racer->done)) {
        off_t at = g_rand_int_range(rand, 0, (gint32)SHARED_BYTES);

        g_assert_cmpint(racer->view->ops->write(racer->view, &byte, 1, at, 0), ==, 1);
    }
    return NULL;
}

/* What is cut off does not come back by a write that began to complete its page before. */
static void
test_cut(void)
{
    Rig rig = {0};
    g_autofree uint8_t *found = g_malloc(SHARED_BYTES);

    start_race(&rig);
    close_view(&rig);
    for (int i = 0; i < 100; i++) {
        _Atomic bool done = false;
        Racer racer = {.seed = (uint32_t)g_test_rand_int(), .done = &done};
        GThread *thread;
        bool old = false;

        open_view(&rig);
        racer.view = rig.view;
        thread = g_thread_new("write", write_here_and_there, &racer);
        g_usleep((gulong)g_test_rand_int_range(0, 200));
        g_assert_cmpint(rig.view->ops->truncate(rig.view, 0), ==, 0);
        g_assert_cmpint(rig.view->ops->truncate(rig.view, (off_t)SHARED_BYTES), ==, 0);
        atomic_store(&done, true);
        g_thread_join(thread);
        g_assert_cmpint(rig.view->ops->read(rig.view, found, SHARED_BYTES, 0), ==,
                        (ssize_t)SHARED_BYTES);
        for (size_t j = 0; j < SHARED_BYTES; j++)
            old = old || found[j] == OLD;
        g_assert_false(old);
        close_view(&rig);
    }
    check_base(&rig);
    stop(&rig);
}

/* Two views of one base know nothing of each other. */
static gpointer
read_either(gpointer data)
{
    Racer *racer = data;
    g_autofree uint8_t *now = g_malloc(SHARED_BYTES);
    int pipe[2];

    open_pipe(pipe);
    while (!atomic_load(racer->done)) {
        racer->reads++;
        g_assert_cmpint(read_by_pipe(racer->view, pipe, now, SHARED_BYTES, 0), ==, SHARED_BYTES);
        for (size_t i = 0; i < SHARED_BYTES; i += PAGE)
            g_assert_true(now[i] == OLD || now[i] == NEW);
    }
    close_pipe(pipe);
    return NULL;
}

/* What was private and is given back while it is read shows as it was, or as the base has it. */
static void
test_given_back(void)
{
    g_autofree uint8_t *bytes = g_malloc(SHARED_BYTES);
    _Atomic bool done = false;
    Racer racers[2];
    GThread *threads[2];
    Rig rig = {0};

    memset(bytes, NEW, SHARED_BYTES);
    start_race(&rig);
    for (size_t i = 0; i < G_N_ELEMENTS(racers); i++) {
        racers[i] = (Racer){.view = rig.view, .done = &done};
        threads[i] = g_thread_new("read", read_either, &racers[i]);
    }
    for (int i = 0; i < 3000; i++) {
        g_assert_cmpint(rig.view->ops->write(rig.view, bytes, SHARED_BYTES, 0, 0), ==,
                        SHARED_BYTES);
        g_assert_cmpint(rig.view->ops->reset(rig.view, (off_t)SHARED_BYTES), ==, 0);
    }
    atomic_store(&done, true);
    for (size_t i = 0; i < G_N_ELEMENTS(racers); i++) {
        g_thread_join(threads[i]);
        g_assert_cmpuint(racers[i].reads, >, 0);
    }
    close_view(&rig);
    check_base(&rig);
    stop(&rig);
}

static void
test_two_views(void)
{
    Rig a = {0}, b;

    start(&a, 0, 20 * PAGE, 40 * PAGE);
    write_base(&a, 3 * PAGE, 9 * PAGE);
    open_view(&a);
    b = a;
    open_view(&b);
    for (int i = 0; i < 500; i++) {
        do_one(&a);
        do_one(&b);
    }
    check_all(&a);
    close_view(&a);
    check_all(&b);
    close_view(&b);
    check_base(&a);
    stop(&a);
}

/* What a view is cut to when it is next written into its base; of one test. */
static SfsBacking *cut_soon;
static ssize_t (*write_to_base)(SfsBacking *, const void *, size_t, off_t, unsigned);

static ssize_t
cut_and_write(SfsBacking *base, const void *buf, size_t size, off_t offset, unsigned how)
{
    SfsBacking *view = g_steal_pointer(&cut_soon);

    if (view != NULL)
        g_assert_cmpint(view->ops->truncate(view, 4 * PAGE), ==, 0);
    return write_to_base(base, buf, size, offset, how);
}

static void
test_cut_while_committed(void)
{
    Rig rig = {0};
    SfsBackingOps ops;
    struct stat st;

    start(&rig, 0, 10 * PAGE, 20 * PAGE);
    write_base(&rig, 0, 10 * PAGE);
    open_view(&rig);
    do_write(&rig, 2 * PAGE, PAGE);
    do_write(&rig, 5 * PAGE, 2 * PAGE);
    ops = *rig.base->ops;
    write_to_base = ops.write;
    ops.write = cut_and_write;
    rig.base->ops = &ops;
    cut_soon = rig.view;

    g_assert_cmpint(rig.view->ops->commit(rig.view, 10 * PAGE), ==, -EAGAIN);
    model_resize(&rig, 4 * PAGE);
    check_all(&rig);
    g_assert_cmpuint(rig.view->ops->private_bytes(rig.view), ==, PAGE);
    g_assert_cmpint(rig.view->ops->commit(rig.view, 4 * PAGE), ==, 0);
    check_all(&rig);
    g_assert_cmpuint(rig.view->ops->private_bytes(rig.view), ==, 0);
    g_assert_cmpint(rig.base->ops->stat(rig.base, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 4 * PAGE);
    close_view(&rig);
    stop(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cow/untouched", test_untouched);
    g_test_add_func("/cow/refused", test_refused);
    g_test_add_func("/cow/write-back", test_write_back);
    g_test_add_func("/cow/times", test_times);
    g_test_add_func("/cow/base-cut", test_base_cut);
    g_test_add_func("/cow/two-views", test_two_views);
    g_test_add_func("/cow/model/small", test_model);
    g_test_add_func("/cow/model/empty", test_model_empty);
    g_test_add_func("/cow/model/large", test_model_large);
    g_test_add_func("/cow/model/limited", test_model_limited);
    g_test_add_func("/cow/map-refused/list", test_map_refused);
    g_test_add_func("/cow/map-refused/bitmap", test_map_refused_bitmap);
    g_test_add_func("/cow/threads/readers", test_readers);
    g_test_add_func("/cow/threads/writers", test_writers);
    g_test_add_func("/cow/threads/cut", test_cut);
    g_test_add_func("/cow/threads/given-back", test_given_back);
    g_test_add_func("/cow/allocated", test_allocated);
    g_test_add_func("/cow/cut-while-committed", test_cut_while_committed);
    return g_test_run();
}
