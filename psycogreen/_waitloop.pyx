# cython: language_level=3, boundscheck=False, wraparound=False
"""The wait loop, compiled.

It behaves as ``_waitloop_py.py`` does. A wait for an answer goes through the
reactor of the hub (``_reactor.pxi``), where parking is a store and a switch.
All other waits go through the pure loop: for POLL_WRITE, with a timeout, in a
thread without a hub, and where no descriptor is free for a poller.
"""

import functools
import os
import sys
import weakref

from greenlet import __version__ as greenlet_version

cimport cython
from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.object cimport PyObject
from cpython.pystate cimport PyThreadState_GetDict
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EBADF, EMFILE, ENFILE, ENOMEM, ENOSPC, errno
from libc.stdint cimport uint32_t, uint64_t

from psycogreen import _forks
from psycogreen._waiting import end_time_slice as end_time_slice_in_hub
from psycogreen._waiting import park as park_in_hub
from psycogreen._waiting import wait_ready
from psycogreen._waiters import has_waiter as pure_has_waiter
from psycogreen._waiters import in_use_error
from psycogreen._waiters import replaced_polls as _replaced_polls
from psycogreen._waiters import waiter_of as pure_waiter_of
from psycogreen._waiters import waiters
from psycogreen._waitloop_py import generator_wait as pure_generator_wait
from psycogreen._waitloop_py import wait_callback as pure_wait_callback

# An older one's C interface lacks functions that are called here, and calling them would crash.
if int(greenlet_version.partition(".")[0]) < 2:
    raise ImportError(f"it needs greenlet 2 or later, and greenlet {greenlet_version} is installed")

implementation = "cython"

# The greenlets that wait in the pure loop.
cdef dict pure_waiters = waiters
cdef set replaced_polls = _replaced_polls

cdef extern from "greenlet.h":
    ctypedef struct PyGreenlet
    void **_PyGreenlet_API
    void PyGreenlet_Import()
    PyGreenlet *PyGreenlet_GetCurrent() except NULL
    PyGreenlet *PyGreenlet_GetParent(PyGreenlet *)
    object PyGreenlet_Switch(PyGreenlet *, PyObject *, PyObject *)
    bint PyGreenlet_ACTIVE(PyGreenlet *)

cdef extern from "Python.h":
    int PYGEN_RETURN
    # Its result is a new reference: what the generator yielded or returned.
    int PyIter_Send(object, object, PyObject **) except -1

cdef enum:
    POLL_OK = 0
    POLL_READ = 1
    POLL_WRITE = 2
    # libpq's PGTransactionStatusType, and psycopg2's number for it.
    TRANSACTION_ACTIVE = 1
    # What a generator of psycopg 3's does. It raises exceptions of its own only while it runs.
    UNSTARTED = 0
    RUNNING = 1
    WAITING = 2
    # psycopg2's `connection.status` after the first poll(); it has no name there.
    STATUS_CONNECTING = 20

# The errors of a system that has no descriptor or no memory left.
cdef tuple NOTHING_LEFT = (EMFILE, ENFILE, ENOMEM, ENOSPC)

# libpq's PQtransactionStatus(), as psycopg2 loaded it.
ctypedef int (*TransactionStatus)(const void *) noexcept
cdef TransactionStatus transaction_status = NULL

include "_reactor.pxi"

poller = (<bytes>POLLER).decode()


cdef int load_transaction_status(conn) except -1:
    global transaction_status
    if transaction_status == NULL:
        transaction_status = <TransactionStatus><size_t>conn._green_transaction_status()
    return 0


cdef bint in_copy(Socket sock, conn) except -1:
    """Tell whether *conn*, whose poll() says that the answer is there, still executes a command: it met a COPY."""
    if sock.pgconn != NULL:
        return transaction_status(sock.pgconn) == TRANSACTION_ACTIVE
    return conn.get_transaction_status() == TRANSACTION_ACTIVE


cdef Reactor hub_reactor(adapter, hub, greenlet_type):
    """Return the reactor of *hub*, a new one if need be; None where no descriptor is free for it."""
    # gevent's and eventlet's reactors live as long as their thread, although the
    # thread's hub may be replaced. asyncio's event loops take turns in a thread,
    # so each of those keeps its own reactor.
    cdef dict local = <dict>PyThreadState_GetDict() if greenlet_type is None else <dict?>hub.reactors
    cdef Reactor reactor = local.get(adapter)
    if reactor is not None:
        if reactor.hub is hub and reactor.forks == forks and reactor.thread == PyThread_get_thread_ident():
            return reactor
        del local[adapter]
        reactor.retire()
    try:
        reactor = Reactor(adapter, hub, greenlet_type)
    except OSError as exc:
        if exc.errno not in NOTHING_LEFT:
            raise  # a signal handler's: TimeoutError is an OSError
        return None
    local[adapter] = reactor
    return reactor


cdef extern from *:
    """
    /* All greenlets of a thread share its C stack. When one goes on, greenlet copies away what
       others have below the place where that one began. uvloop calls its callbacks with
       16 KB of arrays on the stack: begun below them, a greenlet leaves them in place. */
    static PyObject *start_below(PyGreenlet *greenlet)
    {
        volatile char room[32768];
        PyObject *result;
        room[0] = 0;
        result = PyGreenlet_Switch(greenlet, NULL, NULL);
        (void)room[0]; /* it must exist until here */
        return result;
    }
    """
    object start_below(PyGreenlet *)


def start_greenlet(greenlet):
    """See ``_waitloop_py.py``."""
    current_greenlet()  # loads greenlet's functions
    start_below(<PyGreenlet *>greenlet)


cdef object current_greenlet():
    """Return the running greenlet."""
    if _PyGreenlet_API == NULL:
        PyGreenlet_Import()
    cdef PyGreenlet *me = PyGreenlet_GetCurrent()
    owned = <object>me
    Py_XDECREF(<PyObject *>me)
    return owned


cdef PyObject *parent_of(greenlet):
    """Return the parent of *greenlet*, borrowed; NULL if it has none."""
    cdef PyGreenlet *parent = PyGreenlet_GetParent(<PyGreenlet *>greenlet)
    Py_XDECREF(<PyObject *>parent)  # the greenlet keeps it
    return <PyObject *>parent


cdef Reactor reactor_for(adapter, greenlet_type, me, bint *direct):
    """Return the reactor for *me*, the running greenlet; None if the greenlet must wait through the hub.

    Set *direct* if the greenlet may switch to the hub without the hub's own switch().
    """
    global latest
    cdef Reactor reactor
    cdef PyObject *parent
    if latest != NULL:
        reactor = <Reactor>latest
        if (
            # While a reactor dispatches in this thread, its hub is the running
            # hub: the adapter need not be asked.
            reactor.dispatching
            and reactor.thread == PyThread_get_thread_ident()
            and reactor.adapter is adapter
            and reactor.forks == forks
            and (
                me is reactor.woken
                or type(me) is reactor.plain_greenlet_type
                and parent_of(me) == <PyObject *>reactor.hub_greenlet
            )
        ):
            direct[0] = True
            return reactor
    hub = adapter.current()
    if hub is None:
        return None
    reactor = hub_reactor(adapter, hub, greenlet_type)
    if reactor is None:
        return None
    # eventlet makes a new greenlet for its hub after an exception has ended the old one.
    reactor.hub_greenlet = adapter.greenlet(hub)
    if me is reactor.hub_greenlet:
        return None
    latest = <PyObject *>reactor
    parent = parent_of(me)
    direct[0] = (
        parent == <PyObject *>reactor.hub_greenlet
        and PyGreenlet_ACTIVE(<PyGreenlet *>parent)
        and (not hasattr(me, "switch_out") if greenlet_type is None else type(me) is greenlet_type)
    )
    if direct[0]:
        reactor.plain_greenlet_type = type(me)
    return reactor


cdef int known_state(state) except -2:
    """Return *state* as a number of C; -1 if the loop does not know it."""
    cdef long number
    cdef int overflow
    if type(state) is int:
        number = PyLong_AsLongAndOverflow(state, &overflow)
        return number if 0 <= number <= POLL_WRITE else -1
    for number in range(POLL_WRITE + 1):
        if state == number:
            return number
    return -1


cdef int wait_in_reactor(adapter, conn, timeout, Reactor reactor, Socket sock, bint direct) except -1:
    cdef bint woken = False, parked = True
    cdef double since = 0
    cdef int unchecked = 0, streak = 0, poll_state
    while True:
        if reactor.forks != forks:
            _forks.abandon(adapter, conn)  # a copy, in a child process: the socket is the parent's
        if sock.poll != NULL and not replaced_polls:
            state = sock.poll(conn, NULL)
        else:
            state = conn._green_poll() if sock.green else conn.poll()
        poll_state = known_state(state)
        if poll_state == POLL_OK:
            if sock.green and in_copy(sock, conn) and conn._green_leave_copy():
                continue
            return 0
        if poll_state != POLL_READ:
            if poll_state == POLL_WRITE and (sock.connecting or reactor.connects_anew(sock, conn)):
                # A unix socket is connected by now, and so is most often one to this machine.
                # But others get their turn between any two such states.
                fd = conn.fileno()
                parked = not (parked and isinstance(fd, int) and writable(fd))
                if parked:
                    adapter.wait_write(fd, timeout)
            else:
                park_in_hub(adapter, conn, state, timeout)
            continue
        if woken:
            reactor.ask_poller = True
            if not sock.connecting and (unchecked or readable(sock.fd)):
                # More of a large result is there: read on before parking again.
                if since == 0:
                    since = monotonic()
                if (monotonic() - since) * max(reactor.count, 1) < TIME_SLICE:
                    if unchecked:
                        unchecked -= 1
                    else:
                        unchecked = streak = min(2 * streak + 1, MAX_UNCHECKED_POLLS)
                    continue
            else:
                streak = 0
        if not reactor.ensure_armed(sock, conn):
            park_in_hub(adapter, conn, state, timeout)
            continue
        reactor.park(sock, direct)
        woken = parked = True
        since = 0
        unchecked = 0


cdef int notify_interrupted(conn) except -1:
    """Tell a green connection that an exception is about to end its wait."""
    interrupted = getattr(conn, "_green_interrupted", None)
    if interrupted is not None:
        interrupted()
    return 0


cdef int abandon(conn, Reactor reactor, Socket sock) except -1:
    """Clean up after an exception has ended the wait. Apart from the wait, because greenlet copies its frame."""
    if reactor.forks != forks:
        _forks.disconnect(conn)
        return 0
    # psycopg2 now closes the connection, and another file may get the descriptor.
    if reactor.is_armed(sock):
        reactor.disarm(sock.fd)
    return notify_interrupted(conn)


def waiter_of(conn):
    """See ``_waiters.py``."""
    cdef Poller *poller = pollers
    cdef Reactor reactor
    cdef Socket sock
    while poller != NULL:
        reactor = <Reactor>poller.reactor
        # A retired reactor may be about to be freed. But a child process has copies of the
        # greenlets that wait in its parent, and they hold the copies of the mutexes.
        if reactor.thread == PyThread_get_thread_ident() and (
            reactor.watch is not None if reactor.forks == forks else reactor.sockets is not None
        ):
            sock = reactor.socket(conn)
            if sock is not None and sock.waiter is not None:
                return sock.waiter
        poller = poller.next
    # No call of Python code: each commit() asks this.
    return pure_waiter_of(conn) if pure_waiters and id(conn) in pure_waiters else None


def has_waiter(conn):
    """See ``_waiters.py``."""
    cdef Poller *poller = pollers
    cdef Socket sock
    while poller != NULL:
        sock = (<Reactor>poller.reactor).socket(conn) if (<Reactor>poller.reactor).watch is not None else None
        if sock is not None and sock.waiter is not None:
            return True
        poller = poller.next
    return pure_has_waiter(conn)


def wait_callback(adapter):
    """Make a documented stub the wait callback for a hub; see ``_waitloop_py.py``."""
    if not hasattr(adapter, "watch"):
        return pure_wait_callback(adapter)
    greenlet_type = getattr(adapter, "greenlet_type", None)

    def decorate(stub):
        (unlimited,) = stub.__defaults__
        wait_in_hub = pure_wait_callback(adapter)(stub)

        def wait(conn, timeout=unlimited):
            cdef Reactor reactor
            cdef Socket sock
            cdef bint direct = False
            if timeout is not unlimited:
                wait_in_hub(conn, timeout)
                return
            me = current_greenlet()
            try:
                reactor = reactor_for(adapter, greenlet_type, me, &direct)
            except BaseException:  # raised by a signal handler; the query was sent already
                notify_interrupted(conn)
                raise
            sock = None
            if reactor is not None:
                sock = reactor.socket(conn)
                if sock is None:
                    sock = reactor.adopt(conn)
            if sock is None:
                wait_in_hub(conn)
                return
            if sock.waiter is not None and sock.waiter is not me:
                raise in_use_error("the wait callback")
            sock.waiter = me
            try:
                wait_in_reactor(adapter, conn, timeout, reactor, sock, direct)
                if sock.connecting:
                    sock.connecting = False
                    sock.fd_stable = isinstance(conn, psycopg2_connection())
            except BaseException:
                abandon(conn, reactor, sock)
                raise
            finally:
                sock.waiter = None

        return functools.update_wrapper(wait, stub)

    return decorate


cdef object run_in_reactor(adapter, conn, generator, Reactor reactor, Socket sock, bint direct, int *state):
    """Run *generator*; return its result. *state* says what it does."""
    cdef PyObject *answer
    cdef bint woken = False
    cdef int status, events, now, fd, pid
    ready = None
    pgconn = conn.pgconn
    fd = pgconn.socket
    pid = pgconn.backend_pid
    # After pgconn.reset(), another socket may have the number.
    if sock.fd != fd or sock.backend_pid != pid or not reactor.is_armed(sock):
        if reactor.is_armed(sock):
            reactor.disarm(sock.fd)
        sock.fd = fd
        sock.backend_pid = pid
    # Before the first step: an exception raised here must not hide the generator's result.
    if reactor.slice_begun != 0 and not reactor.has_time():
        reactor.end_time_slice()
        if reactor.forks != forks:
            _forks.abandon(adapter, conn)
    state[0] = RUNNING
    while True:
        status = PyIter_Send(generator, ready, &answer)
        result = <object>answer
        Py_XDECREF(answer)
        if status == PYGEN_RETURN:
            if not woken:
                reactor.has_time()
            return result
        state[0] = WAITING
        events = result
        if woken:
            reactor.ask_poller = True
        now = ready_events(fd, events) if woken or events != POLL_READ else 0
        if now and reactor.has_time():
            ready = now
            state[0] = RUNNING
            continue
        if events == POLL_READ and (reactor.is_armed(sock) or reactor.arm(sock, fd)):
            reactor.park(sock, direct)
            ready = events
        elif now:
            reactor.end_time_slice()
            ready = now
        else:
            ready = wait_ready(adapter, fd, events, None)
        woken = True
        if reactor.forks != forks:
            _forks.abandon(adapter, conn)  # a copy, in a child process: the socket is the parent's
        state[0] = RUNNING


def generator_wait(adapter, interrupted):
    """Make the function that waits for a generator of psycopg 3's; see ``_waitloop_py.py``."""
    wait_in_hub = pure_generator_wait(adapter, interrupted)
    if not hasattr(adapter, "watch"):
        return wait_in_hub
    greenlet_type = getattr(adapter, "greenlet_type", None)

    def wait(conn, generator, interval=None, timeout=None, ended=TimeoutError):
        cdef Reactor reactor
        cdef Socket sock = None
        cdef bint direct = False
        cdef int state = UNSTARTED
        if interval is not None or timeout is not None:
            return wait_in_hub(conn, generator, interval, timeout, ended)
        me = current_greenlet()
        reactor = reactor_for(adapter, greenlet_type, me, &direct)
        if reactor is not None:
            sock = reactor.socket(conn)
            if sock is None:
                sock = reactor.adopt(conn)
                if sock is not None:
                    sock.connecting = False
                    sock.fd_stable = True
                    if forks:
                        _forks.warn_of_inherited(getattr(conn.lock, "process", _forks.current()))
        if sock is None:
            return wait_in_hub(conn, generator)
        if sock.waiter is not None and sock.waiter is not me:
            raise in_use_error("wait()", "psycopg")
        sock.waiter = me
        try:
            return run_in_reactor(adapter, conn, generator, reactor, sock, direct, &state)
        except BaseException as exc:
            if reactor.forks != forks:
                _forks.disconnect(conn)
                raise
            if state != RUNNING or not isinstance(exc, Exception):
                # The connection may be closed now, and another file may get the descriptor.
                if reactor.is_armed(sock):
                    reactor.disarm(sock.fd)
                interrupted(conn, exc, state == UNSTARTED)
            raise
        finally:
            sock.waiter = None

    return wait
