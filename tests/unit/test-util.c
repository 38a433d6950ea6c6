/* SPDX-License-Identifier: MIT */
/* Numbers, times, descriptors: the edges. */
#include "util.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define KEPT 0x5afe5afeu /* what a failing parser must leave alone */

static void
test_parse_size(void)
{
    static const struct {
        const char *text;
        int result;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"1", 0, 1},
        {"4096", 0, 4096},
        {"0064", 0, 64},
        {"0E", 0, 0},
        {"1k", 0, 1024},
        {"1K", 0, 1024},
        {"3m", 0, 3u << 20},
        {"3M", 0, 3u << 20},
        {"5G", 0, (uint64_t)5 << 30},
        {"5g", 0, (uint64_t)5 << 30},
        {"7T", 0, (uint64_t)7 << 40},
        {"7t", 0, (uint64_t)7 << 40},
        {"2P", 0, (uint64_t)2 << 50},
        {"7e", 0, (uint64_t)7 << 60},
        {"7E", 0, (uint64_t)7 << 60},
        {"9223372036854775807", 0, INT64_MAX},
        {"9007199254740991K", 0, (uint64_t)9007199254740991 << 10},
        {"8191P", 0, (uint64_t)8191 << 50},
        {"9223372036854775808", -ERANGE, 0},
        {"18446744073709551615", -ERANGE, 0},
        {"18446744073709551616", -ERANGE, 0},
        {"9007199254740992K", -ERANGE, 0},
        {"8192P", -ERANGE, 0},
        {"8E", -ERANGE, 0},
        {"9223372036854775807E", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"k", -EINVAL, 0},
        {"kk", -EINVAL, 0},
        {"1kk", -EINVAL, 0},
        {"1kb", -EINVAL, 0},
        {"1KiB", -EINVAL, 0},
        {"1b", -EINVAL, 0},
        {"1 k", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"1\n", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"-0", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"1,5", -EINVAL, 0},
        {"0x10", -EINVAL, 0},
        {"1e3", -EINVAL, 0},
        {"50%", -EINVAL, 0},
        {"\xc2\xb9", -EINVAL, 0},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t bytes = KEPT;

        g_test_message("size \"%s\"", cases[i].text);
        g_assert_cmpint(sfs_parse_size(cases[i].text, &bytes), ==, cases[i].result);
        g_assert_cmpuint(bytes, ==, cases[i].result == 0 ? cases[i].bytes : KEPT);
    }
}

static void
test_parse_number(void)
{
    static const struct {
        const char *text;
        int base;
        uint64_t max;
        int result;
        uint64_t value;
    } cases[] = {
        {"0", 10, 0, 0, 0},
        {"7", 10, 7, 0, 7},
        {"007", 10, 7, 0, 7},
        {"8", 10, 7, -ERANGE, 0},
        {"08", 10, 8, 0, 8},
        {"18446744073709551615", 10, UINT64_MAX, 0, UINT64_MAX},
        {"18446744073709551616", 10, UINT64_MAX, -ERANGE, 0},
        {"184467440737095516150", 10, UINT64_MAX, -ERANGE, 0},
        {"7777", 8, 07777, 0, 07777},
        {"01777", 8, 07777, 0, 01777},
        {"10000", 8, 07777, -ERANGE, 0},
        {"8", 8, 07777, -EINVAL, 0},
        {"08", 8, 07777, -EINVAL, 0},
        {"0o7", 8, 07777, -EINVAL, 0},
        {"0x7", 8, 07777, -EINVAL, 0},
        {"0x7", 10, 100, -EINVAL, 0},
        {"", 10, 100, -EINVAL, 0},
        {"", 8, 100, -EINVAL, 0},
        {"-1", 10, UINT64_MAX, -EINVAL, 0},
        {"+1", 10, 100, -EINVAL, 0},
        {" 1", 10, 100, -EINVAL, 0},
        {"1 ", 10, 100, -EINVAL, 0},
        {"1k", 10, 10000, -EINVAL, 0},
        {"u=rw", 8, 07777, -EINVAL, 0},
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t value = KEPT;

        g_test_message("number \"%s\", base %d, at most %" PRIu64, cases[i].text, cases[i].base,
                       cases[i].max);
        g_assert_cmpint(sfs_parse_number(cases[i].text, cases[i].base, cases[i].max, &value), ==,
                        cases[i].result);
        g_assert_cmpuint(value, ==, cases[i].result == 0 ? cases[i].value : KEPT);
    }
}

static void
test_page_round_up(void)
{
    const uint64_t last = UINT64_MAX - (SFS_PAGE_SIZE - 1); /* the last page's beginning */

    g_assert_cmpuint(sfs_page_round_up(0), ==, 0);
    g_assert_cmpuint(sfs_page_round_up(1), ==, 4096);
    g_assert_cmpuint(sfs_page_round_up(4095), ==, 4096);
    g_assert_cmpuint(sfs_page_round_up(4096), ==, 4096);
    g_assert_cmpuint(sfs_page_round_up(4097), ==, 8192);
    g_assert_cmpuint(sfs_page_round_up(INT64_MAX), ==, (uint64_t)1 << 63);
    g_assert_cmpuint(sfs_page_round_up(last - 1), ==, last);
    g_assert_cmpuint(sfs_page_round_up(last), ==, last);
    g_assert_cmpuint(sfs_page_round_up(last + 1), ==, last);
    g_assert_cmpuint(sfs_page_round_up(UINT64_MAX), ==, last);
}

static void
assert_max(struct timespec small, struct timespec large)
{
    struct timespec both[] = {sfs_time_max(small, large), sfs_time_max(large, small)};

    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(both[i].tv_sec, ==, large.tv_sec);
        g_assert_cmpint(both[i].tv_nsec, ==, large.tv_nsec);
    }
}

static void
test_time(void)
{
    struct timespec before = sfs_now(), after = sfs_now();

    assert_max((struct timespec){0, 0}, (struct timespec){0, 0});
    assert_max((struct timespec){5, 7}, (struct timespec){5, 7});
    assert_max((struct timespec){5, 7}, (struct timespec){5, 8});
    assert_max((struct timespec){5, 999999999}, (struct timespec){6, 0});
    assert_max((struct timespec){-1, 999999999}, (struct timespec){0, 0});
    assert_max((struct timespec){-2, 5}, (struct timespec){-2, 6});
    assert_max((struct timespec){0, 0}, (struct timespec){(time_t)INT64_MAX, 0});
    assert_max(before, after);
    g_assert_cmpint(before.tv_nsec, <, 1000000000);
}

static void
test_atime(void)
{
    const struct timespec now = {1000000, 0}, old = {999000, 0}, older = {998000, 0};
    const struct timespec day_ago = {1000000 - 86400, 5}, last_day = {1000000 - 86399, 0};
    const struct timespec least = {INT64_MIN, 0};

    g_assert_true(sfs_atime_is_due(older, old, older, now));
    g_assert_true(sfs_atime_is_due(older, older, old, now));
    g_assert_true(sfs_atime_is_due(old, old, older, now)); /* the same moment */
    g_assert_false(sfs_atime_is_due(old, older, older, now));
    g_assert_true(sfs_atime_is_due(day_ago, least, least, now));
    g_assert_false(sfs_atime_is_due(last_day, least, least, now));
    g_assert_false(sfs_atime_is_due((struct timespec){INT64_MAX, 0}, old, old, now));
    g_assert_true(sfs_atime_is_due((struct timespec){INT64_MIN, 1}, least, least, now));
}

static void
test_full_io(void)
{
    sfs_autofd fd = memfd_create("test", MFD_CLOEXEC);
    const size_t size = 3 * 1024 * 1024 + 17;
    g_autofree char *out = g_malloc(size);
    g_autofree char *in = g_malloc0(size + 100);

    g_assert_cmpint(fd, >=, 0);
    for (size_t i = 0; i < size; i++)
        out[i] = (char)(i * 7 + i / 4096);
    g_assert_cmpint(sfs_pwrite_full(fd, out, size, 5), ==, 0);
    g_assert_cmpint(sfs_pread_full(fd, in, size, 5), ==, (ssize_t)size);
    g_assert_cmpint(memcmp(in, out, size), ==, 0);
    /* Short at the end of the file, and nothing beyond it. */
    memset(in, 'x', size + 100);
    g_assert_cmpint(sfs_pread_full(fd, in, size + 100, 0), ==, (ssize_t)size + 5);
    g_assert_cmpint(memcmp(in, "\0\0\0\0\0", 5), ==, 0);
    g_assert_cmpint(memcmp(in + 5, out, size), ==, 0);
    g_assert_cmpint(in[size + 5], ==, 'x');
    g_assert_cmpint(sfs_pread_full(fd, in, 10, (off_t)size + 5), ==, 0);
    g_assert_cmpint(sfs_pread_full(fd, in, 10, (off_t)1 << 40), ==, 0);
    g_assert_cmpint(sfs_pread_full(fd, in, 0, 0), ==, 0);
    g_assert_cmpint(sfs_pwrite_full(fd, out, 0, 0), ==, 0);
    g_assert_cmpint(sfs_pread_full(fd, in, 10, -1), ==, -EINVAL);
    g_assert_cmpint(sfs_pwrite_full(fd, out, 10, -1), ==, -EINVAL);
    g_assert_cmpint(sfs_pread_full(-1, in, 10, 0), ==, -EBADF);
    g_assert_cmpint(sfs_pwrite_full(-1, out, 10, 0), ==, -EBADF);
}

/* A write that the kernel cuts short is gone on with, and the error that comes then reported. */
static void
test_full_write_cut(void)
{
    g_autofree char *path = NULL;
    sfs_autofd fd = g_file_open_tmp("test-util-XXXXXX", &path, NULL);
    struct rlimit old, limit;
    char buf[8192];

    g_assert_cmpint(fd, >=, 0);
    g_assert_no_errno(g_unlink(path));
    g_assert_no_errno(getrlimit(RLIMIT_FSIZE, &old));
    limit = (struct rlimit){5000, old.rlim_max};
    memset(buf, 'a', sizeof buf);
    signal(SIGXFSZ, SIG_IGN);
    g_assert_no_errno(setrlimit(RLIMIT_FSIZE, &limit));
    g_assert_cmpint(sfs_pwrite_full(fd, buf, sizeof buf, 0), ==, -EFBIG);
    g_assert_no_errno(setrlimit(RLIMIT_FSIZE, &old));
    signal(SIGXFSZ, SIG_DFL);
    memset(buf, 0, sizeof buf);
    g_assert_cmpint(sfs_pread_full(fd, buf, sizeof buf, 0), ==, 5000);
    g_assert_cmpint(buf[4999], ==, 'a');
}

static void
test_read_text(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("test-util-XXXXXX", &error);
    g_autofree char *path = NULL;
    sfs_autofd dirfd = -1;
    char buf[8];

    g_assert_no_error(error);
    path = g_build_filename(dir, "text", NULL);
    dirfd = open(dir, O_PATH | O_CLOEXEC);
    g_assert_cmpint(dirfd, >=, 0);
    g_assert_cmpint(sfs_read_text(dirfd, "text", buf, sizeof buf), ==, -ENOENT);
    g_file_set_contents(path, "abc\n", -1, &error);
    g_assert_no_error(error);
    g_assert_cmpint(sfs_read_text(dirfd, "text", buf, sizeof buf), ==, 4);
    g_assert_cmpstr(buf, ==, "abc\n");
    g_file_set_contents(path, "abcdefghijk", -1, &error);
    g_assert_no_error(error);
    g_assert_cmpint(sfs_read_text(dirfd, "text", buf, sizeof buf), ==, 7);
    g_assert_cmpstr(buf, ==, "abcdefg");
    g_assert_cmpint(sfs_read_text(dirfd, "text", buf, 1), ==, 0);
    g_assert_cmpstr(buf, ==, "");
    g_assert_cmpint(sfs_read_text(AT_FDCWD, path, buf, sizeof buf), ==, 7);
    g_assert_cmpint(sfs_read_text(AT_FDCWD, dir, buf, sizeof buf), ==, -EISDIR);
    g_assert_no_errno(g_unlink(path));
    g_assert_no_errno(g_rmdir(dir));
}

static void
close_with_error(int fd)
{
    sfs_autofd owned = fd;

    errno = ENOTTY;
    g_assert_cmpint(owned, >=, 0);
}

/* Closing at the end of a scope does not disturb errno, and stealing prevents it. */
static void
test_autofd(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    int kept;

    close_with_error(fd);
    g_assert_cmpint(errno, ==, ENOTTY);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    {
        sfs_autofd owned = memfd_create("test", MFD_CLOEXEC);

        kept = sfs_fd_steal(&owned);
        g_assert_cmpint(owned, ==, -1);
    }
    g_assert_cmpint(fcntl(kept, F_GETFD), !=, -1);
    close(kept);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/util/parse-size", test_parse_size);
    g_test_add_func("/util/parse-number", test_parse_number);
    g_test_add_func("/util/page-round-up", test_page_round_up);
    g_test_add_func("/util/time", test_time);
    g_test_add_func("/util/atime", test_atime);
    g_test_add_func("/util/full-io", test_full_io);
    g_test_add_func("/util/full-write-cut", test_full_write_cut);
    g_test_add_func("/util/read-text", test_read_text);
    g_test_add_func("/util/autofd", test_autofd);
    return g_test_run();
}
