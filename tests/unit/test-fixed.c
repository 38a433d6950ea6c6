/* SPDX-License-Identifier: MIT */
/* Memory that stays where it is: here, that it is memory, and that nothing is left of it. */
#include "fixed.h"

#include <string.h>

static unsigned
descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

static void
test_memory(void)
{
    static const size_t sizes[] = {1, SFS_PAGE_SIZE, (1 << 20) + 100, 3 << 20};
    unsigned before = descriptors();

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        char *memory = sfs_fixed_new(sizes[i]);

        for (size_t at = 0; at < sizes[i]; at++)
            g_assert_cmpint(memory[at], ==, 0);
        memset(memory, 'x', sizes[i]);
        g_assert_cmpuint(descriptors(), >, before);
        sfs_fixed_free(memory);
        g_assert_cmpuint(descriptors(), ==, before);
    }
    sfs_fixed_free(NULL);
}

/* More at a time than there are pipes for is memory all the same. */
static void
test_much(void)
{
    const size_t size = 20 << 20;
    char *memory = sfs_fixed_new(size);

    memory[size - 1] = 'x';
    sfs_fixed_free(memory);
}

static gpointer
use_thread(gpointer data)
{
    char *small, *large;

    sfs_fixed_stack();
    sfs_fixed_stack();
    small = sfs_fixed_buffer(0);
    g_assert_nonnull(small);
    memset(small, 'x', 1);
    large = sfs_fixed_buffer(100000);
    memset(large, 'x', 100000);
    g_assert_true(sfs_fixed_buffer(1) == large);
    return NULL;
}

static void
test_thread(void)
{
    unsigned before = descriptors();

    for (int i = 0; i < 3; i++)
        g_thread_join(g_thread_new("thread", use_thread, NULL));
    g_assert_cmpuint(descriptors(), ==, before);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fixed/memory", test_memory);
    g_test_add_func("/fixed/much", test_much);
    g_test_add_func("/fixed/thread", test_thread);
    return g_test_run();
}
