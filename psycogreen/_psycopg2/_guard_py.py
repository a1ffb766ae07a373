"""Which greenlet uses a connection now, and the error for all others.

``_guard.pyx`` compiles this same file, because each transaction goes through it.

While psycopg2 waits in a query, it holds the connection's mutex. If another greenlet of
the same thread locked the mutex, the thread would stop for ever: the greenlet that can
unlock the mutex runs in that thread too.
"""

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen import _waiters
from psycogreen._implementation import waiter_of
from psycogreen._psycopg2.factories import overridden

_psycopg: Any = extensions.connection
# Bound here: a call by these names takes a fraction of the time of super().
_commit, _rollback, _exit = _psycopg.commit, _psycopg.rollback, _psycopg.__exit__

_GUARDED_METHODS = (
    "commit",
    "rollback",
    "reset",
    "set_session",
    "set_isolation_level",
    "set_client_encoding",
    "tpc_begin",
    "tpc_prepare",
    "tpc_commit",
    "tpc_rollback",
    "tpc_recover",
)

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


def _guarded(name: str) -> Any:
    """Make psycopg2's method *name* raise while another greenlet is in a query."""
    return _check_free_before(getattr(_psycopg, name), name)


def _check_free_before(method: Any, name: str) -> Any:
    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_free(self, name)
        return method(self, *args, **kwargs)

    return guarded


def _guarded_setter(name: str) -> property:
    """Make setting psycopg2's attribute *name* raise while another greenlet is in a query."""
    attribute = getattr(_psycopg, name)

    def guarded(self: Any, value: Any) -> None:
        check_free(self, name)
        attribute.__set__(self, value)

    return property(attribute.__get__, guarded, doc=attribute.__doc__)


class Guarded:
    """A mixin of the methods that lock psycopg2's mutex: here they raise instead if another greenlet holds it."""

    __slots__ = ()

    # Not through _guarded(): these two are called most, and passing on arguments costs time.
    def commit(self) -> None:
        """See psycopg2.

        Raises:
            psycopg2.ProgrammingError: Another greenlet executes a query on
                this connection.
        """
        check_free(self, "commit")
        _commit(self)

    def rollback(self: Any) -> None:
        """See psycopg2.

        Raises:
            psycopg2.ProgrammingError: Another greenlet executes a query on
                this connection.
        """
        check_free(self, "rollback")
        try:
            _rollback(self)
        except psycopg2.OperationalError:
            if not self._green_end_refused_copy():
                raise
            _rollback(self)

    reset = _guarded("reset")
    set_session = _guarded("set_session")
    set_isolation_level = _guarded("set_isolation_level")
    set_client_encoding = _guarded("set_client_encoding")
    tpc_begin = _guarded("tpc_begin")
    tpc_prepare = _guarded("tpc_prepare")
    tpc_commit = _guarded("tpc_commit")
    tpc_rollback = _guarded("tpc_rollback")
    tpc_recover = _guarded("tpc_recover")

    autocommit = _guarded_setter("autocommit")
    isolation_level = _guarded_setter("isolation_level")
    readonly = _guarded_setter("readonly")
    deferrable = _guarded_setter("deferrable")

    def __exit__(
        self: Any, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _exit(self, exc_type, exc, traceback)
        except psycopg2.InterfaceError:
            # *exc* ended the wait for a query, and psycopg2 closed the connection. So
            # nothing is left to roll back, and *exc* (a kill or a timeout) goes on
            # instead of this error.
            if exc is None or isinstance(exc, psycopg2.Error) or not self.closed:
                raise

    @staticmethod
    def _green_guards(factory: type) -> dict[str, Any]:
        """Return guarded methods, by name, for those of *factory*, which may call psycopg2's class by its full name."""
        return {
            name: _check_free_before(method, name)
            for name in _GUARDED_METHODS
            if (method := overridden(factory, name)) is not None
        }
