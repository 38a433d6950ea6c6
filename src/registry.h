/* SPDX-License-Identifier: MIT */
/*
 * The registry: everything that must outlive a worker, as fixed-size records in memory that the
 * keeper owns and every worker of the mount maps.
 *
 * Ownership. The keeper makes the memory and writes two things in it: the configuration, once, and
 * the table of descriptors it holds (SfsFdRec). The worker writes all the rest. There is at any
 * time at most one worker. A record belongs to the room named at its type, which alone writes it
 * and under whose lock it is written; this room knows how records are found, made valid and freed.
 *
 * Death between any two instructions. A record is invisible until its state becomes SFS_LIVE by one
 * atomic store, the last of those that make it, and it vanishes by one atomic store of SFS_FREE,
 * the first of those that unmake it. A change of several records at once (a rename that replaces)
 * goes through sfs_registry_commit(): the list of states to store is written down first and made
 * valid by one store; whoever finds a valid list completes it. Repeating that is harmless.
 * Counters that can be derived (link counts, opens, free lists) are caches, rebuilt at the start
 * of a worker, and never need to be right after a death.
 *
 * Invariants (what is true between operations; a worker that starts restores it):
 *  - a LIVE directory entry names a LIVE node, and its parent is a LIVE directory;
 *  - a LIVE node has a LIVE entry, or a lookup count, or a LIVE handle, or it is the root;
 *  - a LIVE handle names a LIVE node, or view;
 *  - every chain of text starts in exactly one LIVE record, and its chunks are LIVE;
 *  - a descriptor number is stored in the keeper's table iff a LIVE record carries its slot.
 * registry-check.c looks whether they are true.
 *
 * Addresses. The whole sparse memory is mapped once at its full size, so that a record never moves
 * and a slot number is as good as a pointer; slots are what records use for each other.
 */
#pragma once

#include "common.h"

#define SFS_REGISTRY_LAYOUT 9 /* raise with every change of a record below */

/* A slot number of no record. Slot 0 of the nodes is the root directory; the other tables do not
 * use their slot 0. */
#define SFS_NO_SLOT 0u

/* Node slots must fit into a nodeid beside the serial: see namespace.h. */
#define SFS_NODE_SLOT_BITS 24
#define SFS_MAX_NODES ((1u << SFS_NODE_SLOT_BITS) - 1)

typedef enum {
    SFS_FREE = 0,
    SFS_PREPARED = 1, /* being filled; whoever finds one in a new worker frees it */
    SFS_LIVE = 2,
} SfsRecordState;

typedef struct {
    int64_t sec;
    uint32_t nsec;
    uint32_t reserved;
} SfsTime;

typedef enum {
    SFS_KIND_PAGE = 0, /* bytes live in the store */
    SFS_KIND_FILE = 1, /* bytes are a real file's */
} SfsKind;

typedef enum {
    SFS_PROTECT_READWRITE = 0,
    SFS_PROTECT_READONLY = 1,
    SFS_PROTECT_WRITECOPY = 2, /* who opens it gets a private view */
} SfsProtect;

/* Whom the view of a writecopy section belongs to. */
typedef enum {
    SFS_COW_OPEN = 0,    /* to each open its own */
    SFS_COW_SECTION = 1, /* to all openers together */
} SfsCow;

/* How the kernel does the I/O of one node, or has not been told yet (no handle is open). */
typedef enum {
    SFS_IO_UNDECIDED = 0,
    SFS_IO_PASSTHROUGH = 1, /* straight to the backing file, never through the daemon */
    SFS_IO_CACHED = 2,      /* through the kernel's page cache of this mount */
    SFS_IO_DIRECT = 3,      /* read and write come to the daemon, mappings are cached */
} SfsIoMode;

/* A file of any type: a section, a directory, a symbolic link, …
 * Names and nlink belong to namespace.c, under its lock; the rest to section.c, under the lock of
 * the node. */
typedef struct {
    _Atomic uint32_t state;
    uint32_t mode;            /* S_IFMT and permission bits */
    uint64_t serial;          /* of its birth: st_ino, and what distinguishes users of one slot */
    uint64_t nodeid_serial;   /* of its present nodeid: differs from serial once it was redefined */
    _Atomic uint64_t nlookup; /* references that the kernel holds, on all its nodeids */
    uint32_t uid, gid;
    uint32_t nlink;         /* derived */
    _Atomic uint32_t opens; /* derived: handles */
    _Atomic uint32_t pins; /* derived: views over it, handles through .info or of a former nodeid */
    uint32_t parent;       /* directories: slot of the parent directory */
    uint32_t rdev;
    uint32_t fd_slot;        /* descriptor of its bytes, SFS_NO_SLOT while it has none */
    int32_t backing_id;      /* of that descriptor in this connection, 0: none */
    uint32_t text;           /* symbolic links: the target; file sections: the path */
    _Atomic uint32_t xattrs; /* chain of the plain extended attributes, see control.c */
    uint8_t kind;            /* SfsKind */
    uint8_t protect;         /* SfsProtect */
    uint8_t io_mode;         /* SfsIoMode, kept while opens > 0 */
    uint8_t no_passthrough;  /* the kernel refused it once: sticky for this node alone */
    uint8_t fd_writable;     /* its descriptor is open for writing, too */
    uint8_t protect_set;     /* by somebody, before it was defined */
    uint8_t cow;             /* SfsCow */
    uint8_t bounded;         /* offset or length was set: a window */
    uint8_t strict;          /* an empty file does not do */
    uint8_t opened;          /* by its name, since it became temporary */
    uint8_t doomed;          /* temporary and at its end: cannot be opened any more */
    uint8_t height;          /* how many bases there can be above each other on it, at most */
    _Atomic uint8_t commits; /* views that are being written into it: what is cached may be old */
    uint32_t base;           /* slot of the section it is a copy of, SFS_NO_SLOT: of none */
    uint32_t file_uid, file_gid; /* who defined a file section */
    SfsPolicy policy;            /* a section's own; what a directory hands down */
    uint64_t offset, length;     /* the window on the file; length 0: to its end */
    _Atomic uint32_t views;      /* derived: copy-on-write views over it that are open */
    uint32_t native_writers;     /* derived: handles whose writes the kernel passes through */
    uint32_t copies;             /* derived: sections that are copies of it */
    uint32_t generation;         /* derived: how often it was opened */
    uint64_t looked_up;          /* derived: when, in monotonic µs */
    uint32_t shrinking;          /* derived: it is being cut off, and cannot be opened meanwhile */
    uint32_t unmapped;           /* derived: the generation for which /proc had no mapping */
    SfsTime atime, mtime, ctime, btime;
    uint64_t size;    /* page sections without a descriptor: always 0; links: length of target */
    uint64_t made_by; /* the request that made it, see request.h */
} SfsNodeRec;

/* A name in a directory. Belongs to namespace.c. */
#define SFS_INLINE_NAME 72
typedef struct {
    _Atomic uint32_t state;
    uint32_t parent; /* slot of the directory */
    uint32_t node;   /* slot of what it names */
    uint16_t length; /* of the name, in bytes */
    uint16_t reserved;
    uint64_t cookie;    /* readdir offset: rising within a directory, never used twice */
    uint32_t long_name; /* chain that holds the name where it does not fit below */
    uint32_t reserved2;
    uint64_t made_by; /* the request that made it, see request.h */
    /* The nodeid that it led to: it leads nowhere any more, because its section has come to its
     * end, and is here until the kernel has been told. 0 for all others. */
    _Atomic uint64_t gone;
    char name[SFS_INLINE_NAME];
} SfsDirentRec;

/* An open file. Belongs to section-open.c. Its slot and serial are what FUSE calls fh: a release
 * that comes again must not find the slot's next user. */
typedef struct {
    _Atomic uint32_t state;
    uint32_t serial;
    uint64_t made_by; /* the request that made it, see request.h */
    uint32_t node;    /* slot */
    uint32_t view;    /* slot of the copy-on-write view, SFS_NO_SLOT for the section itself */
    uint32_t flags;   /* of open(2) */
    uint32_t uid, pid;
    uint64_t nodeid;          /* that it was opened by */
    uint32_t fd_slot;         /* of the bytes that it is on, SFS_NO_SLOT for views and texts */
    uint32_t text;            /* .info and .stats: chain of what is read there */
    uint32_t flock_slot;      /* lock.c's: descriptor that flock(2) is done on */
    _Atomic uint32_t closing; /* lock.c's: a descriptor of it was closed while it held locks */
    uint32_t mediated;        /* its writes come here though its mappings do not */
    uint32_t reserved;
    SfsTime since;
} SfsHandleRec;

/* Where a view has its private bytes, decided when it is made: see view-make.c. */
typedef enum {
    SFS_VIEW_OVERLAY = 0, /* private pages over the base, through the daemon */
    SFS_VIEW_BASE = 1,    /* it has none and never will: the kernel reads the base by itself */
    SFS_VIEW_COPY = 2,    /* a whole copy in the store, which the kernel uses by itself */
    SFS_VIEW_CLONE = 3,   /* the same, sharing the extents of the base's file */
} SfsViewKind;

/* A copy-on-write view. Belongs to view.c; what is in its descriptor, to its kind of bytes. */
typedef struct {
    _Atomic uint32_t state;
    uint32_t node; /* slot of the base */
    uint64_t nodeid;
    _Atomic uint32_t opens; /* derived */
    uint32_t fd_slot;       /* of its bytes, SFS_NO_SLOT while it has none of its own */
    uint32_t mode, uid, gid;
    int32_t backing_id;         /* of the descriptor that the kernel uses by itself, 0: none */
    uint8_t kind;               /* SfsViewKind */
    uint8_t readonly;           /* first opened for reading only, and so for good */
    _Atomic uint8_t committing; /* its bytes are on their way into the base */
    uint8_t reserved[1];
    uint32_t lock_slot; /* of the empty file that locks are taken on, SFS_NO_SLOT without */
    _Atomic uint64_t size;
    _Atomic uint64_t base_limit; /* bytes of the base that still show through */
    SfsTime atime, mtime, ctime;
} SfsViewRec;

/* Whoever holds, or held, record locks: an open file description. Belongs to lock.c. */
typedef struct {
    _Atomic uint32_t state;
    uint32_t handle;  /* slot of one that it locked through, with which it goes; or SFS_NO_SLOT */
    uint64_t owner;   /* as the kernel calls it */
    uint32_t fd_slot; /* the open file description */
    uint32_t pid;     /* of who locked last */
} SfsLockRec;

/* What a request has done that must not be done again if it comes again. Belongs to request.c; made
 * valid together with the effect. */
typedef struct {
    _Atomic uint32_t state;
    uint32_t intended; /* it may have been done, see sfs_request_intend() */
    uint64_t unique;
    uint64_t value;
} SfsDoneRec;

/* A descriptor in the keeper's hands. Written by the keeper alone; the slot number is the worker's
 * choice. */
typedef struct {
    _Atomic int32_t keeper_fd; /* number in the keeper, and so in a new worker; 0: none */
} SfsFdRec;

/* Counters that .stats shows, by FUSE opcode. */
#define SFS_OPCODES 64

/* A request that some thread is working on. */
#define SFS_RUNNING_MAX 64
typedef struct {
    _Atomic uint64_t unique; /* 0: none */
    uint64_t nodeid;
    uint32_t opcode;
    int32_t process, thread;
    uint32_t reserved;
} SfsRunning;

/* A request that a thread of a dead worker may still be at: see sfs_request_held(). */
typedef struct {
    _Atomic uint64_t unique; /* 0: none */
    int32_t process, thread;
} SfsHeld;

/* A request that was being worked on when a worker failed. */
typedef struct {
    uint64_t unique; /* 0: none */
    uint64_t nodeid;
    uint32_t opcode;
    uint32_t deaths;
} SfsSuspect;

typedef struct {
    uint64_t magic;
    uint32_t layout;
    uint32_t header_size;
    SfsConfig config;
    uint64_t mount_dev;          /* st_dev of the mount, as stat(2) has it */
    uint8_t keeper_has_tmpfs;    /* descriptor SFS_FD_STORE is a tmpfs of ours */
    _Atomic uint8_t passthrough; /* decided at INIT */
    _Atomic uint32_t ready;      /* INIT was answered */
    char mode_reason[160];
    char startup_error[512]; /* why the worker gave up before it was ready */
    uint32_t keeper_pid, worker_pid, worker_starts;
    _Atomic uint32_t serving;       /* of the present worker: it has got so far */
    _Atomic uint32_t cannot_resume; /* the kernel cannot send requests again */
    /* Written by the keeper: ends of workers that were not the mount's, the last one's status as
     * waitpid(2) has it and time (monotonic us); workers replaced on purpose. */
    uint32_t deaths, reloads, reloads_refused;
    int32_t death_status;
    uint32_t death_pid;
    int64_t death_time;
    /* Written by the worker: how often it has gone on after one, how long nobody served then (us:
     * the last time, at most, in sum), requests that came again. */
    uint32_t resumes;
    uint32_t reserved;
    uint64_t resume_last, resume_max, resume_total, resent;
    SfsRunning running[SFS_RUNNING_MAX];
    SfsSuspect suspects[SFS_RUNNING_MAX];
    SfsHeld held[SFS_RUNNING_MAX];
    _Atomic int32_t withdrawing[SFS_RUNNING_MAX]; /* backing ids, see passthrough.h */
    _Atomic int32_t last_backing_id;
    _Atomic uint64_t fault_points; /* passed, see fault.h */
    _Atomic uint32_t next_handle;  /* serial */
    uint32_t init_length;
    uint8_t init_request[512]; /* the bytes of the kernel's INIT */
    uint32_t protocol_major, protocol_minor;
    _Atomic uint64_t next_serial;
    _Atomic uint64_t next_cookie;
    _Atomic uint64_t requests[SFS_OPCODES];
} SfsRegistryHeader;

typedef enum {
    SFS_TABLE_NODES,
    SFS_TABLE_DIRENTS,
    SFS_TABLE_HANDLES,
    SFS_TABLE_VIEWS,
    SFS_TABLE_FDS,
    SFS_TABLE_LOCKS,
    SFS_TABLE_DONE,
    SFS_TABLE_CHUNKS, /* of text; private to registry.c */
    SFS_N_TABLES,
} SfsTable;

typedef struct SfsRegistry SfsRegistry;

/* --- life of the memory ---------------------------------------------------------------------- */

/* Makes the memory and writes the configuration. Keeper only, once. The result's descriptor is
 * sfs_registry_fd(). */
SfsRegistry *sfs_registry_create(const SfsConfig *config, GError **error);

/* Maps the memory behind @fd (not taken over) and frees what a dead worker left half done. */
SfsRegistry *sfs_registry_open(int fd, GError **error);

/* The same only to look: nothing is changed, and nothing may be. */
SfsRegistry *sfs_registry_open_to_look(int fd, GError **error);

int sfs_registry_fd(const SfsRegistry *registry);
SfsRegistryHeader *sfs_registry_header(SfsRegistry *registry);
void sfs_registry_free(SfsRegistry *registry); /* unmaps; the records stay */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SfsRegistry, sfs_registry_free)

/* --- records: thread-safe -------------------------------------------------------------------- */

/* A zeroed record in state SFS_PREPARED, its number in @slot; NULL when the table is full. */
void *sfs_registry_alloc(SfsRegistry *registry, SfsTable table, uint32_t *slot);

/* Makes a prepared record valid: the one store after which it outlives the worker. */
void sfs_registry_publish(SfsRegistry *registry, SfsTable table, uint32_t slot);

/* Frees a record, live or prepared. Chains of text it starts are freed by its owner, after. */
void sfs_registry_release(SfsRegistry *registry, SfsTable table, uint32_t slot);

/* The record's place, whatever its state; NULL where no such slot was ever used. */
void *sfs_registry_get(SfsRegistry *registry, SfsTable table, uint32_t slot);

/* Slots in use are below this; and how many are in use. */
uint32_t sfs_registry_bound(SfsRegistry *registry, SfsTable table);
uint32_t sfs_registry_count(SfsRegistry *registry, SfsTable table);
uint32_t sfs_registry_capacity(SfsRegistry *registry, SfsTable table);

/* Several changes at once: after a death all of them were made, or none. A change gives a record
 * its new state (only SFS_LIVE for prepared and SFS_FREE for live records), or, with a @size of 1,
 * 2, 4 or 8, the field at @offset of a live record the @value. At most SFS_COMMIT_MAX. */
#define SFS_COMMIT_MAX 16
typedef struct {
    SfsTable table;
    uint32_t slot;
    SfsRecordState state;
    uint16_t offset, size;
    uint64_t value;
} SfsChange;
#define SFS_CHANGE(table_, slot_, state_)                                                          \
    ((SfsChange){.table = (table_), .slot = (slot_), .state = (state_)})
#define SFS_CHANGE_FIELD(table_, slot_, type_, field_, value_)                                     \
    ((SfsChange){.table = (table_),                                                                \
                 .slot = (slot_),                                                                  \
                 .offset = offsetof(type_, field_),                                                \
                 .size = sizeof(((type_ *)0)->field_),                                             \
                 .value = (uint64_t)(value_)})
void sfs_registry_commit(SfsRegistry *registry, const SfsChange *changes, unsigned n);

/* A number never given before in this registry. */
uint64_t sfs_registry_next_serial(SfsRegistry *registry);
uint64_t sfs_registry_next_cookie(SfsRegistry *registry);

/* --- text of any length (names, paths, link targets, attributes): thread-safe ---------------- */

/* Stores @length bytes as a chain of chunks: its first slot, or SFS_NO_SLOT when memory is full
 * (or @length is 0). It is the caller's until a record carries it. */
uint32_t sfs_registry_store_text(SfsRegistry *registry, const void *bytes, size_t length);
void sfs_registry_free_text(SfsRegistry *registry, uint32_t first);

/* The stored bytes, NUL-terminated for convenience, length in @length if not NULL. g_free. An empty
 * string for SFS_NO_SLOT. */
char *sfs_registry_load_text(SfsRegistry *registry, uint32_t first, size_t *length);

/* Frees the chains that no live record carries: a worker died between making one and naming it, or
 * between dropping the name and freeing it. Before there are threads. */
void sfs_registry_sweep_text(SfsRegistry *registry);

/* Calls @each for every chain that a live record of @table at @slot carries. */
void sfs_registry_each_text(SfsRegistry *registry, SfsTable table, uint32_t slot,
                            void (*each)(SfsRegistry *registry, uint32_t first, void *data),
                            void *data);

/* Of a chunk: the one after it, and whether it is live. For the checker. */
bool sfs_registry_chunk_next(SfsRegistry *registry, uint32_t slot, uint32_t *next);

/* --- times ----------------------------------------------------------------------------------- */

static inline struct timespec
sfs_time_get(const SfsTime *t)
{
    return (struct timespec){.tv_sec = t->sec, .tv_nsec = t->nsec};
}

static inline void
sfs_time_set(SfsTime *t, struct timespec ts)
{
    t->sec = ts.tv_sec;
    t->nsec = (uint32_t)ts.tv_nsec;
}
