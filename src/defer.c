/* SPDX-License-Identifier: MIT */
#include "defer.h"

#include "fixed.h"
#include "reader.h"
#include "request.h"
#include "util.h"

#include <linux/fuse.h>
#include <string.h>

#define THREADS_EACH 4

#define HELD_PAUSE_US 1000

struct SfsDeferral {
    GThreadPool *pools[SFS_WAITS];
};

typedef struct {
    SfsMount *mount;
    struct fuse_buf buf; /* mem is our own */
} Deferred;

/* Of this thread: what it processes, and whether it may wait. */
static _Thread_local const struct fuse_buf *current;
static _Thread_local bool may_wait;

static void
process(SfsMount *mount, const struct fuse_buf *buf)
{
    const struct fuse_in_header *in = buf->mem;

    current = buf;
    sfs_request_begin(mount->requests, in->unique, in->opcode, in->nodeid);
    fuse_session_process_buf(mount->session, buf);
    sfs_request_end();
    current = NULL;
}

/* Only what comes again can be. */
static bool
is_held(SfsMount *mount, const struct fuse_buf *buf)
{
    const struct fuse_in_header *in = buf->mem;

    return in->unique & SFS_REQUEST_AGAIN && sfs_request_held(mount->header, in->unique);
}

static void
run(gpointer data, gpointer unused)
{
    Deferred *deferred = data;

    may_wait = true;
    sfs_fixed_stack();
    while (is_held(deferred->mount, &deferred->buf))
        g_usleep(HELD_PAUSE_US);
    process(deferred->mount, &deferred->buf);
    g_free(deferred->buf.mem);
    g_free(deferred);
}

SfsDeferral *
sfs_deferral_new(void)
{
    SfsDeferral *deferral = g_new0(SfsDeferral, 1);

    for (int i = 0; i < SFS_WAITS; i++)
        deferral->pools[i] =
            g_thread_pool_new(run, NULL, i == SFS_WAIT_HELD ? -1 : THREADS_EACH, FALSE, NULL);
    return deferral;
}

bool
sfs_deferral_free(SfsDeferral *deferral)
{
    for (int i = 0; i < SFS_WAITS; i++) {
        if (g_thread_pool_get_num_threads(deferral->pools[i]) > 0)
            return false;
    }
    for (int i = 0; i < SFS_WAITS; i++)
        g_thread_pool_free(deferral->pools[i], TRUE, TRUE);
    g_free(deferral);
    return true;
}

static void
push(SfsMount *mount, const struct fuse_buf *buf, SfsWaitFor what)
{
    Deferred *deferred = g_new0(Deferred, 1);

    /* All of it, wherever it is. */
    sfs_reader_load(0);
    deferred->mount = mount;
    deferred->buf = *buf;
    deferred->buf.mem = g_memdup2(buf->mem, buf->size);
    sfs_pool_push(mount->deferral->pools[what], deferred);
}

void
sfs_defer_process(SfsMount *mount, const struct fuse_buf *buf)
{
    if (is_held(mount, buf))
        push(mount, buf, SFS_WAIT_HELD);
    else
        process(mount, buf);
}

bool
sfs_defer(fuse_req_t req, SfsWaitFor what)
{
    SfsMount *mount = fuse_req_userdata(req);

    if (may_wait || current == NULL)
        return false;
    sfs_request_put_off();
    /* It is not answered here: the other thread gets it as if the kernel had sent it there. */
    fuse_reply_none(req);
    push(mount, current, what);
    return true;
}
