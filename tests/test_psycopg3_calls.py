"""psycopg 3's calls other than execute(): each has psycopg's results, and lets others run meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from hubs.contract import Hub

psycopg = pytest.importorskip("psycopg")

from psycopg import pq  # noqa: E402

pytestmark = [pytest.mark.timeout(60)]

RELEASE_31 = psycopg.__version__.startswith("3.1.")

# The longest pause of a hub, in seconds.
AT_ONCE = 0.05


@pytest.fixture
def connect(hub: Hub, green: None, dsn: str) -> Iterator[Callable[..., Any]]:
    """Return a function that connects with psycopg 3. The connections are closed after the test."""
    with ExitStack() as opened:
        yield lambda conninfo=dsn, **kwargs: opened.enter_context(closing(psycopg.connect(conninfo, **kwargs)))


def status(conn: Any) -> str:
    name: str = conn.info.transaction_status.name
    return name


def table(conn: Any) -> None:
    conn.execute("CREATE TEMP TABLE t (n int, s text)")


def copy_in_rows(conn: Any) -> Any:
    table(conn)
    with conn.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            for n in range(30_000):
                copy.write_row((n, "some text"))
        return cursor.rowcount, cursor.execute("SELECT sum(n) FROM t").fetchone()


def copy_in_blocks(conn: Any) -> Any:
    table(conn)
    block = b"1\tsome text\n" * 5_000
    with conn.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            for _ in range(60):
                copy.write(block)
        return cursor.execute("SELECT count(*) FROM t").fetchone()


def copy_out(conn: Any) -> Any:
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY (SELECT n, 'x' FROM generate_series(1, 60000) n) TO STDOUT") as copy,
    ):
        size = sum(len(block) for block in copy)
    with conn.cursor() as cursor, cursor.copy("COPY (SELECT n, 'x' FROM generate_series(1, 3) n) TO STDOUT") as copy:
        copy.set_types(["int4", "text"])
        return size, list(copy.rows()), status(conn)


def copy_in_error(conn: Any) -> Any:
    table(conn)
    conn.commit()
    with pytest.raises(psycopg.errors.InvalidTextRepresentation), conn.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            copy.write(b"1\tgood\n" * 1000 + b"bad\tbad\n")
    after = status(conn)
    conn.rollback()
    with pytest.raises(ZeroDivisionError), conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        copy.write(b"1\tgood\n")
        raise ZeroDivisionError
    conn.rollback()
    return after, conn.execute("SELECT count(*) FROM t").fetchone()


def copy_out_error(conn: Any) -> Any:
    query = "COPY (SELECT 1/(1000 - n) FROM generate_series(1, 2000) n) TO STDOUT"
    with pytest.raises(psycopg.errors.DivisionByZero), conn.cursor() as cursor, cursor.copy(query) as copy:
        for _ in copy:
            pass
    after = status(conn)
    conn.rollback()
    # Leaving a COPY in the middle cancels it.
    query = "COPY (SELECT n FROM generate_series(1, 1000000) n) TO STDOUT"
    with pytest.raises(ZeroDivisionError), conn.cursor() as cursor, cursor.copy(query) as copy:
        copy.read()
        raise ZeroDivisionError
    return after, status(conn)


def pipeline(conn: Any) -> Any:
    with conn.pipeline() as pipe:
        cursors = [conn.execute("SELECT %s::int", [n]) for n in range(1000)]
        pipe.sync()
        rows = [cursor.fetchone()[0] for cursor in cursors]
    with pytest.raises(psycopg.errors.DivisionByZero), conn.pipeline():
        conn.execute("SELECT pg_sleep(0.05)")
        conn.execute("SELECT 1/0")
        conn.execute("SELECT 2")
    return rows == list(range(1000)), status(conn)


def executemany(conn: Any) -> Any:
    table(conn)
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x") for n in range(3000)])
        cursor.executemany("SELECT %s::int", [(n,) for n in range(3)], returning=True)
        rows = []
        while True:
            rows.append(cursor.fetchone())
            if not cursor.nextset():
                break
        return rows, cursor.execute("SELECT count(*) FROM t").fetchone()


def server_cursor(conn: Any) -> Any:
    with conn.cursor("rows", scrollable=True) as cursor:
        cursor.itersize = 500
        cursor.execute("SELECT n FROM generate_series(1, 20000) n")
        total = sum(n for (n,) in cursor)
        cursor.scroll(0, mode="absolute")
        return total, cursor.fetchmany(2), status(conn)


def stream(conn: Any) -> Any:
    with conn.cursor() as cursor:
        total = sum(n for (n,) in cursor.stream("SELECT n FROM generate_series(1, 5000) n"))
        rows = cursor.stream("SELECT n FROM generate_series(1, 500000) n")
        first = next(rows)
        rows.close()  # the rest is discarded
    return total, first, status(conn)  # INERROR: to discard the rest, psycopg cancels the query


def prepared(conn: Any) -> Any:
    for n in range(10):
        conn.execute("SELECT %s::int + 0 * length(pg_sleep(0.001)::text)", [n])
    rows = conn.execute("SELECT %s::int", [7], prepare=True).fetchall()
    return rows, len(conn.execute("SELECT FROM pg_prepared_statements").fetchall())


def two_phase(conn: Any) -> Any:
    conn.tpc_begin(conn.xid(1, "psycogreen", "three"))
    conn.execute("SELECT 1")
    conn.tpc_commit()
    recovered = conn.tpc_recover()
    conn.tpc_begin("another")
    with pytest.raises(psycopg.NotSupportedError, match="prepared transactions are disabled"):
        conn.tpc_prepare()
    return recovered, status(conn)


def transactions(conn: Any) -> Any:
    with conn.transaction():
        table(conn)
        for n in range(50):
            with conn.transaction(force_rollback=n % 2 == 1):
                conn.execute("INSERT INTO t VALUES (%s)", [n])
    return conn.execute("SELECT count(*) FROM t").fetchone(), status(conn)


def session(conn: Any) -> Any:
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conn.read_only = True
    level = conn.execute("SHOW transaction_isolation").fetchone()
    conn.rollback()
    conn.autocommit = True
    conn.execute("SET client_encoding TO latin1")
    return level, conn.info.encoding, status(conn)


CALLS = {
    copy_in_rows: (30_000, (449_985_000,)),
    copy_in_blocks: (300_000,),
    copy_out: (468_894, [(1, "x"), (2, "x"), (3, "x")], "INTRANS"),
    copy_in_error: ("INERROR", (0,)),
    copy_out_error: ("INERROR", "INERROR"),
    pipeline: (True, "INERROR"),
    executemany: ([(0,), (1,), (2,)], (3000,)),
    server_cursor: (200_010_000, [(1,), (2,)], "INTRANS"),
    stream: (12_502_500, (1,), "INERROR"),
    prepared: ([(7,)], 2),
    two_phase: ([], "IDLE"),
    transactions: ((25,), "INTRANS"),
    session: (("serializable",), "iso8859-1", "IDLE"),
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_call_has_psycopgs_result_and_lets_others_run(hub: Hub, connect: Any, call: Any) -> None:
    conn = connect()
    with hub.ticker(0.005) as ticker:
        result = hub.run(call, conn)
    assert result == CALLS[call]
    assert ticker.longest_gap < AT_ONCE
    assert not conn.lock.locked()


@pytest.mark.skipif(RELEASE_31, reason="without the timeout")
def test_notifications_arrive_and_end_with_the_timeout(hub: Hub, connect: Any) -> None:
    conn, other = connect(autocommit=True), connect(autocommit=True)
    conn.execute("LISTEN here")

    def listen(**limits: Any) -> list[str]:
        return [each.payload for each in conn.notifies(**limits)]

    with hub.ticker(0.005) as ticker:
        task = hub.spawn(lambda: listen(timeout=20, stop_after=2))
        hub.wait_until(conn.lock.locked)
        other.execute("NOTIFY here, 'one'")
        hub.sleep(0.05)
        other.execute("NOTIFY here, 'two'")
        assert task.wait() == ["one", "two"]
        begun = time.monotonic()
        assert hub.run(lambda: listen(timeout=0.2)) == []
        assert 0.19 < time.monotonic() - begun < 5
        other.execute("NOTIFY here, 'three'")
        assert hub.run(lambda: hub.sleep(0.05) or listen(timeout=0)) == ["three"]
    assert ticker.longest_gap < AT_ONCE


def test_a_kill_of_a_listener_leaves_the_connection_usable(hub: Hub, connect: Any) -> None:
    conn = connect(autocommit=True)
    conn.execute("LISTEN here")
    for limits in [{}] if RELEASE_31 else [{}, {"timeout": 20}]:
        task = hub.spawn(lambda limits=limits: list(conn.notifies(**limits)))
        hub.wait_until(conn.lock.locked)
        hub.sleep(0.01)
        task.kill()
        with pytest.raises(hub.Kill):
            task.wait()
        assert hub.run(conn.execute, "SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(RELEASE_31 or pq.version() < 170000, reason="psycopg 3.1, or libpq before 17")
def test_cancel_safe_ends_the_query_and_lets_others_run(hub: Hub, connect: Any, executing: Any) -> None:
    conn = connect(autocommit=True)
    with hub.ticker(0.005) as ticker:
        task = hub.spawn(conn.execute, "SELECT pg_sleep(60), 'cancel_safe'")
        hub.wait_until(lambda: executing("'cancel_safe'"))
        hub.run(conn.cancel_safe)
        with pytest.raises(psycopg.errors.QueryCanceled):
            task.wait()
    assert ticker.longest_gap < AT_ONCE


def test_a_connection_that_was_reset_uses_its_new_socket(hub: Hub, connect: Any) -> None:
    conn = connect(autocommit=True)
    for _ in range(3):
        fd = conn.fileno()
        assert hub.run(conn.execute, "SELECT 1 + 0 * length(pg_sleep(0.01)::text)").fetchone() == (1,)
        conn.pgconn.reset()
        assert conn.fileno() == fd
        assert conn.pgconn.status == pq.ConnStatus.OK
    assert hub.run(conn.execute, "SELECT 1").fetchone() == (1,)


def test_another_connection_recovers_a_prepared_transaction(hub: Hub, connect: Any, tls_dsn: str) -> None:
    def prepare(name: str) -> None:
        conn = connect(tls_dsn)
        conn.tpc_begin(name)
        conn.execute("SELECT pg_sleep(0.1)")
        conn.tpc_prepare()
        conn.close()

    with hub.ticker() as ticker:
        for task in [hub.spawn(prepare, name) for name in ("psycogreen 1", "psycogreen 2")]:
            task.wait()
        conn = connect(tls_dsn)
        xids = {str(xid): xid for xid in hub.run(conn.tpc_recover)}
        hub.run(conn.tpc_commit, xids["psycogreen 1"])
        hub.run(conn.tpc_rollback, "psycogreen 2")
        assert not xids.keys() & {str(xid) for xid in hub.run(conn.tpc_recover)}
    assert ticker.longest_gap < AT_ONCE


def test_close_in_one_thread_ends_the_query_in_another(hub: Hub, connect: Any, executing: Any) -> None:
    def query(conn: Any) -> str:
        try:
            conn.execute("SELECT pg_sleep(60), 'closed in another thread'")
        except psycopg.OperationalError as exc:
            return str(exc)
        raise AssertionError

    conn = connect()
    task = hub.spawn(query, conn)
    hub.wait_until(lambda: executing("closed in another thread"))
    hub.run_in_thread(conn.close)
    assert task.wait() == "the connection is closed"
    hub.wait_until(lambda: not executing("closed in another thread"))

    for close in hub.run, hub.run_in_hub, hub.run_in_thread:
        conn = connect()
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(query(conn)), daemon=True)  # noqa: B023
        thread.start()
        hub.wait_until(lambda: executing("closed in another thread"))
        close(conn.close)
        hub.wait_until(lambda: not thread.is_alive())  # noqa: B023
        thread.join()
        assert texts == ["the connection is closed"]
        assert (conn.closed, conn.broken) == (True, False)
        hub.wait_until(lambda: not executing("closed in another thread"))
