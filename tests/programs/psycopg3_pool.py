"""psycopg 3's pools: exhausted, with connections that the server or a kill ended, and closed under a query."""

import logging
import os

from patched import Killed, caught, executing, kill, kill_ten, sleep, spawn, start_ticker, until, wait

# isort: split
import psycopg
from psycopg_pool import ConnectionPool, NullConnectionPool, PoolTimeout

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


for cls, size in (ConnectionPool, {"min_size": 2, "max_size": 5}), (NullConnectionPool, {"max_size": 5}):
    with cls(os.environ["DSN"], kwargs=kwargs, open=True, check=cls.check_connection, **size) as pool:
        query(pool, 0)
        ticker = start_ticker()
        # More greenlets than connections.
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(40)]] == list(range(40))

        # A wait for an exhausted pool times out, and lets other greenlets run.
        tasks = [spawn(sleeper, pool, "exhausted", 0.5) for _ in range(5)]
        until(lambda: executing("/* exhausted */") == 5)
        error = caught(pool.getconn, 0.1)
        assert isinstance(error, PoolTimeout), error
        for task in tasks:
            wait(task)

        # The server has ended the sessions; check_connection() notices.
        terminate()
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(10)]] == list(range(10))

        # Greenlets are killed in their queries, and the pool replaces their connections.
        pool.resize(0 if cls is NullConnectionPool else 10, 10)
        kill_ten(lambda: sleeper(pool, "kill"), "/* kill */")  # noqa: B023
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(20)]] == list(range(20))

        # A greenlet is killed while it waits for a connection.
        tasks = [spawn(sleeper, pool, "full", 0.3) for _ in range(10)]
        until(lambda: executing("/* full */") == 10)
        waiting = spawn(caught, query, pool, 0)
        sleep(0.01)
        kill(waiting, Killed())
        assert isinstance(wait(waiting), Killed)
        for task in tasks:
            wait(task)
        assert [wait(task) for task in [spawn(query, pool, n) for n in range(20)]] == list(range(20))

        # close() leaves a connection in use to its greenlet.
        task = spawn(sleeper, pool, "closed", 0.3)
        until(lambda: executing("/* closed */") == 1)
    assert wait(task) is None
    assert ticker.longest_gap < 0.05, (cls, ticker.longest_gap)
