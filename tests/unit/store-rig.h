/* SPDX-License-Identifier: MIT */
/* What the tests of the store share: a store with its keeper, which is a thread at the other end of
 * the link, and files in it. */
#pragma once

#include "store.h"

#include "keeper-link.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define PAGE ((off_t)SFS_PAGE_SIZE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

typedef struct {
    SfsRegistry *registry;
    int ends[2]; /* of the link: the keeper's and ours */
    GThread *keeper;
    _Atomic int kept; /* descriptors in the keeper's hands */
    int tmpfs;
    SfsStore *store;
    uint64_t limit;
} Rig;

/* --- the keeper ------------------------------------------------------------------------------- */

static inline void
obey(Rig *rig, SfsLinkMessage message, int fd)
{
    SfsFdRec *rec = sfs_registry_get(rig->registry, SFS_TABLE_FDS, message.slot);
    int old;

    g_assert_nonnull(rec);
    g_assert_cmpint(fd >= 0, ==, message.verb == SFS_LINK_PUT);
    old = atomic_exchange(&rec->keeper_fd, MAX(fd, 0));
    g_assert_cmpint(old > 0, ==, message.verb == SFS_LINK_DROP);
    if (old > 0)
        close(old);
    atomic_fetch_add(&rig->kept, message.verb == SFS_LINK_PUT ? 1 : -1);
}

static inline gpointer
keep(gpointer data)
{
    Rig *rig = data;
    SfsLinkMessage message;
    bool eof = false;
    int fd;

    while (!eof) {
        struct pollfd wait = {rig->ends[0], POLLIN, 0};
        int r;

        poll(&wait, 1, -1);
        while ((r = sfs_link_receive(rig->ends[0], &message, &fd, &eof)) == 1)
            obey(rig, message, fd);
        g_assert_cmpint(r, ==, 0);
    }
    return NULL;
}

static inline void
start(Rig *rig, uint64_t limit, int tmpfs)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;

    rig->registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, rig->ends));
    rig->keeper = g_thread_new("keeper", keep, rig);
    rig->tmpfs = tmpfs;
    rig->limit = limit;
    rig->store = sfs_store_new(rig->registry, rig->ends[1], tmpfs, limit);
}

/* All files are freed: so is all that they held. */
static inline void
stop(Rig *rig)
{
    sfs_store_free(rig->store);
    g_assert_cmpuint(sfs_registry_count(rig->registry, SFS_TABLE_FDS), ==, 0);
    close(rig->ends[1]);
    g_thread_join(rig->keeper);
    g_assert_cmpint(rig->kept, ==, 0);
    close(rig->ends[0]);
    if (rig->tmpfs >= 0)
        close(rig->tmpfs);
    sfs_registry_free(rig->registry);
}

static inline void
start_counted(Rig *rig, gconstpointer data)
{
    start(rig, (uint64_t)GPOINTER_TO_UINT(data) * SFS_PAGE_SIZE, -1);
}

static inline void
stop_counted(Rig *rig, gconstpointer data)
{
    stop(rig);
}

/* --- helpers ---------------------------------------------------------------------------------- */

static inline SfsStoreUsage
usage(Rig *rig)
{
    SfsStoreUsage now;

    sfs_store_usage(rig->store, &now);
    return now;
}

static inline SfsStoreFile *
new_file(Rig *rig, SfsStoreUse use)
{
    SfsStoreFile *file = NULL;

    g_assert_cmpint(sfs_store_file_new(rig->store, use, &file), ==, 0);
    g_assert_nonnull(file);
    return file;
}

static inline uint64_t
held(SfsStoreFile *file)
{
    struct stat st;

    g_assert_no_errno(fstat(sfs_store_file_fd(file), &st));
    return (uint64_t)st.st_blocks * 512;
}

/* Closing is another thread's work: what it gives back comes soon, and no later. */
static inline void
wait_for_used(Rig *rig, uint64_t used)
{
    for (int i = 0; i < 5000 && usage(rig).used != used; i++)
        g_usleep(1000);
    g_assert_cmpuint(usage(rig).used, ==, used);
}

static inline char *
pattern(size_t size)
{
    char *bytes = g_malloc(size);

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i % 251 + 1);
    return bytes;
}

static inline ssize_t
write_pages(SfsStoreFile *file, off_t page, size_t n, bool force)
{
    g_autofree char *bytes = pattern(n * SFS_PAGE_SIZE);

    return sfs_store_file_write(file, bytes, n * SFS_PAGE_SIZE, page * PAGE, force);
}

#define assert_used(rig, pages) g_assert_cmpuint(usage(rig).used, ==, (uint64_t)(pages)*PAGE)

#define MIB ((off_t)1 << 20)

static inline bool
start_tmpfs(Rig *rig, uint64_t limit)
{
    g_autoptr(GError) error = NULL;
    int tmpfs = sfs_store_make_tmpfs(limit, false, &error);

    if (tmpfs < 0) {
        g_assert_nonnull(error);
        g_test_skip(error->message);
        return false;
    }
    g_assert_no_error(error);
    start(rig, limit, tmpfs);
    g_assert_cmpstr(sfs_store_engine(rig->store), ==, "tmpfs");
    return true;
}

/* Writes past the daemon until it is refused; the bytes that went in. */
static inline off_t
fill_directly(SfsStoreFile *file)
{
    g_autofree char *bytes = pattern(64 * 1024);
    off_t at = 0;
    ssize_t n;

    while ((n = pwrite(sfs_store_file_fd(file), bytes, 64 * 1024, at)) > 0)
        at += n;
    g_assert_cmpint(errno, ==, ENOSPC);
    return at;
}

static inline void
add(const char *name, guint pages, void (*test)(Rig *, gconstpointer))
{
    g_test_add(name, Rig, GUINT_TO_POINTER(pages), start_counted, test, stop_counted);
}
