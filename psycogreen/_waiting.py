"""Parking through the hub's public wait functions, for one wait."""

import threading
import time
from typing import Any

from psycogreen._adapter import Adapter

# psycopg2.extensions.POLL_*: written out so that psycogreen imports without it.
POLL_OK, POLL_READ, POLL_WRITE = 0, 1, 2

# For reading or writing, whichever can be done first: what libpq's
# documentation of PQflush() asks for. psycopg2 has no name for it.
POLL_READWRITE = 4

# select.POLLIN and POLLOUT, which monkey-patching may have taken away.
_EVENTS = {POLL_READ: 1, POLL_WRITE: 4, POLL_READWRITE: 1 | 4}


def park(adapter: Adapter, conn: Any, state: int, timeout: Any) -> None:
    """Let others run until *conn* is ready for what its ``poll()`` asked for.

    The descriptor is asked for at each call: while connecting, libpq goes from
    one socket to the next.

    Args:
        adapter: The coroutine library.
        conn: The connection that waits.
        state: What its ``poll()`` returned.
        timeout: Seconds, or what the library takes for no limit.

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
        WaitTimeout: The one that the thread is in ended first.
    """
    poller = adapter.poll()
    poller.register(fd, _EVENTS[state])
    seconds, ended = effective_timeout(timeout)
    if not poller.poll(None if seconds is None else max(0, seconds * 1000)):
        raise ended


_thread = threading.local()


class WaitTimeout(BaseException):
    """A hub's timeout, where nobody can throw one: for a native thread without a hub.

    A context manager, in which a wait of the thread, or of another *waiter*,
    raises it once *seconds* have passed.
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
    """Return the seconds that a wait of *waiter* may take, for which *timeout* are asked, and what ends it then."""
    outer = getattr(waiter, "timeout", None)
    if outer is not None and (timeout is None or outer.left() < timeout):
        return outer.left(), outer
    return timeout, TimeoutError("timed out")
