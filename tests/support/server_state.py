"""What a server's sessions and a connection do at this moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, get_wait_callback, set_wait_callback


@contextmanager
def blocking() -> Iterator[None]:
    """Remove the wait callback in this block: psycopg2 blocks the thread."""
    callback = get_wait_callback()
    set_wait_callback(None)
    try:
        yield
    finally:
        set_wait_callback(callback)


def in_query(connection: Any) -> bool:
    """Return whether *connection* waits for the end of a command."""
    return bool(connection.get_transaction_status() == TRANSACTION_STATUS_ACTIVE)


class Observer:
    """A separate connection that asks the server about other sessions.

    Each question blocks the thread for about a millisecond, also while a wait callback is set.
    """

    def __init__(self, dsn: str) -> None:
        with blocking():
            self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()

    def count(self, condition: str, *values: object) -> int:
        """Count the other sessions for which *condition*, on the columns of pg_stat_activity, holds."""
        return self._select("", condition, values)

    def _select(self, column: str, condition: str, values: tuple[object, ...]) -> int:
        query = f"SELECT {column} FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition}"
        with blocking():
            self._cursor.execute(query, values)
        return int(self._cursor.rowcount)

    def executing(self, text: str) -> int:
        """Count the sessions that execute a query with *text* in it."""
        return self.count("state = 'active' AND strpos(query, %s) > 0", text)

    def waits_for_a_lock(self, pid: int) -> bool:
        """Return whether the session with this process id waits for a lock."""
        return self.count("pid = %s AND wait_event_type = 'Lock'", pid) == 1

    def has_ended(self, pid: int) -> bool:
        """Return whether the session with this process id has ended."""
        return self.count("pid = %s", pid) == 0

    def terminate(self, text: str) -> None:
        """End the sessions whose current or last query contains *text*."""
        self._select("pg_terminate_backend(pid)", "strpos(query, %s) > 0", (text,))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
