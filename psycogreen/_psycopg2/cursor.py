"""The green cursor: what it adds to psycopg2's."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg2
from psycopg2 import extensions, extras

from psycogreen import _forks, _waiters
from psycogreen._psycopg2.copy import CopyCursor
from psycogreen._psycopg2.factories import overridden
from psycogreen._psycopg2.guard import check_free, holder
from psycogreen._waiting import TIME_SLICE

_fetchall = extensions.cursor.fetchall
_fetchmany = extensions.cursor.fetchmany
_next = extensions.cursor.__next__

# The most rows that psycopg2 converts in one call, without a look at the clock.
_FEW = 100

# The largest count that FETCH takes. No result has more rows.
_ALL = 2**31 - 1


class GreenCursor(CopyCursor, extensions.cursor):  # type: ignore[misc]
    """psycopg2's cursor, except that no call stops the hub.

    execute(), callproc() and the methods of named cursors are psycopg2's own: they raise
    ProgrammingError while a query is under way on the connection.
    """

    # Without attributes: cursors stay as small as psycopg2's, and the layout fits any
    # class of a user's.
    __slots__ = ()

    _green_for = extensions.cursor

    @staticmethod
    def _green_wrappers(factory: type) -> dict[str, Any]:
        """Return wrappers, by name, for the methods of *factory*, which may call psycopg2's class by its full name."""
        wrappers: dict[str, Any] = {}
        executemany = overridden(factory, "executemany")
        if executemany is not None:

            @functools.wraps(executemany)
            def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
                check_free(self.connection, "executemany")
                return executemany(self, *args, **kwargs)

            wrappers["executemany"] = guarded
        for name, fetch in ("fetchall", GreenCursor.fetchall), ("fetchmany", GreenCursor.fetchmany):
            if overridden(factory, name) is getattr(extras.NamedTupleCursor, name):
                wrappers[name] = _named_tuples(fetch)
        return wrappers

    def fetchall(self) -> list[Any]:
        """See psycopg2. Other greenlets run while a large result is converted.

        Raises:
            psycopg2.ProgrammingError: Another greenlet used this cursor meanwhile.
        """
        if self.rowcount <= _FEW and self.name is None:
            return _fetchall(self)  # type: ignore[no-any-return]
        return _fetch(self, "fetchall", _ALL)

    def fetchmany(self, size: Any = None) -> list[Any]:
        """See psycopg2. Other greenlets run while a large result is converted.

        Raises:
            psycopg2.ProgrammingError: Another greenlet used this cursor meanwhile.
        """
        count = self.arraysize if size is None else size
        if isinstance(count, int) and _FEW < count <= _ALL and (self.rowcount > _FEW or self.name is not None):
            return _fetch(self, "fetchmany", count)
        return _fetchmany(self, size)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        """See psycopg2. Other greenlets run while the rows of a large result are iterated."""
        if self.rowcount <= _FEW or self.name is not None:  # a named cursor fetches few rows at a time
            return self
        return itertools.chain.from_iterable(_parts(self))

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> None:
        """See psycopg2.

        Raises:
            psycopg2.ProgrammingError: Another greenlet executes a query on the
                connection, now or when *vars_list* has yielded an item.
        """
        check_free(self.connection, "executemany")
        super().executemany(query, _guarded(self.connection, iter(vars_list)))


def _fetch(cursor: Any, method: str, count: int) -> list[Any]:
    """Return the next *count* rows. If the running greenlet may wait, let other greenlets run meanwhile."""
    if not may_wait(cursor.connection):
        return _fetchall(cursor) if count == _ALL else _fetchmany(cursor, count)  # type: ignore[no-any-return]
    if cursor.name is None:
        return _in_turns(cursor, method, count, functools.partial(_fetchmany, cursor))
    if (
        cursor.rownumber < cursor.rowcount  # psycopg2 drops the rows that an iteration left
        or holder(cursor.connection) is not None
        or cursor.connection.status == extensions.STATUS_PREPARED
    ):
        return _fetchall(cursor) if count == _ALL else _fetchmany(cursor, count)  # type: ignore[no-any-return]
    # Start an iteration, whose first step sends a FETCH for *count* rows.
    itersize = cursor.itersize
    cursor.itersize = count
    try:
        first = list(itertools.islice(map(_next, [cursor]), 1))
    finally:
        cursor.itersize = itersize
    return _in_turns(cursor, method, _ALL, lambda size: list(map(_next, itertools.repeat(cursor, size))), first)


def _in_turns(
    cursor: Any, method: str, count: int, fetch: Callable[[int], list[Any]], rows: list[Any] | None = None
) -> list[Any]:
    """Call *fetch* with a number of rows, again and again; return *rows* with the *count* next rows.

    Between the calls, other greenlets run.
    """
    rows = [] if rows is None else rows
    turns = _Turns(cursor)
    count = min(count, cursor.rowcount - cursor.rownumber)
    while True:
        part = fetch(min(turns.size, count))
        rows += part
        count -= len(part)
        if count <= 0 or not part:
            return rows
        if turns.is_over():
            query, position = cursor.query, (cursor.rowcount, cursor.rownumber)
            turns.pause()
            if cursor.query is not query or (cursor.rowcount, cursor.rownumber) != position:
                raise psycopg2.ProgrammingError(f"{method} cannot go on: another greenlet used the cursor meanwhile")


def _parts(cursor: Any) -> Iterator[Iterator[Any]]:
    """Yield iterators over the next rows of *cursor*. Between two of them, let other greenlets run if that may be."""
    rows = map(next, itertools.repeat(cursor))
    turns = _Turns(cursor)
    while cursor.rownumber < cursor.rowcount:
        yield itertools.islice(rows, turns.size)
        if turns.is_over() and may_wait(cursor.connection):
            turns.pause()


def _named_tuples(fetch: Any) -> Any:
    """Return the replacement of a method of NamedTupleCursor, which makes the named tuples of all rows in one go."""

    def fetch_in_turns(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        rows: list[Any] = fetch(self, *args, **kwargs)
        record = self.Record
        if record is None:
            record = self.Record = self._make_nt()
        if len(rows) <= _FEW or not may_wait(self.connection):
            return list(map(record._make, rows))
        turns = _Turns(self)
        done = 0
        while done < len(rows):
            part = rows[done : done + turns.size]
            rows[done : done + len(part)] = map(record._make, part)
            done += len(part)
            if turns.is_over():
                turns.pause()
        return rows

    return functools.update_wrapper(fetch_in_turns, fetch)


class _Turns:
    """How many rows one greenlet converts before other greenlets run."""

    def __init__(self, cursor: Any) -> None:
        self._connection = cursor.connection
        self.size = _FEW  # rows between two looks at the clock
        self._begun = self._looked = time.perf_counter()

    def is_over(self) -> bool:
        """Return whether other greenlets should run now. Call this after each *size* rows."""
        now = time.perf_counter()
        if now - self._looked < TIME_SLICE / 4:
            self.size *= 2
        elif now - self._looked > TIME_SLICE / 2:
            self.size = max(1, self.size // 2)
        self._looked = now
        return now - self._begun > TIME_SLICE

    def pause(self) -> None:
        """Let other greenlets run."""
        _forks.pause(self._connection._green_adapter, self._connection)
        self._begun = self._looked = time.perf_counter()


def may_wait(conn: Any) -> bool:
    """Return whether the running greenlet, which uses *conn*, may let other greenlets run."""
    adapter = getattr(conn, "_green_adapter", None)
    if adapter is None:
        return False
    hub = adapter.current()
    if hub is None or _waiters.getcurrent() is adapter.greenlet(hub) or extensions.get_wait_callback() is None:
        return False
    may_wait_in = getattr(adapter, "may_wait", None)
    return may_wait_in is None or may_wait_in(hub)


def _guarded(conn: Any, items: Iterator[Any]) -> Iterator[Any]:
    # A user's generator may wait. Meanwhile another greenlet may use the connection,
    # and a child process may get a copy of this greenlet.
    begun = _forks.current()
    for item in items:
        if _forks.is_copy(begun):
            _forks.abandon(conn._green_adapter, conn)
        check_free(conn, "executemany")
        yield item


class DefaultCursor(GreenCursor):
    """The cursor of a connection whose cursor_factory is None. GreenCursor is for an explicit psycopg2 cursor."""

    __slots__ = ()

    _green_for = None
