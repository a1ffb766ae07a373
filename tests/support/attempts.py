"""How connecting ends."""

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
    """What became of connecting."""

    #: Address of the server that was reached, or none.
    server: str | None
    #: Class and message of the exception, or none.
    error: list[str] | None
    seconds: float


def attempt(connect: Callable[[], Any]) -> Attempt:
    """Call *connect*, see what comes of it, and close the connection."""
    begun = time.monotonic()
    try:
        connection = connect()
    except psycopg2.Error as exc:
        return Attempt(None, [type(exc).__name__, str(exc)], time.monotonic() - begun)
    seconds = time.monotonic() - begun
    with contextlib.closing(connection), socket.socket(fileno=os.dup(connection.fileno())) as peer:
        server = peer.getpeername()
        return Attempt(server[0] if isinstance(server, tuple) else server, None, seconds)
