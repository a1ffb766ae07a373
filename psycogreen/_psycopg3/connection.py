"""Green functions that replace psycopg 3's own.

psycopg's classes are written in Python, and look up these functions at each call. So the
replacement also affects connections made before, and users' own classes.
"""

import _socket
import contextlib
import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg.connection
import psycopg.waiting
from psycopg import Connection, OperationalError, errors
from psycopg.pq import TransactionStatus

from psycogreen import _waiters
from psycogreen._adapter import Adapter
from psycogreen._implementation import generator_wait, has_waiter, waiter_of
from psycogreen._psycopg3 import cancel as cancelling
from psycogreen._psycopg3 import connect, release31
from psycogreen._psycopg3.lock import GreenLock

# The argument of make_green(), and the wait function made from it.
_adapter: Adapter
_cancel: bool
_wait: Callable[..., Any]

# Default values, compared by identity: an argument that is this object was left out by the caller.
_INTERVAL = float("0.1")
_NO_TIMEOUT: Any = float("inf")

# Seconds for the server to end a query after Ctrl-C; the numbers are psycopg's own.
_END_QUERY_TIMEOUT = 5.0

# psycopg's own words.
_CLOSED = "the connection is closed"

# The replaced functions, with their parameters in the known releases.
_KNOWN: dict[str, set[tuple[str, ...]]] = {
    "Connection.wait": {
        ("self", "gen", "timeout"),  # 3.1
        ("self", "gen", "interval"),
        ("self", "gen", "interval", "timeout"),
    },
    "Connection.close": {("self",)},
    "Connection.cancel": {("self",)},
    "Copy.finish": {("self", "exc")},
    "waiting.wait_conn": {("gen", "timeout"), ("gen", "interval"), ("gen", "interval", "timeout")},
    "connection.conninfo_attempts": {("params",)},
    "connection.threading" if release31.in_use else "connection.Lock": set(),
    "_conninfo_attempts.socket": set(),
}


def make_green(adapter: Adapter, cancel: bool) -> None:
    """Make psycopg green for *adapter*; see ``activate.py``. An unknown psycopg is not changed."""
    global _adapter, _cancel, _wait
    if getattr(Connection, "_psycogreen", False):
        _adapter, _cancel, _wait = adapter, cancel, generator_wait(adapter, _interrupted)
        GreenLock.adapter = adapter
        return
    unknown = [name for name, signatures in _KNOWN.items() if not _is_known(name, signatures)]
    if unknown:
        warnings.warn(
            f"psycogreen does not know psycopg {psycopg.__version__} ({', '.join(unknown)}) and leaves it alone:"
            " it may stop the hub. Use a release from 3.1.20 to 3.3, or a newer psycogreen",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    _adapter, _cancel, _wait = adapter, cancel, generator_wait(adapter, _interrupted)
    GreenLock.adapter = adapter
    replaced: Any = Connection
    replaced._psycogreen = True
    replaced.wait, replaced.close, replaced.cancel = wait, close, cancel_query
    copy: Any = psycopg.Copy
    copy.finish = finish_copy
    modules: Any = psycopg
    if release31.in_use:
        release31.make_green(wait, wait_conn, GreenLock)
    else:
        modules.waiting.wait_conn = wait_conn
        modules.connection.Lock = GreenLock
    modules.connection.conninfo_attempts = conninfo_attempts
    modules._conninfo_attempts.socket = connect.Resolver(lambda: _adapter)


def _is_known(name: str, signatures: set[tuple[str, ...]]) -> bool:
    member: Any = psycopg
    for part in name.split("."):
        member = getattr(member, part, None)
    return member is not None and (not signatures or tuple(inspect.signature(member).parameters) in signatures)


_close, _cancel_query, _finish_copy = Connection.close, Connection.cancel, psycopg.Copy.finish
_conninfo_attempts: Any = getattr(psycopg.connection, "conninfo_attempts", None)


def wait(self: Any, gen: Any, interval: float = _INTERVAL, timeout: float | None = _NO_TIMEOUT) -> Any:
    """See psycopg.

    An exception from outside of psycopg that ends the wait, such as a kill or a timeout,
    also ends the query in the server and closes the connection.
    """
    try:
        if interval is _INTERVAL and timeout is _NO_TIMEOUT:
            return _wait(self, gen)
        if interval is None:
            raise ValueError("indefinite wait not supported anymore")
        return _wait(self, gen, interval, None if timeout is _NO_TIMEOUT else timeout, _wait_timeout)
    except BaseException as exc:
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            _end_query(self, gen)
        with contextlib.suppress(Exception):
            gen.close()  # the garbage collector would report what this raises
        if self._closed and isinstance(exc, OperationalError):
            self.pgconn.finish()
            raise OperationalError(_CLOSED) from None
        raise


_wait_timeout: Any = getattr(errors, "_WaitTimeout", TimeoutError)


def _end_query(conn: Any, gen: Any) -> None:
    """After Ctrl-C, keep the connection if the server ends the query at once, as psycopg does."""
    if conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
        return
    try:
        conn._try_cancel(timeout=_END_QUERY_TIMEOUT)
        _wait(conn, gen, None, _END_QUERY_TIMEOUT)
    except errors.QueryCanceled:
        pass
    except BaseException as exc:
        conn.pgconn.finish()
        if not isinstance(exc, Exception):
            raise


def _interrupted(conn: Any, exc: BaseException, unstarted: bool) -> None:
    """End the query of *conn*. The wait loop calls this before *exc* ends the wait."""
    if isinstance(exc, (KeyboardInterrupt, SystemExit)):
        return  # wait() looks after it
    pgconn = conn.pgconn
    active = pgconn.transaction_status == TransactionStatus.ACTIVE
    if active and _cancel:
        cancelling.cancel_in_background(conn, _adapter, abandon=True)
    # If the end of a transaction has not begun, psycopg goes on to count that transaction.
    if active or unstarted:
        pgconn.finish()


def close(self: Any) -> None:
    """See psycopg. A greenlet or thread in a query on the connection gets OperationalError at once."""
    if self.closed or getattr(getattr(self, "_pool", None), "close_returns", False):
        _close(self)
        return
    while (waiter := waiter_of(self)) is not None:
        hub = _adapter.current()
        here = _waiters.getcurrent()
        self._closed = True
        if hub is None:
            if here is not waiter:  # the event loop of asyncio's in which *waiter* waits does not run now
                waiter.throw(OperationalError(_CLOSED))
            break
        if here is _adapter.greenlet(hub):
            _evict(self, waiter)
            _adapter.call_soon(hub, int)  # wakes a hub that sleeps: *waiter* may have scheduled something
            if waiter_of(self) is waiter:  # a greenlet of SQLAlchemy's leaves its query when its task goes on
                _adapter.call_soon(hub, self.close)
                return
        elif here is waiter:
            # A signal handler called this within the wait: the hub closes the connection.
            _adapter.call_soon(hub, self.close)
            return
        else:
            _adapter.call_soon(hub, _evict, self, waiter)
            _adapter.pause()
    if has_waiter(self):
        self._closed = True
        _end_wait(self)
        if has_waiter(self):
            return  # the waiter closes the connection
    _close(self)


def _end_wait(conn: Any) -> None:
    """End the wait for *conn* of another thread, or of the code that a signal handler has interrupted."""
    if _cancel:
        # Whether or not the query is ACTIVE: it is so only when the other thread is back from sending it.
        cancelling.cancel_in_background(conn, _adapter, abandon=False)
    # libpq then reads the end of the data.
    with contextlib.suppress(OSError), contextlib.closing(_socket.socket(fileno=os.dup(conn.pgconn.socket))) as sock:
        sock.shutdown(_socket.SHUT_RDWR)


def _evict(conn: Any, waiter: Any) -> None:
    """Throw *waiter* out of its query. Call this in the hub's greenlet."""
    can_throw_into = getattr(_adapter, "can_throw_into", None)
    if waiter_of(conn) is waiter and (can_throw_into is None or can_throw_into(_adapter.current(), waiter)):
        waiter.throw(OperationalError(_CLOSED))


def cancel_query(self: Any) -> None:
    """See psycopg."""
    if not self._should_cancel():
        return
    try:
        cancelling.cancel(self, _adapter)
    except (AttributeError, OSError):
        _cancel_query(self)


def finish_copy(self: Any, exc: BaseException | None) -> None:
    """See psycopg. If *exc* has closed the connection, raise *exc* instead of the error that follows from it."""
    try:
        _finish_copy(self, exc)
    except OperationalError:
        if exc is None or not self.connection.closed:
            raise


def wait_conn(gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
    """See psycopg."""
    if interval is None:
        raise ValueError("indefinite wait not supported anymore")
    return connect.wait_conn(_adapter, gen, interval, timeout)


def conninfo_attempts(params: Any) -> Any:
    """See psycopg."""
    return _conninfo_attempts(connect.with_service(params))
