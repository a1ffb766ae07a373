"""The wait loop in pure Python.

It is the reference for how the compiled loop (``_waitloop.pyx``) behaves, and
takes its place where that one was not built.
"""

import functools
from collections.abc import Callable
from typing import Any

from psycogreen._hub import Hub
from psycogreen._park import POLL_OK, POLL_READ, park
from psycogreen._parked import enter, inside, parked

__all__ = ["implementation", "parked", "wait_callback"]

implementation = "python"


def wait_callback(hub: Hub) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a documented stub the wait callback for *hub*.

    The stub gives the callback its name, its docstring, and the default of
    *timeout*, which stands for "wait without limit".
    """

    def decorate(stub: Callable[..., None]) -> Callable[..., None]:
        (unlimited,) = stub.__defaults__  # type: ignore[misc]
        current, wait_read = hub.current, hub.wait_read

        def wait(conn: Any, timeout: Any = unlimited) -> None:
            key = id(conn)
            enter(conn)
            try:
                # A green connection refuses poll() to others: see there.
                poll = getattr(conn, "_green_poll", None) or conn.poll
                while True:
                    state = poll()
                    if state == POLL_OK:
                        return
                    if state == POLL_READ and current() is not None:
                        wait_read(conn.fileno(), timeout)  # what park() does, here at once
                    else:
                        park(hub, conn, state, timeout)
            except BaseException:
                interrupted = getattr(conn, "_green_interrupted", None)
                if interrupted is not None:
                    interrupted()
                raise
            finally:
                # Without a function of ours, in which a signal handler could raise before it is done.
                inside.pop(key, None)

        return functools.update_wrapper(wait, stub)

    return decorate

