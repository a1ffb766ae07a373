"""Asking the server to cancel a query of a psycopg2 connection."""

from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen import _cancel
from psycogreen._adapter import Adapter
from psycogreen._libpq import libpq


def cancel(conn: Any, adapter: Adapter) -> None:
    """Ask the server to cancel the query of *conn*; wait until the server has the request.

    The hub's own greenlet can't wait: called there, this leaves the request to the
    background.

    Raises:
        psycopg2.OperationalError: The server could not be asked.
        psycopg2.NotSupportedError: libpq can't be reached.
    """
    library = libpq()
    try:
        request = _cancel.CancelRequest(adapter, library, conn.pgconn_ptr)
        _cancel.cancel(request, blocking=extensions.get_wait_callback() is None)
    except _cancel.CancelError as exc:
        raise psycopg2.OperationalError(str(exc)) from None


def cancel_and_abandon(conn: Any, adapter: Adapter) -> None:
    """Ask the server in the background to cancel the query of *conn*.

    Afterwards *conn* can only be closed. A failure of the request is not reported.
    """
    try:
        request = _cancel.CancelRequest(adapter, libpq(), conn.pgconn_ptr)
    except (psycopg2.Error, _cancel.CancelError, OSError, RuntimeError):
        return  # no server, no descriptor, no thread
    _cancel.cancel_in_background(request, conn.fileno())
