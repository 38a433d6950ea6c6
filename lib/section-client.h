/* SPDX-License-Identifier: MIT */

/*
 * section-client: the C library behind sectionctl.
 *
 * A section is a file on a sectionfs mount, and everything beyond what a plain file offers is
 * reached through its extended attributes "user.section.KEY". This library is a thin layer over
 * those calls: it creates a section in one step that either happens or does not, reads and sets
 * attributes, and turns an errno into a sentence. It keeps no list of keys or of their values: the
 * daemon knows them.
 *
 * Errors. Every function that can fail returns FALSE and sets a GError of the domain SC_ERROR,
 * whose code is the errno of the step that failed and whose message is one sentence that starts
 * with what was tried and on what ("create /mnt/x: ..."). Codes that every function may give:
 * ENOENT, ENOTDIR, EACCES, ENAMETOOLONG as for open(2); ENOTSUP where the path does not lie on a
 * sectionfs mount; ENOTCONN where the mount's daemon is gone; ENOSYS where /proc, which the library
 * works through, is not mounted. On failure nothing is written to an out parameter.
 *
 * Ownership. The caller keeps what it passes in and owns what it gets back.
 *
 * Threads. The library has no state: any function may be called from any thread at any time. A
 * relative path is looked up from the working directory, which all threads of a process share.
 */

#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define SC_ERROR (sc_error_quark())
GQuark sc_error_quark(void);

/* Every attribute of a section is called SC_XATTR_PREFIX KEY. */
#define SC_XATTR_PREFIX "user.section."

/* One attribute: its key without the prefix, and its value as text. */
typedef struct {
    char *key;
    char *value;
} ScAttribute;

/* Copies both strings. Free with sc_attribute_free(). */
ScAttribute *sc_attribute_new(const char *key, const char *value);
void sc_attribute_free(ScAttribute *attribute);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ScAttribute, sc_attribute_free)

/* What to create. Start from SC_CREATE_OPTIONS_INIT. Nothing in it is kept after the call. */
typedef struct {
    /* The file that backs the section; NULL for a page-file-backed section. A relative name is
     * taken from the working directory. */
    const char *file;
    /* The section of the same mount whose copy-on-write copy this is to be, by its name from the
     * root of the mount; NULL for none. Not together with file. */
    const char *base;
    /* Where in the file the section begins, 0 to G_MAXINT64; -1, as 0, at its start. With file
     * only. */
    gint64 offset;
    /* Size in bytes, 0 to G_MAXINT64; -1 leaves a page-file-backed section empty, and has one with
     * a file go to the file's end, wherever that is. Not together with base. */
    gint64 size;
    /* Permission bits, 0 to 07777, exactly as they are to be; -1 for 0666 less the umask. */
    int mode;
    /* (element-type ScAttribute) (nullable): the attributes to set, "file" and "base" not among
     * them. They are set in this order, after the file or base and before the size, save that
     * "offset", "length" and for a section with a file "protect" come before the file, whose
     * opening depends on them, and that "resize" and else "protect" come last, because they may
     * forbid to change the size. */
    const GPtrArray *attributes;
} ScCreateOptions;

/* clang-format off */
#define SC_CREATE_OPTIONS_INIT { NULL, NULL, -1, -1, -1, NULL }
/* clang-format on */

/*
 * Create the section PATH. It appears under its name complete, with all its attributes and its
 * size, or not at all: a failure, or the death of the process, at any point leaves nothing behind.
 *
 * Codes: EEXIST PATH exists; ENODEV the file is not a regular file; ELOOP the file lies on the same
 * mount; EACCES the caller may not open the file or the base as protect wants it, or not create in
 * PATH's directory; EINVAL the daemon does not know a key or does not take its value, or the
 * options contradict each other; ENOENT there is no such file or base; ENOSPC the store is full or
 * cannot promise the size, or the file's disk is full; EFBIG the size is beyond the section's
 * limit, or the file ends before it and cannot be made longer; EOPNOTSUPP refused by design.
 */
gboolean sc_create(const char *path, const ScCreateOptions *options, GError **error);

/*
 * Read one attribute. *VALUE becomes a new string (free with g_free()).
 * Codes: ENODATA or EINVAL where PATH has no such attribute.
 */
gboolean sc_get(const char *path, const char *key, char **value, GError **error);

/*
 * Set one attribute; VALUE may be empty and is at most 64 KiB.
 * Codes: EINVAL unknown key, or a value that it does not take; EPERM not the owner, or the key
 * cannot be set; EACCES PATH is not writable; EBUSY the section is in use; and those of sc_create()
 * for a "file" or a "base".
 */
gboolean sc_set(const char *path, const char *key, const char *value, GError **error);

/*
 * Read all attributes, in the order in which the daemon lists them. *ATTRIBUTES becomes a new array
 * of ScAttribute that frees its elements (release with g_ptr_array_unref()); it may be empty.
 */
gboolean sc_list(const char *path, GPtrArray **attributes, GError **error);

/*
 * Read the statistics of the mount whose root is MOUNTPOINT. *TEXT becomes a new string of lines
 * "key: value" (free with g_free()). Code ENOENT: MOUNTPOINT lies on the mount but is not its root.
 */
gboolean sc_stats(const char *mountpoint, char **text, GError **error);

/*
 * The parsers of what people type. They touch no file.
 *
 * sc_parse_size(): decimal digits and at most one suffix of K, M, G, T (either case), which
 * multiplies by 1024, 1024^2, 1024^3, 1024^4. *SIZE is in bytes, 0 to G_MAXINT64. Codes: EINVAL
 * malformed, ERANGE too large.
 *
 * sc_parse_mode(): octal digits, 0 to 7777. Codes: EINVAL malformed, ERANGE too large.
 *
 * sc_parse_attribute(): KEY=VALUE, split at the first "="; KEY is not empty, VALUE may be.
 * *ATTRIBUTE is new (free with sc_attribute_free()). Code: EINVAL malformed.
 */
gboolean sc_parse_size(const char *text, gint64 *size, GError **error);
gboolean sc_parse_mode(const char *text, int *mode, GError **error);
gboolean sc_parse_attribute(const char *text, ScAttribute **attribute, GError **error);

G_END_DECLS
