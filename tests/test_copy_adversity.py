"""Failures in the middle of a COPY, at random moments."""

import gc
import random
import time
from contextlib import ExitStack

import psycopg2
import pytest
from fix_copy import copy_outcome
from support.leaks import descriptors

pytestmark = pytest.mark.heavy

MOMENTS = 100  # of each of the two tests
ROWS = 20_000
WIDTH = 100  # bytes; the rows are more than fits into the buffers of both sides


class Custom(BaseException):
    pass


class File:
    """A file to read and to write. Call number *moment* of its methods calls *act*."""

    def __init__(self, moment, act):
        self.moment = moment
        self.act = act
        self.calls = 0

    def call(self):
        self.calls += 1
        if self.calls == self.moment:
            self.act()

    def write(self, data):
        self.call()

    def read(self, size):
        self.call()
        return b"" if self.calls > 1000 else b"1234567\n" * 200


@pytest.fixture
def admin(connect):
    connection = connect()
    connection.autocommit = True
    return connection.cursor()


@pytest.fixture
def table(admin):
    # A table that all connections see, because another connection counts the rows.
    admin.execute("DROP TABLE IF EXISTS adverse; CREATE TABLE adverse (n int)")
    return "adverse"


def copy(cursor, direction, table, file):
    if direction == "in":
        cursor.copy_from(file, table)
    else:
        rows = f"SELECT n, repeat('x', {WIDTH}) FROM generate_series(1, {ROWS}) n"
        cursor.copy_expert(f"COPY ({rows}) TO STDOUT", file)


def loaded(admin, table):
    admin.execute(f"SELECT count(*) FROM {table}")
    return admin.fetchone()[0]


@pytest.mark.parametrize("event", ["terminate", "cancel", "raise"])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_interrupted_copies_end_as_blocking(
    event, direction, hub, connect, blocking_dsn_connect, admin, observer, table
):
    """The server ends the session or the COPY, or the file raises: the outcome is the same, blocking and green."""

    def run(connection, moment):
        def act():
            pid = connection.get_backend_pid()
            if event == "raise":
                raise ZeroDivisionError(f"at {moment}")
            admin.execute(f"SELECT pg_{event}_backend(%s)", (pid,))
            # With a deadline: the server may be sending the reason for the end, and wait for this side to read.
            deadline = time.monotonic() + 0.2
            while event == "terminate" and not observer.has_ended(pid) and time.monotonic() < deadline:
                pass

        file = File(moment, act)
        seen = copy_outcome(connection, lambda cursor: copy(cursor, direction, table, file))
        return seen, file.calls

    rng = random.Random(f"{event} {direction}")
    for _ in range(MOMENTS // 6):
        moment = rng.randint(1, 500 if direction == "in" else ROWS // 2)
        with blocking_dsn_connect() as connection:
            expected, expected_calls = run(connection, moment)
            assert loaded(admin, table) == 0
        connection = connect()
        got, calls = hub.run(run, connection, moment)
        connection.close()
        assert loaded(admin, table) == 0
        if event == "terminate":
            # In a blocking COPY TO, a lost connection raises DatabaseError itself, and
            # the server's last message may be lost.
            assert expected["lost"] and got["lost"]
            assert issubclass(expected["class"], psycopg2.DatabaseError)
            assert issubclass(got["class"], psycopg2.OperationalError)
            continue
        if event == "cancel":
            # The context says how far the server had come, and the number of calls of
            # the file depends on the data that was already on the way.
            for seen in expected, got:
                for name in "text", "pgerror":
                    seen[name] = seen[name].split("\nCONTEXT")[0]
                del seen["diag"]["context"]
        else:
            assert calls == expected_calls
        assert got == expected


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_kill_ends_the_copy_in_the_server(direction, hub, connect, admin, observer, table):
    """A kill or a Timeout closes the connection, as in a query, and what was under way in the server ends."""
    rng = random.Random(direction)
    warm = connect()
    hub.run(lambda: copy(warm.cursor(), "in", table, File(0, None)))
    warm.close()
    gc.collect()
    before = hub.watched(), len(descriptors())
    pids = []
    for _ in range(MOMENTS // 2):
        moment = rng.randint(1, 500 if direction == "in" else ROWS // 2)
        how = rng.choice(["killed in the file", "killed", "Timeout in the file", "Timeout"])
        connection = connect()
        pids.append(connection.get_backend_pid())
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        thrown = Custom()

        tasks, timeouts = [], ExitStack()
        delay = rng.uniform(0.001, 0.01)  # libuv's timers count milliseconds

        def act(how=how, thrown=thrown, delay=delay, tasks=tasks, timeouts=timeouts):
            # The kill comes in a method of the file or in one of the next waits.
            if how.startswith("killed"):
                hub.spawn(lambda: (hub.sleep(delay), tasks[0].kill(thrown)))
            else:
                timeouts.enter_context(hub.Timeout(delay, thrown))
            if how.endswith("in the file"):
                hub.sleep(30)

        file = File(moment, act)
        task = hub.spawn(copy, cursor, direction, table, file)
        tasks.append(task)
        finished = False
        try:
            task.wait()
            finished = True
        except Custom as caught:
            assert caught is thrown
        if finished:
            assert not how.endswith("in the file")
            assert not connection.closed
            hub.sleep(0.011)  # until the kill has come, although there is no greenlet left to kill
        else:
            assert connection.closed
        timeouts.close()  # libuv would go on writing to the memory of a timer that is not closed
        connection.close()
        del file, task, tasks, timeouts, act, cursor, connection
    hub.wait_until(lambda: all(observer.has_ended(pid) for pid in pids))
    assert loaded(admin, table) == 0
    gc.collect()
    hub.wait_until(lambda: (hub.watched(), len(descriptors())) == before)
