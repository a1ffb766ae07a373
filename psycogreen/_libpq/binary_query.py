"""Queries with binary parameters and a binary result, through psycopg2's libpq.

psycopg2 sends and receives text. A bytea is twice as long in text, and both sides must
parse it; for bulk data that costs more than the transfer.
"""

import contextlib
from collections.abc import Callable
from ctypes import c_char_p, c_int, string_at
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen._adapter import Adapter
from psycogreen._libpq import libpq
from psycogreen._waiting import POLL_OK, POLL_READ, POLL_WRITE, wait_in_thread

PGRES_TUPLES_OK = 2
CONNECTION_BAD = 1


class BinaryQueries:
    """Queries on one connection, one after the other.

    The wait callback gets this object in the place of the connection. It has poll() and
    fileno(), so these queries wait as ordinary ones do.

    psycopg2 does not know of these queries. So the caller must keep other greenlets away
    from the connection, by `exclusive()` of ``_psycopg2/guard.py``.
    """

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._flushed = True
        self._result: int | None = None
        self.fileno: Callable[[], int] = conn.fileno
        # The wait loop calls this when an exception ends the wait.
        self._green_interrupted = conn._green_interrupted

    def value(self, query: bytes, *parameters: bytes) -> bytes:
        """Return the single value of the result of *query*, in the server's binary format.

        *parameters* are the values of $1 and so on, in binary format.

        Raises:
            psycopg2.OperationalError: The query failed, or the connection is lost. The
                error has libpq's message and no SQLSTATE, like the errors of
                psycopg2's large objects.
            BaseException: An exception was thrown into the waiting greenlet. The
                connection is closed, as after psycopg2's own queries.
        """
        pq = libpq()
        count = len(parameters)
        try:
            self._flushed = not pq.PQsendQueryParams(
                self._conn.pgconn_ptr,
                query,
                count,
                None,
                (c_char_p * count)(*parameters),
                (c_int * count)(*map(len, parameters)),
                (c_int * count)(*[1] * count),
                1,
            )
            if not self._flushed:
                wait(self._conn, self)
            if self._result is None or pq.PQresultStatus(self._result) != PGRES_TUPLES_OK:
                raise self._error()
            return string_at(pq.PQgetvalue(self._result, 0, 0), pq.PQgetlength(self._result, 0, 0))
        finally:
            self._clear()

    def poll(self) -> int:
        """Advance the query; return POLL_READ, POLL_WRITE, or POLL_OK when it is done."""
        pq = libpq()
        pgconn = self._conn.pgconn_ptr
        if pgconn is None:
            raise psycopg2.InterfaceError("connection closed by another greenlet")
        if not self._flushed:
            unsent = pq.PQflush(pgconn)
            if unsent > 0:
                return POLL_WRITE
            self._flushed = True
            # After an error of PQflush(), value() raises libpq's message.
            return POLL_READ if unsent == 0 else POLL_OK
        if not pq.PQconsumeInput(pgconn):
            return POLL_OK  # the connection is lost
        while not pq.PQisBusy(pgconn):
            result = pq.PQgetResult(pgconn)
            if not result:
                return POLL_OK
            self._clear()
            self._result = result
        return POLL_READ

    def _error(self) -> psycopg2.OperationalError:
        pq = libpq()
        pgconn = self._conn.pgconn_ptr
        error = psycopg2.OperationalError(pq.PQerrorMessage(pgconn).decode("utf-8", "replace"))
        if pgconn is not None and pq.PQstatus(pgconn) == CONNECTION_BAD:
            with contextlib.suppress(psycopg2.Error):
                extensions.connection.poll(self._conn)  # psycopg2 notices that the connection is lost
        return error

    def _clear(self) -> None:
        if self._result is not None:
            libpq().PQclear(self._result)
            self._result = None


def wait(conn: Any, polled: Any) -> None:
    """Wait until *polled*, which takes the place of *conn*, is done.

    Raises:
        BaseException: An exception was thrown into the greenlet. *conn* is closed, as
            after an exception in psycopg2's own queries.
    """
    callback = extensions.get_wait_callback()
    try:
        if callback is not None:
            callback(polled)
            return
        # The user removed the callback in order to block.
        while (state := polled.poll()) != POLL_OK:
            wait_in_thread(conn._green_adapter, polled.fileno(), state, None)
    except BaseException:
        close(conn)
        raise


def may_wait_in_hub(adapter: Adapter) -> bool:
    """Return whether the thread has a hub and a wait callback is set, so that other greenlets can run meanwhile."""
    return adapter.current() is not None and extensions.get_wait_callback() is not None


def close(conn: Any) -> None:
    """Close *conn* after an exception, as psycopg2 does, because its state is unknown."""
    extensions.connection.close(conn)
