/* SPDX-License-Identifier: MIT */
/*
 * bench: how fast sections are, as ratios to what they stand in for.
 *
 * Two processes. The parent makes three folders (on the mount, on a tmpfs, on a disk), forks, waits
 * and removes them, whatever becomes of the child: an error, SIGINT, or the SIGBUS that a full
 * store sends to whoever stores into a mapping. So the child measures straight on and exits where
 * it stands when something fails.
 */
#include "config.h"

#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BIG_BASE (10 * BENCH_GIB)
#define LEAST_SIZE (128 * BENCH_MIB)
#define BUSY_TRIES                                                                                 \
    100 /* of 20 ms: a section is in use until its release has reached the daemon                  \
         */

static char *opt_mount, *opt_tmpfs, *opt_disk, *opt_json, *opt_groups;
static double opt_seconds = 0.2;
static int opt_rounds = 5, opt_size;
static gboolean opt_self_test;

static const GOptionEntry options[] = {
    {"mount", 'm', 0, G_OPTION_ARG_FILENAME, &opt_mount, "Root of a mounted sectionfs", "DIR"},
    {"tmpfs", 't', 0, G_OPTION_ARG_FILENAME, &opt_tmpfs,
     "Where to make native files in memory (default: /dev/shm)", "DIR"},
    {"disk", 'd', 0, G_OPTION_ARG_FILENAME, &opt_disk,
     "Where to make native files on a disk (default: /var/tmp)", "DIR"},
    {"seconds-per-case", 's', 0, G_OPTION_ARG_DOUBLE, &opt_seconds,
     "Time for each side of a case in each round (default: 0.2)", "S"},
    {"rounds", 'r', 0, G_OPTION_ARG_INT, &opt_rounds, "Rounds (default: 5)", "N"},
    {"size", 0, 0, G_OPTION_ARG_INT, &opt_size,
     "Size of the files (default: beyond the processor's cache, less where there is no room)",
     "MIB"},
    {"groups", 'g', 0, G_OPTION_ARG_STRING, &opt_groups, "Only these of page,file,cow,latency",
     "LIST"},
    {"json", 'j', 0, G_OPTION_ARG_FILENAME, &opt_json, "Write the figures to FILE as well", "FILE"},
    {"self-test", 0, 0, G_OPTION_ARG_NONE, &opt_self_test,
     "Measure native files against themselves, without a mount: the noise of this machine", NULL},
    {0},
};

typedef struct {
    const char *group;
    char *reason;
    gboolean error; /* a sectionfs should have been able to */
} Skip;

/* Of the parent, who fills it before it forks, and the child, who only reads it. */
static struct {
    char *mount;       /* absolute, without links */
    char *section_dir; /* these three are ours, to be removed */
    char *tmpfs_dir;
    char *disk_dir;
    gsize size;
} place;

/* Of the child. */
static GPtrArray *results, *skips;
static char *mode; /* user.section.mode of a page section */
static gboolean is_sectionfs;

void bench_fail(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fputs("bench: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static void G_GNUC_PRINTF(3, 4) skip(const char *group, gboolean error, const char *format, ...)
{
    va_list args;
    Skip *s = g_new0(Skip, 1);

    s->group = group;
    s->error = error;
    va_start(args, format);
    s->reason = g_strdup_vprintf(format, args);
    va_end(args);
    g_ptr_array_add(skips, s);
    printf("\n%s: %s: %s\n", group, error ? "FAILED" : "skipped", s->reason);
}

static gboolean wanted(const char *group)
{
    if (!opt_groups)
        return TRUE;
    g_auto(GStrv) list = g_strsplit(opt_groups, ",", -1);
    return g_strv_contains((const char *const *)list, group);
}

/* ---- the table ---- */

/* Right-aligned by what is seen: "µ" is one column and two bytes. */
static void print_right(int width, const char *text)
{
    printf("%*s%s", MAX(0, width - (int)g_utf8_strlen(text, -1)), "", text);
}

static void print_cost(gsize bytes, double ns)
{
    g_autofree char *text = NULL;

    if (bytes >= BENCH_MIB) {
        double gib = (double)bytes / ns * 1e9 / (double)BENCH_GIB;
        text = gib < 1 ? g_strdup_printf("%.0f MiB/s", gib * 1024)
                       : g_strdup_printf("%.2f GiB/s", gib);
    } else if (ns < 1e3) {
        text = g_strdup_printf("%.0f ns", ns);
    } else {
        text =
            ns < 1e6 ? g_strdup_printf("%.2f µs", ns / 1e3) : g_strdup_printf("%.2f ms", ns / 1e6);
    }
    print_right(14, text);
}

static void print_ratio(double ratio)
{
    printf(ratio < 0.1 ? "%8.3f" : "%8.2f", ratio);
}

static void print_heading(const char *title, const BenchSide *subject, const BenchSide *reference)
{
    printf("\n%-42s", title);
    print_right(14, subject->label);
    print_right(14, reference->label);
    printf("%8s%8s%8s\n", "ratio", "min", "max");
}

static void print_result(const BenchResult *r)
{
    printf("  %-40s", r->name);
    print_cost(r->bytes, r->subject_ns);
    print_cost(r->bytes, r->reference_ns);
    print_ratio(r->median);
    print_ratio(r->min);
    print_ratio(r->max);
    putchar('\n');
    fflush(stdout);
}

/* Runs and prints @cases (the last one's name is NULL) but for those with a flag in @without. */
static void compare(const char *group, const char *title, const BenchCase *cases, guint without,
                    BenchSide *subject, BenchSide *reference)
{
    print_heading(title, subject, reference);
    for (; cases->name; cases++) {
        if (cases->flags & without)
            continue;
        BenchResult *r = bench_compare(cases, subject, reference, (guint)opt_rounds, opt_seconds);
        r->group = group;
        g_ptr_array_add(results, r);
        print_result(r);
    }
}

/* ---- JSON ---- */

static void json_string(GString *out, const char *name, const char *value)
{
    g_string_append_printf(out, "\"%s\": \"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            g_string_append_printf(out, "\\%c", *value);
        else if ((guchar)*value < 0x20)
            g_string_append_printf(out, "\\u%04x", (guchar)*value);
        else
            g_string_append_c(out, *value);
    }
    g_string_append(out, "\", ");
}

static void write_json(const char *file, const char *kernel)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) out = g_string_new("{\n  ");

    json_string(out, "program", "sectionfs-bench");
    json_string(out, "kernel", kernel);
    json_string(out, "mount", place.mount);
    json_string(out, "mode", mode);
    g_string_append_printf(out,
                           "\"processors\": %u, \"size\": %zu, \"rounds\": %d, "
                           "\"seconds_per_case\": %g,\n  \"results\": [",
                           g_get_num_processors(), place.size, opt_rounds, opt_seconds);
    for (guint i = 0; i < results->len; i++) {
        const BenchResult *r = g_ptr_array_index(results, i);
        g_string_append(out, i ? ",\n    {" : "\n    {");
        json_string(out, "group", r->group);
        json_string(out, "case", r->name);
        json_string(out, "subject", r->subject);
        json_string(out, "reference", r->reference);
        g_string_append_printf(out,
                               "\"bytes_per_operation\": %zu, \"subject_ns\": %.2f, "
                               "\"reference_ns\": %.2f, \"ratio\": %.4f, \"min\": %.4f, "
                               "\"max\": %.4f, \"ratios\": [",
                               r->bytes, r->subject_ns, r->reference_ns, r->median, r->min, r->max);
        for (guint k = 0; k < r->ratios->len; k++)
            g_string_append_printf(out, "%s%.4f", k ? ", " : "",
                                   g_array_index(r->ratios, double, k));
        g_string_append(out, "]}");
    }
    g_string_append(out, "\n  ],\n  \"skipped\": [");
    for (guint i = 0; i < skips->len; i++) {
        const Skip *s = g_ptr_array_index(skips, i);
        g_string_append(out, i ? ",\n    {" : "\n    {");
        json_string(out, "group", s->group);
        json_string(out, "reason", s->reason);
        g_string_append_printf(out, "\"error\": %s}", s->error ? "true" : "false");
    }
    g_string_append(out, skips->len ? "\n  ]\n}\n" : "]\n}\n");

    if (!g_file_set_contents(file, out->str, (gssize)out->len, &error))
        bench_fail("%s", error->message);
}

/* ---- sections ---- */

/* Makes @section over the existing @file, complete before it has a name. The attribute is for a
 * section that nobody has open: an O_PATH descriptor keeps it without having it open. 0, or errno
 * and in @step what failed. */
static int make_file_section(const char *section, const char *file, const char **step)
{
    g_autofree char *dir = g_path_get_dirname(section);
    char fd_link[32], path_link[32];
    int fd, path_fd, error = 0;

    *step = "O_TMPFILE";
    fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    g_snprintf(fd_link, sizeof fd_link, "/proc/self/fd/%d", fd);
    *step = "opening with O_PATH";
    path_fd = open(fd_link, O_PATH | O_CLOEXEC);
    if (path_fd < 0)
        error = errno;
    close(fd);
    if (error)
        return error;

    g_snprintf(path_link, sizeof path_link, "/proc/self/fd/%d", path_fd);
    *step = "setting user.section.file";
    if (setxattr(path_link, "user.section.file", file, strlen(file), 0) < 0)
        error = errno;
    if (!error) {
        *step = "linkat";
        if (linkat(AT_FDCWD, path_link, AT_FDCWD, section, AT_SYMLINK_FOLLOW) < 0)
            error = errno;
    }
    close(path_fd);
    return error;
}

/* A section over @file under @name, or NULL and @group skipped. On a tmpfs that takes any user
 * attribute, all steps succeed and nothing comes of it: the size tells. */
static char *file_section_or_skip(const char *group, const char *name, const BenchSide *file)
{
    g_autofree char *section = g_build_filename(place.section_dir, name, NULL);
    const char *step;
    struct stat want, is;
    int error = make_file_section(section, file->path, &step);

    if (error) {
        skip(group, is_sectionfs, "no file-backed section: %s: %s", step, g_strerror(error));
        return NULL;
    }
    if (fstat(file->fd, &want) < 0 || stat(section, &is) < 0)
        bench_fail("%s: %s", section, g_strerror(errno));
    if (is.st_size != want.st_size) {
        skip(group, is_sectionfs,
             "no file-backed section: user.section.file was set, but the size is %lld, not %lld",
             (long long)is.st_size, (long long)want.st_size);
        return NULL;
    }
    return g_steal_pointer(&section);
}

static BenchSide *open_in(const char *label, const char *dir, const char *name, gsize size)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    return bench_side_open(label, path, size);
}

/* ---- groups ---- */

static void measure_file(void)
{
    BenchSide *native = open_in("bare file", place.disk_dir, "file", place.size);
    g_autofree char *path = NULL;

    bench_side_fill(native, NULL);
    path = opt_self_test ? g_strdup(native->path) : file_section_or_skip("file", "file", native);
    if (path) {
        BenchSide *section = bench_side_open("sectionfs", path, place.size);
        if (!bench_side_is_filled(section, BENCH_MIB))
            bench_fail("%s does not hold the bytes of %s", section->path, native->path);
        fdatasync(native->fd);
        compare("file", "File section against its own bare file", bench_io_cases, BENCH_NEW_FILE,
                section, native);
        bench_side_close(section);
    }
    bench_side_close(native);
}

/* A base of @size for copy-on-write opens: a MiB of data, then a hole. NULL if there cannot be one
 * that large. */
static BenchSide *make_base(const char *dir, const char *name, gsize size, const char *label)
{
    BenchSide *s = open_in(label, dir, name, BENCH_MIB);

    if (ftruncate(s->fd, (off_t)size) < 0) {
        int error = errno;
        skip("cow", FALSE, "no sparse file of %zu bytes: %s: %s", size, s->path, g_strerror(error));
        bench_side_close(s);
        return NULL;
    }
    bench_side_fill(s, NULL);
    return s;
}

/* The side that opens @section (a path under the mount) copy-on-write. It holds the section itself
 * open, or with lifetime=temporary the first close would be its end. */
static BenchSide *open_cow(const char *section, const char *label)
{
    BenchSide *s = bench_side_open(label, section, BENCH_MIB);

    g_free(s->path);
    s->path = g_build_filename(place.mount, ".cow", section + strlen(place.mount), NULL);
    return s;
}

static void measure_cow(const char *kind, gboolean file_backed)
{
    static const gsize sizes[2] = {BIG_BASE, BENCH_MIB};
    static const char *const labels[2] = {"10 GiB base", "1 MiB base"};
    g_autofree char *title = g_strdup_printf("Copy-on-write open of a %s section", kind);
    BenchSide *base[2] = {0}, *cow[2] = {0};
    gboolean complete = TRUE;

    for (int i = 0; i < 2 && complete; i++) {
        g_autofree char *name = g_strdup_printf("%s-base-%d", kind, i);
        g_autofree char *path = NULL;

        base[i] =
            make_base(file_backed ? place.disk_dir : place.section_dir, name, sizes[i], labels[i]);
        if (!base[i])
            complete = FALSE;
        else if (file_backed)
            path = file_section_or_skip("cow", name, base[i]);
        else
            path = g_strdup(base[i]->path);
        if (path)
            cow[i] = open_cow(path, labels[i]);
        if (path && access(cow[i]->path, F_OK) < 0) {
            skip("cow", is_sectionfs, "%s: %s", cow[i]->path, g_strerror(errno));
            complete = FALSE;
        }
        complete = complete && path;
    }
    if (complete) {
        compare(file_backed ? "cow-file" : "cow-page", title, bench_cow_cases, 0, cow[0], cow[1]);
        for (int i = 0; i < 2; i++) {
            if (!bench_side_is_filled(base[i], BENCH_MIB))
                bench_fail("%s was changed by writing to %s", base[i]->path, cow[i]->path);
        }
    }
    for (int i = 0; i < 2; i++) {
        g_clear_pointer(&cow[i], bench_side_close);
        g_clear_pointer(&base[i], bench_side_close);
    }
}

/* ---- the child: everything that is measured ---- */

static int measure_all(void)
{
    struct utsname kernel;
    char value[64];
    ssize_t length;
    BenchSide *section =
        open_in(opt_self_test ? "tmpfs" : "sectionfs", place.section_dir, "page", place.size);
    BenchSide *native = open_in("tmpfs", place.tmpfs_dir, "page", place.size);
    gboolean failed = FALSE;

    results = g_ptr_array_new();
    skips = g_ptr_array_new();
    uname(&kernel);
    bench_side_fill(section, native);
    is_sectionfs = getxattr(section->path, "user.section.kind", value, sizeof value) > 0;
    length = getxattr(section->path, "user.section.mode", value, sizeof value - 1);
    mode = length > 0 ? g_strndup(value, (gsize)length)
                      : g_strdup(is_sectionfs ? "unknown mode" : "not a sectionfs");

    printf("%s (%s), Linux %s, %u processors\n"
           "files of %zu MiB, %d rounds of %g s for each side of a case\n"
           "Ratios are of speeds, left column / right column: 1.00 is equal, bigger is better.\n"
           "Median, least and greatest of the rounds; both sides take turns.\n",
           place.mount, mode, kernel.release, g_get_num_processors(), place.size / BENCH_MIB,
           opt_rounds, opt_seconds);

    if (wanted("page"))
        compare("page", "Page section against a tmpfs file", bench_io_cases, 0, section, native);
    if (wanted("file"))
        measure_file();
    if (wanted("cow")) {
        if (opt_self_test) {
            skip("cow", FALSE, "nothing to measure without a sectionfs");
        } else {
            measure_cow("file", TRUE);
            measure_cow("page", FALSE);
        }
    }
    if (wanted("latency"))
        compare("latency", "Names: a page section against a tmpfs file", bench_latency_cases, 0,
                section, native);
    if (opt_json)
        write_json(opt_json, kernel.release);

    bench_side_close(section);
    bench_side_close(native);
    for (guint i = 0; i < skips->len; i++)
        failed = failed || ((const Skip *)g_ptr_array_index(skips, i))->error;
    return failed || fflush(stdout) != 0 ? 1 : 0;
}

/* ---- the parent: folders, signals, cleaning up ---- */

/* Reports on stderr and returns NULL on failure. */
static char *make_folder(const char *where)
{
    g_autofree char *path = g_build_filename(where, "sectionfs-bench-XXXXXX", NULL);
    char *absolute;

    if (!mkdtemp(path)) {
        g_printerr("bench: cannot make a folder in %s: %s\n", where, g_strerror(errno));
        return NULL;
    }
    absolute = realpath(path, NULL);
    return absolute ? absolute : g_steal_pointer(&path);
}

/* Removes a folder of ours and the files in it; there are no folders in it. */
static gboolean remove_folder(const char *path)
{
    const char *name;
    GDir *dir;

    if (!path)
        return TRUE;
    for (int tries = 0; tries < BUSY_TRIES; tries++) {
        dir = g_dir_open(path, 0, NULL);
        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_build_filename(path, name, NULL);
            unlink(file);
        }
        g_clear_pointer(&dir, g_dir_close);
        if (rmdir(path) == 0 || errno == ENOENT)
            return TRUE;
        if (errno != EBUSY && errno != ENOTEMPTY)
            break;
        g_usleep(20000);
    }
    g_printerr("bench: cannot remove %s: %s\n", path, g_strerror(errno));
    return FALSE;
}

/* Files that fit into the processor's cache measure that: whose pages happen to lie better in it
 * moves random reads by 10 %, between two files of one tmpfs as well. */
static gsize beyond_cache(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);

    return MAX(LEAST_SIZE, 2 * (gsize)MAX(cache, 0) / BENCH_MIB * BENCH_MIB);
}

/* The largest whole MiB up to the default that leaves everyone room: a case keeps up to three
 * files' worth, and two of the places may be on one file system. 0 after a message. */
static gsize choose_size(void)
{
    const char *const dirs[] = {place.section_dir, place.tmpfs_dir, place.disk_dir};
    gsize size = beyond_cache();

    if (opt_size)
        return (gsize)opt_size * BENCH_MIB;
    for (gsize i = 0; i < G_N_ELEMENTS(dirs); i++) {
        struct statvfs fs;
        if (statvfs(dirs[i], &fs) < 0 || fs.f_blocks == 0)
            continue;
        size = MIN(size, (gsize)fs.f_bavail * fs.f_frsize / 6 / BENCH_MIB * BENCH_MIB);
        if (size == 0) {
            g_printerr("bench: no room to measure in %s\n", dirs[i]);
            return 0;
        }
    }
    return size;
}

static gboolean prepare(void)
{
    const char *mount = opt_self_test ? opt_tmpfs : opt_mount;
    struct statfs fs;

    place.mount = realpath(mount, NULL);
    if (!place.mount) {
        g_printerr("bench: %s: %s\n", mount, g_strerror(errno));
        return FALSE;
    }
    if (opt_json) {
        g_autofree char *dir = g_path_get_dirname(opt_json);
        if (access(dir, W_OK) < 0) {
            g_printerr("bench: --json: %s: %s\n", dir, g_strerror(errno));
            return FALSE;
        }
    }
    if (statfs(opt_tmpfs, &fs) < 0) {
        g_printerr("bench: %s: %s\n", opt_tmpfs, g_strerror(errno));
        return FALSE;
    }
    if (fs.f_type != TMPFS_MAGIC) {
        g_printerr("bench: %s is not on a tmpfs: name one with --tmpfs\n", opt_tmpfs);
        return FALSE;
    }
    return (place.section_dir = make_folder(place.mount)) != NULL &&
           (place.tmpfs_dir = make_folder(opt_tmpfs)) != NULL &&
           (place.disk_dir = make_folder(opt_disk)) != NULL && (place.size = choose_size()) != 0;
}

static gboolean parse_options(int argc, char **argv)
{
    static const char *const groups[] = {"page", "file", "cow", "latency", NULL};
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) chosen = NULL;
    const char *wrong = NULL;

    g_option_context_set_summary(context,
                                 "Measures sections side by side with native files, in one run.");
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        wrong = error->message;
    else if (argc > 1)
        wrong = "there are no arguments, only options";
    else if (!opt_mount && !opt_self_test)
        wrong = "--mount is needed (bench/run mounts one by itself)";
    else if (opt_mount && opt_self_test)
        wrong = "--self-test takes no --mount";
    else if (!(opt_seconds > 0 && opt_seconds <= 3600))
        wrong = "--seconds-per-case must be above 0 and at most 3600";
    else if (opt_rounds < 1 || opt_rounds > 10000)
        wrong = "--rounds must be from 1 to 10000";
    else if (opt_size < 0 || opt_size > 1024 * 1024)
        wrong = "--size must be at most 1048576";

    chosen = g_strsplit(opt_groups ? opt_groups : "page", ",", -1);
    for (char **group = chosen; *group && !wrong; group++) {
        if (!g_strv_contains(groups, *group))
            wrong = "--groups must be a list of page, file, cow, latency";
    }
    if (wrong) {
        g_printerr("bench: %s\n", wrong);
        return FALSE;
    }
    if (!opt_tmpfs)
        opt_tmpfs = g_strdup("/dev/shm");
    if (!opt_disk)
        opt_disk = g_strdup("/var/tmp");
    return TRUE;
}

/* Waits for the child; a signal to us ends it. Returns the exit status, and in @stopped the signal
 * that we must die of ourselves, as shells want to see it. */
static int wait_for(pid_t child, const sigset_t *signals, int *stopped)
{
    int status;

    for (;;) {
        int number = sigwaitinfo(signals, NULL);
        if (number > 0 && number != SIGCHLD) {
            *stopped = number;
            kill(child, SIGKILL);
        }
        if (waitpid(child, &status, WNOHANG) == child)
            break;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    /* Ctrl-C goes to both, and the child may be quicker; a closed pipe is the child's to find. */
    if (!*stopped && (WTERMSIG(status) == SIGINT || WTERMSIG(status) == SIGPIPE))
        *stopped = WTERMSIG(status);
    if (!*stopped)
        g_printerr("bench: measuring ended by signal %d (%s)\n", WTERMSIG(status),
                   g_strsignal(WTERMSIG(status)));
    return 1;
}

int main(int argc, char **argv)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    sigset_t signals, before;
    pid_t parent = getpid(), child;
    int status = 1, stopped = 0;

    if (!parse_options(argc, argv))
        return 2;

    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    for (gsize i = 0; i < G_N_ELEMENTS(ending); i++) {
        /* What was ignored from the start, as under nohup, stays so: blocked, it would wait. */
        struct sigaction action;
        if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&signals, ending[i]);
    }
    sigprocmask(SIG_BLOCK, &signals, &before);

    if (prepare()) {
        child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            sigprocmask(SIG_SETMASK, &before, NULL);
            exit(measure_all());
        }
        if (child > 0)
            status = wait_for(child, &signals, &stopped);
        else
            g_printerr("bench: fork: %s\n", g_strerror(errno));
    }

    if (!remove_folder(place.section_dir) | !remove_folder(place.tmpfs_dir) |
        !remove_folder(place.disk_dir))
        status = 1;
    if (stopped) {
        signal(stopped, SIG_DFL);
        raise(stopped);
        sigprocmask(SIG_SETMASK, &before, NULL);
    }
    return status;
}
