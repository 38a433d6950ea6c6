/* SPDX-License-Identifier: MIT */
#include "info.h"

#include "control.h"
#include "section.h"
#include "store.h"
#include "view.h"

#include <sys/sysmacros.h>

/* Names of the FUSE opcodes, as linux/fuse.h numbers them. Those that came after the oldest headers
 * this builds with are here all the same: the number is the protocol's. */
static const char *const opcode_names[SFS_OPCODES] = {
    [1] = "lookup",
    [2] = "forget",
    [3] = "getattr",
    [4] = "setattr",
    [5] = "readlink",
    [6] = "symlink",
    [8] = "mknod",
    [9] = "mkdir",
    [10] = "unlink",
    [11] = "rmdir",
    [12] = "rename",
    [13] = "link",
    [14] = "open",
    [15] = "read",
    [16] = "write",
    [17] = "statfs",
    [18] = "release",
    [20] = "fsync",
    [21] = "setxattr",
    [22] = "getxattr",
    [23] = "listxattr",
    [24] = "removexattr",
    [25] = "flush",
    [26] = "init",
    [27] = "opendir",
    [28] = "readdir",
    [29] = "releasedir",
    [30] = "fsyncdir",
    [31] = "getlk",
    [32] = "setlk",
    [33] = "setlkw",
    [34] = "access",
    [35] = "create",
    [36] = "interrupt",
    [37] = "bmap",
    [38] = "destroy",
    [39] = "ioctl",
    [40] = "poll",
    [41] = "notify_reply",
    [42] = "batch_forget",
    [43] = "fallocate",
    [44] = "readdirplus",
    [45] = "rename2",
    [46] = "lseek",
    [47] = "copy_file_range",
    [50] = "syncfs",
    [51] = "tmpfile",
    [52] = "statx",
    [53] = "copy_file_range_64",
};

static GString *
stats(SfsMount *mount)
{
    const SfsRegistryHeader *header = mount->header;
    GString *text = g_string_new(NULL);
    SfsStoreUsage usage;
    uint64_t limit = header->config.nr_sections;

    sfs_store_usage(mount->store, &usage);
    g_string_append_printf(text, "version: %s\n", PACKAGE_VERSION);
    g_string_append_printf(text, "mode: %s\n", header->passthrough ? "passthrough" : "cached");
    g_string_append_printf(text, "mode_reason: %s\n", header->mode_reason);
    g_string_append_printf(text, "protocol: %u.%u\n", header->protocol_major,
                           header->protocol_minor);
    g_string_append_printf(text, "store: %s\n", sfs_store_engine(mount->store));
    g_string_append_printf(text, "size_limit: %" PRIu64 "\n", usage.limit);
    g_string_append_printf(text, "size_used: %" PRIu64 "\n", usage.used);
    g_string_append_printf(text, "size_overlays: %" PRIu64 "\n",
                           usage.overlays + sfs_views_copied(mount));
    g_string_append_printf(text, "sections_limit: %" PRIu64 "\n",
                           limit != 0 ? limit : SFS_MAX_NODES);
    /* The root directory is not counted. */
    g_string_append_printf(text, "sections: %u\n",
                           sfs_registry_count(mount->registry, SFS_TABLE_NODES) - 1);
    g_string_append_printf(text, "handles: %u\n", sfs_section_handles(mount));
    g_string_append_printf(text, "views: %u\n",
                           sfs_registry_count(mount->registry, SFS_TABLE_VIEWS));
    g_string_append_printf(text, "device: %u:%u\n", major((dev_t)header->mount_dev),
                           minor((dev_t)header->mount_dev));
    g_string_append_printf(text, "keeper_pid: %u\n", header->keeper_pid);
    g_string_append_printf(text, "worker_pid: %u\n", header->worker_pid);
    g_string_append_printf(text, "worker_starts: %u\n", header->worker_starts);
    g_string_append_printf(text, "deaths: %u\n", header->deaths);
    g_string_append_printf(text, "reloads: %u\n", header->reloads);
    g_string_append_printf(text, "reloads_refused: %u\n", header->reloads_refused);
    g_string_append_printf(text, "resumes: %u\n", header->resumes);
    g_string_append_printf(text, "resume_last_us: %" PRIu64 "\n", header->resume_last);
    g_string_append_printf(text, "resume_max_us: %" PRIu64 "\n", header->resume_max);
    g_string_append_printf(text, "resume_total_us: %" PRIu64 "\n", header->resume_total);
    g_string_append_printf(text, "resent: %" PRIu64 "\n", header->resent);
    for (int i = 0; i < SFS_OPCODES; i++) {
        if (opcode_names[i] != NULL)
            g_string_append_printf(text, "requests_%s: %" PRIu64 "\n", opcode_names[i],
                                   header->requests[i]);
    }
    return text;
}

static const char *
type_name(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "section";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symbolic link";
    case S_IFIFO:
        return "fifo";
    case S_IFSOCK:
        return "socket";
    default:
        return "device";
    }
}

GBytes *
sfs_info_text(SfsMount *mount, const SfsTarget *target)
{
    GString *text;

    if (target->class == SFS_CLASS_STATS)
        return g_string_free_to_bytes(stats(mount));
    if (target->class != SFS_CLASS_INFO)
        return NULL;
    text = g_string_new(NULL);
    g_string_append_printf(text, "type: %s\n", type_name(target->rec->mode));
    g_string_append_printf(text, "inode: %" PRIu64 "\n", target->rec->serial);
    if (sfs_target_is_section(target))
        sfs_control_describe(mount, target, text);
    return g_string_free_to_bytes(text);
}
