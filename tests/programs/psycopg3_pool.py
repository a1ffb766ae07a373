"""psycopg 3's pools: exhausted, with connections that the server or a kill ended, and closed under a query."""

import logging
import os

from patched import caught, executing, kill_ten, spawn, start_ticker, until, wait

# isort: split
import psycopg
from psycopg_pool import ConnectionPool, NullConnectionPool, PoolClosed, PoolTimeout

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns of each connection that this program breaks
kwargs = {"autocommit": True, "application_name": "psycogreen"}


def query(pool, n):
    with pool.connection() as conn:
        return conn.execute("SELECT %s::int + 0 * length(pg_sleep(0.02)::text)", (n,)).fetchone()[0]


def sleeper(pool, words, seconds=60):
    with pool.connection() as conn:
        conn.execute(f"SELECT pg_sleep({seconds}) /* {words} */")


def terminate():
    with psycopg.connect(os.environ["DSN"], autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND application_name = 'psycogreen'"
        )


def fill(pool, words):
    """Use all ten connections, and let another greenlet wait for one."""
    tasks = [spawn(sleeper, pool, words, 0.5) for _ in range(10)]
    until(lambda: executing(f"/* {words} */") == 10)
    waiting = spawn(caught, query, pool, 0)
    until(lambda: pool.get_stats()["requests_waiting"] == 1)
    return tasks, waiting


for cls, min_size in (ConnectionPool, 2), (NullConnectionPool, 0):
    check = cls.check_connection
    with cls(os.environ["DSN"], kwargs=kwargs, open=True, check=check, min_size=min_size, max_size=10) as pool:
        query(pool, 0)
        ticker = start_ticker()
        # More greenlets than connections.
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(40)]] == list(range(40))

        # The server has ended the sessions; check_connection() notices.
        terminate()
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(10)]] == list(range(10))

        # Greenlets are killed in their queries, and the pool replaces their connections.
        kill_ten(lambda: sleeper(pool, "kill"), "/* kill */")  # noqa: B023
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(20)]] == list(range(20))

        # The pool is exhausted: one wait for a connection times out, another gets one.
        # (No greenlet is killed in its wait: psycopg_pool then loses a connection.)
        tasks, waiting = fill(pool, "exhausted")
        error = caught(pool.getconn, 0.1)
        assert isinstance(error, PoolTimeout), error
        assert wait(waiting) == 0
        for task in tasks:
            wait(task)
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(20)]] == list(range(20))

        # close() leaves connections in use to their greenlets, and ends the wait for a connection.
        tasks, waiting = fill(pool, "closed")
    assert isinstance(wait(waiting), PoolClosed), wait(waiting)
    for task in tasks:
        wait(task)
    assert ticker.longest_gap < 0.05, (cls, ticker.longest_gap)
