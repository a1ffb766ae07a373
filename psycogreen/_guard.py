"""Who uses a connection at this moment, and the refusal of everybody else.

While psycopg2 waits in a query it holds the connection's mutex. A greenlet
that asked for the mutex meanwhile, in the same thread, would stop the thread
for ever: the one who could give it back runs in that thread too.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycogreen import _parked
from psycogreen._loop import parked

# The greenlets that use a connection without being in the wait callback, by
# the id() of the connection. Weak, so that one whose hub is gone can go too.
_occupants: dict[int, "weakref.ref[Any]"] = {}


def user(conn: Any) -> Any:
    """Return the greenlet of this thread that now waits for the server on *conn*, or None."""
    found = parked(conn)
    if found is None and _occupants:
        ref = _occupants.get(id(conn))
        found = None if ref is None else ref()
    return found


def refuse(conn: Any, what: str) -> None:
    """Refuse *what* while a greenlet waits for the server on *conn*.

    Raises:
        psycopg2.ProgrammingError: One does.
    """
    if user(conn) is not None:
        raise _parked.refusal(what)


@contextmanager
def occupied(conn: Any, what: str) -> Iterator[None]:
    """Refuse *conn* to other greenlets while the block runs.

    For what waits for the server outside of the wait callback.

    Raises:
        psycopg2.ProgrammingError: Another greenlet uses *conn*; the message
            says that *what* can't be used.
    """
    refuse(conn, what)
    key = id(conn)
    _occupants[key] = weakref.ref(_parked.running())
    try:
        yield
    finally:
        del _occupants[key]  # no call in which a signal handler could raise before it is done
