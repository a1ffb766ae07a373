"""Who is inside the wait callback."""

import weakref
from typing import Any

try:
    from greenlet import getcurrent
except ImportError:  # no hub that needs it can be there
    getcurrent = None

# The greenlets inside the wait callback, by the id() of their connection,
# which lives as long as the entry. Weak references: the frames of a greenlet
# whose hub is gone must be free to go too.
_inside: dict[int, Any] = {}


def enter(conn: Any) -> None:
    """Note that the running greenlet waits for *conn*."""
    _inside[id(conn)] = weakref.ref(getcurrent())


def leave(conn: Any) -> None:
    """Forget it."""
    _inside.pop(id(conn), None)


def parked(conn: Any) -> Any:
    """Return the greenlet of this thread that is inside the wait callback for *conn*, or None.

    While one is, it holds psycopg2's mutex of *conn* (but for the first wait
    of a connection, in which it is made).
    """
    ref = _inside.get(id(conn))
    found = None if ref is None else ref()
    return found if found is not None and _root(found) is _root(getcurrent()) else None


def _root(greenlet: Any) -> Any:
    """Return the thread's first greenlet, from which *greenlet* descends."""
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet
