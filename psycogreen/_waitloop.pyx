# cython: language_level=3, boundscheck=False, wraparound=False
"""The wait loop, compiled, and the reactor that makes its parks cheap.

The loop does what ``_pywaitloop.py`` does, and leaves to it what waits through
the hub. But for an answer on Linux it does not ask the hub anew for each wait:
each hub has a `Reactor`, an epoll instance that holds the sockets of all
connections and is the one descriptor that the hub watches. Parking is a store
and a switch.
"""

import functools
import os
import sys
import weakref

from cpython.object cimport PyObject
from cpython.pystate cimport PyThreadState_GetDict
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EBADF, EEXIST, errno
from libc.stdint cimport uint32_t, uint64_t

from psycogreen._park import park as park_in_hub
from psycogreen._parked import parked as parked_in_hub
from psycogreen._parked import refusal
from psycogreen._pywaitloop import wait_callback as pure_wait_callback

implementation = "cython"

cdef extern from "greenlet.h":
    ctypedef struct PyGreenlet
    void **_PyGreenlet_API
    void PyGreenlet_Import()
    PyGreenlet *PyGreenlet_GetCurrent() except NULL
    PyGreenlet *PyGreenlet_GetParent(PyGreenlet *)
    object PyGreenlet_Switch(PyGreenlet *, PyObject *, PyObject *)
    bint PyGreenlet_ACTIVE(PyGreenlet *)

cdef extern from *:
    """
    #ifdef __linux__
    #include <fcntl.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sys/epoll.h>
    #include <time.h>
    #include <unistd.h>

    static int readable(int fd) {
        struct pollfd p = {fd, POLLIN, 0};
        return poll(&p, 1, 0) > 0;
    }

    static double monotonic(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + t.tv_nsec * 1e-9;
    }

    #else  /* no epoll: no reactor, and each wait goes through the hub */
    #define EPOLL_CLOEXEC 0
    #define EPOLL_CTL_ADD 0
    #define EPOLL_CTL_DEL 0
    #define EPOLL_CTL_MOD 0
    #define EPOLLIN 0
    struct epoll_event { uint32_t events; union { uint64_t u64; } data; };
    static int epoll_create1(int flags) { errno = ENOSYS; return -1; }
    static int epoll_ctl(int a, int b, int c, struct epoll_event *d) { return -1; }
    static int epoll_wait(int a, struct epoll_event *b, int c, int d) { return -1; }
    static int dup3(int a, int b, int c) { return -1; }
    static int close(int fd) { return -1; }
    static int readable(int fd) { return 0; }
    static double monotonic(void) { return 0; }
    static int pthread_atfork(void *a, void *b, void (*c)(void)) { return 0; }
    #endif

    /* Whether weak reference *ref* is to *object*, without making a new reference. */
    static int refers_to(PyObject *ref, PyObject *object) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found;
        if (PyWeakref_GetRef(ref, &found) <= 0) {
            PyErr_Clear();
            return 0;
        }
        Py_DECREF(found);
        return found == object;
    #else
        return PyWeakref_GET_OBJECT(ref) == object;
    #endif
    }
    """
    ctypedef union epoll_data:
        uint64_t u64
    ctypedef struct epoll_event "struct epoll_event":
        uint32_t events
        epoll_data data
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLIN
    int epoll_create1(int) nogil
    int epoll_ctl(int, int, int, epoll_event *) nogil
    int epoll_wait(int, epoll_event *, int, int) nogil
    int dup3(int, int, int) nogil
    int close(int) nogil
    int readable(int)
    double monotonic()
    int pthread_atfork(void *, void *, void (*)() noexcept nogil)
    bint refers_to(PyObject *, PyObject *)

cdef enum:
    POLL_OK = 0
    POLL_READ = 1

cdef enum:
    # Events fetched at once. A dispatch keeps the hub from its other
    # callbacks for as long as these greenlets run.
    BATCH = 64
    # Parked greenlets from which on the next answer is likely to be there.
    MANY = 4
    # How many polls of a large result may go without asking whether there is
    # something to read, once the last ones found something.
    TRUST = 7
    # Sockets found without a look into the dictionary.
    RECENT = 256

# Seconds for which the greenlets of a batch together may read on in large
# results, while there is something to read, before others get their turn.
cdef double TURN = 0.001


ctypedef struct Instance:
    # What the handler of forks needs of a reactor, without Python.
    int epfd
    PyObject *reactor
    Instance *next

cdef Instance *instances = NULL

# Counts the forks that led to this process. A reactor of another count was
# the parent's.
cdef unsigned int forks = 0

# Bound here because `sys` is gone when it says yes.
cdef object is_finalizing = sys.is_finalizing

# The reactor last used, a borrowed reference: most often the one wanted next.
cdef PyObject *latest = NULL


cdef class Socket:
    """One connection's socket, as one reactor knows it."""

    # A plain weak reference: psycopg2 makes one for each query, and finds it
    # made. The other has the callback that forgets this socket.
    cdef object connection
    cdef object forget
    cdef size_t key  # id(connection)
    cdef object user  # the greenlet that is inside the wait callback for it, or None
    cdef object waiter  # the same while it is parked here
    cdef bint fixed  # psycopg2's own connections keep their descriptor once connected
    cdef bint green  # a GreenConnection, whose poll() is not for us
    cdef int fd
    cdef uint64_t token  # tells its events from those of a socket that had the descriptor before


cdef class Forget:
    """The callback of a socket's weak reference to its connection."""

    cdef object reactor
    cdef size_t key

    def __call__(self, reference):
        cdef Reactor reactor = self.reactor()
        if reactor is not None:
            reactor.forget(self.key)


cdef class Bell:
    """What the hub calls. It does not keep the reactor alive: only the hub itself does."""

    cdef PyObject *reactor

    def __call__(self, fd=None):
        cdef Reactor reactor
        if self.reactor != NULL:
            # A greenlet of the batch may give the hub another reactor.
            reactor = <Reactor>self.reactor
            reactor.dispatch()


cdef class Reactor:
    """The sockets that one hub waits for."""

    cdef object __weakref__
    cdef object adapter
    cdef object hub
    cdef object loop  # the greenlet in which the hub runs its callbacks
    cdef object own  # the only type of greenlets that may switch to the hub directly, None for any
    cdef object hookless  # a type of greenlets without gevent's and eventlet's hook `switch_out`
    cdef object watch
    cdef Bell bell
    cdef dict sockets  # Socket by id(connection)
    cdef list armed  # Socket by descriptor, of those that epoll reports
    cdef tuple woken  # what a greenlet is switched to with
    cdef PyObject *recent[RECENT]  # Sockets by a part of their key, borrowed from `sockets`
    cdef Instance instance
    cdef unsigned long thread
    cdef unsigned int forks
    cdef uint32_t arms
    cdef int parked
    cdef Socket last  # the socket that was parked on last
    cdef Socket called  # the one whose greenlet is being switched to
    cdef bint doubtful  # whether it was woken and was not ready
    cdef bint held
    cdef int stale_batches
    cdef bint stale  # the batch held an event of nobody's that can't be disarmed
    # The batch under way. Not on the C stack, which is copied at each switch.
    cdef bint dispatching
    cdef int position
    cdef int count
    cdef epoll_event events[BATCH]

    def __cinit__(self):
        global instances
        self.instance.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.instance.epfd < 0:
            raise OSError(errno, "epoll_create1 failed")
        self.instance.reactor = <PyObject *>self
        self.instance.next = instances
        instances = &self.instance

    def __init__(self, adapter, hub, own):
        self.adapter = adapter
        self.hub = hub
        self.own = own
        self.loop = adapter.greenlet(hub)
        self.sockets = {}
        self.armed = []
        self.woken = (self,)
        self.forks = forks
        self.thread = PyThread_get_thread_ident()
        self.bell = Bell.__new__(Bell)
        self.bell.reactor = <PyObject *>self
        self.watch = adapter.watch(hub, self.instance.epfd, self.bell)

    def __del__(self):
        self.retire()

    def __dealloc__(self):
        global instances
        cdef Instance **link = &instances
        while link[0] != NULL:
            if link[0] == &self.instance:
                link[0] = self.instance.next
                break
            link = &link[0].next
        if self.instance.epfd >= 0:
            close(self.instance.epfd)

    cdef int retire(self) except -1:
        """Leave the hub, for good."""
        global latest
        if latest == <PyObject *>self:
            latest = NULL
        if self.bell is not None:
            self.bell.reactor = NULL
        if is_finalizing():
            return 0
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
        if self.parked:
            _orphans.append(self)
        return 0

    cdef Socket socket(self, conn):
        """Return the record of *conn*, None if it was not adopted."""
        cdef size_t key = <size_t><PyObject *>conn
        cdef PyObject **recent = &self.recent[(key >> 4) % RECENT]
        cdef Socket sock
        if recent[0] != NULL and (<Socket>recent[0]).key == key:
            sock = <Socket>recent[0]
        else:
            sock = self.sockets.get(key)
            if sock is None:
                return None
            recent[0] = <PyObject *>sock
        if refers_to(<PyObject *>sock.connection, <PyObject *>conn):
            return sock
        return None

    cdef int adopt(self, conn) except -1:
        """Take in *conn*, whose first wait has ended well."""
        cdef Forget forget = Forget.__new__(Forget)
        cdef Socket sock = Socket.__new__(Socket)
        forget.reactor = weakref.ref(self)
        forget.key = sock.key = <size_t><PyObject *>conn
        try:
            sock.connection = weakref.ref(conn)
            sock.forget = weakref.ref(conn, forget)
        except TypeError:
            return 0
        from psycopg2.extensions import connection
        sock.fixed = isinstance(conn, connection)
        sock.green = hasattr(conn, "_green_poll")
        sock.fd = -1
        self.forget(sock.key)
        self.sockets[sock.key] = sock
        return 0

    cdef int forget(self, size_t key) except -1:
        cdef Socket sock = self.sockets.pop(key, None)
        cdef PyObject **recent = &self.recent[(key >> 4) % RECENT]
        if recent[0] == <PyObject *>sock:
            recent[0] = NULL
        if sock is not None and self.is_armed(sock):
            self.armed[sock.fd] = None  # epoll drops it when it is closed
        return 0

    cdef bint is_armed(self, Socket sock):
        return 0 <= sock.fd < len(self.armed) and self.armed[sock.fd] is sock

    cdef bint ready(self, Socket sock, conn) except -1:
        """Have epoll report *sock*; tell whether it will."""
        if self.is_armed(sock):
            if sock.fixed:
                return True
            self.disarm(sock.fd)  # the number may be another socket's by now
        return self.arm(sock, conn.fileno())

    cdef bint arm(self, Socket sock, int fd) except -1:
        cdef epoll_event event
        cdef Socket other
        if fd < 0:
            return False
        if len(self.armed) <= fd:
            self.armed.extend([None] * (fd + 1 - len(self.armed)))
        self.arms += 1
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>self.arms << 32 | <uint32_t>fd
        if epoll_ctl(self.instance.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
            other = self.armed[fd]
            if errno != EEXIST or (other is not None and other.waiter is not None):
                return False
            if epoll_ctl(self.instance.epfd, EPOLL_CTL_MOD, fd, &event) < 0:
                return False
        sock.fd = fd
        sock.token = event.data.u64
        self.armed[fd] = sock
        return True

    cdef bint disarm(self, int fd) except -1:
        """Have epoll no longer report *fd*; tell whether it knew it.

        A connection may have been closed, and the number be another file's by
        now: that one is not in this epoll instance unless `armed` says so.
        """
        self.armed[fd] = None
        return epoll_ctl(self.instance.epfd, EPOLL_CTL_DEL, fd, NULL) == 0

    cdef int hold(self, bint awaited) except -1:
        self.held = False  # until it is sure
        if self.watch is not None:  # retired, in the middle of a batch
            self.watch.hold(awaited)
        self.held = awaited
        return 0

    cdef PyObject *next_waiter(self) except? NULL:
        """Return the next greenlet of the batch under way, borrowed, or NULL."""
        cdef Socket sock
        cdef uint64_t token
        cdef uint32_t fd
        # After a fork the batch is the parent's: its greenlets wait there.
        while self.position < self.count and self.forks == forks:
            token = self.events[self.position].data.u64
            self.position += 1
            fd = <uint32_t>token
            sock = self.armed[fd] if fd < <uint32_t>len(self.armed) else None
            if sock is None or sock.token != token:
                self.stale = True
            elif sock.waiter is not None:
                # One that does not go on at once is woken once all the same.
                sock.waiter = None
                self.called = sock
                return <PyObject *>sock.user
            elif not self.disarm(fd):
                # For nobody: the server closed an idle connection, or sent a
                # notification. Left armed it would be reported for ever.
                self.stale = True
        return NULL

    cdef int park(self, Socket sock, bint child) except -1:
        """Let others run until *sock* can be read.

        *child*: the hub may be switched to without its own ceremonies.
        """
        cdef PyObject *waiter
        sock.waiter = sock.user
        self.last = sock
        self.parked += 1
        try:
            if not self.held:
                self.hold(True)
            if not child:
                result = self.adapter.switch(self.hub)
            else:
                # In the middle of a batch the hub would only switch to the
                # next greenlet of it.
                waiter = self.next_waiter()
                if waiter == NULL:
                    result = PyGreenlet_Switch(<PyGreenlet *>self.loop, NULL, NULL)
                else:
                    result = PyGreenlet_Switch(<PyGreenlet *>waiter, <PyObject *>self.woken, NULL)
            if self.called is not None:
                if result is self and sock.waiter is not None and self.called.user is sock.user:
                    # This wait is a signal handler's or a __del__'s, within the
                    # hold() or switch() above of another: it was the turn of
                    # that one, whose event stays until it is read.
                    self.called.waiter = sock.user
                self.called = None
        finally:
            sock.waiter = None
            self.parked -= 1
            if not self.parked and not self.dispatching:
                self.hold(False)  # killed: no dispatch comes that would do it
        if result is not self:
            self.adapter.misdirected(self.hub, result)
        return 0

    cdef int dispatch(self) except -1:
        """Switch to each greenlet whose socket is ready."""
        cdef double until = 0
        if self.forks != forks:
            return 0
        if self.own is not None and current() is not self.loop:
            self.loop = self.adapter.moved(self.hub)
        # Where many wait, more are ready by the time that a batch has run: to
        # look is cheaper than a turn of the hub. It gets its turn all the same.
        while self.dispatch_batch() and self.parked >= MANY and self.forks == forks:
            if until == 0:
                until = monotonic() + TURN
            elif monotonic() > until:
                break
        if self.forks == forks and self.held and not self.parked:
            self.release()
        return 0

    cdef int release(self) except -1:
        """Let the hub end."""
        try:
            self.hold(False)
        except BaseException as exc:
            # A signal handler's. If it escaped from here, the hub would watch
            # the descriptor no longer. Not caught in a frame that is copied
            # at each switch.
            self.report(exc)
        return 0

    cdef bint dispatch_batch(self) except -1:
        """Switch to those that are ready now; tell whether there were any."""
        cdef PyObject *waiter
        cdef int count
        if self.parked == 1 and self.last.fixed and self.last.waiter is not None and not self.doubtful:
            # There is nobody else to be woken: epoll need not be asked who it
            # is. If the event was for nobody, libpq finds nothing to read.
            self.dispatching = True
            self.last.waiter = None  # as in next_waiter()
            try:
                self.wake(<PyObject *>self.last.user)
            finally:
                self.dispatching = False
            return 0
        self.doubtful = False
        self.position = 0
        self.count = count = epoll_wait(self.instance.epfd, self.events, BATCH, 0)
        if count < 0:
            self.count = 0
            if errno == EBADF:
                self.rebuild()
            return 0
        self.stale = False
        self.dispatching = True
        try:
            while True:
                waiter = self.next_waiter()
                if waiter == NULL:
                    break
                self.wake(waiter)
        finally:
            self.dispatching = False
            self.position = self.count = 0
        if self.forks != forks:
            return 0
        if not self.stale:
            self.stale_batches = 0
            return count > 0
        # Once may be a connection that an earlier greenlet of the batch
        # closed. Again is a socket that is closed here but open in a child
        # process: epoll can't be told to drop it.
        self.stale_batches += 1
        if self.stale_batches > 1:
            self.rebuild()
        return 0

    cdef int wake(self, PyObject *waiter) except -1:
        try:
            PyGreenlet_Switch(<PyGreenlet *>waiter, <PyObject *>self.woken, NULL)
        except BaseException as exc:
            self.report(exc)
        return 0

    cdef int report(self, exc) except -1:
        try:
            self.adapter.report(self.hub, exc)
        except BaseException as raised:
            # Not handed on as it came: a signal handler's. The hub that gets it
            # from its callback watches the descriptor no longer.
            if raised is not exc:
                self.rebuild()
            raise
        return 0

    cdef int rebuild(self) except -1:
        """Begin anew with another epoll instance and the sockets now waited for."""
        cdef Socket sock
        cdef int epfd
        if self.watch is None:
            return 0
        epfd = epoll_create1(EPOLL_CLOEXEC)
        if epfd < 0:
            return 0  # no descriptor is free; the next batch tries again
        self.watch.stop()
        close(self.instance.epfd)
        self.instance.epfd = epfd
        self.armed = []
        self.stale_batches = 0
        self.watch = self.adapter.watch(self.hub, epfd, self.bell)
        self.watch.hold(self.held)
        for sock in list(self.sockets.values()):
            if sock.waiter is not None and not self.arm(sock, sock.fd):
                sock.waiter = None
                self.wake(<PyObject *>sock.user)  # its next poll() says what is wrong
        return 0


cdef Reactor reactor_of(adapter, hub, own):
    """Return the reactor of *hub*, a new one if need be; None where there is no epoll."""
    # It lives and dies with the thread. The thread's hub may be replaced. Event
    # loops take turns in a thread: there it lives and dies with the loop.
    cdef dict local = <dict>PyThreadState_GetDict() if own is None else <dict?>hub.reactors
    cdef Reactor reactor = local.get(adapter)
    if reactor is not None:
        if reactor.hub is hub and reactor.forks == forks and reactor.thread == PyThread_get_thread_ident():
            return reactor
        del local[adapter]
        reactor.retire()
    try:
        reactor = Reactor(adapter, hub, own)
    except OSError:
        return None
    local[adapter] = reactor
    return reactor


cdef object current():
    """Return the running greenlet."""
    if _PyGreenlet_API == NULL:
        PyGreenlet_Import()
    cdef PyGreenlet *me = PyGreenlet_GetCurrent()
    owned = <object>me
    Py_XDECREF(<PyObject *>me)
    return owned


cdef Reactor home(adapter, own, me, bint *child):
    """Return the reactor for greenlet *me*, which runs; None if none can serve.

    *child* tells whether the greenlet may switch to the hub directly.
    """
    global latest
    cdef Reactor reactor
    cdef PyGreenlet *parent
    parent = PyGreenlet_GetParent(<PyGreenlet *>me)
    Py_XDECREF(<PyObject *>parent)  # the greenlet keeps it
    if latest != NULL:
        reactor = <Reactor>latest
        if (
            # A reactor that dispatches in this thread is that of the hub that
            # runs: no need to ask for it.
            reactor.dispatching
            and reactor.thread == PyThread_get_thread_ident()
            and <PyObject *>parent == <PyObject *>reactor.loop
            and type(me) is reactor.hookless
            and reactor.adapter is adapter
            and reactor.forks == forks
        ):
            child[0] = True
            return reactor
    hub = adapter.current()
    if hub is None:
        return None
    reactor = reactor_of(adapter, hub, own)
    if reactor is None:
        return None
    # eventlet replaces a hub's greenlet that an exception has ended.
    reactor.loop = adapter.greenlet(hub)
    if me is reactor.loop:
        return None
    latest = <PyObject *>reactor
    child[0] = (
        <PyObject *>parent == <PyObject *>reactor.loop
        and PyGreenlet_ACTIVE(parent)
        and (not hasattr(me, "switch_out") if own is None else type(me) is own)
    )
    if child[0]:
        reactor.hookless = type(me)
    return reactor


cdef int wait_in_reactor(adapter, conn, timeout, Reactor reactor, Socket sock, bint child) except -1:
    cdef bint woken = False
    cdef double since = 0
    cdef int unasked = 0, streak = 0
    while True:
        state = conn._green_poll() if sock.green else conn.poll()
        if state == POLL_OK:
            return 0
        if state != POLL_READ:
            park_in_hub(adapter, conn, state, timeout)
            continue
        if woken:
            reactor.doubtful = True
            if unasked or readable(sock.fd):
                # In the middle of a large result.
                if since == 0:
                    since = monotonic()
                if (monotonic() - since) * max(reactor.count, 1) < TURN:
                    if unasked:
                        unasked -= 1
                    else:
                        unasked = streak = min(2 * streak + 1, TRUST)
                    continue
            else:
                streak = 0
        if not reactor.ready(sock, conn):
            park_in_hub(adapter, conn, state, timeout)
            continue
        reactor.park(sock, child)
        woken = True
        since = 0
        unasked = 0


cdef int interrupted(conn) except -1:
    """Tell a green connection that an exception is about to end its wait."""
    tell = getattr(conn, "_green_interrupted", None)
    if tell is not None:
        tell()
    return 0


def parked(conn):
    """See ``_parked.py``."""
    cdef Instance *instance = instances
    cdef Reactor reactor
    cdef Socket sock
    while instance != NULL:
        reactor = <Reactor>instance.reactor
        # A retired one may be about to be freed.
        if reactor.watch is not None and reactor.thread == PyThread_get_thread_ident() and reactor.forks == forks:
            sock = reactor.socket(conn)
            if sock is not None and sock.user is not None:
                return sock.user
        instance = instance.next
    return parked_in_hub(conn)


def wait_callback(adapter):
    """Make a documented stub the wait callback for a hub; see ``_pywaitloop.py``."""
    if not hasattr(adapter, "watch"):
        return pure_wait_callback(adapter)
    own = getattr(adapter, "own", None)

    def decorate(stub):
        (unlimited,) = stub.__defaults__
        wait_in_hub = pure_wait_callback(adapter)(stub)

        def wait(conn, timeout=unlimited):
            cdef Reactor reactor
            cdef Socket sock
            cdef bint child = False
            if timeout is not unlimited:
                wait_in_hub(conn, timeout)
                return
            me = current()
            try:
                reactor = home(adapter, own, me, &child)
            except BaseException:  # a signal handler's, after the query was sent
                interrupted(conn)
                raise
            sock = None if reactor is None else reactor.socket(conn)
            if sock is None:
                wait_in_hub(conn)
                if reactor is None:
                    reactor = home(adapter, own, me, &child)
                if reactor is not None and reactor.socket(conn) is None:
                    reactor.adopt(conn)
                return
            if sock.user is not None and sock.user is not me:
                raise refusal("the wait callback")
            sock.user = me
            try:
                wait_in_reactor(adapter, conn, timeout, reactor, sock, child)
            except BaseException:
                # The descriptor may be another file's from here on.
                if reactor.is_armed(sock):
                    reactor.disarm(sock.fd)
                interrupted(conn)
                raise
            finally:
                sock.user = None

        return functools.update_wrapper(wait, stub)

    return decorate


cdef void after_fork_in_child() noexcept nogil:
    # The child shares the epoll instances of its parent. It puts one of its
    # own in the place of each, under the same number, so that neither its hub
    # nor what it removes there concerns the parent.
    global forks
    cdef Instance *instance = instances
    cdef int fresh
    forks += 1
    while instance != NULL:
        fresh = epoll_create1(EPOLL_CLOEXEC)
        if fresh < 0:
            close(instance.epfd)
            instance.epfd = -1
        else:
            dup3(fresh, instance.epfd, EPOLL_CLOEXEC)
            close(fresh)
        instance = instance.next


pthread_atfork(NULL, NULL, after_fork_in_child)


# Reactors with greenlets that nothing will wake: those of a hub that was
# replaced, and after a fork those of the parent. To collect the greenlets would
# end their connections, which the parent uses.
_orphans = []


def keep_parents_greenlets():
    cdef Instance *instance = instances
    while instance != NULL:
        if (<Reactor>instance.reactor).parked:
            _orphans.append(<Reactor>instance.reactor)
        instance = instance.next


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keep_parents_greenlets)
