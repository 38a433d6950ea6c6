/* SPDX-License-Identifier: MIT */
/*
 * The request that a thread is working on, for the rooms that have to know whether it has been here
 * before.
 *
 * A request that a worker had read and not answered when it died is sent again by the kernel, with
 * a mark. It may have been carried out or not. Most requests may simply be done once more. Of those
 * that may not, what has been done is remembered in the registry, by the request's number, which
 * the kernel never gives twice:
 *  - what makes a record (a node, a name, a handle) notes its number in that record, `made_by`;
 *  - what only takes away or moves adds a record to the change itself (sfs_request_remember()).
 * Either becomes valid by the same store as the effect, so there is no moment at which one is there
 * without the other. Requests that failed have done nothing and are not remembered.
 *
 * For what happens outside of the registry, and so cannot be remembered in one step with it, there
 * is an intention (sfs_request_intend()): whoever finds it has to look whether it was carried out.
 *
 * A number in a record needs no clearing. The records of the second kind are freed when their
 * request has been answered; those that a death leaves behind when the next worker has seen all
 * that comes again, and theirs is not among it.
 */
#pragma once

#include "common.h"
#include "registry.h"

/* Set in the number of a request that is sent again. */
#define SFS_REQUEST_AGAIN ((uint64_t)1 << 63)

typedef struct SfsRequests SfsRequests;

/* --- what they have done --------------------------------------------------------------------- */

/* Takes up what the registry remembers. */
SfsRequests *sfs_requests_new(SfsRegistry *registry);
void sfs_requests_free(SfsRequests *requests);

/*
 * A thread that was asleep in the kernel when its worker was killed, waiting for a disk or a file
 * server, may be there still when the next worker comes (keeper.c, leave_behind()). It does what it
 * had begun once it wakes up, and nothing after that. Until then its request must not be done
 * again: the same bytes would be appended twice, or old ones be written over newer ones.
 */

/* Notes which of those that dead workers had under way, and which are in @numbers, are held so.
 * Before there are threads. */
void sfs_requests_note_held(SfsRegistryHeader *header, GHashTable *numbers);

/* Whether the request with this number still is. */
bool sfs_request_held(SfsRegistryHeader *header, uint64_t number);

/* Forgets what no request in @numbers (a set of uint64_t, without the mark) has done. Before there
 * are threads. */
void sfs_requests_prune(SfsRequests *requests, GHashTable *numbers);

/* The calling thread begins, and ends, to work on a request. @unique as the kernel sent it. */
void sfs_request_begin(SfsRequests *requests, uint64_t unique, uint32_t opcode, uint64_t nodeid);
void sfs_request_end(void);

/* --- of the calling thread's request --------------------------------------------------------- */

/* Its number, 0 if there is none (nothing that is remembered has that). */
uint64_t sfs_request_number(void);

/* Whether it was sent before; only then can it have been done. */
bool sfs_request_again(void);

/* Whether a record's made_by says that it was made by this very request, at an earlier worker. */
static inline bool
sfs_request_made(uint64_t made_by)
{
    return made_by != 0 && sfs_request_again() && made_by == sfs_request_number();
}

/* Adds to @changes, of which there are @n, that it has been done. The new @n. */
unsigned sfs_request_remember(SfsChange *changes, unsigned n);

/* Whether that was so already. */
bool sfs_request_done(void);

/* Notes what it is about to do; the record is valid when this returns. */
void sfs_request_intend(uint64_t value);
/* Whether it has noted that already. */
bool sfs_request_intended(uint64_t *value);

/* It goes on on another thread, that begins it anew. */
void sfs_request_put_off(void);
