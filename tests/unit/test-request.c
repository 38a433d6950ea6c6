/* SPDX-License-Identifier: MIT */
/*
 * What a request has done, as the next worker finds it. A worker that dies is played by a thread
 * that ends without having ended its request: what it knew of that is gone with it.
 */
#include "request.h"

#include "fixture.h"

#include <sys/wait.h>

#define OPCODE 12
#define NODEID 4711

typedef struct {
    SfsRegistry *registry;
    SfsRequests *requests;
    uint64_t value; /* for the thread, and from it */
    bool flag;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;

    f->registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    f->requests = sfs_requests_new(f->registry);
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    sfs_requests_free(f->requests);
    sfs_registry_free(f->registry);
}

/* Has a worker do something and die. The next one takes up what the registry remembers. */
static void
die_in(Fixture *f, GThreadFunc what)
{
    g_thread_join(g_thread_new("worker", what, f));
    sfs_requests_free(f->requests);
    f->requests = sfs_requests_new(f->registry);
}

static unsigned
remembered(Fixture *f)
{
    return sfs_registry_count(f->registry, SFS_TABLE_DONE);
}

static unsigned
running(Fixture *f, uint64_t number)
{
    const SfsRegistryHeader *header = sfs_registry_header(f->registry);
    unsigned n = 0;

    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        const SfsRunning *one = &header->running[i];

        if (atomic_load(&one->unique) != number)
            continue;
        g_assert_cmpuint(one->opcode, ==, OPCODE);
        g_assert_cmpuint(one->nodeid, ==, NODEID);
        n++;
    }
    return n;
}

static void
begin(Fixture *f, uint64_t unique)
{
    sfs_request_begin(f->requests, unique, OPCODE, NODEID);
}

static void
do_something(Fixture *f)
{
    SfsChange changes[2];
    unsigned n = sfs_request_remember(changes, 0);

    g_assert_cmpuint(n, ==, 1);
    sfs_registry_commit(f->registry, changes, n);
}

static gpointer
do_and_die(gpointer data)
{
    begin(data, 100);
    do_something(data);
    return NULL;
}

static gpointer
prepare_and_die(gpointer data)
{
    SfsChange changes[2];

    begin(data, 100);
    g_assert_cmpuint(sfs_request_remember(changes, 0), ==, 1);
    return NULL;
}

static gpointer
intend_and_die(gpointer data)
{
    begin(data, 100);
    sfs_request_intend(((Fixture *)data)->value);
    return NULL;
}

/* --- the tests ------------------------------------------------------------------------------- */

static void
test_none(Fixture *f, gconstpointer data)
{
    SfsChange changes[2];

    g_assert_cmpuint(sfs_request_number(), ==, 0);
    g_assert_false(sfs_request_again());
    g_assert_false(sfs_request_made(0));
    g_assert_cmpuint(sfs_request_remember(changes, 1), ==, 1);
    sfs_request_intend(1);
    g_assert_cmpuint(remembered(f), ==, 0);
}

static void
test_answered(Fixture *f, gconstpointer data)
{
    begin(f, 100);
    g_assert_cmpuint(sfs_request_number(), ==, 100);
    g_assert_cmpuint(running(f, 100), ==, 1);
    g_assert_false(sfs_request_again());
    g_assert_false(sfs_request_made(100)); /* it did not come again, so nobody can have made that */
    do_something(f);
    g_assert_false(sfs_request_done()); /* not at an earlier worker */
    g_assert_cmpuint(remembered(f), ==, 1);
    sfs_request_end();
    g_assert_cmpuint(remembered(f), ==, 0);
    g_assert_cmpuint(running(f, 100), ==, 0);
    g_assert_cmpuint(sfs_request_number(), ==, 0);
}

static void
test_done(Fixture *f, gconstpointer data)
{
    die_in(f, do_and_die);
    g_assert_cmpuint(running(f, 100), ==, 1);

    begin(f, 101 | SFS_REQUEST_AGAIN);
    g_assert_true(sfs_request_again());
    g_assert_false(sfs_request_done());
    sfs_request_end();

    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_cmpuint(sfs_request_number(), ==, 100);
    g_assert_true(sfs_request_done());
    g_assert_true(sfs_request_made(100));
    g_assert_false(sfs_request_made(101));
    sfs_request_end();
    g_assert_cmpuint(remembered(f), ==, 0);

    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_false(sfs_request_done());
    sfs_request_end();
}

static void
test_prepared(Fixture *f, gconstpointer data)
{
    die_in(f, prepare_and_die);
    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_false(sfs_request_done());
    sfs_request_end();
}

static void
test_intended(Fixture *f, gconstpointer data)
{
    uint64_t value = 0;

    f->value = 1234567890123;
    die_in(f, intend_and_die);
    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_false(sfs_request_done());
    g_assert_true(sfs_request_intended(&value));
    g_assert_cmpuint(value, ==, 1234567890123);
    sfs_request_end();
    g_assert_cmpuint(remembered(f), ==, 0);

    begin(f, 102 | SFS_REQUEST_AGAIN);
    g_assert_false(sfs_request_intended(&value));
    sfs_request_intend(7);
    g_assert_false(sfs_request_intended(&value)); /* by this worker */
    sfs_request_end();
    g_assert_cmpuint(remembered(f), ==, 0);
}

static void
test_prune(Fixture *f, gconstpointer data)
{
    g_autoptr(GHashTable) numbers = g_hash_table_new(g_int64_hash, g_int64_equal);
    uint64_t number = 100;

    die_in(f, do_and_die);
    g_hash_table_add(numbers, &number);
    sfs_requests_prune(f->requests, numbers);
    g_assert_cmpuint(remembered(f), ==, 1);
    g_hash_table_remove_all(numbers);
    sfs_requests_prune(f->requests, numbers);
    g_assert_cmpuint(remembered(f), ==, 0);
    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_false(sfs_request_done());
    sfs_request_end();
}

static gpointer
go_on(gpointer data)
{
    Fixture *f = data;

    begin(f, 100 | SFS_REQUEST_AGAIN);
    f->flag = sfs_request_done();
    sfs_request_end();
    return NULL;
}

/* One that goes on on another thread takes along what it has done. */
static void
test_put_off(Fixture *f, gconstpointer data)
{
    die_in(f, do_and_die);
    begin(f, 100 | SFS_REQUEST_AGAIN);
    g_assert_true(sfs_request_done());
    sfs_request_put_off();
    sfs_request_end();
    g_assert_cmpuint(remembered(f), ==, 1);
    g_thread_join(g_thread_new("another", go_on, f));
    g_assert_true(f->flag);
    g_assert_cmpuint(remembered(f), ==, 0);
}

/* More requests at a time than can be noted are served all the same. */
static gpointer
begin_and_die(gpointer data)
{
    Fixture *f = data;

    begin(f, ++f->value);
    return NULL;
}

static void
test_many(Fixture *f, gconstpointer data)
{
    f->value = 1000;
    for (int i = 0; i < SFS_RUNNING_MAX; i++)
        g_thread_join(g_thread_new("one", begin_and_die, f));
    begin(f, 2000);
    g_assert_cmpuint(running(f, 2000), ==, 0);
    g_assert_cmpuint(running(f, 1001), ==, 1);
    g_assert_cmpuint(running(f, 1000 + SFS_RUNNING_MAX), ==, 1);
    sfs_request_end();
}

static GHashTable *
set_of(const uint64_t *number)
{
    GHashTable *numbers = g_hash_table_new(g_int64_hash, g_int64_equal);

    g_hash_table_add(numbers, (gpointer)number);
    return numbers;
}

/* A thread that does not end when its worker does keeps its request to itself. */
static void
test_held(Fixture *f, gconstpointer data)
{
    static const uint64_t gone = 1001, asleep = 100, another = 5;
    SfsRegistryHeader *header = sfs_registry_header(f->registry);
    g_autoptr(GHashTable) none = g_hash_table_new(g_int64_hash, g_int64_equal);
    g_autoptr(GHashTable) numbers = set_of(&asleep), others = set_of(&another);

    g_hash_table_add(numbers, (gpointer)&gone);
    f->value = gone - 1;
    g_thread_join(g_thread_new("one", begin_and_die, f));
    begin(f, asleep);
    sfs_requests_note_held(header, others); /* both were answered */
    g_assert_false(sfs_request_held(header, asleep));
    sfs_requests_note_held(header, numbers);
    g_assert_true(sfs_request_held(header, asleep | SFS_REQUEST_AGAIN));
    g_assert_false(sfs_request_held(header, gone));
    g_assert_false(sfs_request_held(header, another));
    sfs_request_end();

    /* The worker after the next one knows of it, too; until it is answered. */
    sfs_requests_note_held(header, numbers);
    g_assert_true(sfs_request_held(header, asleep));
    sfs_requests_note_held(header, none);
    g_assert_false(sfs_request_held(header, asleep));
}

/* One that was killed as it began had not noted yet which thread it was. */
static void
test_hardly_begun(Fixture *f, gconstpointer data)
{
    static const uint64_t number = 100;
    SfsRegistryHeader *header = sfs_registry_header(f->registry);
    g_autoptr(GHashTable) numbers = set_of(&number);

    atomic_store(&header->running[0].unique, number);
    sfs_requests_note_held(header, numbers);
    g_assert_false(sfs_request_held(header, number));
    header->running[0].process = getpid();
    sfs_requests_note_held(header, numbers);
    g_assert_false(sfs_request_held(header, number));
}

/* A main thread that has ended keeps its number while another one of its process is there. */
static void
test_ended(Fixture *f, gconstpointer data)
{
    static const uint64_t number = 100;
    SfsRegistryHeader *header = sfs_registry_header(f->registry);
    g_autoptr(GHashTable) numbers = set_of(&number);
    pid_t child = fork();
    siginfo_t info;

    if (child == 0)
        _exit(0);
    g_assert_no_errno(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
    atomic_store(&header->running[0].unique, number);
    header->running[0].process = header->running[0].thread = child;
    sfs_requests_note_held(header, numbers);
    g_assert_false(sfs_request_held(header, number));
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
}

static void
test_full(Fixture *f, gconstpointer data)
{
    SfsChange changes[2];
    uint32_t slot;

    while (sfs_registry_alloc(f->registry, SFS_TABLE_DONE, &slot) != NULL)
        ;
    begin(f, 100);
    g_assert_cmpuint(sfs_request_remember(changes, 1), ==, 1);
    sfs_request_intend(1);
    sfs_request_end();
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/request/none", test_none);
    ADD("/request/answered", test_answered);
    ADD("/request/done", test_done);
    ADD("/request/prepared", test_prepared);
    ADD("/request/intended", test_intended);
    ADD("/request/prune", test_prune);
    ADD("/request/put-off", test_put_off);
    ADD("/request/many", test_many);
    ADD("/request/held", test_held);
    ADD("/request/hardly-begun", test_hardly_begun);
    ADD("/request/ended", test_ended);
    ADD("/request/full", test_full);
    return g_test_run();
}
