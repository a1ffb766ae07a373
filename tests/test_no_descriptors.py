"""A process that has no descriptor left goes on with the connections that it has, as it does with blocking psycopg2."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hubs.contract import Hub


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the system refuse new descriptors meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_queries_and_commits_succeed_and_the_hub_runs(hub: Hub, connect: Callable[..., Any]) -> None:
    """They need none but the connection's own."""
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
    """The query cannot be cancelled in the server, for which a descriptor is needed."""
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
