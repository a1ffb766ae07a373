"""An exception thrown into a greenlet reaches the caller unchanged, whatever the connection does at that moment.

psycopg2 sometimes replaced it with "unknown error" (its issue 410).
PSYCOGREEN_TEST_KILLS sets the number of kills.
"""

import io
import os
import random
import traceback
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extras

pytestmark = pytest.mark.heavy

KILLS = int(os.environ.get("PSYCOGREEN_TEST_KILLS", "300"))


class Killed(BaseException):
    """The exception with which the test kills greenlets. No code of psycopg2's expects it."""


NOTICES = "DO $$BEGIN RAISE NOTICE 'one'; PERFORM pg_sleep(0.001); RAISE NOTICE 'two'; END$$"


def execute(conn: Any) -> None:
    cursor = conn.cursor()
    cursor.execute("SELECT pg_sleep(random() * 0.002), generate_series(1, 500)")
    cursor.fetchall()


def notices(conn: Any) -> None:
    conn.cursor().execute(f"SELECT 1; {NOTICES}; SELECT 2; NOTIFY a; LISTEN a; {NOTICES}")


def commit_with_notices(conn: Any) -> None:
    # A deferred trigger sends notices and sleeps within the COMMIT.
    conn.rollback()
    conn.cursor().execute(
        "CREATE TEMP TABLE t (x int) ON COMMIT DROP;"
        "CREATE OR REPLACE FUNCTION pg_temp.say() RETURNS trigger LANGUAGE plpgsql AS"
        " $f$ BEGIN RAISE NOTICE 'three'; PERFORM pg_sleep(0.002); RAISE NOTICE 'four'; RETURN NULL; END $f$;"
        "CREATE CONSTRAINT TRIGGER say AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp.say();"
        "INSERT INTO t VALUES (1), (2); NOTIFY a"
    )
    conn.commit()


def with_blocks(conn: Any) -> None:
    with conn, conn.cursor("named") as cursor:
        cursor.execute("SELECT pg_sleep(0.0001) FROM generate_series(1, 20)")
        cursor.itersize = 3
        for _ in cursor:
            pass


def many(conn: Any) -> None:
    conn.cursor().executemany("SELECT pg_sleep(%s)", [(0.0003,)] * 5)
    conn.rollback()


def values(conn: Any) -> None:
    extras.execute_values(conn.cursor(), "VALUES %s", [(n,) for n in range(1000)])
    conn.reset()


def session(conn: Any) -> None:
    conn.rollback()
    conn.set_session(isolation_level="serializable", readonly=True, deferrable=False, autocommit=True)
    conn.set_client_encoding("LATIN1")
    conn.set_client_encoding("UTF8")
    conn.autocommit = False
    conn.set_isolation_level(1)
    conn.readonly = False


def two_phases(conn: Any) -> None:
    conn.rollback()
    conn.tpc_begin(conn.xid(1, "a", "b"))
    conn.cursor().execute("SELECT 1")
    conn.tpc_rollback()
    conn.tpc_recover()
    conn.rollback()


def hstore(conn: Any) -> None:
    try:
        extras.register_hstore(conn)
    except psycopg2.ProgrammingError as exc:
        assert "hstore" in str(exc)


def big(conn: Any) -> None:
    conn.cursor().execute("SELECT length(%s)", ("x" * 1_000_000,))


WORK = [execute, notices, commit_with_notices, with_blocks, many, values, session, two_phases, hstore, big]


@pytest.mark.parametrize("work", WORK)
def test_the_work_succeeds_without_kills(connect: Any, work: Any) -> None:
    """Without kills, the work does not fail."""
    conn = connect()
    for _ in range(2):
        work(conn)


@pytest.mark.timeout(30 + KILLS // 10)
def test_random_kills_reach_the_caller_unchanged(hub: Hub, green: None, dsn: str) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    wrong = []
    killed = 0

    def work() -> None:
        own = random.Random(rng.random())
        conn = psycopg2.connect(dsn)
        try:
            while True:
                own.choice(WORK)(conn)
        finally:
            conn.close()

    def one() -> None:
        task = hub.spawn(work)
        hub.sleep(0.001 + rng.expovariate(1 / 0.02))
        exc = Killed()
        task.kill(exc)
        try:
            task.wait()
        except BaseException as seen:  # noqa: BLE001
            if seen is not exc:
                out = io.StringIO()
                traceback.print_exception(seen, file=out)
                wrong.append(out.getvalue())

    def worker() -> None:
        nonlocal killed
        while killed < KILLS:
            killed += 1
            one()

    with hub.ticker() as ticker:
        for task in [hub.spawn(worker) for _ in range(8)]:
            task.wait(20 + KILLS // 10)
    assert not wrong, f"{len(wrong)} of {killed}, seed {seed}:\n" + "\n".join(wrong[:3])
    assert ticker.longest_gap < 0.05
