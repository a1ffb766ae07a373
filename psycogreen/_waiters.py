"""The greenlets that are inside the wait callback, by connection."""

import importlib
import weakref
from collections.abc import Callable
from typing import Any

try:
    from greenlet import getcurrent as getcurrent
except ImportError:  # then no hub that needs it is installed
    getcurrent = None

# The greenlets inside the wait callback, by the id() of their connection, which
# lives as long as the entry. The references are weak, so that the frames of a
# greenlet can be freed when its hub is gone.
waiters: dict[int, Any] = {}

# The green connections, by id(), in which a COPY has set `_green_poll`. The compiled
# loop calls psycopg2's poll() of the others without looking that attribute up.
replaced_polls: set[int] = set()


def set_getcurrent(function: Callable[[], Any]) -> None:
    """Replace greenlet's getcurrent() by *function*.

    For a library whose waiting units are no greenlets but have their attributes.
    """
    global getcurrent
    getcurrent = function


def add_waiter(conn: Any, driver: str = "psycopg2") -> None:
    """Note that the running greenlet waits for *conn*.

    Raises:
        ProgrammingError: *driver*'s: another greenlet waits for it. The first of
            the two to poll would take the other's answer.
    """
    if id(conn) in waiters and waiter_of(conn) not in (None, getcurrent()):
        raise in_use_error("the wait callback" if driver == "psycopg2" else "wait()", driver)
    waiters[id(conn)] = weakref.ref(getcurrent())


def waiter_of(conn: Any) -> Any:
    """Return the greenlet of this thread that is inside the wait callback for *conn*, or None.

    Such a greenlet holds psycopg2's mutex of *conn*, except while *conn* is being made.
    """
    ref = waiters.get(id(conn)) if waiters else None
    if ref is None:
        return None
    waiter = ref()
    return waiter if waiter is not None and _root(waiter) is _root(getcurrent()) else None


def has_waiter(conn: Any) -> bool:
    """Return whether a greenlet of any thread waits for *conn*."""
    ref = waiters.get(id(conn))
    return ref is not None and ref() is not None


def in_use_error(what: str, driver: str = "psycopg2") -> Exception:
    """Return the exception to raise when *what* is called on a connection of *driver*'s that another greenlet uses."""
    error: Exception = importlib.import_module(driver).ProgrammingError(
        # psycopg2's own words, and the reason.
        f"{what} cannot be used while an asynchronous query is underway:"
        " another greenlet executes a query on this connection"
    )
    return error


def _root(greenlet: Any) -> Any:
    """Return the first ancestor of *greenlet*: the main greenlet of its thread."""
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet
