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

enum {
    EXIT_USAGE = 2,
};

bool
sectionctl_cow_fail(GError **error, const char *verb, const char *name, int code, const char *why)
{
    if (why == NULL && (code == ENOTCONN || code == ECONNABORTED))
        why = "the sectionfs daemon of its mount is gone";
    g_set_error(error, SC_ERROR, code, "%s %s: %s", verb, name,
                why != NULL ? why : g_strerror(code));
    return false;
}

static int
fail(GError **error, const char *verb, const char *path)
{
    int code = errno;
    const char *why = NULL;

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
    sectionctl_cow_fail(error, verb, path, code, why);
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
    else if (exports)
        status = sectionctl_cow_export(fd, view, file, error) ? EXIT_SUCCESS : EXIT_FAILURE;
    else
        status = diff(fd, view, error);
    close(fd);
    return status;
}
