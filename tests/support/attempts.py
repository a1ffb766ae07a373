"""The outcome of an attempt to connect."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg2


@dataclass
class Attempt:
    """The outcome of an attempt to connect."""

    #: The address of the server that was reached, or None.
    server: str | None
    #: The class and the message of the exception, or None.
    error: list[str] | None
    seconds: float


def attempt(connect: Callable[[], Any]) -> Attempt:
    """Call *connect*, close its connection, and return the outcome."""
    begun = time.monotonic()
    try:
        connection = connect()
    except psycopg2.Error as exc:
        return Attempt(None, [type(exc).__name__, str(exc)], time.monotonic() - begun)
    seconds = time.monotonic() - begun
    with contextlib.closing(connection), socket.socket(fileno=os.dup(connection.fileno())) as peer:
        server = peer.getpeername()
        return Attempt(server[0] if isinstance(server, tuple) else server, None, seconds)
