"""An event for which no greenlet waits keeps no hub busy, and disturbs no later query."""

import os
import select

import psycopg2
import pytest
from support.leaks import descriptors
from support.server_state import in_query
from support.tickers import SLEEP_TAKES, sleep_takes

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60), pytest.mark.usefixtures("all_objects")]


def test_a_connection_that_the_server_closes_keeps_no_hub_busy(hub, connect):
    idle, other = hub.run(connect), hub.run(connect)

    def pid(connection):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

    doomed = hub.run(pid, idle)
    hub.run(lambda: other.cursor().execute("SELECT pg_terminate_backend(%s)", (doomed,)))
    hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
    assert sleep_takes(hub.sleep) < SLEEP_TAKES
    with pytest.raises(psycopg2.OperationalError):
        hub.run(pid, idle)


def test_a_notification_to_an_idle_connection_keeps_no_hub_busy(hub, connect, ended_watches):
    idle, other = hub.run(connect), hub.run(connect)
    idle.autocommit = other.autocommit = True

    def execute(connection, query):
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor

    for _ in range(3):
        hub.run(execute, idle, "LISTEN quiet")
    for _ in range(3):
        hub.run(execute, other, "NOTIFY quiet")
        hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
        assert sleep_takes(hub.sleep) < SLEEP_TAKES
        # Users wait for notifications through the hub, beside the reactor.
        hub.run(hub.wait_readable, idle.fileno(), 5)
        assert hub.run(execute, idle, "SELECT pg_sleep(0.01), 7").fetchone()[1] == 7
        assert len(idle.notifies) == 1
        del idle.notifies[:]
    assert not ended_watches  # the reactor did not need a new epoll instance


def test_a_notification_beside_a_parked_query_keeps_no_hub_busy(hub, connect):
    idle, waiting, other = (hub.run(connect) for _ in range(3))

    def execute(connection, query, times=1):
        connection.autocommit = True
        for _ in range(times):
            connection.cursor().execute(query)

    for connection in idle, waiting:
        hub.run(execute, connection, "LISTEN quiet", 3)
    hub.run(execute, waiting, "UNLISTEN quiet")
    task = hub.spawn(execute, waiting, "SELECT pg_sleep(1)")
    # From a thread, so that this hub's reactor gets no event but the notification.
    hub.run_in_thread(execute, other, "NOTIFY quiet")
    hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
    assert sleep_takes(hub.sleep) < SLEEP_TAKES
    task.wait()


def test_a_closed_descriptor_that_has_a_duplicate_keeps_no_hub_busy(hub, connect):
    def query(connection):
        for _ in range(2):
            connection.cursor().execute("SELECT pg_sleep(0.01)")

    held, other = hub.run(connect), hub.run(connect)
    hub.run(query, held)
    hub.run(query, other)
    before = hub.watched(), len(descriptors())
    duplicate = os.dup(held.fileno())
    held.close()  # the server answers by closing its end
    hub.wait_until(lambda: select.select([duplicate], [], [], 0)[0])
    assert sleep_takes(hub.sleep) < SLEEP_TAKES
    hub.run(query, other)
    # The reactor has a new epoll instance, and the old one is closed.
    assert (hub.watched(), len(descriptors())) == before
    os.close(duplicate)


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_a_killed_query_with_a_duplicate_leaves_no_event(hub, green, dsn, ended_watches):
    # Without a cancel request, the server's answer reaches the duplicate.
    hub.adapter.make_psycopg_green(connections=False)
    connections = [hub.run(psycopg2.connect, dsn) for _ in range(2)]

    def query(connection, seconds):
        connection.cursor().execute("SELECT pg_sleep(%s)", (seconds,))

    for connection in connections:
        for _ in range(2):
            hub.run(query, connection, 0.001)
    killed, other = connections
    duplicate = os.dup(killed.fileno())
    ended_watches.clear()
    task = hub.spawn(query, killed, 0.1)
    hub.wait_until(lambda: in_query(killed))
    task.kill(psycopg2.InterfaceError("killed"))
    with pytest.raises(psycopg2.InterfaceError):
        task.wait()
    assert killed.closed
    hub.wait_until(lambda: select.select([duplicate], [], [], 0)[0])
    for _ in range(5):
        hub.run(query, other, 0.001)
    os.close(duplicate)
    other.close()
    assert not ended_watches  # the reactor did not need a new epoll instance
