"""An exception thrown into a waiting greenlet comes out of the psycopg2 call unchanged."""

import gc
import os
import signal
import threading
import time
import weakref

import psycopg2
import pytest
from greenlet import GreenletExit
from hubs import ON_ASYNCIO_LOOP
from support.leaks import descriptors
from support.server_state import in_query

pytestmark = pytest.mark.hub


class Custom(Exception):
    pass


class CustomBase(BaseException):
    pass


THROWN = [GreenletExit, KeyboardInterrupt, SystemExit, GeneratorExit, TimeoutError, Custom, CustomBase]


@pytest.fixture
def warm(connect, hub):
    """Make the hub create what it keeps for good."""
    connection = connect()
    hub.run(lambda: connection.cursor().execute("SELECT pg_sleep(0.01)"))
    connection.close()


@pytest.mark.parametrize("kind", THROWN, ids=lambda kind: kind.__name__)
def test_a_kill_in_mid_query_comes_out_unchanged(kind, warm, connect, hub):
    gc.collect()
    watched, open_before = hub.watched(), len(descriptors())
    connection = connect()
    thrown = kind("thrown")
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(0.3)")
    hub.wait_until(lambda: in_query(connection))
    task.kill(thrown)
    with pytest.raises(kind) as caught:
        task.wait()
    assert caught.value is thrown
    # To psycopg2 it looks like a network error.
    assert connection.closed == 2
    with pytest.raises(psycopg2.InterfaceError):
        connection.cursor()
    # The cancel request is sent meanwhile. The number of descriptors is compared, not
    # the descriptors: libev replaces its epoll instance when that reports an event for
    # a descriptor that has been closed, as the killed query's was.
    hub.wait_until(lambda: hub.watched() == watched and len(descriptors()) == open_before)


@pytest.mark.core
def test_the_default_kill_comes_out_unchanged(warm, connect, hub):
    connection = connect()
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(0.3)")
    hub.wait_until(lambda: in_query(connection))
    task.kill()
    with pytest.raises(hub.Kill):
        task.wait()


@pytest.mark.core
def test_the_hubs_timeout_comes_out_unchanged(warm, connect, hub):
    watched = hub.watched()
    connection = connect()

    def query():
        with hub.Timeout(0.05) as timeout:
            try:
                connection.cursor().execute("SELECT pg_sleep(0.5)")
            except hub.Timeout as caught:
                return caught is timeout

    assert hub.run(query) is True
    hub.wait_until(lambda: hub.watched() == watched)
    assert connection.closed


def test_a_timeout_that_does_not_expire_leaves_nothing_behind(warm, connect, hub):
    watched = hub.watched()
    connection = connect()

    def query():
        with hub.Timeout(10):
            cursor = connection.cursor()
            cursor.execute("SELECT pg_sleep(0.01)")
            return cursor.rowcount

    assert hub.run(query) == 1
    hub.wait_until(lambda: hub.watched() == watched)
    assert not connection.closed


def test_no_reference_is_left(warm, connect, dsn, hub):
    class Connection(psycopg2.extensions.connection):
        pass

    def query():
        connection = psycopg2.connect(dsn, connection_factory=Connection)
        references.append(weakref.ref(connection))
        connection.cursor().execute("SELECT pg_sleep(0.3)")

    references = []
    task = hub.spawn(query)
    hub.wait_until(lambda: references and in_query(references[0]()))
    task.kill(Custom())
    with pytest.raises(Custom):
        task.wait()
    greenlet = weakref.ref(task.greenlet)
    del task
    hub.sleep(0)
    gc.collect()
    assert references[0]() is None
    assert hub.keeps_greenlets or greenlet() is None


def test_no_reference_is_left_by_a_query_that_ends(warm, dsn, connect, hub):
    class Connection(psycopg2.extensions.connection):
        pass

    def query():
        connection = psycopg2.connect(dsn, connection_factory=Connection)
        connection.cursor().execute("SELECT pg_sleep(0.01)")
        connection.close()
        return weakref.ref(connection)

    task = hub.spawn(query)
    connection, greenlet = task.wait(), weakref.ref(task.greenlet)
    del task
    hub.sleep(0)
    gc.collect()
    assert connection() is None
    assert hub.keeps_greenlets or greenlet() is None


def test_a_parked_greenlet_without_other_references_is_not_collected(connect, hub):
    connection = connect()
    done = []

    def query():
        connection.cursor().execute("SELECT pg_sleep(0.2)")
        done.append(True)

    hub.spawn(query)
    hub.wait_until(lambda: in_query(connection))
    gc.collect()
    hub.wait_until(lambda: done)


def test_a_kill_while_connecting_leaves_nothing_open(warm, connect, fake_server, hub):
    gc.collect()
    silent = fake_server(lambda client, number: silent.over.wait())
    watched, open_before = hub.watched(), len(descriptors())
    thrown = Custom("thrown")
    task = hub.spawn(lambda: connect(f"host=127.0.0.1 port={silent.port} user=x dbname=x"))
    hub.wait_until(lambda: silent.accepted)
    hub.sleep(0.02)
    task.kill(thrown)
    with pytest.raises(Custom) as caught:
        task.wait()
    assert caught.value is thrown
    # The traceback refers to the connection, which must be closed without help.
    del caught, thrown, task
    gc.collect()
    assert len(descriptors()) == open_before + 1  # the server's end, in this process too
    hub.wait_until(lambda: hub.watched() == watched)


def test_a_kill_after_the_answer_leaves_a_usable_or_closed_connection(warm, connect, hub):
    # The kill and the answer are due in the same turn of the hub. Either may win, but
    # a query that was killed must not leave the connection between two results.
    for _ in range(20):
        connection = connect()
        task = hub.spawn(connection.cursor().execute, "SELECT 1")
        hub.wait_until(lambda c=connection, t=task: t.done or in_query(c))
        time.sleep(0.002)  # stops the hub, so that the answer waits in the socket
        task.kill(Custom())
        try:
            task.wait()
        except Custom:
            assert connection.closed
        else:
            cursor = connection.cursor()
            cursor.execute("SELECT 2")
            assert cursor.fetchone() == (2,)
        connection.close()


def test_a_greenlet_that_dies_ends_no_other(warm, connect, hub):
    # All answers arrive at once; some of the greenlets end with an exception.
    connections = [connect() for _ in range(20)]
    gate = connect()
    gate.cursor().execute("SELECT pg_advisory_lock(7)")

    def query(number):
        connections[number].cursor().execute("SELECT pg_advisory_lock_shared(7)")
        if number % 3 == 0:
            raise Custom(number)
        return number

    tasks = [hub.spawn(query, number) for number in range(20)]
    hub.wait_until(lambda: all(in_query(connection) for connection in connections))
    gate.cursor().execute("SELECT pg_advisory_unlock(7)")
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            with pytest.raises(Custom):
                task.wait()
        else:
            assert task.wait() == number


@pytest.mark.skipif(ON_ASYNCIO_LOOP, reason="an interrupt ends asyncio's loop")
def test_an_interrupt_ends_the_query_of_the_main_greenlet(connect, hub):
    connection = connect()
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupt.start()
        connection.cursor().execute("SELECT pg_sleep(5)")
    assert hub.run(lambda: 42) == 42
    cursor = connect().cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_a_stray_switch_is_handled_as_by_the_hub(warm, connect, fake_connection, hub):
    """Other code switches to a greenlet that waits for the server."""
    watched = hub.watched()
    connection = connect()
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(0.2)")
    hub.wait_until(lambda: in_query(connection))
    hub.switch(task, "stray")
    if hub.name == "gevent":
        from gevent.exceptions import InvalidSwitchError

        with pytest.raises(InvalidSwitchError):
            task.wait()
        assert connection.closed
    elif hub.name == "asyncio":
        with pytest.raises(RuntimeError, match="^Invalid switch"):
            task.wait()
        assert connection.closed
    else:
        # eventlet's trampoline() takes the switch for readiness: the loop polls again.
        task.wait()
        assert not connection.closed
    hub.wait_until(lambda: hub.watched() == watched)


def test_a_socket_ready_for_both_wakes_once(hub, fake_connection):
    connection = fake_connection()
    connection.answer()

    def wait_and_sleep():
        hub.adapter._adapter.wait_readwrite(connection.fileno(), None)
        begun = time.monotonic()
        hub.sleep(0.05)
        return time.monotonic() - begun

    # The greenlet is woken once. A second wake-up would end the sleep early.
    assert hub.run(wait_and_sleep) >= 0.045
