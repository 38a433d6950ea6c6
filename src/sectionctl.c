/* SPDX-License-Identifier: MIT */

/*
 * sectionctl: creates, shows and changes sections from the command line. A shell over the client
 * library: here are only the commands, their options and what is printed.
 *
 * Exit status: 0 done, 1 it could not be done, 2 the command line makes no sense.
 */

#include "config.h"

#include "section-client.h"
#include "sectionctl-cow.h"

#include <signal.h>
#include <errno.h>
#include <glib.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2,
};

typedef struct {
    const char *name;
    const char *arguments; /* as the help shows them */
    const char *summary;   /* one line, for the list of commands */
    const char *details;   /* more lines, for the command's own help, or NULL */
    int (*run)(GOptionContext *context, char **argv);
} Command;

static void
report(const char *message)
{
    fprintf(stderr, "sectionctl: %s\n", message);
}

static int
failed(const GError *error)
{
    fflush(stdout); /* What was printed before it is to be seen before it. */
    report(error->message);
    return EXIT_FAILURE;
}

/* COMMAND may be NULL: the mistake is before any command. */
G_GNUC_PRINTF(2, 3)
static int
usage_error(const char *command, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    if (command == NULL)
        fprintf(stderr, "sectionctl: %s (see sectionctl --help)\n", what);
    else
        fprintf(stderr, "sectionctl: %s: %s (see sectionctl %s --help)\n", command, what, command);
    return EXIT_USAGE;
}

/* Parse the options of a command and take its arguments, at least MIN and at most MAX of
 * them. *OPERANDS is the caller's. Options are taken as raw bytes throughout: a name of a file need
 * not be text of the locale. */
static gboolean
parse(GOptionContext *context, const char *command, const GOptionEntry *entries, char **argv,
      guint min, guint max, const char *wanted, char ***operands)
{
    g_auto(GStrv) rest = NULL;
    const GOptionEntry remaining[] = {
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &rest, NULL, NULL},
        {0},
    };
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) arguments = g_strdupv(argv);
    guint n;

    if (entries != NULL)
        g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_add_main_entries(context, remaining, NULL);
    if (!g_option_context_parse_strv(context, &arguments, &error)) {
        usage_error(command, "%s", error->message);
        return FALSE;
    }
    n = rest == NULL ? 0 : g_strv_length(rest);
    if (n < min) {
        usage_error(command, "%s is missing", wanted);
        return FALSE;
    }
    if (n > max) {
        usage_error(command, "there is one argument too many, \"%s\"", rest[max]);
        return FALSE;
    }
    for (guint i = 0; i < n; i++) {
        if (*rest[i] == '\0') {
            usage_error(command, "an argument is empty");
            return FALSE;
        }
    }
    *operands = g_steal_pointer(&rest);
    return TRUE;
}

/* Let sizes be written as people do. The daemon takes plain numbers, and refuses the rest. */
static void
take_suffix(ScAttribute *attribute)
{
    static const char *const sizes[] = {"offset", "length", "limit", NULL};
    gint64 bytes;

    if (g_strv_contains(sizes, attribute->key) && sc_parse_size(attribute->value, &bytes, NULL)) {
        g_free(attribute->value);
        attribute->value = g_strdup_printf("%" G_GINT64_FORMAT, bytes);
    }
}

/* Turn the KEY=VALUE words into ScAttributes, or report the first that is not one. */
static GPtrArray *
parse_attributes(const char *command, char **words)
{
    g_autoptr(GPtrArray) attributes =
        g_ptr_array_new_with_free_func((GDestroyNotify)sc_attribute_free);

    for (; words != NULL && *words != NULL; words++) {
        g_autoptr(GError) error = NULL;
        ScAttribute *attribute;

        if (!sc_parse_attribute(*words, &attribute, &error)) {
            usage_error(command, "%s", error->message);
            return NULL;
        }
        take_suffix(attribute);
        g_ptr_array_add(attributes, attribute);
    }
    return g_steal_pointer(&attributes);
}

/* "-o file=X" is --file X: some keys have a place of their own in the library. The last one counts.
 */
static void
take_key(GPtrArray *attributes, const char *key, char **value)
{
    for (guint i = 0; i < attributes->len;) {
        ScAttribute *attribute = g_ptr_array_index(attributes, i);

        if (strcmp(attribute->key, key) != 0) {
            i++;
            continue;
        }
        g_free(*value);
        *value = g_steal_pointer(&attribute->value);
        g_ptr_array_remove_index(attributes, i);
    }
}

/* --KEY VALUE is -o KEY=VALUE. */
static void
add_key(GPtrArray *attributes, const char *key, const char *value)
{
    if (value != NULL)
        g_ptr_array_add(attributes, sc_attribute_new(key, value));
}

/* The options of create that stand for an attribute each, whose values the daemon knows. */
typedef struct {
    char *protect, *cow, *lifetime, *resize, *delete;
    gboolean commit, reserve;
} Policies;

static void
clear_policies(Policies *policies)
{
    g_free(policies->protect);
    g_free(policies->cow);
    g_free(policies->lifetime);
    g_free(policies->resize);
    g_free(policies->delete);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Policies, clear_policies)

static void
add_policies(GPtrArray *attributes, const Policies *policies)
{
    add_key(attributes, "protect", policies->protect);
    add_key(attributes, "cow", policies->cow);
    add_key(attributes, "lifetime", policies->lifetime);
    add_key(attributes, "commit",
            policies->commit ? "commit" : (policies->reserve ? "reserve" : NULL));
    add_key(attributes, "resize", policies->resize);
    add_key(attributes, "delete", policies->delete);
}

static int
run_create(GOptionContext *context, char **argv)
{
    g_autofree char *file = NULL;
    g_autofree char *base = NULL;
    g_autofree char *offset = NULL;
    g_autofree char *size = NULL;
    g_autofree char *limit = NULL;
    g_autofree char *mode = NULL;
    g_auto(GStrv) set = NULL;
    g_auto(Policies) policies = {0};
    const GOptionEntry entries[] = {
        {"file", 'f', 0, G_OPTION_ARG_FILENAME, &file, "Back the section by this file", "FILE"},
        {"base", 'b', 0, G_OPTION_ARG_FILENAME, &base,
         "Make it a copy-on-write copy of this section of the mount", "NAME"},
        {"offset", 0, 0, G_OPTION_ARG_FILENAME, &offset, "Where in FILE it begins", "SIZE"},
        {"size", 's', 0, G_OPTION_ARG_FILENAME, &size, "Size in bytes, or with K, M, G, T after it",
         "SIZE"},
        {"protect", 'p', 0, G_OPTION_ARG_FILENAME, &policies.protect,
         "readwrite, readonly or writecopy", "WORD"},
        {"cow", 0, 0, G_OPTION_ARG_FILENAME, &policies.cow,
         "With writecopy, who shares a copy: open or section", "WORD"},
        {"lifetime", 'l', 0, G_OPTION_ARG_FILENAME, &policies.lifetime, "permanent or temporary",
         "WORD"},
        {"commit", 0, 0, G_OPTION_ARG_NONE, &policies.commit, "Allocate its memory at once", NULL},
        {"reserve", 0, 0, G_OPTION_ARG_NONE, &policies.reserve,
         "Allocate its memory when it is used", NULL},
        {"resize", 0, 0, G_OPTION_ARG_FILENAME, &policies.resize, "free, grow or fixed", "WORD"},
        {"delete", 0, 0, G_OPTION_ARG_FILENAME, &policies.delete, "posix or busy", "WORD"},
        {"limit", 0, 0, G_OPTION_ARG_FILENAME, &limit, "The most it may grow to (0: no limit)",
         "SIZE"},
        {"mode", 'm', 0, G_OPTION_ARG_FILENAME, &mode,
         "Permission bits (default: 666 less the umask)", "OCTAL"},
        {"option", 'o', 0, G_OPTION_ARG_FILENAME_ARRAY, &set, "Set an attribute; may be repeated",
         "KEY=VALUE"},
        {0},
    };
    g_auto(GStrv) operands = NULL;
    g_autoptr(GPtrArray) attributes = NULL;
    g_autoptr(GError) error = NULL;
    ScCreateOptions options = SC_CREATE_OPTIONS_INIT;
    gint64 limit_bytes;

    if (!parse(context, "create", entries, argv, 1, 1, "PATH", &operands))
        return EXIT_USAGE;
    attributes = parse_attributes("create", set);
    if (attributes == NULL)
        return EXIT_USAGE;
    take_key(attributes, "file", &file);
    take_key(attributes, "base", &base);

    if ((offset != NULL && !sc_parse_size(offset, &options.offset, &error)) ||
        (size != NULL && !sc_parse_size(size, &options.size, &error)) ||
        (limit != NULL && !sc_parse_size(limit, &limit_bytes, &error)) ||
        (mode != NULL && !sc_parse_mode(mode, &options.mode, &error)))
        return usage_error("create", "%s", error->message);
    if (file != NULL && base != NULL)
        return usage_error("create", "--file and --base exclude each other");
    if (base != NULL && size != NULL)
        return usage_error("create", "--base and --size exclude each other; "
                                     "the section is as large as its base");
    if (file == NULL && offset != NULL)
        return usage_error("create", "--offset goes with --file");
    if (policies.commit && policies.reserve)
        return usage_error("create", "--commit and --reserve exclude each other");

    if (limit != NULL) {
        g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT, limit_bytes);

        add_key(attributes, "limit", number);
    }
    add_policies(attributes, &policies);
    options.file = file;
    options.base = base;
    options.attributes = attributes;
    return sc_create(operands[0], &options, &error) ? EXIT_SUCCESS : failed(error);
}

/* One line of info. Whatever a value holds, a line feed or an escape sequence in the name of a
 * file, the line must stay one line, begin with its key and do nothing to a terminal. */
static void
print_line(const char *key, const char *value, size_t length)
{
    printf("%s: ", key);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];

        if (c < 0x20 || c == 0x7f)
            printf("\\%03o", c);
        else
            putchar(c);
    }
    putchar('\n');
}

/* A value of several lines (the holders of a section) gives as many lines, each under the key. */
static void
print_attribute(const ScAttribute *attribute)
{
    const char *value = attribute->value;

    do {
        size_t length = strcspn(value, "\n");

        print_line(attribute->key, value, length);
        value += length;
        if (*value == '\n')
            value++;
    } while (*value != '\0');
}

static int
run_info(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    gboolean first = TRUE;
    int status = EXIT_SUCCESS;

    if (!parse(context, "info", NULL, argv, 1, G_MAXUINT, "PATH", &operands))
        return EXIT_USAGE;
    for (char **path = operands; *path != NULL; path++) {
        g_autoptr(GPtrArray) attributes = NULL;
        g_autoptr(GError) error = NULL;

        if (!sc_list(*path, &attributes, &error)) {
            status = failed(error);
            continue;
        }
        if (operands[1] != NULL)
            printf("%s%s:\n", first ? "" : "\n", *path);
        first = FALSE;
        for (guint i = 0; i < attributes->len; i++)
            print_attribute(g_ptr_array_index(attributes, i));
    }
    return status;
}

static int
run_get(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    g_autoptr(GPtrArray) values = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;

    if (!parse(context, "get", NULL, argv, 2, G_MAXUINT, "PATH or KEY", &operands))
        return EXIT_USAGE;
    /* All before any is printed: a script shall not take half of an answer for the whole. */
    for (char **key = operands + 1; *key != NULL; key++) {
        char *value;

        if (!sc_get(operands[0], *key, &value, &error))
            return failed(error);
        g_ptr_array_add(values, value);
    }
    for (guint i = 0; i < values->len; i++)
        puts(g_ptr_array_index(values, i));
    return EXIT_SUCCESS;
}

static int
run_set(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    g_autoptr(GPtrArray) attributes = NULL;
    g_autoptr(GError) error = NULL;

    if (!parse(context, "set", NULL, argv, 2, G_MAXUINT, "PATH or KEY=VALUE", &operands))
        return EXIT_USAGE;
    attributes = parse_attributes("set", operands + 1);
    if (attributes == NULL)
        return EXIT_USAGE;
    for (guint i = 0; i < attributes->len; i++) {
        const ScAttribute *attribute = g_ptr_array_index(attributes, i);

        if (!sc_set(operands[0], attribute->key, attribute->value, &error))
            return failed(error);
    }
    return EXIT_SUCCESS;
}

static int
run_cow(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    if (!parse(context, "cow", NULL, argv, 2, 3, "VERB or VIEW", &operands))
        return EXIT_USAGE;
    status = sectionctl_cow(operands, &error);
    if (status == EXIT_USAGE)
        usage_error("cow", "%s", error->message);
    else if (status != EXIT_SUCCESS)
        failed(error);
    return status;
}

/* A whole number among the statistics; 0: it is not there. */
static guint64
figure(const char *text, const char *key)
{
    g_autofree char *wanted = g_strdup_printf("\n%s: ", key);
    const char *at = strstr(text, wanted);

    return at != NULL ? g_ascii_strtoull(at + strlen(wanted), NULL, 10) : 0;
}

#define RELOAD_LOOKS 500
#define RELOAD_PAUSE_US 10000

/* The statistics of the mount that a command is given; a status for the shell. */
static int
stats_of_operand(GOptionContext *context, const char *command, char **argv, char ***operands,
                 char **text)
{
    g_autoptr(GError) error = NULL;

    if (!parse(context, command, NULL, argv, 1, 1, "MOUNTPOINT", operands))
        return EXIT_USAGE;
    return sc_stats((*operands)[0], text, &error) ? EXIT_SUCCESS : failed(error);
}

/* The process that figures name as the keeper, -1 if it is not one that can be told so: any mount
 * can claim to be a sectionfs, and what the numbers mean in another PID namespace is anybody. */
static pid_t
keeper_of(const char *stats)
{
    guint64 keeper = figure(stats, "keeper_pid");
    g_autofree char *name =
        g_strdup_printf("/proc/%" G_GUINT64_FORMAT "/status", figure(stats, "worker_pid"));
    g_autofree char *status = NULL;
    const char *parent;

    if (keeper == 0 || keeper > G_MAXINT32 || !g_file_get_contents(name, &status, NULL, NULL))
        return -1;
    parent = strstr(status, "\nPPid:");
    return parent != NULL && g_ascii_strtoull(parent + strlen("\nPPid:"), NULL, 10) == keeper
               ? (pid_t)keeper
               : -1;
}

static int
run_reload(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    g_autofree char *before = NULL;
    g_autoptr(GError) error = NULL;
    int status = stats_of_operand(context, "reload", argv, &operands, &before);
    pid_t keeper;

    if (status != EXIT_SUCCESS)
        return status;
    keeper = keeper_of(before);
    if (keeper < 0) {
        fprintf(stderr,
                "sectionctl: reload %s: its keeper is not to be found among the processes here\n",
                operands[0]);
        return EXIT_FAILURE;
    }
    if (kill(keeper, SIGHUP) != 0) {
        fprintf(stderr, "sectionctl: reload %s: cannot reach its keeper: %s\n", operands[0],
                g_strerror(errno));
        return EXIT_FAILURE;
    }
    for (int looks = 0; looks < RELOAD_LOOKS; looks++) {
        g_autofree char *now = NULL;

        g_usleep(RELOAD_PAUSE_US);
        if (!sc_stats(operands[0], &now, &error))
            return failed(error);
        if (figure(now, "reloads") != figure(before, "reloads"))
            return EXIT_SUCCESS;
        if (figure(now, "reloads_refused") != figure(before, "reloads_refused"))
            break;
    }
    fprintf(stderr,
            "sectionctl: reload %s: the worker stays, and no other can go on (see the log)\n",
            operands[0]);
    return EXIT_FAILURE;
}

static int
run_stats(GOptionContext *context, char **argv)
{
    g_auto(GStrv) operands = NULL;
    g_autofree char *text = NULL;
    int status = stats_of_operand(context, "stats", argv, &operands, &text);

    if (status == EXIT_SUCCESS)
        fputs(text, stdout);
    return status;
}

static const Command commands[] = {
    {
        "create",
        "PATH",
        "Create a section, complete or not at all",
        "PATH lies on a sectionfs mount and does not exist yet. Without --file and --base the\n"
        "section lives in memory and swap, and is empty unless --size says how large it is.\n"
        "With --file, --offset and --size choose a part of the file; else it is all of it.\n"
        "\n"
        "Examples:\n"
        "  sectionctl create /mnt/buffer --size 64M --commit --lifetime temporary\n"
        "  sectionctl create /mnt/db --file /srv/golden.db --protect readonly\n"
        "  sectionctl create /mnt/part1 --file /srv/disk.img --offset 1M --size 512M\n"
        "  sectionctl create /mnt/scratch --base db --cow section",
        run_create,
    },
    {
        "info",
        "PATH...",
        "Show all attributes of sections",
        "Prints one \"key: value\" a line.",
        run_info,
    },
    {
        "get",
        "PATH KEY...",
        "Print single attributes",
        "Prints the values alone, one a line, in the order of the keys. Keys are, among others:\n"
        "  kind      page or file\n"
        "  file      the file that backs the section\n"
        "  protect   readwrite, readonly or writecopy\n"
        "  lifetime  permanent or temporary\n"
        "  mode      how its data reaches programs\n"
        "  size      in bytes\n"
        "  opens     how often it is open\n"
        "  holders   who has it open or mapped: PID COMMAND UID ACCESS AGE, one a line\n"
        "  private   bytes in copy-on-write pages\n"
        "\"sectionctl info PATH\" shows which keys there are.",
        run_get,
    },
    {
        "set",
        "PATH KEY=VALUE...",
        "Set attributes",
        "Sets them in the order given and stops at the first that is refused. PATH may be a\n"
        "directory: lifetime, commit, resize, delete and limit are then what new sections and\n"
        "directories in it begin with. Sizes may have K, M, G or T after them.\n"
        "\n"
        "Examples:\n"
        "  sectionctl set /mnt/buffer lifetime=permanent limit=1G\n"
        "  sectionctl set /mnt/scratch.d lifetime=temporary delete=busy",
        run_set,
    },
    {
        "cow",
        "VERB VIEW [FILE]",
        "Look at an open copy-on-write view, drop or keep what it holds",
        "VIEW is a view that somebody has open, by a path such as /proc/PID/fd/N or /dev/fd/N, or\n"
        "the name of a section with cow=section that somebody has open. The verbs are\n"
        "  diff         print the ranges in which it differs: offset and length in bytes\n"
        "  reset        drop them: the view is as the section is now\n"
        "  commit       write them into the section, which you must be allowed to write\n"
        "  export FILE  write all of the view to a new file, with holes where it has them\n"
        "\n"
        "Example:\n"
        "  exec 3<>/mnt/.cow/db; ...; sectionctl cow diff /dev/fd/3",
        run_cow,
    },
    {
        "reload",
        "MOUNTPOINT",
        "Have a mount go on with the program that is installed now",
        "Whatever is open or locked stays so. Refused where the program that is installed keeps\n"
        "its records in another way than the one that is running.",
        run_reload,
    },
    {
        "stats",
        "MOUNTPOINT",
        "Show the statistics of a mount",
        NULL,
        run_stats,
    },
};

/* Run the command that argv[0] names. */
static int
run_command(char **argv)
{
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        const Command *command = &commands[i];
        g_autoptr(GOptionContext) context = NULL;
        g_autofree char *program = NULL;

        if (strcmp(argv[0], command->name) != 0)
            continue;
        /* The help's usage line puts the options between the program's name and the arguments. */
        program = g_strdup_printf("sectionctl %s", command->name);
        g_set_prgname(program);
        context = g_option_context_new(command->arguments);
        g_option_context_set_summary(context, command->summary);
        g_option_context_set_description(context, command->details);
        return command->run(context, argv);
    }
    return usage_error(NULL, "there is no command \"%s\"", argv[0]);
}

static char *
command_list(void)
{
    GString *list = g_string_new("Commands:\n");

    for (guint i = 0; i < G_N_ELEMENTS(commands); i++)
        g_string_append_printf(list, "  %-8s%s\n", commands[i].name, commands[i].summary);
    g_string_append(list, "\n\"sectionctl COMMAND --help\" tells more about one of them.");
    return g_string_free(list, FALSE);
}

static int
run(char **argv)
{
    gboolean version = FALSE;
    g_auto(GStrv) rest = NULL;
    const GOptionEntry entries[] = {
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Show the version", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &rest, NULL, NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("COMMAND [ARGUMENT...]");
    g_autofree char *list = command_list();
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) arguments = g_strdupv(argv);

    /* Options after the command are the command's own. */
    g_option_context_set_strict_posix(context, TRUE);
    g_option_context_set_summary(context,
                                 "Create, show and change the sections of sectionfs mounts.");
    g_option_context_set_description(context, list);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse_strv(context, &arguments, &error))
        return usage_error(NULL, "%s", error->message);

    if (version) {
        printf("sectionctl %s\n", PACKAGE_VERSION);
        return EXIT_SUCCESS;
    }
    if (rest == NULL)
        return usage_error(NULL, "the command is missing");
    return run_command(rest);
}

/* A full disk must not look like success. At the exit, for GLib exits by itself after a help. */
static void
check_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return;
    report("cannot write the output");
    _exit(EXIT_FAILURE);
}

int
main(int argc, char **argv)
{
    (void)argc;
    setlocale(LC_ALL, "");
    g_set_prgname("sectionctl");
    atexit(check_output);
    return run(argv);
}
