/* SPDX-License-Identifier: MIT */
/*
 * A member's state says whether it has a seat. The member itself moves it from one to the next, and
 * whoever takes the seat away does so by moving it from WORKING to WITHOUT, which succeeds for one
 * of them alone: the member, who is about to wait, or the watch.
 *
 * The lock protects what is counted; it is held for moments, and never while anything is waited for
 * but the two conditions.
 *
 * The watch sleeps for good when there was no request for a while, and the next one wakes it. Both
 * sides first say what they do (`state`, `asleep`), then look at what the other one says, so one of
 * them sees it.
 */
#include "crew.h"

#include "log.h"

#include <poll.h>

/* The watch's. More often would cost more than it gains: each time, it is in somebody's way. */
#define TICK_US 10000

/* After so many without a request it sleeps. */
#define QUIET_TICKS 10

/* Somebody else is looked for after one in so many requests that may have waited; */
#define LOOK_EVERY 8

/* and if there is, the next that may wait let others in at once, so many times. */
#define EAGER 32

typedef enum {
    WITHOUT, /* a seat: elsewhere, or waiting for one */
    IDLE,    /* waits for a request */
    WORKING,
} State;

typedef struct {
    SfsCrew *crew;
    _Atomic int state;     /* a State */
    _Atomic uint32_t done; /* counts its requests */
    uint32_t seen;         /* the watch's: how many those were a tick ago */
    bool may_have_waited;  /* in this request, with its seat */
} Member;

struct SfsCrew {
    int device;
    _Atomic int eager;   /* so many times yet */
    _Atomic bool asleep; /* the watch is, until it is woken */
    GThread *watch;      /* NULL: there is none */

    GMutex lock;   /* protects all below */
    GCond seat;    /* there is one */
    GCond wake;    /* there is something to do for the watch */
    guint seats;   /* that nobody has */
    guint waiting; /* members that would like one */
    guint n_members;
    bool ended;

    Member members[];
};

static _Thread_local Member *me;

/* Takes its seat away, if it has one and works. */
static void
relieve(Member *member)
{
    SfsCrew *crew = member->crew;
    int state = WORKING;

    if (!atomic_compare_exchange_strong(&member->state, &state, WITHOUT))
        return;
    g_mutex_lock(&crew->lock);
    crew->seats++;
    if (crew->waiting > 0)
        g_cond_signal(&crew->seat);
    g_mutex_unlock(&crew->lock);
}

/* --- the watch ------------------------------------------------------------------------------- */

/* Relieves those that are still at the request of a tick ago. False: there was no request. */
static bool
look_around(SfsCrew *crew, guint n_members)
{
    bool busy = false;

    for (guint i = 0; i < n_members; i++) {
        Member *member = &crew->members[i];
        bool working = atomic_load(&member->state) == WORKING;
        uint32_t done = atomic_load(&member->done);

        if (working && done == member->seen)
            relieve(member);
        busy = busy || working || done != member->seen;
        member->seen = done;
    }
    return busy;
}

static gpointer
watch(gpointer data)
{
    SfsCrew *crew = data;
    guint quiet = 0;

    g_mutex_lock(&crew->lock);
    while (!crew->ended) {
        guint n_members = crew->n_members;

        g_mutex_unlock(&crew->lock);
        if (quiet < QUIET_TICKS)
            g_usleep(TICK_US);
        else
            atomic_store(&crew->asleep, true);
        quiet = look_around(crew, n_members) ? 0 : quiet + 1;
        g_mutex_lock(&crew->lock);
        if (quiet > QUIET_TICKS) {
            while (atomic_load(&crew->asleep) && !crew->ended)
                g_cond_wait(&crew->wake, &crew->lock);
            quiet = 0;
        }
        atomic_store(&crew->asleep, false);
    }
    g_mutex_unlock(&crew->lock);
    return NULL;
}

static void
wake_watch(SfsCrew *crew)
{
    g_mutex_lock(&crew->lock);
    atomic_store(&crew->asleep, false);
    g_cond_signal(&crew->wake);
    g_mutex_unlock(&crew->lock);
}

/* --- members --------------------------------------------------------------------------------- */

SfsCrew *
sfs_crew_new(int device, guint members, guint seats)
{
    SfsCrew *crew = g_malloc0(sizeof *crew + members * sizeof *crew->members);
    g_autoptr(GError) error = NULL;

    crew->device = device;
    g_mutex_init(&crew->lock);
    g_cond_init(&crew->seat);
    g_cond_init(&crew->wake);
    crew->seats = seats > 0 ? seats : MAX(g_get_num_processors() / 2, 1);
    crew->watch = g_thread_try_new("watch-crew", watch, crew, &error);
    if (crew->watch == NULL) {
        g_message("all threads serve at a time: %s", error->message);
        crew->seats = members;
    }
    return crew;
}

void
sfs_crew_free(SfsCrew *crew)
{
    g_mutex_lock(&crew->lock);
    crew->ended = true;
    g_cond_signal(&crew->wake);
    g_mutex_unlock(&crew->lock);
    if (crew->watch != NULL)
        g_thread_join(crew->watch);
    g_cond_clear(&crew->wake);
    g_cond_clear(&crew->seat);
    g_mutex_clear(&crew->lock);
    g_free(crew);
}

void
sfs_crew_enter(SfsCrew *crew)
{
    g_mutex_lock(&crew->lock);
    me = &crew->members[crew->n_members];
    me->crew = crew;
    crew->n_members++;
    g_mutex_unlock(&crew->lock);
}

void
sfs_crew_leave(void)
{
    int state = IDLE;

    atomic_compare_exchange_strong(&me->state, &state, WORKING);
    relieve(me);
    me = NULL;
}

static void
look_for_others(SfsCrew *crew)
{
    struct pollfd fd = {.fd = crew->device, .events = POLLIN};

    if (poll(&fd, 1, 0) > 0)
        atomic_store(&crew->eager, EAGER);
}

void
sfs_crew_sit(void)
{
    SfsCrew *crew = me->crew;
    int state = WORKING;

    if (me->may_have_waited && me->done % LOOK_EVERY == 0)
        look_for_others(crew);
    me->may_have_waited = false;
    if (atomic_compare_exchange_strong(&me->state, &state, IDLE) || state == IDLE)
        return;
    g_mutex_lock(&crew->lock);
    crew->waiting++;
    while (crew->seats == 0)
        g_cond_wait(&crew->seat, &crew->lock);
    crew->waiting--;
    crew->seats--;
    g_mutex_unlock(&crew->lock);
    atomic_store(&me->state, IDLE);
}

void
sfs_crew_work(void)
{
    if (me == NULL)
        return;
    atomic_fetch_add(&me->done, 1);
    atomic_store(&me->state, WORKING);
    if (atomic_load(&me->crew->asleep))
        wake_watch(me->crew);
}

void
sfs_crew_will_wait(void)
{
    if (me != NULL)
        relieve(me);
}

void
sfs_crew_may_wait(void)
{
    if (me == NULL)
        return;
    if (atomic_load(&me->crew->eager) > 0) {
        atomic_fetch_sub(&me->crew->eager, 1);
        relieve(me);
    } else {
        me->may_have_waited = true;
    }
}
