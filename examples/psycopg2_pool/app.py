"""Queries through a pool of five connections, without code for greenlets.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg2.pool import ThreadedConnectionPool


class WaitingPool(ThreadedConnectionPool):
    """A pool whose getconn() waits for a free connection, where psycopg2's raises PoolError.

    Monkey-patching makes the locks green, this one and psycopg2's own. So on_gevent.py
    and on_eventlet.py patch before they import anything else.
    """

    def __init__(self, minconn: int, maxconn: int, *args: object, **kwargs: object) -> None:
        super().__init__(minconn, maxconn, *args, **kwargs)
        self._free = threading.BoundedSemaphore(maxconn)

    def getconn(self, key: object = None):
        self._free.acquire()
        try:
            return super().getconn(key)
        except BaseException:
            self._free.release()
            raise

    def putconn(self, conn=None, key: object = None, close: bool = False) -> None:
        try:
            super().putconn(conn, key, close)
        finally:
            self._free.release()

    @contextmanager
    def connection(self) -> Iterator:
        """Lend a connection for a block; commit at its end, or roll back if it raises."""
        conn = self.getconn()
        try:
            with conn:
                yield conn
        finally:
            self.putconn(conn)


# The pool keeps up to the first number of connections open, and lends up to the second.
pool = WaitingPool(5, 5, "")


def work(n: int) -> int:
    with pool.connection() as conn, conn.cursor() as cur:
        cur.execute("SELECT %s * 2, pg_sleep(0.1)", (n,))
        return cur.fetchone()[0]
