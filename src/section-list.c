/* SPDX-License-Identifier: MIT */
/*
 * GLib's own parser does not say in which line a key is, merges groups of one name and lets the
 * last of two values win. So the lines are taken apart here, by its rules, in one pass; what can
 * only be told when all sections are known is checked in a second one.
 */
#include "section-list.h"

#include "util.h"

#include <string.h>

/* More than anybody writes; less than what a device without an end would give. */
#define FILE_MAX ((size_t)16 << 20)

static const char *const protects[] = {"readwrite", "readonly", "writecopy", NULL};
static const char *const cows[] = {"open", "section", NULL};
static const char *const lifetimes[] = {"permanent", "temporary", NULL};
static const char *const commits[] = {"reserve", "commit", NULL};
static const char *const resizes[] = {"free", "grow", "fixed", NULL};
static const char *const deletes[] = {"posix", "busy", NULL};

typedef enum {
    VALUE_TEXT,
    VALUE_WORD,   /* one of words */
    VALUE_SIZE,   /* with K, M, G after it */
    VALUE_NUMBER, /* decimal, up to max */
    VALUE_OCTAL,
} ValueType;

static const struct {
    const char *name;
    size_t member; /* of SfsSectionSpec: char *, const char * or uint64_t, by the type */
    ValueType type;
    const char *const *words;
    uint64_t max;
} keys[SFS_SPEC_N_KEYS] = {
#define MEMBER(name) G_STRUCT_OFFSET(SfsSectionSpec, name)
    [SFS_SPEC_FILE] = {"file", MEMBER(file), VALUE_TEXT, NULL, 0},
    [SFS_SPEC_BASE] = {"base", MEMBER(base), VALUE_TEXT, NULL, 0},
    [SFS_SPEC_OFFSET] = {"offset", MEMBER(offset), VALUE_SIZE, NULL, 0},
    [SFS_SPEC_LENGTH] = {"length", MEMBER(length), VALUE_SIZE, NULL, 0},
    [SFS_SPEC_SIZE] = {"size", MEMBER(size), VALUE_SIZE, NULL, 0},
    [SFS_SPEC_PROTECT] = {"protect", MEMBER(protect), VALUE_WORD, protects, 0},
    [SFS_SPEC_COW] = {"cow", MEMBER(cow), VALUE_WORD, cows, 0},
    [SFS_SPEC_LIFETIME] = {"lifetime", MEMBER(lifetime), VALUE_WORD, lifetimes, 0},
    [SFS_SPEC_COMMIT] = {"commit", MEMBER(commit), VALUE_WORD, commits, 0},
    [SFS_SPEC_RESIZE] = {"resize", MEMBER(resize), VALUE_WORD, resizes, 0},
    [SFS_SPEC_DELETE] = {"delete", MEMBER(delete), VALUE_WORD, deletes, 0},
    [SFS_SPEC_LIMIT] = {"limit", MEMBER(limit), VALUE_SIZE, NULL, 0},
    [SFS_SPEC_PERMISSIONS] = {"permissions", MEMBER(permissions), VALUE_OCTAL, NULL, 07777},
    [SFS_SPEC_UID] = {"uid", MEMBER(uid), VALUE_NUMBER, NULL, UINT32_MAX - 1},
    [SFS_SPEC_GID] = {"gid", MEMBER(gid), VALUE_NUMBER, NULL, UINT32_MAX - 1},
#undef MEMBER
};

static void
free_spec(void *data)
{
    SfsSectionSpec *spec = data;

    g_free(spec->path);
    g_free(spec->file);
    g_free(spec->base);
    g_free(spec);
}

void
sfs_section_list_free(SfsSectionList *list)
{
    g_free(list->filename);
    g_ptr_array_unref(list->specs);
    g_free(list);
}

const char *
sfs_spec_key_name(SfsSpecKey key)
{
    return keys[key].name;
}

/* --- errors ---------------------------------------------------------------------------------- */

static void G_GNUC_PRINTF(6, 0)
    set_error(const SfsSectionList *list, unsigned line, const SfsSectionSpec *spec,
              const char *key, GError **error, const char *format, va_list args)
{
    /* Names are any bytes; the sentence goes to a terminal or a log. */
    g_autofree char *path = spec != NULL ? g_strescape(spec->path, NULL) : NULL;
    g_autofree char *what = g_strdup_vprintf(format, args);
    g_autoptr(GString) text = g_string_new(list->filename);

    g_string_append_printf(text, ", line %u", line);
    if (path != NULL)
        g_string_append_printf(text, ", section [%s]", path);
    if (key != NULL)
        g_string_append_printf(text, ", key %s", key);
    g_string_append_printf(text, ": %s", what);
    g_set_error_literal(error, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_INVALID_VALUE, text->str);
}

void
sfs_section_spec_error(const SfsSectionList *list, const SfsSectionSpec *spec, SfsSpecKey key,
                       GError **error, const char *format, ...)
{
    bool about_key = key < SFS_SPEC_N_KEYS && spec->lines[key] != 0;
    va_list args;

    va_start(args, format);
    set_error(list, about_key ? spec->lines[key] : spec->line, spec,
              about_key ? keys[key].name : NULL, error, format, args);
    va_end(args);
}

/* --- line by line ---------------------------------------------------------------------------- */

typedef struct {
    SfsSectionList *list;
    GHashTable *by_path;  /* path → SfsSectionSpec, both the list's */
    SfsSectionSpec *spec; /* whose keys these are; NULL before the first group */
    unsigned line;
    GError **error;
} Parser;

static gboolean G_GNUC_PRINTF(3, 4)
    fail(const Parser *parser, const char *key, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_error(parser->list, parser->line, parser->spec, key, parser->error, format, args);
    va_end(args);
    return FALSE;
}

/* The name of a section in its one true form, or what is wrong with it. */
static char *
normal_path(const char *name, const char **wrong)
{
    g_autoptr(GString) path = g_string_new(NULL);
    g_auto(GStrv) parts = g_strsplit(name, "/", -1);

    *wrong = NULL;
    for (char **part = parts; *part != NULL && *wrong == NULL; part++) {
        if (**part == '\0')
            continue; /* slashes at the ends, or several */
        if (strcmp(*part, ".") == 0 || strcmp(*part, "..") == 0)
            *wrong = "a name must not have . or .. in it";
        else if (path->len == 0 && (strcmp(*part, ".cow") == 0 || strcmp(*part, ".info") == 0 ||
                                    strcmp(*part, ".stats") == 0))
            *wrong = "the names .cow, .info and .stats are taken";
        else if (strlen(*part) > SFS_NAME_MAX)
            *wrong = "a name is longer than 255 bytes";
        if (path->len > 0)
            g_string_append_c(path, '/');
        g_string_append(path, *part);
    }
    if (*wrong == NULL && path->len == 0)
        *wrong = "the name is empty";
    else if (*wrong == NULL && path->len >= SFS_PATH_MAX)
        *wrong = "the name is longer than 4095 bytes";
    return *wrong == NULL ? g_string_free(g_steal_pointer(&path), FALSE) : NULL;
}

/* "[name]", without blanks around it. */
static gboolean
begin_group(Parser *parser, char *line)
{
    size_t length = strlen(line);
    const SfsSectionSpec *former;
    SfsSectionSpec *spec;
    const char *wrong;
    char *path;

    parser->spec = NULL;
    if (line[length - 1] != ']')
        return fail(parser, NULL, "a group's name must end in ] and nothing must follow");
    line[length - 1] = '\0';
    line++;
    if (strpbrk(line, "[]") != NULL)
        return fail(parser, NULL, "the name of a section that is listed here cannot have [ or ]");
    for (const char *c = line; *c != '\0'; c++) {
        if (g_ascii_iscntrl(*c))
            return fail(parser, NULL,
                        "the name of a section that is listed here cannot have control characters");
    }
    path = normal_path(line, &wrong);
    if (path == NULL)
        return fail(parser, NULL, "%s", wrong);
    spec = g_new0(SfsSectionSpec, 1);
    spec->path = path;
    spec->line = parser->line;
    g_ptr_array_add(parser->list->specs, spec);
    parser->spec = spec;
    former = g_hash_table_lookup(parser->by_path, path);
    if (former != NULL)
        return fail(parser, NULL, "it is in line %u already", former->line);
    g_hash_table_insert(parser->by_path, path, spec);
    return TRUE;
}

/* Takes the backslashes out, in place. */
static bool
unescape(char *value)
{
    static const char codes[] = "sntr\\", meanings[] = " \n\t\r\\";
    char *end = value;

    for (; *value != '\0'; value++) {
        if (*value == '\\') {
            const char *code = *++value != '\0' ? strchr(codes, *value) : NULL;

            if (code == NULL)
                return false;
            *end++ = meanings[code - codes];
        } else {
            *end++ = *value;
        }
    }
    *end = '\0';
    return true;
}

static gboolean
take_word(Parser *parser, SfsSpecKey key, const char *value)
{
    g_autofree char *allowed = g_strjoinv(", ", (char **)keys[key].words);
    g_autofree char *shown = g_strescape(value, NULL);

    for (const char *const *word = keys[key].words; *word != NULL; word++) {
        if (strcmp(*word, value) == 0) {
            G_STRUCT_MEMBER(const char *, parser->spec, keys[key].member) = *word;
            return TRUE;
        }
    }
    return fail(parser, keys[key].name, "\"%s\" is not one of %s", shown, allowed);
}

static gboolean
take_number(Parser *parser, SfsSpecKey key, const char *value)
{
    g_autofree char *shown = g_strescape(value, NULL);
    uint64_t *number = &G_STRUCT_MEMBER(uint64_t, parser->spec, keys[key].member);
    const char *name = keys[key].name;

    switch (keys[key].type) {
    case VALUE_SIZE:
        if (sfs_parse_size(value, number) == 0)
            return TRUE;
        return fail(parser, name, "\"%s\" is not a size such as 1048576 or 64M", shown);
    case VALUE_OCTAL:
        if (sfs_parse_number(value, 8, keys[key].max, number) == 0)
            return TRUE;
        return fail(parser, name, "\"%s\" is not an octal number from 0 to %" PRIo64, shown,
                    keys[key].max);
    default:
        if (sfs_parse_number(value, 10, keys[key].max, number) == 0)
            return TRUE;
        return fail(parser, name, "\"%s\" is not a number from 0 to %" PRIu64, shown,
                    keys[key].max);
    }
}

static gboolean
take_text(Parser *parser, SfsSpecKey key, const char *value)
{
    char **text = &G_STRUCT_MEMBER(char *, parser->spec, keys[key].member);
    const char *wrong;

    if (key == SFS_SPEC_BASE) {
        *text = normal_path(value, &wrong);
        return *text != NULL || fail(parser, keys[key].name, "%s", wrong);
    }
    if (value[0] != '/')
        return fail(parser, keys[key].name, "the name of the file must begin with /");
    if (strlen(value) >= SFS_PATH_MAX)
        return fail(parser, keys[key].name, "the name of the file is longer than 4095 bytes");
    *text = g_strdup(value);
    return TRUE;
}

/* "name = value", without blanks around it. */
static gboolean
take_key(Parser *parser, char *line)
{
    char *equals = strchr(line, '='), *name = line, *value;
    g_autofree char *shown = NULL;
    SfsSpecKey key = 0;

    if (equals == NULL || equals == line)
        return fail(parser, NULL, "this is neither a [section], nor KEY=VALUE, nor a # comment");
    *equals = '\0';
    g_strchomp(name);
    value = g_strchug(equals + 1);
    shown = g_strescape(name, NULL);
    if (parser->spec == NULL)
        return fail(parser, shown, "it stands before the first [section]");
    while (key < SFS_SPEC_N_KEYS && strcmp(keys[key].name, name) != 0)
        key++;
    if (key == SFS_SPEC_N_KEYS)
        return fail(parser, shown, "there is no such key (see sectionfs(8))");
    if (parser->spec->lines[key] != 0)
        return fail(parser, shown, "it is in line %u already", parser->spec->lines[key]);
    parser->spec->lines[key] = parser->line;
    if (!unescape(value))
        return fail(parser, shown, "a backslash is followed by none of s, n, t, r and \\");
    if (keys[key].type == VALUE_TEXT)
        return take_text(parser, key, value);
    if (keys[key].type == VALUE_WORD)
        return take_word(parser, key, value);
    return take_number(parser, key, value);
}

static gboolean
take_line(Parser *parser, char *line)
{
    g_strstrip(line);
    if (*line == '\0' || *line == '#')
        return TRUE;
    return *line == '[' ? begin_group(parser, line) : take_key(parser, line);
}

/* --- what fits together ---------------------------------------------------------------------- */

#define HAS(spec, key) ((spec)->lines[SFS_SPEC_##key] != 0)
#define REFUSE(spec, key, ...)                                                                     \
    do {                                                                                           \
        sfs_section_spec_error(list, spec, SFS_SPEC_##key, error, __VA_ARGS__);                    \
        return FALSE;                                                                              \
    } while (0)

static gboolean
check_spec(const SfsSectionList *list, const SfsSectionSpec *spec, GError **error)
{
    if (HAS(spec, FILE) && HAS(spec, BASE))
        REFUSE(spec, BASE, "a section has a file or a base, not both");
    if (HAS(spec, OFFSET) && !HAS(spec, FILE))
        REFUSE(spec, OFFSET, "only a section with a file can begin within it");
    if (HAS(spec, LENGTH) && !HAS(spec, FILE))
        REFUSE(spec, LENGTH, "it is for a section with a file; without one the key is size");
    if (HAS(spec, SIZE) && HAS(spec, FILE))
        REFUSE(spec, SIZE, "it is for a section without a file; with one the key is length");
    if (HAS(spec, SIZE) && HAS(spec, BASE))
        REFUSE(spec, SIZE, "a section with a base is as large as that");
    if (spec->length > (uint64_t)INT64_MAX - spec->offset)
        REFUSE(spec, LENGTH, "offset and length together are more than any file can have");
    if (spec->limit != 0 && spec->size > spec->limit)
        REFUSE(spec, SIZE, "it is beyond the section's own limit");
    if (HAS(spec, BASE) && g_strcmp0(spec->protect, "readwrite") == 0)
        REFUSE(spec, PROTECT, "a section with a base cannot be readwrite");
    if (HAS(spec, COW) && !HAS(spec, BASE) && g_strcmp0(spec->protect, "writecopy") != 0)
        REFUSE(spec, COW, "it is for a section with protect=writecopy");
    return TRUE;
}

/* A section cannot be a directory. */
static gboolean
check_parents(const Parser *parser, const SfsSectionSpec *spec)
{
    const SfsSectionList *list = parser->list;
    GError **error = parser->error;
    g_autofree char *path = g_strdup(spec->path);
    char *slash;

    while ((slash = strrchr(path, '/')) != NULL) {
        const SfsSectionSpec *other;

        *slash = '\0';
        other = g_hash_table_lookup(parser->by_path, path);
        if (other != NULL)
            REFUSE(spec, N_KEYS, "line %u makes %s a section, so it cannot be a directory",
                   other->line, path);
    }
    return TRUE;
}

/* Appends @spec to the sorted ones, what it is based on before it. A chain of bases is followed by
 * hand and not by recursion: it is as long as the file likes. */
static gboolean
append_with_bases(const Parser *parser, SfsSectionSpec *spec, GHashTable *done, GPtrArray *sorted)
{
    const SfsSectionList *list = parser->list;
    GError **error = parser->error;
    g_autoptr(GPtrArray) chain = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    while (spec != NULL && !g_hash_table_contains(done, spec)) {
        SfsSectionSpec *base = NULL;

        g_hash_table_add(seen, spec);
        g_ptr_array_add(chain, spec);
        if (spec->base != NULL) {
            base = g_hash_table_lookup(parser->by_path, spec->base);
            if (base == NULL)
                REFUSE(spec, BASE, "this file lists no section of that name");
            if (g_hash_table_contains(seen, base))
                REFUSE(spec, BASE, "in the end the section would be based on itself");
        }
        spec = base;
    }
    for (guint i = chain->len; i > 0; i--) {
        g_hash_table_add(done, chain->pdata[i - 1]);
        g_ptr_array_add(sorted, chain->pdata[i - 1]);
    }
    return TRUE;
}

static gboolean
check_all(Parser *parser)
{
    SfsSectionList *list = parser->list;
    g_autoptr(GPtrArray) sorted = g_ptr_array_sized_new(list->specs->len);
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < list->specs->len; i++) {
        SfsSectionSpec *spec = list->specs->pdata[i];

        if (!check_spec(list, spec, parser->error) || !check_parents(parser, spec) ||
            !append_with_bases(parser, spec, done, sorted))
            return FALSE;
    }
    /* The same ones, so their owner stays the same. */
    for (guint i = 0; i < sorted->len; i++)
        list->specs->pdata[i] = sorted->pdata[i];
    return TRUE;
}

/* --- all of it ------------------------------------------------------------------------------- */

SfsSectionList *
sfs_section_list_parse(const char *filename, const char *text, size_t size, GError **error)
{
    g_autoptr(SfsSectionList) list = g_new0(SfsSectionList, 1);
    g_autoptr(GHashTable) by_path = g_hash_table_new(g_str_hash, g_str_equal);
    Parser parser = {.list = list, .by_path = by_path, .error = error};
    const char *end = text + size;

    list->filename = g_strescape(filename, NULL);
    list->specs = g_ptr_array_new_with_free_func(free_spec);
    while (text < end) {
        const char *feed = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((feed != NULL ? feed : end) - text);
        g_autofree char *line = g_strndup(text, length);

        parser.line++;
        if (strlen(line) != length) {
            fail(&parser, NULL, "there is a zero byte");
            return NULL;
        }
        if (!take_line(&parser, line))
            return NULL;
        text = feed != NULL ? feed + 1 : end;
    }
    return check_all(&parser) ? g_steal_pointer(&list) : NULL;
}

SfsSectionList *
sfs_section_list_load(const char *filename, GError **error)
{
    sfs_autofd fd = open(filename, O_RDONLY | O_CLOEXEC);
    g_autoptr(GByteArray) text = g_byte_array_new();
    uint8_t part[16384];
    ssize_t n = -1;

    /* It may well be a pipe. */
    while (fd >= 0 && text->len <= FILE_MAX) {
        n = read(fd, part, sizeof part);
        if (n > 0)
            g_byte_array_append(text, part, (guint)n);
        else if (n == 0 || errno != EINTR)
            break;
    }
    if (fd < 0 || n < 0) {
        int code = errno;

        g_set_error(error, G_FILE_ERROR, (gint)g_file_error_from_errno(code),
                    "%s: the list of sections cannot be read: %s", filename, g_strerror(code));
        return NULL;
    }
    if (text->len > FILE_MAX) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED,
                    "%s: a list of sections cannot be larger than %zu MiB", filename,
                    FILE_MAX >> 20);
        return NULL;
    }
    return sfs_section_list_parse(filename, (const char *)text->data, text->len, error);
}
