"""The reactor keeps a record of each connection's socket: its descriptor, its waiter, and its events."""

import copy
import gc
import os

import greenlet
import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import POLL_READ, POLL_WRITE, set_wait_callback
from support.leaks import objects
from support.network import STARTING_UP, answering
from support.server_state import in_query

import psycogreen
from psycogreen._implementation import wait_callback

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
@pytest.mark.core
@pytest.mark.skipif(psycogreen.poller is None, reason="no reactor here")
def test_a_query_and_a_connect_do_not_go_through_the_hubs_wait_functions(hub, connect):
    waits = []

    class Counting(type(hub.adapter._adapter)):
        def wait_read(self, fd, timeout):
            waits.append(fd)
            super().wait_read(fd, timeout)

        def wait_write(self, fd, timeout):
            waits.append(fd)
            super().wait_write(fd, timeout)

    set_wait_callback(wait_callback(Counting())(hub.wait_callback.__wrapped__))
    cursor = hub.run(connect).cursor()
    for _ in range(3):
        hub.run(cursor.execute, "SELECT pg_sleep(0.01)")
    assert not waits


@pytest.mark.parametrize("state", [POLL_READ, POLL_WRITE])
def test_others_run_while_a_connect_asks_for_a_wait_again_and_again(hub, fake_connection, state):
    connection = fake_connection(*[state] * 3)
    connection.answer()
    ran = []
    task = hub.spawn(hub.wait_callback, connection)
    hub.spawn(ran.append, True)
    task.wait()
    assert ran


def test_a_parked_greenlet_without_other_references_is_woken(hub, connect, quick_collections):
    results = []

    def query():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.1), 'answer'")
        results.append(cursor.fetchone()[1])

    connection = hub.run(connect)
    hub.call_soon(greenlet.greenlet(query, hub.run_in_hub(greenlet.getcurrent)).switch)
    for _ in range(20):
        hub.sleep(0)
        gc.collect()
    hub.wait_until(lambda: results)
    assert results == ["answer"]


def test_a_reused_descriptor_wakes_its_new_connection(hub, green, dsn):
    def old_and_new():
        old = psycopg2.connect(dsn)
        query(old)
        fd = old.fileno()
        old.close()
        new = psycopg2.connect(dsn)
        assert new.fileno() == fd
        query(new)
        return old, new

    def query(connection):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_sleep(0.01)")

    old, new = hub.run(old_and_new)
    task = hub.spawn(query, new)
    hub.sleep(0.005)
    del old  # while the new one is parked
    gc.collect()
    task.wait()
    new.close()


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_queries_answer_when_the_descriptor_changed_while_connecting(hub, green, fake_server, tcp_dsn):
    # Here libpq itself goes on to the next host; green connections give it one host at a time.
    hub.adapter.make_psycopg_green(connections=False)

    given = psycopg2.extensions.parse_dsn(tcp_dsn)
    starting = fake_server(answering(STARTING_UP))
    given.update(host="127.0.0.1,127.0.0.1", hostaddr="127.0.0.1,127.0.0.1", port=f"{starting.port},{given['port']}")

    def use():
        connection = psycopg2.connect(**given)
        cursor = connection.cursor()
        for number in range(3):
            cursor.execute("SELECT %s, pg_sleep(0.001)", (number,))
            assert cursor.fetchone()[0] == number
        connection.close()

    for _ in range(10):
        for task in [hub.spawn(use) for _ in range(5)]:
            task.wait()
    assert starting.accepted == 50


def test_another_socket_under_the_same_number_wakes_the_connection(hub, pipe):
    moving, other = pipe(), pipe()
    os.dup2(other.mine.fileno(), moving.fd)
    task = hub.spawn(hub.wait_callback, moving)
    hub.sleep(0)
    other.answer()
    task.wait()


def test_two_connections_of_one_socket_are_woken_in_turn(hub, pipe):
    one = pipe()
    two = copy.copy(one)
    for waited in (two, one, two, one):
        task = hub.spawn(hub.wait_callback, waited)
        hub.sleep(0)
        one.answer()
        task.wait()


@pytest.mark.skipif(
    psycogreen.implementation == "python" and NAME == "eventlet", reason="eventlet refuses a second reader"
)
def test_two_waiters_of_one_socket_are_both_woken(hub, pipe):
    one = pipe()
    two = copy.copy(one)
    task = hub.spawn(hub.wait_callback, two)
    hub.sleep(0)
    one.answer()
    task.wait()
    one.polls = two.polls = 0
    tasks = [hub.spawn(hub.wait_callback, waited) for waited in (one, two)]
    hub.wait_until(lambda: one.polls and two.polls)
    for _ in tasks:
        one.answer()
    for task in tasks:
        task.wait()


def test_a_second_waiter_of_one_connection_raises(hub, pipe, connect):
    # Otherwise the first of the two to poll would take the other's answer.
    shared = pipe()
    task = hub.spawn(hub.wait_callback, shared)
    hub.wait_until(lambda: shared.polls)
    with pytest.raises(psycopg2.ProgrammingError, match="^the wait callback cannot be used .*: another greenlet"):
        hub.run(hub.wait_callback, shared)
    shared.answer()
    task.wait()

    # The query that is under way goes on.
    connection = hub.run(connect)
    for _ in range(2):  # before and after the reactor has a record of the connection
        cursor = connection.cursor()
        task = hub.spawn(cursor.execute, "SELECT pg_sleep(0.2), 'answer'")
        hub.wait_until(lambda: in_query(connection))
        with pytest.raises(psycopg2.ProgrammingError):
            hub.run(hub.wait_callback, connection)
        task.wait()
        assert cursor.fetchone()[1] == "answer"


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub knows descriptors by their numbers alone")
def test_a_kill_leaves_the_new_owner_of_the_descriptor_armed(hub, pipe):
    old = pipe()
    killed = hub.spawn(hub.wait_callback, old)
    hub.wait_until(lambda: old.polls)
    # As if a greenlet had closed the connection for which another waits.
    old.mine.close()
    new = pipe()
    assert new.fd == old.fd
    task = hub.spawn(hub.wait_callback, new)
    hub.wait_until(lambda: new.polls)
    killed.kill(psycopg2.InterfaceError("killed"))
    with pytest.raises(psycopg2.InterfaceError):
        killed.wait()
    new.answer()
    task.wait()


@pytest.mark.skipif(psycogreen.implementation == "python", reason="no reactor here")
def test_a_waiter_of_a_closed_socket_gets_an_error(hub, pipe):
    lost, held = pipe(), pipe()
    task = hub.spawn(hub.wait_callback, lost)
    hub.wait_until(lambda: lost.polls)
    duplicate = os.dup(held.fd)
    lost.mine.close()
    held.mine.close()
    held.answer()  # epoll reports it although the descriptor is closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        task.wait()
    os.close(duplicate)


@pytest.mark.skipif(psycogreen.poller is None, reason="no reactor here")
def test_a_freed_connection_frees_its_record(hub, green, dsn):
    connections = [psycopg2.connect(dsn) for _ in range(5)]
    for connection in connections:
        hub.run(connection.cursor().execute, "SELECT 1")
    with_them = objects("Socket")
    del connections, connection
    hub.wait_until(lambda: objects("Socket") <= with_them - 3)  # the reactor keeps the last records
