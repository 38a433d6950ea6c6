/* SPDX-License-Identifier: MIT */
/*
 * Pages that somebody else refers to are not moved. That somebody is a pipe: they are put into it
 * without being copied, and nobody reads them.
 */
#include "fixed.h"

#include "log.h"
#include "util.h"

#include <sys/mman.h>
#include <sys/uio.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What a pipe takes when it is new, and at most without a privilege. */
#define PIPE_SMALL (16 * SFS_PAGE_SIZE)
#define PIPE_LARGE ((size_t)1 << 20)
#define PIPES_MAX 8

#define STACK_SIZE ((size_t)PIPE_SMALL)

/* In a page before the memory. */
typedef struct {
    size_t size; /* of both */
    int pipes[PIPES_MAX];
    int n_pipes;
} Head;

/* A pipe with these pages in it, -1: there is none. */
static int
hold(void *from, size_t size)
{
    struct iovec iov = {from, size};
    int ends[2];

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return -1;
    if (size > PIPE_SMALL && fcntl(ends[1], F_SETPIPE_SZ, (int)size) < 0)
        g_debug("a pipe stays small: %s", g_strerror(errno));
    if (vmsplice(ends[1], &iov, 1, SPLICE_F_NONBLOCK) < 0)
        g_debug("memory that may be moved: %s", g_strerror(errno));
    close(ends[1]);
    return ends[0];
}

void *
sfs_fixed_new(size_t size)
{
    size_t whole = SFS_PAGE_SIZE + sfs_page_round_up(size);
    Head *head = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    char *memory;

    if (head == MAP_FAILED)
        g_error("no memory for a request");
    memory = (char *)head + SFS_PAGE_SIZE;
    head->size = whole;
    /* An ordinary user may not have as much; then it may be swapped out, but hardly is. */
    if (mlock(head, whole) != 0)
        g_debug("memory that is not locked: %s", g_strerror(errno));
    for (size_t at = 0; at < size && head->n_pipes < PIPES_MAX; at += PIPE_LARGE) {
        int pipe = hold(memory + at, MIN(sfs_page_round_up(size) - at, PIPE_LARGE));

        if (pipe >= 0)
            head->pipes[head->n_pipes++] = pipe;
    }
    return memory;
}

void
sfs_fixed_free(void *memory)
{
    Head *head;

    if (memory == NULL)
        return;
    head = (Head *)(void *)((char *)memory - SFS_PAGE_SIZE);
    for (int i = 0; i < head->n_pipes; i++)
        close(head->pipes[i]);
    munmap(head, head->size);
}

/* --- of a thread ----------------------------------------------------------------------------- */

static void
let_go(gpointer pipe)
{
    close(GPOINTER_TO_INT(pipe) - 1);
}

void
sfs_fixed_stack(void)
{
    static GPrivate key = G_PRIVATE_INIT(let_go);
    uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~((uintptr_t)SFS_PAGE_SIZE - 1);
    char *from = (char *)here + SFS_PAGE_SIZE - STACK_SIZE;

    if (g_private_get(&key) != NULL)
        return;
    if (madvise(from, STACK_SIZE, MADV_POPULATE_WRITE) != 0 || mlock(from, STACK_SIZE) != 0)
        g_debug("a stack that is not locked: %s", g_strerror(errno));
    g_private_set(&key, GINT_TO_POINTER(hold(from, STACK_SIZE) + 1));
}

void *
sfs_fixed_buffer(size_t size)
{
    static GPrivate key = G_PRIVATE_INIT(sfs_fixed_free);
    static _Thread_local size_t room;

    if (room < MAX(size, 1)) {
        room = MAX(sfs_page_round_up(MAX(size, 1)), 2 * room);
        g_private_replace(&key, sfs_fixed_new(room));
    }
    return g_private_get(&key);
}
