/* SPDX-License-Identifier: MIT */
/*
 * Who has a file open or mapped, tried on a plain file: each test makes processes that hold it in
 * one way, and asks. Others of the machine come and go meanwhile, and must not matter.
 */
#include "holders.h"
#include "fixture.h"
#include "util.h"

#include <glib/gstdio.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

typedef struct {
    char *folder, *path;
    dev_t dev;
    uint64_t ino;
    GArray *pids; /* processes to be ended */
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    struct stat st;
    int fd;

    /* Some disk filesystems call their device one thing in stat(2) and another in /proc. */
    f->folder = g_build_filename(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
                                 "test-holders-XXXXXX", NULL);
    g_assert_nonnull(g_mkdtemp(f->folder));
    f->path = g_build_filename(f->folder, "file", NULL);
    fd = open(f->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, SFS_PAGE_SIZE), ==, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    close(fd);
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    f->pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
}

static void
end_process(Fixture *f, pid_t pid)
{
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    for (guint i = 0; i < f->pids->len; i++) {
        if (g_array_index(f->pids, pid_t, i) == pid)
            g_array_remove_index(f->pids, i);
    }
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    while (f->pids->len > 0)
        end_process(f, g_array_index(f->pids, pid_t, 0));
    g_array_unref(f->pids);
    g_unlink(f->path);
    g_rmdir(f->folder);
    g_free(f->path);
    g_free(f->folder);
}

static GArray *
find(Fixture *f)
{
    GArray *holders = g_array_new(FALSE, TRUE, sizeof(SfsHolder));
    bool mapped, any = false;

    g_assert_cmpint(sfs_holders_find(f->dev, f->ino, holders), ==, 0);
    for (guint i = 0; i < holders->len; i++)
        any = any || g_array_index(holders, SfsHolder, i).maps;
    g_assert_cmpint(sfs_holders_mapped(f->dev, f->ino, &mapped), ==, 0);
    g_assert_cmpint(mapped, ==, any);
    return holders;
}

static const char *
access_of(const SfsHolder *holder)
{
    static char text[4];

    g_snprintf(text, sizeof text, "%s%s%s", holder->reads ? "r" : "", holder->writes ? "w" : "",
               holder->maps ? "m" : "");
    return text;
}

/* The one holder is @pid, and this is what it may. */
static void
assert_only(Fixture *f, pid_t pid, const char *access)
{
    g_autoptr(GArray) holders = find(f);
    const SfsHolder *holder = &g_array_index(holders, SfsHolder, 0);

    g_assert_cmpuint(holders->len, ==, 1);
    g_assert_cmpint(holder->pid, ==, pid);
    g_assert_cmpuint(holder->uid, ==, geteuid());
    g_assert_cmpstr(access_of(holder), ==, access);
}

static void
assert_nobody(Fixture *f)
{
    g_autoptr(GArray) holders = find(f);

    g_assert_cmpuint(holders->len, ==, 0);
}

/* A process that does @prepare, which tells whether it could be done, and then waits for its end.
 * 0 where it could not. */
static pid_t
start(Fixture *f, bool (*prepare)(Fixture *))
{
    int ready[2];
    char answer = 0;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        answer = prepare(f) ? 'y' : 'n';
        if (write(ready[1], &answer, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    g_array_append_val(f->pids, pid);
    g_assert_cmpint(read(ready[0], &answer, 1), ==, 1);
    close(ready[0]);
    return answer == 'y' ? pid : 0;
}

static void
test_descriptors(Fixture *f, gconstpointer data)
{
    static const struct {
        int flags;
        const char *access;
    } cases[] = {
        {O_RDONLY, "r"},   {O_WRONLY, "w"}, {O_RDWR, "rw"}, {O_RDWR | O_APPEND | O_NOFOLLOW, "rw"},
        {O_ACCMODE, "rw"}, /* neither reads nor writes, wants both rights */
    };

    assert_nobody(f);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        sfs_autofd fd = open(f->path, cases[i].flags | O_CLOEXEC);

        g_assert_cmpint(fd, >=, 0);
        assert_only(f, getpid(), cases[i].access);
    }
    assert_nobody(f);
}

static void
test_several_are_one(Fixture *f, gconstpointer data)
{
    sfs_autofd reads = open(f->path, O_RDONLY | O_CLOEXEC);
    sfs_autofd writes = open(f->path, O_WRONLY | O_CLOEXEC);
    sfs_autofd copy = dup(reads);

    assert_only(f, getpid(), "rw");
}

static void
test_path_descriptor(Fixture *f, gconstpointer data)
{
    sfs_autofd fd = open(f->path, O_PATH | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    assert_nobody(f);
}

static void
test_mapping_alone(Fixture *f, gconstpointer data)
{
    int fd = open(f->path, O_RDWR | O_CLOEXEC);
    void *map = mmap(NULL, SFS_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

    g_assert_true(map != MAP_FAILED);
    assert_only(f, getpid(), "rwm");
    close(fd);
    assert_only(f, getpid(), "m");
    munmap(map, SFS_PAGE_SIZE);
    assert_nobody(f);
}

static void
test_private_mapping(Fixture *f, gconstpointer data)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    char *map = mmap(NULL, SFS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

    g_assert_true(map != MAP_FAILED);
    close(fd);
    map[0] = 1;
    assert_only(f, getpid(), "m");
    munmap(map, SFS_PAGE_SIZE);
}

static void
test_same_number_elsewhere(Fixture *f, gconstpointer data)
{
    g_autoptr(GArray) holders = g_array_new(FALSE, FALSE, sizeof(SfsHolder));
    sfs_autofd fd = open(f->path, O_RDWR | O_CLOEXEC);
    void *map = mmap(NULL, SFS_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

    g_assert_cmpint(sfs_holders_find(f->dev + 1, f->ino, holders), ==, 0);
    g_assert_cmpuint(holders->len, ==, 0);
    munmap(map, SFS_PAGE_SIZE);
}

static bool
do_nothing(Fixture *f)
{
    return true;
}

static void
test_fork(Fixture *f, gconstpointer data)
{
    int fd = open(f->path, O_RDWR | O_CLOEXEC);
    pid_t child = start(f, do_nothing);
    g_autoptr(GArray) both = find(f);

    g_assert_cmpuint(both->len, ==, 2);
    g_assert_cmpint(g_array_index(both, SfsHolder, 0).pid, <,
                    g_array_index(both, SfsHolder, 1).pid);
    close(fd);
    assert_only(f, child, "rw");
    end_process(f, child);
    assert_nobody(f);
}

static void
test_appends(Fixture *f, gconstpointer data)
{
    g_autoptr(GArray) holders = g_array_new(FALSE, TRUE, sizeof(SfsHolder));
    sfs_autofd fd = open(f->path, O_RDONLY | O_CLOEXEC);

    g_array_set_size(holders, 1);
    g_assert_cmpint(sfs_holders_find(f->dev, f->ino, holders), ==, 0);
    g_assert_cmpuint(holders->len, ==, 2);
    g_assert_cmpint(g_array_index(holders, SfsHolder, 0).pid, ==, 0);
    g_assert_cmpint(g_array_index(holders, SfsHolder, 1).pid, ==, getpid());
}

static int channel[2];

static void
send_descriptor(int fd)
{
    char byte = 0, room[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec text = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    g_assert_cmpint(sendmsg(channel[0], &message, 0), ==, 1);
}

static bool
receive_descriptor(Fixture *f)
{
    char byte, room[CMSG_SPACE(sizeof(int))];
    struct iovec text = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};

    return recvmsg(channel[1], &message, 0) == 1 && CMSG_FIRSTHDR(&message) != NULL;
}

static void
test_passed_through_socket(Fixture *f, gconstpointer data)
{
    pid_t receiver;
    int fd;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), ==, 0);
    fd = open(f->path, O_RDONLY | O_CLOEXEC);
    send_descriptor(fd);
    close(fd);
    receiver = start(f, receive_descriptor);
    g_assert_cmpint(receiver, !=, 0);
    assert_only(f, receiver, "r");
    close(channel[0]);
    close(channel[1]);
}

static bool
call_itself_names(Fixture *f)
{
    return open(f->path, O_RDONLY) >= 0 && prctl(PR_SET_NAME, "a\n\033[31mb \\\303\244:)") == 0;
}

static void
test_hostile_name(Fixture *f, gconstpointer data)
{
    char text[SFS_HOLDER_COMMAND_MAX];
    g_autoptr(GArray) holders = NULL;

    g_assert_cmpint(start(f, call_itself_names), !=, 0);
    holders = find(f);
    g_assert_cmpuint(holders->len, ==, 1);
    g_assert_cmpuint(g_array_index(holders, SfsHolder, 0).uid, ==, geteuid());
    g_assert_cmpstr(sfs_holder_command(&g_array_index(holders, SfsHolder, 0), text), ==,
                    "a\\012\\033[31mb\\040\\134\\303\\244:)");
}

static void
test_command_text(void)
{
    char text[SFS_HOLDER_COMMAND_MAX];
    SfsHolder holder = {.command = ""};

    g_assert_cmpstr(sfs_holder_command(&holder, text), ==, "-");
    memset(holder.command, '\n', sizeof holder.command - 1);
    g_assert_cmpuint(strlen(sfs_holder_command(&holder, text)), ==, SFS_HOLDER_COMMAND_MAX - 1);
    g_strlcpy(holder.command, "python3", sizeof holder.command);
    g_assert_cmpstr(sfs_holder_command(&holder, text), ==, "python3");
}

static bool
take_longest_name(Fixture *f)
{
    return open(f->path, O_RDONLY) >= 0 && prctl(PR_SET_NAME, "123456789012345") == 0;
}

static void
test_longest_name(Fixture *f, gconstpointer data)
{
    g_autoptr(GArray) holders = NULL;

    g_assert_cmpint(start(f, take_longest_name), !=, 0);
    holders = find(f);
    g_assert_cmpuint(holders->len, ==, 1);
    g_assert_cmpstr(g_array_index(holders, SfsHolder, 0).command, ==, "123456789012345");
}

static bool
open_thousands(Fixture *f)
{
    struct rlimit limit = {5000, 5000};
    int null = open("/dev/null", O_RDONLY);

    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return false;
    while (dup(null) >= 0)
        continue;
    /* The last of them all. */
    return close(4999) == 0 && open(f->path, O_WRONLY) == 4999;
}

static void
test_thousands_of_descriptors(Fixture *f, gconstpointer data)
{
    pid_t holder = start(f, open_thousands);

    if (holder == 0) {
        g_test_skip("not so many descriptors are allowed here");
        return;
    }
    assert_only(f, holder, "w");
}

static bool thread_holds;
static pthread_barrier_t thread_tried;

static void *
hold_in_own_table(void *data)
{
    Fixture *f = data;

    thread_holds = unshare(CLONE_FILES) == 0 && open(f->path, O_WRONLY) >= 0;
    pthread_barrier_wait(&thread_tried);
    for (;;)
        pause();
    return NULL;
}

static bool
start_thread(Fixture *f)
{
    pthread_t thread;

    pthread_barrier_init(&thread_tried, NULL, 2);
    if (pthread_create(&thread, NULL, hold_in_own_table, f) != 0)
        return false;
    pthread_barrier_wait(&thread_tried);
    return thread_holds;
}

static void
test_thread_with_own_table(Fixture *f, gconstpointer data)
{
    pid_t holder = start(f, start_thread);

    g_assert_cmpint(holder, !=, 0);
    if (syscall(SYS_kcmp, (long)getpid(), (long)getpid(), (long)KCMP_FILES, 0L, 0L) != 0)
        g_test_skip("tables of descriptors cannot be compared here");
    else
        assert_only(f, holder, "w");
}

static int survivor_ready[2];

static void *
survive_first_thread(void *data)
{
    Fixture *f = data;
    int fd = open(f->path, O_RDONLY);
    g_autofree char *status = g_strdup_printf("/proc/%d/status", (int)getpid());
    char text[512] = "";

    if (mmap(NULL, SFS_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
        _exit(1);
    while (strstr(text, "State:\tZ") == NULL) {
        if (sfs_read_text(AT_FDCWD, status, text, sizeof text) < 0)
            _exit(1);
        g_usleep(1000);
    }
    if (write(survivor_ready[1], "y", 1) != 1)
        _exit(1);
    for (;;)
        pause();
    return NULL;
}

static void
test_first_thread_ended(Fixture *f, gconstpointer data)
{
    char answer = 0;
    pthread_t thread;
    pid_t pid;

    g_assert_cmpint(pipe(survivor_ready), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        if (pthread_create(&thread, NULL, survive_first_thread, f) != 0)
            _exit(1);
        syscall(SYS_exit, 0); /* this thread alone */
    }
    g_array_append_val(f->pids, pid);
    close(survivor_ready[1]);
    g_assert_cmpint(read(survivor_ready[0], &answer, 1), ==, 1);
    close(survivor_ready[0]);
    assert_only(f, pid, "rm");
}

static bool
hold_in_own_namespace(Fixture *f)
{
    g_autofree char *path = g_build_filename("/tmp", "file", NULL);
    int fd;

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(f->folder, "/tmp", NULL, MS_BIND, NULL) != 0)
        return false;
    /* On a mount that nobody outside knows of. */
    fd = open(path, O_RDWR);
    return fd >= 0;
}

static void
test_other_mount_namespace(Fixture *f, gconstpointer data)
{
    pid_t holder = start(f, hold_in_own_namespace);

    if (holder == 0) {
        g_test_skip("no mount namespace can be made here");
        return;
    }
    assert_only(f, holder, "rw");
}

/* Processes that are there when the walk begins and gone when it comes by. */
static void
test_processes_that_end(Fixture *f, gconstpointer data)
{
    sfs_autofd fd = open(f->path, O_RDONLY | O_CLOEXEC);
    pid_t parent = start(f, do_nothing);

    for (int round = 0; round < 50; round++) {
        g_autoptr(GArray) holders = NULL;
        bool self = false, child = false;
        pid_t brief = fork();

        g_assert_cmpint(brief, >=, 0);
        if (brief == 0) {
            g_usleep((gulong)(round * 100));
            _exit(0);
        }
        holders = find(f);
        for (guint i = 0; i < holders->len; i++) {
            pid_t pid = g_array_index(holders, SfsHolder, i).pid;

            self = self || pid == getpid();
            child = child || pid == parent;
        }
        g_assert_true(self && child);
        g_assert_cmpuint(holders->len, <=, 3);
        g_assert_cmpint(waitpid(brief, NULL, 0), ==, brief);
    }
}

/* A mapping that goes from parent to child all the while, faster than anybody can look. */
static void
test_handed_on(Fixture *f, gconstpointer data)
{
    int fd = open(f->path, O_RDWR | O_CLOEXEC);
    atomic_bool *stop = mmap(NULL, SFS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    gint64 deadline = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
    bool mapped = true;
    pid_t first;

    g_assert_true((void *)stop != MAP_FAILED);
    close(fd);
    /* Init may have other things to do than to collect thousands. */
    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    first = fork();
    g_assert_cmpint(first, >=, 0);
    if (first == 0) {
        while (!atomic_load(stop) && g_get_monotonic_time() < deadline) {
            if (fork() > 0)
                _exit(0);
        }
        _exit(0);
    }
    munmap(stop, SFS_PAGE_SIZE);
    for (int round = 0; mapped && round < 30; round++) {
        int r = sfs_holders_mapped(f->dev, f->ino, &mapped);

        g_assert_true(r == 0 || r == -EAGAIN);
    }
    fd = open(f->path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, "\1", 1, 0), ==, 1);
    close(fd);
    while (waitpid(-1, NULL, 0) > 0) {
    }
    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 0), ==, 0);
    g_assert_true(mapped);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/holders/descriptors", test_descriptors);
    ADD("/holders/several-are-one", test_several_are_one);
    ADD("/holders/path-descriptor", test_path_descriptor);
    ADD("/holders/mapping-alone", test_mapping_alone);
    ADD("/holders/private-mapping", test_private_mapping);
    ADD("/holders/same-number-elsewhere", test_same_number_elsewhere);
    ADD("/holders/fork", test_fork);
    ADD("/holders/appends", test_appends);
    ADD("/holders/passed-through-socket", test_passed_through_socket);
    ADD("/holders/hostile-name", test_hostile_name);
    ADD("/holders/longest-name", test_longest_name);
    ADD("/holders/thousands-of-descriptors", test_thousands_of_descriptors);
    ADD("/holders/thread-with-own-table", test_thread_with_own_table);
    ADD("/holders/first-thread-ended", test_first_thread_ended);
    ADD("/holders/other-mount-namespace", test_other_mount_namespace);
    ADD("/holders/processes-that-end", test_processes_that_end);
    ADD("/holders/handed-on", test_handed_on);
    g_test_add_func("/holders/command-text", test_command_text);
    return g_test_run();
}
