/* SPDX-License-Identifier: MIT */
/* Lists of sections, good and bad, and what no text at all may do. */
#include "section-list.h"

#include "util.h"

#include <glib/gstdio.h>
#include <string.h>

static SfsSectionList *
parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    SfsSectionList *list = sfs_section_list_parse("F", text, strlen(text), &error);

    g_assert_no_error(error);
    g_assert_nonnull(list);
    return list;
}

static const SfsSectionSpec *
at(const SfsSectionList *list, guint i)
{
    g_assert_cmpuint(i, <, list->specs->len);
    return list->specs->pdata[i];
}

static void
test_every_key(void)
{
    g_autoptr(SfsSectionList) list = parse("# three of them\n"
                                           "[images/golden]\n"
                                           "file=/srv/golden.img\n"
                                           "offset=1M\n"
                                           "length=4096\n"
                                           "protect=writecopy\n"
                                           "cow=section\n"
                                           "lifetime=temporary\n"
                                           "commit=commit\n"
                                           "resize=fixed\n"
                                           "delete=busy\n"
                                           "limit=2G\n"
                                           "permissions=0640\n"
                                           "uid=1000\n"
                                           "gid=4294967294\n"
                                           "\n"
                                           "[memory]\n"
                                           "size=64M\n"
                                           "[copy]\n"
                                           "base=/memory\n");
    const SfsSectionSpec *spec = at(list, 0);

    g_assert_cmpuint(list->specs->len, ==, 3);
    g_assert_cmpstr(spec->path, ==, "images/golden");
    g_assert_cmpstr(spec->file, ==, "/srv/golden.img");
    g_assert_null(spec->base);
    g_assert_cmpuint(spec->offset, ==, 1 << 20);
    g_assert_cmpuint(spec->length, ==, 4096);
    g_assert_cmpstr(spec->protect, ==, "writecopy");
    g_assert_cmpstr(spec->cow, ==, "section");
    g_assert_cmpstr(spec->lifetime, ==, "temporary");
    g_assert_cmpstr(spec->commit, ==, "commit");
    g_assert_cmpstr(spec->resize, ==, "fixed");
    g_assert_cmpstr(spec->delete, ==, "busy");
    g_assert_cmpuint(spec->limit, ==, (uint64_t)2 << 30);
    g_assert_cmpuint(spec->permissions, ==, 0640);
    g_assert_cmpuint(spec->uid, ==, 1000);
    g_assert_cmpuint(spec->gid, ==, 4294967294);
    g_assert_cmpuint(spec->line, ==, 2);
    g_assert_cmpuint(spec->lines[SFS_SPEC_FILE], ==, 3);
    g_assert_cmpuint(spec->lines[SFS_SPEC_GID], ==, 15);
    g_assert_cmpuint(spec->lines[SFS_SPEC_SIZE], ==, 0);

    spec = at(list, 1);
    g_assert_cmpstr(spec->path, ==, "memory");
    g_assert_cmpuint(spec->size, ==, 64 << 20);
    g_assert_null(spec->protect);
    g_assert_cmpuint(spec->line, ==, 17);
    g_assert_cmpstr(at(list, 2)->base, ==, "memory");
}

static void
test_nothing(void)
{
    static const char *const texts[] = {"", "\n", "\n\n  \n", "# [a]\n#", "   # only this"};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(SfsSectionList) list = parse(texts[i]);

        g_assert_cmpuint(list->specs->len, ==, 0);
    }
}

static void
test_blanks(void)
{
    g_autoptr(SfsSectionList) list = parse("  [//a b//c/] \r\n\tsize  =\t 8K \r\nlimit=0\r\n[d]");

    g_assert_cmpstr(at(list, 0)->path, ==, "a b/c");
    g_assert_cmpuint(at(list, 0)->size, ==, 8192);
    g_assert_cmpuint(at(list, 0)->limit, ==, 0);
    g_assert_cmpuint(at(list, 0)->lines[SFS_SPEC_LIMIT], ==, 3);
    g_assert_cmpstr(at(list, 1)->path, ==, "d");
    g_assert_cmpuint(at(list, 1)->line, ==, 4);
}

static void
test_any_bytes(void)
{
    g_autoptr(SfsSectionList) list =
        parse("[\303\244\377]\nfile=/\\sa=b\\\\c\\n\\t\\r \377;#\\s\n");

    g_assert_cmpstr(at(list, 0)->path, ==, "\303\244\377");
    g_assert_cmpstr(at(list, 0)->file, ==, "/ a=b\\c\n\t\r \377;# ");
}

static void
test_bases_come_first(void)
{
    g_autoptr(SfsSectionList) list = parse("[a]\nbase=/b/\n[x]\n[b]\nbase=c\n[c]\n[y]\nbase=a");
    const char *expected[] = {"c", "b", "a", "x", "y"};

    g_assert_cmpuint(list->specs->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < G_N_ELEMENTS(expected); i++)
        g_assert_cmpstr(at(list, i)->path, ==, expected[i]);
    g_assert_cmpstr(at(list, 2)->base, ==, "b");
}

static void
test_long_chain_of_bases(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(SfsSectionList) list = NULL;

    for (int i = 0; i < 20000; i++)
        g_string_append_printf(text, "[%d]\nbase=%d\n", i, i + 1);
    g_string_append(text, "[20000]\n");
    list = parse(text->str);
    g_assert_cmpstr(at(list, 0)->path, ==, "20000");
    g_assert_cmpstr(at(list, 20000)->path, ==, "0");
}

#define LONG_NAME                                                                                  \
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567"     \
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567"     \
    "01234567890123456789012345678901234567890123456789012345678901234567890123456789"

static const struct {
    const char *text, *message;
} bad[] = {
    {"x", "F, line 1: this is neither a [section], nor KEY=VALUE, nor a # comment"},
    {"\n\n=1", "F, line 3: this is neither a [section], nor KEY=VALUE, nor a # comment"},
    {"size=1", "F, line 1, key size: it stands before the first [section]"},
    {"[a", "F, line 1: a group's name must end in ] and nothing must follow"},
    {"[", "F, line 1: a group's name must end in ] and nothing must follow"},
    {"[a]b", "F, line 1: a group's name must end in ] and nothing must follow"},
    {"[a] # no", "F, line 1: a group's name must end in ] and nothing must follow"},
    {"[a[]", "F, line 1: the name of a section that is listed here cannot have [ or ]"},
    {"[a]]", "F, line 1: the name of a section that is listed here cannot have [ or ]"},
    {"[a\033]", "F, line 1: the name of a section that is listed here cannot have control "
                "characters"},
    {"[]", "F, line 1: the name is empty"},
    {"[//]", "F, line 1: the name is empty"},
    {"[a/../b]", "F, line 1: a name must not have . or .. in it"},
    {"[./b]", "F, line 1: a name must not have . or .. in it"},
    {"[.cow]", "F, line 1: the names .cow, .info and .stats are taken"},
    {"[/.info/a]", "F, line 1: the names .cow, .info and .stats are taken"},
    {"[.stats]", "F, line 1: the names .cow, .info and .stats are taken"},
    {"[" LONG_NAME "0]", "F, line 1: a name is longer than 255 bytes"},
    {"[a]\n[b]\n[/a/]", "F, line 3, section [a]: it is in line 1 already"},
    {"[b]\n[a/b/c]\n[a]", "F, line 2, section [a/b/c]: line 3 makes a a section, so it cannot be a "
                          "directory"},
    {"[a/b]\n[a/b/c/d]", "F, line 2, section [a/b/c/d]: line 1 makes a/b a section, so it cannot "
                         "be a directory"},
    {"[a]\nsizes=1", "F, line 2, section [a], key sizes: there is no such key (see sectionfs(8))"},
    {"[a]\nSize=1", "F, line 2, section [a], key Size: there is no such key (see sectionfs(8))"},
    {"[a]\nsize[de]=1",
     "F, line 2, section [a], key size[de]: there is no such key (see sectionfs(8))"},
    {"[a]\n\033[31m=1",
     "F, line 2, section [a], key \\033[31m: there is no such key (see sectionfs(8))"},
    {"[a]\nkind=page", "F, line 2, section [a], key kind: there is no such key (see "
                       "sectionfs(8))"},
    {"[a]\nsize=1\n\nsize=1", "F, line 4, section [a], key size: it is in line 2 already"},
    {"[a\"\303\244]\nsize=", "F, line 2, section [a\\\"\\303\\244], key size: \"\" is not a size "
                             "such as 1048576 or 64M"},
    {"[a]\nsize=-1", "F, line 2, section [a], key size: \"-1\" is not a size such as 1048576 or "
                     "64M"},
    {"[a]\nsize=1 M", "F, line 2, section [a], key size: \"1 M\" is not a size such as 1048576 or "
                      "64M"},
    {"[a]\nsize=9E", "F, line 2, section [a], key size: \"9E\" is not a size such as 1048576 or "
                     "64M"},
    {"[a]\nprotect=Readonly", "F, line 2, section [a], key protect: \"Readonly\" is not one of "
                              "readwrite, readonly, writecopy"},
    {"[a]\ncow=\\n", "F, line 2, section [a], key cow: \"\\n\" is not one of open, section"},
    {"[a]\nlifetime=", "F, line 2, section [a], key lifetime: \"\" is not one of permanent, "
                       "temporary"},
    {"[a]\ncommit=yes", "F, line 2, section [a], key commit: \"yes\" is not one of reserve, "
                        "commit"},
    {"[a]\nresize=shrink", "F, line 2, section [a], key resize: \"shrink\" is not one of free, "
                           "grow, fixed"},
    {"[a]\ndelete=1", "F, line 2, section [a], key delete: \"1\" is not one of posix, busy"},
    {"[a]\npermissions=10000", "F, line 2, section [a], key permissions: \"10000\" is not an octal "
                               "number from 0 to 7777"},
    {"[a]\npermissions=rw", "F, line 2, section [a], key permissions: \"rw\" is not an octal "
                            "number from 0 to 7777"},
    {"[a]\nuid=root", "F, line 2, section [a], key uid: \"root\" is not a number from 0 to "
                      "4294967294"},
    {"[a]\ngid=4294967295", "F, line 2, section [a], key gid: \"4294967295\" is not a number from "
                            "0 to 4294967294"},
    {"[a]\nfile=srv/x", "F, line 2, section [a], key file: the name of the file must begin with /"},
    {"[a]\nfile=", "F, line 2, section [a], key file: the name of the file must begin with /"},
    {"[a]\nfile=/\\x", "F, line 2, section [a], key file: a backslash is followed by none of s, n, "
                       "t, r and \\"},
    {"[a]\nfile=/\\", "F, line 2, section [a], key file: a backslash is followed by none of s, n, "
                      "t, r and \\"},
    {"[a]\nbase=", "F, line 2, section [a], key base: the name is empty"},
    {"[a]\nbase=../a", "F, line 2, section [a], key base: a name must not have . or .. in it"},
    {"[a]\nbase=b", "F, line 2, section [a], key base: this file lists no section of that name"},
    {"[a]\nbase=a", "F, line 2, section [a], key base: in the end the section would be based on "
                    "itself"},
    {"[a]\nbase=b\n[b]\nbase=c\n[c]\nbase=b", "F, line 6, section [c], key base: in the end the "
                                              "section would be based on itself"},
    {"[b]\n[a]\nfile=/f\nbase=b", "F, line 4, section [a], key base: a section has a file or a "
                                  "base, not both"},
    {"[a]\noffset=0", "F, line 2, section [a], key offset: only a section with a file can begin "
                      "within it"},
    {"[a]\nlength=1", "F, line 2, section [a], key length: it is for a section with a file; "
                      "without one the key is size"},
    {"[a]\nsize=1\nfile=/f", "F, line 2, section [a], key size: it is for a section without a "
                             "file; with one the key is length"},
    {"[b]\n[a]\nsize=1\nbase=b", "F, line 3, section [a], key size: a section with a base is as "
                                 "large as that"},
    {"[a]\nfile=/f\noffset=7E\nlength=1E", "F, line 4, section [a], key length: offset and length "
                                           "together are more than any file can have"},
    {"[a]\nlimit=1K\nsize=1025", "F, line 3, section [a], key size: it is beyond the section's own "
                                 "limit"},
    {"[b]\n[a]\nbase=b\nprotect=readwrite", "F, line 4, section [a], key protect: a section with a "
                                            "base cannot be readwrite"},
    {"[a]\nsize=1\ncow=section", "F, line 3, section [a], key cow: it is for a section with "
                                 "protect=writecopy"},
};

static void
test_mistakes(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(sfs_section_list_parse("F", bad[i].text, strlen(bad[i].text), &error));
        g_assert_nonnull(error);
        g_assert_cmpstr(error->message, ==, bad[i].message);
    }
}

static void
test_zero_byte(void)
{
    static const char text[] = "[a]\nsize=1\0M\n";
    g_autoptr(GError) error = NULL;

    g_assert_null(sfs_section_list_parse("F\033", text, sizeof text - 1, &error));
    g_assert_cmpstr(error->message, ==, "F\\033, line 2, section [a]: there is a zero byte");
}

static void
test_caller_errors(void)
{
    g_autoptr(SfsSectionList) list = parse("[a]\nsize=1\n");
    g_autoptr(GError) about_key = NULL, about_all = NULL, about_absent = NULL;

    sfs_section_spec_error(list, at(list, 0), SFS_SPEC_SIZE, &about_key, "no room for %d", 1);
    g_assert_cmpstr(about_key->message, ==, "F, line 2, section [a], key size: no room for 1");
    sfs_section_spec_error(list, at(list, 0), SFS_SPEC_N_KEYS, &about_all, "no");
    g_assert_cmpstr(about_all->message, ==, "F, line 1, section [a]: no");
    sfs_section_spec_error(list, at(list, 0), SFS_SPEC_UID, &about_absent, "no");
    g_assert_cmpstr(about_absent->message, ==, "F, line 1, section [a]: no");
    g_assert_cmpstr(sfs_spec_key_name(SFS_SPEC_PERMISSIONS), ==, "permissions");
}

static void
test_load(void)
{
    g_autofree char *name = g_strdup("/tmp/test-section-list-XXXXXX");
    g_autoptr(GError) error = NULL;
    g_autoptr(SfsSectionList) list = NULL;
    int fd = g_mkstemp(name);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(sfs_pwrite_full(fd, "[a]\n[b]\n", 8, 0), ==, 0);
    close(fd);
    list = sfs_section_list_load(name, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->specs->len, ==, 2);
    g_unlink(name);
    g_assert_null(sfs_section_list_load(name, &error));
    g_assert_true(g_str_has_prefix(error->message, name));
    g_clear_error(&error);
    g_assert_null(sfs_section_list_load("/tmp", &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    /* It has no end. */
    g_assert_null(sfs_section_list_load("/dev/zero", &error));
    g_assert_nonnull(strstr(error->message, "larger than 16 MiB"));
}

/* --- any text at all ------------------------------------------------------------------------- */

/* GLib's parser finds the same in what ours accepts, as far as it accepts it. */
static void
compare_with_glib(const SfsSectionList *list, const char *text, size_t size)
{
    g_autoptr(GKeyFile) key_file = g_key_file_new();

    if (!g_key_file_load_from_data(key_file, text, size, G_KEY_FILE_NONE, NULL))
        return;
    for (guint i = 0; i < list->specs->len; i++) {
        const SfsSectionSpec *spec = list->specs->pdata[i];
        g_autofree char *file = NULL;

        if (spec->file == NULL || !g_key_file_has_group(key_file, spec->path))
            continue; /* we take away slashes, GLib does not */
        file = g_key_file_get_string(key_file, spec->path, "file", NULL);
        if (file != NULL)
            g_assert_cmpstr(g_strchomp(file), ==, g_strchomp(spec->file));
    }
}

static void
test_random(void)
{
    static const char *const words[] = {
        "[",
        "]",
        "\n",
        "\n",
        "=",
        "/",
        "a",
        "b",
        "..",
        " ",
        "\t",
        "\r",
        "#",
        "\\",
        "\\s",
        "[a]\n",
        "[b]\n",
        "[a/b]\n",
        "size=",
        "file=",
        "base=",
        "limit=",
        "protect=",
        "cow=",
        "offset",
        "length",
        "commit",
        "resize",
        "uid=",
        "1",
        "4096",
        "64M",
        "8E",
        "/f",
        "\\n",
        "readonly",
        "grow",
        "open",
        "section",
        "\377",
        "\303\244",
        ".cow",
        ".",
        "-1",
        "\033",
        "[c]\nfile=/f\n",
        "[d]\nbase=a\n",
        "[e]\nsize=1\n",
        "writecopy\n",
    };
    unsigned accepted = 0, with_sections = 0;

    for (int round = 0; round < 200000; round++) {
        g_autoptr(GString) text = g_string_new(NULL);
        g_autoptr(GError) error = NULL;
        g_autoptr(SfsSectionList) list = NULL;
        int n = g_test_rand_int_range(0, 14);

        /* Or few would get beyond their first line. */
        if (round % 2 == 0)
            g_string_append(text, "[g]\nfile=/");
        for (int i = 0; i < n; i++) {
            if (g_test_rand_int_range(0, 40) == 0)
                g_string_append_c(text, (char)g_test_rand_int_range(0, 256));
            else
                g_string_append(text, words[g_test_rand_int_range(0, (gint32)G_N_ELEMENTS(words))]);
        }
        list = sfs_section_list_parse("F", text->str, text->len, &error);
        g_assert_true((list == NULL) == (error != NULL));
        if (error != NULL) {
            g_assert_true(g_str_has_prefix(error->message, "F, line "));
            g_assert_null(strpbrk(error->message, "\n\r\033"));
            continue;
        }
        accepted++;
        with_sections += list->specs->len > 0;
        compare_with_glib(list, text->str, text->len);
    }
    g_test_message("%u accepted, %u with sections", accepted, with_sections);
    g_assert_cmpuint(with_sections, >, 1000);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/section-list/every-key", test_every_key);
    g_test_add_func("/section-list/nothing", test_nothing);
    g_test_add_func("/section-list/blanks", test_blanks);
    g_test_add_func("/section-list/any-bytes", test_any_bytes);
    g_test_add_func("/section-list/bases-come-first", test_bases_come_first);
    g_test_add_func("/section-list/long-chain-of-bases", test_long_chain_of_bases);
    g_test_add_func("/section-list/mistakes", test_mistakes);
    g_test_add_func("/section-list/zero-byte", test_zero_byte);
    g_test_add_func("/section-list/caller-errors", test_caller_errors);
    g_test_add_func("/section-list/load", test_load);
    g_test_add_func("/section-list/random", test_random);
    return g_test_run();
}
