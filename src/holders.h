/* SPDX-License-Identifier: MIT */
/*
 * Who has a file open or mapped, as /proc tells it. The daemon's own books know who opened a file;
 * only the kernel knows who has the descriptor now, after forks, duplicates and sockets, and who
 * has it mapped.
 *
 * The file itself is not touched, nor its mount: what /proc says of a descriptor (fdinfo) and of a
 * mapping (maps) names device and inode by itself. Asking the filesystem would be asking the
 * caller.
 *
 * What is not seen: processes that the caller may not look into (those of other users, where it is
 * not root) or that its /proc does not show; descriptors on their way through a socket; O_PATH
 * descriptors, which hold nothing open; descriptors on a mount that no process sees any more,
 * because it was detached (their mappings are seen).
 *
 * The answers are as true as one walk over processes that go on running can be: whoever has the
 * file all the while is in them, once.
 *
 * Thread-safe. May block on other processes' locks, which a page fault that waits for the daemon
 * may hold: not for threads that serve.
 */
#pragma once

#include "common.h"

typedef struct {
    pid_t pid;
    uid_t uid;          /* the effective one */
    char command[16];   /* as the process set it: any bytes but NUL; see sfs_holder_command() */
    bool reads, writes; /* what its descriptors may do; neither: it has none, only a mapping */
    bool maps;
} SfsHolder;

/* The longest text that sfs_holder_command() makes, with its NUL. */
#define SFS_HOLDER_COMMAND_MAX (15 * 4 + 1)

/* Appends an SfsHolder to @holders for each process that has a descriptor on file @ino of
 * filesystem @dev, or a mapping of it, in ascending order of pid. 0, or a negative errno where
 * there is no /proc; @holders is as it was then. */
int sfs_holders_find(dev_t dev, uint64_t ino, GArray *holders);

/* Whether any process has it mapped, even if it is handed on from parent to child all the while. 0
 * or a negative errno, as above; -EAGAIN: so many processes come and go that it cannot be said. */
int sfs_holders_mapped(dev_t dev, uint64_t ino, bool *mapped);

/* The command as one word of plain ASCII, whatever the process calls itself: each byte that is not
 * a visible character is written as a backslash and three octal digits, as are backslashes. An
 * empty name gives "-". @text has SFS_HOLDER_COMMAND_MAX bytes; it is returned. */
const char *sfs_holder_command(const SfsHolder *holder, char *text);
