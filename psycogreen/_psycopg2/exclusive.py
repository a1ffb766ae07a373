"""Which greenlet uses a connection now, and the error for all others.

While psycopg2 waits in a query, it holds the connection's mutex. If another greenlet of
the same thread locked the mutex, the thread would stop for ever: the greenlet that can
unlock the mutex runs in that thread too.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycogreen import _waiters
from psycogreen._implementation import waiter_of

# The greenlets inside exclusive(), by the id() of their connection. The references are
# weak, so that a greenlet can be freed when its hub is gone.
_holders: dict[int, "weakref.ref[Any]"] = {}


def holder(conn: Any) -> Any:
    """Return the greenlet of this thread that uses *conn* now, or None."""
    greenlet = waiter_of(conn)
    if greenlet is None and _holders:
        ref = _holders.get(id(conn))
        greenlet = None if ref is None else ref()
    return greenlet


def check_free(conn: Any, what: str) -> None:
    """Refuse to call *what* while a greenlet uses *conn*.

    Raises:
        psycopg2.ProgrammingError: A greenlet uses *conn*; the message names *what*.
    """
    # Most often _holders is empty. Then this saves the call of holder().
    if waiter_of(conn) is not None or (_holders and holder(conn) is not None):
        raise _waiters.in_use_error(what)


@contextmanager
def exclusive(conn: Any, what: str) -> Iterator[None]:
    """Reserve *conn* for the running greenlet in this block.

    For code that waits for the server other than inside the wait callback.

    Raises:
        psycopg2.ProgrammingError: Another greenlet uses *conn*; the message names *what*.
    """
    check_free(conn, what)
    key = id(conn)
    _holders[key] = weakref.ref(_waiters.getcurrent())
    try:
        yield
    finally:
        del _holders[key]  # a call could be interrupted: a signal handler may raise before it is done
