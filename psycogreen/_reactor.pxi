# The reactor: the sockets for which the greenlets of one hub wait, in one poller.
#
# ``_waitloop.pyx`` includes this file. The hub watches a single descriptor, the
# poller (``_poller.h``). A connection's socket is added once and stays; to park is to
# note the running greenlet in its `Socket` and to switch to the hub. When the hub finds
# the poller ready, `Reactor.dispatch()` runs in the hub's greenlet, fetches a
# batch of ready sockets and switches to the greenlet noted for each.

cdef extern from "_poller.h":
    ctypedef struct poller_event:
        pass
    const char *POLLER
    bint POLLER_READABLE_IS_NEWS
    int poller_new()
    bint poller_has(int, int, uint64_t)
    int poller_add(int, int, uint64_t)
    int poller_remove(int, int)
    int poller_fetch(int, poller_event *, int)
    uint64_t poller_token(const poller_event *)
    int poller_renew(int) nogil
    int close(int)

# The C function of a method without arguments; the second is NULL.
ctypedef object (*Poll)(object, PyObject *)

cdef extern from *:
    """
    #include <poll.h>
    #include <pthread.h>
    #include <time.h>

    static int readable(int fd) {
        struct pollfd p = {fd, POLLIN, 0};
        return poll(&p, 1, 0) > 0;
    }

    static int writable(int fd) {
        struct pollfd p = {fd, POLLOUT, 0};
        return poll(&p, 1, 0) > 0;
    }

    /* What fd is ready for, of events: 1 to read, 2 to write. All of these if the socket is broken. */
    static int ready_events(int fd, int events) {
        struct pollfd p = {fd, (events & 1 ? POLLIN : 0) | (events & 2 ? POLLOUT : 0), 0};
        if (poll(&p, 1, 0) <= 0)
            return 0;
        int ready = (p.revents & POLLIN ? 1 : 0) | (p.revents & POLLOUT ? 2 : 0);
        return ready ? ready : events;
    }

    static double monotonic(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + t.tv_nsec * 1e-9;
    }

    /* Whether weak reference *ref* is to *object*, without making a new reference. */
    static int refers_to(PyObject *ref, PyObject *object) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *referent;
        if (PyWeakref_GetRef(ref, &referent) <= 0) {
            PyErr_Clear();
            return 0;
        }
        Py_DECREF(referent);
        return referent == object;
    #else
        return PyWeakref_GET_OBJECT(ref) == object;
    #endif
    }

    /* The C function of method *descriptor*, or NULL if it takes arguments or is no C function. */
    static PyCFunction function_of(PyObject *descriptor) {
        PyMethodDef *method;
        if (!Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) return NULL;
        method = ((PyMethodDescrObject *)descriptor)->d_method;
        return method->ml_flags == METH_NOARGS ? method->ml_meth : NULL;
    }
    """
    int readable(int)
    int writable(int)
    int ready_events(int, int)
    double monotonic()
    int pthread_atfork(void *, void *, void (*)() noexcept nogil)
    bint refers_to(PyObject *, PyObject *)
    Poll function_of(object)

cdef enum:
    # Events that are fetched at once. The hub runs no other callback
    # until the greenlets of a batch have run.
    BATCH = 64
    # With this many parked greenlets, another answer has probably come by the
    # time a batch has run.
    MANY = 4
    # Polls of a large result without a poll(2) before each, after several in a
    # row found something to read.
    MAX_UNCHECKED_POLLS = 7
    # Slots of the cache in front of the dictionary of sockets.
    RECENT = 256

# Seconds that the greenlets of a batch together may spend reading on in large
# results before other greenlets get their turn.
cdef double TIME_SLICE = 0.001
# Seconds after which a greenlet lets others run whose waits for psycopg 3 all find
# something at once.
cdef double BUSY_SLICE = 0.005


ctypedef struct Poller:
    # What the fork handler needs of a reactor; it runs without Python.
    int fd
    PyObject *reactor
    Poller *next

cdef Poller *pollers = NULL

# Counts the forks that led to this process. A reactor with another count
# belongs to the parent process.
cdef unsigned int forks = 0

# Bound here because the name `sys` is gone while the interpreter finalizes.
cdef object is_finalizing = sys.is_finalizing

# psycopg2's class, once there is a connection: psycogreen imports without psycopg2.
cdef object connection_class = None


cdef object psycopg2_connection():
    global connection_class
    if connection_class is None:
        from psycopg2.extensions import connection
        connection_class = connection
    return connection_class


# The reactor used last, a borrowed reference. The next wait most often wants the same.
cdef PyObject *latest = NULL


@cython.final
cdef class Socket:
    """One connection's socket, as one reactor knows it."""

    # A weak reference without a callback. psycopg2 asks for such a reference in
    # each query, and CPython hands out the one that exists. The second reference
    # carries the callback that removes this record.
    cdef object connection
    cdef object forget_ref
    cdef size_t key  # id(connection)
    cdef object waiter  # the greenlet that is inside the wait callback for it, or None
    cdef object parked  # the same while it is parked here
    # In its first wait. libpq goes from one socket to the next then, so the
    # descriptor is asked for and armed anew for each park.
    cdef bint connecting
    cdef bint fd_stable  # psycopg2's own connections keep their descriptor once connected
    cdef bint green  # a GreenConnection: its poll() may refuse, its _green_poll() does not
    cdef Poll poll  # psycopg2's poll(); NULL where the loop looks up the method
    cdef void *pgconn  # what libpq calls it; NULL where the loop asks psycopg2 instead
    cdef int fd
    cdef int backend_pid  # of psycopg 3's connections: tells a connection from the one before pgconn.reset()
    cdef uint64_t token  # distinguishes its events from those of an earlier socket with the same number


@cython.final
cdef class ForgetCallback:
    """Remove the record of a connection when the connection is freed."""

    cdef object reactor
    cdef size_t key

    def __call__(self, reference):
        cdef Reactor reactor = self.reactor()
        if reactor is not None:
            reactor.forget(self.key)


@cython.final
cdef class ReadyCallback:
    """The function that the hub calls when the poller is ready.

    The hub keeps it, so it holds only a borrowed reference to the reactor.
    """

    cdef PyObject *reactor

    def __call__(self, fd=None):
        cdef Reactor reactor
        if self.reactor != NULL:
            # An owned reference: a greenlet of the batch may replace the hub's reactor.
            reactor = <Reactor>self.reactor
            reactor.dispatch()


@cython.final
cdef class Reactor:
    """The sockets that one hub waits for."""

    cdef object __weakref__
    cdef object adapter
    cdef object hub
    cdef object hub_greenlet  # the greenlet in which the hub runs its callbacks
    cdef object greenlet_type  # only greenlets of this type may switch to the hub directly; None: any
    cdef object plain_greenlet_type  # a greenlet type known to lack the hook `switch_out`
    cdef object watch
    cdef ReadyCallback ready_callback
    cdef dict sockets  # Socket by id(connection)
    cdef list armed  # Socket by descriptor, for the sockets in the poller
    cdef tuple wake_args  # the arguments of the switch into a parked greenlet
    cdef PyObject *recent[RECENT]  # Sockets by a part of their key, borrowed from `sockets`
    cdef Poller poller
    cdef unsigned long thread
    cdef unsigned int forks
    cdef uint32_t arms
    cdef int parked_count
    cdef Socket last_parked  # the socket on which a greenlet parked last
    cdef Socket waking  # the socket whose greenlet is being switched to
    cdef object woken  # the greenlet that the dispatch under way has switched to last, if it may wait directly
    cdef double slice_begun  # when a wait first asked for the time in this turn of the hub, 0 if none did
    cdef bint ask_poller  # a greenlet was woken and its socket was not ready: don't guess the next one
    cdef bint keeps_hub_alive
    cdef int stale_batches
    cdef bint stale  # the batch held an event that belongs to no socket and can't be disarmed
    # The batch under way. Not on the C stack: greenlet copies that at each switch.
    cdef bint dispatching
    cdef int position
    cdef int count
    cdef double fetch_until  # until when a batch may follow another; 0 in the first
    cdef poller_event events[BATCH]

    def __cinit__(self):
        global pollers
        self.poller.fd = poller_new()
        if self.poller.fd < 0:
            raise OSError(errno, "no poller can be made")
        self.poller.reactor = <PyObject *>self
        self.poller.next = pollers
        pollers = &self.poller

    def __init__(self, adapter, hub, greenlet_type):
        self.adapter = adapter
        self.hub = hub
        self.greenlet_type = greenlet_type
        self.hub_greenlet = adapter.greenlet(hub)
        self.sockets = {}
        self.armed = []
        self.forks = forks
        self.thread = PyThread_get_thread_ident()
        self.ready_callback = ReadyCallback.__new__(ReadyCallback)
        self.ready_callback.reactor = <PyObject *>self
        # Not of the reactor itself, which then would wait for the collector when its thread ends.
        self.wake_args = (self.ready_callback,)
        self.watch = adapter.watch(hub, self.poller.fd, self.ready_callback)

    def __del__(self):
        self.retire()

    def __dealloc__(self):
        global pollers
        cdef Poller **link = &pollers
        while link[0] != NULL:
            if link[0] == &self.poller:
                link[0] = self.poller.next
                break
            link = &link[0].next
        if self.poller.fd >= 0:
            close(self.poller.fd)

    cdef int retire(self) except -1:
        """Leave the hub for good."""
        global latest
        if latest == <PyObject *>self:
            latest = NULL
        if self.ready_callback is not None:
            self.ready_callback.reactor = NULL
        if is_finalizing():
            return 0
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
        if self.parked_count:
            _orphans.append(self)
        return 0

    cdef Socket socket(self, conn):
        """Return the record of *conn*, None if the reactor does not know it."""
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

    cdef Socket adopt(self, conn):
        """Make a record of *conn*, in its first wait; return None where that can't be done."""
        cdef ForgetCallback forget = ForgetCallback.__new__(ForgetCallback)
        cdef Socket sock = Socket.__new__(Socket)
        forget.reactor = weakref.ref(self)
        forget.key = sock.key = <size_t><PyObject *>conn
        try:
            sock.connection = weakref.ref(conn)
            sock.forget_ref = weakref.ref(conn, forget)
        except TypeError:
            return None
        sock.connecting = True
        sock.green = hasattr(conn, "_green_poll")
        psycopg2_poll = psycopg2_connection().poll if sock.green else None
        if sock.green and type(conn)._green_poll is psycopg2_poll and isinstance(conn, psycopg2_connection()):
            sock.poll = function_of(psycopg2_poll)
            # psycopg2's own poll() raises where there is no PGconn any more.
            load_transaction_status(conn)
            if transaction_status != NULL:
                sock.pgconn = <void *><size_t>(conn.pgconn_ptr or 0)
        if forks and sock.green:
            _forks.warn_of_inherited(conn._green_process)
        sock.fd = -1
        self.forget(sock.key)
        self.sockets[sock.key] = sock
        return sock

    cdef bint connects_anew(self, Socket sock, conn) except -1:
        """Tell whether *conn* connects again because its __init__() was called again; then it has another socket."""
        if not sock.fd_stable or conn.status != STATUS_CONNECTING:
            return False
        if self.is_armed(sock):
            self.disarm(sock.fd)
        sock.connecting = True
        sock.fd_stable = False
        if sock.pgconn != NULL:
            sock.pgconn = <void *><size_t>(conn.pgconn_ptr or 0)
        return True

    cdef int forget(self, size_t key) except -1:
        cdef Socket sock = self.sockets.pop(key, None)
        cdef PyObject **recent = &self.recent[(key >> 4) % RECENT]
        if recent[0] == <PyObject *>sock:
            recent[0] = NULL
        if sock is not None and self.is_armed(sock):
            self.armed[sock.fd] = None  # closing the socket removes it from the poller
        return 0

    cdef bint is_armed(self, Socket sock):
        return 0 <= sock.fd < len(self.armed) and self.armed[sock.fd] is sock

    cdef bint ensure_armed(self, Socket sock, conn) except -1:
        """Add *sock* to the poller unless it is there; return whether it is now."""
        if self.is_armed(sock):
            if sock.fd_stable:
                return True
            fd = conn.fileno()
            if fd == sock.fd and poller_has(self.poller.fd, sock.fd, sock.token):
                return True
            self.disarm(sock.fd)  # another socket has the number by now
        else:
            fd = conn.fileno()
        # The hub's own function raises for anything else.
        return isinstance(fd, int) and self.arm(sock, fd)

    cdef bint arm(self, Socket sock, int fd) except -1:
        cdef uint64_t token
        cdef Socket other
        if fd < 0:
            return False
        if len(self.armed) <= fd:
            self.armed.extend([None] * (fd + 1 - len(self.armed)))
        other = self.armed[fd]
        # The poller does not have a socket that was closed, though a greenlet waits for it.
        if other is not None and other.parked is not None and poller_has(self.poller.fd, fd, other.token):
            return False
        self.arms += 1
        token = <uint64_t>self.arms << 32 | <uint32_t>fd
        if poller_add(self.poller.fd, fd, token) < 0:
            return False
        sock.fd = fd
        sock.token = token
        self.armed[fd] = sock
        return True

    cdef bint disarm(self, int fd) except -1:
        """Remove *fd* from the poller; return whether it was there.

        The connection may have been closed and another file may have its number.
        That file is in this poller only if `armed` says so.
        """
        self.armed[fd] = None
        return poller_remove(self.poller.fd, fd) == 0

    cdef int set_ref(self, bint awaited) except -1:
        self.keeps_hub_alive = False  # in case set_ref() raises
        if self.watch is not None:  # retired, in the middle of a batch
            self.watch.set_ref(awaited)
        self.keeps_hub_alive = awaited
        return 0

    cdef PyObject *next_waiter(self) except? NULL:
        """Return the next greenlet of the batch under way, borrowed, or NULL."""
        cdef Socket sock
        cdef uint64_t token
        cdef uint32_t fd
        # After a fork the batch belongs to the parent, where its greenlets wait.
        while (self.position < self.count or self.fetch_again()) and self.forks == forks:
            token = poller_token(&self.events[self.position])
            self.position += 1
            fd = <uint32_t>token
            sock = self.armed[fd] if fd < <uint32_t>len(self.armed) else None
            if sock is None or sock.token != token:
                self.stale = True
            elif sock.parked is not None:
                # Cleared first: if the greenlet does not run at once, one event still wakes it only once.
                sock.parked = None
                self.waking = sock
                return <PyObject *>sock.waiter
            elif not self.disarm(fd):
                # Nobody waits: the server closed an idle connection, or sent a
                # notification. Left armed, the socket would be reported for ever.
                self.stale = True
        return NULL

    cdef bint fetch_again(self):
        """Follow the batch by another one if sockets are ready; return whether there are any.

        With many parked greenlets, more sockets are ready when a batch has run. To look
        again is cheaper than a turn of the hub; TIME_SLICE bounds it.
        """
        cdef double now
        if not self.count or self.parked_count < MANY or self.stale or self.forks != forks:
            return False
        now = monotonic()
        if self.fetch_until == 0:
            self.fetch_until = now + TIME_SLICE
        elif now > self.fetch_until:
            return False
        self.stale_batches = 0
        self.position = 0
        self.count = max(0, poller_fetch(self.poller.fd, self.events, BATCH))
        return self.count > 0

    cdef int park(self, Socket sock, bint direct) except -1:
        """Let other greenlets run until *sock* can be read.

        *direct*: the greenlet may switch to the hub without the hub's own switch().
        """
        cdef PyObject *waiter
        sock.parked = sock.waiter
        self.last_parked = sock
        self.parked_count += 1
        try:
            if not self.keeps_hub_alive:
                self.set_ref(True)
            if not direct:
                result = self.adapter.switch(self.hub)
            else:
                # In the middle of a batch, the hub's greenlet would only switch
                # on to the batch's next greenlet.
                waiter = self.next_waiter()
                if waiter == <PyObject *>sock.waiter:
                    result = self.ready_callback
                elif waiter == NULL:
                    target = self.hub_greenlet  # a reference, which the call needs until it returns: see wake()
                    result = PyGreenlet_Switch(<PyGreenlet *>target, NULL, NULL)
                else:
                    target = <object>waiter
                    result = PyGreenlet_Switch(<PyGreenlet *>target, <PyObject *>self.wake_args, NULL)
            if self.waking is not None:
                if result is self.ready_callback and sock.parked is not None and self.waking.waiter is sock.waiter:
                    # A signal handler or __del__ waits here, called from within
                    # set_ref() or switch() of another wait of this greenlet. The
                    # wake-up was for that other wait. Its socket is still
                    # readable, so park it again.
                    self.waking.parked = sock.waiter
                self.waking = None
        finally:
            sock.parked = None
            self.parked_count -= 1
            if not self.parked_count and not self.dispatching:
                self.set_ref(False)  # this greenlet was killed, so no dispatch will do it
        if result is not self.ready_callback:
            self.adapter.stray_switch(self.hub, result)
        if direct:
            self.set_woken(sock.waiter)
        return 0

    cdef int set_woken(self, waiter) except -1:
        # The old one is dropped last, at the end of this function: that may be its end, and the code
        # that it then runs may come here.
        old = self.woken
        self.woken = waiter
        return 0

    cdef bint has_time(self):
        """Return whether a greenlet may go on without waiting. The first call in a turn of the hub starts the clock."""
        cdef double now = monotonic()
        if self.slice_begun == 0:
            self.slice_begun = now
        return now - self.slice_begun < BUSY_SLICE

    cdef int end_time_slice(self) except -1:
        """Let other greenlets run."""
        if self.forks == forks:
            end_time_slice_in_hub(self.adapter)
            self.slice_begun = 0
        return 0

    cdef int dispatch(self) except -1:
        """Switch to each greenlet whose socket is ready."""
        if self.forks != forks:
            return 0
        self.slice_begun = 0
        if self.greenlet_type is not None and current_greenlet() is not self.hub_greenlet:
            self.hub_greenlet = self.adapter.adopt_greenlet(self.hub)
        self.dispatch_batches()
        if self.forks == forks and self.keeps_hub_alive and not self.parked_count:
            self.release()
        return 0

    cdef int release(self) except -1:
        """Let the hub's loop end although this descriptor is watched."""
        try:
            self.set_ref(False)
        except BaseException as exc:
            # A signal handler raised it. If it escaped, the hub would stop
            # watching the descriptor. Caught in this function, not in dispatch():
            # greenlet copies dispatch()'s frame at each switch.
            self.report(exc)
        return 0

    cdef int dispatch_batches(self) except -1:
        """Switch to the greenlets whose sockets are ready now."""
        cdef PyObject *waiter
        if (
            POLLER_READABLE_IS_NEWS
            and self.parked_count == 1
            and self.last_parked.fd_stable
            and self.last_parked.parked is not None
            and not self.ask_poller
        ):
            # Only one greenlet waits, so the poller need not be asked which. If the
            # event was another socket's, libpq finds nothing to read and the
            # greenlet parks again.
            self.dispatching = True
            self.last_parked.parked = None  # as in next_waiter()
            try:
                self.wake(<PyObject *>self.last_parked.waiter)
                self.wake_tasks()
            finally:
                self.dispatching = False
            return 0
        self.ask_poller = False
        self.fetch_until = 0
        self.position = 0
        self.count = poller_fetch(self.poller.fd, self.events, BATCH)
        if self.count < 0:
            self.count = 0
            if errno == EBADF:
                self.rebuild()
            return 0
        self.stale = False
        self.dispatching = True
        try:
            while True:
                waiter = self.next_waiter()
                if waiter != NULL:
                    self.wake(waiter)
                elif not self.wake_tasks():
                    break
        finally:
            self.dispatching = False
            self.position = self.count = 0
        if self.forks != forks:
            return 0
        if not self.stale:
            self.stale_batches = 0
            return 0
        # Once can be a connection that an earlier greenlet of the batch closed.
        # Twice is a socket that is closed here but still open in a child process:
        # epoll goes on to report it, and there is no descriptor to remove it by.
        self.stale_batches += 1
        if self.stale_batches > 1:
            self.rebuild()
        return 0

    cdef int wake(self, PyObject *waiter) except -1:
        # greenlet looks at the target once more when somebody switches back, and the target may have ended by then.
        target = <object>waiter
        try:
            PyGreenlet_Switch(<PyGreenlet *>target, <PyObject *>self.wake_args, NULL)
        except BaseException as exc:
            self.report(exc)
        finally:
            self.set_woken(None)
        return 0

    cdef bint wake_tasks(self) except -1:
        """On asyncio, make the tasks go on that wait for a greenlet which has ended; return whether there are any."""
        cdef int count = self.count
        if self.greenlet_type is None or self.forks != forks:
            return False
        # A greenlet that parks meanwhile has no batch to go on with. It returns to its task.
        self.position = self.count = 0
        woken = self.hub.wake_tasks()
        self.position = self.count = count
        return woken

    cdef int report(self, exc) except -1:
        try:
            self.adapter.handle_error(self.hub, exc)
        except BaseException as raised:
            # An exception other than *exc* comes from a signal handler. It leaves
            # the hub's callback, and the hub then stops watching the descriptor.
            if raised is not exc:
                self.rebuild()
            raise
        return 0

    cdef int rebuild(self) except -1:
        """Replace the poller, and add only the sockets of parked greenlets."""
        if self.watch is None:
            return 0
        try:
            self.replace_poller()
        except BaseException as exc:
            self.report(exc)  # a signal handler raised it
        return 0

    cdef int replace_poller(self) except -1:
        cdef Socket sock
        cdef int old = self.poller.fd
        cdef int fd = poller_new()
        if fd < 0:
            return 0  # no descriptor is free: the next batch tries again
        # A signal handler can raise in each call of Python code. The reactor then
        # has either the old poller or the new one, and the hub watches it.
        watch = None
        try:
            watch = self.adapter.watch(self.hub, fd, self.ready_callback)
            watch.set_ref(self.keeps_hub_alive)
        except BaseException:
            if watch is not None:
                watch.stop()
            close(fd)
            raise
        old_watch, self.watch = self.watch, watch
        self.poller.fd = fd
        self.armed = []
        self.stale_batches = 0
        broken = []
        for sock in list(self.sockets.values()):
            if sock.parked is not None and not self.arm(sock, sock.fd):
                broken.append(sock)
        try:
            old_watch.stop()
        except BaseException:
            # The hub must not go on to watch a closed descriptor.
            old_watch.stop()
            raise
        finally:
            close(old)
            for sock in broken:
                sock.parked = None
                self.wake(<PyObject *>sock.waiter)  # its next poll() says what is wrong
        return 0


cdef void after_fork_in_child() noexcept nogil:
    # A child process must not change its parent's pollers. So it replaces each by a
    # new one under the same number, which its copy of the hub watches.
    global forks
    cdef Poller *poller = pollers
    forks += 1
    while poller != NULL:
        poller.fd = poller_renew(poller.fd)
        poller = poller.next


pthread_atfork(NULL, NULL, after_fork_in_child)


# Reactors with parked greenlets that nothing will wake: a replaced hub's, and in
# a child process the parent's. If the collector took those greenlets, it would end
# connections that the parent process uses.
_orphans = []


def keep_parents_greenlets():
    cdef Poller *poller = pollers
    while poller != NULL:
        if (<Reactor>poller.reactor).parked_count:
            _orphans.append(<Reactor>poller.reactor)
        poller = poller.next


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keep_parents_greenlets)
