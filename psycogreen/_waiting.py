"""One wait through the hub's public functions, or in ``poll(2)`` where a thread has no hub."""

import threading
import time
from typing import Any

from psycogreen._adapter import Adapter

# psycopg2.extensions.POLL_*, written out so that psycogreen imports without psycopg2.
POLL_OK, POLL_READ, POLL_WRITE = 0, 1, 2

# Ready to read or to write, whichever comes first: libpq's documentation of
# PQflush() asks for that wait. psycopg2 has no name for it.
POLL_READWRITE = 4

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
    """Wait in ``poll(2)`` until *fd* is ready: a native thread without a hub waits alone.

    Args:
        adapter: The coroutine library.
        fd: The descriptor.
        state: POLL_READ, POLL_WRITE or POLL_READWRITE.
        timeout: Seconds; None is no limit.

    Raises:
        TimeoutError: *timeout* ended first.
        WaitTimeout: The thread is inside a WaitTimeout, which ended first.
    """
    poller = adapter.poll()
    poller.register(fd, _EVENTS[state])
    seconds, ended = effective_timeout(timeout)
    if not poller.poll(None if seconds is None else max(0, seconds * 1000)):
        raise ended


def is_ready(poller: Any, fd: int, state: int) -> bool:
    """Ask *poller*, a new ``select.poll`` object, whether *fd* is ready for *state* now."""
    poller.register(fd, _EVENTS[state])
    return bool(poller.poll(0))


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
