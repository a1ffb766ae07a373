"""The green connection: what it adds to psycopg2's.

GreenConnection inherits from mixins (the guard, connecting, large objects) before it inherits
from psycopg2's class. A mixin overrides psycopg2's methods, calls them by super(),
and sets ``__slots__ = ()``. ``factories.py`` makes users' own classes green.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import psycopg2
from psycopg2 import extensions

from psycogreen import _forks, _waiters
from psycogreen._adapter import Adapter
from psycogreen._libpq import libpq
from psycogreen._libpq.binary_query import wait
from psycogreen._psycopg2 import cancel
from psycogreen._psycopg2.connect import Connecting, connect
from psycogreen._psycopg2.copy import in_copy, leave_copy, replace_poll, restore_poll
from psycogreen._psycopg2.cursor import DefaultCursor, GreenCursor
from psycogreen._psycopg2.factories import green_factory, make_green, original_factory, overridden
from psycogreen._psycopg2.guard import Guarded, check_free, holder
from psycogreen._psycopg2.large_objects import LargeObjects
from psycogreen._waiting import POLL_READWRITE

_psycopg: Any = extensions.connection
_cursor = _psycopg.cursor


class GreenConnection(Guarded, Connecting, LargeObjects, _psycopg):  # type: ignore[misc]
    """psycopg2's connection, except that no call stops the hub.

    While a greenlet waits in a query, psycopg2 holds the connection's mutex. Nearly
    all methods lock that mutex, and would block their thread for ever if the waiting
    greenlet is of the same thread. Here those methods raise ProgrammingError instead,
    and close() ends the query.
    """

    # Without __slots__, because a COPY sets _green_poll in the object.

    # The adapter of the registered callback, and the argument *cancel* of make_psycopg_green().
    _green_adapter: ClassVar[Adapter]
    _green_cancel: ClassVar[bool]

    # Whether close() has thrown a greenlet out of a query. In a COPY the user's code
    # runs inside the wait, and may catch that exception.
    _green_evicted = False

    # The number of the process that made it, from `_forks`.
    _green_process = 0

    # The pure loop's Reader for this connection, or None.
    _green_reader: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Not in __init__(), because a user's class may not call it. Not through
        # `self`, because a user's class may have an attribute of that name.
        self = super().__new__(cls, *args, **kwargs)
        _psycopg.cursor_factory.__set__(self, DefaultCursor)
        if _forks.count:
            self._green_process = _forks.current()
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            # The exception's traceback may keep this object for long.
            super().close()
            raise

    # psycopg2's poll(), for the wait loop. It takes any answer that has come: called by
    # another greenlet, it would leave the one in the query waiting for ever.
    _green_poll = _psycopg.poll

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.poll is not GreenConnection.poll:
            cls._green_poll = cls.poll  # a user's class has overridden poll()

    def poll(self) -> int:
        """See psycopg2.

        While another greenlet waits in a query, that greenlet reads from the socket and
        collects the notifications. Then this method only lets that greenlet run.
        """
        other = holder(self)
        if other is not None and other is not _waiters.getcurrent():
            adapter = self._green_adapter
            current = adapter.current()
            if current is not None and _waiters.getcurrent() is not adapter.greenlet(current):
                for _ in range(2):  # the data that woke this greenlet also wakes *other*: let it read
                    if holder(self) is not None:
                        _forks.pause(adapter, self)
            if holder(self) is not None:
                return int(extensions.POLL_OK)
        # During a COPY, _green_poll is in the object. Another library's wait callback calls poll() then.
        step = vars(self).get("_green_poll", super().poll)
        state: int = step()
        if (
            state == extensions.POLL_OK
            and self.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE
            and self._green_leave_copy()
        ):
            state = self._green_poll()
        return extensions.POLL_WRITE if state == POLL_READWRITE else state

    def _green_leave_copy(self) -> bool:
        """If a query's wait ended because the query is a COPY, leave that COPY; return whether the wait goes on.

        The wait loop calls this, because psycopg2 does not end a COPY that execute() refuses.
        """
        try:
            more = in_copy(self)
        except psycopg2.NotSupportedError:
            # The COPY can't be ended, so this error makes psycopg2 close the connection.
            raise psycopg2.ProgrammingError("can't execute COPY: use the copy_expert() method instead") from None
        if more:
            replace_poll(self, leave_copy(self).__next__)
        return more

    def _green_end_refused_copy(self) -> bool:
        """End a COPY that execute() refused while the wait callback was paused; return whether there was one."""
        if (
            self.get_transaction_status() != extensions.TRANSACTION_STATUS_ACTIVE
            or extensions.get_wait_callback() is None
            or not self._green_leave_copy()
        ):
            return False
        wait(self, self)
        return True

    @staticmethod
    def _green_transaction_status() -> int:
        """Return the address of libpq's PQtransactionStatus(), for the compiled loop; 0 if it can't be reached."""
        try:
            function = libpq().PQtransactionStatus
        except psycopg2.NotSupportedError:
            return 0
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """Close the connection. A greenlet in a query on it gets InterfaceError at once.

        Raises:
            psycopg2.ProgrammingError: A native thread without a hub waits for a query,
                and a signal handler of that thread called this.
        """
        adapter = self._green_adapter
        while (other := holder(self)) is not None:
            current = adapter.current()
            here = _waiters.getcurrent()
            if current is None:
                raise psycopg2.ProgrammingError(
                    "close cannot be used within the wait for a query on this connection, as in a signal handler:"
                    " use cancel() there, and close() once the query has ended"
                )
            elif here is adapter.greenlet(current):
                self._green_evict(other)
                # This may be a signal handler in a hub that sleeps. *other* may have
                # scheduled something, so wake the hub; int() is a call without effect.
                adapter.call_soon(current, int)
                if holder(self) is other:
                    # A greenlet of SQLAlchemy's leaves its query only when its task goes on.
                    adapter.call_soon(current, self.close)
                    return
            elif here is other:
                # A signal handler interrupted the wait for the query. The hub closes the
                # connection as soon as this greenlet parks again.
                adapter.call_soon(current, self.close)
                return
            else:
                adapter.call_soon(current, self._green_evict, other)
                _forks.pause(adapter, self)
        super().close()
        self._green_reader = None  # it keeps the hub

    def _green_evict(self, other: Any) -> None:
        """Throw *other* out of its query. Call this in the hub's greenlet."""
        can_throw_into = getattr(self._green_adapter, "can_throw_into", None)
        if holder(self) is other and (can_throw_into is None or can_throw_into(self._green_adapter.current(), other)):
            self._green_evicted = True
            other.throw(psycopg2.InterfaceError("connection closed by another greenlet"))

    @staticmethod
    def _green_wrappers(factory: type) -> dict[str, Any]:
        """Return wrappers, by name, for the methods of *factory*, which may call psycopg2's class by its full name."""
        wrappers = Guarded._green_guards(factory)
        cursor = overridden(factory, "cursor")
        if cursor is not None:

            @functools.wraps(cursor)
            def green_cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
                return make_green(cursor(self, *args, **kwargs), GreenCursor)

            wrappers["cursor"] = green_cursor
        return wrappers

    def _green_adopt(self) -> None:
        """Complete a connection whose factory may have called psycopg2's class directly or without a wait callback."""
        if extensions.get_wait_callback() is None:
            with contextlib.suppress(psycopg2.NotSupportedError):
                libpq().PQsetnonblocking(self.pgconn_ptr, 1)
        factory = _psycopg.cursor_factory.__get__(self)
        if factory is None or original_factory(factory) is factory:
            green = DefaultCursor if factory is None else green_factory(factory, GreenCursor)
            _psycopg.cursor_factory.__set__(self, green)

    # psycopg2's cursor() reads psycopg2's own attribute, so that holds the green
    # factory. This property shows the factory that the user set.
    @property
    def cursor_factory(self) -> Any:
        """The factory that cursor() uses by default, or None."""
        return original_factory(_psycopg.cursor_factory.__get__(self))

    @cursor_factory.setter
    def cursor_factory(self, factory: Any) -> None:
        green = DefaultCursor if factory is None else green_factory(factory, GreenCursor)
        _psycopg.cursor_factory.__set__(self, green)

    def cursor(
        self, name: Any = None, cursor_factory: Any = None, withhold: Any = False, scrollable: Any = None
    ) -> Any:
        """See psycopg2."""
        if cursor_factory is None:
            if name is None and withhold is False and scrollable is None:
                # A call without arguments takes a third of the time.
                return _cursor(self)
        else:
            cursor_factory = green_factory(cursor_factory, GreenCursor)
        return _cursor(self, name, cursor_factory, withhold, scrollable)

    def cancel(self) -> None:
        """Ask the server to cancel the current query, without stopping the hub.

        Raises:
            psycopg2.InterfaceError: The connection is closed.
            psycopg2.OperationalError: The server could not be asked.
            psycopg2.ProgrammingError: A prepared two-phase transaction is open.
        """
        if self.closed:
            raise psycopg2.InterfaceError("connection already closed")
        if self.status == extensions.STATUS_PREPARED:
            raise psycopg2.ProgrammingError("cancel cannot be used with a prepared two-phase transaction")
        if self.status not in (extensions.STATUS_READY, extensions.STATUS_BEGIN):
            raise psycopg2.OperationalError("asynchronous connection attempt underway")
        try:
            cancel.cancel(self, self._green_adapter)
        except psycopg2.NotSupportedError:
            super().cancel()

    def _green_interrupted(self) -> None:
        """Ask the server to cancel the query. The wait loop calls this before an exception ends the wait."""
        restore_poll(self)
        # While connecting, and after the connection is lost, the status is another.
        if self._green_cancel and self.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE:
            cancel.cancel_and_abandon(self, self._green_adapter)


def green_connect(psycopg_connect: Callable[..., Any], dsn: str, connection_factory: Any, blocking: bool) -> Any:
    """Make a green connection through *psycopg_connect*, psycopg2's ``_connect()``.

    *blocking*: the wait callback is paused, so psycopg2 blocks. The connection is
    green when the callback is registered again.
    """
    make = functools.partial(psycopg_connect, connection_factory=green_connection_factory(connection_factory))
    connection = make(dsn) if blocking else connect(GreenConnection._green_adapter, make, dsn)
    if type(connection) is not GreenConnection or blocking:
        if issubclass(type(connection), GreenConnection):
            connection._green_adopt()
    return connection


def green_connection_factory(factory: Any) -> Any:
    """Return the green factory for a user's *connection_factory*, None for the default."""
    if factory is None:
        return GreenConnection
    if isinstance(factory, type) and issubclass(factory, psycopg2._psycopg.ReplicationConnection):
        return factory  # needs psycopg2's blocking calls
    return green_factory(factory, GreenConnection)


def green_encrypt_password(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement of psycopg2.extensions.encrypt_password(), which calls *original*.

    psycopg2's own function asks the server for the default algorithm through a blocking
    call of libpq, which also takes the answer of a query under way.
    """

    def encrypt_password(password: Any, user: Any, scope: Any = None, algorithm: Any = None) -> Any:
        """See psycopg2.

        Raises:
            psycopg2.ProgrammingError: Another greenlet executes a query on the
                connection.
        """
        conn = _unwrapped(scope)
        if isinstance(conn, extensions.cursor):
            conn = _unwrapped(conn.connection)
        if algorithm is None and isinstance(conn, GreenConnection) and not conn.closed:
            check_free(conn, "encrypt_password")
            idle = conn.status == extensions.STATUS_READY
            cursor = _cursor(conn, None, extensions.cursor)
            cursor.execute("SHOW password_encryption")
            (algorithm,) = cursor.fetchone()
            if idle:
                conn.rollback()
        return original(password, user, scope, algorithm)

    return encrypt_password


def _unwrapped(proxy: Any) -> Any:
    """Return psycopg2's object in *proxy*: tracing libraries wrap it in proxies that pass isinstance()."""
    while not issubclass(type(proxy), (extensions.connection, extensions.cursor)) and hasattr(proxy, "__wrapped__"):
        proxy = proxy.__wrapped__
    return proxy
