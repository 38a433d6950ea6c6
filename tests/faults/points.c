/* SPDX-License-Identifier: MIT */
/* Built without what it serves, or each of its stores would ask it about itself. */
#include "points.h"

#include "failing.h"

#include <glib.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* The headers' declarations would be in the way of the definitions below. */
long syscall(long number, ...);
int getpid(void);

static uintptr_t registry, registry_size; /* 0: no points yet */
static _Atomic uint64_t *number;
static uint64_t kill_at[256];
static unsigned n_kill_at;
static PointsFile *file;

/* The calls that this thread is in, as the compiler tells them. */
#define DEPTH 64
static _Thread_local uintptr_t calls[DEPTH];
static _Thread_local unsigned depth;

/* --- what a point does ----------------------------------------------------------------------- */

extern const char __executable_start[], etext[];

static uint32_t
relative(uintptr_t address)
{
    uintptr_t start = (uintptr_t)__executable_start;

    return address > start && address < (uintptr_t)etext ? (uint32_t)(address - start) : 0;
}

static uint64_t
find_frames(uintptr_t pc, uint32_t when, uint32_t *frames)
{
    uint64_t key = relative(pc) | when;
    unsigned n = 1;

    frames[0] = (uint32_t)key;
    for (unsigned i = MIN(depth, DEPTH); i > 0 && n < POINTS_FRAMES; i--) {
        uint32_t frame = relative(calls[i - 1]);

        if (frame == 0)
            continue;
        frames[n++] = frame;
        key = (key ^ frame) * UINT64_C(0x9e3779b97f4a7c15);
        key ^= key >> 29;
    }
    return key != 0 ? key : 1;
}

static PointsSite *
find_site(uint64_t key, const uint32_t *frames)
{
    for (unsigned i = 0; i < POINTS_SITES; i++) {
        PointsSite *site = &file->site[(key + i) % POINTS_SITES];
        uint64_t there = 0;

        if (atomic_compare_exchange_strong(&site->key, &there, key)) {
            for (unsigned n = 0; n < POINTS_FRAMES; n++)
                site->frame[n] = frames[n];
            return site;
        }
        if (there == key)
            return site;
    }
    atomic_store(&file->full, 1);
    return NULL;
}

static void
die(void)
{
    kill(getpid(), SIGKILL);
}

static void
pass_site(uintptr_t pc, uint32_t when)
{
    uint32_t frames[POINTS_FRAMES] = {0}, next = atomic_load(&file->next);
    uint64_t key = find_frames(pc, when, frames);
    PointsSite *site = find_site(key, frames);

    if (site != NULL && atomic_fetch_add(&site->passed, 1) == 0) {
        atomic_store(&site->next, next);
        atomic_store(&site->order, atomic_fetch_add(&file->order, 1));
    }
    if (next < atomic_load(&file->armed)) {
        PointsKill *one = &file->kill[next % POINTS_KILLS];

        if ((one->key == 0 || one->key == key) && atomic_fetch_sub(&one->left, 1) == 1) {
            atomic_store(&file->next, next + 1);
            die();
        }
    }
}

/* @when: 0, or POINTS_AFTER. */
static void
pass(const void *pc, uint32_t when)
{
    uint64_t n;

    if (number == NULL)
        return;
    n = atomic_fetch_add(number, 1) + 1;
    for (unsigned i = 0; i < n_kill_at; i++) {
        if (kill_at[i] == n)
            die();
    }
    if (file != NULL)
        pass_site((uintptr_t)pc, when);
}

static bool
is_in_registry(const volatile void *address)
{
    return (uintptr_t)address - registry < registry_size;
}

static void
stores(const volatile void *address, const void *pc)
{
    if (is_in_registry(address))
        pass(pc, 0);
}

void
points_init(const void *base, size_t size, _Atomic uint64_t *counter)
{
    const char *at = g_getenv("SECTIONFS_KILL_AT"), *name = g_getenv("SECTIONFS_POINTS");
    FILE *opened = name != NULL ? fopen(name, "r+") : NULL;
    char *end;

    for (; at != NULL && *at != '\0' && n_kill_at < G_N_ELEMENTS(kill_at);
         at = *end == ',' ? end + 1 : end) {
        kill_at[n_kill_at] = g_ascii_strtoull(at, &end, 10);
        if (end == at)
            break;
        n_kill_at++;
    }
    if (opened != NULL) {
        file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(opened), 0);
        fclose(opened);
    }
    if (name != NULL && (opened == NULL || file == MAP_FAILED || file->magic != POINTS_MAGIC))
        g_error("SECTIONFS_POINTS: %s is no such file", name);
#ifdef POINTS_STORES
    if (file != NULL)
        atomic_store(&file->instrumented, 1);
#endif
    registry = (uintptr_t)base;
    registry_size = size;
    number = counter;
}

#define PC __builtin_return_address(0)

/* --- stores, as the compiler tells of them --------------------------------------------------- */

#ifdef POINTS_STORES

void __tsan_init(void);
void __tsan_func_entry(void *pc);
void __tsan_func_exit(void);
void __tsan_read_range(void *address, unsigned long size);
void __tsan_write_range(void *address, unsigned long size);
void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_signal_fence(int order);

void
__tsan_init(void)
{
}

void
__tsan_func_entry(void *pc)
{
    if (depth < DEPTH)
        calls[depth] = (uintptr_t)pc;
    depth++;
}

void
__tsan_func_exit(void)
{
    depth--;
}

void
__tsan_read_range(void *address, unsigned long size)
{
}

void
__tsan_write_range(void *address, unsigned long size)
{
    stores(address, PC);
}

#define ACCESS(size)                                                                               \
    void __tsan_read##size(void *address);                                                         \
    void __tsan_write##size(void *address);                                                        \
    void __tsan_unaligned_read##size(void *address);                                               \
    void __tsan_unaligned_write##size(void *address);                                              \
    void __tsan_read##size(void *address)                                                          \
    {                                                                                              \
    }                                                                                              \
    void __tsan_unaligned_read##size(void *address)                                                \
    {                                                                                              \
    }                                                                                              \
    void __tsan_write##size(void *address)                                                         \
    {                                                                                              \
        stores(address, PC);                                                                       \
    }                                                                                              \
    void __tsan_unaligned_write##size(void *address)                                               \
    {                                                                                              \
        stores(address, PC);                                                                       \
    }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

/* An atomic operation is the compiler's word for it, and ours to do. Whatever order was asked for,
 * it gets the strictest. */
#define FETCH(bits, type, name)                                                                    \
    type __tsan_atomic##bits##_fetch_##name(volatile type *at, type value, int order);             \
    type __tsan_atomic##bits##_fetch_##name(volatile type *at, type value, int order)              \
    {                                                                                              \
        stores(at, PC);                                                                            \
        return __atomic_fetch_##name(at, value, __ATOMIC_SEQ_CST);                                 \
    }
#define COMPARE(bits, type, kind)                                                                  \
    bool __tsan_atomic##bits##_compare_exchange_##kind(volatile type *at, void *expected,          \
                                                       type value, int order, int failed);         \
    bool __tsan_atomic##bits##_compare_exchange_##kind(volatile type *at, void *expected,          \
                                                       type value, int order, int failed)          \
    {                                                                                              \
        stores(at, PC);                                                                            \
        return __atomic_compare_exchange_n(at, (type *)expected, value, false, __ATOMIC_SEQ_CST,   \
                                           __ATOMIC_SEQ_CST);                                      \
    }
#define ATOMIC(bits, type)                                                                         \
    type __tsan_atomic##bits##_load(const volatile type *at, int order);                           \
    void __tsan_atomic##bits##_store(volatile type *at, type value, int order);                    \
    type __tsan_atomic##bits##_exchange(volatile type *at, type value, int order);                 \
    type __tsan_atomic##bits##_load(const volatile type *at, int order)                            \
    {                                                                                              \
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                              \
    }                                                                                              \
    void __tsan_atomic##bits##_store(volatile type *at, type value, int order)                     \
    {                                                                                              \
        stores(at, PC);                                                                            \
        __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                             \
    }                                                                                              \
    type __tsan_atomic##bits##_exchange(volatile type *at, type value, int order)                  \
    {                                                                                              \
        stores(at, PC);                                                                            \
        return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                   \
    }                                                                                              \
    FETCH(bits, type, add)                                                                         \
    FETCH(bits, type, sub)                                                                         \
    FETCH(bits, type, and)                                                                         \
    FETCH(bits, type, or)                                                                          \
    FETCH(bits, type, xor)                                                                         \
    COMPARE(bits, type, strong)                                                                    \
    COMPARE(bits, type, weak)

ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

void
__tsan_atomic_thread_fence(int order)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void
__tsan_atomic_signal_fence(int order)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#endif

/* --- stores by functions (the linker wraps them) --------------------------------------------- */

void *__real_memcpy(void *to, const void *from, size_t size);
void *__real_memmove(void *to, const void *from, size_t size);
void *__real_memset(void *to, int byte, size_t size);
char *__real_strcpy(char *to, const char *from);
size_t __real_g_strlcpy(char *to, const char *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size);
void *__wrap_memmove(void *to, const void *from, size_t size);
void *__wrap_memset(void *to, int byte, size_t size);
char *__wrap_strcpy(char *to, const char *from);
size_t __wrap_g_strlcpy(char *to, const char *from, size_t size);
int __wrap_g_snprintf(char *to, size_t size, const char *format, ...);

/* Many bytes are stored in two steps, with a point in between. */
static size_t
half(const void *to, size_t size)
{
    return is_in_registry(to) && size > 8 ? size / 2 : 0;
}

void *
__wrap_memcpy(void *to, const void *from, size_t size)
{
    size_t first = half(to, size);

    stores(to, PC);
    if (first > 0) {
        __real_memcpy(to, from, first);
        pass(PC, POINTS_AFTER);
    }
    __real_memcpy((char *)to + first, (const char *)from + first, size - first);
    return to;
}

void *
__wrap_memmove(void *to, const void *from, size_t size)
{
    stores(to, PC);
    return __real_memmove(to, from, size);
}

void *
__wrap_memset(void *to, int byte, size_t size)
{
    size_t first = half(to, size);

    stores(to, PC);
    if (first > 0) {
        __real_memset(to, byte, first);
        pass(PC, POINTS_AFTER);
    }
    __real_memset((char *)to + first, byte, size - first);
    return to;
}

char *
__wrap_strcpy(char *to, const char *from)
{
    stores(to, PC);
    return __real_strcpy(to, from);
}

size_t
__wrap_g_strlcpy(char *to, const char *from, size_t size)
{
    stores(to, PC);
    return __real_g_strlcpy(to, from, size);
}

int
__wrap_g_snprintf(char *to, size_t size, const char *format, ...)
{
    va_list args;
    int n;

    stores(to, PC);
    va_start(args, format);
    n = g_vsnprintf(to, size, format, args);
    va_end(args);
    return n;
}

/* --- system calls ---------------------------------------------------------------------------- */

/* In place of libc's, for libfuse as well, and whether that is linked statically or not. A file's
 * size and a word are of one size here: see configure.ac. */
#define CALL_BY(function, libc_name, call, does)                                                   \
    long function(long a, long b, long c, long d, long e, long f) __asm__(libc_name);              \
    long function(long a, long b, long c, long d, long e, long f)                                  \
    {                                                                                              \
        long result;                                                                               \
                                                                                                   \
        if (failing_call(call, a, b))                                                              \
            return -1;                                                                             \
        pass(PC, 0);                                                                               \
        result = does;                                                                             \
        pass(PC, POINTS_AFTER);                                                                    \
        return result;                                                                             \
    }
#define CALL(function, libc_name, call)                                                            \
    CALL_BY(function, libc_name, call, syscall(call, a, b, c, d, e, f))

CALL(points_copy_file_range, "copy_file_range", SYS_copy_file_range)
CALL(points_fallocate, "fallocate", SYS_fallocate)
CALL(points_fallocate64, "fallocate64", SYS_fallocate)
CALL(points_fchmod, "fchmod", SYS_fchmod)
CALL(points_fchown, "fchown", SYS_fchown)
CALL(points_fcntl, "fcntl", SYS_fcntl)
CALL(points_fcntl64, "fcntl64", SYS_fcntl)
CALL(points_flock, "flock", SYS_flock)
CALL(points_ftruncate, "ftruncate", SYS_ftruncate)
CALL(points_ftruncate64, "ftruncate64", SYS_ftruncate)
CALL(points_ioctl, "ioctl", SYS_ioctl)
CALL(points_pwrite, "pwrite", SYS_pwrite64)
CALL(points_pwrite64, "pwrite64", SYS_pwrite64)
CALL(points_splice, "splice", SYS_splice)
CALL(points_vmsplice, "vmsplice", SYS_vmsplice)
CALL(points_writev, "writev", SYS_writev)
#ifndef __SANITIZE_THREAD__
CALL(points_close, "close", SYS_close)
CALL(points_read, "read", SYS_read)
CALL(points_sendmsg, "sendmsg", SYS_sendmsg)
CALL(points_write, "write", SYS_write)
#else
/* The race detector learns by these who waits for whom. */
int __interceptor_close(long a);
long __interceptor_read(long a, long b, long c);
long __interceptor_sendmsg(long a, long b, long c);
long __interceptor_write(long a, long b, long c);
CALL_BY(points_close, "close", SYS_close, __interceptor_close(a))
CALL_BY(points_read, "read", SYS_read, __interceptor_read(a, b, c))
CALL_BY(points_sendmsg, "sendmsg", SYS_sendmsg, __interceptor_sendmsg(a, b, c))
CALL_BY(points_write, "write", SYS_write, __interceptor_write(a, b, c))
#endif

/* These differ from what the kernel is asked. */
ssize_t points_pwritev2(int fd, const void *iov, int n, long at, int flags) __asm__("pwritev2");
ssize_t points_pwritev64v2(int fd, const void *iov, int n, long at,
                           int flags) __asm__("pwritev64v2");
int points_futimens(int fd, const void *times) __asm__("futimens");

ssize_t
points_pwritev2(int fd, const void *iov, int n, long at, int flags)
{
    ssize_t result;

    if (failing_call(SYS_pwritev2, fd, 0))
        return -1;
    pass(PC, 0);
    result = syscall(SYS_pwritev2, fd, iov, n, at, 0L, flags);
    pass(PC, POINTS_AFTER);
    return result;
}

ssize_t
points_pwritev64v2(int fd, const void *iov, int n, long at, int flags)
{
    return points_pwritev2(fd, iov, n, at, flags);
}

int
points_futimens(int fd, const void *times)
{
    int result;

    pass(PC, 0);
    result = (int)syscall(SYS_utimensat, fd, NULL, times, 0);
    pass(PC, POINTS_AFTER);
    return result;
}
