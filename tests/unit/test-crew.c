/* SPDX-License-Identifier: MIT */
/* How many threads serve at a time: with seats for fewer than there are, nobody may have to wait
 * for what another one waits for. Requests are bytes in a pipe. */
#include "crew.h"

#include <fcntl.h>

#define MEMBERS 4

/* Much longer than it takes anybody to be let in. */
#define PATIENCE_US (10 * G_USEC_PER_SEC)

typedef enum {
    QUICK = 'q',
    SAYS_SO = 's',      /* that it will wait, and does */
    MAY_WAIT = 'm',     /* says that it may, and does */
    SAYS_NOTHING = 'n', /* and waits */
} Request;

typedef struct {
    int pipe[2];
    SfsCrew *crew;
    GThread *threads[MEMBERS];
    GMutex lock;
    GCond changed;
    bool open;         /* those that wait may go on */
    guint waiting;     /* of them */
    guint quick, done; /* requests that are done, in all */
    gint at_work, most_at_work;
} Fixture;

static void
wait_until_open(Fixture *f)
{
    g_mutex_lock(&f->lock);
    f->waiting++;
    g_cond_broadcast(&f->changed);
    while (!f->open)
        g_cond_wait(&f->changed, &f->lock);
    f->waiting--;
    g_mutex_unlock(&f->lock);
}

static void
work_on(Fixture *f, Request request)
{
    sfs_crew_work();
    switch (request) {
    case SAYS_SO:
        sfs_crew_will_wait();
        wait_until_open(f);
        break;
    case MAY_WAIT:
        sfs_crew_may_wait();
        wait_until_open(f);
        break;
    case SAYS_NOTHING:
        wait_until_open(f);
        break;
    default:
        break;
    }
    g_mutex_lock(&f->lock);
    f->done++;
    f->quick += request == QUICK;
    g_cond_broadcast(&f->changed);
    g_mutex_unlock(&f->lock);
}

static gpointer
serve(gpointer data)
{
    Fixture *f = data;
    char request;
    ssize_t n;

    sfs_crew_enter(f->crew);
    do {
        gint now;

        sfs_crew_sit();
        now = g_atomic_int_add(&f->at_work, 1) + 1;
        if (now > g_atomic_int_get(&f->most_at_work))
            g_atomic_int_set(&f->most_at_work, now);
        n = read(f->pipe[0], &request, 1);
        g_atomic_int_add(&f->at_work, -1);
        if (n == 1)
            work_on(f, (Request)request);
    } while (n == 1);
    sfs_crew_leave();
    return NULL;
}

static void
set_up(Fixture *f, gconstpointer seats)
{
    g_assert_cmpint(pipe2(f->pipe, O_CLOEXEC), ==, 0);
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
    f->crew = sfs_crew_new(f->pipe[0], MEMBERS, GPOINTER_TO_UINT(seats));
    for (int i = 0; i < MEMBERS; i++)
        f->threads[i] = g_thread_new("serve", serve, f);
}

static void
open_all(Fixture *f)
{
    g_mutex_lock(&f->lock);
    f->open = true;
    g_cond_broadcast(&f->changed);
    g_mutex_unlock(&f->lock);
}

static void
tear_down(Fixture *f, gconstpointer seats)
{
    open_all(f);
    close(f->pipe[1]);
    for (int i = 0; i < MEMBERS; i++)
        g_thread_join(f->threads[i]);
    sfs_crew_free(f->crew);
    close(f->pipe[0]);
    g_cond_clear(&f->changed);
    g_mutex_clear(&f->lock);
}

static void
request(Fixture *f, Request what)
{
    char byte = (char)what;

    g_assert_cmpint(write(f->pipe[1], &byte, 1), ==, 1);
}

/* Until *@count is @n. */
static void
expect(Fixture *f, const guint *count, guint n)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_US;

    g_mutex_lock(&f->lock);
    while (*count != n)
        g_assert_true(g_cond_wait_until(&f->changed, &f->lock, end));
    g_mutex_unlock(&f->lock);
}

static void
test_seats(Fixture *f, gconstpointer seats)
{
    for (guint i = 0; i < 1000; i++)
        request(f, QUICK);
    expect(f, &f->quick, 1000);
    g_assert_cmpint(g_atomic_int_get(&f->most_at_work), <=, (gint)GPOINTER_TO_UINT(seats));
}

/* All but one of the members wait, and the last one serves. */
static void
wait_in_all(Fixture *f, Request how)
{
    for (guint i = 1; i < MEMBERS; i++) {
        request(f, how);
        expect(f, &f->waiting, i);
        request(f, QUICK);
        expect(f, &f->quick, i);
    }
    open_all(f);
    expect(f, &f->done, 2 * (MEMBERS - 1));
    request(f, QUICK);
    expect(f, &f->quick, MEMBERS);
}

static void
test_says_so(Fixture *f, gconstpointer seats)
{
    wait_in_all(f, SAYS_SO);
}

static void
test_may_wait(Fixture *f, gconstpointer seats)
{
    wait_in_all(f, MAY_WAIT);
}

static void
test_says_nothing(Fixture *f, gconstpointer seats)
{
    wait_in_all(f, SAYS_NOTHING);
}

/* The watch has gone to sleep when the request comes. */
static void
test_after_a_rest(Fixture *f, gconstpointer seats)
{
    for (guint i = 1; i <= 3; i++) {
        g_usleep(300000);
        request(f, SAYS_NOTHING);
        expect(f, &f->waiting, i);
    }
    request(f, QUICK);
    expect(f, &f->quick, 1);
}

/* Who says so when it is nobody's. */
static void
test_no_member(void)
{
    sfs_crew_work();
    sfs_crew_will_wait();
    sfs_crew_may_wait();
}

static void
add(const char *name, guint seats, void (*test)(Fixture *, gconstpointer))
{
    g_test_add(name, Fixture, GUINT_TO_POINTER(seats), set_up, test, tear_down);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/crew/seats/1", 1, test_seats);
    add("/crew/seats/3", 3, test_seats);
    add("/crew/says-so", 1, test_says_so);
    add("/crew/may-wait", 1, test_may_wait);
    add("/crew/says-nothing", 1, test_says_nothing);
    add("/crew/says-nothing/2", 2, test_says_nothing);
    add("/crew/after-a-rest", 1, test_after_a_rest);
    g_test_add_func("/crew/no-member", test_no_member);
    return g_test_run();
}
