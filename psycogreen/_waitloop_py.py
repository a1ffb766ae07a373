"""The wait loop in pure Python.

It is the reference for how the compiled loop (``_waitloop.pyx``) behaves, and
takes its place where that one was not built.
"""

import functools
import time
from collections.abc import Callable, Generator
from typing import Any
from weakref import ref

from psycogreen import _forks, _waiters
from psycogreen._adapter import Adapter
from psycogreen._waiters import add_waiter, has_waiter, waiter_of, waiters
from psycogreen._waiting import POLL_OK, POLL_READ, POLL_WRITE, TRANSACTION_ACTIVE, end_time_slice, park, wait_ready

__all__ = ["generator_wait", "has_waiter", "implementation", "poller", "start_greenlet", "waiter_of", "wait_callback"]

implementation = "python"
poller: str | None = None  # it has no reactor


def start_greenlet(greenlet: Any) -> None:
    """Start *greenlet*, a new one that will wait often and live long.

    The compiled loop starts it further down the C stack, where switches to it cost less.
    """
    greenlet.switch()


def wait_callback(adapter: Adapter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a documented stub the wait callback for *adapter*.

    The stub gives the callback its name, its docstring, and the default of
    *timeout*, which stands for "wait without limit".
    """

    def decorate(stub: Callable[..., None]) -> Callable[..., None]:
        (unlimited,) = stub.__defaults__  # type: ignore[misc]
        make_reader = getattr(adapter, "reader", None)

        # Each line of it runs in each query. Hence local names, and few calls.
        def wait(conn: Any, timeout: Any = unlimited) -> None:
            key = id(conn)
            begun = _forks.count
            if begun < 0:
                begun = _forks.current()
            me = _waiters.getcurrent()
            mine = ref(me)
            if waiters.setdefault(key, mine) is not mine:
                add_waiter(conn)
            try:
                try:
                    # A green connection refuses poll() to others: see there.
                    poll, reader = conn._green_poll, conn._green_reader
                    green = True
                except AttributeError:
                    poll, reader = conn.poll, None
                    green = False
                if begun and green:
                    _forks.warn_of_inherited(conn._green_process)
                if reader is not None:
                    hub_greenlet = reader.hub_greenlet
                    # The greenlet may switch to the hub directly only from right below it, and if it runs.
                    if me.parent is not hub_greenlet or not hub_greenlet or timeout is not unlimited:
                        reader = None
                while True:
                    state = poll()
                    if state == POLL_OK:
                        if green:
                            if conn.get_transaction_status() == TRANSACTION_ACTIVE and conn._green_leave_copy():
                                poll = conn._green_poll
                                continue
                            if (
                                reader is None
                                and make_reader is not None
                                and me.parent is not None
                                and timeout is unlimited
                            ):
                                # The first wait has ended, and with it the connect: from now on the socket stays.
                                conn._green_reader = make_reader(conn.fileno())
                        return
                    if state == POLL_READ and reader is not None:
                        reader.wait(me)
                    else:
                        if state == POLL_WRITE and green:
                            # Perhaps __init__() was called again, and the connection has another socket.
                            conn._green_reader = reader = None
                        park(adapter, conn, state, timeout)
                    if _forks.count != begun and _forks.is_copy(begun):
                        _forks.abandon(adapter, conn)
            except BaseException:
                if _forks.is_copy(begun):
                    _forks.disconnect(conn)
                    raise
                interrupted = getattr(conn, "_green_interrupted", None)
                if interrupted is not None:
                    interrupted()
                raise
            finally:
                # Without a function of ours, in which a signal handler could raise before it is done.
                waiters.pop(key, None)

        return functools.update_wrapper(wait, stub)

    return decorate


def generator_wait(adapter: Adapter, interrupted: Callable[[Any, BaseException, bool], None]) -> Callable[..., Any]:
    """Make the function that waits for a generator of psycopg 3's.

    Args:
        adapter: The coroutine library.
        interrupted: A function, called before an exception ends the wait of a generator that has
            not ended: with the connection, the exception, and whether the generator has not even begun.
    """

    def wait(
        conn: Any,
        generator: Generator[int, int | None, Any],
        interval: float | None = None,
        timeout: float | None = None,
        ended: type[Exception] = TimeoutError,
    ) -> Any:
        """Run *generator*, which yields the events to wait for on the socket of *conn*; return its result.

        Args:
            conn: The connection.
            generator: The generator.
            interval: The seconds after which *generator* gets a 0, although the socket is not ready.
            timeout: The seconds after which to raise *ended*.
            ended: The exception to raise after *timeout*.
        """
        fd = conn.pgconn.socket
        key = id(conn)
        begun = _forks.current()
        add_waiter(conn, "psycopg")
        if begun:
            _forks.warn_of_inherited(getattr(conn.lock, "process", begun))
        unstarted = True
        # Whether an exception would be raised here, and not by the generator.
        waiting = True
        seconds = interval
        deadline = None if timeout is None else time.monotonic() + timeout
        ready = None
        try:
            # Before the first step: an exception raised here must not hide the generator's result.
            end_time_slice(adapter)
            if _forks.count != begun and _forks.is_copy(begun):
                _forks.abandon(adapter, conn)
            unstarted = waiting = False
            while True:
                try:
                    events = generator.send(ready)
                except StopIteration as exc:
                    return exc.value
                waiting = True
                if deadline is not None:
                    left = max(0.0, deadline - time.monotonic())
                    seconds = left if interval is None else min(interval, left)
                ready = wait_ready(adapter, fd, events, seconds)
                if _forks.count != begun and _forks.is_copy(begun):
                    _forks.abandon(adapter, conn)
                waiting = False
                if deadline is not None and not ready and time.monotonic() >= deadline:
                    raise ended
        except BaseException as exc:
            if _forks.is_copy(begun):
                _forks.disconnect(conn)
            elif waiting or not isinstance(exc, Exception):
                interrupted(conn, exc, unstarted)
            raise
        finally:
            waiters.pop(key, None)

    return wait
