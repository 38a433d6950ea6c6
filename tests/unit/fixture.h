/* SPDX-License-Identifier: MIT */
/*
 * For unit tests whose file has a Fixture, set_up() and tear_down() for all of them.
 */
#pragma once

#include <glib.h>

#define ADD(path, test) g_test_add(path, Fixture, NULL, set_up, test, tear_down)
