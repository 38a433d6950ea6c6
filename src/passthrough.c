/* SPDX-License-Identifier: MIT */
#include "passthrough.h"

#include "log.h"
#include "util.h"

#include <linux/capability.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* libfuse's calls for this want a request at hand, which the end of a section need not have. These are
 * the same two ioctls; the headers of older kernels lack them. */
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
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct caps[2];

    return syscall(SYS_capget, &header, caps) == 0 &&
           (caps[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN)) != 0;
}

/* The kernel asks for the capability in the first user namespace, which alone maps every id to itself. */
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
sfs_passthrough_register(int device, int fd)
{
    struct fuse_backing_map backing = { .fd = fd };
    int id = ioctl(device, FUSE_DEV_IOC_BACKING_OPEN, &backing);

    return id > 0 ? id : id == 0 ? -EOPNOTSUPP : -errno;
}

void
sfs_passthrough_unregister(int device, int backing_id)
{
    uint32_t id = (uint32_t)backing_id;

    if (ioctl(device, FUSE_DEV_IOC_BACKING_CLOSE, &id) != 0)
        g_debug("backing id %u could not be withdrawn: %s", id, g_strerror(errno));
}
