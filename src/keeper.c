/* SPDX-License-Identifier: MIT */
/*
 * Ownership. The keeper owns the connection to the kernel, the registry's memory, the private tmpfs
 * and a duplicate of the descriptor of everything that has bytes. The worker owns nothing that
 * would be missed: it has the same descriptors by inheritance, at the same numbers.
 *
 * One thread waits for three things: signals (as a descriptor), the worker's messages, and the time
 * that busy files may delay the end. While it serves it allocates nothing.
 *
 * SIGHUP has the worker replaced by the program that is installed by now, if that knows the layout
 * of the registry: a child asks it, then the worker is killed, which at any time it may be.
 *
 * The end comes in one of these ways:
 *  - somebody unmounts: the kernel tells the worker, which exits with 0, and so do we;
 *  - SIGTERM or SIGINT: the mount is detached from its directory, by a child, because that may wait
 * for the worker; from then on it is as above, when the last user of an open file is gone, or when
 * the time for that (drain_timeout) is over, or at a second signal;
 *  - workers fail one after the other before they get to serve, or none can be started for a
 * while: the mount is taken off, and the error says so. A worker that ends otherwise is followed by
 * another, which goes on where it was (resume.h); and so is one that says that the mount has ended
 * when the kernel does not.
 */
#include "keeper.h"

#include "connection.h"
#include "dying.h"
#include "keeper-link.h"
#include "log.h"
#include "mountpoint.h"
#include "registry.h"
#include "store.h"
#include "util.h"

#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Descriptors of the keeper that the worker has not. */
#define SPARE_DESCRIPTORS 32

/* Workers in a row that may fail before they serve; how much longer each is waited. Those that are
 * killed prove nothing, however many: after some of them, each is waited longer. So it is after
 * some that end by themselves as soon as they serve. */
#define FAILURES_MAX 5
#define FAILURE_PAUSE_US 50000
#define PAUSE_MAX_US 500000
#define KILLS_AT_ONCE 100
#define FLAWS_AT_ONCE 20
#define SOON_US (2 * G_USEC_PER_SEC)

/* So often starting one is tried again, when that fails: for twenty seconds. */
#define STARTS_MAX 45

/* The worker may hear of the end of the connection a moment before poll(2) shows it. */
#define END_TIME_MS 100

/* So long a program that is to be the next worker may take to say whether it can. sectionctl waits
 * longer. */
#define CHECK_TIME_US (3 * G_USEC_PER_SEC)

/* Looks in a row that have to show threads asleep for good, and the time between them. */
#define LEAVE_LOOKS 50
#define LEAVE_PAUSE_US 400

typedef struct {
    SfsConfig *config;
    SfsRegistry *registry;
    SfsRegistryHeader *header;
    struct fuse_session *session; /* only for mounting */
    int signals;
    int null;        /* /dev/null */
    int abort;       /* writing to it ends the connection, -1 where that cannot be had */
    int link;        /* our end of the worker's socket */
    bool link_ended; /* at the other end of it there is nobody any more */
    int life;        /* our end of another, which hangs up when the worker begins to die */
    pid_t worker;
    pid_t detacher;    /* the child that takes the mount off, or 0 */
    int worker_status; /* of waitpid(2), once worker is 0 */
    unsigned failures; /* workers that ended before they served, one after the other */
    unsigned kills;    /* the same, of those that somebody has killed */
    unsigned flaws;    /* those, and such as ended by themselves soon after; kills do not count */
    gint64 serving_since; /* of the present worker, monotonic us; 0: not yet */
    bool ready_told;
    char program[SFS_PATH_MAX]; /* where this program was installed; "": not known */
    bool reloaded;              /* workers are what is installed there now, and not what we are */
    bool reloading;             /* the worker was ended by us, for another to go on */
    pid_t checker;              /* the child that tries what is installed, or 0 */
    gint64 check_deadline;      /* monotonic us at which it is no longer waited for */
    bool ending;                /* told to end */
    bool killed;                /* the worker was ended by us, or none is to follow it */
    gint64 deadline;            /* monotonic µs at which waiting for busy files ends; 0: never */
    SfsReadyFunc ready;
    void *ready_data;
} Keeper;

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, __VA_ARGS__);                        \
        return FALSE;                                                                              \
    } while (0)

/* --- descriptors ----------------------------------------------------------------------------- */

/* Only 0, 1, 2 and the caller's one stay open; the numbers that have a meaning are taken, so that
 * nothing else gets them. */
static int
clear_descriptors(int keep_fd)
{
    int null;

    if (keep_fd >= 0) {
        close_range(3, (unsigned)keep_fd - 1, 0);
        close_range((unsigned)keep_fd + 1, ~0u, 0);
    } else {
        close_range(3, ~0u, 0);
    }
    do
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (null >= 0 && null < SFS_FD_FIRST_FREE);
    return null;
}

/* Gives @fd the number that workers know it by, and lets them inherit it. */
static void
place(int fd, int number)
{
    dup2(fd, number);
    close(fd);
}

static void
raise_limits(void)
{
    struct rlimit limit = {1 << 20, 1 << 20};

    /* More than the present hard limit takes privilege; else as much as there is. */
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The map of an overlay's pages lies further on in its file than any limit could be meant to reach
 * (map-file.h), so a finite one is in the way of the first write to a view. It is not that of our
 * clients: theirs the kernel looks at before it asks us. More than the hard limit takes privilege.
 */
static gboolean
lift_file_size_limit(const Keeper *keeper, GError **error)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

    if (setrlimit(RLIMIT_FSIZE, &limit) == 0)
        return TRUE;
    getrlimit(RLIMIT_FSIZE, &limit);
    FAIL("cannot mount on %s: the limit on the size of files (RLIMIT_FSIZE, ulimit -Hf) is %" PRIu64
         " bytes, and copy-on-write views need it to be unlimited",
         keeper->config->mountpoint, (uint64_t)limit.rlim_max);
}

static SfsFdRec *
fd_record(Keeper *keeper, uint32_t slot)
{
    return sfs_registry_get(keeper->registry, SFS_TABLE_FDS, slot);
}

static void
drop(Keeper *keeper, uint32_t slot)
{
    SfsFdRec *rec = fd_record(keeper, slot);
    int fd = rec != NULL ? atomic_exchange(&rec->keeper_fd, 0) : 0;

    if (fd > 0)
        close(fd);
}

/* --- the worker ------------------------------------------------------------------------------ */

static void
exec_worker(const Keeper *keeper)
{
    struct rlimit limit;
    char *argv[] = {(char *)"sectionfs", (char *)"--worker", keeper->config->mountpoint, NULL};
    sigset_t none;

    /* In the background it has no business with the terminal, and must not keep it open. */
    for (int fd = 0; !keeper->config->foreground && fd <= 2; fd++)
        dup2(keeper->null, fd);
    /* What it can open, we must be able to keep: it reaches the limit first. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 4 * SPARE_DESCRIPTORS) {
        limit.rlim_cur -= SPARE_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (keeper->reloaded)
        execv(keeper->program, argv);
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* --- another program ------------------------------------------------------------------------- */

static void
refuse_reload(Keeper *keeper, const char *why)
{
    keeper->header->reloads_refused++;
    sfs_log_plainly("%s: the worker stays", why);
}

/* Why this worker must not be ended now, whatever is installed; NULL: it may be. */
static const char *
bar_to_reload(const Keeper *keeper)
{
    if (atomic_load(&keeper->header->cannot_resume))
        return "this kernel does not send requests again (Linux 6.9 and newer do)";
    if (!atomic_load(&keeper->header->ready))
        return "the mount does not serve yet";
    if (keeper->ending)
        return "the mount is about to end";
    if (keeper->worker == 0)
        return "another worker is on its way already";
    return NULL;
}

/* Asks what is installed whether it knows this registry. */
static void
begin_reload(Keeper *keeper)
{
    char *argv[] = {(char *)"sectionfs", (char *)"--worker-check", NULL};
    const char *why = bar_to_reload(keeper);

    /* The answer to an earlier signal is that to this one, too. */
    if (why == NULL && keeper->checker != 0)
        return;
    if (why == NULL && keeper->program[0] == '\0')
        why = "the installed program cannot be found";
    if (why != NULL) {
        refuse_reload(keeper, why);
        return;
    }
    keeper->checker = fork();
    if (keeper->checker == 0) {
        execv(keeper->program, argv);
        _exit(127);
    }
    keeper->check_deadline = g_get_monotonic_time() + CHECK_TIME_US;
    if (keeper->checker < 0) {
        keeper->checker = 0;
        refuse_reload(keeper, "the installed program cannot be tried");
    }
}

/* It has said so. The worker can be ended at any time; another one goes on. */
static void
end_reload(Keeper *keeper, int status)
{
    const char *why = bar_to_reload(keeper);

    keeper->checker = 0;
    if (why != NULL) {
        refuse_reload(keeper, why);
        return;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        keeper->header->reloads_refused++;
        sfs_log_plainly("%s cannot go on with a registry of layout %u: the worker stays",
                        keeper->program, keeper->header->layout);
        return;
    }
    keeper->reloaded = keeper->reloading = true;
    keeper->flaws = 0; /* of what was there before */
    kill(keeper->worker, SIGKILL);
}

/* Its end is not waited for: it may be where no signal reaches. */
static void
give_up_check(Keeper *keeper)
{
    kill(keeper->checker, SIGKILL);
    keeper->checker = 0;
    refuse_reload(keeper, "the installed program does not say whether it can go on");
}

static void
find_program(Keeper *keeper)
{
    ssize_t n = readlink("/proc/self/exe", keeper->program, sizeof keeper->program - 1);

    keeper->program[MAX(n, 0)] = '\0';
}

static gboolean
start_worker(Keeper *keeper, GError **error)
{
    int ends[2];
    pid_t pid;

    sfs_fd_clear(&keeper->link);
    sfs_fd_clear(&keeper->life);
    keeper->link = keeper->life = -1;
    keeper->serving_since = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        FAIL("cannot make a socket for the worker: %s", g_strerror(errno));
    keeper->link = ends[0];
    keeper->link_ended = false;
    place(ends[1], SFS_FD_LINK);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        FAIL("cannot make a socket for the worker: %s", g_strerror(errno));
    keeper->life = ends[0];
    place(ends[1], SFS_FD_LIFE);
    pid = fork();
    if (pid == 0)
        exec_worker(keeper);
    /* From now on only the worker has its end, so that its death shows. */
    dup3(keeper->null, SFS_FD_LINK, O_CLOEXEC);
    dup3(keeper->null, SFS_FD_LIFE, O_CLOEXEC);
    if (pid < 0)
        FAIL("cannot start the worker: %s", g_strerror(errno));
    keeper->worker = pid;
    return TRUE;
}

/* Fails all requests under way, those of the worker's own threads as well: one that waits for an
 * answer of this very connection could not even be killed. */
static void
abort_connection(Keeper *keeper)
{
    if (keeper->abort >= 0 && write(keeper->abort, "1", 1) < 0)
        g_debug("the connection is gone already");
}

static void
kill_worker(Keeper *keeper)
{
    abort_connection(keeper);
    keeper->killed = true;
    if (keeper->worker > 0)
        kill(keeper->worker, SIGKILL);
}

static void
obey(Keeper *keeper, SfsLinkMessage message, int fd)
{
    SfsFdRec *rec;

    switch (message.verb) {
    case SFS_LINK_PUT:
        rec = fd_record(keeper, message.slot);
        if (fd < 0)
            sfs_log_plainly("a descriptor of the worker's could not be kept: no other can go on");
        if (rec == NULL || fd < 0)
            break;
        drop(keeper, message.slot);
        atomic_store(&rec->keeper_fd, fd);
        return; /* kept */
    case SFS_LINK_DROP:
        drop(keeper, message.slot);
        break;
    case SFS_LINK_READY:
        keeper->serving_since = g_get_monotonic_time();
        if (!keeper->ready_told)
            keeper->ready(keeper->ready_data);
        keeper->ready_told = true;
        break;
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
}

static void
receive(Keeper *keeper)
{
    SfsLinkMessage message;
    bool eof;
    int fd;

    while (sfs_link_receive(keeper->link, &message, &fd, &eof) == 1)
        obey(keeper, message, fd);
    keeper->link_ended = eof;
}

/* --- the end --------------------------------------------------------------------------------- */

/* Starts to take the mount off its directory. In a child, for the system call may wait for the
 * worker to write back, and that for us to take a descriptor. */
static void
detach(Keeper *keeper)
{
    if (keeper->detacher != 0)
        return;
    keeper->detacher = fork();
    if (keeper->detacher == 0) {
        sfs_mountpoint_detach(keeper->config->mountpoint, (dev_t)keeper->header->mount_dev);
        sfs_mountpoint_detach_moved((dev_t)keeper->header->mount_dev, SFS_FD_DEVICE);
        _exit(0);
    }
}

static void
end(Keeper *keeper)
{
    if (keeper->ending) {
        sfs_log_plainly("ending %s at once, as asked for again", keeper->config->mountpoint);
        kill_worker(keeper);
        return;
    }
    keeper->ending = true;
    if (keeper->config->drain_timeout != 0)
        keeper->deadline =
            g_get_monotonic_time() + (gint64)keeper->config->drain_timeout * G_USEC_PER_SEC;
    detach(keeper);
}

static void
reap(Keeper *keeper)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == keeper->worker) {
            keeper->worker = 0;
            keeper->worker_status = status;
        } else if (pid == keeper->detacher) {
            keeper->detacher = 0;
        } else if (pid == keeper->checker) {
            end_reload(keeper, status);
        }
    }
}

static void
take_signals(Keeper *keeper)
{
    struct signalfd_siginfo info;

    while (read(keeper->signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            reap(keeper);
        else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            end(keeper);
        else if (info.ssi_signo == SIGHUP)
            begin_reload(keeper);
    }
}

/* How long poll(2) may wait, in ms. What is due is done. */
static int
time_left(Keeper *keeper)
{
    const gint64 now = g_get_monotonic_time();
    gint64 next = G_MAXINT64;

    if (keeper->checker != 0 && now >= keeper->check_deadline)
        give_up_check(keeper);
    if (keeper->checker != 0)
        next = keeper->check_deadline;
    if (keeper->deadline != 0 && now >= keeper->deadline) {
        keeper->deadline = 0;
        sfs_log_plainly("files of %s are still in use after %u s: ending all the same",
                        keeper->config->mountpoint, keeper->config->drain_timeout);
        kill_worker(keeper);
    }
    if (keeper->deadline != 0)
        next = MIN(next, keeper->deadline);
    return next == G_MAXINT64 ? -1 : (int)MIN((next - now) / 1000 + 1, INT32_MAX);
}

/* For so many us, in which signals are heard. It may be told to end then (`killed`). */
static void
wait_for(Keeper *keeper, gint64 us)
{
    const gint64 end = g_get_monotonic_time() + us;
    struct pollfd fd = {.fd = keeper->signals, .events = POLLIN};
    gint64 left;

    while (!keeper->killed && (left = end - g_get_monotonic_time()) > 0) {
        int due = time_left(keeper), ms = (int)(left / 1000 + 1);

        if (poll(&fd, 1, due >= 0 ? MIN(due, ms) : ms) > 0)
            take_signals(keeper);
    }
}

/* Whether the worker's end is that of the mount. It says so by its status, which may as well be
 * that of a program that is something else by now; so the kernel has to say it, too. */
static bool
has_ended(const Keeper *keeper)
{
    struct pollfd device = {.fd = SFS_FD_DEVICE};
    int status = keeper->worker_status;

    if (keeper->killed)
        return true;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 && poll(&device, 1, END_TIME_MS) > 0;
}

/* Whether another one can go on after it. */
static bool
may_be_followed(const Keeper *keeper)
{
    if (has_ended(keeper))
        return false;
    /* At the very start it may have found that the mount cannot be as it was asked for; or have
     * made some of the sections that it is to begin with. */
    return atomic_load(&keeper->header->ready) ||
           (WIFSIGNALED(keeper->worker_status) && keeper->config->sections_file[0] == '\0');
}

/* Counts the end of a worker for what it may show of others. */
static void
count_end(Keeper *keeper, bool served)
{
    const int status = keeper->worker_status;
    const gint64 now = g_get_monotonic_time();
    /* Before the mount is ready, somebody waits to hear whether it will be. */
    bool was_killed =
        WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && atomic_load(&keeper->header->ready);
    bool soon = !served || keeper->serving_since == 0 || now - keeper->serving_since < SOON_US;

    keeper->failures = served || was_killed ? 0 : keeper->failures + 1;
    keeper->kills = served || !was_killed ? 0 : keeper->kills + 1;
    if (!soon)
        keeper->flaws = 0;
    else if (!was_killed)
        keeper->flaws++;
    /* What is new may not do after all. */
    if (keeper->flaws > 1)
        keeper->reloaded = false;
}

/* So long it is waited for the next one. */
static gint64
pause_of(const Keeper *keeper)
{
    gint64 pause = (gint64)keeper->failures * FAILURE_PAUSE_US;

    if (keeper->flaws > FLAWS_AT_ONCE)
        pause = MAX(pause, (gint64)(keeper->flaws - FLAWS_AT_ONCE) * FAILURE_PAUSE_US);
    return keeper->kills > KILLS_AT_ONCE ? PAUSE_MAX_US : MIN(pause, PAUSE_MAX_US);
}

/* What one start lacks (a process, a descriptor) may be there a moment later. */
static bool
start_another(Keeper *keeper)
{
    for (guint n = 1; !keeper->killed; n++) {
        if (start_worker(keeper, NULL))
            return true;
        if (n == 1)
            sfs_log_plainly("another worker cannot be started yet");
        if (n == STARTS_MAX) {
            sfs_log_plainly("no other worker can be started");
            break;
        }
        wait_for(keeper, MIN((gint64)n * FAILURE_PAUSE_US, PAUSE_MAX_US));
    }
    return false;
}

/* Starts another worker after one has died. False: that has been tried often enough. */
static bool
respawn(Keeper *keeper)
{
    SfsRegistryHeader *header = keeper->header;
    bool served = atomic_load(&header->serving);

    count_end(keeper, served);
    if (keeper->failures > FAILURES_MAX || atomic_load(&header->cannot_resume))
        return false;
    /* The next one tells of those that have served. */
    if (!served)
        sfs_log_plainly("worker %u did not get to serve: %s %d", header->worker_pid,
                        WIFSIGNALED(keeper->worker_status) ? "signal" : "status",
                        WIFSIGNALED(keeper->worker_status) ? WTERMSIG(keeper->worker_status)
                                                           : WEXITSTATUS(keeper->worker_status));
    if (keeper->reloading)
        header->reloads++;
    else
        header->deaths++;
    /* The time without one counts from the first that died. */
    if (served || header->death_time == 0)
        header->death_time = g_get_monotonic_time();
    header->death_status = keeper->worker_status;
    header->death_pid = keeper->reloading ? 0 : header->worker_pid;
    keeper->reloading = false;
    atomic_store(&header->serving, 0);
    header->startup_error[0] = '\0';
    wait_for(keeper, pause_of(keeper));
    return start_another(keeper);
}

/*
 * A thread that tells the kernel of a name that is gone waits for whoever works in that directory,
 * who waits for the worker's answer. If the worker is killed then, the thread ends when another
 * worker gives that answer, and not before; so that one has to be started while the dead one cannot
 * be collected yet. What is left of it never comes back from the kernel. It may still do one thing
 * there, though: what it had begun when it fell asleep, which may as well be for a disk. So the
 * next worker waits for such a thread with the request that it was at (sfs_request_held()).
 *
 * That a worker is dying shows in a socket that one thread of it has in a table of descriptors of
 * its own: it is closed when that thread ends, whatever the others wait for.
 */
static void
leave_behind(Keeper *keeper)
{
    for (int looks = 0; looks < LEAVE_LOOKS && keeper->worker != 0; looks++) {
        if (sfs_dying_is_active(keeper->worker))
            looks = 0;
        g_usleep(LEAVE_PAUSE_US);
        reap(keeper);
    }
    if (keeper->worker == 0)
        return;
    keeper->worker_status = sfs_dying_status(keeper->worker);
    keeper->worker = 0;
}

static void
serve(Keeper *keeper)
{
    while (keeper->worker != 0) {
        struct pollfd fds[] = {
            {.fd = keeper->signals, .events = POLLIN},
            /* After its end there is nothing to wait for but the signal that the worker is gone,
             * which may take a while. */
            {.fd = keeper->link_ended ? -1 : keeper->link, .events = POLLIN},
            {.fd = keeper->life, .events = POLLIN},
        };

        if (poll(fds, G_N_ELEMENTS(fds), time_left(keeper)) < 0 && errno != EINTR)
            break;
        receive(keeper);
        take_signals(keeper);
        if (keeper->worker != 0 && fds[2].revents != 0)
            leave_behind(keeper);
        if (keeper->worker == 0) {
            /* All that it has told, before another is told anything. */
            receive(keeper);
            if (!may_be_followed(keeper) || !respawn(keeper))
                break;
        }
    }
}

/* Nothing may be left: not the mount, nor the child that takes it off. */
static void
clean_up(Keeper *keeper)
{
    /* Without the connection nobody has to be waited for any more, and a mount that is still there
     * is dead. */
    abort_connection(keeper);
    close(SFS_FD_DEVICE);
    if (keeper->session != NULL)
        fuse_session_destroy(keeper->session);
    while (keeper->detacher > 0 && waitpid(keeper->detacher, NULL, 0) < 0 && errno == EINTR)
        ;
    if (keeper->header != NULL)
        sfs_mountpoint_detach_dead((dev_t)keeper->header->mount_dev);
    sfs_fd_clear(&keeper->abort);
    sfs_fd_clear(&keeper->null);
    sfs_fd_clear(&keeper->signals);
    sfs_fd_clear(&keeper->link);
    sfs_fd_clear(&keeper->life);
    g_clear_pointer(&keeper->registry, sfs_registry_free);
}

/* --- the start ------------------------------------------------------------------------------- */

static void
take_over_signals(Keeper *keeper)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    keeper->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* What fusermount3 has to say goes to its stderr: that of ours is a file meanwhile, so that there
 * is one sentence in the end, and not two. */
static int
mount_session(Keeper *keeper, char *said, size_t size)
{
    sfs_autofd file = memfd_create("fusermount3", MFD_CLOEXEC);
    sfs_autofd saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, SFS_FD_FIRST_FREE);
    ssize_t n;
    int r;

    dup2(file, STDERR_FILENO);
    r = fuse_session_mount(keeper->session, keeper->config->mountpoint);
    dup2(saved, STDERR_FILENO);
    n = sfs_pread_full(file, said, size - 1, 0);
    said[MAX(n, 0)] = '\0';
    return r;
}

static gboolean
mount_it(Keeper *keeper, GError **error)
{
    static const struct fuse_lowlevel_ops none = {0};
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    char said[512] = "";
    gboolean ok;

    if (access("/dev/fuse", R_OK | W_OK) != 0)
        FAIL("cannot use /dev/fuse: %s%s", g_strerror(errno),
             errno == ENOENT ? " (is the kernel's fuse module loaded?)" : "");
    fuse_opt_add_arg(&args, "sectionfs");
    fuse_opt_add_arg(&args, "-o");
    fuse_opt_add_arg(&args, keeper->config->fuse_options);
    keeper->session = fuse_session_new(&args, &none, sizeof none, NULL);
    ok = keeper->session != NULL && mount_session(keeper, said, sizeof said) == 0;
    fuse_opt_free_args(&args);
    if (!ok)
        FAIL("cannot mount on %s: %s", keeper->config->mountpoint,
             said[0] != '\0' ? g_strchomp(said) : sfs_log_last_fuse_error());
    dup2(fuse_session_fd(keeper->session), SFS_FD_DEVICE);
    keeper->header->mount_dev = sfs_mountpoint_device(keeper->config->mountpoint);
    keeper->abort = sfs_connection_open_abort((dev_t)keeper->header->mount_dev);
    sfs_connection_loosen_write_back((dev_t)keeper->header->mount_dev);
    return TRUE;
}

/* Only for passthrough is a private tmpfs of use; where it cannot be had, the worker goes without.
 */
static void
make_store(Keeper *keeper)
{
    g_autoptr(GError) error = NULL;
    int tmpfs;

    if (keeper->config->passthrough == SFS_PASSTHROUGH_OFF)
        return;
    tmpfs = sfs_store_make_tmpfs(keeper->config->size, keeper->config->no_atime, &error);
    if (tmpfs < 0) {
        g_info("%s", error->message);
        return;
    }
    place(tmpfs, SFS_FD_STORE);
    keeper->header->keeper_has_tmpfs = 1;
}

static gboolean
start(Keeper *keeper, GError **error)
{
    if (!lift_file_size_limit(keeper, error) ||
        !sfs_mountpoint_prepare(keeper->config->mountpoint, error))
        return FALSE;
    keeper->registry = sfs_registry_create(keeper->config, error);
    if (keeper->registry == NULL)
        return FALSE;
    keeper->header = sfs_registry_header(keeper->registry);
    keeper->header->keeper_pid = (uint32_t)getpid();
    dup2(sfs_registry_fd(keeper->registry), SFS_FD_REGISTRY);
    make_store(keeper);
    if (chdir("/") != 0 || !mount_it(keeper, error))
        return FALSE;
    return start_worker(keeper, error);
}

/* What became of a mount whose worker has ended. */
static gboolean
conclude(Keeper *keeper, GError **error)
{
    const char *said = keeper->header->startup_error;
    int status = keeper->worker_status;

    if (has_ended(keeper))
        return TRUE;
    if (!atomic_load(&keeper->header->ready))
        FAIL("%s", said[0] != '\0' ? said : "the worker could not start");
    if (!atomic_load(&keeper->header->serving) && said[0] != '\0')
        FAIL("no worker of %s can go on: %s", keeper->config->mountpoint, said);
    if (WIFSIGNALED(status))
        FAIL("the worker of %s was ended by signal %d (%s)", keeper->config->mountpoint,
             WTERMSIG(status), g_strsignal(WTERMSIG(status)));
    FAIL("the worker of %s ended with status %d", keeper->config->mountpoint, WEXITSTATUS(status));
}

gboolean
sfs_keeper_run(SfsConfig *config, int keep_fd, SfsReadyFunc ready, void *data, GError **error)
{
    Keeper keeper = {.config = config,
                     .abort = -1,
                     .signals = -1,
                     .link = -1,
                     .life = -1,
                     .ready = ready,
                     .ready_data = data};
    gboolean ok;

    keeper.null = clear_descriptors(keep_fd);
    find_program(&keeper);
    raise_limits();
    take_over_signals(&keeper);
    ok = start(&keeper, error);
    if (ok)
        serve(&keeper);
    if (ok)
        ok = conclude(&keeper, error);
    clean_up(&keeper);
    return ok;
}
