/* SPDX-License-Identifier: MIT */
/* The verbs of `sectionctl cow`, on an open copy-on-write view. */
#pragma once

#include <glib.h>

/* @operands: VERB VIEW [FILE]. The exit status; unless it is 0, a sentence in @error: 1: it could
 * not be done, 2: the command line makes no sense. What diff has to say goes to stdout. */
int sectionctl_cow(char **operands, GError **error);
