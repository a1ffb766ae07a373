"""Signal handlers and other threads wake a hub that sleeps in its poll."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions

# Seconds; less than the query takes, and less than the test's time limit.
SOON = 8.0


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Return a function that sets an alarm: soon, when all greenlets wait, a signal handler calls its argument."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(fn: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: fn())
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Dropped:
    """An object that calls a function in ``__del__``."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self._fn = fn

    def __del__(self) -> None:
        self._fn()


def ends_soon(hub: Hub, connection: Any, error: type[Exception]) -> None:
    begun = time.monotonic()
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(20)")
    with pytest.raises(error):
        task.wait()
    assert time.monotonic() - begun < SOON


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("method", "error"), [("cancel", extensions.QueryCanceledError), ("close", psycopg2.InterfaceError)]
)
def test_a_signal_handler_ends_the_query(
    hub: Hub, connect: Any, alarm: Any, method: str, error: type[Exception], known: bool
) -> None:
    connection = hub.run(connect)
    if known:
        hub.run(connection.cursor().execute, "SELECT 1")
    alarm(getattr(connection, method))
    ends_soon(hub, connection, error)


def test_a_del_in_a_signal_handler_ends_the_query(hub: Hub, connect: Any, alarm: Any) -> None:
    connection = hub.run(connect)
    dropped = [Dropped(connection.cancel)]
    alarm(dropped.clear)
    ends_soon(hub, connection, extensions.QueryCanceledError)


def test_call_soon_from_a_native_thread_wakes_the_hub(hub: Hub, connect: Any) -> None:
    connection = hub.run(connect)
    adapter = hub.adapter._adapter
    currents: list[Any] = []
    threads: list[threading.Thread] = []

    def query() -> None:
        currents.append(adapter.current())
        threads[0].start()
        connection.cursor().execute("SELECT pg_sleep(20)")

    def call() -> None:
        while connection.get_transaction_status() != extensions.TRANSACTION_STATUS_ACTIVE:
            time.sleep(0.01)
        os.sched_yield()
        adapter.call_soon(currents[0], connection.cancel)

    threads.append(threading.Thread(target=call))
    begun = time.monotonic()
    with pytest.raises(extensions.QueryCanceledError):
        hub.spawn(query).wait()
    assert time.monotonic() - begun < SOON
    threads[0].join()
