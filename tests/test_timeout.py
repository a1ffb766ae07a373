"""The timeout of the wait callbacks, as in release 1.0.2."""

import functools
import time

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, set_wait_callback

from psycogreen._waiting import POLL_READWRITE

pytestmark = [pytest.mark.hub, pytest.mark.usefixtures("all_objects")]

heeded = pytest.mark.skipif(NAME == "eventlet", reason="eventlet's callback only accepts a timeout")
eventlet_only = pytest.mark.skipif(NAME != "eventlet", reason="the other hubs' callbacks heed it")


@heeded
@pytest.mark.core
def test_a_timeout_raises(connect, hub):
    connection = connect()
    connection.cursor().execute("SELECT 1")
    hub.sleep()  # libuv ends the reactor's watch only after the wake-up that resumed this greenlet
    watched = hub.watched()
    set_wait_callback(functools.partial(hub.wait_callback, timeout=0.1))
    started = time.monotonic()
    with pytest.raises(TimeoutError) as caught, hub.ticker(0.01) as ticker:
        hub.run(connection.cursor().execute, "SELECT pg_sleep(0.5)")
    assert 0.09 < time.monotonic() - started < 0.4
    assert type(caught.value) is TimeoutError
    assert caught.value.args == ("timed out",)
    assert ticker.ticks
    assert connection.closed
    hub.wait_until(lambda: hub.watched() == watched)


@heeded
def test_a_timeout_raises_while_connecting(fake_server, green, hub):
    silent = fake_server(lambda client, number: silent.over.wait())
    set_wait_callback(functools.partial(hub.wait_callback, timeout=0.1))
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run(psycopg2.connect, f"host=127.0.0.1 port={silent.port} user=x dbname=x")


@heeded
def test_each_wait_has_the_whole_timeout(fake_connection, hub):
    # Four waits of 0.1 s each, with a timeout of 0.3 s.
    def again():
        connection.drain()
        return POLL_READ

    connection = fake_connection(POLL_READ, again, again, again)
    task = hub.spawn(functools.partial(hub.wait_callback, timeout=0.3), connection)
    started = time.monotonic()
    for polls in 1, 2, 3, 4:
        hub.wait_until(lambda polls=polls: connection.polls == polls)
        hub.sleep(0.1)
        connection.answer()
    task.wait()
    assert time.monotonic() - started >= 0.4


@heeded
def test_a_timeout_raises_while_sending(fake_connection, hub):
    connection = fake_connection(POLL_WRITE)
    connection.fill()
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run(functools.partial(hub.wait_callback, timeout=0.05), connection)


@heeded
@pytest.mark.parametrize("limit", [0, 0.0])
def test_a_timeout_of_zero_raises_at_once(limit, fake_connection, hub):
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run(functools.partial(hub.wait_callback, timeout=limit), fake_connection(POLL_READ))


@heeded
def test_there_is_no_timeout_by_default(connect, hub):
    cursor = connect().cursor()
    for limit in {}, {"timeout": None}:
        set_wait_callback(functools.partial(hub.wait_callback, **limit))
        hub.run(cursor.execute, "SELECT pg_sleep(0.1)")
        assert cursor.rowcount == 1


@heeded
def test_a_query_within_the_timeout_succeeds(connect, hub):
    cursor = connect().cursor()
    set_wait_callback(functools.partial(hub.wait_callback, timeout=5))
    hub.sleep(0)  # asyncio ends the watches of connect() in the loop's next turn
    watched = hub.watched()
    hub.run(cursor.execute, "SELECT pg_sleep(0.05)")
    hub.wait_until(lambda: hub.watched() == watched)
    set_wait_callback(hub.wait_callback)
    hub.run(cursor.execute, "SELECT 1")
    assert cursor.fetchone() == (1,)


@eventlet_only
@pytest.mark.core
@pytest.mark.parametrize("limit", [-1, 0.05, 5, None])
def test_eventlet_accepts_a_timeout(limit, connect, hub):
    cursor = connect().cursor()
    hub.run(cursor.execute, "SELECT 'the hub watches for the reactor from now on'")
    set_wait_callback(functools.partial(hub.wait_callback, timeout=limit))
    watched = hub.watched()
    hub.run(cursor.execute, "SELECT pg_sleep(0.2)")
    assert cursor.rowcount == 1
    hub.wait_until(lambda: hub.watched() == watched)


def test_a_timeout_given_by_position_raises(fake_connection, hub):
    connection = fake_connection(POLL_OK)
    assert hub.run(hub.wait_callback, connection, 5) is None
    assert connection.polls == 1


@pytest.fixture
def make_green(hub):
    yield hub.adapter.make_psycopg_green
    set_wait_callback(None)


@pytest.mark.core
def test_the_timeout_of_make_psycopg_green_raises(make_green, dsn, executing, hub):
    make_green(timeout=0.3)
    connection = hub.run(psycopg2.connect, dsn)
    hub.run(connection.cursor().execute, "SELECT 'short'")
    with pytest.raises(TimeoutError, match="^timed out$"), hub.ticker(0.01) as ticker:
        hub.run(connection.cursor().execute, "SELECT pg_sleep(30), 'limited'")
    assert ticker.ticks
    assert connection.closed
    hub.wait_until(lambda: not executing("limited"))


def test_the_timeout_of_make_psycopg_green_raises_while_connecting(make_green, fake_server, hub):
    silent = fake_server(lambda client, number: silent.over.wait())
    make_green(timeout=0.1)
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run(psycopg2.connect, f"host=127.0.0.1 port={silent.port} user=x dbname=x")


@pytest.mark.parametrize("state", [POLL_WRITE, POLL_READWRITE])
def test_the_timeout_of_make_psycopg_green_raises_while_sending(state, make_green, fake_connection, hub):
    make_green(timeout=0.1)
    connection = fake_connection(state)
    connection.fill()
    watched = hub.watched()
    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run(psycopg2.extensions.get_wait_callback(), connection)
    hub.wait_until(lambda: hub.watched() == watched)


def test_the_timeout_of_make_psycopg_green_raises_in_a_thread(make_green, dsn, hub):
    make_green(timeout=0.2)

    def query():
        psycopg2.connect(dsn).cursor().execute("SELECT pg_sleep(30)")

    with pytest.raises(TimeoutError, match="^timed out$"):
        hub.run_in_thread(query)
