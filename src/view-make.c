/* SPDX-License-Identifier: MIT */
/*
 * The fastest way in which a view can have its bytes, chosen when it is first opened, for an inode
 * keeps its backing file as long as anybody has it open.
 *
 *   base     Opened for reading only: the kernel reads the section's own bytes. Nothing stands
 *            between a writer and those, so no open for writing may ever join such a view: see
 *            `readonly` of its record, which holds in every mode, that it be one rule. Not where
 *            being mapped would change the section: a tmpfs's file with holes.
 *   copy     No larger than `cow_copy_max`: copied into the store, and the kernel uses that.
 *   clone    A file on a file system that shares extents: an unnamed file beside it that does so.
 *   overlay  Anything else, and everything without passthrough: backing-cow.c. Also what has to
 * last as long as its mappings, of which only the page cache's mode tells.
 *
 * A view registers an id of its own, also for the descriptor of its base. So it depends on nothing
 * that its section does later.
 *
 * Whether a file system can clone is learned by trying, once for each; the directory for the
 * unnamed file is the one that the file is in, wherever it was moved to. Looking that up may lead
 * through this very mount, so it is done on threads that do not serve it (sfs_view_may_clone()).
 */
#include "view.h"

#include "keeper-link.h"
#include "log.h"
#include "passthrough.h"
#include "util.h"
#include "xattr.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>

struct SfsViewMaker {
    GMutex lock;
    GHashTable *cannot_clone; /* set of dev_t */
};

SfsViewMaker *
sfs_view_maker_new(void)
{
    SfsViewMaker *maker = g_new0(SfsViewMaker, 1);

    g_mutex_init(&maker->lock);
    maker->cannot_clone = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    return maker;
}

void
sfs_view_maker_free(SfsViewMaker *maker)
{
    g_hash_table_unref(maker->cannot_clone);
    g_mutex_clear(&maker->lock);
    g_free(maker);
}

/* Whether the section has to know of each user, mappings included: in passthrough the kernel does
 * not tell of those. The same where opens are to join the view as long as there is any. */
static bool
minds_users(const SfsTarget *target, const SfsViewWish *wish)
{
    const SfsPolicy *policy = &target->rec->policy;

    return wish->joined || policy->lifetime == SFS_TEMPORARY || policy->delete == SFS_DELETE_BUSY ||
           policy->resize == SFS_RESIZE_GROW;
}

/* --- base ------------------------------------------------------------------------------------ */

/* A tmpfs takes a page for a hole as soon as somebody reads it through a mapping. Whoever looks at
 * a section by a view must not make it larger. Mostly the count of blocks tells, at no cost; it
 * does not where there are blocks beyond the end. */
static bool
mapping_fills_holes(SfsBacking *base, const struct stat *section)
{
    uint64_t whole = sfs_page_round_up((uint64_t)section->st_size);
    uint64_t there = (uint64_t)section->st_blocks * 512;
    struct statfs fs;

    if (there == whole ||
        (fstatfs(sfs_backing_data_fd(base), &fs) == 0 && fs.f_type != TMPFS_MAGIC))
        return false;
    return there < whole || base->ops->seek(base, 0, SEEK_HOLE) < section->st_size;
}

/* The section's bytes must be a file's as a whole. A section that gives rights to who runs it is
 * left alone: being open elsewhere keeps it from the mode in which a write takes those off. And
 * where the page cache may hold what the bytes do not, they are not the whole truth. */
static bool
may_show_base(SfsMount *mount, const SfsTarget *target, SfsBacking *base, const SfsViewWish *wish)
{
    const SfsNodeRec *rec = target->rec;

    return base != NULL && rec->base == SFS_NO_SLOT && !rec->bounded &&
           wish->section->st_size > 0 && !mapping_fills_holes(base, wish->section) &&
           (rec->io_mode == SFS_IO_UNDECIDED || rec->io_mode == SFS_IO_PASSTHROUGH) &&
           !(rec->mode & (S_ISUID | S_ISGID)) && !sfs_xattr_has_capability(mount, target);
}

static int
register_base(SfsMount *mount, const SfsTarget *target, SfsBacking *base)
{
    const SfsNodeRec *rec = target->rec;
    bool real = rec->kind == SFS_KIND_FILE;
    int fd = sfs_backing_data_fd(base);

    if (fd < 0)
        return -EOPNOTSUPP;
    return sfs_passthrough_register(mount->device, fd, real ? rec->file_uid : geteuid(),
                                    real ? rec->file_gid : getegid());
}

/* --- clone ----------------------------------------------------------------------------------- */

static bool
device_can_clone(SfsViewMaker *maker, dev_t device)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&maker->lock);
    gint64 key = (gint64)device;

    return !g_hash_table_contains(maker->cannot_clone, &key);
}

static void
device_cannot_clone(SfsViewMaker *maker, dev_t device)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&maker->lock);
    gint64 key = (gint64)device;

    g_hash_table_add(maker->cannot_clone, g_memdup2(&key, sizeof key));
}

bool
sfs_view_may_clone(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target)
{
    g_autoptr(SfsBacking) base = NULL;
    struct stat st;

    if (!mount->header->passthrough || !mount->header->config.reflink ||
        target->rec->kind != SFS_KIND_FILE || target->rec->bounded)
        return false;
    base = sfs_node_backing(mount->nodes, target->slot);
    return base != NULL && fstat(sfs_backing_data_fd(base), &st) == 0 &&
           device_can_clone(maker, st.st_dev);
}

/* The directory in which an open file lies, which must be on the same file system. */
static int
open_directory_of(int fd, dev_t device)
{
    char link[32], path[SFS_PATH_MAX];
    sfs_autofd directory = -1;
    struct stat st;
    ssize_t n;
    char *slash;

    g_snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return -errno;
    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL)
        return -ENOENT;
    slash[slash == path ? 1 : 0] = '\0';
    directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || fstat(directory, &st) != 0)
        return -errno;
    return st.st_dev == device ? sfs_fd_steal(&directory) : -EXDEV;
}

/* An unnamed file with the bytes of the one at @base, owned by who will write in it, as far as
 * quotas go. */
static int
clone_file(int base, dev_t device, const SfsCaller *caller)
{
    sfs_autofd directory = open_directory_of(base, device);
    sfs_autofd fd = -1;

    if (directory < 0)
        return directory;
    fd = openat(directory, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || fchown(fd, caller->uid, caller->gid) != 0 || ioctl(fd, FICLONE, base) != 0)
        return -errno;
    return sfs_fd_steal(&fd);
}

static bool
means_never(int error)
{
    return error == -EOPNOTSUPP || error == -EINVAL || error == -ENOTTY || error == -EISDIR ||
           error == -ENOSYS;
}

static SfsBacking *
make_clone(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target, SfsBacking *base,
           const SfsViewWish *wish, uint32_t slot)
{
    int base_fd = base != NULL ? sfs_backing_data_fd(base) : -1;
    sfs_autofd fd = -1;
    uint32_t fd_slot;
    struct stat st;

    if (!sfs_view_may_clone(mount, maker, target) || fstat(base_fd, &st) != 0)
        return NULL;
    fd = clone_file(base_fd, st.st_dev, wish->caller);
    if (fd < 0) {
        if (means_never(fd))
            device_cannot_clone(maker, st.st_dev);
        g_info("section %" PRIu64 ": its file cannot be cloned: %s", target->rec->serial,
               g_strerror(-fd));
        return NULL;
    }
    if (sfs_link_put(mount->link, mount->registry, fd, &fd_slot) < 0)
        return NULL;
    return sfs_backing_clone_new(sfs_fd_steal(&fd), mount->link, fd_slot, base, mount->registry,
                                 slot);
}

/* --- the choice ------------------------------------------------------------------------------ */

/* A file of its own, if it may have one and the kernel takes it. */
static SfsBacking *
make_own_file(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target, SfsBacking *base,
              const SfsViewWish *wish, uint32_t slot)
{
    SfsViewRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, slot);
    SfsBacking *made = NULL;
    int id;

    rec->kind = SFS_VIEW_COPY;
    if ((uint64_t)wish->section->st_size <= mount->header->config.cow_copy_max &&
        mount->header->config.cow_copy_max > 0) {
        if (sfs_backing_copy_new(mount->store, base, mount->registry, slot, &made) < 0)
            return NULL;
    } else {
        rec->kind = SFS_VIEW_CLONE;
        made = make_clone(mount, maker, target, base, wish, slot);
        if (made == NULL)
            return NULL;
    }
    id = sfs_passthrough_register(mount->device, sfs_backing_data_fd(made),
                                  rec->kind == SFS_VIEW_CLONE ? wish->caller->uid : geteuid(),
                                  rec->kind == SFS_VIEW_CLONE ? wish->caller->gid : getegid());
    if (id <= 0) {
        sfs_backing_unref(made);
        return NULL;
    }
    rec->backing_id = id;
    sfs_passthrough_note(&mount->header->last_backing_id, id);
    sfs_backing_copy_keep(made, slot);
    return made;
}

SfsBacking *
sfs_view_make(SfsMount *mount, SfsViewMaker *maker, const SfsTarget *target,
              const SfsViewWish *wish, uint32_t slot)
{
    SfsBacking *base = wish->base;
    SfsViewRec *rec = sfs_registry_get(mount->registry, SFS_TABLE_VIEWS, slot);
    bool may_pass = mount->header->passthrough && !minds_users(target, wish);
    SfsBacking *made = NULL;

    if (may_pass && wish->writes)
        made = make_own_file(mount, maker, target, base, wish, slot);
    if (made != NULL)
        return made;
    rec->kind = SFS_VIEW_OVERLAY;
    if (may_pass && !wish->writes && may_show_base(mount, target, base, wish)) {
        int id = register_base(mount, target, base);

        if (id > 0) {
            rec->backing_id = id;
            sfs_passthrough_note(&mount->header->last_backing_id, id);
            rec->kind = SFS_VIEW_BASE;
        }
    }
    return sfs_backing_cow_new(mount->store, base, mount->registry, slot);
}
