"""Asking the server to cancel a query of a psycopg 3 connection."""

import ctypes
import functools
import sys
from typing import Any

from psycopg import OperationalError, pq

from psycogreen import _cancel
from psycogreen._adapter import Adapter


@functools.cache
def _libpq() -> ctypes.PyDLL:
    """Return the libpq that psycopg loaded.

    Raises:
        OSError, AttributeError: It can't be reached.
    """
    if pq.__impl__ == "python":
        from psycopg.pq.misc import find_libpq_full_path

        path: Any = find_libpq_full_path()
    else:
        path = sys.modules[pq.PGconn.__module__].__file__
    library = ctypes.PyDLL(path)
    if library.PQlibVersion() != pq.version():
        raise OSError("another libpq")
    return library


def cancel(conn: Any, adapter: Adapter) -> None:
    """Ask the server to cancel the query of *conn*; wait until the server has the request.

    In the hub's own greenlet, which can't wait, the request is left to the background.

    Raises:
        psycopg.OperationalError: The server could not be asked.
        OSError, AttributeError: libpq can't be reached.
    """
    library = _libpq()
    try:
        _cancel.cancel(_cancel.CancelRequest(adapter, library, conn.pgconn.pgconn_ptr))
    except _cancel.CancelError as exc:
        raise OperationalError(f"cancellation failed: {exc}") from None


def cancel_in_background(conn: Any, adapter: Adapter, abandon: bool) -> None:
    """Ask the server in the background to cancel the query of *conn*. A failure is not reported.

    Args:
        conn: The connection.
        adapter: The coroutine library.
        abandon: Nothing waits for *conn* any more, and afterwards it can only be closed.
    """
    try:
        request = _cancel.CancelRequest(adapter, _libpq(), conn.pgconn.pgconn_ptr)
    except (_cancel.CancelError, AttributeError, OSError, RuntimeError):
        return  # no libpq, no server, no descriptor, no thread
    _cancel.cancel_in_background(request, conn.pgconn.socket if abandon else None)
