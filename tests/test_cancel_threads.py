"""Cancel requests of a libpq that can only block: the number of threads is bounded."""

from threading import Lock
from typing import Any

import pytest
from hubs.contract import Hub

from psycogreen import _cancel
from psycogreen._libpq import libpq


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

    monkeypatch.setattr(_cancel, "_can_request", lambda library: False)
    monkeypatch.setattr(_cancel, "_blocking", lambda library: (lambda pgconn: next(keys), ask, freed.append))
    yield asked, freed
    if lock.locked():
        lock.release()


def test_cancel_requests_wait_for_a_thread_and_expire(hub: Hub, connect: Any, stuck: Any, monkeypatch: Any) -> None:
    asked, freed = stuck
    monkeypatch.setattr(_cancel, "CANCEL_TIMEOUT", 0.3)
    connection = connect()
    adapter = connection._green_adapter

    def abandon() -> None:
        for _ in range(50):
            _cancel._finish_in_background(_cancel.CancelRequest(adapter, libpq(), connection.pgconn_ptr))

    hub.run(abandon)
    hub.wait_until(lambda: not _cancel._pending)
    assert len(asked) == _cancel.MAX_THREADS
    assert len(freed) == 50 - _cancel.MAX_THREADS  # those that no thread has taken
    assert not _cancel._jobs
