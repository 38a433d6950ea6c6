/* SPDX-License-Identifier: MIT */
#include "defer.h"

#include <string.h>

#define THREADS_EACH 4

struct SfsDeferral {
    GThreadPool *pools[SFS_WAITS];
};

typedef struct {
    struct fuse_session *session;
    struct fuse_buf buf; /* mem is our own */
} Deferred;

/* Of this thread: what it processes, and whether it may wait. */
static _Thread_local const struct fuse_buf *current;
static _Thread_local bool may_wait;

static void
run(gpointer data, gpointer unused)
{
    Deferred *deferred = data;

    may_wait = true;
    sfs_defer_serving(&deferred->buf);
    fuse_session_process_buf(deferred->session, &deferred->buf);
    sfs_defer_serving(NULL);
    g_free(deferred->buf.mem);
    g_free(deferred);
}

SfsDeferral *
sfs_deferral_new(void)
{
    SfsDeferral *deferral = g_new0(SfsDeferral, 1);

    for (int i = 0; i < SFS_WAITS; i++)
        deferral->pools[i] = g_thread_pool_new(run, NULL, THREADS_EACH, FALSE, NULL);
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

void
sfs_defer_serving(const struct fuse_buf *buf)
{
    current = buf;
}

bool
sfs_defer(fuse_req_t req, SfsWaitFor what)
{
    SfsMount *mount = fuse_req_userdata(req);
    Deferred *deferred;

    if (may_wait || current == NULL)
        return false;
    deferred = g_new0(Deferred, 1);
    deferred->session = mount->session;
    deferred->buf = *current;
    deferred->buf.mem = g_memdup2(current->mem, current->size);
    /* It is not answered here: the other thread gets it as if the kernel had sent it there. */
    fuse_reply_none(req);
    g_thread_pool_push(mount->deferral->pools[what], deferred, NULL);
    return true;
}
