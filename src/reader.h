/* SPDX-License-Identifier: MIT */
/*
 * Requests out of the kernel, into memory of a thread's own; and its pipe.
 *
 * The bytes of a large write are better not copied twice. Where the last request was one, the next
 * is taken by splice(2) into a pipe, which gets the very pages that the kernel has; what turns out
 * to be a large write stays there, all but its header, until the operation has it spliced on to
 * where it belongs, or brings it to memory after all.
 */
#pragma once

#include "common.h"

typedef struct SfsReader SfsReader;

/*
 * The most that one write may bring, bytes: with its header it has to fit into a pipe of the size
 * that everybody may have.
 */
#define SFS_READER_MAX_WRITE ((uint32_t)512 << 10)

/* Not thread-safe: a reader is for one thread. */
SfsReader *sfs_reader_new(void);
void sfs_reader_free(SfsReader *reader);

/* Waits for a request, some microseconds of that awake, and reads it; what was read before is gone.
 * Bytes, with *@request where they are; 0 for another try; or a negative errno (-ENODEV: the
 * connection has ended). */
ssize_t sfs_reader_next(SfsReader *reader, int device, void **request);

/* --- of the request that the calling thread has read last ------------------------------------ */

/* The pipe that the bytes of the write are in; -1: they are in memory, as everything else is. Who
 * splices them takes them from the front, and need not take them all. */
int sfs_reader_pipe(void);

/* Brings them to where they would have been in memory, but for the first @taken, which somebody has
 * taken out of the pipe. */
void sfs_reader_load(size_t taken);

/* --- of the calling thread's replies --------------------------------------------------------- */

/* An empty pipe for a reply's bytes, with room for all pages that SFS_READER_MAX_WRITE bytes can
 * touch: [0] is to be read from. NULL: there is none to be had, or the request's bytes are in it.
 */
const int *sfs_reader_reply_pipe(void);

/* Throws away what is in it. */
void sfs_reader_empty_reply_pipe(void);
