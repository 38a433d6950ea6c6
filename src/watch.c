/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include "log.h"
#include "util.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#define UNWAKEABLE_US (50 * 1000)

typedef struct {
    uint32_t slot;
    unsigned looks; /* done */
    gint64 due;     /* monotonic µs */
} Again;

struct SfsWatch {
    int inotify; /* -1: there is none */
    int wake;    /* an eventfd, -1: there is none */
    GThread *thread;
    SfsWatchFunc look;
    void *data;

    GMutex lock; /* protects all below */
    bool stop;
    GHashTable
        *slots;    /* watch descriptor → GArray of slots: several sections may be over one file */
    GArray *again; /* of Again */
};

/* The slots that a watch descriptor was for; NULL: of none any more. */
static GArray *
take_slots(SfsWatch *watch, int descriptor)
{
    GArray *slots;

    g_mutex_lock(&watch->lock);
    slots = g_hash_table_lookup(watch->slots, GINT_TO_POINTER(descriptor));
    if (slots != NULL)
        g_hash_table_steal(watch->slots, GINT_TO_POINTER(descriptor));
    g_mutex_unlock(&watch->lock);
    return slots;
}

/* Lock held. */
static void
put_off(SfsWatch *watch, uint32_t slot, unsigned looks)
{
    Again again = {slot, looks, g_get_monotonic_time() + ((gint64)1000 << looks)};

    for (guint i = 0; i < watch->again->len; i++) {
        Again *other = &g_array_index(watch->again, Again, i);

        if (other->slot == slot) {
            other->looks = MAX(other->looks, looks);
            other->due = MIN(other->due, again.due);
            return;
        }
    }
    g_array_append_val(watch->again, again);
}

static void
look(SfsWatch *watch, uint32_t slot, unsigned looks)
{
    if (watch->look(slot, looks, watch->data) || (looks >= SFS_WATCH_LOOKS && watch->inotify >= 0))
        return;
    g_mutex_lock(&watch->lock);
    put_off(watch, slot, MIN(looks + 1, SFS_WATCH_LOOKS));
    g_mutex_unlock(&watch->lock);
}

/* One that is due; false: none is. */
static bool
take_due(SfsWatch *watch, Again *due)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&watch->lock);
    gint64 now = g_get_monotonic_time();

    for (guint i = 0; i < watch->again->len; i++) {
        *due = g_array_index(watch->again, Again, i);
        if (due->due <= now) {
            g_array_remove_index_fast(watch->again, i);
            return true;
        }
    }
    return false;
}

/* How long poll(2) may wait, in ms. */
static int
time_left(SfsWatch *watch)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&watch->lock);
    gint64 now = g_get_monotonic_time();
    /* Nobody can wake this thread where no descriptor was to be had for that. */
    gint64 next = watch->wake >= 0 ? G_MAXINT64 : now + UNWAKEABLE_US;

    for (guint i = 0; i < watch->again->len; i++)
        next = MIN(next, g_array_index(watch->again, Again, i).due);
    return next == G_MAXINT64 ? -1 : next <= now ? 0 : (int)((next - now) / 1000 + 1);
}

/* Events were lost, of whatever files. */
static void
look_at_all(SfsWatch *watch)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    GHashTableIter iter;
    gpointer value;

    g_mutex_lock(&watch->lock);
    g_hash_table_iter_init(&iter, watch->slots);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const GArray *slots = value;

        g_array_append_vals(all, slots->data, slots->len);
    }
    g_mutex_unlock(&watch->lock);
    for (guint i = 0; i < all->len; i++)
        look(watch, g_array_index(all, uint32_t, i), 0);
}

static void
handle_events(SfsWatch *watch)
{
    char buffer[64 * sizeof(struct inotify_event)]
        __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = read(watch->inotify, buffer, sizeof buffer);

    for (char *at = buffer; n > 0 && at < buffer + n;) {
        const struct inotify_event *event = (const void *)at;
        /* A oneshot watch also says that it is gone; the close came first and has taken the slots.
         */
        g_autoptr(GArray) slots = take_slots(watch, event->wd);

        for (guint i = 0; slots != NULL && event->mask & IN_CLOSE && i < slots->len; i++)
            look(watch, g_array_index(slots, uint32_t, i), 0);
        if (event->mask & IN_Q_OVERFLOW)
            look_at_all(watch);
        at += sizeof *event + event->len;
    }
}

static bool
is_stopped(SfsWatch *watch)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&watch->lock);

    return watch->stop;
}

static gpointer
run(gpointer data)
{
    SfsWatch *watch = data;
    struct pollfd fds[] = {
        {.fd = watch->wake, .events = POLLIN},
        {.fd = watch->inotify, .events = POLLIN},
    };
    Again due;

    while (!is_stopped(watch)) {
        uint64_t count;

        if (poll(fds, G_N_ELEMENTS(fds), time_left(watch)) < 0)
            continue;
        if (fds[0].revents & POLLIN && read(watch->wake, &count, sizeof count) < 0)
            continue;
        if (fds[1].revents & POLLIN)
            handle_events(watch);
        while (take_due(watch, &due))
            look(watch, due.slot, due.looks);
    }
    return NULL;
}

static void
wake(SfsWatch *watch)
{
    uint64_t one = 1;

    if (write(watch->wake, &one, sizeof one) < 0)
        g_debug("the watch is awake already");
}

SfsWatch *
sfs_watch_new(SfsWatchFunc look_func, void *data)
{
    SfsWatch *watch = g_new0(SfsWatch, 1);

    watch->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch->inotify < 0)
        g_message("there is no inotify instance: the last use of a section shows late");
    watch->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch->look = look_func;
    watch->data = data;
    g_mutex_init(&watch->lock);
    watch->slots = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_array_unref);
    watch->again = g_array_new(FALSE, FALSE, sizeof(Again));
    watch->thread = g_thread_new("watch", run, watch);
    return watch;
}

void
sfs_watch_free(SfsWatch *watch)
{
    g_mutex_lock(&watch->lock);
    watch->stop = true;
    g_mutex_unlock(&watch->lock);
    wake(watch);
    g_thread_join(watch->thread);
    sfs_fd_clear(&watch->wake);
    sfs_fd_clear(&watch->inotify);
    g_hash_table_unref(watch->slots);
    g_array_unref(watch->again);
    g_mutex_clear(&watch->lock);
    g_free(watch);
}

static bool
contains(const GArray *slots, uint32_t slot)
{
    for (guint i = 0; i < slots->len; i++) {
        if (g_array_index(slots, uint32_t, i) == slot)
            return true;
    }
    return false;
}

void
sfs_watch_add(SfsWatch *watch, int fd, uint32_t slot)
{
    char path[32];
    int descriptor;

    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    /* Held together, so that the event cannot find the table without its slot. */
    g_mutex_lock(&watch->lock);
    descriptor = inotify_add_watch(watch->inotify, path, IN_CLOSE | IN_ONESHOT);
    if (descriptor >= 0) {
        GArray *slots = g_hash_table_lookup(watch->slots, GINT_TO_POINTER(descriptor));

        if (slots == NULL) {
            slots = g_array_new(FALSE, FALSE, sizeof slot);
            g_hash_table_insert(watch->slots, GINT_TO_POINTER(descriptor), slots);
        }
        if (!contains(slots, slot))
            g_array_append_val(slots, slot);
    } else {
        /* No room for another watch: then by the clock, for a while. */
        put_off(watch, slot, 0);
    }
    g_mutex_unlock(&watch->lock);
    if (descriptor < 0)
        wake(watch);
}

void
sfs_watch_later(SfsWatch *watch, uint32_t slot)
{
    g_mutex_lock(&watch->lock);
    put_off(watch, slot, 1);
    g_mutex_unlock(&watch->lock);
    wake(watch);
}
