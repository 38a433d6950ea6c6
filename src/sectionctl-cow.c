/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "sectionctl-cow.h"

#include "section-client.h"
#include "section-ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER ((size_t)1 << 20)
#define BAR 40

enum {
    EXIT_USAGE = 2,
};

static int
fail(GError **error, const char *verb, const char *path)
{
    int code = errno;
    const char *why = g_strerror(code);

    switch (code) {
    case ENOTTY:
        why = "it is not an open copy-on-write view (name one by /proc/PID/fd/N)";
        break;
    case EBADF:
        why = "the view is open for reading only";
        break;
    case EACCES:
        if (strcmp(verb, "commit") == 0)
            why = "the section may not be written";
        break;
    default:
        break;
    }
    g_set_error(error, SC_ERROR, code, "%s %s: %s", verb, path, why);
    return EXIT_FAILURE;
}

/* --- diff, reset, commit --------------------------------------------------------------------- */

static int
diff(int fd, const char *view, GError **error)
{
    SectionDiff part = {0};
    struct stat st;

    if (fstat(fd, &st) != 0)
        return fail(error, "diff", view);
    do {
        if (ioctl(fd, SECTION_IOC_DIFF, &part) != 0)
            return fail(error, "diff", view);
        for (uint32_t i = 0; i < part.count; i++) {
            const SectionRange *range = &part.ranges[i];

            printf("%" PRIu64 " %" PRIu64 "\n", range->offset,
                   MIN(range->length, (uint64_t)st.st_size - range->offset));
        }
    } while (part.count == SECTION_RANGES);
    return EXIT_SUCCESS;
}

static int
change(int fd, const char *verb, const char *view, GError **error)
{
    unsigned long request = strcmp(verb, "commit") == 0 ? SECTION_IOC_COMMIT : SECTION_IOC_RESET;

    return ioctl(fd, request) == 0 ? EXIT_SUCCESS : fail(error, verb, view);
}

/* --- export ---------------------------------------------------------------------------------- */

static void
show_progress(off_t done, off_t size, bool shown)
{
    int filled = size > 0 ? (int)((double)done / (double)size * BAR) : BAR;

    if (shown)
        fprintf(stderr, "\r[%.*s%*s] %3d%%", filled, "########################################",
                BAR - filled, "", size > 0 ? (int)((double)done / (double)size * 100) : 100);
}

/* False with errno: it failed. */
static bool
copy_range(int in, int out, off_t at, off_t end, char *buffer)
{
    while (at < end) {
        ssize_t got = pread(in, buffer, MIN((size_t)(end - at), BUFFER), at), put;

        if (got <= 0)
            return got == 0;
        for (ssize_t done = 0; done < got; done += put) {
            put = pwrite(out, buffer + done, (size_t)(got - done), at + done);
            if (put < 0)
                return false;
        }
        at += got;
    }
    return true;
}

static bool
copy_data(int in, int out, off_t size)
{
    g_autofree char *buffer = g_malloc(BUFFER);
    bool shown = isatty(STDERR_FILENO);
    off_t at = 0;

    while (at < size) {
        off_t data = lseek(in, at, SEEK_DATA), hole;

        if (data < 0)
            break;
        hole = lseek(in, data, SEEK_HOLE);
        if (hole < 0)
            return false;
        /* A piece at a time, for the one who looks on. */
        for (at = data; at < hole; at = MIN(hole, at + (off_t)(16 * BUFFER))) {
            show_progress(at, size, shown);
            if (!copy_range(in, out, at, MIN(hole, at + (off_t)(16 * BUFFER)), buffer))
                return false;
        }
    }
    show_progress(size, size, shown);
    if (shown)
        fputc('\n', stderr);
    return ftruncate(out, size) == 0;
}

static int export(int fd, const char *view, const char *file, GError **error)
{
    struct stat st;
    int out, status = EXIT_SUCCESS;

    if (fstat(fd, &st) != 0)
        return fail(error, "export", view);
    out = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st.st_mode & 0666);
    if (out < 0)
        return fail(error, "export", file);
    if (!copy_data(fd, out, st.st_size))
        status = fail(error, "export", file);
    if (close(out) != 0 && status == EXIT_SUCCESS)
        status = fail(error, "export", file);
    if (status != EXIT_SUCCESS)
        unlink(file);
    return status;
}

/* --- the command ----------------------------------------------------------------------------- */

static int
usage(GError **error, const char *sentence)
{
    g_set_error_literal(error, SC_ERROR, EINVAL, sentence);
    return EXIT_USAGE;
}

int
sectionctl_cow(char **operands, GError **error)
{
    const char *verb = operands[0], *view = operands[1], *file = operands[2];
    bool changes = strcmp(verb, "reset") == 0 || strcmp(verb, "commit") == 0;
    bool exports = strcmp(verb, "export") == 0;
    SectionDiff probe = {0};
    int fd, status;

    if (!changes && !exports && strcmp(verb, "diff") != 0)
        return usage(error, "the verbs are diff, reset, commit and export");
    if (exports != (file != NULL))
        return usage(error, exports ? "FILE is missing" : "there is one argument too many");
    fd = open(view, (changes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return fail(error, verb, view);
    /* Nor is the name of a section, or of one under .cow: that view would end with this program. */
    if (ioctl(fd, SECTION_IOC_DIFF, &probe) != 0 || fsync(fd) != 0)
        status = fail(error, verb, view);
    else if (changes)
        status = change(fd, verb, view, error);
    else
        status = exports ? export(fd, view, file, error) : diff(fd, view, error);
    close(fd);
    return status;
}
