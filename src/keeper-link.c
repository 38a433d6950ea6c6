/* SPDX-License-Identifier: MIT */
#include "keeper-link.h"

#include "fault.h"

#include <string.h>
#include <sys/socket.h>

typedef union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
} Control;

static int
send_message(int link, SfsLinkMessage message, int fd)
{
    struct iovec iov = {&message, sizeof message};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    Control control;

    if (fd >= 0) {
        struct cmsghdr *header;

        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        header = CMSG_FIRSTHDR(&msg);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    while (sendmsg(link, &msg, MSG_NOSIGNAL) < 0) {
        /* Too many descriptors in flight is the keeper being behind: it empties the socket without
         * waiting for anybody, so room comes. */
        if (errno == ETOOMANYREFS)
            g_usleep(1000);
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int
sfs_link_put(int link, SfsRegistry *registry, int fd, uint32_t *slot)
{
    int r;

    if (sfs_registry_alloc(registry, SFS_TABLE_FDS, slot) == NULL)
        return -ENFILE;
    r = send_message(link, (SfsLinkMessage){SFS_LINK_PUT, *slot}, fd);
    if (r < 0)
        sfs_registry_release(registry, SFS_TABLE_FDS, *slot);
    return r;
}

void
sfs_link_drop(int link, SfsRegistry *registry, uint32_t slot)
{
    /* In this order: what the keeper hears of the slot's next use must not overtake this. */
    send_message(link, (SfsLinkMessage){SFS_LINK_DROP, slot}, -1);
    sfs_registry_release(registry, SFS_TABLE_FDS, slot);
}

int
sfs_link_inherited(SfsRegistry *registry, uint32_t slot)
{
    const SfsFdRec *rec =
        slot != SFS_NO_SLOT ? sfs_registry_get(registry, SFS_TABLE_FDS, slot) : NULL;
    int fd = rec != NULL ? atomic_load(&rec->keeper_fd) : 0;

    return fd > 0 ? fd : -1;
}

int
sfs_link_ready(int link)
{
    return send_message(link, (SfsLinkMessage){SFS_LINK_READY, 0}, -1);
}

int
sfs_link_receive(int link, SfsLinkMessage *message, int *fd, bool *eof)
{
    struct iovec iov = {message, sizeof *message};
    Control control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header;
    ssize_t n;

    *fd = -1;
    *eof = false;
    do {
        n = recvmsg(link, &msg, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (n == 0) {
        *eof = true;
        return 0;
    }
    header = CMSG_FIRSTHDR(&msg);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(header), sizeof *fd);
    return n == sizeof *message ? 1 : -EPROTO;
}
