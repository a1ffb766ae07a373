/* The poller: the kernel's list of sockets that can be read, for the reactor.
 *
 * It is an epoll instance, or a kqueue. Both are a descriptor that can be read while
 * a socket on the list can. A socket is on it under its number, with a token that the
 * reactor gives it, and stays there until it is closed or removed. Functions return
 * -1 and set errno, as the system calls do.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#ifdef PSYCOGREEN_KQUEUE
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>

#define POLLER "kqueue"
/* A kqueue can be read until a look at it finds no socket ready any more. */
#define POLLER_READABLE_IS_NEWS 0

typedef struct kevent poller_event;

static int poller_new(void) {
    int poller = kqueue();
    if (poller >= 0) fcntl(poller, F_SETFD, FD_CLOEXEC);
    return poller;
}

static int poller_change(int poller, int fd, int action, uint64_t token) {
    struct kevent change;
    /* Half of the token is the number, which a kevent has anyway: a pointer may have 32 bits. */
    EV_SET(&change, fd, EVFILT_READ, action, 0, 0, (void *)(uintptr_t)(token >> 32));
    return kevent(poller, &change, 1, NULL, 0, NULL);
}

/* Tell whether socket *fd* is on the list; it then has *token*. */
static int poller_has(int poller, int fd, uint64_t token) {
    return poller_change(poller, fd, EV_ENABLE, token) == 0;
}

/* Add socket *fd*, or give it another token. */
static int poller_add(int poller, int fd, uint64_t token) {
    return poller_change(poller, fd, EV_ADD, token);
}

static int poller_remove(int poller, int fd) {
    return poller_change(poller, fd, EV_DELETE, 0);
}

/* Return how many sockets can be read, up to *size*, and put them into *events*. Don't wait. */
static int poller_fetch(int poller, poller_event *events, int size) {
    struct timespec now = {0, 0};
    return kevent(poller, NULL, 0, events, size, &now);
}

static uint64_t poller_token(const poller_event *event) {
    return (uint64_t)(uintptr_t)event->udata << 32 | (uint32_t)event->ident;
}

/* In a child process, replace the parent's poller by a new one under the same number.
 *
 * A child has no kqueue of its parent, and so the number is free. Where another
 * library's at-fork handler took it, there is no poller.
 */
static int poller_renew(int poller) {
    int fresh = poller_new(), moved;
    if (fresh < 0 || fresh == poller) return fresh;
    moved = fcntl(fresh, F_DUPFD_CLOEXEC, poller);
    close(fresh);
    if (moved >= 0 && moved != poller) {
        close(moved);
        return -1;
    }
    return moved;
}

#else
#include <sys/epoll.h>

#define POLLER "epoll"
#define POLLER_READABLE_IS_NEWS 1

typedef struct epoll_event poller_event;

static int poller_new(void) {
    return epoll_create1(EPOLL_CLOEXEC);
}

static int poller_change(int poller, int fd, int action, uint64_t token) {
    struct epoll_event event;
    event.events = EPOLLIN;
    event.data.u64 = token;
    return epoll_ctl(poller, action, fd, &event);
}

static int poller_has(int poller, int fd, uint64_t token) {
    return poller_change(poller, fd, EPOLL_CTL_MOD, token) == 0;
}

static int poller_add(int poller, int fd, uint64_t token) {
    int added = poller_change(poller, fd, EPOLL_CTL_ADD, token);
    return added < 0 && errno == EEXIST ? poller_change(poller, fd, EPOLL_CTL_MOD, token) : added;
}

static int poller_remove(int poller, int fd) {
    return poller_change(poller, fd, EPOLL_CTL_DEL, 0);
}

static int poller_fetch(int poller, poller_event *events, int size) {
    return epoll_wait(poller, events, size, 0);
}

static uint64_t poller_token(const poller_event *event) {
    return event->data.u64;
}

/* A child shares its parent's epoll instance in the kernel. */
static int poller_renew(int poller) {
    int fresh = poller_new();
    if (fresh < 0) {
        close(poller);
        return -1;
    }
    dup3(fresh, poller, O_CLOEXEC);
    close(fresh);
    return poller;
}

#endif
