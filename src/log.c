/* SPDX-License-Identifier: MIT */
#include "log.h"

#include <fuse_log.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

static bool to_stderr;
static bool verbose;
static char last_fuse_error[256];

static const char *
level_name(GLogLevelFlags level)
{
    if (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL))
        return "CRITICAL: ";
    if (level & G_LOG_LEVEL_WARNING)
        return "WARNING: ";
    if (level & G_LOG_LEVEL_DEBUG)
        return "debug: ";
    return "";
}

static int
syslog_priority(GLogLevelFlags level)
{
    if (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL))
        return LOG_CRIT;
    if (level & G_LOG_LEVEL_WARNING)
        return LOG_WARNING;
    if (level & G_LOG_LEVEL_MESSAGE)
        return LOG_NOTICE;
    return level & G_LOG_LEVEL_INFO ? LOG_INFO : LOG_DEBUG;
}

static GLogWriterOutput
write_log(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer unused)
{
    const char *message = NULL;

    if (!verbose && (level & (G_LOG_LEVEL_INFO | G_LOG_LEVEL_DEBUG)))
        return G_LOG_WRITER_HANDLED;
    for (gsize i = 0; i < n_fields; i++) {
        if (strcmp(fields[i].key, "MESSAGE") == 0)
            message = fields[i].value;
    }
    if (message == NULL)
        return G_LOG_WRITER_UNHANDLED;
    /* One write a line: keeper and worker share the stream. */
    if (to_stderr)
        dprintf(STDERR_FILENO, "sectionfs[%d]: %s%s\n", (int)getpid(), level_name(level), message);
    else
        syslog(syslog_priority(level), "%s%s", level_name(level), message);
    return G_LOG_WRITER_HANDLED;
}

void
sfs_log_plainly(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (to_stderr)
        dprintf(STDERR_FILENO, "sectionfs[%d]: %s\n", (int)getpid(), text);
    else
        syslog(LOG_NOTICE, "%s", text);
}

/*
 * libfuse writes to stderr at will, and takes for an error what for us is an answer (a refused
 * backing file makes one section cached). So its words are kept for start-up's own sentences and
 * otherwise go to the debug log.
 */
static void
from_libfuse(enum fuse_log_level level, const char *format, va_list args)
{
    char text[sizeof last_fuse_error];
    size_t len;

    vsnprintf(text, sizeof text, format, args);
    len = strlen(text);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
        text[--len] = '\0';
    if (len == 0)
        return;
    if (level <= FUSE_LOG_ERR)
        g_strlcpy(last_fuse_error, text, sizeof last_fuse_error);
    g_debug("libfuse: %s", text);
}

void
sfs_log_init(bool foreground, bool debug)
{
    to_stderr = foreground;
    verbose = debug;
    if (!foreground)
        openlog("sectionfs", LOG_PID, LOG_DAEMON);
    g_log_set_writer_func(write_log, NULL, NULL);
    fuse_set_log_func(from_libfuse);
}

const char *
sfs_log_last_fuse_error(void)
{
    return last_fuse_error;
}
