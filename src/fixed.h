/* SPDX-License-Identifier: MIT */
/*
 * Memory that the kernel copies to and from while it talks to a worker. Such a copy must not have
 * to wait for a page: if the worker is killed just then, the kernel gives the copy up, and answers
 * the client with EIO. So this memory is there from the start, is not swapped out, and is not moved
 * to another place in order to make room for larger pieces (which takes it away for a moment).
 * That much is tried: an ordinary user may lack the right to as much of it.
 */
#pragma once

#include "common.h"

/* Zeroed. */
void *sfs_fixed_new(size_t size);
void sfs_fixed_free(void *memory);

/* The same for what the calling thread's stack is going to be, as far as replies are put together
 * there. */
void sfs_fixed_stack(void);

/* A buffer of this thread's, at least @size bytes, which lives until the thread's next call. */
void *sfs_fixed_buffer(size_t size);
