/* SPDX-License-Identifier: MIT */
/*
 * Every call that can fail while a worker goes on, made to fail on demand. Being functions of the
 * program itself, these come before those of the shared libraries: what GLib calls, and what libc
 * allocates, is counted here as well. Functions of our own are wrapped by the linker
 * (tests/Makefile-inc.am).
 *
 * What is to fail stands in a file that the test and all workers map: its path is in the
 * environment, as SECTIONFS_FAILURES. A worker that comes after another counts its calls of each
 * class there, from its first instruction to when it says that it is ready.
 */
#include "failing.h"

#include "keeper-link.h"
#include "registry.h"

#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <linux/fs.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* As test_resume_faults.py has them. */
typedef enum {
    CLASS_MEMORY,      /* ENOMEM */
    CLASS_MAPPINGS,    /* ENOMEM */
    CLASS_THREADS,     /* EAGAIN */
    CLASS_DESCRIPTORS, /* EMFILE */
    CLASS_SPACE,       /* ENOSPC: of what writes */
    CLASS_READS,       /* EIO */
    CLASS_RECORDS,     /* the registry is full */
    CLASS_INHERITED,   /* the keeper has not got a descriptor */
    CLASS_DEVICE,      /* ENOMEM: what the kernel is asked through /dev/fuse */
    CLASS_CLONES,      /* EIO: extents are not shared */
    CLASS_SEEKS,       /* EIO: nor are data and holes found */
    N_CLASSES,
} Class;

/* All written by the test, except where it says otherwise. */
typedef struct {
    uint64_t class;
    uint64_t first, last;      /* which calls fail, from 1 on */
    uint64_t workers;          /* so many to come are to meet with this; counted down by them */
    uint64_t serving;          /* not 0: calls are counted and fail after it is ready as well */
    uint64_t trace;            /* not 0: each is told of on stderr, with who called */
    uint64_t failed;           /* worker's: calls that did */
    uint64_t ready;            /* worker's: workers that were */
    uint64_t calls[N_CLASSES]; /* worker's: how many there were, of the last one */
} Plan;

static Plan *plan;          /* NULL: nothing is to fail in this process */
static _Atomic bool counts; /* whether it does now */

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (real == NULL)                                                                              \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Whether this call is one that fails. */
static bool
fails(Class class, int error)
{
    uint64_t number;
    void *callers[24];

    if (!atomic_load_explicit(&counts, memory_order_relaxed))
        return false;
    number = __atomic_add_fetch(&plan->calls[class], 1, __ATOMIC_RELAXED);
    if (plan->class != class || number < plan->first || number > plan->last)
        return false;
    __atomic_add_fetch(&plan->failed, 1, __ATOMIC_RELAXED);
    if (plan->trace != 0) {
        atomic_store(&counts, false);
        dprintf(STDERR_FILENO, "failing: call %" PRIu64 " of class %d\n", number, class);
        backtrace_symbols_fd(callers, backtrace(callers, 24), STDERR_FILENO);
        atomic_store(&counts, true);
    }
    errno = error;
    return true;
}

/* --- which process --------------------------------------------------------------------------- */

static uint64_t
workers_before(void)
{
    uint32_t starts = 0;

    if (pread(SFS_FD_REGISTRY, &starts, sizeof starts,
              offsetof(SfsRegistryHeader, worker_starts)) != sizeof starts)
        return 0;
    return starts;
}

__attribute__((constructor)) static void
begin(int argc, char **argv)
{
    const char *path = getenv("SECTIONFS_FAILURES");
    int fd;
    void *at;

    if (path == NULL || argc < 2 || strcmp(argv[1], "--worker") != 0 || workers_before() == 0)
        return;
    fd = open(path, O_RDWR | O_CLOEXEC);
    at = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return;
    plan = at;
    if (plan->workers == 0)
        return;
    plan->workers--;
    memset(plan->calls, 0, sizeof plan->calls);
    if (plan->trace != 0)
        backtrace((void *[1]){NULL}, 1); /* has it load what it needs */
    atomic_store(&counts, true);
}

int __real_sfs_link_ready(int link);
int __wrap_sfs_link_ready(int link);

int
__wrap_sfs_link_ready(int link)
{
    if (plan != NULL) {
        __atomic_add_fetch(&plan->ready, 1, __ATOMIC_RELAXED);
        if (plan->serving == 0)
            atomic_store(&counts, false);
    }
    return __real_sfs_link_ready(link);
}

/* --- our own --------------------------------------------------------------------------------- */

void *__real_sfs_registry_alloc(SfsRegistry *registry, SfsTable table, uint32_t *slot);
void *__wrap_sfs_registry_alloc(SfsRegistry *registry, SfsTable table, uint32_t *slot);

void *
__wrap_sfs_registry_alloc(SfsRegistry *registry, SfsTable table, uint32_t *slot)
{
    return fails(CLASS_RECORDS, ENOSPC) ? NULL : __real_sfs_registry_alloc(registry, table, slot);
}

uint32_t __real_sfs_registry_store_text(SfsRegistry *registry, const void *bytes, size_t length);
uint32_t __wrap_sfs_registry_store_text(SfsRegistry *registry, const void *bytes, size_t length);

uint32_t
__wrap_sfs_registry_store_text(SfsRegistry *registry, const void *bytes, size_t length)
{
    return fails(CLASS_RECORDS, ENOSPC) ? SFS_NO_SLOT
                                        : __real_sfs_registry_store_text(registry, bytes, length);
}

int __real_sfs_link_inherited(SfsRegistry *registry, uint32_t slot);
int __wrap_sfs_link_inherited(SfsRegistry *registry, uint32_t slot);

/* What the keeper has not got, it has not got however often it is asked for. */
int
__wrap_sfs_link_inherited(SfsRegistry *registry, uint32_t slot)
{
    static uint8_t asked[1 << 16], lacking[1 << 16]; /* by slot */
    int fd = __real_sfs_link_inherited(registry, slot);

    if (fd >= 0 && slot < sizeof asked && !asked[slot]) {
        lacking[slot] = fails(CLASS_INHERITED, ENOENT);
        asked[slot] = atomic_load(&counts);
    }
    return fd >= 0 && slot < sizeof lacking && lacking[slot] ? -1 : fd;
}

/* --- memory ---------------------------------------------------------------------------------- */

/* dlsym(3) may allocate and free, and so may who is loaded before us. Nothing is given back here.
 */
static char early[64 << 10] __attribute__((aligned(16)));
static size_t early_used;
/* Volatile, for dlsym(3) is declared as never coming back here. */
static _Thread_local volatile bool looking __attribute__((tls_model("initial-exec")));

static void *
take_early(size_t size)
{
    char *at = early + early_used;

    early_used += (size + 31) & ~(size_t)15;
    if (early_used > sizeof early)
        abort();
    memcpy(at, &size, sizeof size); /* its size comes before it */
    return at + 16;
}

static bool
is_early(const void *at)
{
    return (const char *)at >= early && (const char *)at < early + sizeof early;
}

#define REAL_OR_EARLY(name, size)                                                                  \
    static __typeof__(name) *real;                                                                 \
    if (real == NULL && looking)                                                                   \
        return take_early(size);                                                                   \
    if (real == NULL) {                                                                            \
        looking = true;                                                                            \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                        \
        looking = false;                                                                           \
    }

void *
malloc(size_t size)
{
    REAL_OR_EARLY(malloc, size);
    return fails(CLASS_MEMORY, ENOMEM) ? NULL : real(size);
}

void *
calloc(size_t n, size_t size)
{
    REAL_OR_EARLY(calloc, n * size);
    return fails(CLASS_MEMORY, ENOMEM) ? NULL : real(n, size);
}

void *
realloc(void *at, size_t size)
{
    REAL_OR_EARLY(realloc, size);
    if (is_early(at)) {
        void *copy = malloc(size);
        size_t had;

        memcpy(&had, (char *)at - 16, sizeof had);
        if (copy != NULL)
            memcpy(copy, at, MIN(had, size));
        return copy;
    }
    return fails(CLASS_MEMORY, ENOMEM) ? NULL : real(at, size);
}

void
free(void *at)
{
    static void (*real)(void *);

    if (at == NULL || is_early(at))
        return;
    if (real == NULL && looking)
        return;
    if (real == NULL) {
        looking = true;
        real = (void (*)(void *))dlsym(RTLD_NEXT, "free");
        looking = false;
    }
    real(at);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
    REAL(aligned_alloc);
    return fails(CLASS_MEMORY, ENOMEM) ? NULL : real(alignment, size);
}

int
posix_memalign(void **at, size_t alignment, size_t size)
{
    REAL(posix_memalign);
    return fails(CLASS_MEMORY, ENOMEM) ? ENOMEM : real(at, alignment, size);
}

/* --- mappings and threads -------------------------------------------------------------------- */

void *
mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap);
    return fails(CLASS_MAPPINGS, ENOMEM) ? MAP_FAILED
                                         : real(at, length, protection, flags, fd, offset);
}

void *
mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return mmap(at, length, protection, flags, fd, offset);
}

int
pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
               void *data)
{
    REAL(pthread_create);
    return fails(CLASS_THREADS, EAGAIN) ? EAGAIN : real(thread, attributes, start, data);
}

/* What it copies is of the thread that asks for it. */
int
unshare(int flags)
{
    REAL(unshare);
    return fails(CLASS_THREADS, ENOMEM) ? -1 : real(flags);
}

/* --- descriptors ----------------------------------------------------------------------------- */

#define DESCRIPTOR(name, parameters, arguments)                                                    \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        return fails(CLASS_DESCRIPTORS, EMFILE) ? -1 : real arguments;                             \
    }

DESCRIPTOR(dup, (int fd), (fd))
DESCRIPTOR(memfd_create, (const char *name, unsigned flags), (name, flags))
DESCRIPTOR(inotify_init1, (int flags), (flags))
DESCRIPTOR(eventfd, (unsigned start, int flags), (start, flags))
DESCRIPTOR(epoll_create1, (int flags), (flags))
DESCRIPTOR(timerfd_create, (clockid_t clock, int flags), (clock, flags))
DESCRIPTOR(signalfd, (int fd, const sigset_t *set, int flags), (fd, set, flags))
DESCRIPTOR(pidfd_open, (pid_t pid, unsigned flags), (pid, flags))
DESCRIPTOR(socket, (int domain, int type, int protocol), (domain, type, protocol))
DESCRIPTOR(socketpair, (int domain, int type, int protocol, int ends[2]),
           (domain, type, protocol, ends))
DESCRIPTOR(pipe, (int ends[2]), (ends))
DESCRIPTOR(pipe2, (int ends[2], int flags), (ends, flags))
DESCRIPTOR(fsopen, (const char *name, unsigned flags), (name, flags))
DESCRIPTOR(fsmount, (int context, unsigned flags, unsigned attributes),
           (context, flags, attributes))
DESCRIPTOR(fspick, (int directory, const char *path, unsigned flags), (directory, path, flags))

/* Onto a number that is taken, what a descriptor stands for changes, and none is needed. */
static bool
duplicate_fails(int to)
{
    return syscall(SYS_fcntl, to, F_GETFD) < 0 ? fails(CLASS_DESCRIPTORS, EMFILE)
                                               : fails(CLASS_DEVICE, EBUSY);
}

int
dup2(int from, int to)
{
    REAL(dup2);
    return duplicate_fails(to) ? -1 : real(from, to);
}

int
dup3(int from, int to, int flags)
{
    REAL(dup3);
    return duplicate_fails(to) ? -1 : real(from, to, flags);
}

static int
open_or_fail(int directory, const char *path, int flags, unsigned mode)
{
    /* As libc does it, whose own function may be one of a sanitizer's. */
    return fails(CLASS_DESCRIPTORS, EMFILE)
               ? -1
               : (int)syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE_OF(mode, flags)                                                                       \
    unsigned mode = 0;                                                                             \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                       \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode = va_arg(args, unsigned);                                                             \
        va_end(args);                                                                              \
    }

int
open(const char *path, int flags, ...)
{
    MODE_OF(mode, flags);
    return open_or_fail(AT_FDCWD, path, flags, mode);
}

int
open64(const char *path, int flags, ...)
{
    MODE_OF(mode, flags);
    return open_or_fail(AT_FDCWD, path, flags, mode);
}

int
openat(int directory, const char *path, int flags, ...)
{
    MODE_OF(mode, flags);
    return open_or_fail(directory, path, flags, mode);
}

int
openat64(int directory, const char *path, int flags, ...)
{
    MODE_OF(mode, flags);
    return open_or_fail(directory, path, flags, mode);
}

DIR *
opendir(const char *path)
{
    REAL(opendir);
    return fails(CLASS_DESCRIPTORS, EMFILE) ? NULL : real(path);
}

DIR *
fdopendir(int fd)
{
    REAL(fdopendir);
    return fails(CLASS_DESCRIPTORS, ENOMEM) ? NULL : real(fd);
}

FILE *
fopen(const char *path, const char *mode)
{
    REAL(fopen);
    return fails(CLASS_DESCRIPTORS, EMFILE) ? NULL : real(path, mode);
}

FILE *
fopen64(const char *path, const char *mode)
{
    REAL(fopen64);
    return fails(CLASS_DESCRIPTORS, EMFILE) ? NULL : real(path, mode);
}

/* --- space ----------------------------------------------------------------------------------- */

/* What is an answer to the kernel, or the log, is no file. */
static bool
is_file(int fd)
{
    return fd > STDERR_FILENO && fd != SFS_FD_DEVICE && fd != SFS_FD_SESSION;
}

int
fsconfig(int fd, unsigned command, const char *key, const void *value, int aux)
{
    REAL(fsconfig);
    return fails(CLASS_SPACE, ENOSPC) ? -1 : real(fd, command, key, value, aux);
}

ssize_t
pwritev(int fd, const struct iovec *parts, int n, off_t at)
{
    REAL(pwritev);
    return is_file(fd) && fails(CLASS_SPACE, ENOSPC) ? -1 : real(fd, parts, n, at);
}

off_t
lseek(int fd, off_t offset, int whence)
{
    REAL(lseek);
    return (whence == SEEK_DATA || whence == SEEK_HOLE) && fails(CLASS_SEEKS, EIO)
               ? -1
               : real(fd, offset, whence);
}

off64_t
lseek64(int fd, off64_t offset, int whence)
{
    return lseek(fd, offset, whence);
}

/* --- reading; the device; what points.c stands in for ---------------------------------------- */

ssize_t
pread(int fd, void *bytes, size_t n, off_t at)
{
    REAL(pread);
    return fails(CLASS_READS, EIO) ? -1 : real(fd, bytes, n, at);
}

ssize_t
pread64(int fd, void *bytes, size_t n, off64_t at)
{
    return pread(fd, bytes, n, at);
}

static bool
plan_is_for_serving(void)
{
    return plan != NULL && plan->serving != 0;
}

bool
failing_call(long call, long fd, long second)
{
    switch (call) {
    case SYS_fcntl:
        return (second == F_DUPFD || second == F_DUPFD_CLOEXEC) && fails(CLASS_DESCRIPTORS, EMFILE);
    case SYS_read:
        /* The threads that serve have the first thread's work behind them. */
        if (fd == SFS_FD_DEVICE)
            return (getpid() == gettid() || plan_is_for_serving()) && fails(CLASS_DEVICE, ENOMEM);
        return fails(CLASS_READS, EIO);
    case SYS_write:
        if (fd == SFS_FD_DEVICE)
            return fails(CLASS_DEVICE, ENOMEM);
        return is_file((int)fd) && fails(CLASS_SPACE, ENOSPC);
    case SYS_fallocate:
    case SYS_ftruncate:
    case SYS_pwrite64:
    case SYS_pwritev2:
    case SYS_writev:
        return is_file((int)fd) && fails(CLASS_SPACE, ENOSPC);
    case SYS_ioctl:
        if (second == FICLONE || second == FICLONERANGE)
            return fails(CLASS_CLONES, EIO);
        return fd == SFS_FD_DEVICE && fails(CLASS_DEVICE, ENOMEM);
    default:
        return false;
    }
}
