"""Connections, green and blocking."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

import pytest
from hubs.contract import Hub
from support.server_state import blocking

import psycogreen


@pytest.fixture
def green(hub: Hub) -> Iterator[None]:
    """Make psycopg2 green during the test."""
    from psycopg2.extensions import set_wait_callback

    with warnings.catch_warnings():
        # The tests' own observers are not green, and older than this call.
        warnings.simplefilter("ignore", psycogreen.SetupWarning)
        hub.adapter.make_psycopg_green()
    yield
    set_wait_callback(None)


@pytest.fixture
def connect(green: None, dsn: str) -> Iterator[Callable[..., Any]]:
    """Make green connections to the server. They are closed after the test.

    Keywords go to psycopg2.connect() and override the server's DSN. *dsn* names another
    server.
    """
    import psycopg2

    server = dsn
    with ExitStack() as opened:

        def connect(dsn: str = server, **kwargs: Any) -> Any:
            return opened.enter_context(closing(psycopg2.connect(dsn, **kwargs)))

        yield connect


@pytest.fixture
def blocking_dsn_connect(dsn: str) -> Callable[..., AbstractContextManager[Any]]:
    """Connect without a wait callback, to compare.

    The result is a context manager: in its block psycopg2 blocks, in the whole process.
    Afterwards the wait callback is set again.
    """
    from psycopg2 import extensions

    @contextmanager
    def connect(
        dsn: str = dsn, connection_factory: Any = extensions.connection, cursor_factory: Any = None, **kwargs: Any
    ) -> Iterator[Any]:
        # Not psycopg2.connect(), which makes a green connection also while no callback is set.
        with blocking(), closing(connection_factory(extensions.make_dsn(dsn, **kwargs))) as connection:
            connection.cursor_factory = cursor_factory
            yield connection

    return connect


@pytest.fixture
def both_ways(hub: Hub, connect: Callable[..., Any], blocking_dsn_connect: Callable[..., Any]) -> Callable[..., Any]:
    """Call *run* with a blocking and with a green connection; return the result, which must be the same.

    Keywords go to psycopg2.connect().
    """

    def both_ways(run: Callable[[Any], Any], **kwargs: Any) -> Any:
        with blocking_dsn_connect(**kwargs) as connection:
            expected = run(connection)
        with closing(connect(**kwargs)) as connection:
            got = hub.run(run, connection)
        assert got == expected
        return got

    return both_ways
