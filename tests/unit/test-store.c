/* SPDX-License-Identifier: MIT */
/* The store and its limit: counted memfds, and as root the private tmpfs beside them. */
#include "store-rig.h"

/* --- counted memfds: a limit of 16 pages -------------------------------------------------------
 */

static void
test_exact(Rig *rig, gconstpointer data)
{
    SfsStoreFile *section = new_file(rig, SFS_STORE_SECTION);
    SfsStoreFile *overlay = new_file(rig, SFS_STORE_OVERLAY);

    g_assert_cmpstr(sfs_store_engine(rig->store), ==, "memfd");
    g_assert_cmpuint(usage(rig).limit, ==, 16 * PAGE);
    assert_used(rig, 0);
    for (int i = 0; i < 8; i++) {
        g_assert_cmpint(write_pages(section, 3 * i, 1, false), ==, PAGE);
        g_assert_cmpint(write_pages(overlay, 5 * i, 1, false), ==, PAGE);
        assert_used(rig, 2 * i + 2);
        g_assert_cmpuint(usage(rig).overlays, ==, (i + 1) * PAGE);
    }
    g_assert_cmpint(sfs_store_file_write(section, "x", 1, PAGE, false), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_write(overlay, "x", 1, (off_t)1 << 40, false), ==, -ENOSPC);
    g_assert_cmpint(write_pages(section, 100, 1, false), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_allocate(section, 0, 100 * PAGE, 1), ==, -ENOSPC);
    assert_used(rig, 16);
    /* A refusal leaves nothing behind. */
    g_assert_cmpuint(held(section), ==, 8 * PAGE);
    g_assert_cmpuint(held(overlay), ==, 8 * PAGE);
    sfs_store_file_free(section);
    wait_for_used(rig, 8 * PAGE);
    g_assert_cmpint(write_pages(overlay, 100, 8, false), ==, 8 * PAGE);
    g_assert_cmpint(write_pages(overlay, 200, 1, false), ==, -ENOSPC);
    sfs_store_file_free(overlay);
    wait_for_used(rig, 0);
    g_assert_cmpuint(usage(rig).overlays, ==, 0);
}

static void
test_short(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);
    g_autofree char *bytes = pattern(20 * SFS_PAGE_SIZE);
    g_autofree char *found = g_malloc(20 * SFS_PAGE_SIZE);

    g_assert_cmpint(sfs_store_file_write(file, bytes, 20 * SFS_PAGE_SIZE, 100, false), ==,
                    16 * PAGE - 100);
    assert_used(rig, 16);
    g_assert_cmpint(pread(sfs_store_file_fd(file), found, 20 * SFS_PAGE_SIZE, 100), ==,
                    16 * PAGE - 100);
    g_assert_cmpint(memcmp(found, bytes, 16 * SFS_PAGE_SIZE - 100), ==, 0);
    g_assert_cmpint(sfs_store_file_write(file, bytes, 10, 16 * PAGE, false), ==, -ENOSPC);

    g_assert_cmpint(sfs_store_file_truncate(file, 3), ==, 0);
    assert_used(rig, 1);
    g_assert_cmpint(sfs_store_file_write(file, bytes, 16 * SFS_PAGE_SIZE, PAGE, false), ==,
                    15 * PAGE);
    assert_used(rig, 16);
    sfs_store_file_free(file);
}

/* Short as pwrite(2) is, also where the part that fits is there already. */
static void
test_short_over_data(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(file, 0, 14, false), ==, 14 * PAGE);
    g_assert_cmpint(write_pages(file, 12, 8, false), ==, 4 * PAGE); /* two old, two new */
    assert_used(rig, 16);
    g_assert_cmpint(write_pages(file, 14, 8, false), ==, 2 * PAGE); /* two old */
    assert_used(rig, 16);
    g_assert_cmpint(write_pages(file, 16, 1, false), ==, -ENOSPC);
    sfs_store_file_free(file);
}

/* What is there costs nothing, also when the store is full. */
static void
test_overwrite(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(file, 2, 16, false), ==, 16 * PAGE);
    for (off_t i = 0; i < 16; i++) {
        g_assert_cmpint(write_pages(file, i + 2, (size_t)(16 - i), false), ==, (16 - i) * PAGE);
        g_assert_cmpint(sfs_store_file_write(file, "xyz", 3, (i + 2) * PAGE + 77, false), ==, 3);
        assert_used(rig, 16);
    }
    /* Across a hole's border, and with a hole between. */
    g_assert_cmpint(sfs_store_file_allocate(file, PUNCH, 8 * PAGE, 2 * PAGE), ==, 0);
    assert_used(rig, 14);
    g_assert_cmpint(write_pages(file, 4, 10, false), ==, 10 * PAGE);
    assert_used(rig, 16);
    sfs_store_file_free(file);
}

static void
test_force(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_OVERLAY);
    SfsStoreFile *other = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(file, 0, 10, true), ==, 10 * PAGE);
    g_assert_cmpint(write_pages(file, 10, 10, true), ==, 10 * PAGE);
    assert_used(rig, 20);
    g_assert_cmpuint(usage(rig).overlays, ==, 20 * PAGE);
    g_assert_cmpint(write_pages(file, 5, 20, true), ==, 20 * PAGE);
    assert_used(rig, 25);
    g_assert_cmpint(sfs_store_file_write(file, "x", 1, (off_t)1 << 62, true), ==, 1);
    assert_used(rig, 26);
    /* Nothing new for others until it is below the limit again. */
    g_assert_cmpint(write_pages(other, 0, 1, false), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_truncate(file, 16 * PAGE), ==, 0);
    assert_used(rig, 16);
    g_assert_cmpint(write_pages(other, 0, 1, false), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_truncate(file, 15 * PAGE), ==, 0);
    g_assert_cmpint(write_pages(other, 0, 1, false), ==, PAGE);
    sfs_store_file_free(file);
    sfs_store_file_free(other);
}

/* What is written back to a section's file stays below its end: it was cut meanwhile. */
static void
test_write_back(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);
    struct stat st;

    g_assert_cmpint(write_pages(file, 0, 4, true), ==, 4 * PAGE);
    assert_used(rig, 0);
    g_assert_cmpint(sfs_store_file_truncate(file, 2 * PAGE + 9), ==, 0);
    g_assert_cmpint(write_pages(file, 3, 4, true), ==, 4 * PAGE);
    assert_used(rig, 0);
    g_assert_cmpint(write_pages(file, 1, 4, true), ==, 4 * PAGE);
    assert_used(rig, 2);
    g_assert_cmpint(sfs_store_file_write(file, "xyz", 3, 2 * PAGE + 8, true), ==, 3);
    g_assert_cmpint(fstat(sfs_store_file_fd(file), &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 2 * PAGE + 9);
    sfs_store_file_free(file);
}

/* Nor does the rest of the last page. */
static void
test_append_in_page(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);
    SfsStoreFile *other = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(sfs_store_file_write(file, "x", 1, 0, false), ==, 1);
    g_assert_cmpint(write_pages(other, 0, 15, false), ==, 15 * PAGE);
    assert_used(rig, 16);
    for (off_t at = 1; at < PAGE; at += 455)
        g_assert_cmpint(sfs_store_file_write(file, "xy", 2, at, false), ==, 2);
    g_assert_cmpint(sfs_store_file_write(file, "xyz", 3, PAGE - 2, false), ==, 2);
    assert_used(rig, 16);
    sfs_store_file_free(file);
    sfs_store_file_free(other);
}

/* What is there may be changed, also by others, while the store holds more than its limit. */
static void
test_overwrite_above_limit(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_OVERLAY);
    SfsStoreFile *other = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(other, 0, 4, false), ==, 4 * PAGE);
    g_assert_cmpint(write_pages(file, 0, 20, true), ==, 20 * PAGE);
    g_assert_cmpint(write_pages(other, 0, 4, false), ==, 4 * PAGE);
    g_assert_cmpint(write_pages(file, 0, 20, false), ==, 20 * PAGE);
    assert_used(rig, 24);
    sfs_store_file_free(file);
    sfs_store_file_free(other);
}

static void
test_give_back(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(file, 0, 16, false), ==, 16 * PAGE);
    g_assert_cmpint(sfs_store_file_truncate(file, 15 * PAGE + 1), ==, 0);
    assert_used(rig, 16);
    g_assert_cmpint(sfs_store_file_truncate(file, 15 * PAGE), ==, 0);
    assert_used(rig, 15);
    g_assert_cmpint(sfs_store_file_truncate(file, 100 * PAGE), ==, 0); /* grows without bytes */
    assert_used(rig, 15);
    g_assert_cmpint(sfs_store_file_allocate(file, PUNCH, 1, 3 * PAGE), ==, 0);
    assert_used(rig, 13); /* pages that are punched in part stay */
    g_assert_cmpint(sfs_store_file_allocate(file, PUNCH, 0, 100 * PAGE), ==, 0);
    assert_used(rig, 0);
    g_assert_cmpint(sfs_store_file_allocate(file, 0, 10 * PAGE, 16 * PAGE), ==, 0);
    assert_used(rig, 16);
    g_assert_cmpint(sfs_store_file_allocate(file, PUNCH, 10 * PAGE, PAGE), ==, 0);
    assert_used(rig, 15);
    g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
    assert_used(rig, 0);
    g_assert_cmpint(sfs_store_file_allocate(file, FALLOC_FL_KEEP_SIZE, PAGE + 1, PAGE), ==, 0);
    assert_used(rig, 2);
    g_assert_cmpuint(held(file), ==, 2 * PAGE);
    sfs_store_file_free(file);
    wait_for_used(rig, 0);
}

static void
test_errors(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(write_pages(file, 0, 2, false), ==, 2 * PAGE);
    g_assert_cmpint(sfs_store_file_truncate(file, -1), ==, -EINVAL);
    g_assert_cmpint(sfs_store_file_allocate(file, FALLOC_FL_ZERO_RANGE, 0, PAGE), ==, -EOPNOTSUPP);
    g_assert_cmpint(sfs_store_file_allocate(file, 0, 17 * PAGE, 15 * PAGE), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_allocate(file, 0, 0, (off_t)1 << 62), ==, -ENOSPC);
    assert_used(rig, 2);
    g_assert_cmpint(sfs_store_file_write(file, "", 0, 0, false), ==, 0);
    assert_used(rig, 2);
    sfs_store_file_free(file);
}

/* Room that was allocated is taken already: writes there cannot fail for want of it. */
static void
test_allocated(Rig *rig, gconstpointer data)
{
    SfsStoreFile *file = new_file(rig, SFS_STORE_SECTION);

    g_assert_cmpint(sfs_store_file_allocate(file, 0, 0, 16 * PAGE), ==, 0);
    assert_used(rig, 16);
    g_assert_cmpint(write_pages(file, 3, 1, false), ==, PAGE);
    g_assert_cmpint(write_pages(file, 0, 16, false), ==, 16 * PAGE);
    assert_used(rig, 16);
    g_assert_cmpint(sfs_store_file_truncate(file, 0), ==, 0);
    g_assert_cmpint(sfs_store_file_allocate(file, 0, 0, 10 * PAGE), ==, 0);
    g_assert_cmpint(sfs_store_file_allocate(file, 0, 0, 16 * PAGE), ==, 0);
    assert_used(rig, 16);
    sfs_store_file_free(file);
}

/* --- counted memfds against a model ------------------------------------------------------------
 */

#define N_FILES 4
#define MODEL_PAGES 40
#define MODEL_BYTES (MODEL_PAGES * SFS_PAGE_SIZE)

typedef struct {
    SfsStoreFile *file;
    bool is_section; /* what is written back to it does not make it longer */
    size_t size;
    bool present[MODEL_PAGES];
    uint8_t bytes[MODEL_BYTES];
} ModelFile;

static uint64_t
present_pages(const ModelFile *model, size_t from, size_t end)
{
    uint64_t n = 0;

    for (size_t page = from; page < end; page++)
        n += model->present[page];
    return n;
}

static void
model_write(Rig *rig, ModelFile *model, size_t offset, size_t length, bool force)
{
    g_autofree uint8_t *bytes = g_malloc(length);
    size_t first = offset / SFS_PAGE_SIZE;
    size_t end = (offset + length + SFS_PAGE_SIZE - 1) / SFS_PAGE_SIZE;
    uint64_t before = usage(rig).used;
    uint64_t missing = (end - first - present_pages(model, first, end)) * SFS_PAGE_SIZE;
    ssize_t n;

    memset(bytes, g_test_rand_int_range(1, 256), length);
    n = sfs_store_file_write(model->file, bytes, length, (off_t)offset, force);
    if (force || missing == 0 || before + missing <= rig->limit) {
        g_assert_cmpint(n, ==, (ssize_t)length);
    } else {
        g_assert_cmpint(n, !=, 0);
        g_assert_cmpint(n, >=, -ENOSPC);
        g_assert_cmpint(n, <, (ssize_t)length);
        if (n < 0)
            g_assert_cmpint(n, ==, -ENOSPC);
    }
    if (force && model->is_section)
        n = (ssize_t)MIN(length, model->size - MIN(offset, model->size));
    if (n <= 0)
        return;
    memcpy(model->bytes + offset, bytes, (size_t)n);
    model->size = MAX(model->size, offset + (size_t)n);
    for (size_t page = first; page * SFS_PAGE_SIZE < offset + (size_t)n; page++)
        model->present[page] = true;
}

static void
model_truncate(ModelFile *model, size_t size)
{
    g_assert_cmpint(sfs_store_file_truncate(model->file, (off_t)size), ==, 0);
    if (size <= model->size) {
        memset(model->bytes + size, 0, MODEL_BYTES - size);
        for (size_t page = (size + SFS_PAGE_SIZE - 1) / SFS_PAGE_SIZE; page < MODEL_PAGES; page++)
            model->present[page] = false;
    }
    model->size = size;
}

static void
model_punch(ModelFile *model, size_t offset, size_t length)
{
    g_assert_cmpint(sfs_store_file_allocate(model->file, PUNCH, (off_t)offset, (off_t)length), ==,
                    0);
    memset(model->bytes + offset, 0, length);
    for (size_t page = (offset + SFS_PAGE_SIZE - 1) / SFS_PAGE_SIZE;
         page < (offset + length) / SFS_PAGE_SIZE; page++)
        model->present[page] = false;
}

static void
model_check(ModelFile *model)
{
    g_autofree uint8_t *bytes = g_malloc0(MODEL_BYTES);

    g_assert_cmpint(pread(sfs_store_file_fd(model->file), bytes, MODEL_BYTES, 0), ==,
                    (ssize_t)model->size);
    g_assert_cmpint(memcmp(bytes, model->bytes, MODEL_BYTES), ==, 0);
    g_assert_cmpuint(held(model->file), ==, present_pages(model, 0, MODEL_PAGES) * SFS_PAGE_SIZE);
}

static void
test_model(Rig *rig, gconstpointer data)
{
    g_autofree ModelFile *models = g_new0(ModelFile, N_FILES);

    for (int i = 0; i < N_FILES; i++) {
        models[i].is_section = i % 2 == 0;
        models[i].file = new_file(rig, i % 2 == 0 ? SFS_STORE_SECTION : SFS_STORE_OVERLAY);
    }
    for (int i = 0; i < 6000; i++) {
        ModelFile *model = &models[g_test_rand_int_range(0, N_FILES)];
        size_t offset = (size_t)g_test_rand_int_range(0, MODEL_BYTES);
        size_t length = (size_t)g_test_rand_int_range(1, g_test_rand_bit() ? 3 * SFS_PAGE_SIZE
                                                                           : MODEL_BYTES / 2);
        uint64_t before = usage(rig).used, pages = 0, overlays = 0;
        bool force = false;

        length = MIN(length, MODEL_BYTES - offset);
        if (g_test_rand_bit()) {
            offset -= offset % SFS_PAGE_SIZE;
            length = MIN(MAX(length - length % SFS_PAGE_SIZE, SFS_PAGE_SIZE), MODEL_BYTES - offset);
        }
        switch (g_test_rand_int_range(0, 8)) {
        case 0:
            model_truncate(model, offset);
            break;
        case 1:
        case 2:
            model_punch(model, offset, length);
            break;
        case 3:
            force = true;
            length = MIN(length, 2 * SFS_PAGE_SIZE);
            model_write(rig, model, offset, length, force);
            break;
        default:
            model_write(rig, model, offset, length, force);
            break;
        }
        for (int j = 0; j < N_FILES; j++) {
            uint64_t n = present_pages(&models[j], 0, MODEL_PAGES);

            pages += n;
            overlays += j % 2 == 0 ? 0 : n;
        }
        assert_used(rig, pages);
        g_assert_cmpuint(usage(rig).overlays, ==, overlays * PAGE);
        if (!force)
            g_assert_cmpuint(usage(rig).used, <=, MAX(before, rig->limit));
        if (i % 20 == 0)
            model_check(model);
    }
    for (int i = 0; i < N_FILES; i++) {
        model_check(&models[i]);
        sfs_store_file_free(models[i].file);
    }
    wait_for_used(rig, 0);
}

/* --- descriptors ------------------------------------------------------------------------------ */

static void
test_descriptors(Rig *rig, gconstpointer data)
{
    SfsStoreFile *files[8];
    struct stat ours, keepers;
    uint32_t slot;

    for (int i = 0; i < 8; i++) {
        SfsFdRec *rec;

        files[i] = new_file(rig, SFS_STORE_SECTION);
        slot = sfs_store_file_slot(files[i]);
        g_assert_cmpuint(slot, !=, SFS_NO_SLOT);
        rec = sfs_registry_get(rig->registry, SFS_TABLE_FDS, slot);
        while (atomic_load(&rec->keeper_fd) == 0)
            g_usleep(100);
        g_assert_no_errno(fstat(sfs_store_file_fd(files[i]), &ours));
        g_assert_no_errno(fstat(atomic_load(&rec->keeper_fd), &keepers));
        g_assert_cmpuint(ours.st_ino, ==, keepers.st_ino);
        g_assert_cmpint(ours.st_size, ==, 0);
        g_assert_cmpint(fcntl(sfs_store_file_fd(files[i]), F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    }
    g_assert_cmpint(rig->kept, ==, 8);
    slot = sfs_store_file_slot(files[3]);
    sfs_store_file_free(files[3]);
    files[3] = new_file(rig, SFS_STORE_OVERLAY);
    g_assert_cmpuint(sfs_store_file_slot(files[3]), ==, slot);
    for (int i = 0; i < 8; i++)
        sfs_store_file_free(files[i]);
}

/* Without the keeper nothing can be made, and nothing is left of the attempt. */
static void
test_no_keeper(void)
{
    Rig rig = {0};
    SfsStoreFile *file;
    SfsStore *orphan;
    int ends[2];

    start(&rig, 0, -1);
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    close(ends[0]);
    orphan = sfs_store_new(rig.registry, ends[1], -1, 0);
    g_assert_cmpint(sfs_store_file_new(orphan, SFS_STORE_SECTION, &file), ==, -EPIPE);
    g_assert_cmpuint(sfs_registry_count(rig.registry, SFS_TABLE_FDS), ==, 0);
    sfs_store_free(orphan);
    sfs_store_free(NULL);
    close(ends[1]);
    stop(&rig);
}

static void
test_unlimited(void)
{
    Rig rig = {0};
    SfsStoreFile *file;

    start(&rig, 0, -1);
    g_assert_cmpuint(usage(&rig).limit, ==, 0);
    file = new_file(&rig, SFS_STORE_SECTION);
    g_assert_cmpint(write_pages(file, 0, 2000, false), ==, 2000 * PAGE);
    assert_used(&rig, 2000);
    g_assert_cmpint(write_pages(file, 1000, 2000, false), ==, 2000 * PAGE);
    assert_used(&rig, 3000);
    sfs_store_file_free(file);
    wait_for_used(&rig, 0);
    stop(&rig);
}

/* --- the tmpfs -------------------------------------------------------------------------------- */

static void
test_tmpfs_limit(void)
{
    Rig rig = {0};
    SfsStoreFile *section, *overlay;

    if (!start_tmpfs(&rig, 8 * MIB))
        return;
    section = new_file(&rig, SFS_STORE_SECTION);
    overlay = new_file(&rig, SFS_STORE_OVERLAY);
    g_assert_cmpuint(usage(&rig).used, ==, 0);
    g_assert_cmpint(fill_directly(section), ==, 8 * MIB);
    g_assert_cmpuint(usage(&rig).used, ==, 8 * MIB);
    g_assert_cmpint(write_pages(overlay, 0, 1, false), ==, -ENOSPC);
    g_assert_cmpint(sfs_store_file_allocate(overlay, 0, 0, 1), ==, -ENOSPC);
    g_assert_cmpint(write_pages(section, 0, 10, false), ==, 10 * PAGE);
    g_assert_cmpint(write_pages(section, 2048, 1, false), ==, -ENOSPC);
    g_assert_cmpint(write_pages(overlay, 0, 1, true), ==, PAGE);
    g_assert_cmpuint(usage(&rig).used, ==, 8 * MIB + PAGE);
    g_assert_cmpuint(usage(&rig).overlays, ==, PAGE);
    sfs_store_file_free(overlay);
    sfs_store_file_free(section);
    wait_for_used(&rig, 0);
    stop(&rig);
}

/* What overlays take, sections have no more, to the page; and they get it back. */
static void
test_tmpfs_shared(void)
{
    Rig rig = {0};
    SfsStoreFile *section, *overlay;
    off_t n;

    if (!start_tmpfs(&rig, 8 * MIB))
        return;
    section = new_file(&rig, SFS_STORE_SECTION);
    overlay = new_file(&rig, SFS_STORE_OVERLAY);
    g_assert_cmpint(write_pages(overlay, 0, 3 * 256, false), ==, 3 * MIB);
    g_assert_cmpuint(usage(&rig).overlays, ==, 3 * MIB);
    n = fill_directly(section);
    /* Reservations are made in steps of a megabyte. */
    g_assert_cmpint(n, <=, 5 * MIB);
    g_assert_cmpint(n, >=, 4 * MIB);
    /* The rest of the step is the overlay's, and nothing beyond it. */
    g_assert_cmpint(write_pages(overlay, 1000, 512, false), ==, 5 * MIB - n);
    g_assert_cmpuint(usage(&rig).used, ==, 8 * MIB);
    g_assert_cmpint(write_pages(overlay, 2000, 1, false), ==, -ENOSPC);
    g_assert_cmpint(pwrite(sfs_store_file_fd(section), "x", 1, n), ==, -1);
    g_assert_cmpint(errno, ==, ENOSPC);

    /* Truncating a section makes room for overlays, and the other way round. */
    g_assert_cmpint(sfs_store_file_truncate(section, MIB), ==, 0);
    g_assert_cmpint(write_pages(overlay, 5000, 256, false), ==, MIB);
    g_assert_cmpint(sfs_store_file_truncate(overlay, 0), ==, 0);
    g_assert_cmpuint(usage(&rig).used, ==, MIB);
    g_assert_cmpint(fill_directly(section), ==, 8 * MIB);
    g_assert_cmpint(sfs_store_file_truncate(section, 0), ==, 0);

    /* Alone, the overlays have all but the page that a tmpfs must keep. */
    g_assert_cmpint(write_pages(overlay, 0, 2047, false), ==, 2047 * PAGE);
    g_assert_cmpint(write_pages(overlay, 3000, 1, false), ==, -ENOSPC);
    sfs_store_file_free(overlay);
    wait_for_used(&rig, 0);
    g_assert_cmpint(fill_directly(section), ==, 8 * MIB);
    sfs_store_file_free(section);
    wait_for_used(&rig, 0);
    stop(&rig);
}

static void
test_tmpfs_unlimited(void)
{
    Rig rig = {0};
    SfsStoreFile *section, *overlay;

    if (!start_tmpfs(&rig, 0))
        return;
    section = new_file(&rig, SFS_STORE_SECTION);
    overlay = new_file(&rig, SFS_STORE_OVERLAY);
    g_assert_cmpint(write_pages(section, 0, 2000, false), ==, 2000 * PAGE);
    g_assert_cmpint(write_pages(overlay, 0, 2000, false), ==, 2000 * PAGE);
    assert_used(&rig, 4000);
    g_assert_cmpuint(usage(&rig).overlays, ==, 2000 * PAGE);
    sfs_store_file_free(section);
    sfs_store_file_free(overlay);
    wait_for_used(&rig, 0);
    stop(&rig);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/store/counted/exact", 16, test_exact);
    add("/store/counted/short", 16, test_short);
    add("/store/counted/overwrite", 16, test_overwrite);
    add("/store/counted/force", 16, test_force);
    add("/store/counted/write-back", 16, test_write_back);
    add("/store/counted/give-back", 16, test_give_back);
    add("/store/counted/errors", 16, test_errors);
    add("/store/counted/model", 60, test_model);
    add("/store/counted/descriptors", 16, test_descriptors);
    g_test_add_func("/store/counted/no-keeper", test_no_keeper);
    g_test_add_func("/store/counted/unlimited", test_unlimited);
    g_test_add_func("/store/tmpfs/limit", test_tmpfs_limit);
    g_test_add_func("/store/tmpfs/shared", test_tmpfs_shared);
    g_test_add_func("/store/tmpfs/unlimited", test_tmpfs_unlimited);
    add("/store/promises/short-over-data", 16, test_short_over_data);
    add("/store/promises/append-in-page", 16, test_append_in_page);
    add("/store/promises/overwrite-above-limit", 16, test_overwrite_above_limit);
    add("/store/promises/allocated", 16, test_allocated);
    return g_test_run();
}
