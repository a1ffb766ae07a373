"""A kill ends the query in the server too, at once and without leaving anything."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fix_faults
import psycopg2
import pytest
from clock import clock
from fix_hub import Hub
from psycopg2.extensions import libpq_version, make_dsn

from psycogreen import _cancel

pytestmark = [pytest.mark.hub, pytest.mark.libpq, pytest.mark.timeout(60)]

# Seconds a kill may take to return, the network cut or not.
AT_ONCE = 0.05


class Killed(Exception):
    """What the greenlets are killed with."""


@pytest.fixture
def active(connect: Any) -> Callable[[str], int]:
    """Count the server's sessions that execute a query that contains the given words."""
    conn = connect()
    conn.autocommit = True
    cursor = conn.cursor()

    def active(words: str) -> int:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
            " AND pid <> pg_backend_pid()",
            (f"%{words}%",),
        )
        return cursor.fetchone()[0]

    return active


class Proxy(NamedTuple):
    dsn: str
    process: Any

    def cut(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def proxy(dsn: str, connect: Any) -> Iterator[Proxy]:
    """A proxy to the server, on TCP."""
    info = connect().info
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("proxy.py"), info.host, str(info.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    port = process.stdout.readline().strip()
    yield Proxy(make_dsn(dsn, host="127.0.0.1", port=port), process)
    process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.fixture
def query(dsn: str, blocking_dsn_connect: Any) -> Iterator[str]:
    """A query that takes a minute and is told from those of other tests."""
    query = f"SELECT pg_sleep(60) -- {uuid.uuid4()}"
    yield query
    with blocking_dsn_connect() as conn:  # for those that the server was not told of
        conn.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s AND pid <> pg_backend_pid()",
            (query,),
        )


def start(hub: Hub, active: Any, conns: list[Any], query: str) -> list[Any]:
    """Have a greenlet execute *query* on each connection; return the tasks when all are in the server."""

    def execute(conn: Any) -> None:
        conn.cursor().execute(query)

    tasks = [hub.spawn(execute, conn) for conn in conns]
    hub.wait_until(lambda: active(query) == len(conns))
    return tasks


class Leaks:
    """What the process has more of than when this was made: descriptors and threads."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # The hub and the loop have their own, from the first wait on.
        hub.sleep(0)
        self._before = self._count()

    def _count(self) -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def check(self) -> None:
        try:
            self._hub.wait_until(lambda: all(map(int.__le__, self._count(), self._before)))
        except AssertionError:
            fds = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if os.path.lexists(fd)]
            pytest.fail(f"from {self._before} to {self._count()}: {fds}")


@pytest.mark.parametrize("server", ["dsn", "tls_dsn"])
def test_fifty_kills(hub: Hub, query: str, request: Any, connect: Any, server: str) -> None:
    dsn = request.getfixturevalue(server)
    watch = connect(dsn)
    watch.autocommit = True
    cursor = watch.cursor()
    hub.run(cursor.execute, "SELECT 1")

    def active(query: str) -> int:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s", (query,))
        return cursor.fetchone()[0]

    leaks = Leaks(hub)
    conns = [psycopg2.connect(dsn) for _ in range(50)]
    tasks = start(hub, active, conns, query)
    began = time.monotonic()
    for task in tasks:
        task.kill(Killed())
    for task in tasks:
        with pytest.raises(Killed):
            task.wait()
    assert all(conn.closed for conn in conns)
    hub.wait_until(lambda: not active(query), timeout=10)
    assert time.monotonic() - began < 1
    hub.wait_until(lambda: not _cancel._pending, timeout=1)
    del conns, tasks
    leaks.check()


@pytest.mark.parametrize("full", [False, True], ids=["silent", "unreachable"])
def test_kills_with_the_network_cut(
    hub: Hub, query: str, connect: Any, active: Any, proxy: Proxy, monkeypatch: Any, capfd: Any, full: bool
) -> None:
    monkeypatch.setattr(_cancel, "PATIENCE", 0.5)
    conns = [psycopg2.connect(proxy.dsn) for _ in range(20)]
    tasks = start(hub, active, conns, query)
    leaks = Leaks(hub)
    proxy.cut()
    fillers = []
    port = conns[0].info.port
    while full:  # until the listener's backlog is full and connecting takes for ever
        sock = socket.socket()
        fillers.append(sock)
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        hub.sleep(0.01)
        full = sock.connect_ex(("127.0.0.1", port)) == 0
    with hub.ticker() as ticker:
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
    for sock in fillers:
        sock.close()
    del tasks
    conns.clear()
    if libpq_version() < 170000:
        proxy.mend()  # a thread waits until the server can be reached again
    leaks.check()
    assert not capfd.readouterr().err  # nobody is told of a request that is given up
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


def test_cancel_can_be_switched_off(hub: Hub, connect: Any, active: Any) -> None:
    hub.adapter.make_psycopg_green(cancel=False)
    (task,) = start(hub, active, [connect()], "SELECT pg_sleep(1.5)")
    task.kill(Killed())
    with pytest.raises(Killed):
        task.wait()
    hub.sleep(0.3)
    assert active("SELECT pg_sleep(1.5)") == 1


def test_no_cancel_when_the_server_ended_the_connection(hub: Hub, connect: Any, monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(_cancel, "cancel_and_abandon", lambda *args: asked.append(args))
    conn = connect()
    with pytest.raises(psycopg2.OperationalError):
        hub.run(conn.cursor().execute, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert not asked


def test_no_cancel_while_connecting(hub: Hub, green: None, monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(_cancel, "cancel_and_abandon", lambda *args: asked.append(args))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        task = hub.spawn(lambda: psycopg2.connect(host="127.0.0.1", port=silent.getsockname()[1], user="x"))
        hub.sleep(0.1)
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
    assert not asked


@pytest.mark.parametrize("libpq", ["17", "older"])
def test_cancel(hub: Hub, query: str, connect: Any, active: Any, monkeypatch: Any, libpq: str) -> None:
    """connection.cancel() leaves the connection usable."""
    if libpq == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda: False)
    conn = connect()

    def execute() -> None:
        conn.cursor().execute(query)

    task = hub.spawn(execute)
    hub.wait_until(lambda: active(query))
    leaks = Leaks(hub)
    hub.run(conn.cancel)
    with pytest.raises(psycopg2.errors.QueryCanceled):
        task.wait()
    conn.rollback()
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)
    # In the hub's own greenlet, where nobody can wait.
    task = hub.spawn(execute)
    hub.wait_until(lambda: active(query))
    hub.run_in_hub(conn.cancel)
    with pytest.raises(psycopg2.errors.QueryCanceled):
        task.wait()
    # In a native thread.
    conn.rollback()
    task = hub.spawn(execute)
    hub.wait_until(lambda: active(query))
    hub.run_in_thread(conn.cancel)
    with pytest.raises(psycopg2.errors.QueryCanceled):
        task.wait()
    leaks.check()
    assert not _cancel._pending


@pytest.mark.parametrize("libpq", ["17", "older"])
def test_cancel_where_nobody_listens_any_more(
    hub: Hub, connect: Any, tcp_dsn: str, monkeypatch: Any, libpq: str
) -> None:
    if libpq == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda: False)
    server = psycopg2.extensions.parse_dsn(tcp_dsn)
    through = fix_faults.Proxy((server["hostaddr"], int(server["port"])))
    try:
        conn = connect(make_dsn(tcp_dsn, port=through.port))
        through.refuse()
        with pytest.raises(psycopg2.OperationalError, match="Connection refused|error 111"):
            hub.run(conn.cancel)
    finally:
        through.close()


@pytest.mark.parametrize("libpq", ["17", "older"])
def test_cancel_of_a_server_that_is_gone(
    hub: Hub, query: str, proxy: Proxy, active: Any, monkeypatch: Any, libpq: str
) -> None:
    if libpq == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda: False)
    conn = psycopg2.connect(proxy.dsn)
    (task,) = start(hub, active, [conn], query)
    proxy.process.kill()
    proxy.process.wait()
    with pytest.raises(psycopg2.OperationalError):
        task.wait()
    with pytest.raises(psycopg2.InterfaceError, match="connection already closed"):
        conn.cancel()


@pytest.mark.parametrize("libpq", ["17", "older"])
def test_kill_in_a_thread_without_a_hub(
    hub: Hub, query: str, connect: Any, active: Any, monkeypatch: Any, libpq: str
) -> None:
    """gevent's callback ends a wait there too, by its timeout."""
    if hub.name == "eventlet":
        pytest.skip("eventlet's callback has no timeout")
    import psycogreen._patch

    if libpq == "older":
        monkeypatch.setattr(_cancel, "_can_request", lambda: False)
    conn = connect()

    def execute() -> None:
        import functools

        callback = functools.partial(hub.wait_callback, timeout=0.5)
        monkeypatch.setattr(psycogreen._patch, "_green", callback)
        psycopg2.extensions.set_wait_callback(callback)
        conn.cursor().execute(query)

    with pytest.raises(TimeoutError):
        hub.run_in_thread(execute)
    psycopg2.extensions.set_wait_callback(hub.wait_callback)
    hub.wait_until(lambda: not active(query))


@pytest.fixture(params=["session", "transaction"])
def bouncer(request: Any, tcp_dsn: str) -> Iterator[str]:
    """DSN of a PgBouncer in front of the server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer: apt-get install pgbouncer")
    server = psycopg2.extensions.parse_dsn(tcp_dsn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        configuration = Path(directory, "pgbouncer.ini")
        configuration.write_text(
            f"[databases]\n* = host={server['hostaddr']} port={server['port']} user={server['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {request.param}\n"
        )
        drop = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
        process = subprocess.Popen([*drop, program, "-q", configuration], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            with socket.socket() as probe:
                while probe.connect_ex(("127.0.0.1", port)):
                    assert time.monotonic() < deadline
            yield make_dsn(host="127.0.0.1", port=port, user=server["user"], dbname=server["dbname"])
        finally:
            process.kill()
            process.wait()


def test_kills_through_pgbouncer(hub: Hub, query: str, connect: Any, tcp_dsn: str, bouncer: str) -> None:
    """It forgets a connection that is closed, and with it which query is to be cancelled."""
    watch = connect(tcp_dsn)
    watch.autocommit = True
    cursor = watch.cursor()

    def active(query: str) -> int:
        cursor.execute("SELECT FROM pg_stat_activity WHERE state = 'active' AND query = %s", (query,))
        return cursor.rowcount

    tasks = start(hub, active, [psycopg2.connect(bouncer) for _ in range(5)], query)
    for task in tasks:
        task.kill(Killed())
        with pytest.raises(Killed):
            task.wait()
    hub.wait_until(lambda: not active(query), timeout=2)
