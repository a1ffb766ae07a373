"""Connections, green and blocking."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from fix_hub import Hub


@pytest.fixture
def green(hub: Hub) -> Iterator[None]:
    """psycopg2 is green during the test."""
    from psycopg2.extensions import set_wait_callback

    hub.adapter.make_psycopg_green()
    yield
    set_wait_callback(None)


@pytest.fixture
def connect(green: None, dsn: str) -> Iterator[Callable[..., Any]]:
    """Make a green connection to the server; it is closed after the test.

    Keywords go to psycopg2.connect() and win over the server's DSN; *dsn*
    names another server.
    """
    import psycopg2

    connections = []
    server = dsn

    def connect(dsn: str = server, **kwargs: Any) -> Any:
        connection = psycopg2.connect(dsn, **kwargs)
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def blocking_dsn_connect(dsn: str) -> Callable[..., AbstractContextManager[Any]]:
    """Connect with the wait callback switched off, for comparison.

    A context manager: psycopg2 blocks, for the whole process, until the
    block ends. Then the callback is what it was.
    """
    from psycopg2 import extensions
    from psycopg2.extensions import get_wait_callback, set_wait_callback

    @contextmanager
    def connect(
        dsn: str = dsn, connection_factory: Any = None, cursor_factory: Any = None, **kwargs: Any
    ) -> Iterator[Any]:
        callback = get_wait_callback()
        set_wait_callback(None)
        try:
            # Not psycopg2.connect(), which makes a green one also while the callback is away.
            connection = (connection_factory or extensions.connection)(extensions.make_dsn(dsn, **kwargs))
            connection.cursor_factory = cursor_factory
            try:
                yield connection
            finally:
                connection.close()
        finally:
            set_wait_callback(callback)

    return connect
