"""Who is inside the wait callback."""

import weakref
from collections.abc import Callable
from typing import Any

try:
    from greenlet import getcurrent
except ImportError:  # no hub that needs it can be there
    getcurrent = None

# Tells which greenlet runs.
running: Callable[[], Any] = getcurrent

# The greenlets inside the wait callback, by the id() of their connection,
# which lives as long as the entry. Weak references: the frames of a greenlet
# whose hub is gone must be free to go too.
inside: dict[int, Any] = {}


def ask(function: Callable[[], Any]) -> None:
    """Have *function* tell which greenlet runs, where what waits is none but has its attributes."""
    global running
    running = function


def enter(conn: Any) -> None:
    """Note that the running greenlet waits for *conn*.

    Raises:
        psycopg2.ProgrammingError: Another one does. The first of two to poll
            would take the other's answer.
    """
    if id(conn) in inside and parked(conn) not in (None, running()):
        raise refusal("the wait callback")
    inside[id(conn)] = weakref.ref(running())


def parked(conn: Any) -> Any:
    """Return the greenlet of this thread that is inside the wait callback for *conn*, or None.

    While one is, it holds psycopg2's mutex of *conn* (but for the first wait
    of a connection, in which it is made).
    """
    ref = inside.get(id(conn))
    found = None if ref is None else ref()
    return found if found is not None and _root(found) is _root(running()) else None


def refusal(what: str) -> Exception:
    """Return the error for who wants to use *what* of a connection for which another greenlet waits."""
    import psycopg2

    error: Exception = psycopg2.ProgrammingError(
        f"{what} cannot be used while another greenlet executes a query on this connection"
    )
    return error


def _root(greenlet: Any) -> Any:
    """Return the thread's first greenlet, from which *greenlet* descends."""
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet
