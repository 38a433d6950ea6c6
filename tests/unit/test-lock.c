/* SPDX-License-Identifier: MIT */
/*
 * Which locks a new worker takes up, and what becomes of waits and locks when something else
 * happens meanwhile. The dead worker is played by records, and by descriptors that hold the locks;
 * the keeper by a socket that nobody reads, for it may always be behind.
 */
#include "lock.h"

#include "backing.h"
#include "fixture.h"
#include "keeper-link.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define OWNER 7
#define OTHER 8
#define PATIENCE 60 /* seconds after which what has not ended never does */
#define PENDING 1   /* of a wait that is not done */

typedef struct {
    SfsMount mount;
    int ends[2]; /* of the link: the keeper's and ours */
} Fixture;

static int file = -1;
static SfsHandle handle;

static int
lock_fd(SfsBacking *unused)
{
    return file;
}

static const SfsBackingOps ops = {.lock_fd = lock_fd};
static SfsBacking backing = {.ops = &ops};

SfsHandle *__wrap_sfs_section_handle_at(SfsMount *mount, uint32_t slot);

/* There is only one. */
SfsHandle *
__wrap_sfs_section_handle_at(SfsMount *mount, uint32_t slot)
{
    return slot == handle.slot ? &handle : NULL;
}

static bool no_threads;

GThread *__wrap_g_thread_try_new(const char *name, GThreadFunc run, gpointer data, GError **error);
GThread *__real_g_thread_try_new(const char *name, GThreadFunc run, gpointer data, GError **error);

GThread *
__wrap_g_thread_try_new(const char *name, GThreadFunc run, gpointer data, GError **error)
{
    return no_threads ? NULL : __real_g_thread_try_new(name, run, data, error);
}

static void (*when_lifted)(void);

int __wrap_flock(int fd, int operation);
int __real_flock(int fd, int operation);

int
__wrap_flock(int fd, int operation)
{
    if (operation == LOCK_UN && when_lifted != NULL)
        when_lifted();
    return __real_flock(fd, operation);
}

static void
set_up(Fixture *f, gconstpointer unused)
{
    g_autofree SfsConfig *config = g_new0(SfsConfig, 1);
    g_autoptr(GError) error = NULL;

    alarm(PATIENCE);
    no_threads = false;
    when_lifted = NULL;
    f->mount.registry = sfs_registry_create(config, &error);
    g_assert_no_error(error);
    g_assert_no_errno(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->ends));
    f->mount.link = f->ends[1];
    f->mount.locks = sfs_locks_new(f->mount.registry, f->mount.link);
    file = memfd_create("locked", MFD_CLOEXEC);
    g_assert_cmpint(file, >, 0);
    handle.rec = sfs_registry_alloc(f->mount.registry, SFS_TABLE_HANDLES, &handle.slot);
    handle.backing = &backing;
    handle.flock_fd = -1;
    sfs_registry_publish(f->mount.registry, SFS_TABLE_HANDLES, handle.slot);
}

static void
tear_down(Fixture *f, gconstpointer unused)
{
    sfs_locks_free(f->mount.locks);
    g_clear_pointer(&handle.lockers, g_hash_table_unref);
    sfs_registry_free(f->mount.registry);
    close(f->ends[0]);
    close(f->ends[1]);
    close(file);
}

/* A record of OWNER's, with a descriptor that has locked the byte at @at; -1: none. The descriptor.
 */
static int
leave(Fixture *f, off_t at)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", file);
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint32_t slot, fd_slot;
    SfsLockRec *rec;
    SfsFdRec *kept;

    g_assert_cmpint(fd, >, 0);
    if (at >= 0)
        g_assert_no_errno(fcntl(fd, F_OFD_SETLK, &byte));
    kept = sfs_registry_alloc(f->mount.registry, SFS_TABLE_FDS, &fd_slot);
    atomic_store(&kept->keeper_fd, fd);
    rec = sfs_registry_alloc(f->mount.registry, SFS_TABLE_LOCKS, &slot);
    rec->handle = handle.slot;
    rec->owner = OWNER;
    rec->fd_slot = fd_slot;
    rec->pid = 4711;
    sfs_registry_publish(f->mount.registry, SFS_TABLE_LOCKS, slot);
    return fd;
}

static pid_t
holder_of(Fixture *f, off_t at)
{
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

    g_assert_cmpint(sfs_lock_test(&f->mount, &handle, OTHER, &byte), ==, 0);
    return byte.l_type == F_UNLCK ? 0 : byte.l_pid;
}

static void
test_one(Fixture *f, gconstpointer unused)
{
    leave(f, 3);
    sfs_locks_adopt(&f->mount);
    g_assert_cmpint(holder_of(f, 3), ==, 4711);
    g_assert_cmpint(holder_of(f, 4), ==, 0);
}

/* Two of one name: one goes, and leaves its descriptor to the sweep. */
static void
adopt_two(Fixture *f, off_t first, off_t second)
{
    int fds[] = {leave(f, first), leave(f, second)};
    SfsLinkMessage message;
    bool eof;
    int fd;

    sfs_locks_adopt(&f->mount);
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_LOCKS), ==, 1);
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_FDS), ==, 2);
    g_assert_cmpint(sfs_link_receive(f->ends[0], &message, &fd, &eof), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
        g_assert_no_errno(fcntl(fds[i], F_GETFD));
}

static void
test_two(Fixture *f, gconstpointer unused)
{
    adopt_two(f, -1, -1);
    g_assert_cmpint(holder_of(f, 3), ==, 0);
}

static void
test_first_holds(Fixture *f, gconstpointer unused)
{
    adopt_two(f, 3, -1);
    g_assert_cmpint(holder_of(f, 3), ==, 4711);
}

static void
test_second_holds(Fixture *f, gconstpointer unused)
{
    adopt_two(f, -1, 3);
    g_assert_cmpint(holder_of(f, 3), ==, 4711);
}

/* They are not meant to; one of them is lifted. */
static void
test_both_hold(Fixture *f, gconstpointer unused)
{
    adopt_two(f, 3, 5);
    g_assert_cmpint(holder_of(f, 3), ==, 0);
    g_assert_cmpint(holder_of(f, 5), ==, 4711);
}

/* --- waits ----------------------------------------------------------------------------------- */

static atomic_int result;

static void
done(int r, void *unused)
{
    atomic_store(&result, r);
}

/* OWNER's, for the byte at 3, which somebody outside has. */
static SfsLockWait *
new_wait(Fixture *f)
{
    struct flock byte = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 1, .l_pid = 4711};

    atomic_store(&result, PENDING);
    return sfs_lock_wait_new(&f->mount, &handle, OWNER, &byte, 0, false, done, NULL);
}

static int
lock_outside(void)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", file);
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_no_errno(fcntl(fd, F_OFD_SETLK, &all));
    return fd;
}

/* What it ended with, once nobody waits. */
static int
result_of_wait(Fixture *f)
{
    while (atomic_load(&result) == PENDING || !sfs_locks_idle(f->mount.locks))
        g_usleep(1000);
    return atomic_load(&result);
}

/* Another descriptor of the file is closed meanwhile. */
static void
test_granted_after_close(Fixture *f, gconstpointer unused)
{
    int outside = lock_outside();

    sfs_lock_wait_start(new_wait(f));
    sfs_lock_closed(&f->mount, &handle, OWNER);
    close(outside);
    g_assert_cmpint(result_of_wait(f), ==, 0);
    g_assert_cmpint(holder_of(f, 3), ==, 4711);
    sfs_lock_closed(&f->mount, &handle, OWNER);
    g_assert_cmpint(holder_of(f, 3), ==, 0);
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_LOCKS), ==, 0);
}

static void
test_interrupted_after_close(Fixture *f, gconstpointer unused)
{
    int outside = lock_outside();
    SfsLockWait *wait = new_wait(f);

    sfs_lock_wait_start(wait);
    sfs_lock_closed(&f->mount, &handle, OWNER);
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_LOCKS), ==, 1);
    sfs_lock_wait_interrupt(wait);
    g_assert_cmpint(result_of_wait(f), ==, -EINTR);
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_LOCKS), ==, 0);
    close(outside);
}

/* Whoever is to wake it has to find that it is over: the end of the locks waits for him. */
static void
test_no_thread(Fixture *f, gconstpointer unused)
{
    SfsLockWait *wait = new_wait(f);

    no_threads = true;
    sfs_lock_wait_interrupt(wait);
    sfs_lock_wait_start(wait);
    g_assert_cmpint(result_of_wait(f), ==, -ENOLCK);
}

static const Fixture *lifting;

static void
try_meanwhile(void)
{
    SfsMount mount = lifting->mount;

    when_lifted = NULL;
    g_assert_true(sfs_lock_may_pass(&mount, &handle));
}

/* A file server may take its time to lift a lock: nobody else waits for that. */
static void
test_release(Fixture *f, gconstpointer unused)
{
    g_assert_cmpint(sfs_lock_flock(&f->mount, &handle, LOCK_EX), ==, 0);
    sfs_lock_closed(&f->mount, &handle, OWNER);
    lifting = f;
    when_lifted = try_meanwhile;
    sfs_lock_release(&f->mount, &handle);
    g_assert_null(when_lifted);
    g_assert_false(sfs_lock_may_pass(&f->mount, &handle));
    g_assert_cmpuint(sfs_registry_count(f->mount.registry, SFS_TABLE_FDS), ==, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/lock/one", test_one);
    ADD("/lock/two", test_two);
    ADD("/lock/first-holds", test_first_holds);
    ADD("/lock/second-holds", test_second_holds);
    ADD("/lock/both-hold", test_both_hold);
    ADD("/lock/granted-after-close", test_granted_after_close);
    ADD("/lock/interrupted-after-close", test_interrupted_after_close);
    ADD("/lock/no-thread", test_no_thread);
    ADD("/lock/release", test_release);
    return g_test_run();
}
