"""Large objects on green connections.

psycopg2 calls libpq's lo_*() functions, which block. So it refuses large objects while
a wait callback is set. This module calls the same functions of the server by queries
that wait through the callback (PostgreSQL's documentation, "Large Objects", "Server-side
Functions").

The methods return and raise what psycopg2's methods do (its lobject_type.c and
lobject_int.c). One thing differs: read() and write() have no limit of a gigabyte,
because they transfer a chunk at a time.
"""

import codecs
import io
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen import _forks
from psycogreen._libpq.binary_query import BinaryQueries, close, may_wait_in_hub
from psycogreen._psycopg2.factories import green_factory
from psycogreen._psycopg2.guard import check_free, exclusive

# Bytes that one query reads or writes. Larger chunks are not faster, and a chunk is in
# memory three times: here, in libpq's buffer and in the server.
CHUNK = 1 << 18

# glibc extends an allocation of more than 32 MB without copying it.
MREMAP_SIZE = 33 << 20

# From PostgreSQL's libpq/libpq-fs.h.
INV_WRITE, INV_READ = 0x20000, 0x40000

_MODE = re.compile("(rw|r|w|n|)(t|b|)")


class LargeObjects(extensions.connection):  # type: ignore[misc]
    """Mixin of the green connection: large objects."""

    __slots__ = ()

    def lobject(
        self,
        oid: int = 0,
        mode: str | None = "",
        new_oid: int = 0,
        new_file: str | None = None,
        lobject_factory: Any = extensions.lobject,
    ) -> Any:
        """Open a large object, or make one: see `connection.lobject()` in psycopg2's documentation.

        Args:
            oid: Object identifier of the large object; 0 makes a new one.
            mode: "r", "w", "rw" or "n" (do not open), and "t" (text) or "b".
            new_oid: Object identifier for the new large object; 0 leaves the
                choice to the server.
            new_file: Name of a file to make the new large object of.
            lobject_factory: `psycopg2.extensions.lobject` or a subclass.

        Raises:
            psycopg2.ProgrammingError: The connection is in autocommit mode,
                in a prepared transaction or in use by another greenlet.
            psycopg2.OperationalError: The server or the file refused.
            psycopg2.NotSupportedError: psycopg2's libpq can't be reached.
            ValueError: *mode* is none of the above.
            TypeError: An argument is of the wrong type.
        """
        # psycopg2 checks the arguments and the connection's state before it refuses
        # because of the wait callback. Without a callback it calls the factory. That
        # must be a green one then, too: the large object may still be used when the
        # callback is set again.
        is_class = isinstance(lobject_factory, type) and issubclass(lobject_factory, extensions.lobject)
        factory = green_factory(lobject_factory, LargeObject) if is_class else lobject_factory
        try:
            return super().lobject(oid, mode, new_oid, new_file, factory)
        except psycopg2.ProgrammingError:
            if extensions.get_wait_callback() is None or self.async_:
                raise
        if self.status == extensions.STATUS_PREPARED:
            raise psycopg2.ProgrammingError("lobject cannot be used with a prepared two-phase transaction")
        if not is_class:
            raise TypeError("lobject factory must be subclass of psycopg2.extensions.lobject")
        arguments: list[Any] = [_oid(oid), mode, _oid(new_oid)]
        if new_file is not None:
            arguments.append(new_file)
        return factory(self, *arguments)


class LargeObject(extensions.lobject):  # type: ignore[misc]
    """psycopg2's lobject, except that no call stops the hub.

    psycopg2's own __init__() never runs, so psycopg2 takes this object for closed. When
    the object is deleted, psycopg2 sends nothing: another query may be under way then.
    The server closes the descriptor when the transaction ends.
    """

    # As in psycopg2, these are the values if a subclass does not call __init__().
    _conn: Any = None
    _oid = 0
    _mode: str | None = None
    _descriptor = -1

    def __init__(
        self, conn: Any, oid: int = 0, mode: str | None = None, new_oid: int = 0, new_file: str | None = None, /
    ) -> None:
        if conn.autocommit:
            raise psycopg2.ProgrammingError("can't use a lobject outside of transactions")
        parsed = _MODE.fullmatch(mode or "")
        if not parsed:
            raise ValueError(f"bad mode for lobject: '{mode}'")
        access, kind = parsed.groups()
        self._conn = conn
        self._queries = BinaryQueries(conn)
        # A named cursor becomes invalid exactly when a large object does: both keep
        # the connection's `mark` from their start, and psycopg2 compares it.
        self._transaction_probe = extensions.cursor(conn, "psycogreen")
        with self._in_transaction():
            if oid:
                self._oid = oid
            elif new_file is not None:
                self._oid = self._import(new_file)
            elif new_oid:
                self._oid = self._number("lo_create", new_oid, signed=False)
            else:
                self._oid = self._number("lo_creat", INV_READ | INV_WRITE, signed=False)
            if not oid:
                access = "w"
            flags = (INV_READ if "r" in (access or "r") else 0) | (INV_WRITE if "w" in access else 0)
            if flags:
                self._descriptor = self._number("lo_open", self._oid, flags)
        self._binary = kind == "b"
        self._mode = "n" if access == "n" else (access or "r") + (kind or "t")

    def __repr__(self) -> str:
        return f"<lobject object at {id(self):#x}; closed: {self.closed:d}>"

    __str__ = __repr__  # psycopg2's class has a __str__() of its own

    @property
    def oid(self) -> int:
        """The object identifier."""
        return self._oid

    @property
    def mode(self) -> str | None:
        """The mode in full: "rt" for the default."""
        return self._mode

    @property
    def closed(self) -> bool:
        """Whether the large object has no open descriptor, or the connection is closed."""
        return self._descriptor < 0 or self._conn is None or self._conn.closed > 0

    def read(self, size: int = -1, /) -> str | bytes:
        """Return the next *size* bytes, or all up to the end for -1. In text mode they are decoded.

        Raises:
            UnicodeDecodeError: The bytes are not valid in the connection's encoding, or
                the last character is incomplete.
        """
        size = _ssize(size)
        self._check()
        with exclusive(self._conn, "lobject"):
            if self._binary:
                return self._bytes(size)
            if 0 <= size <= CHUNK:
                return self._bytes(size).decode(self._encoding())
            return self._text(size)

    def write(self, data: str | bytes, /) -> int:
        """Write *data*, encoded if it is a string; return the number of bytes.

        Raises:
            UnicodeEncodeError: The connection's encoding does not have a
                character. Nothing is written.
        """
        self._check()
        if not isinstance(data, (bytes, str)):
            raise TypeError(f"lobject.write requires a string; got {type(data).__name__} instead")
        with exclusive(self._conn, "lobject"):
            chunks = _slices(data) if isinstance(data, bytes) else self._encoded(data)
            return sum(self._write(self._descriptor, chunk) for chunk in chunks)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to *offset*: from the start (*whence* 0), from here (1) or from the end (2). Return the position."""
        offset, whence = _ssize(offset), _int(whence)
        self._check()
        if self._old_server() and not -(1 << 31) <= offset < 1 << 31:
            raise psycopg2.NotSupportedError(
                f"offset out of range ({offset}): server version {self._conn.server_version}"
                " does not support the lobject 64 API"
            )
        with exclusive(self._conn, "lobject"):
            return self._seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        self._check()
        with exclusive(self._conn, "lobject"):
            return self._number("lo_tell" if self._old_server() else "lo_tell64", self._descriptor)

    def truncate(self, size: int = 0, /) -> None:
        """Shorten the large object to *size* bytes, or extend it to *size* bytes with zeros."""
        size = _ssize(size)
        self._check()
        old = self._old_server()
        if old and size >= 1 << 31:
            raise psycopg2.NotSupportedError(
                f"len out of range ({size}): server version {self._conn.server_version}"
                " does not support the lobject 64 API"
            )
        with exclusive(self._conn, "lobject"):
            self._number("lo_truncate" if old else "lo_truncate64", self._descriptor, size)

    def close(self) -> None:
        """Close the descriptor, if it is open and its transaction has not ended."""
        if self.closed or self._conn.autocommit:
            return
        with exclusive(self._conn, "lobject"):
            self._close()

    def unlink(self) -> None:
        """Close and remove the large object."""
        with self._in_transaction():
            self._close()
            self._number("lo_unlink", self._oid)

    def export(self, filename: str, /) -> None:
        """Write the whole large object to the file *filename*."""
        path = _path(filename)
        if self._conn.autocommit:
            raise psycopg2.ProgrammingError("can't use a lobject outside of transactions")
        with self._in_transaction():
            descriptor = self._number("lo_open", self._oid, INV_READ)
            file = self._in_thread(
                f'open file "{filename}"', descriptor, _File, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC
            )
            failure = f'write to file "{filename}"'
            while data := self._read(descriptor, CHUNK):
                self._in_thread(failure, descriptor, file.write, data)
            self._in_thread(failure, descriptor, file.close)
            self._number("lo_close", descriptor)

    def _import(self, filename: str) -> int:
        file = self._in_thread(f'open file "{filename}"', None, _File, _path(filename), os.O_RDONLY)
        oid = self._number("lo_creat", INV_READ | INV_WRITE, signed=False)
        descriptor = self._number("lo_open", oid, INV_WRITE)
        failure = f'read from file "{filename}"'
        while data := self._in_thread(failure, descriptor, file.read, CHUNK):
            self._write(descriptor, data)
        self._in_thread(failure, descriptor, file.close)
        self._number("lo_close", descriptor)
        return oid

    def _in_thread(self, failure: str, descriptor: int | None, fn: Callable[..., Any], *args: Any) -> Any:
        """Call *fn* in a native thread. After an OSError close *descriptor*, and raise libpq's error for *failure*."""
        adapter = self._conn._green_adapter
        begun = _forks.current()
        try:
            # Where other greenlets can't run meanwhile, the call needs no native thread.
            result = adapter.run_in_thread(_attempt, fn, *args) if may_wait_in_hub(adapter) else _attempt(fn, *args)
            _forks.stop_copy(begun, adapter, self._conn)
        except BaseException:
            if _forks.is_copy(begun):
                _forks.disconnect(self._conn)
            close(self._conn)  # as after a wait for the server
            raise
        if isinstance(result, OSError):
            if descriptor is not None:
                self._number("lo_close", descriptor)
            raise psycopg2.OperationalError(f"could not {failure}: {result.strerror}\n") from result
        return result

    def _check(self) -> None:
        """Raise as psycopg2 does before it uses an open large object."""
        if self.closed:
            raise psycopg2.InterfaceError("lobject already closed")
        if self._conn.autocommit:
            raise psycopg2.ProgrammingError("can't use a lobject outside of transactions")
        check_free(self._conn, "lobject")  # before _valid(), which would raise for another reason
        if not self._valid():
            raise psycopg2.ProgrammingError("lobject isn't valid anymore")

    def _valid(self) -> bool:
        """Return whether the transaction in which the descriptor was opened has not ended."""
        try:
            # psycopg2 raises ProgrammingError if the transaction has ended. Only then
            # it looks at the query, and raises TypeError for 1.
            self._transaction_probe.execute(1)
        except TypeError:
            return True
        except psycopg2.ProgrammingError:
            return False
        raise AssertionError

    @contextmanager
    def _in_transaction(self) -> Iterator[None]:
        """Begin a transaction if psycopg2 would, and keep other greenlets away from the connection in this block."""
        with exclusive(self._conn, "lobject"):
            if self._conn.status == extensions.STATUS_READY and not self._conn.closed:
                extensions.cursor(self._conn).execute("SELECT 1")
            yield

    def _close(self) -> None:
        if self._conn.closed > 1:
            raise psycopg2.OperationalError("the connection is broken")
        if self.closed or self._conn.autocommit or not self._valid():
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._number("lo_close", descriptor)

    def _number(self, function: str, *arguments: int, signed: bool = True) -> int:
        """Return the integer that the server's *function* returns."""
        query = f"SELECT pg_catalog.{function}({', '.join(map(repr, map(str, arguments)))})"
        return int.from_bytes(self._queries.value(query.encode()), "big", signed=signed)

    def _read(self, descriptor: int, size: int) -> bytes:
        return self._queries.value(b"SELECT pg_catalog.loread('%d', '%d')" % (descriptor, size))

    def _write(self, descriptor: int, data: bytes) -> int:
        written = self._queries.value(b"SELECT pg_catalog.lowrite('%d', $1)" % descriptor, data)
        return int.from_bytes(written, "big", signed=True)

    def _seek(self, offset: int, whence: int) -> int:
        return self._number("lo_lseek" if self._old_server() else "lo_lseek64", self._descriptor, offset, whence)

    def _chunks(self, size: int) -> Iterator[bytes]:
        """Read *size* bytes, or all for -1, chunk by chunk."""
        left = size
        while True:
            wanted = CHUNK if size < 0 else min(CHUNK, left)
            data = self._read(self._descriptor, wanted)
            yield data
            left -= len(data)
            if len(data) < wanted or left == 0:
                break

    # To copy a large result as a whole would stop the hub for long. So the result grows
    # in place: CPython resizes the string in `text +=`, and getvalue() returns BytesIO's
    # own buffer. At MREMAP_SIZE, one copy moves the result to memory that glibc can
    # extend without another copy.

    def _bytes(self, size: int) -> bytes:
        if 0 <= size <= CHUNK:
            return self._read(self._descriptor, size)
        whole = io.BytesIO()
        for data in self._chunks(size):
            if whole.tell() < MREMAP_SIZE <= whole.tell() + len(data):
                small, whole = whole, io.BytesIO()
                whole.write(small.getbuffer())
            whole.write(data)
        return whole.getvalue()

    def _text(self, size: int) -> str:
        decoder = codecs.getincrementaldecoder(self._encoding())()
        text = ""
        count = 0
        try:
            for data in self._chunks(size):
                count += len(data)
                if count - len(data) < MREMAP_SIZE <= count:
                    text = "".join((text, decoder.decode(data)))
                else:
                    text += decoder.decode(data)
            return text + decoder.decode(b"", True)
        except UnicodeDecodeError:
            # As in psycopg2, the error must hold all bytes. So decode them at once.
            self._seek(-count, 1)
            return self._bytes(size).decode(self._encoding())

    def _encoding(self) -> str:
        codec: str = extensions.encodings[self._conn.encoding]
        return codec

    def _encoded(self, text: str) -> list[bytes]:
        encoding = self._encoding()
        adapter = self._conn._green_adapter
        pieces: list[bytes] = []
        for piece in _slices(text):
            if pieces and may_wait_in_hub(adapter):
                _forks.pause(adapter, self._conn)
            try:
                pieces.append(piece.encode(encoding))
            except UnicodeEncodeError:
                text.encode(encoding)  # raises with the position in the whole text
                raise
        return pieces

    def _old_server(self) -> bool:
        return int(self._conn.server_version) < 90300


class _File:
    """A file for native threads.

    If a greenlet is killed while a thread reads or writes, nothing closes the file
    under that thread: it is closed when the last reference to this object goes.
    """

    def __init__(self, path: bytes, flags: int) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, flags, 0o666)

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


def _attempt(fn: Callable[..., Any], *args: Any) -> Any:
    """Return what *fn* returns, or its OSError.

    Not raised, because a caller could not tell it from an OSError (a timeout, say) that was
    thrown into the greenlet.
    """
    try:
        return fn(*args)
    except OSError as exc:
        return exc


def _slices(data: Any) -> Iterator[Any]:
    """Cut *data* into chunks, at least one."""
    for start in range(0, len(data) or 1, CHUNK):
        yield data[start : start + CHUNK]


def _oid(value: Any) -> int:
    return operator.index(value) & 0xFFFFFFFF


def _ssize(value: Any) -> int:
    number = operator.index(value)
    if not -sys.maxsize - 1 <= number <= sys.maxsize:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def _int(value: Any) -> int:
    number = operator.index(value)
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"signed integer is {'greater than maximum' if number > 0 else 'less than minimum'}")
    return number


def _path(name: Any) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"argument 1 must be str, not {type(name).__name__ if name is not None else None}")
    path = name.encode()
    if b"\0" in path:
        raise ValueError("embedded null character")
    return path
