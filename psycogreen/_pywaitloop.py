"""The wait loop in pure Python.

It is the reference for how the compiled loop (``_waitloop.pyx``) behaves, and
takes its place where that one was not built.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from psycogreen._hub import Hub
from psycogreen._park import POLL_OK, park

implementation = "python"

# The greenlets inside the wait callback, by the id() of their connection,
# which lives as long as the entry. Weak references: the frames of a greenlet
# whose hub is gone must be free to go too.
_parked: dict[int, Any] = {}


def wait_callback(hub: Hub) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a documented stub the wait callback for *hub*.

    The stub gives the callback its name, its docstring, and the default of
    *timeout*, which stands for "wait without limit".
    """

    def decorate(stub: Callable[..., None]) -> Callable[..., None]:
        (unlimited,) = stub.__defaults__  # type: ignore[misc]

        def wait(conn: Any, timeout: Any = unlimited) -> None:
            _parked[id(conn)] = weakref.ref(getcurrent())
            try:
                # A green connection refuses poll() to others: see there.
                poll = getattr(conn, "_green_poll", None) or conn.poll
                while True:
                    state = poll()
                    if state == POLL_OK:
                        return
                    park(hub, conn, state, timeout)
            except BaseException:
                interrupted = getattr(conn, "_green_interrupted", None)
                if interrupted is not None:
                    interrupted()
                raise
            finally:
                del _parked[id(conn)]

        return functools.update_wrapper(wait, stub)

    return decorate


def parked(conn: Any) -> Any:
    """Return the greenlet of this thread that is inside the wait callback for *conn*, or None.

    While one is, it holds psycopg2's mutex of *conn* (but for the first wait
    of a connection, in which it is made).
    """
    ref = _parked.get(id(conn))
    found = None if ref is None else ref()
    return found if found is not None and _root(found) is _root(getcurrent()) else None


def _root(greenlet: Any) -> Any:
    """Return the thread's first greenlet, from which *greenlet* descends."""
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet
