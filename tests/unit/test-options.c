/* SPDX-License-Identifier: MIT */
/* Command lines, good and bad. */
#include "options.h"

#include "registry.h"

#include <string.h>
#include <sys/sysinfo.h>

/* A number that is not given is as in a mount without options; 0 has to be told from that. */
#define ZERO (-1)

typedef struct {
    const char *line; /* the arguments, as a shell would split them */
    int64_t size;
    int64_t nr_sections;
    int64_t mode, uid, gid, drain_timeout;
    int64_t cow_copy_max;
    bool no_reflink;
    int passthrough;
    bool foreground, debug, allow_root, no_atime;
    const char *with; /* options that the kernel's are to have beside the usual ones; NULL: none */
    const char *without; /* and one that they are not to have */
} Good;

static const Good good[] = {
    {.line = "/mnt"},
    {.line = "none /mnt"},
    {.line = "'' /mnt"},
    {.line = "/mnt -f", .foreground = true},
    {.line = "-f /mnt", .foreground = true},
    {.line = "--foreground /mnt", .foreground = true},
    {.line = "/mnt -d", .foreground = true, .debug = true},
    {.line = "/mnt --debug", .foreground = true, .debug = true},
    {.line = "/mnt -fd", .foreground = true, .debug = true},
    {.line = "/mnt -o debug", .foreground = true, .debug = true},
    {.line = "none /mnt -n -s -v"},
    {.line = "none /mnt -t fuse.sectionfs -o rw", .with = "rw"},
    {.line = "/mnt -o ,,"},
    {.line = "/mnt -o size=0", .size = ZERO},
    {.line = "/mnt --options=size=64k", .size = 65536},
    {.line = "/mnt --options size=64k", .size = 65536},
    {.line = "none /mnt -o size=1", .size = 8192},
    {.line = "/mnt -o size=8191", .size = 8192},
    {.line = "/mnt -o size=8192", .size = 8192},
    {.line = "/mnt -o size=12287", .size = 8192},
    {.line = "/mnt -o size=12288", .size = 12288},
    {.line = "/mnt -o size=3G", .size = (int64_t)3 << 30},
    {.line = "/mnt -o size=7E", .size = (int64_t)7 << 60},
    {.line = "/mnt -o size=9223372036854775807", .size = INT64_MAX - 4095},
    {.line = "/mnt -o size=1M,size=2M", .size = 2 << 20},
    {.line = "/mnt -o size=1M -o size=3M", .size = 3 << 20},
    {.line = "/mnt -o nr_sections=0", .nr_sections = ZERO},
    {.line = "/mnt -o nr_sections=1", .nr_sections = 1},
    {.line = "/mnt -o nr_sections=16777215", .nr_sections = SFS_MAX_NODES},
    {.line = "/mnt -o mode=0", .mode = ZERO},
    {.line = "/mnt -o mode=700", .mode = 0700},
    {.line = "/mnt -o mode=01777", .mode = 01777},
    {.line = "/mnt -o mode=7777", .mode = 07777},
    {.line = "/mnt -o uid=0,gid=0", .uid = ZERO, .gid = ZERO},
    {.line = "/mnt -o uid=1000,gid=2000", .uid = 1000, .gid = 2000},
    {.line = "/mnt -o uid=4294967294,gid=4294967294", .uid = 4294967294, .gid = 4294967294},
    {.line = "/mnt -o drain_timeout=0", .drain_timeout = ZERO},
    {.line = "/mnt -o cow_copy_max=0,reflink=off", .cow_copy_max = ZERO, .no_reflink = true},
    {.line = "/mnt -o reflink=off,reflink=auto,cow_copy_max=1M", .cow_copy_max = 1 << 20},
    {.line = "/mnt -o drain_timeout=86400", .drain_timeout = 86400},
    {.line = "/mnt -o passthrough=auto"},
    {.line = "/mnt -o passthrough=on", .passthrough = SFS_PASSTHROUGH_ON},
    {.line = "/mnt -o passthrough=off", .passthrough = SFS_PASSTHROUGH_OFF},
    {.line = "/mnt -o allow_other", .with = "allow_other"},
    {.line = "/mnt -o allow_root",
     .allow_root = true,
     .with = "allow_other",
     .without = "allow_root"},
    {.line = "/mnt -o ro,nosuid,nodev,noexec", .with = "ro,nosuid,nodev,noexec"},
    {.line = "/mnt -o rw -o suid,dev -o exec,sync", .with = "rw,suid,dev,exec,sync"},
    {.line = "/mnt -o async,dirsync,nodiratime", .with = "async,dirsync,nodiratime"},
    {.line = "/mnt -o noatime", .no_atime = true, .with = "noatime"},
    {.line = "/mnt -o auto_unmount,symfollow,nosymfollow", .with = "symfollow,nosymfollow"},
    {.line = "/mnt -o fsname=pool", .with = "fsname=pool", .without = "fsname=sectionfs"},
    {.line = "/mnt -o fsname=a=b", .with = "fsname=a=b", .without = "fsname=sectionfs"},
    {.line = "/mnt -o max_read=65536", .with = "max_read=65536"},
    {.line = "/mnt -o context=a:b:c", .with = "context=a:b:c"},
    {.line = "/mnt -o rootcontext=a:b:c", .with = "rootcontext=a:b:c"},
    {.line = "/mnt -o defaults,noauto,_netdev,nofail,user,users", .without = "defaults"},
    {.line = "/mnt -o x-systemd.automount,x-gvfs-show", .without = "x-gvfs-show"},
    {.line = "/mnt -o x-systemd.requires=a.mount", .without = "x-systemd.requires=a.mount"},
    {.line = "/mnt -o user=joe", .without = "user=joe"},
    {.line = "/mnt -o atime,relatime,strictatime,default_permissions", .without = "relatime"},
    {.line = "-- /mnt"},
    {.line = "-f -- none /mnt", .foreground = true},
};

typedef struct {
    const char *line;
    const char *names; /* what the sentence has to name */
} Bad;

static const Bad bad[] = {
    {"", "MOUNTPOINT"},
    {"-f", "MOUNTPOINT"},
    {"-o size=1G", "MOUNTPOINT"},
    {"''", "MOUNTPOINT"},
    {"none ''", "MOUNTPOINT"},
    {"none /mnt third", "third"},
    {"none /mnt third fourth", "third"},
    {"/mnt -x", "-x"},
    {"/mnt --nonsense", "--nonsense"},
    {"/mnt -o", "-o"},
    {"/mnt --options", "--options"},
    {"/mnt -o nonsense", "nonsense"},
    {"/mnt -o nonsense=1", "nonsense=1"},
    {"/mnt -o size=1M,nonsense", "nonsense"},
    {"/mnt -o Size=1M", "Size=1M"},
    {"/mnt -o 'size =1M'", "size =1M"},
    {"/mnt -o ' ro'", " ro"},
    {"/mnt -o =1", "=1"},
    {"/mnt -o ro=1", "'ro=1' takes no value"},
    {"/mnt -o defaults=1", "'defaults=1' takes no value"},
    {"/mnt -o allow_root=1", "'allow_root=1' takes no value"},
    {"/mnt -o subtype=other", "subtype=other"},
    {"/mnt -o fd=3", "fd=3"},
    {"/mnt -o rootmode=40000", "rootmode=40000"},
    {"/mnt -o user_id=0", "user_id=0"},
    {"/mnt -o blksize=1", "blksize=1"},
    {"/mnt -o size", "'size' needs a value"},
    {"/mnt -o size=", "size="},
    {"/mnt -o size=many", "size=many"},
    {"/mnt -o size=-1", "size=-1"},
    {"/mnt -o size=1.5G", "size=1.5G"},
    {"/mnt -o size=8E", "size=8E"},
    {"/mnt -o size=99999999999999999999", "size=99999999999999999999"},
    {"/mnt -o size=%", "size=%"},
    {"/mnt -o size=x%", "size=x%"},
    {"/mnt -o size=-5%", "size=-5%"},
    {"/mnt -o size=1000001%", "from 0 to 1000000"},
    {"/mnt -o size=50%%", "size=50%%"},
    {"/mnt -o size=1k%", "size=1k%"},
    {"/mnt -o size=%s%n", "size=%s%n"},
    {"/mnt -o mode", "'mode' needs a value"},
    {"/mnt -o mode=", "mode="},
    {"/mnt -o mode=8", "mode=8"},
    {"/mnt -o mode=10000", "mode=10000"},
    {"/mnt -o mode=u=rwx", "mode=u=rwx"},
    {"/mnt -o uid=root", "uid=root"},
    {"/mnt -o uid=-1", "uid=-1"},
    {"/mnt -o uid=4294967295", "uid=4294967295"},
    {"/mnt -o gid=4294967295", "gid=4294967295"},
    {"/mnt -o gid=", "gid="},
    {"/mnt -o drain_timeout=86401", "drain_timeout=86401"},
    {"/mnt -o cow_copy_max=10%", "cow_copy_max=10%"},
    {"/mnt -o cow_copy_max=", "cow_copy_max="},
    {"/mnt -o reflink=on", "reflink=on"},
    {"/mnt -o reflink", "'reflink' needs a value"},
    {"/mnt -o fsname", "'fsname' needs a value"},
    {"/mnt -o lifetime", "'lifetime' needs a value"},
    {"/mnt -o lifetime=short", "permanent and temporary"},
    {"/mnt -o limit=-1", "limit=-1: a size such as"},
    {"/mnt -o drain_timeout=10s", "drain_timeout=10s"},
    {"/mnt -o passthrough", "'passthrough' needs a value"},
    {"/mnt -o passthrough=", "passthrough="},
    {"/mnt -o passthrough=yes", "passthrough=yes"},
    {"/mnt -o passthrough=AUTO", "passthrough=AUTO"},
    {"/mnt -o nr_sections=16777216", "nr_sections=16777216"},
    {"/mnt -o nr_sections=1k", "nr_sections=1k"},
};

static gboolean
parse(const char *line, SfsConfig *config, SfsRun *run, GError **error)
{
    g_autofree char *command = g_strconcat("sectionfs ", line, NULL);
    g_auto(GStrv) argv = NULL;
    g_auto(GStrv) before = NULL;
    gboolean result;
    int argc;

    g_assert_true(g_shell_parse_argv(command, &argc, &argv, NULL));
    before = g_strdupv(argv);
    memset(config, 0xaa, sizeof *config);
    result = sfs_options_parse(argc, argv, config, run, error);
    g_assert_true(g_strv_equal((const char *const *)before, (const char *const *)argv));
    return result;
}

static bool
has(char **options, const char *option)
{
    return g_strv_contains((const char *const *)options, option);
}

static void
check_fuse_options(const Good *expected, const SfsConfig *config)
{
    g_auto(GStrv) options = g_strsplit(config->fuse_options, ",", -1);
    g_auto(GStrv) with = g_strsplit(expected->with != NULL ? expected->with : "", ",", -1);
    bool fsname = false;

    for (char **option = with; *option != NULL; option++) {
        g_assert_true(has(options, *option));
        fsname = fsname || g_str_has_prefix(*option, "fsname=");
    }
    if (expected->without != NULL)
        g_assert_false(has(options, expected->without));
    g_assert_true(has(options, "default_permissions"));
    g_assert_true(has(options, "subtype=sectionfs"));
    g_assert_cmpint(has(options, "fsname=sectionfs"), ==, !fsname);
    /* What an administrator mounts is for everybody. */
    if (geteuid() == 0)
        g_assert_true(has(options, "allow_other"));
    else
        g_assert_cmpint(has(options, "allow_other"), ==, has(with, "allow_other"));
    for (char **option = options; *option != NULL; option++)
        g_assert_cmpstr(*option, !=, "");
}

static uint64_t
pages_of_memory(void)
{
    struct sysinfo info;

    g_assert_no_errno(sysinfo(&info));
    return (uint64_t)info.totalram * info.mem_unit / SFS_PAGE_SIZE;
}

static uint64_t
given(int64_t value, uint64_t otherwise)
{
    return value == ZERO ? 0 : value != 0 ? (uint64_t)value : otherwise;
}

static void
test_good(gconstpointer data)
{
    const Good *expected = data;
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run = SFS_RUN_HELP;

    parse(expected->line, &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpint(run, ==, SFS_RUN_MOUNT);
    g_assert_cmpstr(config.mountpoint, ==, "/mnt");
    g_assert_cmpuint(config.size, ==, given(expected->size, pages_of_memory() / 2 * SFS_PAGE_SIZE));
    g_assert_cmpuint(
        config.nr_sections, ==,
        given(expected->nr_sections, CLAMP(pages_of_memory() / 2, 1024, SFS_MAX_NODES)));
    g_assert_cmpuint(config.root_mode, ==, given(expected->mode, geteuid() == 0 ? 01777 : 0755));
    g_assert_cmpuint(config.root_uid, ==, given(expected->uid, geteuid()));
    g_assert_cmpuint(config.root_gid, ==, given(expected->gid, getegid()));
    g_assert_cmpuint(config.drain_timeout, ==, given(expected->drain_timeout, 10));
    g_assert_cmpuint(config.cow_copy_max, ==, given(expected->cow_copy_max, 256 << 10));
    g_assert_cmpint(config.reflink, ==, !expected->no_reflink);
    g_assert_cmpint(config.passthrough, ==, expected->passthrough);
    g_assert_cmpint(config.foreground, ==, expected->foreground);
    g_assert_cmpint(config.debug, ==, expected->debug);
    g_assert_cmpint(config.allow_root, ==, expected->allow_root);
    g_assert_cmpint(config.no_atime, ==, expected->no_atime);
    check_fuse_options(expected, &config);
}

/* One sentence for people: a line without a full stop, that names what it is about. */
static void
check_sentence(const GError *error, const char *names)
{
    const char *text = error->message;

    g_test_message("%s", text);
    g_assert_true(error->domain == G_OPTION_ERROR);
    g_assert_nonnull(strstr(text, names));
    g_assert_null(strchr(text, '\n'));
    g_assert_false(g_str_has_suffix(text, "."));
    g_assert_false(g_str_has_suffix(text, " "));
    g_assert_cmpuint(strlen(text), >, strlen(names));
}

static void
test_bad(gconstpointer data)
{
    const Bad *expected = data;
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run;

    g_assert_false(parse(expected->line, &config, &run, &error));
    g_assert_nonnull(error);
    check_sentence(error, expected->names);
}

/* Whole pages, as of any other size, and never 0, which would be no limit. */
static void
test_percent(void)
{
    struct sysinfo info;
    uint64_t memory;

    g_assert_no_errno(sysinfo(&info));
    memory = (uint64_t)info.totalram * info.mem_unit;
    for (unsigned percent = 0; percent <= 400; percent += percent < 100 ? 1 : 50) {
        g_autofree char *line = g_strdup_printf("/mnt -o size=%u%%", percent);
        g_autoptr(GError) error = NULL;
        uint64_t expected = MAX(memory / 100 * percent, 2 * SFS_PAGE_SIZE);
        SfsConfig config;
        SfsRun run;

        parse(line, &config, &run, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(config.size, <=, expected + percent * 100);
        g_assert_cmpuint(config.size, >, expected - SFS_PAGE_SIZE);
        g_assert_cmpuint(config.size % SFS_PAGE_SIZE, ==, 0);
        g_assert_cmpuint(config.size, >=, 2 * SFS_PAGE_SIZE);
    }
}

static void
test_long(void)
{
    SfsConfig config;
    g_autofree char *fits = g_strnfill(sizeof config.mountpoint - 1, 'm');
    g_autofree char *too_long = g_strnfill(sizeof config.mountpoint, 'm');
    g_autofree char *name = g_strnfill(sizeof config.fuse_options, 'n');
    g_autofree char *line = g_strconcat("/mnt -o fsname=", name, NULL);
    GError *error = NULL;
    SfsRun run;

    parse(fits, &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config.mountpoint, ==, fits);
    g_assert_false(parse(too_long, &config, &run, &error));
    check_sentence(error, "MOUNTPOINT");
    g_clear_error(&error);
    g_assert_false(parse(line, &config, &run, &error));
    check_sentence(error, "options");
    g_clear_error(&error);
}

/* Neither a mountpoint nor a name need be ASCII, whatever the locale. */
static void
test_bytes(void)
{
    char *argv[] = {(char *)"sectionfs", (char *)"/mnt/\xfc", (char *)"-o",
                    (char *)"fsname=gr\xc3\xbcn,x-gvfs-name=B\xc3\xbcro", NULL};
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run;

    sfs_options_parse(4, argv, &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config.mountpoint, ==, "/mnt/\xfc");
    g_assert_nonnull(strstr(config.fuse_options, "fsname=gr\xc3\xbcn"));
}

/* A name that looks like an option is none. */
static void
test_lookalikes(void)
{
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run;

    parse("/mnt -o fsname=allow_other", &config, &run, &error);
    g_assert_no_error(error);
    check_fuse_options(&(Good){.with = "fsname=allow_other"}, &config);
    parse("-- -mnt", &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(config.mountpoint, ==, "-mnt");
}

/* A value may follow its letter at once, as with every other program that mounts. */
static void
test_attached(void)
{
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run;

    parse("/mnt -osize=64k,nosuid", &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(config.size, ==, 65536);
    check_fuse_options(&(Good){.with = "nosuid"}, &config);
}

static void
run_for_text(const char *option, SfsRun expected)
{
    g_autoptr(GError) error = NULL;
    SfsConfig config;
    SfsRun run = SFS_RUN_MOUNT;

    parse(option, &config, &run, &error);
    g_assert_no_error(error);
    g_assert_cmpint(run, ==, expected);
}

static void
test_help(void)
{
    if (g_test_subprocess()) {
        run_for_text("--help", SFS_RUN_HELP);
        run_for_text("-h /mnt -o nonsense", SFS_RUN_HELP);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stdout("*[SOURCE] MOUNTPOINT*--foreground*--options*sectionfs(8)*");
    g_test_trap_assert_stdout_unmatched("*--sloppy*");
}

static void
test_version(void)
{
    if (g_test_subprocess()) {
        run_for_text("--version", SFS_RUN_VERSION);
        run_for_text("-V", SFS_RUN_VERSION);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stdout("*sectionfs " PACKAGE_VERSION "\n*");
}

static void
add_table(const char *prefix, const char *line, gconstpointer item, GTestDataFunc test)
{
    g_autofree char *name = g_strdelimit(g_strdup(*line != '\0' ? line : "nothing"), "/", '|');
    g_autofree char *path = g_strconcat(prefix, name, NULL);

    g_test_add_data_func(path, item, test);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(good); i++)
        add_table("/options/good/", good[i].line, &good[i], test_good);
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        add_table("/options/bad/", bad[i].line, &bad[i], test_bad);
    g_test_add_func("/options/long", test_long);
    g_test_add_func("/options/help", test_help);
    g_test_add_func("/options/version", test_version);
    g_test_add_func("/options/percent", test_percent);
    g_test_add_func("/options/bytes", test_bytes);
    g_test_add_func("/options/lookalikes", test_lookalikes);
    g_test_add_func("/options/attached", test_attached);
    return g_test_run();
}
