"""A kill ends the query in the server too, returns at once, and leaks nothing."""

import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2.extensions import libpq_version, make_dsn
from support import network
from support.leaks import descriptors
from support.network import full_backlog
from support.postgres import bouncer_program
from support.processes import running, serving
from support.server_state import Observer, in_query
from support.tickers import clock
from support.waiting import wait_until

from psycogreen import _cancel
from psycogreen._psycopg2 import cancel

pytestmark = [pytest.mark.hub, pytest.mark.libpq, pytest.mark.timeout(60)]

# The seconds within which a kill must return, also with the network cut.
AT_ONCE = 0.05


class Killed(Exception):
    """The exception with which the tests kill greenlets."""


class Proxy(NamedTuple):
    dsn: str
    process: Any

    def cut(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def proxy(dsn: str, connect: Any) -> Iterator[Proxy]:
    """A proxy to the server, on TCP, in a process of its own."""
    info = connect().info
    with serving("proxy", info.host, str(info.port)) as (port, process):
        yield Proxy(make_dsn(dsn, host="127.0.0.1", port=port), process)
        process.kill()  # a stopped process ignores SIGTERM


@pytest.fixture
def query(observer: Observer) -> Iterator[str]:
    """A query that takes a minute. Its text differs from those of other tests."""
    query = f"SELECT pg_sleep(60) -- {uuid.uuid4()}"
    yield query
    observer.terminate(query)  # the queries whose cancel request did not reach the server


@pytest.fixture(params=["17", "older"])
def libpq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the cancel functions of libpq 17, and with those of older versions."""
    if request.param == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda library: False)


def start(hub: Hub, executing: Any, conns: list[Any], query: str) -> list[Any]:
    """Start a greenlet that executes *query* for each connection; return the tasks when the server has all queries."""

    def execute(conn: Any) -> None:
        conn.cursor().execute(query)

    tasks = [hub.spawn(execute, conn) for conn in conns]
    hub.wait_until(lambda: executing(query) == len(conns))
    return tasks


class Leaks:
    """Descriptors and threads that were added since this object was made."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # The first wait makes the descriptors of the hub and of its event loop.
        hub.sleep(0)
        self._before = self._count()

    def _count(self) -> tuple[int, int]:
        return len(descriptors()), len(os.listdir("/proc/self/task"))

    def check(self) -> None:
        try:
            self._hub.wait_until(lambda: all(map(int.__le__, self._count(), self._before)))
        except AssertionError:
            pytest.fail(f"from {self._before} to {self._count()}: {descriptors()}")


@pytest.mark.parametrize("server", ["dsn", "tls_dsn"])
def test_fifty_kills_end_fifty_queries(
    hub: Hub, query: str, request: Any, connect: Any, observe: Any, server: str
) -> None:
    dsn = request.getfixturevalue(server)
    executing = observe(dsn).executing
    hub.run(connect(dsn).cursor().execute, "SELECT 1")
    leaks = Leaks(hub)

    def kill_fifty() -> float:
        """Return the seconds from the first kill to the end of the last query."""
        conns = [psycopg2.connect(dsn) for _ in range(50)]
        tasks = start(hub, executing, conns, query)
        began = time.monotonic()
        for task in tasks:
            task.kill(Killed())
        for task in tasks:
            with pytest.raises(Killed):
                task.wait()
        assert all(conn.closed for conn in conns)
        hub.wait_until(lambda: not executing(query), timeout=10)
        return time.monotonic() - began

    # On a busy machine, the server's processes may have to wait for a processor.
    assert any(kill_fifty() < 1 for _ in range(3))
    hub.wait_until(lambda: not _cancel._pending, timeout=1)
    leaks.check()


@pytest.mark.usefixtures("libpq")
def test_a_kill_ends_a_query_that_the_server_has_not_read_yet(
    hub: Hub, query: str, connect: Any, observer: Observer
) -> None:
    """The server drops the first request: its process has had no CPU since the query was sent."""
    conn = connect()
    conn.autocommit = True  # the first that is sent is the query, not BEGIN
    backend = conn.info.backend_pid
    earlier = set(_cancel._pending)
    os.kill(backend, signal.SIGSTOP)
    try:
        task = hub.spawn(conn.cursor().execute, query)
        hub.wait_until(lambda: in_query(conn))
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
        (request,) = _cancel._pending - earlier
        hub.wait_until(lambda: request._awaited is None)
    finally:
        os.kill(backend, signal.SIGCONT)
    hub.wait_until(lambda: observer.has_ended(backend), timeout=5)


@pytest.mark.parametrize("full", [False, True], ids=["silent", "unreachable"])
def test_kills_return_at_once_without_a_network(
    hub: Hub, query: str, executing: Any, proxy: Proxy, monkeypatch: Any, capfd: Any, full: bool
) -> None:
    monkeypatch.setattr(_cancel, "CANCEL_TIMEOUT", 0.5)
    conns = [psycopg2.connect(proxy.dsn) for _ in range(20)]
    tasks = start(hub, executing, conns, query)
    leaks = Leaks(hub)
    proxy.cut()
    port = conns[0].info.port
    # Connecting takes for ever if the listener's backlog is full.
    with full_backlog("127.0.0.1", port) if full else nullcontext(), hub.ticker() as ticker:
        for task in tasks:
            began = clock()
            task.kill(Killed())
            task.join()
            assert clock() - began < AT_ONCE
            with pytest.raises(Killed):
                task.wait()
        assert all(conn.closed for conn in conns)
        assert _cancel._pending
        hub.wait_until(lambda: not _cancel._pending, timeout=5)
    assert ticker.longest_gap < AT_ONCE
    del tasks
    conns.clear()
    if libpq_version() < 170000:
        proxy.mend()  # a thread waits until the server can be reached again
    leaks.check()
    assert not capfd.readouterr().err  # a request that failed in the background is not reported
    proxy.mend()


def test_a_timeout_passes_through_with_blocks(hub: Hub, query: str, connect: Any) -> None:
    conn = connect()
    with pytest.raises(hub.Timeout) as caught, hub.Timeout(0.05) as timeout, conn, conn.cursor("named") as cursor:
        cursor.execute(query)
        cursor.fetchall()
    assert caught.value is timeout
    assert conn.closed


def test_a_server_error_in_a_with_block_is_psycopg2s(connect: Any, blocking_dsn_connect: Any) -> None:
    def lose(conn: Any) -> BaseException:
        with pytest.raises(psycopg2.Error) as caught, conn, conn.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return caught.value

    green = lose(connect())
    with blocking_dsn_connect() as conn:
        blocking = lose(conn)
    assert (type(green), str(green)) == (type(blocking), str(blocking))


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_cancel_can_be_switched_off(hub: Hub, connect: Any, executing: Any) -> None:
    hub.adapter.make_psycopg_green(cancel=False)
    (task,) = start(hub, executing, [connect()], "SELECT pg_sleep(1.5)")
    task.kill(Killed())
    with pytest.raises(Killed):
        task.wait()
    hub.sleep(0.3)
    assert executing("SELECT pg_sleep(1.5)") == 1


def test_no_cancel_when_the_server_ended_the_connection(hub: Hub, connect: Any, monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(cancel, "cancel_and_abandon", lambda *args: asked.append(args))
    conn = connect()
    with pytest.raises(psycopg2.OperationalError):
        hub.run(conn.cursor().execute, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert not asked


def test_no_cancel_while_connecting(hub: Hub, green: None, monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(cancel, "cancel_and_abandon", lambda *args: asked.append(args))
    with network.deaf() as port:
        task = hub.spawn(lambda: psycopg2.connect(host="127.0.0.1", port=port, user="x"))
        hub.sleep(0.1)
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
    assert not asked


@pytest.mark.usefixtures("libpq")
def test_cancel_leaves_the_connection_usable(hub: Hub, query: str, connect: Any, executing: Any) -> None:
    conn = connect()
    leaks = None
    # The hub's own greenlet can't wait: there the request goes on in the background.
    for run in hub.run, hub.run_in_hub, hub.run_in_thread:
        (task,) = start(hub, executing, [conn], query)
        leaks = leaks or Leaks(hub)
        run(conn.cancel)
        with pytest.raises(psycopg2.errors.QueryCanceled):
            task.wait()
        conn.rollback()
        cursor = conn.cursor()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        conn.rollback()
    leaks.check()
    assert not _cancel._pending


@pytest.mark.usefixtures("libpq")
def test_cancel_raises_where_no_server_listens(hub: Hub, connect: Any, tcp_dsn: str) -> None:
    server = psycopg2.extensions.parse_dsn(tcp_dsn)
    with closing(network.Proxy(server["hostaddr"], server["port"])) as through:
        conn = connect(make_dsn(tcp_dsn, port=through.port))
        through.refuse()
        with pytest.raises(psycopg2.OperationalError, match="Connection refused|error 111"):
            hub.run(conn.cancel)


@pytest.mark.usefixtures("libpq")
def test_cancel_raises_when_the_server_is_gone(hub: Hub, query: str, proxy: Proxy, executing: Any) -> None:
    conn = psycopg2.connect(proxy.dsn)
    (task,) = start(hub, executing, [conn], query)
    proxy.process.kill()
    proxy.process.wait()
    with pytest.raises(psycopg2.OperationalError):
        task.wait()
    with pytest.raises(psycopg2.InterfaceError, match="connection already closed"):
        conn.cancel()


@pytest.mark.usefixtures("libpq")
def test_a_timeout_in_a_thread_without_a_hub_ends_the_query(hub: Hub, query: str, connect: Any, executing: Any) -> None:
    """gevent's callback has a timeout, which also ends waits in such a thread."""
    if hub.name == "eventlet":
        pytest.skip("eventlet's callback has no timeout")

    conn = connect()

    def execute() -> None:
        import functools

        psycopg2.extensions.set_wait_callback(functools.partial(hub.wait_callback, timeout=0.5))
        conn.cursor().execute(query)

    with pytest.raises(TimeoutError):
        hub.run_in_thread(execute)
    psycopg2.extensions.set_wait_callback(hub.wait_callback)
    hub.wait_until(lambda: not executing(query))


@pytest.fixture(params=["session", "transaction"])
def bouncer(request: Any, tcp_dsn: str) -> Iterator[str]:
    """The DSN of a PgBouncer in front of the server."""
    program = bouncer_program()
    if program is None:
        pytest.skip("no pgbouncer: apt-get install pgbouncer")
    server = psycopg2.extensions.parse_dsn(tcp_dsn)
    port = network.free_port()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        configuration = Path(directory, "pgbouncer.ini")
        configuration.write_text(
            f"[databases]\n* = host={server['hostaddr']} port={server['port']} user={server['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {request.param}\n"
        )
        drop = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
        with running([*drop, program, "-q", configuration], stderr=subprocess.DEVNULL):
            wait_until(lambda: network.answers(port), timeout=10)
            yield make_dsn(host="127.0.0.1", port=port, user=server["user"], dbname=server["dbname"])


def test_kills_through_pgbouncer_end_the_queries(
    hub: Hub, query: str, green: None, observe: Any, tcp_dsn: str, bouncer: str
) -> None:
    """PgBouncer forgets a client whose connection is closed, and can't cancel its query any more."""
    executing = observe(tcp_dsn).executing
    tasks = start(hub, executing, [psycopg2.connect(bouncer) for _ in range(5)], query)
    for task in tasks:
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
    hub.wait_until(lambda: not executing(query), timeout=2)
