/* SPDX-License-Identifier: MIT */
/*
 * The daemon's log, through GLib's: g_critical for a fault of the daemon itself, g_warning for what
 * the administrator should look at, g_message for life-cycle events, g_info for each refusal (which
 * section, why), g_debug for the rest. What a client does is never louder than g_info, so that no
 * client can fill the log. In the foreground it goes to stderr, else to syslog.
 */
#pragma once

#include "common.h"

#define SFS_LOG_DOMAIN "sectionfs"

/* Starts logging, by default from g_message up, with @debug everything. @foreground: to stderr.
 * Also takes over libfuse's own messages: none of them reaches stderr unasked. Before threads. */
void sfs_log_init(bool foreground, bool debug);

/* Says something as g_message() does, but allocates nothing: for the keeper. Cut at 512 bytes. */
void sfs_log_plainly(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* The last error that libfuse reported, for a sentence of our own; "" if there was none. Only
 * for start-up, when there is one thread. */
const char *sfs_log_last_fuse_error(void);
