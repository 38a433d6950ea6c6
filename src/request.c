/* SPDX-License-Identifier: MIT */
#include "request.h"

#include "dying.h"
#include "fault.h"
#include "log.h"

#include <linux/fuse.h>
#include <string.h>
#include <sys/syscall.h>

struct SfsRequests {
    SfsRegistry *registry;
    SfsRegistryHeader *header;
    GMutex lock;      /* protects done */
    GHashTable *done; /* number → slot, of what earlier workers' requests have done */
};

/* Of this thread. */
typedef struct {
    SfsRequests *requests; /* NULL: no request */
    uint64_t number;
    bool again;
    uint32_t done;       /* slot of the record of what it did, SFS_NO_SLOT: none */
    bool found;          /* that was made at an earlier worker */
    SfsRunning *running; /* NULL: all were taken */
} Current;

static _Thread_local Current current;

static SfsDoneRec *
record(SfsRequests *requests, uint32_t slot)
{
    return sfs_registry_get(requests->registry, SFS_TABLE_DONE, slot);
}

SfsRequests *
sfs_requests_new(SfsRegistry *registry)
{
    SfsRequests *requests = g_new0(SfsRequests, 1);

    requests->registry = registry;
    requests->header = sfs_registry_header(registry);
    g_mutex_init(&requests->lock);
    requests->done = g_hash_table_new(g_int64_hash, g_int64_equal);
    for (uint32_t slot = 1; slot < sfs_registry_bound(registry, SFS_TABLE_DONE); slot++) {
        SfsDoneRec *rec = record(requests, slot);

        if (atomic_load(&rec->state) == SFS_LIVE)
            g_hash_table_insert(requests->done, &rec->unique, GUINT_TO_POINTER(slot));
    }
    return requests;
}

void
sfs_requests_free(SfsRequests *requests)
{
    if (requests == NULL)
        return;
    g_hash_table_unref(requests->done);
    g_mutex_clear(&requests->lock);
    g_free(requests);
}

typedef struct {
    SfsRequests *requests;
    GHashTable *numbers;
} Pruning;

static gboolean
is_stale(gpointer number, gpointer slot, gpointer data)
{
    Pruning *pruning = data;

    if (g_hash_table_contains(pruning->numbers, number))
        return FALSE;
    sfs_registry_release(pruning->requests->registry, SFS_TABLE_DONE, GPOINTER_TO_UINT(slot));
    return TRUE;
}

void
sfs_requests_prune(SfsRequests *requests, GHashTable *numbers)
{
    g_hash_table_foreach_remove(requests->done, is_stale, &(Pruning){requests, numbers});
}

/* --- what is still being done ---------------------------------------------------------------- */

/* 0: it died before it had noted who it was, and so was not asleep. A main thread has a number
 * until all the others have ended, too, but does nothing any more. */
static bool
is_there(int32_t process, int32_t thread)
{
    char state;

    if (process == 0 || thread == 0 ||
        (syscall(SYS_tgkill, process, thread, 0) != 0 && errno == ESRCH))
        return false;
    state = sfs_dying_state(process, thread);
    return state == '\0' || strchr("ZX", state) == NULL;
}

static SfsHeld *
find_held(SfsRegistryHeader *header, uint64_t number)
{
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        if (atomic_load(&header->held[i].unique) == number)
            return &header->held[i];
    }
    return NULL;
}

void
sfs_requests_note_held(SfsRegistryHeader *header, GHashTable *numbers)
{
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        SfsHeld *held = &header->held[i];
        uint64_t number = atomic_load(&held->unique);

        /* Of a worker before the last one: that has waited for it, too. */
        if (number != 0 &&
            (!g_hash_table_contains(numbers, &number) || !is_there(held->process, held->thread)))
            atomic_store(&held->unique, 0);
    }
    for (int i = 0; i < SFS_RUNNING_MAX; i++) {
        const SfsRunning *running = &header->running[i];
        uint64_t number = atomic_load(&running->unique);
        SfsHeld *held;

        if (number == 0 || !g_hash_table_contains(numbers, &number) ||
            !is_there(running->process, running->thread))
            continue;
        held = find_held(header, number) == NULL ? find_held(header, 0) : NULL;
        if (held == NULL)
            continue;
        held->process = running->process;
        held->thread = running->thread;
        atomic_store(&held->unique, number);
    }
}

bool
sfs_request_held(SfsRegistryHeader *header, uint64_t number)
{
    const SfsHeld *held = find_held(header, number & ~SFS_REQUEST_AGAIN);

    return held != NULL && is_there(held->process, held->thread);
}

/* --- a thread's request ---------------------------------------------------------------------- */

/* Notes for the next worker, should this one die, what it died of. */
static SfsRunning *
note_running(SfsRegistryHeader *header, uint64_t number, uint32_t opcode, uint64_t nodeid)
{
    static _Thread_local unsigned hint;
    static _Thread_local int32_t process, thread;

    if (thread == 0) {
        process = getpid();
        thread = (int32_t)syscall(SYS_gettid);
    }
    for (unsigned i = 0; i < SFS_RUNNING_MAX; i++) {
        SfsRunning *one = &header->running[(hint + i) % SFS_RUNNING_MAX];
        uint64_t none = 0;

        if (!atomic_compare_exchange_strong(&one->unique, &none, number))
            continue;
        one->opcode = opcode;
        one->nodeid = nodeid;
        one->process = process;
        one->thread = thread;
        hint = (hint + i) % SFS_RUNNING_MAX;
        return one;
    }
    return NULL;
}

static uint32_t
take_done(SfsRequests *requests, uint64_t number)
{
    gpointer slot = NULL;

    g_mutex_lock(&requests->lock);
    g_hash_table_steal_extended(requests->done, &number, NULL, &slot);
    g_mutex_unlock(&requests->lock);
    return GPOINTER_TO_UINT(slot);
}

void
sfs_request_begin(SfsRequests *requests, uint64_t unique, uint32_t opcode, uint64_t nodeid)
{
    current = (Current){.requests = requests,
                        .number = unique & ~SFS_REQUEST_AGAIN,
                        .again = unique & SFS_REQUEST_AGAIN};
    current.running = note_running(requests->header, current.number, opcode, nodeid);
    SFS_FAULT_REQUEST(opcode);
    if (current.again) {
        current.done = take_done(requests, current.number);
        current.found = current.done != SFS_NO_SLOT;
    }
}

void
sfs_request_end(void)
{
    /* Answered: it cannot come again. */
    if (current.done != SFS_NO_SLOT)
        sfs_registry_release(current.requests->registry, SFS_TABLE_DONE, current.done);
    if (current.running != NULL)
        atomic_store(&current.running->unique, 0);
    memset(&current, 0, sizeof current);
}

void
sfs_request_put_off(void)
{
    SfsRequests *requests = current.requests;

    if (current.done == SFS_NO_SLOT)
        return;
    g_mutex_lock(&requests->lock);
    g_hash_table_insert(requests->done, &record(requests, current.done)->unique,
                        GUINT_TO_POINTER(current.done));
    g_mutex_unlock(&requests->lock);
    current.done = SFS_NO_SLOT;
}

uint64_t
sfs_request_number(void)
{
    return current.number;
}

bool
sfs_request_again(void)
{
    return current.again;
}

unsigned
sfs_request_remember(SfsChange *changes, unsigned n)
{
    SfsDoneRec *rec;

    if (current.requests == NULL || current.done != SFS_NO_SLOT)
        return n;
    rec = sfs_registry_alloc(current.requests->registry, SFS_TABLE_DONE, &current.done);
    if (rec == NULL) {
        current.done = SFS_NO_SLOT;
        return n;
    }
    rec->unique = current.number;
    changes[n] = SFS_CHANGE(SFS_TABLE_DONE, current.done, SFS_LIVE);
    return n + 1;
}

bool
sfs_request_done(void)
{
    return current.found && !record(current.requests, current.done)->intended;
}

void
sfs_request_intend(uint64_t value)
{
    SfsRegistry *registry = current.requests != NULL ? current.requests->registry : NULL;
    SfsDoneRec *rec;

    if (registry == NULL || current.done != SFS_NO_SLOT)
        return;
    rec = sfs_registry_alloc(registry, SFS_TABLE_DONE, &current.done);
    if (rec == NULL) {
        current.done = SFS_NO_SLOT;
        return;
    }
    rec->unique = current.number;
    rec->intended = 1;
    rec->value = value;
    sfs_registry_publish(registry, SFS_TABLE_DONE, current.done);
}

bool
sfs_request_intended(uint64_t *value)
{
    const SfsDoneRec *rec = current.found ? record(current.requests, current.done) : NULL;

    if (rec == NULL || !rec->intended)
        return false;
    *value = rec->value;
    return true;
}
