"""psycopg 3 made green, alone and beside psycopg2."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from hubs import NAME
from hubs.contract import Hub
from support import network
from support.leaks import count_descriptors
from support.processes import run_script
from support.server_state import Observer

from psycogreen import _cancel

psycopg = pytest.importorskip("psycopg")

pytestmark = [pytest.mark.library, pytest.mark.timeout(60)]

# The longest pause of a hub, in seconds.
AT_ONCE = 0.05


class Killed(Exception):
    """Kills greenlets."""


@pytest.fixture
def connect(hub: Hub, green: None, dsn: str) -> Iterator[Callable[..., Any]]:
    """Return a function that connects with psycopg 3. The connections are closed after the test."""
    with ExitStack() as opened:
        yield lambda conninfo=dsn, **kwargs: opened.enter_context(closing(psycopg.connect(conninfo, **kwargs)))


@pytest.fixture
def query(observer: Observer) -> Iterator[str]:
    """A query that takes a minute, and whose text differs from other tests' queries."""
    query = f"SELECT pg_sleep(60) -- {uuid.uuid4()}"
    yield query
    observer.terminate(query)


@pytest.fixture(params=["17", "older"])
def libpq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with libpq 17's cancel requests, and with those of an older libpq."""
    if request.param == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda library: False)


def start(hub: Hub, executing: Any, conns: list[Any], query: str) -> list[Any]:
    """Execute *query* on each connection, in a greenlet each; return the tasks when the server runs all queries."""
    tasks = [hub.spawn(conn.execute, query) for conn in conns]
    hub.wait_until(lambda: executing(query) == len(conns))
    return tasks


@pytest.mark.core
@pytest.mark.hub
def test_queries_wait_at_the_same_time(hub: Hub, connect: Any) -> None:
    conns = [connect() for _ in range(20)]
    begun = time.monotonic()
    with hub.ticker(0.005) as ticker:
        tasks = [hub.spawn(conn.execute, "SELECT pg_sleep(0.5), %s", [number]) for number, conn in enumerate(conns)]
        rows = [task.wait().fetchone() for task in tasks]
    assert [number for _, number in rows] == list(range(20))
    assert time.monotonic() - begun < 5  # one after the other, they take ten
    assert ticker.longest_gap < AT_ONCE


@pytest.mark.core
def test_transactions_and_errors_are_psycopgs(hub: Hub, connect: Any) -> None:
    def use() -> Any:
        conn = connect()
        with conn.transaction():
            conn.execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP")
            with pytest.raises(ZeroDivisionError), conn.transaction():
                conn.execute("INSERT INTO t VALUES (1)")
                raise ZeroDivisionError
            conn.execute("INSERT INTO t VALUES (2)")
            rows = conn.execute("SELECT n FROM t").fetchall()
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")
        conn.rollback()
        return rows, conn.execute("SELECT 1").fetchone(), conn.info.transaction_status.name

    assert hub.run(use) == ([(2,)], (1,), "INTRANS")


def test_a_large_query_and_a_large_result_pass(hub: Hub, connect: Any) -> None:
    text = "x" * 5_000_000
    with hub.ticker() as ticker:
        assert hub.run(lambda: connect().execute("SELECT %s::text", [text]).fetchone()) == (text,)
    assert ticker.ticks


@pytest.mark.core
def test_a_second_greenlet_waits_for_its_turn(hub: Hub, connect: Any) -> None:
    conn = connect()
    order = []

    def execute(number: int) -> None:
        conn.execute("SELECT pg_sleep(0.05)")
        order.append(number)

    tasks = [hub.spawn(execute, number) for number in range(5)]
    for task in tasks:
        task.wait()
    assert order == list(range(5))
    assert not conn.lock.locked()


def test_a_greenlet_killed_while_waiting_for_the_lock_leaves_it_to_others(
    hub: Hub, connect: Any, executing: Any, query: str
) -> None:
    conn = connect()
    (first,) = start(hub, executing, [conn], query)
    before = count_descriptors()
    second, third = hub.spawn(conn.execute, "SELECT 2"), hub.spawn(conn.execute, "SELECT 3")
    hub.wait_until(lambda: len(conn.lock._turns) == 2)
    second.kill(Killed())
    with pytest.raises(Killed):
        second.wait()
    hub.run(conn.cancel)
    with pytest.raises(psycopg.errors.QueryCanceled):
        first.wait()
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        third.wait()
    assert not conn.lock.locked()
    hub.wait_until(lambda: count_descriptors() <= before)


def test_native_threads_and_greenlets_take_turns(hub: Hub, connect: Any) -> None:
    conn = connect(autocommit=True)

    def execute() -> int:
        return sum(conn.execute("SELECT 1").fetchone()[0] for _ in range(50))

    tasks = [hub.spawn(execute) for _ in range(3)]
    assert hub.run_in_threads(3, execute) == [50] * 3
    assert [task.wait() for task in tasks] == [50] * 3


@pytest.mark.core
def test_kills_end_the_queries_and_close_the_connections(
    hub: Hub, connect: Any, executing: Any, query: str, libpq: None
) -> None:
    conns = [connect() for _ in range(10)]
    tasks = start(hub, executing, conns, query)
    for task in tasks:
        task.kill(Killed())
    for task in tasks:
        with pytest.raises(Killed):
            task.wait()
    hub.wait_until(lambda: not executing(query), timeout=10)
    for conn in conns:
        assert conn.closed
        assert conn.broken
        with pytest.raises(psycopg.OperationalError, match="the connection is closed"):
            conn.execute("SELECT 1")
    hub.wait_until(lambda: not _cancel._pending)


def test_a_timeout_passes_through_with_blocks(hub: Hub, connect: Any, query: str) -> None:
    conn = connect()
    with (
        pytest.raises(hub.Timeout) as caught,
        hub.Timeout(0.1) as timeout,
        conn,
        conn.transaction(),
        conn.cursor() as cursor,
    ):
        cursor.execute(query)
    assert caught.value is timeout
    assert conn.closed


def test_cancel_can_be_switched_off(hub: Hub, connect: Any, executing: Any) -> None:
    hub.adapter.make_psycopg_green(cancel=False, drivers=["psycopg"])
    text = "SELECT pg_sleep(1.5), 3"
    (task,) = start(hub, executing, [connect()], text)
    task.kill(Killed())
    with pytest.raises(Killed):
        task.wait()
    hub.sleep(0.3)
    assert executing(text) == 1


def test_ctrl_c_ends_the_query_and_keeps_the_connection(hub: Hub, connect: Any, executing: Any, query: str) -> None:
    if NAME == "asyncio":
        pytest.skip("asyncio itself does not throw it into a task")
    conn = connect(autocommit=True)
    (task,) = start(hub, executing, [conn], query)
    task.kill(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        task.wait()
    assert not conn.closed
    assert hub.run(conn.execute, "SELECT 1").fetchone() == (1,)


@pytest.mark.core
def test_close_ends_the_query_of_another_greenlet(hub: Hub, connect: Any, executing: Any, query: str) -> None:
    for run in hub.run, hub.run_in_hub:
        conn = connect()
        (task,) = start(hub, executing, [conn], query)
        run(conn.close)
        with pytest.raises(psycopg.OperationalError, match="the connection is closed"):
            task.wait()
        assert conn.closed
        assert not conn.broken
        hub.wait_until(lambda: not executing(query))


@pytest.mark.core
def test_cancel_ends_the_query_and_keeps_the_connection(
    hub: Hub, connect: Any, executing: Any, query: str, libpq: None
) -> None:
    conn = connect(autocommit=True)
    for run in hub.run, hub.run_in_hub, hub.run_in_thread:
        (task,) = start(hub, executing, [conn], query)
        run(conn.cancel)
        with pytest.raises(psycopg.errors.QueryCanceled):
            task.wait()
        assert hub.run(conn.execute, "SELECT 1").fetchone() == (1,)


def test_connecting_to_a_silent_server_times_out_beside_others(hub: Hub, green: None) -> None:
    with network.deaf() as port, hub.ticker() as ticker:
        begun = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="timeout expired"):
            hub.run(psycopg.connect, f"host=127.0.0.1 port={port} connect_timeout=2")
    assert 1.5 < time.monotonic() - begun < 10
    assert ticker.longest_gap < AT_ONCE


def test_a_kill_while_connecting_leaves_no_descriptor(hub: Hub, green: None) -> None:
    with network.deaf() as port:
        hub.run(hub.sleep, 0)
        before = count_descriptors()
        task = hub.spawn(psycopg.connect, f"host=127.0.0.1 port={port}")
        hub.wait_until(lambda: count_descriptors() > before)
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
        hub.wait_until(lambda: count_descriptors() <= before)


@pytest.mark.parametrize("from_service", [False, True], ids=["dsn", "service file"])
def test_the_hub_resolves_names(
    hub: Hub, connect: Any, names: Any, tcp_dsn: str, tmp_path: Any, monkeypatch: Any, from_service: bool
) -> None:
    server = psycopg.conninfo.conninfo_to_dict(tcp_dsn)
    names["psycopg3.test"] = [server.pop("hostaddr")]
    names.seconds = 0.2
    server["host"] = "psycopg3.test"
    dsn = psycopg.conninfo.make_conninfo("", **server)
    if from_service:
        service = tmp_path / "services"
        service.write_text("[here]\n" + "".join(f"{key}={value}\n" for key, value in server.items()))
        monkeypatch.setenv("PGSERVICEFILE", str(service))
        dsn = "service=here"
    with hub.ticker() as ticker:
        conn = hub.run(connect, dsn)
    assert conn.info.host == "psycopg3.test"
    assert ticker.ticks >= 5
    assert ticker.longest_gap < AT_ONCE


def test_a_thread_without_a_hub_blocks_only_itself(hub: Hub, connect: Any) -> None:
    def use() -> Any:
        with closing(connect()) as conn:
            return conn.execute("SELECT pg_sleep(0.2)").fetchone()

    with hub.ticker() as ticker:
        assert hub.run_in_thread(use) == ("",)
    assert ticker.ticks >= 5


@pytest.mark.core
@pytest.mark.parametrize("first", ["import psycopg", ""], ids=["psycopg first", "psycogreen first"])
@pytest.mark.parametrize("psycopg2", ["", "sys.modules['psycopg2'] = None"], ids=["both drivers", "psycopg alone"])
def test_psycopg_is_green_in_either_order_of_imports(dsn: str, first: str, psycopg2: str) -> None:
    script = f"""
        import sys
        {psycopg2}
        {first}
        from psycogreen.{NAME} import make_psycopg_green
        make_psycopg_green()
        print("psycopg" in sys.modules)
        import psycopg
        print(psycopg.Connection.close.__module__, type(psycopg.__spec__.loader).__name__)
        """
    assert run_script(script).split() == [str(bool(first)), "psycogreen._psycopg3.connection", "SourceFileLoader"]


def test_the_drivers_can_be_chosen(hub: Hub) -> None:
    script = f"""
        import sys
        from psycogreen.{NAME} import make_psycopg_green
        make_psycopg_green(drivers=sys.argv[1:])
        import psycopg
        from psycopg2 import extensions
        print(psycopg.Connection.wait.__module__.startswith("psycogreen"), extensions.get_wait_callback() is not None)
        """
    assert run_script(script, "psycopg").split() == ["True", "False"]
    assert run_script(script, "psycopg2").split() == ["False", "True"]
    with pytest.raises(ValueError, match="drivers"):
        hub.adapter.make_psycopg_green(drivers=["psycopg3"])


def test_an_error_of_psycopgs_import_is_passed_on() -> None:
    script = f"""
        import os
        from psycogreen.{NAME} import make_psycopg_green
        make_psycopg_green(drivers=["psycopg"])
        os.environ["PSYCOPG_IMPL"] = "none of these"
        try:
            import psycopg
        except ImportError as exc:
            print(exc)
        """
    assert "none of these" in run_script(script)


@pytest.mark.parametrize(
    ("change", "unknown"),
    [
        ("psycopg.Connection.wait = lambda self, gen, patience: None", "Connection.wait"),
        # As before 3.1.20.
        ("del psycopg._conninfo_attempts; sys.modules['psycopg._conninfo_attempts'] = None", "_conninfo_attempts"),
    ],
)
def test_an_unknown_psycopg_is_not_changed(change: str, unknown: str) -> None:
    script = f"""
        import sys, warnings
        import psycopg
        from psycogreen.{NAME} import make_psycopg_green
        {change}
        theirs = psycopg.Connection.wait
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make_psycopg_green()
        print(psycopg.Connection.wait is theirs, [str(each.message) for each in caught if "psycogreen" in str(each)])
        """
    left, _, message = run_script(script).partition(" ")
    assert left == "True"
    assert unknown in message


def test_a_timeout_of_a_signal_handler_is_raised_in_a_thread_without_a_hub(
    hub: Hub, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told from the time limits of the wait itself, which are TimeoutErrors too."""

    class Struck:
        def register(self, fd: int, events: int) -> None: ...

        def poll(self, timeout: float | None = None) -> Any:
            raise TimeoutError("from a signal handler")

    conn = connect()
    with monkeypatch.context() as patched, pytest.raises(TimeoutError, match="from a signal handler"):
        patched.setattr(type(hub.adapter._adapter), "poll", lambda adapter: Struck())
        hub.run_in_thread(conn.execute, "SELECT pg_sleep(0.1)")
