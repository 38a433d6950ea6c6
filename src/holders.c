/* SPDX-License-Identifier: MIT */
/*
 * One walk over /proc. Every process may end, fork or exec at any step of it, so a file that is
 * missing or empty means "not any more" and nothing else; a descriptor on the process's directory,
 * not its number, keeps the walk from coming upon a later process of the same number.
 *
 * Two things are shared by tasks in ways that a process's own folder does not show: a thread may
 * have a table of descriptors of its own (unshare(2)), and where the first thread has ended while
 * others go on, the process's folder shows no descriptors and no mappings, though there are some.
 * Hence the looking at threads.
 */
#include "holders.h"

#include "crew.h"
#include "util.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* So often at most are processes looked for that were not there the time before. */
#define ROUNDS 16

typedef struct {
    dev_t dev;
    uint64_t ino;
    GHashTable *mounts;     /* ids of the mounts of @dev */
    GHashTable *namespaces; /* inodes of the mount namespaces that those are known of */
    bool mappings_only;
} Search;

static void
close_dir(DIR **dir)
{
    if (*dir != NULL)
        closedir(*dir);
}
#define autodir __attribute__((cleanup(close_dir))) DIR

static DIR *
open_dir(int dirfd, const char *path)
{
    sfs_autofd fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

    if (dir != NULL)
        sfs_fd_steal(&fd); /* closedir() closes it */
    return dir;
}

/* The next entry whose name is a number, or -1 at the end. @name gets its name. */
static int64_t
next_number(DIR *dir, const char **name)
{
    const struct dirent *entry;
    uint64_t number;

    /* Only readdir() shall be what set it at the end. */
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (sfs_parse_number(entry->d_name, 10, INT32_MAX, &number) == 0) {
            *name = entry->d_name;
            return (int64_t)number;
        }
    }
    return -1;
}

static FILE *
open_text(int dirfd, const char *path)
{
    sfs_autofd fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;

    if (file != NULL)
        sfs_fd_steal(&fd); /* fclose() closes it */
    return file;
}

/* --- which mounts ---------------------------------------------------------------------------- */

/* The number of a mount means the same to all processes, but each is told only of those in its own
 * namespace; and a descriptor can have come from another. So first all namespaces are read. */
static void
learn_mounts(Search *search, int process)
{
    g_autofree char *line = NULL;
    size_t size = 0;
    FILE *mountinfo;
    char namespace[64];
    ssize_t n = readlinkat(process, "ns/mnt", namespace, sizeof namespace - 1);

    if (n <= 0)
        return;
    namespace[n] = '\0';
    if (!g_hash_table_add(search->namespaces, g_strdup(namespace)))
        return;
    mountinfo = open_text(process, "mountinfo");
    if (mountinfo == NULL)
        return;
    while (getline(&line, &size, mountinfo) > 0) {
        unsigned major, minor;
        int id;

        if (sscanf(line, "%d %*d %u:%u ", &id, &major, &minor) == 3 &&
            makedev(major, minor) == search->dev)
            g_hash_table_add(search->mounts, GINT_TO_POINTER(id));
    }
    fclose(mountinfo);
}

/* --- one process ----------------------------------------------------------------------------- */

/* Descriptor @name of a folder fdinfo. */
static void
look_at_descriptor(const Search *search, int fdinfo, const char *name, SfsHolder *holder)
{
    /* What is wanted comes first; of a long list of watches the rest is cut off. */
    char text[256];
    const char *flags_text, *mount_text, *ino_text;
    uint64_t ino;
    unsigned flags;
    int mount;

    if (sfs_read_text(fdinfo, name, text, sizeof text) <= 0)
        return;
    flags_text = strstr(text, "flags:\t");
    mount_text = strstr(text, "mnt_id:\t");
    ino_text = strstr(text, "ino:\t");
    if (flags_text == NULL || mount_text == NULL || ino_text == NULL ||
        sscanf(ino_text, "ino:\t%" SCNu64, &ino) != 1 || ino != search->ino ||
        sscanf(mount_text, "mnt_id:\t%d", &mount) != 1 ||
        !g_hash_table_contains(search->mounts, GINT_TO_POINTER(mount)) ||
        sscanf(flags_text, "flags:\t%o", &flags) != 1 || flags & O_PATH)
        return;
    /* The fourth value stands for both rights and no reading: they are held all the same. */
    holder->reads = holder->reads || (flags & O_ACCMODE) != O_WRONLY;
    holder->writes = holder->writes || (flags & O_ACCMODE) != O_RDONLY;
}

/* Whether the task has any descriptors at all. */
static bool
look_at_descriptors(const Search *search, int task, SfsHolder *holder)
{
    autodir *fdinfo = open_dir(task, "fdinfo");
    const char *name;
    bool any = false;

    if (fdinfo == NULL)
        return false;
    while (next_number(fdinfo, &name) >= 0) {
        any = true;
        look_at_descriptor(search, dirfd(fdinfo), name, holder);
    }
    return any;
}

/* Whether the task has any mappings at all. */
static bool
look_at_mappings(const Search *search, int task, SfsHolder *holder)
{
    g_autofree char *line = NULL;
    size_t size = 0;
    FILE *maps = open_text(task, "maps");
    bool any = false;

    if (maps == NULL)
        return false;
    while (!holder->maps && getline(&line, &size, maps) > 0) {
        unsigned major, minor;
        uint64_t ino;

        any = true;
        /* A line break in the name of a file is written "\012", so a line is a mapping. */
        holder->maps = sscanf(line, "%*x-%*x %*s %*x %x:%x %" SCNu64, &major, &minor, &ino) == 3 &&
                       ino == search->ino && makedev(major, minor) == search->dev;
    }
    fclose(maps);
    return any;
}

static bool
found(const Search *search, const SfsHolder *holder)
{
    return holder->maps || (!search->mappings_only && (holder->reads || holder->writes));
}

/* Whether a thread has another table of descriptors than the first thread. Where that cannot be
 * asked the answer is no: looking at the same table for each of many threads takes too long. */
static bool
has_own_descriptors(pid_t pid, int64_t tid)
{
    return syscall(SYS_kcmp, (long)pid, (long)tid, (long)KCMP_FILES, 0L, 0L) > 0;
}

/* @no_descriptors, @no_mappings: what the first thread does not have any more. */
static void
look_at_threads(const Search *search, int process, bool no_descriptors, bool no_mappings,
                SfsHolder *holder)
{
    autodir *tasks = open_dir(process, "task");
    const char *name;
    int64_t tid;

    if (tasks == NULL)
        return;
    while ((tid = next_number(tasks, &name)) >= 0) {
        bool descriptors = tid != holder->pid && !search->mappings_only &&
                           (no_descriptors || has_own_descriptors(holder->pid, tid));
        sfs_autofd task = -1;

        if (tid == holder->pid || (!descriptors && !no_mappings))
            continue;
        task = openat(dirfd(tasks), name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (task < 0)
            continue;
        if (descriptors)
            look_at_descriptors(search, task, holder);
        /* All threads have one memory. */
        if (no_mappings && look_at_mappings(search, task, holder))
            no_mappings = false;
    }
}

static void
look_at_process(const Search *search, int process, SfsHolder *holder)
{
    bool no_descriptors = !search->mappings_only && !look_at_descriptors(search, process, holder);
    bool no_mappings = !look_at_mappings(search, process, holder);

    if (!search->mappings_only || no_mappings)
        look_at_threads(search, process, no_descriptors, no_mappings, holder);
}

/* False: it is gone, and with it whatever it held. */
static bool
describe(int process, SfsHolder *holder)
{
    char comm[sizeof holder->command + 1], status[2048];
    const char *uid;
    ssize_t n = sfs_read_text(process, "comm", comm, sizeof comm);

    if (n < 0)
        return false;
    if (n > 0)
        comm[n - 1] = '\0'; /* the kernel's own line feed */
    g_strlcpy(holder->command, comm, sizeof holder->command);
    if (sfs_read_text(process, "status", status, sizeof status) < 0)
        return false;
    /* The name comes before it, with line feeds written as \n. */
    uid = strstr(status, "\nUid:\t");
    return uid != NULL && sscanf(uid, "\nUid:\t%*u %u", &holder->uid) == 1;
}

/* --- the walk -------------------------------------------------------------------------------- */

static int
by_pid(gconstpointer a, gconstpointer b)
{
    pid_t one = *(const pid_t *)a, other = *(const pid_t *)b;

    return (one > other) - (one < other);
}

static int
list_processes(DIR *proc, GArray *pids)
{
    const char *name;
    int64_t number;

    while ((number = next_number(proc, &name)) >= 0) {
        pid_t pid = (pid_t)number;

        g_array_append_val(pids, pid);
    }
    if (errno != 0)
        return -errno;
    g_array_sort(pids, by_pid);
    return pids->len > 0 ? 0 : -ENOSYS; /* not even this one: it is no procfs */
}

static int
open_process(int proc, pid_t pid)
{
    char name[16];

    g_snprintf(name, sizeof name, "%d", (int)pid);
    return openat(proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Appends to @holders, or stops at the first where there are none wanted. */
static void
look_at_processes(Search *search, int proc, const GArray *pids, GArray *holders, bool *any)
{
    for (guint i = 0; !search->mappings_only && i < pids->len; i++) {
        sfs_autofd process = open_process(proc, g_array_index(pids, pid_t, i));

        if (process >= 0)
            learn_mounts(search, process);
    }
    for (guint i = 0; i < pids->len; i++) {
        SfsHolder holder = {.pid = g_array_index(pids, pid_t, i)};
        sfs_autofd process = open_process(proc, holder.pid);

        if (process < 0)
            continue;
        look_at_process(search, process, &holder);
        if (!found(search, &holder))
            continue;
        *any = true;
        if (holders == NULL)
            break;
        if (describe(process, &holder))
            g_array_append_val(holders, holder);
    }
}

/* Leaves those of @pids that are not in @seen, and adds them to it. */
static void
keep_new(GArray *pids, GHashTable *seen)
{
    guint n = 0;

    for (guint i = 0; i < pids->len; i++) {
        pid_t pid = g_array_index(pids, pid_t, i);

        if (g_hash_table_add(seen, GINT_TO_POINTER(pid)))
            g_array_index(pids, pid_t, n++) = pid;
    }
    g_array_set_size(pids, n);
}

/* In those that are not in @seen, if that is given. */
static int
search_processes(Search *search, GHashTable *seen, GArray *holders, bool *any)
{
    autodir *proc = open_dir(AT_FDCWD, "/proc");
    g_autoptr(GArray) pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    int r;

    if (proc == NULL)
        return -errno;
    r = list_processes(proc, pids);
    if (seen != NULL)
        keep_new(pids, seen);
    if (r == 0)
        look_at_processes(search, dirfd(proc), pids, holders, any);
    return r;
}

int
sfs_holders_find(dev_t dev, uint64_t ino, GArray *holders)
{
    g_autoptr(GHashTable) mounts = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) namespaces = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Search search = {.dev = dev, .ino = ino, .mounts = mounts, .namespaces = namespaces};
    bool any = false;

    sfs_crew_will_wait();
    return search_processes(&search, NULL, holders, &any);
}

int
sfs_holders_mapped(dev_t dev, uint64_t ino, bool *mapped)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    Search search = {.dev = dev, .ino = ino, .mappings_only = true};
    guint known, rounds = 0;
    bool any = false;
    int r;

    sfs_crew_will_wait();
    /* Who forks after the listing and ends before the look has handed its mapping on unseen, to a
     * process that the next listing has. */
    do {
        known = g_hash_table_size(seen);
        r = search_processes(&search, seen, NULL, &any);
        if (r == 0 && !any && g_hash_table_size(seen) > known && ++rounds == ROUNDS)
            r = -EAGAIN;
    } while (r == 0 && !any && g_hash_table_size(seen) > known);
    if (r == 0)
        *mapped = any;
    return r;
}

const char *
sfs_holder_command(const SfsHolder *holder, char *text)
{
    char *end = text;

    for (const char *c = holder->command; *c != '\0'; c++) {
        if (g_ascii_isgraph(*c) && *c != '\\')
            *end++ = *c;
        else
            end += sprintf(end, "\\%03o", (unsigned)(unsigned char)*c);
    }
    if (end == text)
        *end++ = '-';
    *end = '\0';
    return text;
}
