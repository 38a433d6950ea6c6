/* SPDX-License-Identifier: MIT */
/* Small functions without a home of their own: numbers, times, descriptors. All are thread-safe. */
#pragma once

#include "common.h"

#include <time.h>

/* Parses "4096", "64k", "1.5G" is refused: an unsigned whole number with an optional suffix
 * K, M, G, T, P or E of either case (powers of 1024). 0, or -EINVAL for anything else, -ERANGE
 * where the result does not fit 63 bits (the largest file offset). */
int sfs_parse_size(const char *text, uint64_t *bytes);

/* Parses a whole number in @base (8 or 10) not above @max. 0, -EINVAL or -ERANGE. */
int sfs_parse_number(const char *text, int base, uint64_t max, uint64_t *value);

/* The real-time clock, fine, so that two changes have two times. */
struct timespec sfs_now(void);

/* < 0, 0 or > 0, as the first is earlier, the same or later; and the later of the two. */
int sfs_time_compare(struct timespec a, struct timespec b);
struct timespec sfs_time_max(struct timespec a, struct timespec b);

/* Whether an access at @now is to be noted, as relatime has it: where the one noted last is not
 * younger than the last change, or a day old. */
bool sfs_atime_is_due(struct timespec atime, struct timespec mtime, struct timespec ctime,
                      struct timespec now);

/* pread(2)/pwrite(2) of all of it, whatever the kernel returns piecemeal and whatever signal comes.
 * read: bytes read, short only at the end of the file; write: 0. Negative errno on failure. */
ssize_t sfs_pread_full(int fd, void *buf, size_t size, off_t offset);
int sfs_pwrite_full(int fd, const void *buf, size_t size, off_t offset);

/* How many of @size bytes from @offset on are below the end of a file, as far as that can be told.
 */
size_t sfs_below_end(int fd, size_t size, off_t offset);

/* Writes @size bytes from the front of a pipe that has them: bytes, fewer where the file took no
 * more; a negative errno if none. */
ssize_t sfs_splice_full(int pipe, int fd, size_t size, off_t offset);

/* Reads @size bytes into a pipe with room for them: bytes, fewer where the file has no more or the
 * pipe takes no more; a negative errno if none. */
ssize_t sfs_splice_from(int fd, off_t offset, int pipe, size_t size);

/* Reads a small text file (of /proc, as a rule) relative to @dirfd, NUL-terminates it, cuts it at
 * @size - 1. Bytes read or a negative errno. */
ssize_t sfs_read_text(int dirfd, const char *path, char *buf, size_t size);

/* Rounds up to whole pages; saturates instead of wrapping round. */
static inline uint64_t
sfs_page_round_up(uint64_t n)
{
    return n > UINT64_MAX - (SFS_PAGE_SIZE - 1)
               ? UINT64_MAX - (SFS_PAGE_SIZE - 1)
               : (n + SFS_PAGE_SIZE - 1) & ~(uint64_t)(SFS_PAGE_SIZE - 1);
}

/* Has a thread of @pool do something. Where there is none and none can be made, for a second, the
 * process ends: whoever waits for it would wait for ever, and another worker can do it. */
void sfs_pool_push(GThreadPool *pool, gpointer data);
