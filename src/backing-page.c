/* SPDX-License-Identifier: MIT */
/* Page-file-backed bytes: a file of the store, read directly and written through its accounting. */
#include "backing-fd.h"

typedef struct {
    SfsFdBacking common;
    SfsStoreFile *file;
} PageBacking;

static PageBacking *
page(SfsBacking *backing)
{
    return (PageBacking *)backing;
}

static ssize_t
page_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    return sfs_store_file_write(page(backing)->file, buf, size, offset, how & SFS_WRITE_BACK);
}

static ssize_t
page_splice_write(SfsBacking *backing, int pipe, size_t size, off_t offset, unsigned how)
{
    return sfs_store_file_splice(page(backing)->file, pipe, size, offset, how & SFS_WRITE_BACK);
}

static int
page_truncate(SfsBacking *backing, off_t size)
{
    return sfs_store_file_truncate(page(backing)->file, size);
}

static int
page_allocate(SfsBacking *backing, int mode, off_t offset, off_t length)
{
    return sfs_store_file_allocate(page(backing)->file, mode, offset, length);
}

static void
page_free(SfsBacking *backing)
{
    sfs_store_file_free(page(backing)->file);
    g_free(backing);
}

static const SfsBackingOps page_ops = {
    .kind = "page",
    .stat = sfs_fd_backing_stat,
    .read = sfs_fd_backing_read,
    .read_quietly = sfs_fd_backing_read_quietly,
    .splice_read = sfs_fd_backing_splice_read,
    .write = page_write,
    .splice_write = page_splice_write,
    .truncate = page_truncate,
    .allocate = page_allocate,
    .seek = sfs_fd_backing_seek,
    .sync = NULL,
    .set_times = sfs_fd_backing_set_times,
    .data_fd = sfs_fd_backing_fd,
    .lock_fd = sfs_fd_backing_fd,
    .free = page_free,
};

static SfsBacking *
over_file(SfsStoreFile *file)
{
    PageBacking *new = g_new0(PageBacking, 1);

    sfs_backing_init(&new->common.base, &page_ops);
    new->common.fd = sfs_store_file_fd(file);
    new->file = file;
    return &new->common.base;
}

int
sfs_backing_page_new(SfsStore *store, SfsBacking **backing, uint32_t *fd_slot)
{
    SfsStoreFile *file;
    int r = sfs_store_file_new(store, SFS_STORE_SECTION, &file);

    if (r < 0)
        return r;
    *fd_slot = sfs_store_file_slot(file);
    *backing = over_file(file);
    return 0;
}

SfsBacking *
sfs_backing_page_adopt(SfsStore *store, uint32_t fd_slot)
{
    return over_file(sfs_store_file_adopt(store, SFS_STORE_SECTION, fd_slot));
}
