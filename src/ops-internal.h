/* SPDX-License-Identifier: MIT */
/* What the files that make up the operations table (ops.c, ops-file.c) share. Nothing else includes
 * this. */
#pragma once

#include "ops.h"

#include "section.h"

/* --- replies: each of these that says so has replied ----------------------------------------- */

SfsMount *sfs_op_mount(fuse_req_t req);
SfsCaller sfs_op_caller(fuse_req_t req);

/* Replies with 0 or the error that @r is. */
void sfs_op_reply(fuse_req_t req, int r);

/* Replies with a copy of these bytes. */
void sfs_op_reply_bytes(fuse_req_t req, const void *bytes, size_t size);

/* What the nodeid means; false: replied. */
bool sfs_op_resolve(fuse_req_t req, fuse_ino_t ino, SfsTarget *target);

/* The same for a directory in which something is to be changed: .cow and .info are for looking. */
bool sfs_op_resolve_for_change(fuse_req_t req, fuse_ino_t ino, SfsTarget *target);

/* The handle, NULL if there is none; and: NULL: replied. */
SfsHandle *sfs_op_handle(fuse_req_t req, const struct fuse_file_info *fi);
SfsHandle *sfs_op_need_handle(fuse_req_t req, const struct fuse_file_info *fi);

/* --- entries and attributes ------------------------------------------------------------------ */

/* Seconds for which the kernel may remember them: as long as it likes, or what
 * sfs_section_attrs_stay() says. */
#define SFS_OP_REMEMBER 86400.0
double sfs_op_attr_timeout(fuse_req_t req, const SfsTarget *target);
int sfs_op_fill_entry(fuse_req_t req, const SfsTarget *target, struct fuse_entry_param *entry);

/* Takes back references that the kernel was to get. */
void sfs_op_forget(SfsMount *mount, const SfsTarget *target, uint64_t n);

/* --- ops-file.c ------------------------------------------------------------------------------ */

void sfs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void sfs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                   struct fuse_file_info *fi);
void sfs_op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);
void sfs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void sfs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                 struct fuse_file_info *fi);
void sfs_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                  struct fuse_file_info *fi);
void sfs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void sfs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void sfs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                      struct fuse_file_info *fi);
void sfs_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                  struct fuse_file_info *fi);
void sfs_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
                            struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
                            struct fuse_file_info *fi_out, size_t len, int flags);
void sfs_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
                  struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
                  size_t out_size);
void sfs_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void sfs_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
                  int sleep);
void sfs_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation);
