/* SPDX-License-Identifier: MIT */
#include "util.h"

#include <string.h>

int
sfs_parse_number(const char *text, int base, uint64_t max, uint64_t *value)
{
    char *end = NULL;
    guint64 n;

    /* strtoull takes signs and spaces; a size has none. */
    if (!g_ascii_isdigit(text[0]))
        return -EINVAL;
    /* Its first call sets up a locale, which may leave any errno behind: only this one counts. */
    errno = 0;
    n = g_ascii_strtoull(text, &end, base);
    if (*end != '\0')
        return -EINVAL;
    if (n == G_MAXUINT64 && errno == ERANGE)
        return -ERANGE;
    if (n > max)
        return -ERANGE;
    *value = n;
    return 0;
}

int
sfs_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "kmgtpe";
    size_t len = strlen(text);
    const char *suffix = NULL;
    g_autofree char *digits = NULL;
    unsigned shift = 0;
    uint64_t n;
    int r;

    if (len == 0)
        return -EINVAL;
    suffix = memchr(suffixes, g_ascii_tolower(text[len - 1]), sizeof suffixes - 1);
    if (suffix != NULL) {
        shift = 10 * (unsigned)(suffix - suffixes + 1);
        len--;
    }
    digits = g_strndup(text, len);
    r = sfs_parse_number(digits, 10, INT64_MAX, &n);
    if (r < 0)
        return r;
    if (n > (uint64_t)INT64_MAX >> shift)
        return -ERANGE;
    *bytes = n << shift;
    return 0;
}

struct timespec
sfs_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now;
}

int
sfs_time_compare(struct timespec a, struct timespec b)
{
    if (a.tv_sec != b.tv_sec)
        return a.tv_sec < b.tv_sec ? -1 : 1;
    return a.tv_nsec < b.tv_nsec ? -1 : a.tv_nsec > b.tv_nsec;
}

struct timespec
sfs_time_max(struct timespec a, struct timespec b)
{
    return sfs_time_compare(a, b) >= 0 ? a : b;
}

bool
sfs_atime_is_due(struct timespec atime, struct timespec mtime, struct timespec ctime,
                 struct timespec now)
{
    return sfs_time_compare(atime, sfs_time_max(mtime, ctime)) <= 0 ||
           atime.tv_sec <= now.tv_sec - 24 * 60 * 60;
}

ssize_t
sfs_pread_full(int fd, void *buf, size_t size, off_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(fd, (char *)buf + done, size - done, offset + (off_t)done);

        if (n == 0)
            break;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int
sfs_pwrite_full(int fd, const void *buf, size_t size, off_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pwrite(fd, (const char *)buf + done, size - done, offset + (off_t)done);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)n;
    }
    return 0;
}

size_t
sfs_below_end(int fd, size_t size, off_t offset)
{
    struct statx st;

    /* What is known of it here: to ask a file server would have all be written back first. */
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st) != 0)
        return size;
    return (uint64_t)offset >= st.stx_size
               ? 0
               : (size_t)MIN((uint64_t)size, st.stx_size - (uint64_t)offset);
}

/* NULL: of a pipe. */
static ssize_t
splice_full(int from, off_t *from_offset, int to, off_t *to_offset, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = splice(from, from_offset, to, to_offset, size - done, SPLICE_F_MOVE);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return done > 0 || n == 0 ? (ssize_t)done : -errno;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t
sfs_splice_full(int pipe, int fd, size_t size, off_t offset)
{
    return splice_full(pipe, NULL, fd, &offset, size);
}

ssize_t
sfs_splice_from(int fd, off_t offset, int pipe, size_t size)
{
    return splice_full(fd, &offset, pipe, NULL, size);
}

ssize_t
sfs_read_text(int dirfd, const char *path, char *buf, size_t size)
{
    sfs_autofd fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = sfs_pread_full(fd, buf, size - 1, 0);
    if (n < 0)
        return n;
    buf[n] = '\0';
    return n;
}

#define POOL_TRIES 100
#define POOL_PAUSE_US 10000

void
sfs_pool_push(GThreadPool *pool, gpointer data)
{
    g_autoptr(GError) error = NULL;

    if (g_thread_pool_push(pool, data, &error))
        return;
    /* It is in the queue all the same. Asking for as many threads as before has GLib try again. */
    for (int i = 0; i < POOL_TRIES; i++) {
        if (g_thread_pool_get_num_threads(pool) > 0 || g_thread_pool_unprocessed(pool) == 0)
            return;
        g_usleep(POOL_PAUSE_US);
        g_thread_pool_set_max_threads(pool, g_thread_pool_get_max_threads(pool), NULL);
    }
    g_critical("no thread is to be had: %s", error->message);
    _exit(1);
}
