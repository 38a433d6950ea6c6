/* SPDX-License-Identifier: MIT */
/* The verbs of `sectionctl cow`, on an open copy-on-write view. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* @operands: VERB VIEW [FILE]. The exit status; unless it is 0, a sentence in @error: 1: it could
 * not be done, 2: the command line makes no sense. What diff has to say goes to stdout. */
int sectionctl_cow(char **operands, GError **error);

/* --- among its files ------------------------------------------------------------------------- */

/* "VERB NAME: WHY" in @error; false, always. @code: an errno, which says why where @why is NULL. */
bool sectionctl_cow_fail(GError **error, const char *verb, const char *name, int code,
                         const char *why);

/* Writes all of the view at @fd to the new file @file, which is there as a whole or not at all,
 * save that where there are no files without a name, SIGKILL leaves a part. */
bool sectionctl_cow_export(int fd, const char *view, const char *file, GError **error);
