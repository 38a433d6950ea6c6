/* SPDX-License-Identifier: MIT */
/*
 * `sectionctl cow export`. The new file has no name before it is complete, so that whatever ends
 * the command leaves nothing behind. Where a file system does not have such files it gets its name
 * at once, and loses it by all that can be noticed.
 */
#include "config.h"

#include "sectionctl-cow.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER ((size_t)1 << 20)
#define STEP ((off_t)16 << 20) /* between two looks of the one who waits */
#define BAR 40

typedef struct {
    const char *view, *file; /* as they were given */
    int in, out;
    int dir; /* where it is to have its name */
    const char *name;
    bool named; /* it has it */
    off_t size;
    bool bar, drawn;
} Export;

static bool
fail_view(const Export *job, int code, GError **error)
{
    return sectionctl_cow_fail(error, "export", job->view, code, NULL);
}

static bool
fail_cut(const Export *job, GError **error)
{
    return sectionctl_cow_fail(error, "export", job->view, ESTALE, "it was made shorter meanwhile");
}

static bool
fail_file(const Export *job, int code, GError **error)
{
    const char *why = NULL;

    if (code == EEXIST)
        why = "it exists already";
    else if (code == ENOENT)
        why = "its directory does not exist";
    else if (code == EACCES)
        why = "you have no permission to create it";
    else if (code == ENOSPC || code == EDQUOT)
        why = "there is no room for it";
    else if (code == EFBIG)
        why = "it would be too large";
    return sectionctl_cow_fail(error, "export", job->file, code, why);
}

/* --- the progress ---------------------------------------------------------------------------- */

static void
show_progress(Export *job, off_t done)
{
    double part = job->size > 0 ? (double)done / (double)job->size : 1;
    int filled = (int)(part * BAR);

    if (!job->bar)
        return;
    fprintf(stderr, "\r[%.*s%*s] %3d%%", filled, "########################################",
            BAR - filled, "", (int)(part * 100));
    job->drawn = true;
}

/* What comes next begins a line. */
static void
end_progress(Export *job)
{
    if (job->drawn)
        fputc('\n', stderr);
    job->drawn = false;
}

/* --- the file -------------------------------------------------------------------------------- */

static bool
find_place(Export *job, GError **error)
{
    const char *slash = strrchr(job->file, '/');
    g_autofree char *parent = NULL;
    struct stat st;

    job->name = slash == NULL ? job->file : slash + 1;
    if (*job->name == '\0' || strcmp(job->name, ".") == 0 || strcmp(job->name, "..") == 0)
        return sectionctl_cow_fail(error, "export", job->file, EINVAL,
                                   "it names a directory, and must end in the name of a file");
    parent = slash == NULL ? g_strdup(".") : g_strndup(job->file, (gsize)(slash - job->file) + 1);
    job->dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (job->dir < 0)
        return fail_file(job, errno, error);
    /* linkat() decides in the end. This is for not copying in vain. */
    if (fstatat(job->dir, job->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return fail_file(job, EEXIST, error);
    return errno == ENOENT || fail_file(job, errno, error);
}

static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
static const Export *unfinished;

static void
drop_unfinished(int number)
{
    unlinkat(unfinished->dir, unfinished->name, 0);
    raise(number); /* handled for once: now it ends the program */
}

/* Signals are blocked. Those that are ignored stay so. */
static void
drop_at_signals(const Export *job)
{
    struct sigaction drop = {.sa_handler = drop_unfinished, .sa_flags = SA_RESETHAND | SA_NODEFER};

    unfinished = job;
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction now;

        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaction(signals[i], &drop, NULL);
    }
}

static void
keep_at_signals(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction now;

        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == drop_unfinished)
            signal(signals[i], SIG_DFL);
    }
}

static void
make_named(Export *job, mode_t mode)
{
    sigset_t set, before;

    sigemptyset(&set);
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaddset(&set, signals[i]);
    sigprocmask(SIG_BLOCK, &set, &before);
    job->out = openat(job->dir, job->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    job->named = job->out >= 0;
    if (job->named)
        drop_at_signals(job);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static bool
make_file(Export *job, mode_t mode, GError **error)
{
    job->out = openat(job->dir, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
    /* EISDIR: from kernels and filesystems that take O_TMPFILE for a plain O_DIRECTORY. */
    if (job->out < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
        make_named(job, mode);
    if (job->out < 0)
        return fail_file(job, errno, error);
    /* Larger than the process may have a file is an error as others are. */
    signal(SIGXFSZ, SIG_IGN);
    return ftruncate(job->out, job->size) == 0 || fail_file(job, errno, error);
}

static bool
finish_file(Export *job, GError **error)
{
    g_autofree char *nameless = g_strdup_printf("/proc/self/fd/%d", job->out);
    int out = job->out;

    if (!job->named && linkat(AT_FDCWD, nameless, job->dir, job->name, AT_SYMLINK_FOLLOW) != 0)
        return fail_file(job, errno, error);
    job->named = true;
    job->out = -1;
    return close(out) == 0 || fail_file(job, errno, error);
}

static void
clear(Export *job, bool complete)
{
    if (!complete && job->named)
        unlinkat(job->dir, job->name, 0);
    keep_at_signals();
    if (job->out >= 0)
        close(job->out);
    if (job->dir >= 0)
        close(job->dir);
}

/* --- its bytes ------------------------------------------------------------------------------- */

static bool
copy_range(const Export *job, off_t at, off_t end, char *buffer, GError **error)
{
    while (at < end) {
        ssize_t got = pread(job->in, buffer, MIN((size_t)(end - at), BUFFER), at), put;

        if (got <= 0)
            return got < 0 ? fail_view(job, errno, error) : fail_cut(job, error);
        for (ssize_t done = 0; done < got; done += put) {
            put = pwrite(job->out, buffer + done, (size_t)(got - done), at + done);
            if (put < 0)
                return fail_file(job, errno, error);
        }
        at += got;
    }
    return true;
}

/* What it has from @at on up to the next hole; that is its end, and where both are @size the rest
 * is a hole. */
static bool
find_data(const Export *job, off_t at, off_t *data, off_t *end, GError **error)
{
    *data = lseek(job->in, at, SEEK_DATA);
    if (*data < 0 && errno != ENXIO)
        return fail_view(job, errno, error);
    if (*data < 0 || *data >= job->size) {
        *data = *end = job->size;
        return true;
    }
    *end = lseek(job->in, *data, SEEK_HOLE);
    if (*end < 0)
        return errno == ENXIO ? fail_cut(job, error) : fail_view(job, errno, error);
    *end = MIN(*end, job->size);
    return true;
}

static bool
copy_data(Export *job, GError **error)
{
    g_autofree char *buffer = g_malloc(BUFFER);
    off_t at = 0, data = 0, end = 0;
    struct stat st;

    while (at < job->size) {
        if (!find_data(job, at, &data, &end, error))
            return false;
        for (at = data; at < end; at = MIN(end, at + STEP)) {
            show_progress(job, at);
            if (!copy_range(job, at, MIN(end, at + STEP), buffer, error))
                return false;
        }
    }
    /* What was cut off looks like a hole. */
    if (fstat(job->in, &st) != 0)
        return fail_view(job, errno, error);
    if (st.st_size < job->size)
        return fail_cut(job, error);
    show_progress(job, job->size);
    return true;
}

bool
sectionctl_cow_export(int fd, const char *view, const char *file, GError **error)
{
    Export job = {.view = view, .file = file, .in = fd, .out = -1, .dir = -1};
    struct stat st;
    bool complete;

    if (fstat(fd, &st) != 0)
        return fail_view(&job, errno, error);
    job.size = st.st_size;
    job.bar = isatty(STDERR_FILENO);
    complete = find_place(&job, error) && make_file(&job, st.st_mode & 0666, error) &&
               copy_data(&job, error) && finish_file(&job, error);
    end_progress(&job);
    clear(&job, complete);
    return complete;
}
