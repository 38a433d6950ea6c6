/* SPDX-License-Identifier: MIT */
/*
 * The file of `-o sections=FILE`: which sections a mount is to begin with. Reading and checking
 * alone; nothing is created here, and no section's file is looked at.
 *
 * It is a key file as GLib knows them, one group a section:
 *
 *     # a comment
 *     [images/golden]
 *     file=/srv/golden.img
 *     protect=writecopy
 *
 * The group's name is the section's, from the root of the mount. Blanks around names and values do
 * not count; \s, \n, \t, \r and \\ in a value stand for a blank, line feed, tab, carriage return
 * and backslash. Other than for GLib, names and values may be any bytes but zero, and what is there
 * twice is a mistake.
 */
#pragma once

#include "common.h"

/* Keys of a group, the names of which are in section-list.c. */
typedef enum {
    SFS_SPEC_FILE,
    SFS_SPEC_BASE,
    SFS_SPEC_OFFSET,
    SFS_SPEC_LENGTH,
    SFS_SPEC_SIZE,
    SFS_SPEC_PROTECT,
    SFS_SPEC_COW,
    SFS_SPEC_LIFETIME,
    SFS_SPEC_COMMIT,
    SFS_SPEC_RESIZE,
    SFS_SPEC_DELETE,
    SFS_SPEC_LIMIT,
    SFS_SPEC_PERMISSIONS,
    SFS_SPEC_UID,
    SFS_SPEC_GID,
    SFS_SPEC_N_KEYS,
} SfsSpecKey;

/*
 * One section as the file asks for it. A text is NULL, and a number 0, where the key is not there,
 * which lines[] tells for certain. Texts that are one of a few words are static.
 */
typedef struct {
    char *path; /* "a/b/name": no slash at either end, no "." or ".." in it */
    char *file; /* absolute */
    char *base; /* as path, and that of a section that comes earlier in the array */
    const char *protect, *cow, *lifetime, *commit, *resize, *delete;
    uint64_t offset, length, size, limit;
    uint64_t permissions, uid, gid;
    unsigned line;                   /* of the group's name */
    unsigned lines[SFS_SPEC_N_KEYS]; /* where each key is; 0: it is not there */
} SfsSectionSpec;

typedef struct {
    char *filename;
    /* SfsSectionSpec *, in the order of the file, except that one that others are based on comes
     * before them. */
    GPtrArray *specs;
} SfsSectionList;

/* Reads and checks it all. NULL and one sentence in @error that names the file and, as far as they
 * are known, line, section and key. */
SfsSectionList *sfs_section_list_load(const char *filename, GError **error);

/* The same of a text in memory, which need not end in a zero byte. */
SfsSectionList *sfs_section_list_parse(const char *filename, const char *text, size_t size,
                                       GError **error);

void sfs_section_list_free(SfsSectionList *list);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SfsSectionList, sfs_section_list_free)

/* The name of a key, as users write it. */
const char *sfs_spec_key_name(SfsSpecKey key);

/* Sets @error to a sentence about this key of this section, or with SFS_SPEC_N_KEYS about the
 * section as such, in the form that the parser's own have. For whoever makes them. */
void sfs_section_spec_error(const SfsSectionList *list, const SfsSectionSpec *spec, SfsSpecKey key,
                            GError **error, const char *format, ...) G_GNUC_PRINTF(5, 6);
