/* A kqueue for Linux, made of epoll, with which the reactor's kqueue form is tested there.
 *
 * It has what _poller.h calls, as the manual pages of FreeBSD and macOS describe it:
 * EVFILT_READ on sockets, level-triggered. libkqueue can't stand in, because its
 * descriptor is the write end of a pipe, which no hub ever finds readable. As on the
 * BSDs, a kqueue can be read after a fetch until one that finds nothing, and a child
 * process has none of its parent's. Unlike theirs, a socket that is closed here and
 * open in a child stays on the list.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define EVFILT_READ (-1)
#define EV_ADD 1
#define EV_DELETE 2
#define EV_ENABLE 4
#define EV_SET(change, i, f, a, ff, d, u) \
    (*(change) = (struct kevent){.ident = (i), .filter = (f), .flags = (a), .fflags = (ff), .data = (d), .udata = (u)})

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    intptr_t data;
    void *udata;
};

#define MANY_KQUEUES 1024
static char kqueues[MANY_KQUEUES];  /* by descriptor */
static int always_readable = -1;    /* on the list of a kqueue that was not looked at since its last event */

static int kqueue_close(int fd) {
    if (fd >= 0 && fd < MANY_KQUEUES) kqueues[fd] = 0;
    return close(fd);
}

static void kqueues_after_fork(void) {
    for (int fd = 0; fd < MANY_KQUEUES; fd++)
        if (kqueues[fd]) kqueue_close(fd);
}

__attribute__((constructor)) static void kqueues_set_up(void) {
    always_readable = eventfd(1, EFD_CLOEXEC);
    pthread_atfork(NULL, NULL, kqueues_after_fork);  /* before the reactor's own */
}

static int kqueue(void) {
    int kq = epoll_create1(0);
    if (kq >= MANY_KQUEUES) {
        close(kq);
        errno = EMFILE;
        return -1;
    }
    if (kq >= 0) kqueues[kq] = 1;
    return kq;
}

static int kevent(int kq, const struct kevent *changes, int n, struct kevent *events, int size, const struct timespec *t) {
    struct epoll_event ready[128], event = {.events = EPOLLIN};
    int found, reported = 0;
    (void)t;
    if (n) {
        event.data.u64 = (uint64_t)(uintptr_t)changes->udata << 32 | (uint32_t)changes->ident;
        if (changes->flags == EV_DELETE) return epoll_ctl(kq, EPOLL_CTL_DEL, changes->ident, NULL);
        if (epoll_ctl(kq, EPOLL_CTL_MOD, changes->ident, &event) == 0) return 0;
        return changes->flags & EV_ADD ? epoll_ctl(kq, EPOLL_CTL_ADD, changes->ident, &event) : -1;
    }
    event.data.u64 = UINT64_MAX;
    found = epoll_wait(kq, ready, size < 127 ? size + 1 : 128, 0);
    for (int i = 0; i < found && reported < size; i++) {
        if (ready[i].data.u64 == UINT64_MAX) continue;
        EV_SET(&events[reported], (uint32_t)ready[i].data.u64, EVFILT_READ, 0, 0, 0,
               (void *)(uintptr_t)(ready[i].data.u64 >> 32));
        reported++;
    }
    if (found >= 0) epoll_ctl(kq, reported ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, always_readable, &event);
    return found < 0 ? found : reported;
}

/* What the reactor does with a kqueue's number from here on. */
#define close kqueue_close
static int kqueue_moved(int fd, int action, int argument) {
    int moved = fcntl(fd, action, argument);
    if (action == F_DUPFD_CLOEXEC && moved >= 0) kqueues[moved] = 1;
    return moved;
}
#define fcntl kqueue_moved
