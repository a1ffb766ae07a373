"""COPY on green connections.

psycopg2 refuses to copy while a wait callback is set. So this module executes a COPY
by execute(), as a query. psycopg2 sends the query and calls the wait callback, which
polls the connection. During a COPY, a function of this module takes the place of the
connection's poll() (`GreenConnection._green_poll`) and moves the data: it calls libpq,
and returns POLL_READ or POLL_READWRITE where the wait loop must wait. When all data
is moved, psycopg2's own poll() fetches the result.

So psycopg2 does the rest as for any query: it begins the transaction, locks the
connection, collects notices, sets the row count, raises the server's errors, and
closes the connection when an exception ends a wait.

A COPY that the user passes to execute() is refused, but psycopg2 leaves libpq in the
middle of that COPY. In blocking mode libpq's next query ends it. In non-blocking mode
libpq refuses the next query, so the COPY must end before execute() raises: see
leave_copy().
"""

import contextlib
import io
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import psycopg2
from psycopg2 import extensions
from psycopg2.extensions import POLL_OK, POLL_READ

from psycogreen import _forks, _waiters
from psycogreen._libpq import libpq
from psycogreen._libpq.copyrows import read_rows, write_rows
from psycogreen._psycopg2.guard import check_free
from psycogreen._waiting import POLL_READWRITE, TIME_SLICE

# libpq's ExecStatusType.
_PGRES_COPY_OUT, _PGRES_COPY_IN, _PGRES_COPY_BOTH = 3, 4, 8

# Bytes given to libpq at once. libpq never holds more than that unsent.
_CHUNK = 65536


class CopyCursor:
    """Mixin of the green cursor: psycopg2's methods for COPY."""

    __slots__ = ()

    connection: Any
    closed: bool

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Execute a COPY statement that reads from or writes to *file*.

        See ``cursor.copy_expert()`` in psycopg2's documentation. One thing differs: a
        BaseException that is not an Exception (a kill, a timeout of the hub's,
        KeyboardInterrupt) closes the connection, as in a query, also when a method of
        *file* raises it.

        Args:
            sql: A COPY ... FROM STDIN or COPY ... TO STDOUT, as a string or a
                ``psycopg2.sql.Composable``.
            file: An object with ``read()`` or ``write()``. These may wait on the hub.
            size: The argument of ``read()``.

        Raises:
            psycopg2.Error: As in psycopg2.
            psycopg2.NotSupportedError: psycopg2's libpq can't be reached.
        """
        if self._copied_by_psycopg2("copy_expert", sql, file, size):
            return
        query = extensions.cursor.mogrify(self, sql)
        if not hasattr(file, "read") and not hasattr(file, "write"):
            raise TypeError(
                "file must be a readable file-like object for COPY FROM; a writable file-like object for COPY TO."
            )
        _Copy(self, file, size).execute(query)

    def copy_from(
        self, file: Any, table: str, sep: str = "\t", null: str = "\\N", size: int = 8192, columns: Any = None
    ) -> None:
        """Append the rows in *file* to *table*.

        See ``cursor.copy_from()`` in psycopg2's documentation, and `copy_expert` here.
        """
        if not self._copied_by_psycopg2("copy_from", file, table, sep, null, size, columns):
            _Copy(self, file, size).execute(self._statement(b"FROM stdin", table, columns, sep, null))

    def copy_to(self, file: Any, table: str, sep: str = "\t", null: str = "\\N", columns: Any = None) -> None:
        """Write the rows of *table* to *file*.

        See ``cursor.copy_to()`` in psycopg2's documentation, and `copy_expert` here.
        """
        if not self._copied_by_psycopg2("copy_to", file, table, sep, null, columns):
            _Copy(self, file, 0).execute(self._statement(b"TO stdout", table, columns, sep, null))

    def _copied_by_psycopg2(self, method: str, *args: Any) -> bool:
        """Call psycopg2's *method*; return whether it copied.

        It copies if no wait callback is set. Otherwise it checks the arguments and the
        cursor, raises for what it finds there, and only then refuses.
        """
        copy = getattr(extensions.cursor, method)
        try:
            if extensions.get_wait_callback() is None and not self.closed:
                with _blocking(self.connection):
                    copy(self, *args)
            else:
                copy(self, *args)
            return True
        except psycopg2.ProgrammingError:
            if extensions.get_wait_callback() is None or self.connection.async_:
                raise
        if self.connection.status == extensions.STATUS_PREPARED:
            raise psycopg2.ProgrammingError(f"{method} cannot be used with a prepared two-phase transaction")
        check_free(self.connection, method)
        return False

    def _statement(self, direction: bytes, table: str, columns: Any, sep: str, null: str) -> bytes:
        # Like psycopg2, which does not encode any of these for the connection.
        def identifier(name: Any) -> bytes:
            extensions.quote_ident(name, self)  # for the errors that it raises; its result was decoded
            encoded = name.encode() if isinstance(name, str) else name
            return b'"%b"' % encoded.replace(b'"', b'""')

        def literal(value: str) -> bytes:
            quoted = extensions.QuotedString(value.encode())
            quoted.prepare(self.connection)
            return bytes(quoted.getquoted())

        target = identifier(table)
        if columns is not None:
            target += b"(" + b",".join([identifier(column) for column in columns]) + b")"
        return b"COPY %b %b WITH DELIMITER AS %b NULL AS %b" % (target, direction, literal(sep), literal(null))


@contextlib.contextmanager
def _blocking(connection: Any) -> Iterator[None]:
    """Switch libpq to blocking mode in this block. In non-blocking mode libpq would hold all data in memory."""
    pgconn = connection.pgconn_ptr
    with contextlib.suppress(psycopg2.NotSupportedError):
        libpq().PQsetnonblocking(pgconn, 0)
    try:
        yield
    finally:
        if connection.pgconn_ptr == pgconn:
            with contextlib.suppress(psycopg2.NotSupportedError):
                libpq().PQsetnonblocking(pgconn, 1)


def _codec(connection: Any) -> str:
    """Return the name of Python's codec for the encoding of *connection*."""
    return str(extensions.encodings[connection.encoding])


def _result_status(functions: Any, connection: Any) -> int | None:
    """Return the status of libpq's next result, or None if there is none.

    During a COPY, libpq returns a new result of the COPY's status at each call.
    """
    result = functions.PQgetResult(connection.pgconn_ptr)
    if result is None:
        return None
    status: int = functions.PQresultStatus(result)
    functions.PQclear(result)
    return status


def in_copy(connection: Any) -> bool:
    """Return whether libpq is in a COPY. Its last result must have come in already.

    Raises:
        psycopg2.NotSupportedError: psycopg2's libpq can't be reached.
    """
    return _result_status(libpq(), connection) in (_PGRES_COPY_IN, _PGRES_COPY_OUT)


def leave_copy(connection: Any) -> Iterator[int]:
    """End the COPY that a user passed to execute(); yield what poll() must return meanwhile.

    The COPY ends as in blocking mode, where libpq's next query ends it: a COPY FROM
    fails in the server, the rows of a COPY TO are dropped, and so are the results of
    the statements after the COPY.
    """
    functions = libpq()
    pgconn = connection.pgconn_ptr
    connected = True
    while connected and (status := _result_status(functions, connection)) is not None:
        if status == _PGRES_COPY_IN:
            while (queued := functions.PQputCopyEnd(pgconn, b"COPY refused by execute()")) == 0:
                yield POLL_READWRITE
            connected = queued > 0
            while functions.PQflush(pgconn) > 0:
                yield POLL_READWRITE
        elif status == _PGRES_COPY_OUT:
            while connected and (left := write_rows(pgconn, None, None, time.perf_counter() + TIME_SLICE)) >= 0:
                if left:
                    yield POLL_READWRITE  # the time is up: more rows are in libpq's buffer
                else:
                    yield POLL_READ
                    connected = bool(functions.PQconsumeInput(pgconn))
        elif status == _PGRES_COPY_BOTH:
            break  # libpq does not end it either, and would return it for ever
        while connected and functions.PQisBusy(pgconn):
            yield POLL_READ
            connected = bool(functions.PQconsumeInput(pgconn))
    # If the connection is lost, or in COPY BOTH, psycopg2's next query reports it.
    restore_poll(connection)
    yield POLL_OK


def replace_poll(connection: Any, poll: Callable[[], int]) -> None:
    """Make the wait loop call *poll* in the place of psycopg2's poll()."""
    _waiters.replaced_polls.add(id(connection))
    connection._green_poll = poll


def restore_poll(connection: Any) -> None:
    """Undo replace_poll()."""
    vars(connection).pop("_green_poll", None)
    _waiters.replaced_polls.discard(id(connection))


class _Copy:
    """The execution of one COPY."""

    def __init__(self, cursor: Any, file: Any, size: int) -> None:
        self._libpq = libpq()
        self._cursor = cursor
        self._connection = cursor.connection
        self._file = file
        self._size = size
        self._process = _forks.current()
        self._done = False
        self._until = 0.0  # the end of this greenlet's turn, by time.perf_counter()
        # The exception for the caller, for example from the file's write().
        self._error: Exception | None = None
        # The exception from the file's read(). The server gets its text, and the
        # caller gets the server's error.
        self._read_error: Exception | None = None

    def execute(self, query: bytes) -> None:
        cursor = self._cursor
        if cursor.name is not None:
            # A named cursor would send a DECLARE.
            cursor = extensions.cursor(self._connection)
        if "_green_poll" in vars(self._connection):
            raise psycopg2.ProgrammingError("COPY cannot be used while another thread copies on this connection")
        replace_poll(self._connection, self._states().__next__)
        try:
            extensions.cursor.execute(cursor, query)
        except psycopg2.Error as exc:
            if self._error is None:
                raise exc from self._read_error
        finally:
            restore_poll(self._connection)
            error, self._error, self._read_error = self._error, None, None
        if error is not None:
            with contextlib.suppress(TypeError):
                extensions.cursor.executemany(cursor)  # without arguments it resets rowcount and raises
            try:
                raise error
            finally:
                del error

    def _states(self) -> Iterator[int]:
        """Yield what poll() must return until psycopg2's wait ends."""
        while True:
            state = extensions.connection.poll(self._connection)
            status = _result_status(self._libpq, self._connection) if state == POLL_OK else None
            if status not in (_PGRES_COPY_IN, _PGRES_COPY_OUT):
                yield state
                continue
            if self._done:
                # A second COPY in the same query. Here psycopg2 would loop for ever.
                self._error = psycopg2.ProgrammingError("can't execute more than one COPY at once")
            self._done = True
            if status == _PGRES_COPY_IN:
                yield from self._copy_in()
            else:
                yield from self._copy_out()

    def _copy_in(self) -> Iterator[int]:
        pgconn = self._connection.pgconn_ptr
        failure = None if self._error is None else str(self._error).encode()
        ended = failure is not None
        while not ended:
            data, ended, failure = self._read()
            self._check_connection()
            for start in range(0, len(data), _CHUNK):
                if not (yield from self._put(pgconn, data[start : start + _CHUNK])):
                    ended, failure = True, b"error in PQputCopyData() call"
                    break
                if time.perf_counter() > self._until:
                    yield POLL_READWRITE
                    self._until = time.perf_counter() + TIME_SLICE
        while (queued := self._libpq.PQputCopyEnd(pgconn, failure)) == 0:
            yield POLL_READWRITE
        if queued < 0:
            raise psycopg2.OperationalError(self._libpq.PQerrorMessage(pgconn).decode(errors="replace"))
        yield from self._flush(pgconn)

    def _read(self) -> tuple[bytes, bool, bytes | None]:
        """Read about a chunk from the file, or less if this greenlet's turn ends.

        Returns:
            The data; whether the file has ended; the text of an error for the server,
            or None.
        """
        codec = _codec(self._connection)
        try:
            read = self._file.read
        except AttributeError as exc:
            self._error = exc
            return b"", True, str(exc).encode()
        data, ended, failure = read_rows(read, self._size, codec, _CHUNK, self._until)
        if isinstance(failure, Exception):
            self._read_error = failure
            message = f"error in .read() call: {type(failure).__name__} {failure}"
            # psycopg2 cuts the text at the same length.
            failure = message.encode(codec, "replace")[:1023]
        return data, ended, failure

    def _check_connection(self) -> None:
        """Leave the COPY after a method of the file in which the connection was lost to this greenlet.

        The method may have caught the exception of another greenlet's close(), so raise
        it again. In a child process, do not go on with the parent's COPY.

        Raises:
            psycopg2.InterfaceError: Another greenlet is closing the connection.
        """
        _forks.stop_copy(self._process, self._connection._green_adapter, self._connection)
        if self._connection._green_evicted:
            self._read_error = None
            raise psycopg2.InterfaceError("connection closed by another greenlet")

    def _put(self, pgconn: int, data: bytes) -> Generator[int, None, bool]:
        """Send *data*; return False after an error of libpq's."""
        while (queued := self._libpq.PQputCopyData(pgconn, data, len(data))) == 0:
            yield POLL_READWRITE
        return (yield from self._flush(pgconn)) if queued > 0 else False

    def _flush(self, pgconn: int) -> Generator[int, None, bool]:
        """Send what libpq holds; return False after an error of libpq's.

        While the socket is full, PQflush() also reads: a server whose notices nobody
        reads would stop reading too.
        """
        while (left := self._libpq.PQflush(pgconn)) > 0:
            yield POLL_READWRITE
            self._until = time.perf_counter() + TIME_SLICE
        return bool(left == 0)

    def _copy_out(self) -> Iterator[int]:
        pgconn = self._connection.pgconn_ptr
        write = None
        if self._error is None:
            try:
                write = self._file.write
            except AttributeError as exc:
                self._error = exc
        codec = _codec(self._connection) if isinstance(self._file, io.TextIOBase) else None
        while True:
            try:
                status = write_rows(pgconn, write, codec, time.perf_counter() + TIME_SLICE)
            except Exception as exc:
                self._check_connection()
                # Read and drop the other rows, so that the connection and its
                # transaction stay usable. psycopg2 leaves that to its next query.
                self._error = exc
                write = None
                continue
            self._check_connection()
            if status < 0:
                break
            if status:
                yield POLL_READWRITE  # more rows are in libpq's buffer: poll() would read still more into it
            else:
                yield POLL_READ
                extensions.connection.poll(self._connection)
        if status < -1:
            raise psycopg2.DatabaseError(self._libpq.PQerrorMessage(pgconn).decode(errors="replace"))
