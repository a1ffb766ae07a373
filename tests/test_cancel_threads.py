"""Cancel requests of a libpq that can only block: the number of threads is bounded."""

from threading import Lock
from typing import Any

import pytest
from hubs.contract import Hub

from psycogreen._psycopg2 import cancel


@pytest.fixture
def stuck(monkeypatch: Any) -> Any:
    """A libpq whose PQcancel() blocks until the event is set, for a server out of reach."""
    lock = Lock()
    lock.acquire()
    asked: list[int] = []
    freed: list[int] = []
    keys = iter(range(1, 1000))

    def ask(key: int, message: Any, size: int) -> int:
        asked.append(key)
        lock.acquire()
        lock.release()
        return 1

    monkeypatch.setattr(cancel, "_can_request", lambda: False)
    monkeypatch.setattr(cancel, "_blocking", lambda: (lambda pgconn: next(keys), ask, freed.append))
    yield asked, freed
    if lock.locked():
        lock.release()


def test_requests_wait_for_a_thread_and_are_given_up_in_time(
    hub: Hub, connect: Any, stuck: Any, monkeypatch: Any
) -> None:
    asked, freed = stuck
    monkeypatch.setattr(cancel, "CANCEL_TIMEOUT", 0.3)
    connection = connect()
    adapter = connection._green_adapter

    def abandon() -> None:
        for _ in range(50):
            cancel._finish_in_background(cancel._Request(connection, adapter), adapter)

    hub.run(abandon)
    hub.wait_until(lambda: not cancel._pending)
    assert len(asked) == cancel.MAX_THREADS
    assert len(freed) == 50 - cancel.MAX_THREADS  # those that no thread has taken
    assert not cancel._jobs
