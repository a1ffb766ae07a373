"""The wait loop in pure Python.

It is the reference for how the compiled loop (``_waitloop.pyx``) behaves, and
takes its place where that one was not built.
"""

import functools
from collections.abc import Callable
from typing import Any

from psycogreen._hub import Hub
from psycogreen._threadwait import READ, WRITE, wait_in_thread

implementation = "python"

# psycopg2.extensions.POLL_OK, POLL_READ and POLL_WRITE. They are part of
# psycopg2's interface; written out so that psycogreen imports without it.
POLL_OK, POLL_READ, POLL_WRITE = 0, 1, 2


def wait_callback(hub: Hub) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a documented stub the wait callback for *hub*.

    The stub gives the callback its name, its docstring, and the default of
    *timeout* that stands for "wait without limit".
    """

    def decorate(stub: Callable[..., None]) -> Callable[..., None]:
        (unlimited,) = stub.__defaults__  # type: ignore[attr-defined]

        def wait(conn: Any, timeout: Any = unlimited) -> None:
            while True:
                state = conn.poll()
                if state == POLL_OK:
                    return
                if state == POLL_READ:
                    if hub.current() is None:
                        wait_in_thread(hub, conn.fileno(), READ, timeout)
                    else:
                        hub.wait_read(conn.fileno(), timeout)
                elif state == POLL_WRITE:
                    if hub.current() is None:
                        wait_in_thread(hub, conn.fileno(), WRITE, timeout)
                    else:
                        hub.wait_write(conn.fileno(), timeout)
                else:
                    raise bad_poll_result(state)

        return functools.update_wrapper(wait, stub)

    return decorate


def bad_poll_result(state: object) -> Exception:
    """Return the error for a poll result that psycopg2 does not document."""
    import psycopg2

    return psycopg2.OperationalError(f"Bad result from poll: {state!r}")
