"""Servers and connections that do on command what real ones do only by accident."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from support.fake_connections import FakeConnection
from support.network import FakeServer, dial


@pytest.fixture
def fake_server() -> Iterator[Callable[..., FakeServer]]:
    """Start a FakeServer; it is closed after the test."""
    with ExitStack() as opened:
        yield lambda handle: opened.enter_context(closing(FakeServer(handle)))


@pytest.fixture
def fake_connection() -> Iterator[Callable[..., FakeConnection]]:
    """Make a FakeConnection; its sockets are closed after the test."""
    with ExitStack() as opened:
        yield lambda *script: opened.enter_context(closing(FakeConnection(*script)))


@pytest.fixture
def to_server(dsn: str) -> Callable[[], socket.socket]:
    """Open a bare socket to the server of *dsn*."""
    import psycopg2

    with closing(psycopg2.connect(dsn)) as connection:
        place: tuple[Any, Any] = connection.info.host, connection.info.port
    return lambda: dial(*place)
