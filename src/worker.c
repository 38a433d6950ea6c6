/* SPDX-License-Identifier: MIT */
/*
 * The main thread answers the kernel's first request, INIT, alone; what the two sides agree on
 * decides which store there is. A worker that comes after another has libfuse answer the saved INIT
 * of the connection into nowhere, and takes up what is there (resume.h). Then a fixed number of
 * threads receive and process requests, some at a time (crew.h); the main thread waits for them.
 * They end when the kernel says that the connection is gone.
 *
 * One more thread watches the keeper: without it nobody would hold the descriptors, or unmount, so
 * the worker then detaches the mount and ends.
 */
#include "worker.h"

#include "crew.h"
#include "defer.h"
#include "doubt.h"
#include "fault.h"
#include "fixed.h"
#include "keeper-link.h"
#include "lifetime.h"
#include "lock.h"
#include "log.h"
#include "mountpoint.h"
#include "namespace.h"
#include "node.h"
#include "ops.h"
#include "passthrough.h"
#include "reader.h"
#include "request.h"
#include "resume.h"
#include "section.h"
#include "startup.h"
#include "store.h"
#include "view.h"

#include <linux/fuse.h>
#include <stdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define MAX_BACKGROUND 64

/* A request that cannot be read is tried again after a pause that doubles each time: for five
 * seconds in all. */
#define READ_PAUSE_US 10000
#define READ_FAILURES_MAX 9

/* Between looks at a keeper that cannot be looked at. */
#define WATCH_PAUSE_US 10000

/* FUSE_HAS_RESEND, in the second half of INIT's flags; older headers lack it. */
#define HAS_RESEND (1u << 7)

typedef struct {
    SfsMount mount;    /* first: the session's userdata is taken for it by ops.c */
    bool refused;      /* INIT showed that the mount cannot be as it was asked for */
    SfsResume *resume; /* NULL: nobody was here before */
    gint watched;      /* the keeper's watcher has begun */
    GMutex gate;       /* held until all threads that serve are there */
    GArray *committed; /* see sfs_section_resume_commits() */
    SfsCrew *crew;
} Worker;

/* One of the threads that serve. */
typedef struct {
    Worker *worker;
    GThread *thread;
    SfsReader *reader; /* there before the worker says that it serves */
    guint failed;      /* so many times in a row it could not read a request */
} Server;

/* Ends this worker, for another to try: it cannot do without what has just failed. */
static void
give_up(Worker *worker, const char *what)
{
    SfsRegistryHeader *header = worker->mount.header;

    g_snprintf(header->startup_error, sizeof header->startup_error, "%s: %s", what,
               g_strerror(errno));
    _exit(1);
}

/* --- INIT ------------------------------------------------------------------------------------ */

/* What is asked of the kernel where it has it, and what is not wanted though libfuse would ask. */
static const uint64_t wanted[] = {
    FUSE_CAP_ASYNC_READ,
    FUSE_CAP_ASYNC_DIO,
    FUSE_CAP_ATOMIC_O_TRUNC,
    FUSE_CAP_PARALLEL_DIROPS,
    FUSE_CAP_CACHE_SYMLINKS,
    FUSE_CAP_DIRECT_IO_ALLOW_MMAP,
    /* A write takes set-id bits off here, so the kernel need not ask for attributes before each. */
    FUSE_CAP_HANDLE_KILLPRIV_V2,
    /* A nodeid is good for one mount; handles for other machines cannot be made of it. */
    FUSE_CAP_NO_EXPORT_SUPPORT,
    FUSE_CAP_SPLICE_WRITE,
};
static const uint64_t unwanted[] = {
    /* The page cache of a page section is right until its own kernel changes it. */
    FUSE_CAP_AUTO_INVAL_DATA,
    FUSE_CAP_WRITEBACK_CACHE, /* silently excludes passthrough */
    FUSE_CAP_SPLICE_READ,     /* requests are looked at before libfuse gets them */
    FUSE_CAP_OVER_IO_URING,
};

static void
decide_passthrough(Worker *worker, struct fuse_conn_info *conn)
{
    SfsRegistryHeader *header = worker->mount.header;
    SfsPassthroughWish wish = header->config.passthrough;
    const char *reason = "";
    bool granted = false;

    /* Decided once for the connection. */
    if (header->protocol_major != 0) {
        fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
        conn->max_backing_stack_depth = 1;
        return;
    }
    if (wish == SFS_PASSTHROUGH_OFF)
        reason = "asked for by passthrough=off";
    else if (!sfs_passthrough_possible(&reason))
        ;
    else if (!header->keeper_has_tmpfs)
        reason = "there is no private tmpfs";
    else if (!fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH))
        reason = "the kernel does not offer it (it is part of Linux 6.9 and newer)";
    else
        granted = true;
    /* Asked for even where it will not be used: it keeps overlays from being put over this mount,
     * through which a section could come to wait for itself. */
    fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH);
    conn->max_backing_stack_depth = 1;
    if (granted) {
        reason = "the kernel grants it";
    } else if (wish == SFS_PASSTHROUGH_ON) {
        g_snprintf(header->startup_error, sizeof header->startup_error,
                   "option passthrough=on: not possible here: %s", reason);
        worker->refused = true;
    }
    header->passthrough = granted;
    g_strlcpy(header->mode_reason, reason, sizeof header->mode_reason);
}

static void
op_init(void *userdata, struct fuse_conn_info *conn)
{
    Worker *worker = userdata;
    SfsMount *mount = &worker->mount;

    for (size_t i = 0; i < G_N_ELEMENTS(wanted); i++)
        fuse_set_feature_flag(conn, wanted[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(unwanted); i++)
        fuse_unset_feature_flag(conn, unwanted[i]);
    mount->direct_mmap = conn->want_ext & FUSE_CAP_DIRECT_IO_ALLOW_MMAP;
    conn->max_write = SFS_READER_MAX_WRITE;
    conn->max_background = MAX_BACKGROUND;
    conn->time_gran = 1;
    decide_passthrough(worker, conn);
    mount->header->protocol_major = conn->proto_major;
    mount->header->protocol_minor = conn->proto_minor;
    mount->store =
        sfs_store_new(mount->registry, mount->link, mount->header->passthrough ? SFS_FD_STORE : -1,
                      mount->header->config.size);
}

/* --- requests -------------------------------------------------------------------------------- */

static void
count_request(Worker *worker, const struct fuse_buf *buf)
{
    const struct fuse_in_header *in = buf->mem;
    SfsClass class = (SfsClass)(in->nodeid >> SFS_CLASS_SHIFT);

    /* Looking at the counters does not change them. */
    if (in->opcode < SFS_OPCODES && class != SFS_CLASS_STATS && class != SFS_CLASS_INFO)
        atomic_fetch_add_explicit(&worker->mount.header->requests[in->opcode], 1,
                                  memory_order_relaxed);
}

/* The kernel says INIT once in the life of a connection; a later worker has to be told by this one.
 */
static void
save_init(Worker *worker, const struct fuse_buf *buf)
{
    SfsRegistryHeader *header = worker->mount.header;
    const struct fuse_in_header *in = buf->mem;
    const struct fuse_init_in *init = (const void *)(in + 1);

    if (in->opcode == FUSE_INIT && buf->size <= sizeof header->init_request) {
        if (buf->size < sizeof *in + offsetof(struct fuse_init_in, flags2) + sizeof init->flags2 ||
            !(init->flags2 & HAS_RESEND))
            atomic_store(&header->cannot_resume, 1);
        memcpy(header->init_request, buf->mem, buf->size);
        header->init_length = (uint32_t)buf->size;
    }
}

/* Memory may be short for a while. The mount must not end for that, nor may this thread: it lets
 * others try, and does so itself later. For want of any request the worker ends, not the mount. */
static void
read_later(Server *server, int error)
{
    if (server->failed == READ_FAILURES_MAX) {
        g_critical("requests cannot be read any more: %s", g_strerror(error));
        errno = error;
        give_up(server->worker, "requests cannot be read any more");
    }
    if (server->failed == 0)
        g_message("a request cannot be read yet: %s", g_strerror(error));
    sfs_crew_work();
    sfs_crew_will_wait();
    g_usleep(READ_PAUSE_US << server->failed++);
}

/* One request, if there is one. False: the connection has ended. */
static bool
serve_one(Server *server)
{
    Worker *worker = server->worker;
    struct fuse_buf buf = {0};
    ssize_t n = sfs_reader_next(server->reader, SFS_FD_DEVICE, &buf.mem);

    if (n == 0)
        return true;
    /* The latter where a request was on its way to us when the connection ended. */
    if (n == -ENODEV || n == -ECONNABORTED)
        return false;
    if (n < 0) {
        read_later(server, (int)-n);
        return true;
    }
    server->failed = 0;
    sfs_crew_work();
    buf.size = (size_t)n;
    count_request(worker, &buf);
    if (!atomic_load(&worker->mount.header->ready))
        save_init(worker, &buf);
    sfs_defer_process(&worker->mount, &buf);
    return !fuse_session_exited(worker->mount.session);
}

/* What another worker has left unanswered. */
static void
serve_again(Worker *worker, bool suspects)
{
    struct fuse_buf buf = {0};

    while (worker->resume != NULL && sfs_resume_next(worker->resume, suspects, &buf)) {
        if (!atomic_load(&worker->mount.header->ready))
            save_init(worker, &buf);
        sfs_defer_process(&worker->mount, &buf);
        g_free(buf.mem);
    }
}

static gpointer
serve(gpointer data)
{
    Server *server = data;

    sfs_fixed_stack();
    g_mutex_lock(&server->worker->gate);
    g_mutex_unlock(&server->worker->gate);
    sfs_crew_enter(server->worker->crew);
    serve_again(server->worker, false);
    do
        sfs_crew_sit();
    while (serve_one(server));
    sfs_crew_leave();
    return NULL;
}

/* Gives libfuse's device its meaning. A worker that cannot has nobody to answer. */
static void
connect_session(Worker *worker, int to)
{
    if (dup2(to, SFS_FD_SESSION) < 0)
        give_up(worker, "the device cannot be given to libfuse");
}

/* What the kernel said when it was told INIT, to a libfuse that has not heard it. */
static void
repeat_init(Worker *worker)
{
    SfsRegistryHeader *header = worker->mount.header;
    g_autofree void *request = g_memdup2(header->init_request, header->init_length);
    struct fuse_buf buf = {.mem = request, .size = header->init_length};
    sfs_autofd null = open("/dev/null", O_RDWR | O_CLOEXEC);

    /* Where no descriptor is to be had, the kernel does as well: it waits for no such answer. */
    connect_session(worker, null >= 0 ? null : SFS_FD_DEVICE);
    fuse_session_process_buf(worker->mount.session, &buf);
    connect_session(worker, SFS_FD_DEVICE);
}

static void
serve_init(Worker *worker)
{
    Server server = {.worker = worker, .reader = sfs_reader_new()};

    connect_session(worker, SFS_FD_DEVICE);
    if (worker->resume != NULL && sfs_resume_has_init(worker->resume))
        serve_again(worker, false);
    else if (worker->mount.header->init_length != 0)
        repeat_init(worker);
    while (worker->mount.header->protocol_major == 0 && serve_one(&server))
        ;
    sfs_reader_free(server.reader);
}

/* What the mount is to begin with is made while it serves already, but before it says so. A worker
 * that cannot make it ends, and the mount with it. */
static void
make_sections(Worker *worker)
{
    SfsRegistryHeader *header = worker->mount.header;
    g_autoptr(GError) error = NULL;

    if (sfs_startup_sections(&worker->mount, &error))
        return;
    g_strlcpy(header->startup_error, error->message, sizeof header->startup_error);
    _exit(1);
}

/* Says, once, what it went on after. */
static void
tell_of_resume(Worker *worker)
{
    SfsRegistryHeader *header = worker->mount.header;
    uint64_t took = (uint64_t)(g_get_monotonic_time() - header->death_time);
    int status = header->death_status;

    if (worker->resume == NULL)
        return;
    header->resumes++;
    header->resume_last = took;
    header->resume_max = MAX(header->resume_max, took);
    header->resume_total += took;
    if (header->death_pid == 0)
        g_message("going on with a new worker: %u.%03u ms without one", (unsigned)(took / 1000),
                  (unsigned)(took % 1000));
    else
        g_message("going on after worker %u was ended by %s %d: %u.%03u ms without one",
                  header->death_pid, WIFSIGNALED(status) ? "signal" : "itself with status",
                  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
                  (unsigned)(took / 1000), (unsigned)(took % 1000));
}

/* As many threads as there should be, or can be had. They wait at the gate. */
static guint
make_servers(Worker *worker, Server *servers, guint most)
{
    SfsRegistryHeader *header = worker->mount.header;
    g_autoptr(GError) error = NULL;
    guint n = 0;

    for (; n < most; n++) {
        servers[n] = (Server){.worker = worker, .reader = sfs_reader_new()};
        servers[n].thread = g_thread_try_new("serve", serve, &servers[n], &error);
        if (servers[n].thread == NULL) {
            sfs_reader_free(servers[n].reader);
            break;
        }
    }
    if (n == 0) {
        g_snprintf(header->startup_error, sizeof header->startup_error,
                   "there can be no thread that serves: %s", error->message);
        _exit(1);
    }
    if (n < most)
        g_message("serving with %u threads and not %u: %s", n, most, error->message);
    return n;
}

static gpointer
end_commits(gpointer data)
{
    Worker *worker = data;

    g_mutex_lock(&worker->gate);
    g_mutex_unlock(&worker->gate);
    sfs_section_end_commits(&worker->mount, worker->committed);
    return NULL;
}

static void
serve_all(Worker *worker)
{
    SfsRegistryHeader *header = worker->mount.header;
    guint n = CLAMP(2 * g_get_num_processors(), 4, 16);
    g_autofree Server *servers = g_new(Server, n);
    GThread *commits = NULL;

    g_mutex_lock(&worker->gate);
    if (worker->resume != NULL) {
        worker->committed = sfs_section_resume_commits(&worker->mount);
        commits = g_thread_new("commits", end_commits, worker);
    }
    worker->crew = sfs_crew_new(SFS_FD_DEVICE, n, 0);
    n = make_servers(worker, servers, n);
    tell_of_resume(worker);
    if (!atomic_load(&header->ready)) {
        /* The sections that it begins with are made by requests. */
        g_mutex_unlock(&worker->gate);
        make_sections(worker);
        g_mutex_lock(&worker->gate);
    }
    atomic_store(&header->ready, 1);
    atomic_store(&header->serving, 1);
    sfs_link_ready(worker->mount.link);
    g_mutex_unlock(&worker->gate);
    /* One at a time, and not on the threads that everybody else depends on. */
    sfs_fixed_stack();
    serve_again(worker, true);
    for (guint i = 0; i < n; i++) {
        g_thread_join(servers[i].thread);
        sfs_reader_free(servers[i].reader);
    }
    sfs_crew_free(worker->crew);
    if (commits != NULL)
        g_thread_join(commits);
}

/* --- the process ----------------------------------------------------------------------------- */

/* Has descriptors of its own: only the socket that shows the keeper that this process lives, and
 * this thread that the keeper does. */
static gpointer
watch_keeper(gpointer data)
{
    Worker *worker = data;
    char byte;

    if (unshare(CLONE_FILES) != 0)
        give_up(worker, "the keeper cannot be watched");
    close_range(3, SFS_FD_LIFE - 1, 0);
    close_range(SFS_FD_LIFE + 1, ~0u, 0);
    g_atomic_int_set(&worker->watched, 1);
    /* The keeper never says anything: this returns 0 when it is gone. A failure is none of that. */
    while (recv(SFS_FD_LIFE, &byte, 1, 0) != 0)
        g_usleep(WATCH_PAUSE_US);
    g_critical("the keeper is gone: the mount ends");
    sfs_mountpoint_detach(worker->mount.header->config.mountpoint,
                          (dev_t)worker->mount.header->mount_dev);
    _exit(2);
}

static void
start_watch(Worker *worker)
{
    g_thread_unref(g_thread_new("watch-keeper", watch_keeper, worker));
    while (!g_atomic_int_get(&worker->watched))
        g_usleep(50);
    close(SFS_FD_LIFE); /* of the other threads' table */
}

static void
set_up_process(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    /* SIGIO is what the kernel says of a lease: see passthrough.h. SIGXFSZ comes with an EFBIG,
     * which is enough, should somebody limit the size of files while we run. */
    static const int signals[] = {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGIO, SIGXFSZ};

    /* Signals are for the keeper, which a terminal's reach as well. */
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        sigaction(signals[i], &ignore, NULL);
    /* Its file is called /proc/self/exe, which says nothing in a list of processes. */
    prctl(PR_SET_NAME, "sectionfs-serve", 0, 0, 0);
    umask(0);
    /* Under memory pressure write-back may wait for this process; it must not wait for write-back.
     */
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

static bool
start_session(Worker *worker)
{
    const SfsConfig *config = &worker->mount.header->config;
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_lowlevel_ops ops = *sfs_ops();
    char device[32];
    bool ok;

    fuse_opt_add_arg(&args, "sectionfs");
    if (config->debug)
        fuse_opt_add_arg(&args, "-d");
    if (config->allow_root)
        fuse_opt_add_arg(&args, "-oallow_root");
    ops.init = op_init;
    g_snprintf(device, sizeof device, "/dev/fd/%d", SFS_FD_SESSION);
    connect_session(worker, SFS_FD_DEVICE);
    worker->mount.session = fuse_session_new(&args, &ops, sizeof ops, worker);
    ok = worker->mount.session != NULL && fuse_session_mount(worker->mount.session, device) == 0;
    fuse_opt_free_args(&args);
    if (!ok)
        g_snprintf(worker->mount.header->startup_error, sizeof worker->mount.header->startup_error,
                   "libfuse cannot start a session: %s", sfs_log_last_fuse_error());
    return ok;
}

static void
open_rooms(Worker *worker)
{
    SfsMount *mount = &worker->mount;

    mount->nodes = sfs_nodes_new(mount->registry, mount->device, mount->link);
    sfs_node_make_root(mount->nodes, &mount->header->config);
    mount->names =
        sfs_namespace_new(mount->registry, mount->nodes, mount->header->config.nr_sections);
    mount->sections = sfs_sections_new(mount);
    mount->views = sfs_views_new();
    mount->lifetimes = sfs_lifetimes_new(mount);
    mount->locks = sfs_locks_new(mount->registry, mount->link);
    mount->requests = sfs_requests_new(mount->registry);
    mount->deferral = sfs_deferral_new();
}

static void
close_rooms(Worker *worker, int status)
{
    SfsMount *mount = &worker->mount;

    /* A thread that still waits, for a lock or a file server, must not find the rooms gone. Without
     * it the end of the process does as well. */
    if (!sfs_deferral_free(mount->deferral) || !sfs_locks_idle(mount->locks))
        _exit(status);
    sfs_doubt_free(mount->doubt);
    sfs_sections_free(mount);
    if (!sfs_lifetimes_free(mount->lifetimes))
        _exit(status);
    sfs_views_free(mount->views);
    sfs_locks_free(mount->locks);
    sfs_namespace_free(mount->names);
    sfs_nodes_free(mount->nodes);
    sfs_store_free(mount->store);
    sfs_requests_free(mount->requests);
    sfs_resume_free(worker->resume);
}

/* Steps 2 and 3 of resume.h. What is there is the next worker's to take up, should this one fail,
 * and not ours to give back. */
static void
go_on(Worker *worker)
{
    SfsRegistryHeader *header = worker->mount.header;
    bool done = start_session(worker);

    if (done) {
        serve_init(worker);
        done = worker->mount.store != NULL;
        if (!done)
            g_snprintf(header->startup_error, sizeof header->startup_error,
                       "libfuse could not be told how the connection began: %s",
                       sfs_log_last_fuse_error());
    }
    if (!done || !sfs_resume_adopt(worker->resume, &worker->mount))
        _exit(1);
}

int
sfs_worker_main(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SfsRegistry) registry = sfs_registry_open(SFS_FD_REGISTRY, &error);
    Worker worker = {0};
    bool ended;
    int status = 0;

    if (registry == NULL) {
        fprintf(stderr, "sectionfs: a worker is started by sectionfs itself: %s\n", error->message);
        return 1;
    }
    worker.mount.registry = registry;
    worker.mount.header = sfs_registry_header(registry);
    worker.mount.header->worker_pid = (uint32_t)getpid();
    worker.mount.header->worker_starts++;
    sfs_log_init(worker.mount.header->config.foreground, worker.mount.header->config.debug);
    set_up_process();
    connect_session(&worker, SFS_FD_DEVICE); /* takes the number, before anything else gets it */
    worker.mount.device = SFS_FD_DEVICE;
    worker.mount.link = SFS_FD_LINK;
    start_watch(&worker);
    worker.resume = sfs_resume_read(&worker.mount, &ended);
    if (worker.resume != NULL && ended) {
        sfs_resume_free(worker.resume);
        return 0;
    }
    open_rooms(&worker);
    if (worker.resume != NULL) {
        go_on(&worker);
    } else if (!start_session(&worker)) {
        close_rooms(&worker, 1);
        return 1;
    } else {
        serve_init(&worker);
    }
    if (worker.refused || worker.mount.store == NULL)
        status = 1;
    else
        serve_all(&worker);
    close_rooms(&worker, status);
    fuse_session_destroy(worker.mount.session);
    return status;
}

int
sfs_worker_check(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SfsRegistry) registry = sfs_registry_open_to_look(SFS_FD_REGISTRY, &error);

    return registry != NULL ? 0 : 1;
}
