/* SPDX-License-Identifier: MIT */
/* How long a thread stays awake for its next request. Requests are packets in a socket; what
 * poll(2) says of them, and how often it is asked, is this file's. */
#include "reader.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/socket.h>

static int device = -1;   /* polls of it are counted, */
static guint polls;       /* so many, */
static guint nothing = 0; /* and this many times nothing is found, whatever is there */

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);

/* What the daemon's code calls poll(2). */
int
__wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
    if (n != 1 || fds->fd != device)
        return __real_poll(fds, n, timeout);
    polls++;
    if (nothing > 0) {
        nothing--;
        return 0;
    }
    return 1;
}

typedef struct {
    int ends[2];
    SfsReader *reader;
} Fixture;

static void
set_up(Fixture *f, gconstpointer unused)
{
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->ends));
    device = f->ends[0];
    polls = nothing = 0;
    f->reader = sfs_reader_new();
}

static void
tear_down(Fixture *f, gconstpointer unused)
{
    sfs_reader_free(f->reader);
    close(f->ends[0]);
    close(f->ends[1]);
}

/* Has a request, which is there already; how often was looked for it first. */
static guint
next(Fixture *f)
{
    struct fuse_in_header in = {.len = sizeof in, .opcode = FUSE_STATFS, .unique = 7};
    void *request;

    g_assert_cmpint(send(f->ends[1], &in, sizeof in, 0), ==, sizeof in);
    polls = 0;
    g_assert_cmpint(sfs_reader_next(f->reader, device, &request), ==, sizeof in);
    g_assert_cmpmem(request, sizeof in, &in, sizeof in);
    return polls;
}

/* The same where none came while it was looked for. */
static guint
next_late(Fixture *f)
{
    nothing = G_MAXUINT;
    guint looked = next(f);
    nothing = 0;
    return looked;
}

static bool
can_linger(void)
{
    if (g_get_num_processors() > 1)
        return true;
    g_test_skip("on a single processor nobody lingers");
    return false;
}

static void
test_at_once(Fixture *f, gconstpointer unused)
{
    for (int i = 0; i < 100 && can_linger(); i++)
        g_assert_cmpuint(next(f), ==, 1);
}

static void
test_soon(Fixture *f, gconstpointer unused)
{
    for (int i = 0; i < 100 && can_linger(); i++) {
        nothing = 1;
        guint looked = next(f);
        /* Once more, unless this process did not run for the whole of a moment. */
        g_assert_cmpuint(looked, <=, 2);
        if (looked == 1) /* that was a miss, so it rests */
            next(f);
        g_assert_cmpuint(next(f), ==, 1);
    }
}

/* Who does not find anything looks ever more rarely: what comes now and then costs next to nothing.
 */
static void
test_rarely(Fixture *f, gconstpointer unused)
{
    static const guint rests[] = {1, 3, 7, 15, 31, 63, 63, 63};

    if (!can_linger())
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(rests); i++) {
        g_assert_cmpuint(next_late(f), >, 0);
        for (guint k = 0; k < rests[i]; k++)
            g_assert_cmpuint(next_late(f), ==, 0);
    }
    /* One that is there makes up for all that. */
    g_assert_cmpuint(next(f), ==, 1);
    g_assert_cmpuint(next_late(f), >, 0);
    g_assert_cmpuint(next_late(f), ==, 0);
    g_assert_cmpuint(next(f), ==, 1);
}

/* It is a matter of microseconds, not of how often is looked. */
static void
test_for_a_moment(Fixture *f, gconstpointer unused)
{
    gint64 least = G_MAXINT64;

    for (int i = 0; i < 1000 && can_linger(); i++) {
        gint64 start = g_get_monotonic_time();

        if (next_late(f) > 0)
            least = MIN(least, g_get_monotonic_time() - start);
        next(f);
    }
    if (least != G_MAXINT64) {
        g_assert_cmpint(least, >=, 20);
        g_assert_cmpint(least, <, 5000); /* much longer than that it is never meant to be */
    }
}

/* The end of the connection is not a request. */
static void
test_end(Fixture *f, gconstpointer unused)
{
    void *request;

    close(f->ends[1]);
    f->ends[1] = -1;
    g_assert_cmpint(sfs_reader_next(f->reader, device, &request), ==, -EIO);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/reader/at-once", Fixture, NULL, set_up, test_at_once, tear_down);
    g_test_add("/reader/soon", Fixture, NULL, set_up, test_soon, tear_down);
    g_test_add("/reader/rarely", Fixture, NULL, set_up, test_rarely, tear_down);
    g_test_add("/reader/for-a-moment", Fixture, NULL, set_up, test_for_a_moment, tear_down);
    g_test_add("/reader/end", Fixture, NULL, set_up, test_end, tear_down);
    return g_test_run();
}
