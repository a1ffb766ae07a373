"""The PostgreSQL servers of the tests, and observers of their sessions."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from support.postgres import server, system_server
from support.server_state import Observer


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The DSN of the server that PSYCOGREEN_TEST_DSN names, or of one that is started here."""
    yield from named_or_started("PSYCOGREEN_TEST_DSN")


@pytest.fixture(scope="session")
def tls_dsn() -> Iterator[str]:
    """The DSN of a server on TCP with TLS. libpq checks the certificate and the name."""
    if "PSYCOGREEN_TEST_TLS_DSN" not in os.environ and system_server() is None:
        pytest.skip("no PostgreSQL server of the system: apt-get install postgresql (for TCP and TLS)")
    yield from named_or_started("PSYCOGREEN_TEST_TLS_DSN", "--tls")


def named_or_started(variable: str, *arguments: str) -> Iterator[str]:
    """Yield the DSN of the server that the environment's *variable* names, or of a new one."""
    named = os.environ.get(variable)
    if named:
        yield named
        return
    with server(*arguments) as started:
        yield started


@pytest.fixture(scope="session")
def tcp_dsn(tls_dsn: str) -> str:
    """The DSN of the same server as *tls_dsn*, without TLS."""
    from psycopg2.extensions import make_dsn

    return make_dsn(tls_dsn, sslmode="disable")


@pytest.fixture
def observe() -> Iterator[Callable[[str], Observer]]:
    """Make Observers of servers. They are closed after the test."""
    with ExitStack() as opened:
        yield lambda dsn: opened.enter_context(closing(Observer(dsn)))


@pytest.fixture
def observer(observe: Callable[[str], Observer], dsn: str) -> Observer:
    """An Observer of the server."""
    return observe(dsn)


@pytest.fixture
def executing(observer: Any) -> Callable[[str], int]:
    """Count the server's sessions that execute a query with a text in it."""
    return observer.executing
