"""Large objects and the other greenlets."""

import gc
import os
import resource

import psycopg2
import pytest
from psycopg2 import extensions
from support.leaks import descriptors
from support.server_state import in_query

from psycogreen._psycopg2.large_objects import CHUNK


@pytest.fixture
def watcher(connect):
    """A connection in autocommit mode, to ask the server about other connections."""
    connection = connect()
    connection.autocommit = True
    return connection


def ask(connection, query, *args):
    with connection.cursor() as cursor:
        cursor.execute(query, args)
        return cursor.fetchone()[0]


@pytest.fixture
def contended(hub, connect, watcher):
    """A connection and its large object, whose write() waits: another connection has locked the object."""
    oid = hub.run(lambda: watcher.autocommit and ask(watcher, "SELECT lo_from_bytea(0, 'some data')"))
    other = connect()
    connection = connect()

    def run():
        other.lobject(oid, "w").write(b"other data")
        return connection.lobject(oid, "rwb")

    yield connection, hub.run(run), other
    hub.run(connection.close)
    hub.run(other.rollback)
    hub.run(ask, watcher, "SELECT lo_unlink(%s)", oid)


@pytest.fixture
def waiting(hub, contended, observer):
    """The connection and object of `contended`, and a task that waits in write()."""
    connection, lobject, other = contended
    pid = connection.info.backend_pid
    task = hub.spawn(lobject.write, b"new")
    hub.wait_until(lambda: observer.waits_for_a_lock(pid))
    return connection, lobject, other, task


def test_the_hub_runs_on(hub, connect):
    data = os.urandom(40 * CHUNK)

    def run():
        lobject = connect().lobject(0, "rwb")
        for chunk in range(0, len(data), 8 * CHUNK):
            lobject.write(data[chunk : chunk + 8 * CHUNK])
        lobject.seek(0)
        return lobject.read()

    with hub.ticker(0.001) as ticker:
        assert hub.run(run) == data
    assert ticker.ticks > 20


def test_objects_are_used_side_by_side(hub, connect):
    def run(number):
        connection = connect()
        data = b"%d" % number * 100_000
        lobject = connection.lobject(0, "rwb")
        for _ in range(5):
            lobject.seek(0)
            lobject.write(data)
            lobject.seek(0)
            assert lobject.read() == data
        return number

    tasks = [hub.spawn(run, number) for number in range(10)]
    assert [task.wait() for task in tasks] == list(range(10))


@pytest.mark.parametrize("method", ["read", "tell", "close", "unlink"])
def test_another_greenlet_that_uses_the_object_raises(hub, waiting, method):
    _, lobject, other, task = waiting
    with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
        hub.run(getattr(lobject, method))
    hub.run(other.rollback)
    assert task.wait() == 3
    assert hub.run(lobject.tell) == 3


@pytest.mark.parametrize("method", ["commit", "rollback", "lobject", "reset"])
def test_another_greenlet_that_uses_the_connection_of_an_object_raises(hub, waiting, method):
    connection, lobject, other, task = waiting
    with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
        hub.run(getattr(connection, method))
    with pytest.raises(psycopg2.Error):
        hub.run(ask, connection, "SELECT 1")
    hub.run(other.rollback)
    assert task.wait() == 3
    hub.run(lobject.seek, 0)
    assert hub.run(lobject.read) == b"newe data"
    hub.run(connection.rollback)


def test_an_object_used_beside_a_query_raises(hub, contended):
    connection, lobject, _ = contended
    task = hub.spawn(ask, connection, "SELECT pg_sleep(0.5), 1")
    hub.wait_until(lambda: in_query(connection))
    for method in connection.lobject, lobject.read, lobject.close, lobject.unlink, lobject.tell:
        with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
            hub.run(method)
    task.wait()
    assert hub.run(lobject.read) == b"some data"


class Stop(Exception):
    pass


def test_a_kill_ends_the_call_in_the_server(hub, waiting, observer):
    connection, lobject, _, task = waiting
    pid = connection.info.backend_pid
    task.kill(Stop)
    with pytest.raises(Stop):
        task.wait()
    assert connection.closed
    assert lobject.closed
    with pytest.raises(psycopg2.InterfaceError):
        lobject.read()
    hub.wait_until(lambda: observer.has_ended(pid), timeout=5)


def test_a_timeout_closes_the_connection(hub, contended):
    connection, lobject, _ = contended

    def run():
        with hub.Timeout(0.05):
            lobject.write(b"new")

    with pytest.raises(hub.Timeout):
        hub.run(run)
    assert connection.closed


def test_close_by_another_greenlet_ends_the_call(hub, waiting):
    connection, _, _, task = waiting
    hub.run(connection.close)
    with pytest.raises(psycopg2.InterfaceError, match="closed by another greenlet"):
        task.wait()
    assert connection.closed


@pytest.mark.parametrize(
    ("function", "message"),
    [("pg_terminate_backend", "terminating connection"), ("pg_cancel_backend", "canceling statement")],
)
def test_a_call_that_the_server_ends_raises_the_servers_message(hub, waiting, watcher, function, message):
    connection, lobject, _, task = waiting
    hub.run(ask, watcher, f"SELECT {function}(%s)", connection.info.backend_pid)
    with pytest.raises(psycopg2.OperationalError, match=message):
        task.wait()
    if function == "pg_terminate_backend":
        assert connection.closed == 2
        assert lobject.closed
    else:
        assert not connection.closed
        hub.run(connection.rollback)
        assert hub.run(connection.lobject)


def test_objects_leave_nothing_behind(hub, contended, watcher):
    connection, lobject, other = contended
    hub.run(other.rollback)

    def run():
        for _ in range(100):
            lobject.seek(0)
            lobject.write(b"x")
            lobject.read()
            connection.lobject(lobject.oid).close()

    def objects():
        gc.collect()
        return len(gc.get_objects()), len(descriptors())

    hub.run(run)
    before = objects()
    hub.run(run)
    after = objects()
    assert after[0] - before[0] < 50
    assert after[1] == before[1]


def test_reading_again_takes_no_more_memory(hub, connect):
    def run(times):
        for _ in range(times):
            lobject.seek(0)
            lobject.read()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    lobject = hub.run(lambda: connect().lobject(0, "rwb"))
    hub.run(lobject.write, bytes(16 * CHUNK))
    before = hub.run(run, 10)
    assert hub.run(run, 100) - before < 50_000  # of 400,000 kB


def test_an_object_can_be_dropped_without_close(hub, connect):
    def run():
        connection = connect()
        for _ in range(10):
            connection.lobject()
        gc.collect()
        lobject = connection.lobject()
        lobject.write(b"x")
        connection.rollback()

    hub.run(run)


def test_a_slow_file_does_not_stop_the_hub(hub, connect, tmp_path):
    """The file is a pipe whose other end is opened late."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    connection = connect()
    data = os.urandom(3 * CHUNK)

    def feed():
        with open(pipe, "wb") as end:
            end.write(data)

    def drain():
        with open(pipe, "rb") as end:
            return end.read()

    task = hub.spawn(lambda: connection.lobject(0, "wb", 0, str(pipe)))
    with hub.ticker(0.005) as ticker:
        hub.wait_until(lambda: ticker.ticks > 10)
        with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
            hub.run(connection.commit)
        hub.run_in_thread(feed)
        lobject = task.wait()
        task = hub.spawn(lobject.export, str(pipe))
        ticks = ticker.ticks
        hub.wait_until(lambda: ticker.ticks > ticks + 10)
        assert hub.run_in_thread(drain) == data
        task.wait()


def test_a_kill_beside_a_slow_file_leaves_nothing_open(hub, connect, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    connection = connect()
    task = hub.spawn(lambda: connection.lobject(0, "wb", 0, str(pipe)))
    hub.wait_until(lambda: connection.status == extensions.STATUS_BEGIN)
    hub.sleep(0.01)
    task.kill(Stop)
    with pytest.raises(Stop):
        task.wait()
    assert connection.closed
    before = len(descriptors())
    os.close(os.open(pipe, os.O_WRONLY))  # ends the thread, which waits in open()
    hub.wait_until(lambda: len(descriptors()) <= before)


def test_a_thread_without_a_hub_uses_objects(hub, connect, tmp_path):
    connection = connect()
    path = str(tmp_path / "file")

    def run():
        lobject = connection.lobject(0, "rw")
        lobject.write("ü" * CHUNK)
        lobject.export(path)
        return connection.lobject(0, "rw", 0, path).read(), hub.current()

    assert hub.run_in_thread(run) == ("ü" * CHUNK, None)
