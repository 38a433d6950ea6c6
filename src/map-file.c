/* SPDX-License-Identifier: MIT */
#include "map-file.h"

#include "util.h"

#include <string.h>

/* The list: entries up to the first that is 0. In an entry the page of a run's beginning is above
 * its length. The value that no run has, in the first: the bitmap counts. */
#define LIST_OFFSET (SFS_MAP_FILE_OFFSET + ((off_t)1 << 48))
#define LIST_ENTRIES (SFS_PAGE_SIZE / sizeof(uint64_t))
#define LENGTH_BITS 12
#define LENGTH_MAX (((uint64_t)1 << LENGTH_BITS) - 1)
#define IS_BITMAP UINT64_MAX

static uint64_t
first_of(uint64_t entry)
{
    return entry >> LENGTH_BITS;
}

static uint64_t
end_of(uint64_t entry)
{
    return first_of(entry) + (entry & LENGTH_MAX);
}

/* Never more than lies in one page: all of it or nothing. */
static int
put(SfsStoreFile *file, const void *bytes, size_t size, off_t offset)
{
    ssize_t n = sfs_store_file_write(file, bytes, size, offset, true);

    return n < 0 ? (int)n : 0;
}

static int
punch(SfsStoreFile *file, off_t from, off_t end)
{
    return sfs_store_file_allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from,
                                   end - from);
}

/* --- the bitmap ------------------------------------------------------------------------------ */

static void
set_bits(uint8_t *bits, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t bytes = first % 8 == 0 ? (end - first) / 8 : 0;

        memset(bits + first / 8, 0xff, bytes);
        first += bytes * 8;
        if (bytes == 0) {
            bits[first / 8] |= (uint8_t)(1 << first % 8);
            first++;
        }
    }
}

/* The bits of [first, end), in whole bytes, as the map has them; @set: those of [first, end) are
 * set in any case. */
static int
put_bits(SfsStoreFile *file, const SfsPageMap *map, uint64_t first, uint64_t end, bool set)
{
    uint8_t bits[SFS_MAP_LEAF_BYTES];
    int r = 0;

    while (r == 0 && first < end) {
        uint64_t leaf = first / SFS_MAP_LEAF_PAGES * SFS_MAP_LEAF_PAGES;
        uint64_t stop = MIN(end, leaf + SFS_MAP_LEAF_PAGES);
        size_t from = (size_t)(first - leaf) / 8, to = (size_t)(stop - leaf + 7) / 8;

        sfs_page_map_bits(map, first, bits);
        if (set)
            set_bits(bits, first - leaf, stop - leaf);
        r = put(file, bits + from, to - from, SFS_MAP_FILE_OFFSET + (off_t)(leaf / 8 + from));
        first = stop;
    }
    return r;
}

/* All that the map has, and [first, end). */
static int
write_bitmap(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
             uint64_t end)
{
    const uint64_t mark = IS_BITMAP, last = (uint64_t)SFS_MAP_FILE_OFFSET >> SFS_PAGE_SHIFT;
    uint64_t page = 0;
    bool in = false;
    int r = 0;

    /* What an attempt that came to nothing has left does not count yet. */
    if (!kept->bitmap)
        r = punch(file, SFS_MAP_FILE_OFFSET, LIST_OFFSET);
    while (r == 0 && page < last) {
        uint64_t next = sfs_page_map_run(map, page, last, &in);

        if (in)
            r = put_bits(file, map, page, next, false);
        page = next;
    }
    if (r == 0)
        r = put_bits(file, map, first, end, true);
    if (r == 0)
        r = put(file, &mark, sizeof mark, LIST_OFFSET);
    if (r == 0) {
        kept->bitmap = true;
        kept->behind = false;
    }
    return r;
}

/* --- the list -------------------------------------------------------------------------------- */

/* Splits [first, end) into entries; how many, or more than there may be. */
static uint32_t
split(uint64_t first, uint64_t end, uint64_t *entries, uint32_t room)
{
    uint32_t n = 0;

    for (; first < end && n < room; n++) {
        uint64_t length = MIN(end - first, LENGTH_MAX);

        entries[n] = first << LENGTH_BITS | length;
        first += length;
    }
    return first < end ? room + 1 : n;
}

/* The whole list anew, which is one page and so there at once. */
static void
rewrite(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map)
{
    const uint64_t end = (uint64_t)SFS_MAP_FILE_OFFSET >> SFS_PAGE_SHIFT;
    uint64_t entries[LIST_ENTRIES] = {0}, page = 0;
    const uint32_t most = LIST_ENTRIES - 1;
    uint32_t n = 0;
    bool in = false;

    while (page < end && n <= most) {
        uint64_t next = sfs_page_map_run(map, page, end, &in);

        if (in)
            n += split(page, next, entries + n, most - n);
        page = next;
    }
    if (n > most) {
        write_bitmap(kept, file, map, 0, 0);
    } else if (put(file, entries, sizeof entries, LIST_OFFSET) == 0) {
        kept->listed = n;
        kept->last = n > 0 ? entries[n - 1] : 0;
        kept->behind = false;
    }
}

static int
add_to_list(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
            uint64_t end)
{
    uint32_t n, at = kept->listed, room = LIST_ENTRIES - 1 - MIN(at, LIST_ENTRIES - 1);
    uint64_t entries[LIST_ENTRIES];
    int r;

    /* A run that goes on grows. */
    if (kept->last != 0 && end_of(kept->last) == first &&
        end - first_of(kept->last) <= LENGTH_MAX) {
        entries[0] = kept->last + (end - first);
        n = 1;
        at--;
    } else {
        n = split(first, end, entries, room);
        if (n > room)
            return write_bitmap(kept, file, map, first, end);
    }
    /* Several at once are in one page still; they were part of one write that is not answered. */
    r = put(file, entries, n * sizeof(uint64_t), LIST_OFFSET + (off_t)(at * sizeof(uint64_t)));
    if (r == 0) {
        kept->listed = at + n;
        kept->last = entries[n - 1];
    }
    return r;
}

/* --- either ---------------------------------------------------------------------------------- */

int
sfs_map_file_add(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
                 uint64_t end)
{
    int r;

    if (!kept->bitmap && !kept->behind)
        return add_to_list(kept, file, map, first, end);
    r = kept->behind ? write_bitmap(kept, file, map, first, end)
                     : put_bits(file, map, first, end, true);
    /* Up to where it failed there is memory for it. */
    if (r < 0 && kept->bitmap)
        put_bits(file, map, first, end, false);
    return r;
}

void
sfs_map_file_cut(SfsMapFile *kept, SfsStoreFile *file, const SfsPageMap *map, uint64_t first,
                 uint64_t end)
{
    if (sfs_page_map_count(map) == 0) {
        sfs_map_file_clear(kept, file);
    } else if (!kept->bitmap) {
        rewrite(kept, file, map);
    } else {
        /* First the byte in which the cut lies, then the rest as a hole. */
        put_bits(file, map, first, first + 1, false);
        punch(file, SFS_MAP_FILE_OFFSET + (off_t)(first / 8 + 1),
              MIN(SFS_MAP_FILE_OFFSET + (off_t)(end / 8 + 1), LIST_OFFSET));
    }
}

int
sfs_map_file_clear(SfsMapFile *kept, SfsStoreFile *file)
{
    int r = punch(file, SFS_MAP_FILE_OFFSET, LIST_OFFSET + (off_t)SFS_PAGE_SIZE);

    if (r == 0)
        *kept = (SfsMapFile){0};
    return r;
}

/* --- a later worker -------------------------------------------------------------------------- */

static int
load_bits(int fd, off_t from, off_t end, SfsPageMap *map)
{
    uint8_t bits[SFS_MAP_LEAF_BYTES];

    while (from < end) {
        ssize_t n = sfs_pread_full(fd, bits, MIN(sizeof bits, (size_t)(end - from)), from);
        uint64_t page = (uint64_t)(from - SFS_MAP_FILE_OFFSET) * 8;

        if (n < 0)
            return (int)n;
        for (ssize_t i = 0; i < n * 8; i++) {
            if (bits[i / 8] >> (i % 8) & 1)
                sfs_page_map_add(map, page + (uint64_t)i, page + (uint64_t)i + 1);
        }
        from += (off_t)sizeof bits;
    }
    return 0;
}

int
sfs_map_file_load(SfsMapFile *kept, int fd, SfsPageMap *map)
{
    uint64_t entries[LIST_ENTRIES] = {0};
    off_t data = SFS_MAP_FILE_OFFSET, hole;
    ssize_t n = sfs_pread_full(fd, entries, sizeof entries, LIST_OFFSET);
    int r = 0;

    *kept = (SfsMapFile){0};
    if (n < 0)
        return (int)n;
    if (entries[0] != IS_BITMAP) {
        for (; kept->listed < LIST_ENTRIES && entries[kept->listed] != 0; kept->listed++) {
            kept->last = entries[kept->listed];
            sfs_page_map_add(map, first_of(kept->last), end_of(kept->last));
        }
        return 0;
    }
    kept->bitmap = true;
    while (r == 0 && (data = lseek(fd, data, SEEK_DATA)) >= 0 && data < LIST_OFFSET) {
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        r = load_bits(fd, data, MIN(hole, LIST_OFFSET), map);
        data = hole;
    }
    return data < 0 && errno != ENXIO ? -errno : r;
}
