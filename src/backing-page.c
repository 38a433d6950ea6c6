/* SPDX-License-Identifier: MIT */
/* Page-file-backed bytes: a file of the store, read directly and written through its accounting. */
#include "backing.h"

#include "util.h"

typedef struct {
    SfsBacking base;
    SfsStoreFile *file;
} PageBacking;

static PageBacking *
page(SfsBacking *backing)
{
    return (PageBacking *)backing;
}

static int
page_fd(SfsBacking *backing)
{
    return sfs_store_file_fd(page(backing)->file);
}

static int
page_stat(SfsBacking *backing, struct stat *st)
{
    struct stat own;

    if (fstat(page_fd(backing), &own) != 0)
        return -errno;
    st->st_size = own.st_size;
    st->st_blocks = own.st_blocks;
    st->st_atim = own.st_atim;
    st->st_mtim = own.st_mtim;
    st->st_ctim = own.st_ctim;
    return 0;
}

static ssize_t
page_read(SfsBacking *backing, void *buf, size_t size, off_t offset)
{
    return sfs_pread_full(page_fd(backing), buf, size, offset);
}

static ssize_t
page_write(SfsBacking *backing, const void *buf, size_t size, off_t offset, unsigned how)
{
    return sfs_store_file_write(page(backing)->file, buf, size, offset, how & SFS_WRITE_BACK);
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

static off_t
page_seek(SfsBacking *backing, off_t offset, int whence)
{
    off_t at = lseek(page_fd(backing), offset, whence);

    return at >= 0 ? at : -errno;
}

static int
page_set_times(SfsBacking *backing, const struct timespec times[2])
{
    return futimens(page_fd(backing), times) == 0 ? 0 : -errno;
}

static void
page_free(SfsBacking *backing)
{
    sfs_store_file_free(page(backing)->file);
    g_free(backing);
}

static const SfsBackingOps page_ops = {
    .kind = "page",
    .stat = page_stat,
    .read = page_read,
    .write = page_write,
    .truncate = page_truncate,
    .allocate = page_allocate,
    .seek = page_seek,
    .sync = NULL,
    .set_times = page_set_times,
    .data_fd = page_fd,
    .lock_fd = page_fd,
    .free = page_free,
};

static SfsBacking *
over_file(SfsStoreFile *file)
{
    PageBacking *new = g_new0(PageBacking, 1);

    sfs_backing_init(&new->base, &page_ops);
    new->file = file;
    return &new->base;
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
