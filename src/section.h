/* SPDX-License-Identifier: MIT */
/*
 * Sections: what may be done with bytes, and what happens when it is done. All policy is here and
 * nowhere else: protection, sizes, who may define what, how the kernel is told to do the I/O, the
 * life of handles and of copy-on-write views.
 *
 * Functions return 0 (or a count) or a negative errno as users get it:
 *   -EACCES  the protection forbids it        -EBUSY      too late to define the section
 *   -EPERM   not the owner                    -ENFILE     no more handles or descriptors
 *   -EFBIG   too large                        -ENOSPC     the store is full
 *   -EROFS   .info and .stats are for reading -ESTALE     the name now means something else
 * and log each refusal of their own once, with g_info. All are thread-safe.
 */
#pragma once

#include "caller.h"
#include "mount.h"
#include "node.h"
#include "section-ioctl.h"

/* An open file; what FUSE's fh stands for. Owned by the sections from open to release. */
typedef struct {
    uint32_t slot; /* of its record */
    SfsHandleRec *rec;
    SfsClass class;
    uint32_t node;       /* slot */
    SfsBacking *backing; /* a reference; NULL for texts */
    GBytes *text;        /* .info and .stats */
    bool native;         /* the kernel passes its writes through */
    int flock_fd;        /* lock.c's: what flock(2) is done on, -1 while it was not */
    GHashTable *lockers; /* lock.c's: who has locked through it; NULL: nobody has */
} SfsHandle;

/* What FUSE calls fh. */
static inline uint64_t
sfs_handle_fh(const SfsHandle *handle)
{
    return (uint64_t)handle->rec->serial << 32 | handle->slot;
}

/* How the kernel is to do the I/O of a handle. */
typedef struct {
    SfsIoMode mode;
    int backing_id;  /* with SFS_IO_PASSTHROUGH */
    bool mediated;   /* with SFS_IO_PASSTHROUGH: that is for mappings alone */
    bool keep_cache; /* what the kernel has cached of this inode is still right */
} SfsOpenReply;

SfsSections *sfs_sections_new(SfsMount *mount);
/* Releases what is still open: at the end of a mount the kernel need not say so any more. */
void sfs_sections_free(SfsMount *mount);

/* Attributes of any node, st_dev excepted. @handle may be NULL. */
int sfs_section_stat(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                     struct stat *st);

/* Whether the kernel may remember the attributes until it changes them itself. Not those of a real
 * file. Those of a page section in passthrough change unseen by stores to a mapping, so they must
 * be asked for while there may be one; that there is a new one the kernel notices by itself, for it
 * takes a mapping for an access and then asks. Elsewhere all changes come through the kernel. */
bool sfs_section_attrs_stay(SfsMount *mount, const SfsTarget *target);

/* Sets those members of @st that @what (SFS_SET_*) names. */
int sfs_section_set(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                    const SfsCaller *caller, const struct stat *st, unsigned what);

/* Opens it, with the flags of open(2). Whether the permission bits allow it was checked by the
 * kernel.
 * @text: for .info and .stats, what is read there (a reference is taken); else NULL. */
int sfs_section_open(SfsMount *mount, const SfsTarget *target, int flags, const SfsCaller *caller,
                     GBytes *text, SfsHandle **handle, SfsOpenReply *reply);
void sfs_section_release(SfsMount *mount, SfsHandle *handle);

/* Handles on sections and views: looking at .info and .stats does not count. */
uint32_t sfs_section_handles(SfsMount *mount);

/* The handle that FUSE's fh means; NULL: it was released. */
SfsHandle *sfs_section_handle(SfsMount *mount, uint64_t fh);

/* The section that this very request has made and opened at an earlier worker, if it comes again.
 */
bool sfs_section_made(SfsMount *mount, SfsTarget *target);

/* The one in this slot, or NULL. */
SfsHandle *sfs_section_handle_at(SfsMount *mount, uint32_t slot);

/* Takes up the handle that a dead worker has left in the record at @slot. @backing: its bytes (a
 * reference is taken), NULL for texts. Before there are threads. */
SfsHandle *sfs_section_adopt(SfsMount *mount, uint32_t slot, SfsBacking *backing);

/* Writes @buf, or what is in the @pipe where @buf is NULL. @how: as the hook in backing.h. */
ssize_t sfs_section_write(SfsMount *mount, SfsHandle *handle, const void *buf, int pipe,
                          size_t size, off_t offset, unsigned how);
/* Whether it can do so from a pipe. */
bool sfs_section_can_splice(const SfsHandle *handle, size_t size, off_t offset, unsigned how);
/* As pread(2). @quietly: leaving no trace in the access time. */
ssize_t sfs_section_read(SfsMount *mount, SfsHandle *handle, void *buf, size_t size, off_t offset,
                         bool quietly);
/* The same into an empty pipe with room for it. A negative errno: it has to be read, and the pipe
 * to be emptied. */
ssize_t sfs_section_splice_read(SfsMount *mount, SfsHandle *handle, int pipe, size_t size,
                                off_t offset, bool quietly);

/* Whether the caller may make another name for it: 0, or -EPERM. The kernel has looked already, but
 * at the bits that a writecopy section shows, by which whoever may read may write. */
int sfs_section_check_link(const SfsTarget *target, const SfsCaller *caller);

/* What a write takes off the rights that a program gets when it runs: its capabilities, and with
 * @stranger, who lacks the privilege to leave them, the set-id bits as well (NULL: they stay). */
void sfs_section_drop_privileges(SfsMount *mount, const SfsTarget *target,
                                 const SfsCaller *stranger);

/* The same of the real file that a section is over, for the daemon's own changes of it leave that
 * alone where it runs as root: before one that a @caller without privileges has asked for. (What is
 * written by a handle is not looked at each time, but when that is opened. The kernel's own writes,
 * in passthrough, are done with the rights of whoever defined the section, and take them off.) */
void sfs_section_drop_file_set_ids(SfsMount *mount, const SfsTarget *target,
                                   const SfsCaller *caller);

int sfs_section_allocate(SfsMount *mount, SfsHandle *handle, int mode, off_t offset, off_t length);

/* As lseek(2), SEEK_DATA and SEEK_HOLE. Where _may_err() says so of what was found, @at, the kernel
 * may have yet to write something to that hole, which a mapping has there. _surely() has it do so
 * first, and waits for that, on a thread that may wait for this very mount; it goes on from @at. */
off_t sfs_section_seek(SfsMount *mount, SfsHandle *handle, off_t offset, int whence);
bool sfs_section_seek_may_err(SfsMount *mount, const SfsHandle *handle, off_t offset, int whence,
                              off_t at);
off_t sfs_section_seek_surely(SfsMount *mount, SfsHandle *handle, off_t offset, int whence,
                              off_t at);

int sfs_section_sync(SfsMount *mount, SfsHandle *handle, bool data_only);

/* What section-ioctl.h says of an open view, each under the same name. -ENOTTY: it is none. The
 * last two have the kernel write back: they must not run on a thread that answers it. */
int sfs_section_view_diff(SfsMount *mount, SfsHandle *handle, SectionDiff *diff);
int sfs_section_view_reset(SfsMount *mount, SfsHandle *handle);
int sfs_section_view_commit(SfsMount *mount, SfsHandle *handle, const SfsCaller *caller);

/* What the kernel has cached of sections that a dead worker was writing views into is old in part:
 * their attributes are dropped before anybody is served; their bytes, which may have to be written
 * back for that, by a thread that does not serve. It takes over what the first returns. */
GArray *sfs_section_resume_commits(SfsMount *mount);
void sfs_section_end_commits(SfsMount *mount, GArray *slots);

/* As copy_file_range(2): may copy less than asked for. */
ssize_t sfs_section_copy(SfsMount *mount, SfsHandle *from, off_t from_offset, SfsHandle *to,
                         off_t to_offset, size_t length);

/*
 * What an empty page section, that nobody but (perhaps) the caller has open, can become. It gets a
 * new nodeid: handles that were open stay on the empty bytes they had. Errors as those of
 * sfs_caller_open_file() besides those above. May wait, on the mount itself as well.
 *
 * file: one over the real file @path, opened with the caller's rights; readonly if those do not
 *   allow writing and nothing else was asked for; over the window on it that was set before.
 *   -EINVAL: nothing of the file is in the window; -EFBIG: it is longer than a file that may not be
 *   extended.
 * base: a copy of another section of the mount, which the caller may read. -ELOOP: of itself.
 */
int sfs_section_define_file(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                            const char *path);
int sfs_section_define_base(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                            const char *path);

/* The window on the file that it will be defined by; NULL: that stays. */
int sfs_section_set_window(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                           const uint64_t *offset, const uint64_t *length);

/* Caps what later opens may ask for. -EACCES: its file may not be written by whoever defined it, or
 * its bytes are another's; -EBUSY: it is open, and would be a view or no view any more. May wait.
 */
int sfs_section_set_protect(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                            SfsProtect protect);
int sfs_section_set_cow(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                        SfsCow cow);

/* Of a section, or of what a directory hands down. -EINVAL: not a value; -EBUSY: it is open in a
 * way that could not be held to it; -ENOSPC: there is no memory to commit. May wait. */
int sfs_section_set_policy(SfsMount *mount, const SfsTarget *target, const SfsCaller *caller,
                           SfsPolicyKey key, const char *value);

/* Whether changing the size may have to wait. */
bool sfs_section_size_waits(SfsMount *mount, const SfsTarget *target, const SfsHandle *handle,
                            off_t size);

/* To be called after the reply to whatever may have changed the size: until then nobody can open a
 * section that was cut off, so that nobody maps what the kernel takes to be there still. (Or before
 * it, where the kernel was told that what it knows of the section is old.) */
void sfs_section_cut(SfsMount *mount);

/* Bytes that a section shows, or a new view of it would start with: its own, or those of what it is
 * based on. A reference for the caller; NULL: it has none yet. */
SfsBacking *sfs_section_bytes(SfsMount *mount, const SfsTarget *target);

/* The nodeid of which the kernel may hold bytes that it has not written back, and that a new view
 * of @target should start with; 0: of none. */
uint64_t sfs_section_dirty_inode(SfsMount *mount, const SfsTarget *target);

/* What has to be added to where a lock is wanted, to have where it is on the file. */
off_t sfs_section_lock_offset(SfsMount *mount, const SfsHandle *handle);

/* Appends a line for each process that has the section open or mapped: "PID COMMAND UID ACCESS
 * AGE". Looks through /proc, and so may wait. */
void sfs_section_holders(SfsMount *mount, const SfsTarget *target, GString *text);

/* Bytes of it that are in memory, and in swap. False: the kernel does not say. */
bool sfs_section_memory(SfsMount *mount, const SfsTarget *target, uint64_t *resident,
                        uint64_t *swapped);

/* Whether opening it may have to wait for this very mount. */
bool sfs_section_open_may_wait(SfsMount *mount, const SfsTarget *target, int flags);

/* Bytes private to the view that @target is; 0 when it is none, or not open. */
uint64_t sfs_section_private(SfsMount *mount, const SfsTarget *target);

/* How its I/O is done, or would be if it were opened: "passthrough", "mapped" (mappings are passed
 * through, writes are not), "cached", "direct". */
const char *sfs_section_io_mode(SfsMount *mount, const SfsTarget *target);
