"""A process without a free descriptor can use its open connections, as with blocking psycopg2."""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions

from psycogreen import _cancel


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Make the system refuse new descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_queries_and_commits_succeed_and_the_hub_runs(hub: Hub, connect: Callable[..., Any]) -> None:
    """A query needs no descriptor but the connection's own."""
    conn = connect()
    cursor = conn.cursor()
    cursor.execute("SELECT 1")

    def work() -> Any:
        cursor.execute("SELECT pg_sleep(0.1)")
        conn.commit()
        cursor.execute("SELECT repeat('x', 1000000)")
        return len(cursor.fetchone()[0])

    task = hub.spawn(work)
    with hub.ticker() as ticker, no_descriptors():
        task.join()
    assert task.get() == 1000000
    assert ticker.ticks >= 5


def test_a_kill_ends_the_wait(hub: Hub, connect: Callable[..., Any]) -> None:
    """The query goes on in the server: a cancel request would need a descriptor."""
    conn = connect()
    conn.cursor().execute("SELECT 1")
    killed = KeyError("killed")
    task = hub.spawn(conn.cursor().execute, "SELECT pg_sleep(1)")
    hub.sleep(0.05)
    with no_descriptors():
        task.kill(killed)
        task.join()
    assert conn.closed
    with pytest.raises(KeyError) as raised:
        task.get()
    assert raised.value is killed


def test_connecting_by_name_raises_operational_error(hub: Hub, green: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As blocking psycopg2 does. The resolvers raise OSError, if they need a descriptor for a socket or a thread."""

    def getaddrinfo(self: object, host: str) -> list[Any]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(type(hub.adapter._adapter), "getaddrinfo", getaddrinfo)
    with pytest.raises(psycopg2.OperationalError, match="could not translate host name .* Too many open files"):
        hub.run(psycopg2.connect, "host=somewhere.test")


@pytest.mark.parametrize("kind", [OSError, TimeoutError])
def test_errors_thrown_in_while_resolving_pass_through(
    kind: type[Exception], hub: Hub, green: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving: list[str] = []

    def getaddrinfo(self: object, host: str) -> list[Any]:
        resolving.append(host)
        hub.sleep(60)
        return []

    thrown = kind("thrown")
    monkeypatch.setattr(type(hub.adapter._adapter), "getaddrinfo", getaddrinfo)
    task = hub.spawn(psycopg2.connect, "host=somewhere.test")
    hub.wait_until(lambda: resolving)
    task.kill(thrown)
    task.join()
    with pytest.raises(kind) as raised:
        task.get()
    assert raised.value is thrown


@pytest.mark.parametrize("waits_to", ["read", "write"])
def test_the_hub_needs_none_after_a_kill(waits_to: str, hub: Hub, connect: Callable[..., Any], executing: Any) -> None:
    """The socket of a killed query stays open under another number, until its request is finished.

    libev took the events of this socket for errors, and made another epoll instance after
    each; without a free descriptor, that ended gevent's main greenlet.
    """
    conn = connect()
    conn.autocommit = True  # the first that is sent is the query, not BEGIN
    backend = conn.info.backend_pid
    try:
        if waits_to == "read":
            task = hub.spawn(conn.cursor().execute, "SELECT pg_sleep(60)")
            hub.wait_until(lambda: executing("pg_sleep(60)"))
        else:
            os.kill(backend, signal.SIGSTOP)  # so that the socket can't be written before no descriptor is free
            task = hub.spawn(conn.cursor().execute, "SELECT 1 -- " + "x" * 20_000_000)
            hub.wait_until(lambda: conn.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE)
        task.kill(KeyError("killed"))
        task.join()
        assert _cancel._pending
        with no_descriptors():
            os.kill(backend, signal.SIGCONT)
            hub.wait_until(lambda: not _cancel._pending)
            hub.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(backend, signal.SIGCONT)
