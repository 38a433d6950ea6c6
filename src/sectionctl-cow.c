/* SPDX-License-Identifier: MIT */
/*
 * The verbs, but export.
 *
 * Opening a name makes a view where there is none, on which every verb would succeed and do nothing
 * to anybody. So whatever is named is first looked at through an O_PATH descriptor, which opens
 * nothing: somebody must have that very view open. In case he has gone since, that there are others
 * is looked at again when it is open here.
 */
#include "config.h"

#include "sectionctl-cow.h"

#include "section-client.h"
#include "section-ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2,
};

static const char no_view[] = "it is not an open copy-on-write view (name one by /proc/PID/fd/N)";
static const char not_open[] =
    "nobody has this view open (name one that is open by /proc/PID/fd/N)";
static const char for_reading[] = "the view is open for reading only";

bool
sectionctl_cow_fail(GError **error, const char *verb, const char *name, int code, const char *why)
{
    if (why == NULL && (code == ENOTCONN || code == ECONNABORTED))
        why = "the sectionfs daemon of its mount is gone";
    g_set_error(error, SC_ERROR, code, "%s %s: %s", verb, name,
                why != NULL ? why : g_strerror(code));
    return false;
}

/* --- opening --------------------------------------------------------------------------------- */

/* Whether @least have the view of this descriptor open. */
static bool
check_viewers(int fd, guint64 least, const char *verb, const char *view, GError **error)
{
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *viewers = NULL;
    g_autoptr(GError) problem = NULL;
    const char *why = NULL;

    if (sc_get(name, "viewers", &viewers, &problem))
        return g_ascii_strtoull(viewers, NULL, 10) >= least ||
               sectionctl_cow_fail(error, verb, view, ENOENT, not_open);
    switch (problem->code) {
    case ENODATA:
    case EINVAL:
    case EOPNOTSUPP:
        why = no_view;
        break;
    case EACCES:
        why = "you have no permission to read it";
        break;
    case ENOSYS:
        why = "/proc is not mounted";
        break;
    default:
        break;
    }
    return sectionctl_cow_fail(error, verb, view, problem->code, why);
}

static bool
fail_open(GError **error, const char *verb, const char *view, const char *name, bool writes)
{
    int code = errno;
    const char *why = NULL;

    switch (code) {
    case EACCES:
        if (access(name, R_OK) != 0)
            why = "you have no permission to read it";
        else if (writes && access(name, W_OK) != 0)
            why = "you have no permission to write it";
        else
            why = for_reading;
        break;
    case ETXTBSY:
        why = "it is a program that is being run";
        break;
    case EROFS:
        why = "the mount is read-only";
        break;
    default:
        break;
    }
    return sectionctl_cow_fail(error, verb, view, code, why);
}

/* Opens the view that @looked is an O_PATH descriptor of. *@fd is the caller's also on failure. */
static bool
open_looked_at(int looked, bool writes, const char *verb, const char *view, int *fd, GError **error)
{
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", looked);

    if (!check_viewers(looked, 1, verb, view, error))
        return false;
    *fd = open(name, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (*fd < 0)
        return fail_open(error, verb, view, name, writes);
    if (!check_viewers(*fd, 2, verb, view, error))
        return false;
    /* For the kernel to tell of what was stored to mappings. */
    return fsync(*fd) == 0 || sectionctl_cow_fail(error, verb, view, errno, NULL);
}

static bool
open_view(bool writes, const char *verb, const char *view, int *fd, GError **error)
{
    int looked = open(view, O_PATH | O_CLOEXEC);
    bool ok;

    if (looked < 0)
        return sectionctl_cow_fail(error, verb, view, errno,
                                   errno == EACCES ? "you have no permission to reach it" : NULL);
    ok = open_looked_at(looked, writes, verb, view, fd, error);
    close(looked);
    return ok;
}

/* --- diff, reset, commit --------------------------------------------------------------------- */

static bool
diff(int fd, const char *view, GError **error)
{
    SectionDiff part = {0};
    struct stat st;

    if (fstat(fd, &st) != 0)
        return sectionctl_cow_fail(error, "diff", view, errno, NULL);
    do {
        if (ioctl(fd, SECTION_IOC_DIFF, &part) != 0)
            return sectionctl_cow_fail(error, "diff", view, errno,
                                       errno == ENOTTY ? no_view : NULL);
        for (uint32_t i = 0; i < part.count; i++) {
            const SectionRange *range = &part.ranges[i];

            printf("%" PRIu64 " %" PRIu64 "\n", range->offset,
                   MIN(range->length, (uint64_t)st.st_size - range->offset));
        }
    } while (part.count == SECTION_RANGES);
    return true;
}

/* What it means that the section does not take the view. */
static const char *
commit_meaning(int code)
{
    switch (code) {
    case EACCES:
        return "the section may not be written, or not by you";
    case ENOSPC:
        return "there is no room in the section for all of it, and the view is as it was";
    case EFBIG:
        return "the view is larger than the section may become";
    case EPERM:
        return "the view has another size, which the section may not take";
    case ETXTBSY:
        return "the view is shorter than the section, which is in use (resize=grow)";
    case EAGAIN:
        return "the view was given another size meanwhile; part of it may be in the section";
    default:
        return NULL;
    }
}

static bool
change(int fd, const char *verb, const char *view, GError **error)
{
    bool commits = strcmp(verb, "commit") == 0;
    const char *why;

    if (ioctl(fd, commits ? SECTION_IOC_COMMIT : SECTION_IOC_RESET) == 0)
        return true;
    if (errno == ENOTTY)
        why = no_view;
    else if (errno == ESTALE)
        why = "what it is a view of is another one by now";
    else
        why = commits ? commit_meaning(errno) : NULL;
    return sectionctl_cow_fail(error, verb, view, errno, why);
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
    int fd = -1;
    bool ok;

    if (!changes && !exports && strcmp(verb, "diff") != 0)
        return usage(error, "the verbs are diff, reset, commit and export");
    if (exports != (file != NULL))
        return usage(error, exports ? "FILE is missing" : "there is one argument too many");
    ok = open_view(changes, verb, view, &fd, error);
    if (ok && changes)
        ok = change(fd, verb, view, error);
    else if (ok)
        ok = exports ? sectionctl_cow_export(fd, view, file, error) : diff(fd, view, error);
    if (fd >= 0)
        close(fd);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
