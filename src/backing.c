/* SPDX-License-Identifier: MIT */
#include "backing.h"

#define PIECE ((size_t)64 << 10)

int
sfs_backing_write_zeros(SfsBacking *backing, off_t from, off_t end)
{
    static const char zeros[PIECE];

    while (from < end) {
        ssize_t n;

        /* What was never written is zero. */
        from = backing->ops->seek(backing, from, SEEK_DATA);
        if (from == -ENXIO || from >= end)
            return 0;
        if (from < 0)
            return (int)from;
        n = backing->ops->write(backing, zeros, (size_t)MIN(end - from, (off_t)PIECE), from, 0);
        if (n < 0)
            return (int)n;
        from += n;
    }
    return 0;
}
