"""The servers that the tests ask."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pgserver import system_server


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run a server in a process of its own; yield its DSN.

    It ends with its standard input, so also when this process is killed.
    """
    program = Path(__file__).with_name("pgserver.py")
    process = subprocess.Popen(
        [sys.executable, program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        dsn = process.stdout.readline().strip()
        if not dsn:
            raise RuntimeError(f"no server: {program.name} ended with status {process.wait()}, its errors are above")
        yield dsn
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


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
