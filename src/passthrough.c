/* SPDX-License-Identifier: MIT */
#include "passthrough.h"

#include "log.h"
#include "util.h"

#include <linux/capability.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* libfuse's calls for this want a request at hand, which the end of a section need not have. These
 * are the same two ioctls; the headers of older kernels lack them. */
#ifndef FUSE_DEV_IOC_BACKING_OPEN
struct fuse_backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(229, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)
#endif

static bool
has_sys_admin(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2];

    return syscall(SYS_capget, &header, caps) == 0 &&
           (caps[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN)) != 0;
}

/* The kernel asks for the capability in the first user namespace, which alone maps every id to
 * itself. */
static bool
in_first_user_namespace(void)
{
    char map[128];
    unsigned inside, outside, count;

    return sfs_read_text(AT_FDCWD, "/proc/self/uid_map", map, sizeof map) > 0 &&
           sscanf(map, "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 && outside == 0 &&
           count == UINT32_MAX;
}

bool
sfs_passthrough_possible(const char **reason)
{
    if (!has_sys_admin())
        *reason = "the daemon lacks the capability CAP_SYS_ADMIN";
    else if (!in_first_user_namespace())
        *reason = "the daemon runs in a user namespace";
    else
        return true;
    return false;
}

int
sfs_passthrough_register(int device, int fd, uid_t uid, gid_t gid)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct all[2], one[2];
    struct fuse_backing_map backing = {.fd = fd};
    uid_t own_uid;
    gid_t own_gid;
    int id, r;

    /* The kernel notes the credentials that this thread has now. Of the capabilities it needs the
     * one that the call itself asks for. */
    if (syscall(SYS_capget, &header, all) != 0)
        return -errno;
    own_gid = (gid_t)setfsgid(gid);
    own_uid = (uid_t)setfsuid(uid);
    memcpy(one, all, sizeof one);
    one[0].effective = one[1].effective = 0;
    one[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective = CAP_TO_MASK(CAP_SYS_ADMIN);
    r = syscall(SYS_capset, &header, one) == 0 ? 0 : -errno;
    id = r == 0 ? ioctl(device, FUSE_DEV_IOC_BACKING_OPEN, &backing) : -1;
    if (r == 0 && id <= 0)
        r = id == 0 ? -EOPNOTSUPP : -errno;
    syscall(SYS_capset, &header, all);
    setfsuid(own_uid);
    setfsgid(own_gid);
    syscall(SYS_capset, &header, all);
    return r < 0 ? r : id;
}

bool
sfs_passthrough_sole_user(int fd)
{
    /* A write lease is granted to the only opener alone. */
    if (fcntl(fd, F_SETLEASE, F_WRLCK) != 0)
        return false;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

void
sfs_passthrough_unregister(int device, int backing_id)
{
    uint32_t id = (uint32_t)backing_id;

    if (ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, &id) != 0)
        g_debug("backing id %u could not be withdrawn: %s", id, g_strerror(errno));
}
