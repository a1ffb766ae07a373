"""Queries through a pool of five connections: code that knows nothing of greenlets.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg2.pool import ThreadedConnectionPool


class WaitingPool(ThreadedConnectionPool):
    """A pool whose getconn() waits for a free connection, where psycopg2's raises PoolError.

    Monkey-patching makes the locks green, this one and psycopg2's own: that is
    why on_gevent.py and on_eventlet.py patch before all else.
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
        """Lend a connection for a block; commit at its end, or roll back what raises."""
        conn = self.getconn()
        try:
            with conn:
                yield conn
        finally:
            self.putconn(conn)


# A connection that comes back is kept while there are fewer than the first number, and closed otherwise.
pool = WaitingPool(5, 5, "")


def work(n: int) -> int:
    with pool.connection() as conn, conn.cursor() as cur:
        cur.execute("SELECT %s * 2, pg_sleep(0.1)", (n,))
        return cur.fetchone()[0]
