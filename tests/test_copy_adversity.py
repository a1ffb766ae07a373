"""What goes wrong in mid-COPY, at random moments."""

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
ROWS = 200_000  # more than fits into the buffers of both sides


class Custom(BaseException):
    pass


class File:
    """Both kinds of file; does *act* in the call of number *moment*."""

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
    # Made by a connection of its own: what is loaded must be seen from outside.
    admin.execute("DROP TABLE IF EXISTS adverse; CREATE TABLE adverse (n int)")
    return "adverse"


def copy(cursor, direction, table, file):
    if direction == "in":
        cursor.copy_from(file, table)
    else:
        cursor.copy_expert(f"COPY (SELECT generate_series(1, {ROWS})) TO STDOUT", file)


def loaded(admin, table):
    admin.execute(f"SELECT count(*) FROM {table}")
    return admin.fetchone()[0]


@pytest.mark.parametrize("event", ["terminate", "cancel", "raise"])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_what_ends_a_copy_ends_it_as_blocking(
    event, direction, hub, connect, blocking_dsn_connect, admin, observer, table
):
    """The server ends the session or the COPY, or the file fails: what psycopg2 does, blocking and green."""

    def run(connection, moment):
        def act():
            pid = connection.get_backend_pid()
            if event == "raise":
                raise ZeroDivisionError(f"at {moment}")
            admin.execute(f"SELECT pg_{event}_backend(%s)", (pid,))
            # Not for ever: the server may be sending why it ends, and wait for this side to read.
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
            # Blocking, a lost connection is a bare DatabaseError in COPY TO,
            # and what the server said before comes through or not.
            assert expected["lost"] and got["lost"]
            assert issubclass(expected["class"], psycopg2.DatabaseError)
            assert issubclass(got["class"], psycopg2.OperationalError)
            continue
        if event == "cancel":
            # How far the server had come, its context says; with what was
            # already on the way the file was called on.
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
        delay = rng.uniform(0.001, 0.01)  # libuv knows no shorter one

        def act(how=how, thrown=thrown, delay=delay, tasks=tasks, timeouts=timeouts):
            # Arranged here, it strikes in the file or at one of the next waits.
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
            hub.sleep(0.011)  # until it has struck nobody
        else:
            assert connection.closed
        timeouts.close()  # libuv writes on to the memory of a timer that was not closed
        connection.close()
        del file, task, tasks, timeouts, act, cursor, connection
    hub.wait_until(lambda: all(observer.has_ended(pid) for pid in pids))
    assert loaded(admin, table) == 0
    gc.collect()
    hub.wait_until(lambda: (hub.watched(), len(descriptors())) == before)
