"""Which greenlet uses a connection at this moment, and the error for all others.

While psycopg2 waits in a query it holds the connection's mutex. If another
greenlet of the same thread then asked for the mutex, the thread would stop for
ever: the greenlet that could give the mutex back runs in that thread too.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycogreen import _waiters
from psycogreen._implementation import waiter_of

# The greenlets that use a connection without being in the wait callback, by
# the id() of the connection. Weak, so that one whose hub is gone can go too.
_holders: dict[int, "weakref.ref[Any]"] = {}


def holder(conn: Any) -> Any:
    """Return the greenlet of this thread that now waits for the server on *conn*, or None."""
    greenlet = waiter_of(conn)
    if greenlet is None and _holders:
        ref = _holders.get(id(conn))
        greenlet = None if ref is None else ref()
    return greenlet


def check_free(conn: Any, what: str) -> None:
    """Refuse *what* while a greenlet waits for the server on *conn*.

    Raises:
        psycopg2.ProgrammingError: One does.
    """
    # Most often nobody uses anything, so ask without a call of holder().
    if waiter_of(conn) is not None or (_holders and holder(conn) is not None):
        raise _waiters.in_use_error(what)


@contextmanager
def exclusive(conn: Any, what: str) -> Iterator[None]:
    """Refuse *conn* to other greenlets while the block runs.

    For what waits for the server outside of the wait callback.

    Raises:
        psycopg2.ProgrammingError: Another greenlet uses *conn*; the message
            says that *what* can't be used.
    """
    check_free(conn, what)
    key = id(conn)
    _holders[key] = weakref.ref(_waiters.getcurrent())
    try:
        yield
    finally:
        del _holders[key]  # no call in which a signal handler could raise before it is done
