"""psycopg2's own pools."""

import os

from patched import Killed, kill, spawn, until, wait

# isort: split
import psycopg2
from psycopg2 import pool
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support.outcomes import caught


def sleep_in(conn, seconds=0.02):
    with conn.cursor() as cur:
        cur.execute("SELECT pg_backend_pid(), pg_sleep(%s)", (seconds,))
        return cur.fetchone()[0]


def check(kind):
    # As with blocking psycopg2, an exhausted pool raises at once.
    some = kind(2, 4, os.environ["DSN"])
    taken = [some.getconn() for _ in range(4)]
    assert isinstance(caught(some.getconn), pool.PoolError)
    assert len({wait(task) for task in [spawn(sleep_in, conn) for conn in taken]}) == 4
    # Another greenlet gives back a connection in a transaction: the pool rolls it back.
    for conn in taken[:2]:
        wait(spawn(some.putconn, conn))
        assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE and not conn.closed
    for conn in taken[2:]:
        some.putconn(conn)
        assert conn.closed
    # A key names the same connection in all greenlets.
    conn = some.getconn("key")
    assert wait(spawn(some.getconn, "key")) is conn
    some.putconn(conn, "key")

    # Given back while another greenlet is in a query on it: the rollback raises, and the connection stays taken.
    conn = some.getconn()
    task = spawn(caught, sleep_in, conn, 0.2)
    until(lambda: conn.info.transaction_status == 1)
    assert isinstance(caught(some.putconn, conn), psycopg2.ProgrammingError)
    assert wait(task) == conn.info.backend_pid
    some.putconn(conn)

    # After a kill in a query the pool drops the connection.
    conn = some.getconn()

    def lent():
        try:
            sleep_in(conn, 60)
        finally:
            some.putconn(conn)

    task = spawn(caught, lent)
    until(lambda: conn.info.transaction_status == 1)
    kill(task, Killed())
    assert isinstance(wait(task), Killed)
    assert conn.closed and some.getconn() is not conn

    # putconn(close=True) and closeall() drop it too, and end the query on it.
    conn = some.getconn()
    task = spawn(caught, sleep_in, conn, 60)
    until(lambda: conn.info.transaction_status == 1)
    some.putconn(conn, close=True)
    assert isinstance(wait(task), psycopg2.InterfaceError)
    conn = some.getconn()
    task = spawn(caught, sleep_in, conn, 60)
    until(lambda: conn.info.transaction_status == 1)
    some.closeall()
    assert isinstance(wait(task), psycopg2.InterfaceError)
    assert isinstance(caught(some.putconn, conn), pool.PoolError)


for kind in pool.SimpleConnectionPool, pool.ThreadedConnectionPool:
    check(kind)

# Many greenlets ask for a connection while the pool connects.
some = pool.ThreadedConnectionPool(0, 5, os.environ["DSN"])
asked = [wait(task) for task in [spawn(caught, some.getconn) for _ in range(20)]]
conns = [conn for conn in asked if not isinstance(conn, pool.PoolError)]
assert len({wait(task) for task in [spawn(sleep_in, conn) for conn in conns]}) == 5
for conn in conns:
    some.putconn(conn)
some.closeall()
