"""The wait loop in pure Python.

It is the reference for how the compiled loop (``_waitloop.pyx``) behaves, and
takes its place where that one was not built.
"""

import functools
from collections.abc import Callable
from typing import Any

from psycogreen import _forks
from psycogreen._adapter import Adapter
from psycogreen._waiters import add_waiter, waiter_of, waiters
from psycogreen._waiting import POLL_OK, POLL_READ, TRANSACTION_ACTIVE, park

__all__ = ["implementation", "poller", "waiter_of", "wait_callback"]

implementation = "python"
poller: str | None = None  # it has no reactor


def wait_callback(adapter: Adapter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a documented stub the wait callback for *adapter*.

    The stub gives the callback its name, its docstring, and the default of
    *timeout*, which stands for "wait without limit".
    """

    def decorate(stub: Callable[..., None]) -> Callable[..., None]:
        (unlimited,) = stub.__defaults__  # type: ignore[misc]
        current, wait_read = adapter.current, adapter.wait_read

        def wait(conn: Any, timeout: Any = unlimited) -> None:
            key = id(conn)
            begun = _forks.current()
            add_waiter(conn)
            try:
                # A green connection refuses poll() to others: see there.
                green = hasattr(conn, "_green_leave_copy")
                if begun and green:
                    _forks.warn_of_inherited(conn)
                poll = conn._green_poll if green else conn.poll
                while True:
                    state = poll()
                    if state == POLL_OK:
                        if green and conn.get_transaction_status() == TRANSACTION_ACTIVE and conn._green_leave_copy():
                            poll = conn._green_poll
                            continue
                        return
                    if state == POLL_READ and current() is not None:
                        wait_read(conn.fileno(), timeout)  # what park() does, here at once
                    else:
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
