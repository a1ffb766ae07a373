"""One wait through the hub's public functions, or in ``poll(2)`` where a thread has no hub."""

import threading
import time
from typing import Any

from psycogreen import _waiters
from psycogreen._adapter import Adapter

# psycopg2.extensions.POLL_*, written out so that psycogreen imports without psycopg2.
POLL_OK, POLL_READ, POLL_WRITE = 0, 1, 2

# Ready to read or to write, whichever comes first: libpq's documentation of
# PQflush() asks for that wait. psycopg2 has no name for it.
POLL_READWRITE = 4

# The states for psycopg 3's numbers of the events that it waits for.
_STATES = {1: POLL_READ, 2: POLL_WRITE, 3: POLL_READWRITE}

# Seconds for which a greenlet that has work without a wait may keep the others waiting.
TIME_SLICE = 0.005

# psycopg2.extensions.TRANSACTION_STATUS_ACTIVE.
TRANSACTION_ACTIVE = 1

# Seconds between two looks at a descriptor that the hub cannot watch.
LOOK_AGAIN = 0.01

# select.POLLIN and POLLOUT, which monkey-patching may have removed.
_EVENTS = {POLL_READ: 1, POLL_WRITE: 4, POLL_READWRITE: 1 | 4}


def park(adapter: Adapter, conn: Any, state: int, timeout: Any) -> None:
    """Let other greenlets run until the socket of *conn* is ready.

    Each call asks *conn* for its descriptor: while connecting, libpq goes from one
    socket to the next.

    Args:
        adapter: The coroutine library.
        conn: The connection that waits.
        state: What its ``poll()`` returned.
        timeout: Seconds, or the library's value for "no limit".

    Raises:
        TimeoutError: *timeout* ended first.
        psycopg2.OperationalError: *state* is not one that psycopg2 documents.
    """
    if state not in (POLL_READ, POLL_WRITE, POLL_READWRITE):
        import psycopg2

        raise psycopg2.OperationalError(f"Bad result from poll: {state!r}")
    if adapter.current() is None:
        wait_in_thread(adapter, conn.fileno(), state, adapter.timeout_seconds(timeout))
    elif state == POLL_READ:
        adapter.wait_read(conn.fileno(), timeout)
    elif state == POLL_WRITE:
        adapter.wait_write(conn.fileno(), timeout)
    else:
        adapter.wait_readwrite(conn.fileno(), timeout)


def wait_in_thread(adapter: Adapter, fd: int, state: int, timeout: float | None) -> None:
    """Wait in ``poll(2)`` until *fd* is ready. This blocks only the running thread, which has no hub.

    Args:
        adapter: The coroutine library.
        fd: The descriptor.
        state: POLL_READ, POLL_WRITE or POLL_READWRITE.
        timeout: Seconds; None is no limit.

    Raises:
        TimeoutError: *timeout* ended first.
        WaitTimeout: The thread is inside a WaitTimeout, which ended first.
    """
    ended = _wait_in_thread(adapter, fd, state, timeout)
    if ended is not None:
        raise ended


def _wait_in_thread(adapter: Adapter, fd: int, state: int, timeout: float | None) -> BaseException | None:
    """Do what wait_in_thread() does, but return its exception: a signal handler may raise one of the same class."""
    poller = adapter.poll()
    poller.register(fd, _EVENTS[state])
    seconds, ended = effective_timeout(timeout)
    return None if poller.poll(None if seconds is None else max(0, seconds * 1000)) else ended


def is_ready(poller: Any, fd: int, state: int) -> bool:
    """Ask *poller*, a new ``select.poll`` object, whether *fd* is ready for *state* now."""
    poller.register(fd, _EVENTS[state])
    return bool(poller.poll(0))


def wait_ready(adapter: Adapter, fd: int, events: int, seconds: float | None) -> int:
    """Wait until *fd* is ready; return those of *events* for which it is.

    Events are psycopg 3's numbers: 1 to read, 2 to write, 3 both. If the result is 0, the
    descriptor is not ready yet, and the caller may have to wait again.

    Args:
        adapter: The coroutine library.
        fd: The descriptor.
        events: Wait until *fd* is ready for one of these.
        seconds: The longest wait; None is no limit.
    """
    if events != POLL_READ or seconds is not None:
        ready = _ready_events(adapter, fd, events)
        if ready:
            end_time_slice(adapter)
            return ready
    state = _STATES[events]
    if adapter.current() is None:
        ended = _wait_in_thread(adapter, fd, state, seconds)
        if isinstance(ended, WaitTimeout):
            raise ended
    elif seconds is None:
        _wait_in_hub(adapter, fd, state)
    elif seconds <= 0:
        adapter.pause()
    else:
        limit = adapter.timeout(seconds)
        try:
            with limit:
                _wait_in_hub(adapter, fd, state)
        except BaseException as exc:
            if exc is not limit:
                raise
    _slices.begun = time.monotonic()
    return POLL_READ if events == POLL_READ and seconds is None else _ready_events(adapter, fd, events)


def _wait_in_hub(adapter: Adapter, fd: int, state: int) -> None:
    if state == POLL_READ:
        adapter.wait_read(fd, None)
    elif state == POLL_WRITE:
        adapter.wait_write(fd, None)
    else:
        adapter.wait_readwrite(fd, None)


def _ready_events(adapter: Adapter, fd: int, events: int) -> int:
    poller = adapter.poll()
    poller.register(fd, _EVENTS[_STATES[events]])
    for _, bits in poller.poll(0):
        # Both if the socket is broken: libpq then says what is wrong with it.
        return (bits & 1 and POLL_READ) | (bits & 4 and POLL_WRITE) or events
    return 0


class _Slices(threading.local):
    begun = 0.0


# The time since when the running greenlet of each thread runs: about the end of the thread's last wait.
_slices = _Slices()


def end_time_slice(adapter: Adapter) -> None:
    """Let other greenlets run if the running one has not waited for TIME_SLICE."""
    now = time.monotonic()
    if now - _slices.begun < TIME_SLICE:
        return
    if may_wait(adapter):
        adapter.pause()
    _slices.begun = time.monotonic()


def may_wait(adapter: Adapter) -> bool:
    """Return whether the running greenlet may let others run: the hub's own must not."""
    hub = adapter.current()
    if hub is None:
        return False
    decide = getattr(adapter, "may_wait", None)
    return bool(decide(hub)) if decide is not None else _waiters.getcurrent() is not adapter.greenlet(hub)


_thread = threading.local()


class WaitTimeout(BaseException):
    """A limit on all waits in a block, for a waiter into which nothing can be thrown.

    Such a waiter is a native thread without a hub, or an async core of uWSGI. A
    wait in the block raises this object when *seconds* have passed since its start.
    """

    def __init__(self, seconds: float, waiter: Any = _thread) -> None:
        self._seconds = seconds
        self._waiter = waiter

    def __enter__(self) -> None:
        self._end = time.monotonic() + self._seconds
        self._waiter.timeout = self

    def __exit__(self, *exc: object) -> None:
        self._waiter.timeout = None

    def left(self) -> float:
        """Return the seconds until it ends."""
        return max(0, self._end - time.monotonic())


def effective_timeout(timeout: float | None, waiter: Any = _thread) -> tuple[float | None, BaseException]:
    """Return how long a wait of *waiter* may take, and the exception to raise after that.

    The wait is limited by *timeout* and by the `WaitTimeout` that *waiter* is in.
    """
    outer = getattr(waiter, "timeout", None)
    if outer is not None and (timeout is None or outer.left() < timeout):
        return outer.left(), outer
    return timeout, TimeoutError("timed out")
