/* SPDX-License-Identifier: MIT */
/* The order in which the pieces of a large write are appended to a real file. */
#include "backing.h"

#include <string.h>
#include <unistd.h>

#define PIECE 100
#define PIECES 5

typedef struct {
    SfsBacking *backing;
    off_t offset;
} Piece;

static gpointer
append(gpointer data)
{
    const Piece *piece = data;
    SfsBacking *backing = piece->backing;
    char bytes[PIECE];

    memset(bytes, 'a' + (int)(piece->offset / PIECE), PIECE);
    backing->ops->begin_append(backing, piece->offset);
    g_usleep(400 * 1000); /* as long as a slow disk may take */
    g_assert_cmpint(backing->ops->write(backing, bytes, PIECE, piece->offset, SFS_WRITE_APPEND), ==,
                    PIECE);
    backing->ops->end_append(backing, piece->offset + PIECE);
    return NULL;
}

/* Those that come too early wait for their turn, however long the ones before them take. */
static void
test_slow_appends(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("sectionfs-XXXXXX", &path, NULL);
    SfsBacking *backing = sfs_backing_file_new(fd);
    Piece pieces[PIECES];
    GThread *threads[PIECES];
    char bytes[PIECE * PIECES];

    unlink(path);
    for (int i = 0; i < PIECES; i++)
        pieces[i] = (Piece){backing, PIECE * (off_t)i};
    /* The first one, and then the last of all. */
    threads[0] = g_thread_new("piece", append, &pieces[0]);
    g_usleep(50 * 1000);
    for (int i = PIECES - 1; i > 0; i--) {
        threads[i] = g_thread_new("piece", append, &pieces[i]);
        g_usleep(20 * 1000);
    }
    for (int i = 0; i < PIECES; i++)
        g_thread_join(threads[i]);
    g_assert_cmpint(pread(fd, bytes, sizeof bytes, 0), ==, sizeof bytes);
    for (int i = 0; i < PIECE * PIECES; i++)
        g_assert_cmpint(bytes[i], ==, 'a' + i / PIECE);
    sfs_backing_unref(backing);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backing-file/slow-appends", test_slow_appends);
    return g_test_run();
}
