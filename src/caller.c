/* SPDX-License-Identifier: MIT */
/*
 * Taking on the caller changes the credentials of one thread, for the time of an open(2): file
 * system user and group, supplementary groups, effective capabilities. glibc's functions would
 * change the whole process, hence the raw system calls.
 */
#include "caller.h"

#include "crew.h"
#include "log.h"
#include "util.h"

#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <sys/syscall.h>

/* Not in every linux/magic.h. */
#ifndef CONFIGFS_MAGIC
#define CONFIGFS_MAGIC 0x62656570
#endif
#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif
#ifndef ECRYPTFS_SUPER_MAGIC
#define ECRYPTFS_SUPER_MAGIC 0xf15f
#endif

/* The kernel's NGROUPS_MAX. */
#define GROUPS_MAX 65536

typedef struct {
    GArray *groups;     /* of gid_t */
    uint64_t effective; /* capabilities */
} Identity;

static void
identity_clear(Identity *identity)
{
    g_clear_pointer(&identity->groups, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Identity, identity_clear)

/* --- what /proc says ------------------------------------------------------------------------- */

/* The text after "KEY:" on its line of a status file; NULL when there is none. */
static const char *
status_field(const char *status, const char *key)
{
    const char *at = strstr(status, key);

    return at != NULL ? at + strlen(key) : NULL;
}

/* The number that a line of four ids ends with: the one that counts for files. */
static bool
fs_id_is(const char *status, const char *key, unsigned id)
{
    const char *text = status_field(status, key);
    unsigned ids[4];

    return text != NULL && sscanf(text, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4 &&
           ids[3] == id;
}

/* In a user namespace of its own anybody has all capabilities, and they mean nothing outside of it.
 */
static bool
in_own_user_namespace(int proc)
{
    struct stat theirs, ours;

    return fstatat(proc, "ns/user", &theirs, 0) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
           theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/* Groups and capabilities of the caller, none where they cannot be had or are someone else's. */
static void
identify(const SfsCaller *caller, int proc, Identity *identity)
{
    g_autofree char *status = g_malloc(GROUPS_MAX * 11 + 4096);
    const char *text;

    identity->groups = g_array_new(FALSE, FALSE, sizeof(gid_t));
    identity->effective = 0;
    if (proc < 0 || sfs_read_text(proc, "status", status, GROUPS_MAX * 11 + 4096) < 0)
        return;
    if (!fs_id_is(status, "\nUid:", caller->uid) || !fs_id_is(status, "\nGid:", caller->gid))
        return;
    text = status_field(status, "\nGroups:");
    while (text != NULL && *text != '\n' && *text != '\0') {
        char *end;
        gid_t gid = (gid_t)strtoul(text, &end, 10);

        if (end == text)
            break;
        g_array_append_val(identity->groups, gid);
        text = end + strspn(end, " \t");
    }
    text = status_field(status, "\nCapEff:");
    if (text != NULL && caller->uid == 0 && in_own_user_namespace(proc))
        identity->effective = g_ascii_strtoull(text + strspn(text, " \t"), NULL, 16);
}

bool
sfs_caller_in_group(const SfsCaller *caller, gid_t gid)
{
    g_auto(Identity) identity = {0};
    sfs_autofd proc = -1;
    char name[32];

    if (caller->gid == gid)
        return true;
    g_snprintf(name, sizeof name, "/proc/%d", (int)caller->pid);
    proc = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    identify(caller, proc, &identity);
    for (guint i = 0; i < identity.groups->len; i++) {
        if (g_array_index(identity.groups, gid_t, i) == gid)
            return true;
    }
    return false;
}

bool
sfs_caller_may(const SfsCaller *caller, uid_t uid, gid_t gid, mode_t mode, int want)
{
    if (caller->uid == 0)
        return true;
    if (caller->uid == uid)
        mode >>= 6;
    else if (sfs_caller_in_group(caller, gid))
        mode >>= 3;
    return (mode & (mode_t)want) == (mode_t)want;
}

/* --- taking it on ---------------------------------------------------------------------------- */

typedef struct {
    struct __user_cap_data_struct caps[2];
    GArray *groups;
    uid_t uid;
    gid_t gid;
} Saved;

static struct __user_cap_header_struct
this_thread(void)
{
    return (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
}

/* 0 or -EPERM, and then nothing has changed. */
static int
take_on(const SfsCaller *caller, const Identity *identity, Saved *saved)
{
    struct __user_cap_header_struct header = this_thread();
    struct __user_cap_data_struct caps[2];
    int n = (int)syscall(SYS_getgroups, 0, NULL);

    saved->groups = g_array_sized_new(FALSE, FALSE, sizeof(gid_t), (guint)MAX(n, 1));
    g_array_set_size(saved->groups, (guint)MAX(n, 0));
    if (n > 0)
        syscall(SYS_getgroups, n, saved->groups->data);
    if (syscall(SYS_capget, &header, saved->caps) != 0 ||
        syscall(SYS_setgroups, (size_t)identity->groups->len, identity->groups->data) != 0) {
        g_array_unref(saved->groups);
        return -EPERM;
    }
    saved->gid = (gid_t)setfsgid(caller->gid);
    saved->uid = (uid_t)setfsuid(caller->uid);
    memcpy(caps, saved->caps, sizeof caps);
    caps[0].effective = caps[0].permitted & (uint32_t)identity->effective;
    caps[1].effective = caps[1].permitted & (uint32_t)(identity->effective >> 32);
    syscall(SYS_capset, &header, caps);
    return 0;
}

static void
put_off(Saved *saved)
{
    struct __user_cap_header_struct header = this_thread();

    /* Capabilities first: without them the rest would be refused. */
    syscall(SYS_capset, &header, saved->caps);
    setfsuid(saved->uid);
    setfsgid(saved->gid);
    syscall(SYS_setgroups, (size_t)saved->groups->len, saved->groups->data);
    /* setfsuid() away from and back to root dropped and raised some again: restore exactly. */
    syscall(SYS_capset, &header, saved->caps);
    g_array_unref(saved->groups);
}

/* --- opening --------------------------------------------------------------------------------- */

/* Resolves the path as seen from @root (the caller's), without opening what it leads to. */
static int
resolve(int root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);

    return fd >= 0 ? fd : -errno;
}

/* Opens for good what resolve() found, once it is known to be harmless to open. */
static int
open_resolved(int path_fd, SfsFileAccess access, bool *writable)
{
    char name[32];
    int fd;

    g_snprintf(name, sizeof name, "/proc/self/fd/%d", path_fd);
    *writable = access != SFS_FILE_READ;
    fd = open(name, (*writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_LARGEFILE);
    if (fd < 0 && access == SFS_FILE_WRITE_IF_ALLOWED &&
        (errno == EACCES || errno == EPERM || errno == EROFS || errno == ETXTBSY)) {
        *writable = false;
        fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_LARGEFILE);
    }
    return fd >= 0 ? fd : -errno;
}

/*
 * File systems whose regular files are none that could back a section. Those of the kernel answer
 * as suits whoever asks, which would be the daemon. What FUSE serves may wait for us, directly or
 * by another mount that does, and so for itself.
 */
static bool
can_back(int path_fd)
{
    static const unsigned long unfit[] = {
        FUSE_SUPER_MAGIC,    PROC_SUPER_MAGIC, SYSFS_MAGIC,    CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,    TRACEFS_MAGIC,  SECURITYFS_MAGIC,
        SELINUX_MAGIC,       BPF_FS_MAGIC,     NSFS_MAGIC,     PSTOREFS_MAGIC,
        EFIVARFS_MAGIC,      BINFMTFS_MAGIC,   CONFIGFS_MAGIC,
    };
    struct statfs fs;

    if (fstatfs(path_fd, &fs) != 0)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(unfit); i++) {
        if ((unsigned long)fs.f_type == unfit[i])
            return false;
    }
    return true;
}

/* Which mounts are known to be made by somebody with privileges: for callers without any. */
typedef struct {
    bool all;
    int ours, theirs; /* a mountinfo file each: of the daemon, and of the caller; or -1 */
} Trust;

static void
trust_clear(Trust *trust)
{
    sfs_fd_clear(&trust->ours);
    sfs_fd_clear(&trust->theirs);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Trust, trust_clear)

/* Whether mounts in the caller's mount namespace take privileges that count for the daemon. */
static bool
mounts_take_privileges(int proc)
{
    sfs_autofd mounts = openat(proc, "ns/mnt", O_RDONLY | O_CLOEXEC);
    sfs_autofd owner = mounts >= 0 ? ioctl(mounts, NS_GET_USERNS) : -1;
    struct stat theirs, ours;

    return owner >= 0 && fstat(owner, &theirs) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
           theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/* With the daemon's rights. */
static void
find_trust(const SfsCaller *caller, int proc, Trust *trust)
{
    trust->all = geteuid() != 0 || caller->uid == 0;
    if (trust->all)
        return;
    trust->ours = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    /* It is of the namespace that the caller is in now. From one of its own there is no way back to
     * one that takes privileges, so that is looked at after. */
    trust->theirs = openat(proc, "mountinfo", O_RDONLY | O_CLOEXEC);
    if (!mounts_take_privileges(proc)) {
        sfs_fd_clear(&trust->theirs);
        trust->theirs = -1;
    }
}

/* Reads the file to its end. */
static bool
lists_mount(int *mountinfo, uint64_t id)
{
    FILE *file = *mountinfo >= 0 ? fdopen(*mountinfo, "r") : NULL;
    g_autofree char *line = NULL;
    size_t size = 0;
    bool found = false;

    if (file == NULL)
        return false;
    *mountinfo = -1;
    while (!found && getline(&line, &size, file) > 0)
        found = g_ascii_strtoull(line, NULL, 10) == id;
    fclose(file);
    return found;
}

/* What lies on other file systems may lie on one of FUSE, which shows nowhere. So whoever has no
 * privileges must not have made it: in a user namespace of its own anybody may. */
static bool
is_trusted(int path_fd, Trust *trust)
{
    char name[48], text[1024];
    const char *field;
    struct statfs fs;
    uint64_t id;

    if (trust->all)
        return true;
    if (fstatfs(path_fd, &fs) != 0)
        return false;
    if ((unsigned long)fs.f_type != OVERLAYFS_SUPER_MAGIC &&
        (unsigned long)fs.f_type != ECRYPTFS_SUPER_MAGIC)
        return true;
    g_snprintf(name, sizeof name, "/proc/self/fdinfo/%d", path_fd);
    if (sfs_read_text(AT_FDCWD, name, text, sizeof text) < 0)
        return false;
    field = status_field(text, "\nmnt_id:");
    if (field == NULL)
        return false;
    id = g_ascii_strtoull(field, NULL, 10);
    return lists_mount(&trust->ours, id) || lists_mount(&trust->theirs, id);
}

static int
check_target(int path_fd, dev_t own_dev, Trust *trust)
{
    struct stat st;

    if (fstat(path_fd, &st) != 0)
        return -errno;
    if (st.st_dev == own_dev)
        return -ELOOP;
    return S_ISREG(st.st_mode) && can_back(path_fd) && is_trusted(path_fd, trust) ? 0 : -ENODEV;
}

int
sfs_caller_open_file(const SfsCaller *caller, const char *path, dev_t own_dev, SfsFileAccess access,
                     bool *writable)
{
    bool privileged = geteuid() == 0;
    char name[64];
    sfs_autofd proc = -1;
    sfs_autofd root = -1;
    sfs_autofd target = -1;
    g_auto(Identity) identity = {0};
    g_auto(Trust) trust = {.ours = -1, .theirs = -1};
    Saved saved;
    int r;

    if (path[0] != '/')
        return -EINVAL;
    sfs_crew_will_wait();
    g_snprintf(name, sizeof name, "/proc/%d", (int)caller->pid);
    proc = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc >= 0)
        root = openat(proc, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 && (errno == EMFILE || errno == ENFILE))
        return -ENFILE;
    /* Not our own in its place, even where we serve our own user alone: a process that has locked
     * itself in a folder can hide from /proc, and is not to get out by that. */
    if (root < 0)
        return -EACCES;
    find_trust(caller, proc, &trust);
    if (privileged) {
        identify(caller, proc, &identity);
        r = take_on(caller, &identity, &saved);
        if (r < 0)
            return r;
    } else if (caller->uid != geteuid()) {
        return -EPERM;
    }
    r = target = resolve(root, path);
    if (r >= 0)
        r = check_target(target, own_dev, &trust);
    if (r == 0)
        r = open_resolved(target, access, writable);
    if (privileged)
        put_off(&saved);
    return r == -EMFILE ? -ENFILE : r; /* the limit is the daemon's, not the caller's */
}
