"""Moving the rows of a COPY between libpq and a file, in pure Python.

This module is the reference for ``_copyrows.pyx``, and takes its place where that was
not built. It is slower: it makes three calls through ctypes for each row.
"""

import time
from collections.abc import Callable
from ctypes import byref, c_void_p, string_at
from typing import Any

from psycogreen._libpq import libpq

# Rows between two looks at the clock.
_STRIDE = 16


def write_rows(pgconn: int, write: Callable[[Any], object] | None, codec: str | None, until: float) -> int:
    """Call *write* for each row of the COPY that libpq holds.

    Args:
        pgconn: Address of the connection's ``PGconn``.
        write: The file's ``write()``; None drops the rows.
        codec: The codec that decodes the rows; None leaves them bytes.
        until: The time to stop, by ``time.perf_counter()``.

    Returns:
        A number above 0 if the time *until* has come. Otherwise the result of
        PQgetCopyData(): 0 if the next row has not come in yet, -1 at the end of the
        COPY, -2 for an error.

    Raises:
        Exception: *write* or the decoding raised it. That row is lost.
    """
    functions = libpq()
    row = c_void_p()
    reference = byref(row)
    while True:
        for _ in range(_STRIDE):
            length: int = functions.PQgetCopyData(pgconn, reference, 1)
            if length <= 0:
                return length
            data = string_at(row, length)
            functions.PQfreemem(row)
            if write is not None:
                write(data if codec is None else data.decode(codec))
        if time.perf_counter() > until:
            return 1


def read_rows(
    read: Callable[[int], Any], size: int, codec: str, enough: int, until: float
) -> tuple[bytes, bool, Exception | bytes | None]:
    """Call *read* until there is enough data.

    Args:
        read: The file's ``read()``.
        size: The argument for *read*.
        codec: The codec that encodes text.
        enough: The number of bytes after which to stop.
        until: The time to stop, by ``time.perf_counter()``.

    Returns:
        The data; whether the file has ended; and the failure. That is None, the
        exception that *read* or the encoding raised, or, where *read* returned
        neither text nor bytes, an error's text for the server.
    """
    pieces: list[bytes] = []
    length = 0
    try:
        while length < enough:
            piece = read(size)
            if isinstance(piece, str):
                piece = piece.encode(codec)
            if not isinstance(piece, bytes):
                return b"".join(pieces), True, b"error in .read() call"
            if not piece:
                return b"".join(pieces), True, None
            pieces.append(piece)
            length += len(piece)
            if not len(pieces) % _STRIDE and time.perf_counter() > until:
                break
    except Exception as exc:
        return b"".join(pieces), True, exc
    return b"".join(pieces), False, None
