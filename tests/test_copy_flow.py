"""A COPY never stops the hub, needs little memory, and refuses the connection to other greenlets."""

import functools
import io
import time

import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import POLL_OK, TRANSACTION_STATUS_INTRANS
from support.processes import run_program
from support.server_state import in_query

# The seconds by which the ticker may be late. The machine of the tests may be busy;
# benchmarks/copying.py measures the delay itself.
GAP = 0.05


class Rows:
    """An endless file of rows. It counts the bytes that it has returned."""

    def __init__(self, size=8192):
        self.chunk = b"1\n" * (size // 2)
        self.given = 0

    def read(self, size):
        self.given += len(self.chunk)
        return self.chunk


class Limited(Rows):
    """A file of *total* bytes of rows."""

    def __init__(self, total, size=8192, each=lambda: None):
        super().__init__(size)
        self.total = total
        self.each = each

    def read(self, size):
        self.each()
        return b"" if self.given >= self.total else super().read(size)


class Sink:
    """A file that counts the bytes that it gets."""

    def __init__(self, each=lambda: None):
        self.rows = 0
        self.bytes = 0
        self.each = each

    def write(self, data):
        self.rows += 1
        self.bytes += len(data)
        self.each()


@pytest.fixture
def table(connect):
    """A table that all connections see."""
    connection = connect()
    connection.autocommit = True
    connection.cursor().execute("DROP TABLE IF EXISTS copied; CREATE TABLE copied (n int)")
    return "copied"  # not dropped here, because a test's transaction may still be open


def test_the_hub_runs_on_while_copying_in(hub, connect, table):
    cursor = connect().cursor()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_from, Limited(4_000_000), table)
    assert cursor.rowcount >= 2_000_000
    assert ticker.ticks > 10
    assert ticker.longest_gap < GAP


def test_the_hub_runs_on_while_copying_out(hub, connect):
    cursor = connect().cursor()
    sink = Sink()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_expert, "COPY (SELECT generate_series(1, 1000000)) TO STDOUT", sink)
    assert sink.rows == cursor.rowcount == 1_000_000
    assert ticker.ticks > 10
    assert ticker.longest_gap < GAP


def busy(seconds):
    # By the thread's CPU time, because others may use the same processor.
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_hub_runs_on_beside_a_file_that_takes_time(hub, connect, table):
    # The server is faster than the file, so the COPY never waits for the server.
    cursor = connect().cursor()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_from, Limited(2000, size=2, each=lambda: busy(0.0005)), table)
        hub.run(
            cursor.copy_expert,
            "COPY (SELECT generate_series(1, 1000)) TO STDOUT",
            Sink(each=lambda: busy(0.0005)),
        )
    assert ticker.ticks > 30


def test_small_chunks_do_not_prolong_a_time_slice(hub, connect, table):
    # Each chunk takes less than a turn, and the server keeps up.
    cursor = connect().cursor()
    with hub.ticker(0.001) as ticker:
        rows = Limited(100 * 65536, each=lambda: busy(0.002))
        rows.chunk = b"1".rjust(65535) + b"\n"
        hub.run(cursor.copy_from, rows, table)
    assert ticker.ticks > 20


def test_one_huge_read_delays_no_other_greenlet(hub, connect, table):
    cursor = connect().cursor()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_from, Limited(20_000_000, size=20_000_000), table)
    assert cursor.rowcount == 10_000_000
    assert ticker.longest_gap < GAP


def test_a_green_file_lets_others_run(hub, connect, table):
    cursor = connect().cursor()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_from, Limited(40, size=2, each=lambda: hub.sleep(0.01)), table)
        assert cursor.rowcount == 20
        sink = Sink(each=lambda: hub.sleep(0.01))
        hub.run(cursor.copy_to, sink, table)
        assert sink.rows == 20
    assert ticker.ticks > 40
    assert ticker.longest_gap < GAP


def test_a_slow_server_slows_the_reader(hub, connect, table):
    blocker = connect()
    blocker.cursor().execute(f"LOCK TABLE {table}")
    connection = connect()
    rows = Limited(30_000_000)
    task = hub.spawn(connection.cursor().copy_from, rows, table)
    hub.wait_until(lambda: in_query(connection))
    hub.sleep(0.3)
    # The server has not even begun to read: COPY waits for the lock first.
    assert rows.given == 0
    blocker.rollback()
    # A trigger that waits for a lock stops the COPY in the middle.
    blocker.cursor().execute("SELECT pg_advisory_lock(5)")
    task.wait()
    connection.rollback()
    connection.cursor().execute(
        "CREATE FUNCTION pg_temp.hold() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_lock(5); RETURN NEW; END $$;"
        f"CREATE TRIGGER hold BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pg_temp.hold()"
    )
    rows = Limited(30_000_000)
    task = hub.spawn(connection.cursor().copy_from, rows, table)
    hub.wait_until(lambda: rows.given)
    before = -1
    while rows.given != before:
        before = rows.given
        hub.sleep(0.1)
    assert rows.given < 3_000_000, "of 30 MB, while the server reads none"
    task.kill()
    with pytest.raises(hub.Kill):
        task.wait()


def test_a_slow_file_slows_the_server(hub, connect):
    class Enough(Exception):
        pass

    class Slow(Sink):
        def write(self, data):
            super().write(data)
            if self.rows % 16 == 0:
                hub.sleep(0.006)  # longer than a turn
            if self.rows == 3200:
                # Other sessions see a sequence's value at once, before the transaction ends.
                watching.execute("SELECT last_value FROM made")
                sent.append(watching.fetchone()[0])
                raise Enough

    watching = connect().cursor()
    watching.connection.autocommit = True
    watching.execute("DROP SEQUENCE IF EXISTS made; CREATE SEQUENCE made")
    sent = []
    connection = connect()
    sending = "SELECT nextval('made'), repeat('x', 100) FROM generate_series(1, 100000)"
    with pytest.raises(Enough):
        hub.run(connection.cursor().copy_expert, f"COPY ({sending}) TO STDOUT", Slow())
    connection.rollback()
    watching.execute("DROP SEQUENCE made")
    assert sent[0] < 10000, "rows, where 3200 were taken"


def test_many_notices_delay_no_other_greenlet(hub, connect, table):
    """If the client did not read notices while it sends, the server would stop reading: both would wait for ever."""
    connection = connect()
    connection.cursor().execute(
        "CREATE FUNCTION pg_temp.say() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE NOTICE 'row % %', NEW.n, repeat('x', 500); RETURN NEW; END $$;"
        f"CREATE TRIGGER say BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pg_temp.say()"
    )
    cursor = connection.cursor()
    with hub.ticker(0.005) as ticker:
        # More than the buffers of both sockets hold in each direction.
        hub.run(cursor.copy_from, io.BytesIO((b"1".rjust(199) + b"\n") * 10_000), table)
    assert cursor.rowcount == 10_000
    assert ticker.longest_gap < GAP


def test_another_greenlet_that_uses_the_connection_raises(hub, connect, table):
    connection = connect()
    cursor, other = connection.cursor(), connection.cursor()
    go_on = []
    file = Limited(1000, size=100, each=lambda: hub.wait_until(lambda: go_on))
    task = hub.spawn(cursor.copy_from, file, table)
    hub.wait_until(lambda: in_query(connection))
    hub.sleep(0.02)
    for use in (
        lambda: other.execute("SELECT 1"),
        lambda: cursor.execute("SELECT 1"),
        lambda: other.copy_to(io.BytesIO(), table),
        lambda: other.copy_from(io.BytesIO(), table),
        lambda: cursor.copy_expert("COPY copied TO STDOUT", io.BytesIO()),
        connection.commit,
        connection.rollback,
    ):
        with pytest.raises(psycopg2.ProgrammingError, match="cannot be used while"):
            hub.run(use)
    assert hub.run(connection.poll) == POLL_OK  # the greenlet in the COPY collects the notifications
    go_on.append(True)
    task.wait()
    assert cursor.rowcount == 500
    assert connection.get_transaction_status() == TRANSACTION_STATUS_INTRANS


def test_a_file_that_uses_the_connection_raises(hub, connect, table):
    connection = connect()
    cursor = connection.cursor()
    for use in (
        lambda: connection.cursor().execute("SELECT 1"),
        connection.commit,
        lambda: connection.cursor().copy_to(io.BytesIO(), table),
    ):
        with pytest.raises(errors.QueryCanceled, match="ProgrammingError.*cannot be used while"):
            hub.run(cursor.copy_from, Limited(10, each=use), table)
        connection.rollback()
        with pytest.raises(psycopg2.ProgrammingError, match="cannot be used while"):
            hub.run(cursor.copy_expert, "COPY (SELECT 1) TO STDOUT", Sink(each=use))
        hub.run(connection.rollback)


def test_close_by_another_greenlet_ends_the_copy(hub, connect, table):
    for copy in (
        lambda c: c.copy_from(Rows(), table),
        lambda c: c.copy_from(Limited(1_000_000_000, each=lambda: hub.sleep(0.001)), table),
        lambda c: c.copy_expert("COPY (SELECT generate_series(1, 100000000)) TO STDOUT", Sink()),
        lambda c: c.copy_expert("COPY (SELECT pg_sleep(60)) TO STDOUT", Sink()),
    ):
        connection = connect()
        task = hub.spawn(copy, connection.cursor())
        hub.wait_until(functools.partial(in_query, connection))
        with hub.ticker(0.005) as ticker:
            hub.run(connection.close)
            with pytest.raises(psycopg2.InterfaceError, match="connection closed by another greenlet"):
                task.wait()
        assert connection.closed
        assert ticker.longest_gap < GAP


class Busy:
    """A file that waits. If an exception ends the wait, it calls *instead*."""

    def __init__(self, hub, instead):
        self.hub = hub
        self.instead = instead
        self.waits = False

    def read(self, size=None):
        try:
            self.waits = True
            self.hub.sleep(30)
        except psycopg2.InterfaceError:
            self.waits = False
            return self.instead()

    write = read


def reraise():
    raise  # noqa: PLE0704


def wrap():
    raise OSError("wrapped")


@pytest.mark.parametrize("instead", [reraise, wrap, bytes])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_close_while_the_file_waits_ends_the_copy(direction, instead, hub, connect, table, monkeypatch):
    connection = connect()
    connection.autocommit = True
    # Like a busy machine: the server answers before close() looks again.
    monkeypatch.setattr(connection._green_adapter, "pause", lambda: hub.sleep(0.05), raising=False)
    file = Busy(hub, instead)
    cursor = connection.cursor()
    if direction == "in":
        task = hub.spawn(cursor.copy_from, file, table)
    else:
        task = hub.spawn(cursor.copy_expert, "COPY (SELECT generate_series(1, 1000)) TO STDOUT", file)
    hub.wait_until(lambda: file.waits)
    hub.run(connection.close)
    assert connection.closed
    with pytest.raises(psycopg2.InterfaceError, match="^connection closed by another greenlet$"):
        task.wait()


def test_a_copy_can_feed_another(hub, connect, table):
    """A pipe in memory connects a COPY TO with a COPY FROM."""

    class Pipe:
        def __init__(self):
            self.pieces = []
            self.ended = False

        def write(self, data):
            self.pieces.append(data)
            if len(self.pieces) > 1000:
                hub.wait_until(lambda: not self.pieces)

        def read(self, size):
            hub.wait_until(lambda: self.pieces or self.ended)
            data = b"".join(self.pieces)
            self.pieces.clear()
            return data

    pipe = Pipe()
    target = connect().cursor()
    loading = hub.spawn(target.copy_from, pipe, table)
    hub.run(connect().cursor().copy_expert, "COPY (SELECT generate_series(1, 20000)) TO STDOUT", pipe)
    pipe.ended = True
    loading.wait()
    assert target.rowcount == 20000


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_large_copy_takes_little_memory(direction, dsn):
    """A process of its own copies, because the test reads the process's peak of memory."""
    assert int(run_program("copy_memory", direction, DSN=dsn, timeout=100)) < 32 * 1024
