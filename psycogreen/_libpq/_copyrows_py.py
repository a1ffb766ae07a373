"""Between libpq and a file, the rows of a COPY, in pure Python.

It is the reference for ``_libpq/_copyrows.pyx`` and takes its place where that one
was not built. Three calls into libpq through ctypes for each row are slow.
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
        write: None has the rows dropped.
        codec: What the rows are decoded with; None leaves them bytes.
        until: When to stop, by ``time.perf_counter()``.

    Returns:
        Greater than 0 if it was stopped by *until*. Otherwise what
        PQgetCopyData returned: 0 if the next row has not come in yet, -1 at
        the end of the COPY, -2 for an error.

    Raises:
        Exception: What *write* or decoding raised; that row is gone.
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
    """Collect what *read* returns.

    Args:
        read: It is called with *size*.
        size: The size.
        codec: What text is encoded with.
        enough: Bytes after which to stop.
        until: When to stop, by ``time.perf_counter()``.

    Returns:
        What was read; whether that was all; and what is wrong with the rest:
        what *read* or encoding raised, or what to tell the server where
        *read* returned neither text nor bytes. None if nothing is wrong.
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
