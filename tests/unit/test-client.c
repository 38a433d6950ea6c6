/* SPDX-License-Identifier: MIT */

/*
 * The client library without a mount: its parsers, its refusals, and creation on whatever
 * filesystem the test runs on. For the last of these, any mount is taken for a sectionfs;
 * attributes are then stored and mean nothing, which is enough to see what the library sets, in
 * what way, and what it leaves behind.
 */

#include "config.h"

#include "section-client.h"

#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Private to the library; NULL accepts any mount. */
extern const char *sc_internal_mount_type;

typedef struct {
    const char *mount_type;
    char *dir;
    guint open_fds;
} Fixture;

static guint
count_entries(const char *dir)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) listing = g_dir_open(dir, 0, &error);
    guint n = 0;

    g_assert_no_error(error);
    while (g_dir_read_name(listing) != NULL)
        n++;
    return n;
}

static void
set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->mount_type = sc_internal_mount_type;
    f->dir = g_dir_make_tmp("section-client-XXXXXX", &error);
    g_assert_no_error(error);
    f->open_fds = count_entries("/proc/self/fd");
}

/* No test may leave a descriptor or a file behind; what it makes on purpose it removes itself. */
static void
tear_down(Fixture *f, gconstpointer data)
{
    sc_internal_mount_type = f->mount_type;
    g_assert_cmpuint(count_entries("/proc/self/fd"), ==, f->open_fds);
    g_assert_cmpuint(count_entries(f->dir), ==, 0);
    g_assert_no_errno(g_rmdir(f->dir));
    g_free(f->dir);
}

/* Accept the mount that the test runs on; FALSE, and the test is skipped, where it cannot stand in
 * for a sectionfs. */
static gboolean
stand_in(Fixture *f)
{
    int fd = open(f->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    gboolean able = fd >= 0 && fsetxattr(fd, "user.section.probe", "", 0, 0) == 0;

    if (fd >= 0)
        close(fd);
    if (able)
        sc_internal_mount_type = NULL;
    else
        g_test_skip("the temporary directory has no O_TMPFILE or no user attributes");
    return able;
}

static char *
in_dir(Fixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

static void
assert_attribute(const char *path, const char *key, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *value = NULL;

    sc_get(path, key, &value, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(value, ==, expected);
}

static void
test_parse_size(void)
{
    static const struct {
        const char *text;
        gint64 size; /* -1: an error */
        int code;
    } cases[] = {
        {"0", 0, 0},
        {"1", 1, 0},
        {"0064", 64, 0},
        {"4096", 4096, 0},
        {"1K", 1024, 0},
        {"1k", 1024, 0},
        {"64M", 64 * G_GINT64_CONSTANT(1048576), 0},
        {"3G", 3 * G_GINT64_CONSTANT(1073741824), 0},
        {"2T", 2 * G_GINT64_CONSTANT(1099511627776), 0},
        {"0T", 0, 0},
        {"9223372036854775807", G_MAXINT64, 0},
        {"8388607T", G_GINT64_CONSTANT(8388607) << 40, 0},
        {"9223372036854775808", -1, ERANGE},
        {"18446744073709551615", -1, ERANGE},
        {"18446744073709551616", -1, ERANGE},
        {"99999999999999999999999999K", -1, ERANGE},
        {"8388608T", -1, ERANGE},
        {"18446744073709551615T", -1, ERANGE},
        {"9007199254740992K", -1, ERANGE},
        {"", -1, EINVAL},
        {"K", -1, EINVAL},
        {"-1", -1, EINVAL},
        {"+1", -1, EINVAL},
        {" 1", -1, EINVAL},
        {"1 ", -1, EINVAL},
        {"1 K", -1, EINVAL},
        {"1KB", -1, EINVAL},
        {"1KiB", -1, EINVAL},
        {"1P", -1, EINVAL},
        {"1KK", -1, EINVAL},
        {"1.5G", -1, EINVAL},
        {"0x10", -1, EINVAL},
        {"50%", -1, EINVAL},
        {"\xc3\xbc", -1, EINVAL},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        gint64 size = -7;

        g_test_message("size \"%s\"", cases[i].text);
        if (cases[i].size >= 0) {
            g_assert_true(sc_parse_size(cases[i].text, &size, &error));
            g_assert_no_error(error);
            g_assert_cmpint(size, ==, cases[i].size);
        } else {
            g_assert_false(sc_parse_size(cases[i].text, &size, &error));
            g_assert_error(error, SC_ERROR, cases[i].code);
            g_assert_cmpint(size, ==, -7);
        }
    }
}

static void
test_parse_mode(void)
{
    static const struct {
        const char *text;
        int mode; /* -1: an error */
        int code;
    } cases[] = {
        {"0", 0, 0},           {"600", 0600, 0},      {"0640", 0640, 0},
        {"7777", 07777, 0},    {"10000", -1, ERANGE}, {"7777777777777777777777777777", -1, ERANGE},
        {"", -1, EINVAL},      {"8", -1, EINVAL},     {"-1", -1, EINVAL},
        {"0x1ff", -1, EINVAL}, {"u=rw", -1, EINVAL},  {"600 ", -1, EINVAL},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        int mode = -7;

        g_test_message("mode \"%s\"", cases[i].text);
        if (cases[i].mode >= 0) {
            g_assert_true(sc_parse_mode(cases[i].text, &mode, &error));
            g_assert_no_error(error);
            g_assert_cmpint(mode, ==, cases[i].mode);
        } else {
            g_assert_false(sc_parse_mode(cases[i].text, &mode, &error));
            g_assert_error(error, SC_ERROR, cases[i].code);
            g_assert_cmpint(mode, ==, -7);
        }
    }
}

static void
test_parse_attribute(void)
{
    static const struct {
        const char *text;
        const char *key; /* NULL: an error */
        const char *value;
    } cases[] = {
        {"protect=readonly", "protect", "readonly"},
        {"k=", "k", ""},
        {"file=/a=b", "file", "/a=b"},
        {"k==", "k", "="},
        {"no such key=x y", "no such key", "x y"},
        {"", NULL, NULL},
        {"protect", NULL, NULL},
        {"=readonly", NULL, NULL},
        {"=", NULL, NULL},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(ScAttribute) attribute = NULL;

        g_test_message("attribute \"%s\"", cases[i].text);
        if (cases[i].key != NULL) {
            g_assert_true(sc_parse_attribute(cases[i].text, &attribute, &error));
            g_assert_no_error(error);
            g_assert_cmpstr(attribute->key, ==, cases[i].key);
            g_assert_cmpstr(attribute->value, ==, cases[i].value);
        } else {
            g_assert_false(sc_parse_attribute(cases[i].text, &attribute, &error));
            g_assert_error(error, SC_ERROR, EINVAL);
            g_assert_null(attribute);
        }
    }
}

/* Every operation refuses a path that lies elsewhere, and says so. */
static void
test_not_sectionfs(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    const ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    g_autoptr(GPtrArray) list = NULL;
    g_autofree char *text = NULL;
    GError *error = NULL;

    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, ENOTSUP);
    g_assert_true(g_str_has_prefix(error->message, "create "));
    g_assert_nonnull(strstr(error->message, path));
    g_assert_nonnull(strstr(error->message, "is not on a sectionfs mount"));
    g_clear_error(&error);

    g_assert_false(sc_get(f->dir, "kind", &text, &error));
    g_assert_error(error, SC_ERROR, ENOTSUP);
    g_clear_error(&error);
    g_assert_false(sc_set(f->dir, "protect", "readonly", &error));
    g_assert_error(error, SC_ERROR, ENOTSUP);
    g_clear_error(&error);
    g_assert_false(sc_list(f->dir, &list, &error));
    g_assert_error(error, SC_ERROR, ENOTSUP);
    g_clear_error(&error);
    g_assert_false(sc_stats(f->dir, &text, &error));
    g_assert_error(error, SC_ERROR, ENOTSUP);
    g_clear_error(&error);

    g_assert_null(text);
    g_assert_null(list);
    g_assert_cmpint(getxattr(f->dir, "user.section.protect", NULL, 0), <, 0);
}

static void
test_create_page(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    g_autoptr(GPtrArray) attributes =
        g_ptr_array_new_with_free_func((GDestroyNotify)sc_attribute_free);
    g_autoptr(GPtrArray) list = NULL;
    g_autoptr(GError) error = NULL;
    ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    struct stat st;

    if (!stand_in(f))
        return;
    g_ptr_array_add(attributes, sc_attribute_new("resize", "fixed"));
    g_ptr_array_add(attributes, sc_attribute_new("limit", "9G"));
    g_ptr_array_add(attributes, sc_attribute_new("empty", ""));
    options.size = 65 * 1024;
    options.mode = 0400; /* The owner must be able to set it up all the same. */
    options.attributes = attributes;
    sc_create(path, &options, &error);
    g_assert_no_error(error);

    g_assert_no_errno(lstat(path, &st));
    g_assert_true(S_ISREG(st.st_mode));
    g_assert_cmpint(st.st_mode & 07777, ==, 0400);
    g_assert_cmpint(st.st_size, ==, 65 * 1024);
    g_assert_cmpint(st.st_nlink, ==, 1);
    assert_attribute(path, "resize", "fixed");
    assert_attribute(path, "limit", "9G");
    assert_attribute(path, "empty", "");
    sc_list(path, &list, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->len, ==, 3);
    g_assert_no_errno(g_unlink(path));
}

static void
test_create_default_mode(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    const ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    g_autoptr(GError) error = NULL;
    mode_t old = umask(027);
    struct stat st;

    if (stand_in(f)) {
        sc_create(path, &options, &error);
        g_assert_no_error(error);
        g_assert_no_errno(stat(path, &st));
        g_assert_cmpint(st.st_mode & 07777, ==, 0640);
        g_assert_cmpint(st.st_size, ==, 0);
        g_assert_no_errno(g_unlink(path));
    }
    umask(old);
}

/* The daemon gets an absolute name, whatever the caller wrote; ".." is for the kernel to resolve.
 */
static void
test_create_file(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    g_autofree char *old = g_get_current_dir();
    g_autofree char *cwd = NULL;
    g_autofree char *expected = NULL;
    g_autoptr(GError) error = NULL;
    ScCreateOptions options = SC_CREATE_OPTIONS_INIT;

    if (!stand_in(f))
        return;
    options.file = "/srv/../golden.db";
    sc_create(path, &options, &error);
    g_assert_no_error(error);
    assert_attribute(path, "file", "/srv/../golden.db");
    g_assert_no_errno(g_unlink(path));

    g_assert_no_errno(g_chdir(f->dir));
    cwd = realpath(".", NULL);
    expected = g_strconcat(cwd, "/../golden.db", NULL);
    options.file = "../golden.db";
    sc_create("x", &options, &error);
    g_assert_no_error(error);
    assert_attribute("./x", "file", expected);
    g_assert_no_errno(g_unlink("x"));
    g_assert_no_errno(g_chdir(old));
}

/* A part of a file, and a copy of another section: the stand-in only keeps what it is told. */
static void
test_create_window_and_base(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    g_autoptr(GError) error = NULL;
    ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    struct stat st;

    if (!stand_in(f))
        return;
    options.file = "/srv/disk.img";
    options.offset = 1 << 20;
    options.size = 3;
    sc_create(path, &options, &error);
    g_assert_no_error(error);
    assert_attribute(path, "file", "/srv/disk.img");
    assert_attribute(path, "offset", "1048576");
    assert_attribute(path, "length", "3");
    g_assert_no_errno(stat(path, &st));
    g_assert_cmpint(st.st_size, ==, 0); /* it is the daemon that gives it its size */
    g_assert_no_errno(g_unlink(path));

    options = (ScCreateOptions)SC_CREATE_OPTIONS_INIT;
    options.base = "images/golden";
    sc_create(path, &options, &error);
    g_assert_no_error(error);
    assert_attribute(path, "base", "images/golden");
    g_assert_no_errno(g_unlink(path));
}

/* Failing at each step in turn; tear_down() sees that nothing is left. */
static void
test_create_fails(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    g_autofree char *other = in_dir(f, "x/y");
    g_autofree char *nowhere = in_dir(f, "nowhere/x");
    g_autofree char *slash = in_dir(f, "x/");
    g_autofree char *dots = in_dir(f, "..");
    g_autofree char *large = g_strnfill(70000, 'a');
    g_autoptr(GPtrArray) attributes =
        g_ptr_array_new_with_free_func((GDestroyNotify)sc_attribute_free);
    ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    GError *error = NULL;

    if (!stand_in(f))
        return;

    g_assert_false(sc_create(nowhere, &options, &error));
    g_assert_error(error, SC_ERROR, ENOENT);
    g_clear_error(&error);
    g_assert_false(sc_create(slash, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_assert_false(sc_create(dots, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_assert_false(sc_create("", &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);

    options.file = "";
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    options.file = "/etc/passwd";
    options.base = "there";
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    options.file = NULL;
    options.size = 1;
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    options.base = NULL;
    options.offset = 0;
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    options.offset = -1;
    options.mode = 010000;
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    options.mode = -1;

    options.attributes = attributes;
    g_ptr_array_add(attributes, sc_attribute_new("file", "/etc/passwd"));
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_ptr_array_set_size(attributes, 0);
    g_ptr_array_add(attributes, sc_attribute_new("base", "there"));
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_ptr_array_set_size(attributes, 0);
    g_ptr_array_add(attributes, sc_attribute_new("good", "1"));
    g_ptr_array_add(attributes, sc_attribute_new("protect", large)); /* refused after the size */
    g_assert_false(sc_create(path, &options, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, "protect"));
    g_clear_error(&error);
    options.attributes = NULL;

    options.size = -1;
    sc_create(path, &options, &error);
    g_assert_no_error(error);
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EEXIST);
    g_assert_nonnull(strstr(error->message, "already exists"));
    g_clear_error(&error);
    g_assert_false(sc_create(other, &options, &error));
    g_assert_error(error, SC_ERROR, ENOTDIR);
    g_clear_error(&error);
    g_assert_no_errno(g_unlink(path));

    /* A name is taken also by a symbolic link that leads nowhere. */
    g_assert_no_errno(symlink("nowhere", path));
    g_assert_false(sc_create(path, &options, &error));
    g_assert_error(error, SC_ERROR, EEXIST);
    g_clear_error(&error);
    g_assert_no_errno(g_unlink(path));
}

static void
test_get_set_list(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, "x");
    g_autofree char *nowhere = in_dir(f, "nowhere");
    g_autofree char *long_key = g_strnfill(300, 'k');
    g_autofree char *value = NULL;
    g_autoptr(GPtrArray) list = NULL;
    const ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    const ScAttribute *attribute;
    GError *error = NULL;

    if (!stand_in(f))
        return;
    sc_create(path, &options, &error);
    g_assert_no_error(error);
    g_assert_no_errno(setxattr(path, "user.other", "1", 1, 0)); /* not ours: not listed */
    sc_list(path, &list, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->len, ==, 0);
    g_clear_pointer(&list, g_ptr_array_unref);

    sc_set(path, "limit", "1G", &error);
    g_assert_no_error(error);
    sc_set(path, "limit", "two\nlines", &error);
    g_assert_no_error(error);
    assert_attribute(path, "limit", "two\nlines");
    sc_list(path, &list, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->len, ==, 1);
    attribute = g_ptr_array_index(list, 0);
    g_assert_cmpstr(attribute->key, ==, "limit");
    g_assert_cmpstr(attribute->value, ==, "two\nlines");

    g_assert_false(sc_get(path, "nothing", &value, &error));
    g_assert_error(error, SC_ERROR, ENODATA);
    g_assert_nonnull(strstr(error->message, "has no attribute nothing"));
    g_clear_error(&error);
    g_assert_false(sc_get(path, "", &value, &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_assert_false(sc_set(path, long_key, "1", &error));
    g_assert_error(error, SC_ERROR, EINVAL);
    g_clear_error(&error);
    g_assert_false(sc_get(nowhere, "limit", &value, &error));
    g_assert_error(error, SC_ERROR, ENOENT);
    g_clear_error(&error);
    g_assert_null(value);
    g_assert_no_errno(g_unlink(path));
}

static void
test_stats(Fixture *f, gconstpointer data)
{
    g_autofree char *path = in_dir(f, ".stats");
    g_autofree char *content = g_strnfill(10000, 's'); /* more than one read takes */
    g_autofree char *text = NULL;
    GError *error = NULL;

    sc_internal_mount_type = NULL;
    g_assert_false(sc_stats(f->dir, &text, &error));
    g_assert_error(error, SC_ERROR, ENOENT);
    g_assert_nonnull(strstr(error->message, "not the root of a sectionfs mount"));
    g_clear_error(&error);
    g_assert_null(text);

    g_file_set_contents(path, content, -1, &error);
    g_assert_no_error(error);
    sc_stats(f->dir, &text, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, content);
    g_assert_no_errno(g_unlink(path));
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/client/parse-size", test_parse_size);
    g_test_add_func("/client/parse-mode", test_parse_mode);
    g_test_add_func("/client/parse-attribute", test_parse_attribute);
    ADD("/client/not-sectionfs", test_not_sectionfs);
    ADD("/client/create-page", test_create_page);
    ADD("/client/create-default-mode", test_create_default_mode);
    ADD("/client/create-file", test_create_file);
    ADD("/client/create-window-and-base", test_create_window_and_base);
    ADD("/client/create-fails", test_create_fails);
    ADD("/client/get-set-list", test_get_set_list);
    ADD("/client/stats", test_stats);
    return g_test_run();
}
