"""Green connections: which calls return one, their classes, and how they are closed."""

import contextlib
import functools
import gc
import shutil
import signal
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras
from psycopg2.extensions import get_wait_callback, set_wait_callback
from support.processes import PROGRAMS, PYTHON, child_environment, running
from support.server_state import in_query

import psycogreen
from psycogreen._psycopg2.connection import GreenConnection
from psycogreen._psycopg2.cursor import GreenCursor

pytestmark = pytest.mark.timeout(60)


class OwnConnection(extensions.connection):
    """A user's connection class that overrides many methods."""

    def __init__(self, dsn: str, **kwargs: Any) -> None:
        self.calls = ["init"]
        super().__init__(dsn, **kwargs)
        self.calls.append("connected")

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("cursor")
        kwargs.setdefault("cursor_factory", self.cursor_factory or OwnCursor)
        return super().cursor(*args, **kwargs)

    def commit(self) -> None:
        self.calls.append("commit")
        super().commit()

    def close(self) -> None:
        self.calls.append("close")
        super().close()


class OwnCursor(extensions.cursor):
    def execute(self, query: Any, vars: Any = None) -> None:
        self.connection.calls.append("execute")
        super().execute(query, vars)


class SlottedConnection(extensions.connection):
    __slots__ = ("mark",)


class SlottedCursor(extensions.cursor):
    __slots__ = ("mark",)


CONNECTIONS = [
    extensions.connection,
    extras.DictConnection,
    extras.RealDictConnection,
    extras.NamedTupleConnection,
    OwnConnection,
    SlottedConnection,
]
CURSORS = [extensions.cursor, extras.DictCursor, extras.RealDictCursor, extras.NamedTupleCursor, SlottedCursor]


@pytest.mark.parametrize("factory", CONNECTIONS)
def test_connection_factory_keeps_its_type(connect: Any, factory: type) -> None:
    conn = connect(connection_factory=factory)
    assert isinstance(conn, factory)
    assert isinstance(conn, GreenConnection)
    assert type(conn).__name__ == factory.__name__ or factory is extensions.connection
    assert conn.cursor_factory is None
    assert type(connect(connection_factory=factory)) is type(conn)
    cursor = conn.cursor()
    assert isinstance(cursor, GreenCursor)
    cursor.execute("SELECT 1 AS one")
    assert [list(row.values() if isinstance(row, dict) else row) for row in cursor] == [[1]]


def test_overridden_methods_are_called(connect: Any) -> None:
    conn = connect(connection_factory=OwnConnection)
    with conn, conn.cursor() as cursor:
        assert isinstance(cursor, OwnCursor)
        cursor.execute("SELECT 1")
    conn.close()
    assert conn.calls == ["init", "connected", "cursor", "execute", "commit", "close"]


def test_a_logging_connection_logs(connect: Any) -> None:
    class Log(list[Any]):
        def write(self, text: str) -> None:
            self.append(text)

    log = Log()
    conn = connect(connection_factory=extras.LoggingConnection)
    conn.initialize(log)
    conn.cursor().execute("SELECT 42")
    assert "SELECT 42" in "".join(log)
    conn = connect(connection_factory=extras.MinTimeLoggingConnection)
    conn.initialize(log, mintime=0)
    conn.cursor().execute("SELECT 43")
    assert "SELECT 43" in "".join(log)


@pytest.mark.parametrize("make", [lambda cls: lambda dsn: cls(dsn), lambda cls: functools.partial(cls)])
def test_connections_of_a_factory_function_become_green(connect: Any, make: Any) -> None:
    conn = connect(connection_factory=make(extras.DictConnection))
    assert isinstance(conn, extras.DictConnection)
    assert isinstance(conn, GreenConnection)
    cursor = conn.cursor()
    assert isinstance(cursor, extras.DictCursor)
    assert isinstance(cursor, GreenCursor)
    # The class of such an object can't be changed: it stays psycopg2's.
    assert type(connect(connection_factory=make(extensions.connection))) is extensions.connection


@pytest.mark.parametrize("way", ["connect", "attribute", "argument"])
@pytest.mark.parametrize("kind", ["class", "function"])
@pytest.mark.parametrize("factory", CURSORS)
def test_cursor_factory_keeps_its_type(connect: Any, way: str, kind: str, factory: Any) -> None:
    given = factory if kind == "class" else lambda *args: factory(*args)
    conn = connect(cursor_factory=given if way == "connect" else None)
    if way == "attribute":
        conn.cursor_factory = given
    cursor = conn.cursor(cursor_factory=given) if way == "argument" else conn.cursor()
    assert conn.cursor_factory is (None if way == "argument" else given)
    assert isinstance(cursor, factory)
    assert isinstance(cursor, GreenCursor) or (kind == "function" and factory is extensions.cursor)
    cursor.execute("SELECT 1 AS one")
    (row,) = cursor.fetchall()
    expected = {extras.DictCursor: [1], extras.RealDictCursor: {"one": 1}}
    assert row == expected.get(factory, (1,))
    conn.cursor_factory = None
    assert conn.cursor_factory is None


def test_psycopg2s_cursor_factory_wins_on_a_dict_connection(connect: Any, blocking_dsn_connect: Any) -> None:
    conn = connect(connection_factory=extras.DictConnection, cursor_factory=extensions.cursor)
    assert not isinstance(conn.cursor(), extras.DictCursor)
    with blocking_dsn_connect(connection_factory=extras.DictConnection, cursor_factory=extensions.cursor) as conn:
        assert not isinstance(conn.cursor(), extras.DictCursor)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda conn: conn.cursor(cursor_factory=dict),
        lambda conn: conn.cursor(cursor_factory=3),
        lambda conn: conn.cursor(withhold=True),
        lambda conn: conn.cursor(scrollable=True),
        lambda conn: conn.cursor(nmae="x"),
        lambda conn: conn.commit(1),
        lambda conn: conn.set_session(1, 2, 3, 4, 5),
        lambda conn: conn.set_isolation_level(7),
        lambda conn: setattr(conn, "isolation_level", "none"),
        lambda conn: setattr(conn, "readonly", "none"),
        lambda conn: conn.cursor().executemany("SELECT 1"),
        lambda conn: conn.cursor().executemany("SELECT 1", 3),
        lambda conn: conn.cursor().executemany("SELECT %s", [(1, 2)]),
        lambda conn: setattr(conn, "cursor_factory", 3) or conn.cursor(),
        lambda conn: conn.__exit__(),
        lambda conn: conn.close() or conn.commit(),
        lambda conn: conn.close() or conn.cancel(),
    ],
)
def test_errors_are_of_psycopg2s_classes(connect: Any, blocking_dsn_connect: Any, wrong: Any) -> None:
    with pytest.raises(Exception) as green:  # noqa: PT011
        wrong(connect())
    with blocking_dsn_connect() as conn, pytest.raises(type(green.value)) as blocking:
        wrong(conn)
    if not isinstance(green.value, TypeError):  # the messages of Python functions differ from those of C
        assert str(green.value) == str(blocking.value)


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_connections_are_green_only_while_the_callback_is_ours(hub: Hub, green: None, dsn: str) -> None:
    def made() -> type:
        conn = psycopg2.connect(dsn)
        conn.close()
        return type(conn)

    from psycopg2 import connect as by_name

    assert made() is GreenConnection
    assert type(by_name(dsn)) is GreenConnection
    set_wait_callback(None)
    assert made() is GreenConnection  # it blocks until the callback is set again
    set_wait_callback(extras.wait_select)
    assert made() is extensions.connection
    hub.adapter.make_psycopg_green(connections=False)
    assert get_wait_callback() is hub.wait_callback
    assert made() is extensions.connection
    hub.adapter.make_psycopg_green()
    assert made() is GreenConnection


def test_async_and_replication_connections_are_not_changed(green: None, dsn: str) -> None:
    conn = psycopg2.connect(dsn, async_=True)
    assert type(conn) is extensions.connection
    extras.wait_select(conn)
    conn.close()
    conn = psycopg2.connect(dsn, connection_factory=extras.LogicalReplicationConnection)
    assert type(conn) is extras.LogicalReplicationConnection
    conn.close()


def test_factories_are_not_kept(green: None, dsn: str) -> None:
    class Passing(extensions.connection):
        pass

    class PassingCursor(extensions.cursor):
        pass

    conn = psycopg2.connect(dsn, connection_factory=Passing, cursor_factory=PassingCursor)
    gone = [weakref.ref(Passing), weakref.ref(PassingCursor), weakref.ref(type(conn))]
    conn.close()
    del Passing, PassingCursor
    del conn
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("setting", ["md5", "scram-sha-256"])
def test_encrypt_password_does_as_blocking(
    connect: Any, blocking_dsn_connect: Any, autocommit: bool, setting: str
) -> None:
    def encrypted(conn: Any) -> tuple[Any, ...]:
        conn.autocommit = autocommit
        conn.cursor().execute(f"SET password_encryption = '{setting}'")
        conn.commit()
        made = [extensions.encrypt_password("secret", "me", scope) for scope in (conn, conn.cursor())]
        assert all(each.startswith("md5" if setting == "md5" else "SCRAM-SHA-256$4096:") for each in made)
        return conn.status, conn.get_transaction_status(), conn.autocommit

    green = encrypted(connect())
    with blocking_dsn_connect() as conn:
        assert green == encrypted(conn)


def waiting(hub: Hub, conn: Any) -> Any:
    """Start a long query on *conn*; return its task when the server has it."""

    def execute() -> None:
        conn.cursor().execute("SELECT pg_sleep(60)")

    task = hub.spawn(execute)
    hub.wait_until(lambda: in_query(conn))
    hub.sleep(0.02)
    return task


CLOSED = pytest.raises(psycopg2.InterfaceError, match="^connection closed by another greenlet$")


@contextlib.contextmanager
def closed_in_mid_query(hub: Hub, conn: Any) -> Iterator[Any]:
    """Yield a connection on which a greenlet waits. The block must close it; the greenlet must get InterfaceError."""
    task = waiting(hub, conn)
    yield task
    assert conn.closed == 1
    with CLOSED:
        task.wait()


def test_close_by_another_greenlet_ends_the_query_at_once(hub: Hub, connect: Any) -> None:
    conn = connect()
    with closed_in_mid_query(hub, conn) as task:
        began = time.monotonic()
        hub.run(conn.close)
        assert time.monotonic() - began < 0.05
        assert task.done


def test_close_by_the_main_greenlet_ends_the_query(hub: Hub, connect: Any) -> None:
    conn = connect()
    with closed_in_mid_query(hub, conn):
        conn.close()


def test_close_by_the_hub_ends_the_query(hub: Hub, connect: Any) -> None:
    def close() -> int:
        conn.close()
        return conn.closed

    conn = connect()
    with closed_in_mid_query(hub, conn):
        assert hub.run_in_hub(close) == 1


def test_close_by_the_collector_ends_the_query(hub: Hub, connect: Any) -> None:
    """A __del__ in a reference cycle closes the connection, in any greenlet."""

    class Owner:
        def __init__(self, conn: Any) -> None:
            self.conn, self.me = conn, self

        def __del__(self) -> None:
            self.conn.close()

    conn = connect()
    with closed_in_mid_query(hub, conn):
        Owner(conn)
        gc.collect()


def test_close_by_many_greenlets_ends_the_query(hub: Hub, connect: Any) -> None:
    conn = connect()
    with closed_in_mid_query(hub, conn):
        for closing in [hub.spawn(conn.close) for _ in range(10)]:
            closing.wait()


def test_close_by_a_greenlet_that_is_killed_ends_the_query(hub: Hub, connect: Any) -> None:
    conn = connect()
    task = waiting(hub, conn)
    closing = hub.spawn(conn.close)
    hub.call_soon(lambda: closing.greenlet.throw(KeyError("killed")))
    closing.join()
    with CLOSED:
        task.wait()


def test_close_by_a_native_thread_waits(hub: Hub, connect: Any) -> None:
    """psycopg2's close() waits in the same way without a callback."""
    conn = connect()
    cursor = conn.cursor()
    task = hub.spawn(cursor.execute, "SELECT pg_sleep(0.3)")
    hub.sleep(0.1)
    with hub.ticker() as ticker:
        hub.run_in_thread(conn.close)
    task.wait()
    assert conn.closed == 1
    assert ticker.longest_gap < 0.05


def test_close_within_the_wait_ends_the_query(hub: Hub, connect: Any) -> None:
    """The waiting greenlet itself calls close(), as in a __del__ or a signal handler."""

    class Closing(extensions.connection):
        def poll(self) -> int:
            if tasks:
                with contextlib.suppress(Exception):  # Python ignores the exceptions of __del__
                    self.close()
            return super().poll()

    tasks: list[Any] = []
    conn = connect(connection_factory=Closing)
    tasks.append(hub.spawn(lambda: conn.cursor().execute("SELECT pg_sleep(60)")))
    with CLOSED:
        tasks[0].wait()
    assert conn.closed


def test_close_within_the_wait_of_a_thread_raises(hub: Hub, connect: Any) -> None:
    """In a thread without a hub, nothing can close the connection later."""

    class Closing(extensions.connection):
        def poll(self) -> int:
            if self.status == extensions.STATUS_BEGIN and not refused:
                refused.append(True)
                with pytest.raises(psycopg2.ProgrammingError, match="^close cannot be used within the wait"):
                    self.close()
            return super().poll()

    refused: list[bool] = []
    conn = connect(connection_factory=Closing)
    hub.run_in_thread(conn.cursor().execute, "SELECT pg_sleep(0.05)")
    assert refused
    assert not conn.closed


def test_poll_still_collects_notifications(hub: Hub, connect: Any) -> None:
    conn, other = connect(), connect()
    for each in conn, other:
        each.autocommit = True
    conn.cursor().execute("LISTEN here")
    other.cursor().execute("NOTIFY here, 'hello'")
    hub.run(hub.wait_readable, conn.fileno())
    assert conn.poll() == extensions.POLL_OK
    assert [notify.payload for notify in conn.notifies] == ["hello"]


def test_an_overridden_poll_is_called(hub: Hub, connect: Any) -> None:
    polls = []

    class Polling(extensions.connection):
        def poll(self) -> int:
            polls.append(1)
            return super().poll()

    conn = connect(connection_factory=Polling)
    del polls[:]
    hub.run(conn.cursor().execute, "SELECT 1")
    assert polls


@pytest.fixture
def interruptible(hub: Hub) -> None:
    if hub.name == "asyncio":
        pytest.skip("asyncio.run() cancels the task: see test_asyncio_cancellation.py")


def interrupted_query(dsn: str, query: str, *command: str, busy: bool) -> AbstractContextManager[Any]:
    """Run programs/interrupted_query.py, as an argument of *command*."""
    options = ["busy"] if busy else []
    program = [*command, *PYTHON, PROGRAMS / "interrupted_query.py", query, *options]
    return running(program, env=child_environment(DSN=dsn))


def asleep(pid: int) -> bool:
    """Return whether a process with a single thread waits in the kernel."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("server", ["dsn", "tls_dsn"])
@pytest.mark.parametrize("busy", [False, True])
def test_keyboard_interrupt_ends_the_query(
    hub: Hub, interruptible: None, request: Any, observe: Any, server: str, busy: bool
) -> None:
    """The query ends in the server too, although the program ends right after the interrupt."""
    dsn = request.getfixturevalue(server)
    executing = observe(dsn).executing
    query = f"SELECT pg_sleep(60) -- {request.node.name}"
    with interrupted_query(dsn, query, busy=busy) as process:
        hub.wait_until(lambda: executing(query) and asleep(process.pid))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=5)[0].split() == ["ready", "interrupted", "2"]
    assert process.returncode == 0
    hub.wait_until(lambda: not executing(query), timeout=2)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace sends the signal")
@pytest.mark.skipif(psycogreen.implementation == "python", reason="it comes before the callback's first line")
def test_keyboard_interrupt_while_the_query_is_sent_ends_it(
    hub: Hub, interruptible: None, dsn: str, executing: Any, tmp_path: Path
) -> None:
    """KeyboardInterrupt comes in the first Python code after the send, which is psycogreen's adapter."""
    query = f"SELECT pg_sleep(60) -- {tmp_path.name}"
    log = tmp_path / "log"
    strace = ["strace", "-f", "-qq", "-s", "200", "-e", "trace=sendto", "-o", str(log)]
    with interrupted_query(dsn, "SELECT 42", *strace, busy=True) as process:
        assert process.wait(timeout=20) == 0
    (nth,) = (n for n, line in enumerate(log.read_text().splitlines(), 1) if "SELECT 42" in line)
    inject = ["-e", f"inject=sendto:signal=SIGINT:when={nth}"]
    with interrupted_query(dsn, query, *strace, *inject, busy=True) as process:
        assert process.communicate(timeout=20)[0].split() == ["ready", "interrupted", "2"]
    assert query in log.read_text()
    hub.wait_until(lambda: not executing(query), timeout=2)
