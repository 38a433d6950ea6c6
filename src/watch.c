/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include "log.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

/* How often, and how many milliseconds apart, a file is looked at again that was closed and still
 * has other users. */
#define LOOKS 10
#define LOOK_AGAIN_MS 2

typedef struct {
    uint32_t slot;
    int looks; /* left */
} Again;

struct SfsWatch {
    int inotify;
    int stop; /* an eventfd */
    GThread *thread;
    SfsWatchFunc closed;
    void *data;

    GMutex lock;       /* protects slots */
    GHashTable *slots; /* watch descriptor → slot */

    GArray *again; /* of Again; the thread's own */
};

/* The slot that a watch descriptor was for; false: of none any more. */
static bool
take_slot(SfsWatch *watch, int descriptor, uint32_t *slot)
{
    gpointer value;
    bool found;

    g_mutex_lock(&watch->lock);
    found = g_hash_table_lookup_extended(watch->slots, GINT_TO_POINTER(descriptor), NULL, &value);
    if (found)
        g_hash_table_remove(watch->slots, GINT_TO_POINTER(descriptor));
    g_mutex_unlock(&watch->lock);
    if (found)
        *slot = GPOINTER_TO_UINT(value);
    return found;
}

static void
look(SfsWatch *watch, Again one)
{
    if (!watch->closed(one.slot, watch->data) && --one.looks > 0)
        g_array_append_val(watch->again, one);
}

static void
look_again(SfsWatch *watch)
{
    guint n = watch->again->len;

    for (guint i = 0; i < n; i++)
        look(watch, g_array_index(watch->again, Again, i));
    if (n > 0)
        g_array_remove_range(watch->again, 0, n);
}

static void
handle_events(SfsWatch *watch)
{
    char buffer[64 * sizeof(struct inotify_event)]
        __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = read(watch->inotify, buffer, sizeof buffer);

    for (char *at = buffer; n > 0 && at < buffer + n;) {
        const struct inotify_event *event = (const void *)at;
        uint32_t slot;

        /* A oneshot watch also says that it is gone; the close came first and has taken the slot.
         */
        if (take_slot(watch, event->wd, &slot) && event->mask & IN_CLOSE)
            look(watch, (Again){slot, LOOKS});
        at += sizeof *event + event->len;
    }
}

static gpointer
run(gpointer data)
{
    SfsWatch *watch = data;
    struct pollfd fds[] = {
        {.fd = watch->stop, .events = POLLIN},
        {.fd = watch->inotify, .events = POLLIN},
    };

    while (poll(fds, G_N_ELEMENTS(fds), watch->again->len > 0 ? LOOK_AGAIN_MS : -1) < 0 ||
           !(fds[0].revents & POLLIN)) {
        look_again(watch);
        if (fds[1].revents & POLLIN)
            handle_events(watch);
    }
    return NULL;
}

SfsWatch *
sfs_watch_new(SfsWatchFunc closed, void *data)
{
    SfsWatch *watch;
    int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    if (inotify < 0) {
        g_info("no inotify instance: %s", g_strerror(errno));
        return NULL;
    }
    watch = g_new0(SfsWatch, 1);
    watch->inotify = inotify;
    watch->stop = eventfd(0, EFD_CLOEXEC);
    watch->closed = closed;
    watch->data = data;
    g_mutex_init(&watch->lock);
    watch->slots = g_hash_table_new(NULL, NULL);
    watch->again = g_array_new(FALSE, FALSE, sizeof(Again));
    watch->thread = g_thread_new("watch", run, watch);
    return watch;
}

void
sfs_watch_free(SfsWatch *watch)
{
    uint64_t one = 1;

    if (watch == NULL)
        return;
    if (write(watch->stop, &one, sizeof one) == sizeof one)
        g_thread_join(watch->thread);
    close(watch->stop);
    close(watch->inotify);
    g_hash_table_unref(watch->slots);
    g_array_unref(watch->again);
    g_mutex_clear(&watch->lock);
    g_free(watch);
}

void
sfs_watch_add(SfsWatch *watch, int fd, uint32_t slot)
{
    char path[32];
    int descriptor;

    if (watch == NULL)
        return;
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    /* Held together, so that the event cannot find the table without its slot. */
    g_mutex_lock(&watch->lock);
    descriptor = inotify_add_watch(watch->inotify, path, IN_CLOSE | IN_ONESHOT);
    if (descriptor >= 0)
        g_hash_table_insert(watch->slots, GINT_TO_POINTER(descriptor), GUINT_TO_POINTER(slot));
    g_mutex_unlock(&watch->lock);
}
