/* SPDX-License-Identifier: MIT */
/*
 * The registry: records and text, and what a worker finds after the one before it has died. A
 * worker is played by a child that maps the same memory. It is made to die at a chosen store by
 * taking away the permission to write to the page the store goes to, or at any instruction by
 * SIGKILL.
 */
#include "registry.h"

#include "fixture.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* Of one chunk of text. Private to the registry: lengths around its multiples are tested, and many
 * others. */
#define CHUNK_BYTES 112

typedef struct {
    SfsRegistry *keeper; /* the one that made the memory */
    SfsRegistry *worker;
    int worker_fd;
} Fixture;

/* Opens the memory as a new worker does. */
static void
open_worker(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    f->worker_fd = dup(sfs_registry_fd(f->keeper));
    g_assert_cmpint(f->worker_fd, >=, 0);
    f->worker = sfs_registry_open(f->worker_fd, &error);
    g_assert_no_error(error);
    g_assert_nonnull(f->worker);
}

static void
close_worker(Fixture *f)
{
    sfs_registry_free(f->worker);
    close(f->worker_fd);
    f->worker = NULL;
}

static void
reopen_worker(Fixture *f)
{
    close_worker(f);
    open_worker(f);
}

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;

    g_strlcpy(config->mountpoint, "/mnt/test", sizeof config->mountpoint);
    config->size = 12345;
    f->keeper = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    open_worker(f);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    close_worker(f);
    sfs_registry_free(f->keeper);
}

static uint32_t
state(SfsRegistry *registry, SfsTable table, uint32_t slot)
{
    _Atomic uint32_t *record = sfs_registry_get(registry, table, slot);

    g_assert_nonnull(record);
    return atomic_load(record);
}

static uint32_t
alloc(SfsRegistry *registry, SfsTable table)
{
    uint32_t slot;

    g_assert_nonnull(sfs_registry_alloc(registry, table, &slot));
    return slot;
}

static uint32_t
alloc_live(SfsRegistry *registry, SfsTable table)
{
    uint32_t slot = alloc(registry, table);

    sfs_registry_publish(registry, table, slot);
    return slot;
}

/* --- records ---------------------------------------------------------------------------------- */

static void
test_create(Fixture *f, gconstpointer data)
{
    SfsRegistryHeader *header = sfs_registry_header(f->worker);

    g_assert_cmpstr(header->config.mountpoint, ==, "/mnt/test");
    g_assert_cmpuint(header->config.size, ==, 12345);
    g_assert_cmpuint(header->layout, ==, SFS_REGISTRY_LAYOUT);
    header->mount_dev = 77;
    g_assert_cmpuint(sfs_registry_header(f->keeper)->mount_dev, ==, 77);
    for (int table = 0; table < SFS_N_TABLES; table++) {
        g_assert_cmpuint(sfs_registry_count(f->worker, table), ==, 0);
        g_assert_cmpuint(sfs_registry_capacity(f->worker, table), >=, 1000000);
        g_assert_cmpuint(sfs_registry_bound(f->worker, table), ==, table != SFS_TABLE_NODES);
        g_assert_null(sfs_registry_get(f->worker, table, 1));
        g_assert_null(sfs_registry_get(f->worker, table, UINT32_MAX));
    }
}

static void
test_life(Fixture *f, gconstpointer data)
{
    for (int table = 0; table < SFS_N_TABLES; table++) {
        uint32_t first = alloc(f->worker, table);
        uint32_t second = alloc(f->worker, table);
        bool has_state = table != SFS_TABLE_FDS;

        /* Slot 0 is the root of the nodes, and nothing elsewhere. */
        g_assert_cmpuint(first, ==, table == SFS_TABLE_NODES ? 0 : 1);
        g_assert_cmpuint(second, ==, first + 1);
        g_assert_cmpuint(sfs_registry_bound(f->worker, table), ==, second + 1);
        g_assert_cmpuint(sfs_registry_count(f->worker, table), ==, 2);
        if (has_state)
            g_assert_cmpuint(state(f->worker, table, first), ==, SFS_PREPARED);
        sfs_registry_publish(f->worker, table, first);
        if (has_state)
            g_assert_cmpuint(state(f->keeper, table, first), ==, SFS_LIVE);
        sfs_registry_release(f->worker, table, second); /* prepared */
        if (has_state) {
            g_assert_cmpuint(state(f->worker, table, second), ==, SFS_FREE);
            sfs_registry_release(f->worker, table, first); /* live */
            g_assert_cmpuint(state(f->worker, table, first), ==, SFS_FREE);
            g_assert_cmpuint(sfs_registry_count(f->worker, table), ==, 0);
        }
        /* What was freed is used again before anything new. */
        alloc(f->worker, table);
        if (has_state)
            alloc(f->worker, table);
        g_assert_cmpuint(sfs_registry_bound(f->worker, table), ==, second + 1);
        g_assert_cmpuint(sfs_registry_count(f->worker, table), ==, 2);
    }
}

static void
test_zeroed(Fixture *f, gconstpointer data)
{
    SfsNodeRec *node, expected;
    uint32_t slot = alloc(f->worker, SFS_TABLE_NODES);

    node = sfs_registry_get(f->worker, SFS_TABLE_NODES, slot);
    memset(node, 0xff, sizeof *node);
    sfs_registry_release(f->worker, SFS_TABLE_NODES, slot);
    node = sfs_registry_alloc(f->worker, SFS_TABLE_NODES, &slot);
    memset(&expected, 0, sizeof expected);
    expected.state = SFS_PREPARED;
    g_assert_cmpint(memcmp(node, &expected, sizeof expected), ==, 0);
}

/* The table of descriptors has the smallest records. */
static void
test_full(Fixture *f, gconstpointer data)
{
    uint32_t capacity = sfs_registry_capacity(f->worker, SFS_TABLE_FDS), slot;

    for (uint32_t i = 0; i < capacity; i++)
        g_assert_true(sfs_registry_alloc(f->worker, SFS_TABLE_FDS, &slot) != NULL);
    g_assert_null(sfs_registry_alloc(f->worker, SFS_TABLE_FDS, &slot));
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_FDS), ==, capacity);
    sfs_registry_release(f->worker, SFS_TABLE_FDS, 4711);
    g_assert_nonnull(sfs_registry_alloc(f->worker, SFS_TABLE_FDS, &slot));
    g_assert_cmpuint(slot, ==, 4711);
    g_assert_null(sfs_registry_alloc(f->worker, SFS_TABLE_FDS, &slot));
}

#define N_THREADS 4
#define N_HELD 64

typedef struct {
    SfsRegistry *registry;
    uint32_t seed;
    uint64_t last_serial;
} Racer;

/* Holds some records at a time, each marked as its own, and sees that nobody else gets them. */
static gpointer
race(gpointer data)
{
    Racer *racer = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed(racer->seed);
    uint32_t held[N_HELD] = {0};

    for (int i = 0; i < 20000; i++) {
        uint32_t *slot = &held[g_rand_int_range(rand, 0, N_HELD)];
        SfsHandleRec *rec;
        uint64_t serial;

        if (*slot != 0) {
            rec = sfs_registry_get(racer->registry, SFS_TABLE_HANDLES, *slot);
            g_assert_cmpuint(rec->nodeid, ==, racer->seed);
            g_assert_cmpuint(rec->flags, ==, *slot);
            sfs_registry_release(racer->registry, SFS_TABLE_HANDLES, *slot);
            *slot = 0;
        } else {
            rec = sfs_registry_alloc(racer->registry, SFS_TABLE_HANDLES, slot);
            rec->nodeid = racer->seed;
            rec->flags = *slot;
            sfs_registry_publish(racer->registry, SFS_TABLE_HANDLES, *slot);
        }
        serial = sfs_registry_next_serial(racer->registry);
        g_assert_cmpuint(serial, >, racer->last_serial);
        racer->last_serial = serial;
    }
    for (int i = 0; i < N_HELD; i++) {
        if (held[i] != 0)
            sfs_registry_release(racer->registry, SFS_TABLE_HANDLES, held[i]);
    }
    return NULL;
}

static void
test_threads(Fixture *f, gconstpointer data)
{
    Racer racers[N_THREADS];
    GThread *threads[N_THREADS];
    uint64_t serial = sfs_registry_next_serial(f->worker);

    for (int i = 0; i < N_THREADS; i++) {
        racers[i] = (Racer){f->worker, (uint32_t)g_test_rand_int(), 0};
        threads[i] = g_thread_new("race", race, &racers[i]);
    }
    for (int i = 0; i < N_THREADS; i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(sfs_registry_next_serial(f->worker), ==, serial + N_THREADS * 20000 + 1);
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_HANDLES), ==, 0);
    g_assert_cmpuint(sfs_registry_bound(f->worker, SFS_TABLE_HANDLES), <=, N_THREADS * N_HELD + 1);
}

/* Neither serials nor cookies are given twice, whoever asks and when. */
static void
test_numbers(Fixture *f, gconstpointer data)
{
    uint64_t serial = sfs_registry_next_serial(f->worker);
    uint64_t cookie = sfs_registry_next_cookie(f->worker);

    g_assert_cmpuint(serial, >, 1); /* the root's */
    g_assert_cmpuint(cookie, >, 2); /* those of "." and ".." */
    g_assert_cmpuint(sfs_registry_next_serial(f->worker), >, serial);
    g_assert_cmpuint(sfs_registry_next_cookie(f->worker), >, cookie);
    reopen_worker(f);
    g_assert_cmpuint(sfs_registry_next_serial(f->worker), >, serial + 1);
    g_assert_cmpuint(sfs_registry_next_cookie(f->worker), >, cookie + 1);
}

/* --- text ------------------------------------------------------------------------------------- */

static char *
random_text(size_t length)
{
    char *text = g_malloc(length + 1);

    for (size_t i = 0; i < length; i++)
        text[i] = (char)g_test_rand_int();
    text[length] = '\0';
    return text;
}

static void
check_text(SfsRegistry *registry, uint32_t slot, const char *expected, size_t length)
{
    size_t loaded_length;
    g_autofree char *text = sfs_registry_load_text(registry, slot, &loaded_length);

    g_assert_cmpmem(text, loaded_length, expected, length);
    g_assert_cmpint(text[length], ==, '\0');
}

static void
try_length(SfsRegistry *registry, size_t length)
{
    g_autofree char *text = random_text(length);
    uint32_t slot = sfs_registry_store_text(registry, text, length);

    check_text(registry, slot, text, length);
    if (length == 0)
        g_assert_cmpuint(slot, ==, SFS_NO_SLOT);
    else
        g_assert_cmpuint(slot, !=, SFS_NO_SLOT);
    g_assert_cmpuint(sfs_registry_count(registry, SFS_TABLE_CHUNKS), ==,
                     (length + CHUNK_BYTES - 1) / CHUNK_BYTES);
    sfs_registry_free_text(registry, slot);
    g_assert_cmpuint(sfs_registry_count(registry, SFS_TABLE_CHUNKS), ==, 0);
}

static void
test_text_lengths(Fixture *f, gconstpointer data)
{
    for (size_t length = 0; length <= 5 * CHUNK_BYTES + 2; length++)
        try_length(f->worker, length);
    for (int i = 0; i < 20; i++)
        try_length(f->worker, (size_t)g_test_rand_int_range(1000, 200000));
}

/* Many chains that come and go between each other, then read by another worker. */
static void
test_text_many(Fixture *f, gconstpointer data)
{
    enum { N = 200 };
    char *texts[N] = {NULL};
    size_t lengths[N] = {0};
    uint32_t slots[N] = {SFS_NO_SLOT};

    for (int i = 0; i < 5000; i++) {
        int n = g_test_rand_int_range(0, N);

        if (texts[n] != NULL) {
            check_text(f->worker, slots[n], texts[n], lengths[n]);
            sfs_registry_free_text(f->worker, slots[n]);
            g_clear_pointer(&texts[n], g_free);
        } else {
            lengths[n] = (size_t)g_test_rand_int_range(0, 6 * CHUNK_BYTES);
            texts[n] = random_text(lengths[n]);
            slots[n] = sfs_registry_store_text(f->worker, texts[n], lengths[n]);
        }
    }
    reopen_worker(f);
    for (int n = 0; n < N; n++) {
        if (texts[n] == NULL)
            continue;
        check_text(f->worker, slots[n], texts[n], lengths[n]);
        sfs_registry_free_text(f->worker, slots[n]);
        g_free(texts[n]);
    }
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_CHUNKS), ==, 0);
}

/* --- several records at once -------------------------------------------------------------------
 */

static void
test_commit(Fixture *f, gconstpointer data)
{
    uint32_t a = alloc(f->worker, SFS_TABLE_DIRENTS), b = alloc_live(f->worker, SFS_TABLE_DIRENTS);
    uint32_t c = alloc(f->worker, SFS_TABLE_NODES), d = alloc_live(f->worker, SFS_TABLE_VIEWS);
    uint32_t e = alloc_live(f->worker, SFS_TABLE_HANDLES), g = alloc(f->worker, SFS_TABLE_HANDLES);
    const SfsChange changes[] = {
        SFS_CHANGE(SFS_TABLE_DIRENTS, a, SFS_LIVE), SFS_CHANGE(SFS_TABLE_DIRENTS, b, SFS_FREE),
        SFS_CHANGE(SFS_TABLE_NODES, c, SFS_LIVE),   SFS_CHANGE(SFS_TABLE_VIEWS, d, SFS_FREE),
        SFS_CHANGE(SFS_TABLE_HANDLES, e, SFS_FREE), SFS_CHANGE(SFS_TABLE_HANDLES, g, SFS_LIVE),
    };

    sfs_registry_commit(f->worker, changes, G_N_ELEMENTS(changes));
    for (guint i = 0; i < G_N_ELEMENTS(changes); i++)
        g_assert_cmpuint(state(f->worker, changes[i].table, changes[i].slot), ==, changes[i].state);
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_DIRENTS), ==, 1);
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_VIEWS), ==, 0);
    g_assert_cmpuint(alloc(f->worker, SFS_TABLE_DIRENTS), ==, b);
    g_assert_cmpuint(alloc(f->worker, SFS_TABLE_VIEWS), ==, d);
    sfs_registry_commit(f->worker, changes, 0);
    /* A list that was carried out is not carried out again. */
    sfs_registry_release(f->worker, SFS_TABLE_DIRENTS, a);
    reopen_worker(f);
    g_assert_cmpuint(state(f->worker, SFS_TABLE_DIRENTS, a), ==, SFS_FREE);
    g_assert_cmpuint(state(f->worker, SFS_TABLE_NODES, c), ==, SFS_LIVE);
}

/* --- deaths ----------------------------------------------------------------------------------- */

typedef void (*Life)(SfsRegistry *registry, void *data);

/* Runs @life on the memory in a child that then exits at once; its wait status. */
static int
live_and_die(Fixture *f, Life life, void *data)
{
    pid_t pid = fork();
    int status;

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        SfsRegistry *registry = sfs_registry_open(sfs_registry_fd(f->keeper), NULL);

        if (registry == NULL)
            _exit(1);
        life(registry, data);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return status;
}

static void
prepare_some(SfsRegistry *registry, void *data)
{
    uint32_t slot;

    for (int table = 0; table < SFS_TABLE_CHUNKS; table++) {
        for (int i = 0; i < 10; i++) {
            if (sfs_registry_alloc(registry, table, &slot) == NULL)
                _exit(2);
            memset((char *)sfs_registry_get(registry, table, slot) + sizeof(uint32_t), 0x55,
                   sizeof(SfsHandleRec) / 2);
            if (i % 2 == 0)
                sfs_registry_publish(registry, table, slot);
            if (i % 5 == 0)
                sfs_registry_release(registry, table, slot);
        }
    }
}

/* What was only prepared is gone, what was live stays as it was. */
static void
test_prepared(Fixture *f, gconstpointer data)
{
    static const SfsTable tables[] = {SFS_TABLE_NODES, SFS_TABLE_DIRENTS, SFS_TABLE_HANDLES,
                                      SFS_TABLE_VIEWS};

    g_assert_cmpint(live_and_die(f, prepare_some, NULL), ==, 0);
    reopen_worker(f);
    for (guint i = 0; i < G_N_ELEMENTS(tables); i++) {
        uint32_t base = tables[i] == SFS_TABLE_NODES ? 0 : 1;
        uint32_t bound = sfs_registry_bound(f->worker, tables[i]);
        uint32_t live = 0;

        /* Of the ten, two were released, and their slots used by those that followed. */
        g_assert_cmpuint(bound, ==, base + 8);
        for (uint32_t slot = base; slot < bound; slot++) {
            const char *record = sfs_registry_get(f->worker, tables[i], slot);

            if (state(f->worker, tables[i], slot) == SFS_FREE)
                continue;
            g_assert_cmpuint(state(f->worker, tables[i], slot), ==, SFS_LIVE);
            g_assert_cmpint(record[sizeof(uint32_t)], ==, 0x55);
            live++;
        }
        g_assert_cmpuint(live, ==, 4);
        g_assert_cmpuint(sfs_registry_count(f->worker, tables[i]), ==, live);
        /* All the free ones are found again, each once. */
        for (uint32_t slot = base + live; slot < bound; slot++)
            g_assert_cmpuint(alloc(f->worker, tables[i]), <, bound);
        g_assert_cmpuint(alloc(f->worker, tables[i]), ==, bound);
    }
}

/* Descriptors are in use as long as the keeper says so. */
static void
test_descriptors(Fixture *f, gconstpointer data)
{
    SfsFdRec *recs[4];
    uint32_t slots[4];

    for (int i = 0; i < 4; i++)
        recs[i] = sfs_registry_alloc(f->worker, SFS_TABLE_FDS, &slots[i]);
    atomic_store(&recs[1]->keeper_fd, 10);
    atomic_store(&recs[3]->keeper_fd, 11);
    reopen_worker(f);
    g_assert_cmpuint(sfs_registry_count(f->worker, SFS_TABLE_FDS), ==, 2);
    for (int i = 0; i < 2; i++) {
        uint32_t slot = alloc(f->worker, SFS_TABLE_FDS);

        g_assert_true(slot == slots[0] || slot == slots[2]);
    }
    recs[1] = sfs_registry_get(f->worker, SFS_TABLE_FDS, slots[1]);
    g_assert_cmpint(atomic_load(&recs[1]->keeper_fd), ==, 10);
    /* What the keeper wrote outlives the slot's user, until the keeper clears it. */
    sfs_registry_release(f->worker, SFS_TABLE_FDS, slots[1]);
    g_assert_cmpint(atomic_load(&recs[1]->keeper_fd), ==, 10);
    g_assert_cmpuint(alloc(f->worker, SFS_TABLE_FDS), ==, slots[1]);
    g_assert_cmpint(atomic_load(&recs[1]->keeper_fd), ==, 10);
}

typedef struct {
    SfsChange changes[SFS_COMMIT_MAX];
    unsigned n;
    unsigned fatal; /* the change at whose store it dies */
} DeadlyCommit;

static void
die_of_fault(int number)
{
    _exit(42);
}

static void
commit_fatally(SfsRegistry *registry, void *data)
{
    const DeadlyCommit *commit = data;
    const SfsChange *change = &commit->changes[commit->fatal];
    uintptr_t page = (uintptr_t)sfs_registry_get(registry, change->table, change->slot);
    const uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);

    signal(SIGSEGV, die_of_fault);
    page -= page % page_size;
    if (mprotect((void *)page, page_size, PROT_READ) != 0)
        _exit(3);
    sfs_registry_commit(registry, commit->changes, commit->n);
}

/* As many records as fill a page, so that the next is in another one than those before. */
static void
skip_a_page(SfsRegistry *registry, SfsTable table, size_t record)
{
    for (size_t i = 0; i <= (size_t)sysconf(_SC_PAGESIZE) / record; i++)
        alloc_live(registry, table);
}

/* Dying at each store of a list that was valid: the next worker carries out all of it. */
static void
test_commit_completed(Fixture *f, gconstpointer data)
{
    static const SfsTable tables[] = {SFS_TABLE_DIRENTS, SFS_TABLE_NODES,   SFS_TABLE_DIRENTS,
                                      SFS_TABLE_VIEWS,   SFS_TABLE_DIRENTS, SFS_TABLE_HANDLES};

    for (unsigned n = 1; n <= G_N_ELEMENTS(tables); n++) {
        for (unsigned fatal = 0; fatal < n; fatal++) {
            DeadlyCommit commit = {.n = n, .fatal = fatal};
            int status;

            /* Prepared records would be freed by the worker that is to die, when it opens the
             * memory. So all are live there, and become free. */
            for (unsigned i = 0; i < n; i++) {
                skip_a_page(f->worker, tables[i], sizeof(SfsDirentRec) / 2);
                commit.changes[i] =
                    SFS_CHANGE(tables[i], alloc_live(f->worker, tables[i]), SFS_FREE);
            }
            status = live_and_die(f, commit_fatally, &commit);
            g_assert_true(WIFEXITED(status));
            g_assert_cmpint(WEXITSTATUS(status), ==, 42);
            for (unsigned i = 0; i < n; i++)
                g_assert_cmpuint(state(f->worker, tables[i], commit.changes[i].slot), ==,
                                 i < fatal ? SFS_FREE : SFS_LIVE);
            reopen_worker(f);
            for (unsigned i = 0; i < n; i++)
                g_assert_cmpuint(state(f->worker, tables[i], commit.changes[i].slot), ==, SFS_FREE);
            /* Once is enough: a later death does not repeat it. */
            for (unsigned i = 0; i < n; i++)
                commit.changes[i].slot = alloc_live(f->worker, tables[i]);
            reopen_worker(f);
            for (unsigned i = 0; i < n; i++)
                g_assert_cmpuint(state(f->worker, tables[i], commit.changes[i].slot), ==, SFS_LIVE);
        }
    }
}

static void
prepare_and_commit_fatally(SfsRegistry *registry, void *data)
{
    DeadlyCommit *commit = data;

    for (unsigned i = 0; i < commit->n; i++) {
        SfsDirentRec *rec;

        if (i % 2 == 1)
            continue;
        skip_a_page(registry, SFS_TABLE_DIRENTS, sizeof(SfsDirentRec));
        rec = sfs_registry_alloc(registry, SFS_TABLE_DIRENTS, &commit->changes[i].slot);
        rec->cookie = 1000 + i;
        commit->changes[i].table = SFS_TABLE_DIRENTS;
        commit->changes[i].state = SFS_LIVE;
    }
    commit_fatally(registry, commit);
}

/* The same where prepared records are to become live: the list goes before the clearing away. */
static void
test_commit_of_prepared(Fixture *f, gconstpointer data)
{
    for (unsigned fatal = 0; fatal < 4; fatal++) {
        DeadlyCommit commit = {.n = 4, .fatal = fatal};
        uint32_t found[2] = {0};
        int status;

        for (unsigned i = 1; i < 4; i += 2) {
            skip_a_page(f->worker, SFS_TABLE_NODES, sizeof(SfsNodeRec));
            commit.changes[i] =
                SFS_CHANGE(SFS_TABLE_NODES, alloc_live(f->worker, SFS_TABLE_NODES), SFS_FREE);
        }
        status = live_and_die(f, prepare_and_commit_fatally, &commit);
        g_assert_cmpint(WEXITSTATUS(status), ==, 42);
        reopen_worker(f);
        for (unsigned i = 1; i < 4; i += 2)
            g_assert_cmpuint(state(f->worker, SFS_TABLE_NODES, commit.changes[i].slot), ==,
                             SFS_FREE);
        for (uint32_t slot = 1; slot < sfs_registry_bound(f->worker, SFS_TABLE_DIRENTS); slot++) {
            SfsDirentRec *rec = sfs_registry_get(f->worker, SFS_TABLE_DIRENTS, slot);

            if (atomic_load(&rec->state) != SFS_LIVE)
                continue;
            if (rec->cookie >= 1000)
                found[(rec->cookie - 1000) / 2]++;
            sfs_registry_release(f->worker, SFS_TABLE_DIRENTS, slot);
        }
        g_assert_cmpuint(found[0], ==, 1);
        g_assert_cmpuint(found[1], ==, 1);
    }
}

/* Renames a pair of entries without end: at any time two entries of one generation. */
static void
rename_for_ever(SfsRegistry *registry, void *data)
{
    uint32_t old[2] = {0}, new[2];
    uint32_t bound = sfs_registry_bound(registry, SFS_TABLE_DIRENTS);
    uint32_t generation = 0;
    unsigned n = 0;

    for (uint32_t slot = 1; slot < bound; slot++) {
        SfsDirentRec *rec = sfs_registry_get(registry, SFS_TABLE_DIRENTS, slot);

        if (atomic_load(&rec->state) == SFS_LIVE && n < 2) {
            old[n++] = slot;
            generation = rec->node;
        }
    }
    for (;;) {
        generation++;
        for (int i = 0; i < 2; i++) {
            SfsDirentRec *rec = sfs_registry_alloc(registry, SFS_TABLE_DIRENTS, &new[i]);

            rec->node = generation;
        }
        sfs_registry_commit(registry,
                            (SfsChange[]){SFS_CHANGE(SFS_TABLE_DIRENTS, new[0], SFS_LIVE),
                                          SFS_CHANGE(SFS_TABLE_DIRENTS, old[0], SFS_FREE),
                                          SFS_CHANGE(SFS_TABLE_DIRENTS, new[1], SFS_LIVE),
                                          SFS_CHANGE(SFS_TABLE_DIRENTS, old[1], SFS_FREE)},
                            4);
        memcpy(old, new, sizeof old);
    }
}

static void
check_pair(SfsRegistry *registry, uint32_t *generation)
{
    uint32_t found = 0;

    for (uint32_t slot = 1; slot < sfs_registry_bound(registry, SFS_TABLE_DIRENTS); slot++) {
        const SfsDirentRec *rec = sfs_registry_get(registry, SFS_TABLE_DIRENTS, slot);

        if (atomic_load(&rec->state) == SFS_FREE)
            continue;
        g_assert_cmpuint(rec->state, ==, SFS_LIVE);
        if (found++ == 0) {
            g_assert_cmpuint(rec->node, >=, *generation);
            *generation = rec->node;
        } else {
            g_assert_cmpuint(rec->node, ==, *generation);
        }
    }
    g_assert_cmpuint(found, ==, 2);
    g_assert_cmpuint(sfs_registry_count(registry, SFS_TABLE_DIRENTS), ==, 2);
}

static void
test_killed(Fixture *f, gconstpointer data)
{
    uint32_t generation = 0;

    alloc_live(f->worker, SFS_TABLE_DIRENTS);
    alloc_live(f->worker, SFS_TABLE_DIRENTS);
    for (int i = 0; i < 60; i++) {
        pid_t pid = fork();
        int status;

        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            rename_for_ever(sfs_registry_open(sfs_registry_fd(f->keeper), NULL), NULL);
        }
        g_usleep((gulong)g_test_rand_int_range(0, 4000));
        g_assert_no_errno(kill(pid, SIGKILL));
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFSIGNALED(status));
        reopen_worker(f);
        check_pair(f->worker, &generation);
        g_assert_cmpuint(sfs_registry_bound(f->worker, SFS_TABLE_DIRENTS), <=, 5);
    }
    g_test_message("%u renames", generation);
    g_assert_cmpuint(generation, >, 100);
}

/* --- what is refused ---------------------------------------------------------------------------
 */

static void
assert_refused(int fd, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(sfs_registry_open(fd, &error));
    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, word));
    g_assert_null(strchr(error->message, '\n'));
}

static void
test_refused(Fixture *f, gconstpointer data)
{
    SfsRegistryHeader *header = sfs_registry_header(f->keeper);
    int fd = sfs_registry_fd(f->keeper);
    sfs_autofd empty = memfd_create("test", MFD_CLOEXEC);
    g_autofree char *layout = g_strdup_printf("layout %u", SFS_REGISTRY_LAYOUT + 1);
    const uint64_t magic = header->magic;
    struct stat st;

    assert_refused(empty, "size");
    assert_refused(-1, "");
    g_assert_no_errno(fstat(fd, &st));
    g_assert_no_errno(ftruncate(empty, st.st_size));
    assert_refused(empty, "layout"); /* all zeros */
    g_assert_no_errno(ftruncate(empty, st.st_size + 4096));
    assert_refused(empty, "size");

    header->layout++;
    assert_refused(fd, layout);
    header->layout--;
    header->header_size++;
    assert_refused(fd, "layout");
    header->header_size--;
    header->magic++;
    assert_refused(fd, "layout");
    header->magic = magic;
    /* None of which closed it. */
    g_assert_no_errno(fcntl(fd, F_GETFD));
    g_assert_no_errno(fcntl(empty, F_GETFD));
    reopen_worker(f);
}

/* A worker's descriptor stays its caller's. */
static void
test_not_taken_over(Fixture *f, gconstpointer data)
{
    int fd = dup(sfs_registry_fd(f->keeper));
    SfsRegistry *registry = sfs_registry_open(fd, NULL);

    g_assert_nonnull(registry);
    g_assert_cmpint(sfs_registry_fd(registry), ==, fd);
    sfs_registry_free(registry);
    g_assert_no_errno(fcntl(fd, F_GETFD));
    close(fd);
    sfs_registry_free(NULL);
}

/* Reading all of the memory, as the kernel does for a core dump, makes it real. */
static void
test_not_dumped(Fixture *f, gconstpointer data)
{
    g_autofree char *maps = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned found = 0;
    bool ours = false;

    g_assert_true(g_file_get_contents("/proc/self/smaps", &maps, NULL, NULL));
    lines = g_strsplit(maps, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        if (strstr(*line, "/memfd:sectionfs-registry") != NULL) {
            ours = true;
        } else if (ours && g_str_has_prefix(*line, "VmFlags:")) {
            g_assert_nonnull(strstr(*line, " dd"));
            found++;
            ours = false;
        }
    }
    g_assert_cmpuint(found, ==, 2); /* the keeper's and the worker's */
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/registry/create", test_create);
    ADD("/registry/life", test_life);
    ADD("/registry/zeroed", test_zeroed);
    ADD("/registry/full", test_full);
    ADD("/registry/threads", test_threads);
    ADD("/registry/numbers", test_numbers);
    ADD("/registry/text/lengths", test_text_lengths);
    ADD("/registry/text/many", test_text_many);
    ADD("/registry/commit", test_commit);
    ADD("/registry/death/prepared", test_prepared);
    ADD("/registry/death/descriptors", test_descriptors);
    ADD("/registry/death/commit-completed", test_commit_completed);
    ADD("/registry/death/commit-of-prepared", test_commit_of_prepared);
    ADD("/registry/death/killed", test_killed);
    ADD("/registry/refused", test_refused);
    ADD("/registry/not-taken-over", test_not_taken_over);
    ADD("/registry/not-dumped", test_not_dumped);
    return g_test_run();
}
