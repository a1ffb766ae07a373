"""The servers that the tests ask."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from helpers import helper
from pgserver import system_server


def server(*arguments: str) -> AbstractContextManager[str]:
    """Run a server in a process of its own; yield its DSN."""
    return helper("pgserver.py", *arguments)


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """DSN of the server: the one that PSYCOGREEN_TEST_DSN names, or one started here."""
    named = os.environ.get("PSYCOGREEN_TEST_DSN")
    if named:
        yield named
        return
    with server() as started:
        yield started


@pytest.fixture(scope="session")
def tls_dsn() -> Iterator[str]:
    """DSN of a server on TCP, with TLS: the certificate and the name are checked."""
    named = os.environ.get("PSYCOGREEN_TEST_TLS_DSN")
    if named:
        yield named
        return
    if system_server() is None:
        pytest.skip("no PostgreSQL server of the system: apt-get install postgresql (for TCP and TLS)")
    with server("--tls") as started:
        yield started


@pytest.fixture(scope="session")
def tcp_dsn(tls_dsn: str) -> str:
    """DSN of the same server as *tls_dsn*, without TLS."""
    from psycopg2.extensions import make_dsn

    return make_dsn(tls_dsn, sslmode="disable")
