/* SPDX-License-Identifier: MIT */
#include "reader.h"

#include "fixed.h"
#include "util.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>

/* The kernel refuses to be read with less than the largest request takes. */
#define BUFFER_SIZE ((size_t)SFS_READER_MAX_WRITE + ((size_t)64 << 10))

#define PIPE_SIZE ((size_t)1 << 20)
#define HEADERS (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

/* A write of fewer bytes costs more to splice than to copy. */
#define LARGE ((size_t)64 << 10)

/* So long a thread stays awake for its next request. A client that goes on as soon as it has its
 * answer needs less. */
#define LINGER_US 30

/* If there was none, it goes to sleep at once the next times: once, three times, seven, ... */
#define MISSES_MAX 6

struct SfsReader {
    char *buffer;
    int pipe[2];   /* -1 until there is need of it, or if there is none to be had */
    bool no_pipe;  /* there is none to be had */
    bool large;    /* the last request was a large write */
    size_t behind; /* bytes of the last request that were left in the pipe */
    bool alone;    /* on a single processor, where nobody can ask while we wait awake */
    guint misses;  /* how often, lately, that was for nothing */
    guint rest;    /* so many times it is not tried */
};

static _Thread_local SfsReader *mine;

SfsReader *
sfs_reader_new(void)
{
    SfsReader *reader = g_new0(SfsReader, 1);

    reader->buffer = sfs_fixed_new(BUFFER_SIZE);
    reader->pipe[0] = reader->pipe[1] = -1;
    reader->alone = g_get_num_processors() == 1;
    return reader;
}

static void
close_pipe(SfsReader *reader)
{
    for (int i = 0; i < 2; i++) {
        if (reader->pipe[i] >= 0)
            close(reader->pipe[i]);
        reader->pipe[i] = -1;
    }
}

void
sfs_reader_free(SfsReader *reader)
{
    if (mine == reader)
        mine = NULL;
    close_pipe(reader);
    sfs_fixed_free(reader->buffer);
    g_free(reader);
}

static bool
have_pipe(SfsReader *reader)
{
    if (reader->pipe[0] >= 0 || reader->no_pipe)
        return !reader->no_pipe;
    if (pipe2(reader->pipe, O_CLOEXEC | O_NONBLOCK) != 0 ||
        fcntl(reader->pipe[0], F_SETPIPE_SZ, (int)PIPE_SIZE) < (int)PIPE_SIZE) {
        close_pipe(reader);
        reader->no_pipe = true;
    }
    return !reader->no_pipe;
}

/* Reads what is known to be in the pipe. */
static void
take(SfsReader *reader, size_t from, size_t size)
{
    while (size > 0) {
        ssize_t n = read(reader->pipe[0], reader->buffer + from, size);

        if (n <= 0 && errno != EINTR)
            g_error("what was put into a pipe is not there: %s", g_strerror(errno));
        from += n > 0 ? (size_t)n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

/* As much as nobody wanted. */
static void
empty_pipe(SfsReader *reader)
{
    while (reader->behind > 0 && read(reader->pipe[0], reader->buffer, BUFFER_SIZE) > 0)
        ;
    reader->behind = 0;
}

static ssize_t
read_spliced(SfsReader *reader, int device)
{
    const struct fuse_in_header *in = (const void *)reader->buffer;
    ssize_t n = splice(device, NULL, reader->pipe[1], NULL, BUFFER_SIZE, 0);
    size_t head;

    if (n <= 0)
        return n;
    head = MIN((size_t)n, HEADERS);
    take(reader, 0, head);
    if (in->opcode == FUSE_WRITE && (size_t)n >= HEADERS + LARGE)
        reader->behind = (size_t)n - head;
    else
        take(reader, head, (size_t)n - head);
    return n;
}

/* Where requests come one after another, waking up for each takes longer than most of them do. */
static void
linger(SfsReader *reader, int device)
{
    struct pollfd fd = {.fd = device, .events = POLLIN};
    gint64 end;

    if (reader->alone)
        return;
    if (reader->rest > 0) {
        reader->rest--;
        return;
    }
    end = g_get_monotonic_time() + LINGER_US;
    do {
        if (poll(&fd, 1, 0) != 0) {
            reader->misses = 0;
            return;
        }
    } while (g_get_monotonic_time() < end);
    reader->misses = MIN(reader->misses + 1, MISSES_MAX);
    reader->rest = (1u << reader->misses) - 1;
}

ssize_t
sfs_reader_next(SfsReader *reader, int device, void **request)
{
    const struct fuse_in_header *in = (const void *)reader->buffer;
    bool spliced;
    ssize_t n;

    empty_pipe(reader);
    linger(reader, device);
    mine = reader;
    spliced = reader->large && have_pipe(reader);
    n = spliced ? read_spliced(reader, device) : read(device, reader->buffer, BUFFER_SIZE);
    /* ENOENT: it was interrupted before it was read. */
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
        return 0;
    if (n < 0 && spliced) {
        /* Without a pipe there is less that can fail: memory for its pages, for one. */
        close_pipe(reader);
        reader->no_pipe = true;
        return 0;
    }
    if (n < 0)
        return -errno;
    if (n < (ssize_t)sizeof *in)
        return -EIO;
    reader->large = in->opcode == FUSE_WRITE && (size_t)n >= HEADERS + LARGE;
    *request = reader->buffer;
    return n;
}

int
sfs_reader_pipe(void)
{
    return mine != NULL && mine->behind > 0 ? mine->pipe[0] : -1;
}

void
sfs_reader_load(size_t taken)
{
    if (sfs_reader_pipe() < 0)
        return;
    take(mine, HEADERS + taken, mine->behind - taken);
    mine->behind = 0;
}

const int *
sfs_reader_reply_pipe(void)
{
    return mine != NULL && have_pipe(mine) && mine->behind == 0 ? mine->pipe : NULL;
}

void
sfs_reader_empty_reply_pipe(void)
{
    /* Not the reader's buffer: the request is still there. */
    char *unwanted = sfs_fixed_buffer(LARGE);

    while (read(mine->pipe[0], unwanted, LARGE) > 0)
        ;
}
