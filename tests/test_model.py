"""Connections used in any order, beside a plain model that predicts the outcome.

hypothesis makes up the orders, shortens one that fails, and prints it as a program.
PSYCOGREEN_TEST_MODEL sets how many orders it tries.
"""

import gc
import io
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub, Task
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg2 import errors
from support.server_state import Observer, blocking, in_query

pytestmark = pytest.mark.once

ORDERS = int(os.environ.get("PSYCOGREEN_TEST_MODEL", "4"))
STEPS = 60


class Session:
    """A connection, and the state that the model predicts for it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        #: The rows that its transaction has added to the table.
        self.added: list[int] = []
        #: Whether its transaction can only be rolled back.
        self.failed = False
        #: The task that is in a query on it.
        self.task: Task | None = None
        self.closed = False

    def end(self) -> None:
        self.added.clear()
        self.failed = False
        self.task = None


def idle(session: Session) -> bool:
    return not session.closed and session.task is None and not session.failed


def busy(session: Session) -> bool:
    return session.task is not None


class Model(RuleBasedStateMachine):
    hub: Hub
    dsn: str
    observer: Observer

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Session] = []
        self.committed: list[int] = []
        with closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS model; CREATE TABLE model (n int)")

    def rows(self, session: Session) -> list[int]:
        cursor = session.connection.cursor()
        cursor.execute("SELECT n FROM model ORDER BY n")
        return [n for (n,) in cursor.fetchall()]

    @precondition(lambda self: len(self.all) < 5)
    @rule(target=sessions)
    def connect(self) -> Session:
        session = Session(psycopg2.connect(self.dsn))
        self.all.append(session)
        return session

    @precondition(lambda self: len(self.all) < 5)
    @rule(target=sessions)
    def connect_while_paused(self) -> Session:
        with blocking():
            return self.connect()

    @rule(session=sessions.filter(idle), n=st.integers(0, 1000))
    def insert(self, session: Session, n: int) -> None:
        session.connection.cursor().execute("INSERT INTO model VALUES (%s)", (n,))
        session.added.append(n)

    @rule(session=sessions.filter(idle), n=st.integers(0, 1000))
    def insert_in_another_greenlet(self, session: Session, n: int) -> None:
        self.hub.run(self.insert, session, n)

    @rule(session=sessions.filter(idle), n=st.integers(0, 1000))
    def insert_while_paused(self, session: Session, n: int) -> None:
        with blocking():
            self.insert(session, n)

    @rule(session=sessions.filter(idle), ns=st.lists(st.integers(0, 1000), max_size=50))
    def copy_in(self, session: Session, ns: list[int]) -> None:
        session.connection.cursor().copy_expert("COPY model FROM STDIN", io.StringIO("".join(f"{n}\n" for n in ns)))
        session.added += ns

    @rule(session=sessions.filter(idle))
    def copy_out(self, session: Session) -> None:
        out = io.StringIO()
        session.connection.cursor().copy_expert("COPY (SELECT n FROM model ORDER BY n) TO STDOUT", out)
        assert [int(line) for line in out.getvalue().split()] == sorted(self.committed + session.added)

    @rule(session=sessions.filter(idle))
    def select(self, session: Session) -> None:
        assert self.rows(session) == sorted(self.committed + session.added)

    @rule(session=sessions.filter(idle))
    def copy_by_execute(self, session: Session) -> None:
        with pytest.raises(psycopg2.ProgrammingError, match="can't execute COPY"):
            session.connection.cursor().execute("COPY model FROM STDIN")
        # As with blocking psycopg2, the failed COPY has aborted the transaction.
        session.failed = True

    @rule(session=sessions.filter(idle))
    def refused(self, session: Session) -> None:
        with pytest.raises(errors.DivisionByZero):
            session.connection.cursor().execute("SELECT 1 / 0")
        session.failed = True

    @rule(session=sessions.filter(lambda session: session.failed))
    def query_in_failed_transaction(self, session: Session) -> None:
        with pytest.raises(errors.InFailedSqlTransaction):
            session.connection.cursor().execute("SELECT 1")

    @rule(session=sessions.filter(idle))
    def commit(self, session: Session) -> None:
        session.connection.commit()
        self.committed += session.added
        session.end()

    @rule(session=sessions.filter(lambda session: not session.closed and session.task is None))
    def rollback(self, session: Session) -> None:
        session.connection.rollback()
        session.end()

    @rule(session=sessions.filter(idle))
    def begin_long_query(self, session: Session) -> None:
        cursor = session.connection.cursor()
        session.task = self.hub.spawn(cursor.execute, "SELECT pg_sleep(60)")
        self.hub.wait_until(lambda: in_query(session.connection))

    @rule(session=sessions.filter(busy))
    def use_while_busy(self, session: Session) -> None:
        with pytest.raises(psycopg2.ProgrammingError):
            session.connection.commit()
        with pytest.raises(psycopg2.ProgrammingError):
            session.connection.cursor().execute("SELECT 1")

    @rule(session=sessions.filter(busy))
    def kill(self, session: Session) -> None:
        assert session.task is not None
        killed = KeyError("killed")
        session.task.kill(killed)
        session.task.join()
        with pytest.raises(KeyError):
            session.task.get()
        assert session.connection.closed
        session.closed = True
        session.end()

    @rule(session=sessions.filter(busy))
    def cancel(self, session: Session) -> None:
        assert session.task is not None
        # The server drops a request that comes before it has read the query.
        self.hub.wait_until(
            lambda: self.observer.count("pid = %s AND state = 'active'", session.connection.info.backend_pid)
        )
        session.connection.cancel()
        session.task.join()
        with pytest.raises(errors.QueryCanceled):
            session.task.get()
        session.task, session.failed = None, True

    @rule(session=sessions.filter(busy))
    def close_while_busy(self, session: Session) -> None:
        assert session.task is not None
        session.connection.close()
        session.task.join()
        with pytest.raises(psycopg2.InterfaceError):
            session.task.get()
        session.closed = True
        session.end()

    @rule(session=sessions.filter(lambda session: session.task is None))
    def close(self, session: Session) -> None:
        session.connection.close()
        session.closed = True
        session.end()

    @rule(session=sessions.filter(lambda session: session.closed))
    def use_when_closed(self, session: Session) -> None:
        with pytest.raises(psycopg2.InterfaceError):
            session.connection.cursor()

    @rule(session=consumes(sessions).filter(lambda session: session.task is None))
    def drop(self, session: Session) -> None:
        self.all.remove(session)
        session.connection = None

    @rule()
    def collect(self) -> None:
        gc.collect()

    @precondition(lambda self: self.hub.name != "asyncio")  # its loop does not survive a fork
    @rule()
    def fork(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            try:
                self.hub.sleep(0.02)  # the copies of the parent's greenlets may wake
                os._exit(0)
            finally:
                os._exit(1)
        status = self.hub.wait_until(lambda: dict([os.waitpid(pid, os.WNOHANG)]).get(pid, -1) + 1) - 1
        assert status == 0

    @invariant()
    def states(self) -> None:
        self.hub.sleep(0)
        for session in self.all:
            assert bool(session.connection.closed) == session.closed
            if session.task is not None:
                assert not session.task.done

    def teardown(self) -> None:
        for session in self.all:
            session.connection.close()
        with closing(psycopg2.connect(self.dsn)) as connection:
            assert self.rows(Session(connection)) == sorted(self.committed)
        self.hub.wait_until(lambda: self.observer.executing("pg_sleep(60)") == 0, timeout=5)


@pytest.mark.timeout(300 + 5 * ORDERS)  # hypothesis needs time to shorten a failing case
def test_connections_behave_as_the_model(hub: Hub, green: None, dsn: str, observe: Callable[[str], Observer]) -> None:
    """See the module."""
    machine = type("TestedModel", (Model,), {"hub": hub, "dsn": dsn, "observer": observe(dsn)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=ORDERS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
