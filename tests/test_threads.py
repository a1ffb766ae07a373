"""Native threads, and the hub's own greenlet."""

import functools
import threading
import time
import uuid

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import POLL_READ, POLL_WRITE, set_wait_callback
from support.server_state import in_query

from psycogreen import _cancel

pytestmark = pytest.mark.hub


@pytest.mark.core
def test_a_thread_without_a_hub_blocks_only_itself(connect, hub):
    connection = connect()

    def query():
        cursor = connection.cursor()
        cursor.execute("SELECT pg_sleep(0.2)")
        return cursor.rowcount, hub.current()

    with hub.ticker(0.01) as ticker:
        assert hub.run_in_thread(query) == (1, None)
    assert ticker.ticks >= 10
    assert ticker.longest_gap < 0.05


def test_a_thread_without_a_hub_connects_sends_and_receives(connect, hub):
    def query():
        cursor = connect().cursor()
        cursor.execute("SELECT %s", ["x" * 5_000_000])
        return len(cursor.fetchone()[0]), hub.current()

    assert hub.run_in_thread(query) == (5_000_000, None)


def test_errors_reach_a_thread_without_a_hub(connect, hub):
    with pytest.raises(psycopg2.errors.DivisionByZero):
        hub.run_in_thread(connect().cursor().execute, "SELECT 1 / 0")


@pytest.mark.skipif(NAME == "eventlet", reason="eventlet's callback only accepts a timeout")
@pytest.mark.parametrize("state", [POLL_READ, POLL_WRITE])
def test_a_timeout_raises_in_a_thread_without_a_hub(state, fake_connection, hub):
    connection = fake_connection(state)
    connection.fill()
    callback = functools.partial(hub.wait_callback, timeout=0.1)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run_in_thread(callback, connection)
    assert 0.09 < time.monotonic() - started < 1


@pytest.mark.skipif(NAME == "eventlet", reason="eventlet's callback only accepts a timeout")
@pytest.mark.parametrize("limit", [0, -1, -5])
def test_a_timeout_of_zero_raises_at_once_in_a_thread_without_a_hub(limit, fake_connection, hub):
    # In a greenlet it raises as well.
    callback = functools.partial(hub.wait_callback, timeout=limit)
    for run in hub.run, hub.run_in_thread:
        with pytest.raises(TimeoutError, match="^timed out$"):
            run(callback, fake_connection(POLL_READ))


@pytest.mark.skipif(NAME != "eventlet", reason="the other hubs' callbacks heed it")
@pytest.mark.parametrize("limit", [-1, 0.05, 0, None])
def test_eventlet_accepts_a_timeout_in_a_thread_without_a_hub(limit, connect, hub):
    cursor = connect().cursor()
    set_wait_callback(functools.partial(hub.wait_callback, timeout=limit))
    hub.run_in_thread(cursor.execute, "SELECT pg_sleep(0.2)")
    assert cursor.rowcount == 1


def test_a_thread_without_a_hub_waits_for_what_poll_asked_for(fake_connection, hub):
    # Each socket is ready for what its connection does not wait for. A wrong wait would poll again and again.
    reading, writing = fake_connection(POLL_READ), fake_connection(POLL_WRITE)
    writing.answer()
    writing.fill()
    tasks = [hub.spawn(hub.run_in_thread, hub.wait_callback, connection) for connection in (reading, writing)]
    hub.wait_until(lambda: reading.polls and writing.polls)
    hub.sleep(0.1)
    assert (reading.polls, writing.polls) == (1, 1)
    reading.answer()
    writing.peer.recv(1 << 24)
    for task in tasks:
        task.wait()
    assert (reading.polls, writing.polls) == (2, 2)


def test_a_thread_with_a_hub_of_its_own_overlaps_queries(connect, hub):
    def queries():
        started = time.monotonic()
        tasks = [hub.spawn(connect().cursor().execute, "SELECT pg_sleep(0.2)") for _ in range(5)]
        for task in tasks:
            task.wait()
        return time.monotonic() - started, hub.current()

    ours = hub.current()
    with hub.ticker(0.01) as ticker:
        took, theirs = hub.run_in_thread(queries)
    assert took < 0.9
    assert ticker.longest_gap < 0.05
    assert theirs is not None
    assert theirs is not ours


def test_one_connection_answers_in_several_threads(connect, hub):
    # One thread after the other: each time, another hub waits for the same socket.
    connection = connect()

    def query():
        hub.sleep(0)  # creates a hub
        cursor = connection.cursor()
        cursor.execute("SELECT pg_sleep(0.01)")
        return cursor.rowcount

    for _ in range(3):
        assert hub.run_in_thread(query) == 1
        assert hub.run(query) == 1


def test_threads_that_come_and_go_leave_no_thread_behind(connect, hub):
    def query():
        hub.sleep(0)
        connection = connect()
        hub.run(connection.cursor().execute, "SELECT 1")
        connection.close()

    threads = threading.active_count()
    for _ in range(20):
        hub.run_in_thread(query)
    hub.run(query)
    assert threading.active_count() == threads


@pytest.mark.skipif(NAME == "asyncio", reason="an event loop ends its greenlets when it is closed")
@pytest.mark.parametrize("turns", range(4))
def test_a_kill_ends_the_query_although_the_threads_hub_ends(turns, connect, hub, executing):
    """The request to cancel has not begun when the thread ends, or waits for the server."""
    query = f"SELECT pg_sleep(60) -- {uuid.uuid4()}"

    def kill():
        connection = connect()
        task = hub.spawn(connection.cursor().execute, query)
        hub.wait_until(lambda: in_query(connection))
        task.kill(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            task.wait()
        for _ in range(turns):
            hub.sleep(0)

    hub.run_in_thread(kill)
    hub.wait_until(lambda: not executing(query), timeout=5)
    hub.wait_until(lambda: not _cancel._pending)


def parked_in_hub(hub, fake_connection, state):
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        hub.run_in_hub(hub.wait_callback, fake_connection(state))
    return caught.type, str(caught.value)


@pytest.mark.core
def test_parking_in_the_hubs_own_greenlet_raises_as_the_hub_does(fake_connection, hub):
    idle = fake_connection()
    with pytest.raises(BaseException) as expected:  # noqa: PT011
        hub.run_in_hub(hub.wait_readable, idle.fileno())
    watched = hub.watched()
    for state in POLL_READ, POLL_WRITE:
        assert parked_in_hub(hub, fake_connection, state) == (expected.type, str(expected.value))
    assert hub.watched() == watched
    assert hub.run(lambda: 42) == 42


def test_a_query_in_the_hubs_own_greenlet_raises_as_the_hub_does(connect, fake_connection, hub):
    with pytest.raises(BaseException) as expected:  # noqa: PT011
        hub.run_in_hub(hub.wait_readable, fake_connection().fileno())
    connection = connect()
    for _ in range(2):  # before and after its first ordinary query
        with pytest.raises(expected.type) as caught:
            hub.run_in_hub(connection.cursor().execute, "SELECT pg_sleep(0.1)")
        assert str(caught.value) == str(expected.value)
        connection = connect()
        hub.run(connection.cursor().execute, "SELECT pg_sleep(0.01)")


def test_the_hubs_own_greenlet_may_call_if_no_wait_is_needed(fake_connection, hub):
    assert hub.run_in_hub(hub.wait_callback, fake_connection()) is None


def test_the_callback_can_be_unregistered(connect, dsn, hub):
    set_wait_callback(None)
    connection = psycopg2.connect(dsn)
    with hub.ticker(0.01) as ticker:
        hub.run(connection.cursor().execute, "SELECT pg_sleep(0.2)")
    assert ticker.longest_gap >= 0.2
    connection.close()
