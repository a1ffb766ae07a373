"""Servers and connections that fail on command."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from support.fake_connections import FakeConnection
from support.network import FakeServer, dial


@pytest.fixture
def fake_server() -> Iterator[Callable[..., FakeServer]]:
    """Start FakeServers. They are closed after the test."""
    with ExitStack() as opened:
        yield lambda handle: opened.enter_context(closing(FakeServer(handle)))


@pytest.fixture
def fake_connection() -> Iterator[Callable[..., FakeConnection]]:
    """Make FakeConnections. Their sockets are closed after the test."""
    with ExitStack() as opened:
        yield lambda *script: opened.enter_context(closing(FakeConnection(*script)))


@pytest.fixture
def to_server(dsn: str) -> Callable[[], socket.socket]:
    """Open plain sockets to the server of *dsn*."""
    import psycopg2

    with closing(psycopg2.connect(dsn)) as connection:
        place: tuple[Any, Any] = connection.info.host, connection.info.port
    return lambda: dial(*place)
