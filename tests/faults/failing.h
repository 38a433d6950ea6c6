/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

/* Whether this system call is to fail; errno says how. @second: its second argument. */
bool failing_call(long call, long fd, long second);
