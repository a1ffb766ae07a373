"""Queries with binary parameters and a binary result, over psycopg2's libpq.

psycopg2 sends and receives text. A bytea is twice as long in text, and both sides
parse it; for bulk data that costs more than the transfer.
"""

import contextlib
from collections.abc import Callable
from ctypes import c_char_p, c_int, string_at
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen._libpq import libpq
from psycogreen._waiting import POLL_OK, POLL_READ, POLL_WRITE

PGRES_TUPLES_OK = 2
CONNECTION_BAD = 1


class BinaryQueries:
    """Queries on one connection, one after the other.

    The wait callback is called with this object in the place of the connection:
    it has poll() and fileno(), so these queries wait as ordinary ones do.

    psycopg2 does not know of the query. The caller keeps other greenlets away from
    the connection meanwhile, by `psycogreen._psycopg2.exclusive.exclusive`.
    """

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._flushed = True
        self._result: int | None = None
        self.fileno: Callable[[], int] = conn.fileno
        # The wait loop calls it when an exception ends the wait.
        self._green_interrupted = conn._green_interrupted

    def value(self, query: bytes, *parameters: bytes) -> bytes:
        """Return the single value of the result of *query*, in the server's binary format.

        *parameters* are the values of $1 and so on, in binary format.

        Raises:
            psycopg2.OperationalError: The query failed or the connection is
                lost. It has libpq's message and no SQLSTATE, as the errors of
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
            # An error of PQflush() is reported by the connection and by the result.
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
                extensions.connection.poll(self._conn)  # so that psycopg2 notices the loss
        return error

    def _clear(self) -> None:
        if self._result is not None:
            libpq().PQclear(self._result)
            self._result = None


def wait(conn: Any, polled: Any) -> None:
    """Wait until *polled*, which stands in for *conn*, is done.

    Raises:
        BaseException: An exception was thrown into the greenlet. *conn* is closed,
            as psycopg2 closes it after an exception in its own queries.
    """
    callback = extensions.get_wait_callback()
    if callback is None:
        raise psycopg2.OperationalError("wait callback not available")
    try:
        callback(polled)
    except BaseException:
        close(conn)
        raise


def close(conn: Any) -> None:
    """Close *conn* after an exception, as psycopg2 does, because its state is unknown."""
    extensions.connection.close(conn)
