"""psycopg 3's connections after kills at random moments: closed or usable, never in the middle of a command.

PSYCOGREEN_TEST_KILLS sets the number of kills.
"""

import logging
import os
import random
import traceback
from typing import Any

import pytest
from hubs.contract import Hub
from support.leaks import count_descriptors, objects

from psycogreen import _cancel

psycopg = pytest.importorskip("psycopg")

from psycopg.pq import TransactionStatus  # noqa: E402

pytestmark = pytest.mark.heavy

KILLS = int(os.environ.get("PSYCOGREEN_TEST_KILLS", "300"))


class Killed(BaseException):
    """The exception with which the test kills greenlets. No code of psycopg's expects it."""


def queries(conn: Any, number: int) -> None:
    for each in range(number, number + 5):
        assert conn.execute("SELECT %s::int, pg_sleep(random() * 0.002)", [each]).fetchone()[0] == each


def transactions(conn: Any, number: int) -> None:
    with conn.transaction(), conn.transaction():
        queries(conn, number)


def copies(conn: Any, number: int) -> None:
    with conn.transaction(force_rollback=True), conn.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (n int)")
        with cursor.copy("COPY t FROM STDIN") as copy:
            for _ in range(10):
                copy.write(f"{number}\n" * 1000)
        with cursor.copy("COPY t TO STDOUT") as copy:
            assert b"".join(copy) == b"%d\n" % number * 10_000


def pipelines(conn: Any, number: int) -> None:
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int, pg_sleep(0.0002)", [number + n]) for n in range(10)]
        assert [cursor.fetchone()[0] for cursor in cursors] == [number + n for n in range(10)]


def server_cursors(conn: Any, number: int) -> None:
    with conn.cursor("named") as cursor:
        cursor.itersize = 3
        cursor.execute("SELECT %s::int + n, pg_sleep(0.0001) FROM generate_series(1, 20) n", [number])
        assert [row[0] for row in cursor] == [number + n for n in range(1, 21)]


def streams(conn: Any, number: int) -> None:
    rows = conn.cursor().stream("SELECT %s::int + n, repeat('x', 500) FROM generate_series(1, 300) n", [number])
    assert [row[0] for row in rows] == [number + n for n in range(1, 301)]


def many(conn: Any, number: int) -> None:
    with conn.cursor() as cursor:
        cursor.executemany("SELECT %s::int, pg_sleep(0.0003)", [(number,), (number + 1,)], returning=True)
        assert cursor.fetchone()[0] == number


def notifications(conn: Any, number: int) -> None:
    conn.execute("LISTEN here")
    conn.commit()
    assert not list(conn.notifies(timeout=0.002))


WORK = [queries, transactions, copies, pipelines, server_cursors, streams, many]
if not psycopg.__version__.startswith("3.1."):
    WORK.append(notifications)  # which has no timeout in 3.1


@pytest.mark.timeout(60 + KILLS // 10)
# A kill while the cursor is being closed.
@pytest.mark.filterwarnings(
    "ignore:(the server-side cursor )?<psycopg.ServerCursor .* was deleted while still open:ResourceWarning"
)
def test_random_kills_leave_no_connection_in_mid_command(
    hub: Hub, green: None, dsn: str, observer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "psycopg")  # pytest keeps the warnings, which refer to connections
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    wrong: list[str] = []
    killed = 0

    def use(conn: Any, own: random.Random) -> None:
        while True:
            own.choice(WORK)(conn, own.randrange(1_000_000))
            conn.rollback()

    def one(conn: Any) -> None:
        task = hub.spawn(use, conn, random.Random(rng.random()))
        hub.sleep(0.001 + rng.expovariate(1 / 0.02))
        exc = Killed()
        task.kill(exc)
        try:
            task.wait()
        except BaseException as seen:  # noqa: BLE001
            if seen is not exc:
                wrong.append("".join(traceback.format_exception(seen)))
        status = conn.info.transaction_status
        if status == TransactionStatus.ACTIVE or conn.lock.locked():
            wrong.append(f"{status.name}, locked: {conn.lock.locked()}")
        if not conn.closed:
            conn.rollback()
            queries(conn, 7)
            conn.close()

    def worker() -> None:
        nonlocal killed
        while killed < KILLS and not wrong:
            killed += 1
            one(psycopg.connect(dsn, application_name="killed"))

    def work() -> None:
        for task in [hub.spawn(worker) for _ in range(8)]:
            task.wait(20 + KILLS // 10)
        hub.wait_until(lambda: not _cancel._pending)

    one(psycopg.connect(dsn))  # for what is made once
    before = count_descriptors()
    with hub.ticker() as ticker:
        hub.run(work, timeout=30 + KILLS // 10)
    assert not wrong, f"{len(wrong)} of {killed}, seed {seed}:\n" + "\n".join(wrong[:3])
    assert ticker.longest_gap < 0.05
    hub.wait_until(lambda: observer.count("application_name = 'killed'") == 0, timeout=5)
    hub.wait_until(lambda: objects("Connection") == 0)
    from support.leaks import descriptors

    print(descriptors(), before)
    hub.wait_until(lambda: count_descriptors() <= before, timeout=5)
