/* SPDX-License-Identifier: MIT */
/*
 * Writing what is a view's own into what it is a view of.
 *
 * All or nothing, as far as a death goes: there is room for all of it before anything is written
 * (but on file systems that take other room for each write),
 * `committing` in the view's record says that it has begun, and whoever finds that so does it again
 * from the start (sfs_views_finish_commits()), which over what was done ends the same. For that the
 * base is never made smaller than it will be: cutting it would give back the room, and whoever has
 * it mapped would meet its end.
 */
#include "backing.h"

#define PIECE ((size_t)1 << 20) /* is written at a time */

/* Room in the base for all that is the view's own below @size, so that writing it cannot fail for
 * want of that. No further, though pages are whole: a window has no room beyond its end. */
static int
reserve(SfsBacking *view, SfsBacking *base, off_t size)
{
    off_t at = 0, first, end;
    int r = 0;

    while (r == 0 && view->ops->changed(view, at, &first, &end) == 0 && first < size) {
        r = base->ops->allocate(base, FALLOC_FL_KEEP_SIZE, first, MIN(end, size) - first);
        at = end;
    }
    /* Where that cannot be had beforehand it is tried. */
    return r == -EOPNOTSUPP ? 0 : r;
}

/* Makes zeros of what the view does not show of the base, but where it has bytes of its own. */
static int
clear(SfsBacking *view, SfsBacking *base, off_t at, off_t end)
{
    int r = 0;

    while (r == 0 && at < end) {
        off_t first, stop, to;

        if (view->ops->changed(view, at, &first, &stop) < 0)
            first = stop = end;
        to = MIN(first, end);
        if (at < to) {
            r = base->ops->allocate(base, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, to - at);
            if (r == -EOPNOTSUPP)
                r = sfs_backing_write_zeros(base, at, to);
        }
        at = MAX(stop, to);
    }
    return r;
}

static int
set_size(SfsBacking *view, SfsBacking *base, off_t size, off_t limit)
{
    struct stat st;
    int r = base->ops->stat(base, &st);

    if (r == 0 && st.st_size > size)
        r = base->ops->truncate(base, size);
    if (r == 0)
        r = clear(view, base, limit, MIN(st.st_size, size));
    if (r == 0 && st.st_size < size)
        r = base->ops->truncate(base, size);
    return r;
}

/* What is a hole in the view becomes zeros. */
static int
write_range(SfsBacking *view, SfsBacking *base, char *buffer, off_t at, off_t end)
{
    while (at < end) {
        ssize_t got = view->ops->read(view, buffer, (size_t)MIN(end - at, (off_t)PIECE), at), put;

        if (got <= 0)
            return (int)got; /* cut meanwhile */
        put = base->ops->write(base, buffer, (size_t)got, at, 0);
        if (put < 0)
            return (int)put;
        at += put;
    }
    return 0;
}

int
sfs_view_commit_bytes(SfsBacking *view, SfsBacking *base, SfsViewRec *rec, off_t limit, off_t size)
{
    g_autofree char *buffer = g_malloc(PIECE);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&base->verbs);
    off_t at = 0, first, end;
    struct stat st;
    int r = view->ops->stat(view, &st);

    /* The section may take the size that was asked about, and no other. */
    if (r == 0 && size >= 0 && st.st_size != size)
        r = -EAGAIN;
    if (r == 0 && !rec->committing)
        r = reserve(view, base, st.st_size);
    if (r < 0)
        return r;
    atomic_store(&rec->committing, 1);
    r = set_size(view, base, st.st_size, limit);
    while (r == 0 && view->ops->changed(view, at, &first, &end) == 0 && first < st.st_size) {
        r = write_range(view, base, buffer, first, MIN(end, st.st_size));
        at = end;
    }
    if (r == 0 && base->ops->sync != NULL)
        r = base->ops->sync(base, false);
    atomic_store(&rec->committing, 0);
    /* What was cut off before its turn came is not in the base. */
    if (r == 0 && size >= 0 && view->ops->stat(view, &st) == 0 && st.st_size != size)
        r = -EAGAIN;
    return r;
}
