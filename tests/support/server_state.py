"""What a server's sessions do at this moment, and what a connection does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, get_wait_callback, set_wait_callback


@contextmanager
def blocking() -> Iterator[None]:
    """Switch the wait callback off until the block ends: psycopg2 stops the thread."""
    callback = get_wait_callback()
    set_wait_callback(None)
    try:
        yield
    finally:
        set_wait_callback(callback)


def in_query(connection: Any) -> bool:
    """Tell whether *connection* waits for the end of a command."""
    return bool(connection.get_transaction_status() == TRANSACTION_STATUS_ACTIVE)


class Observer:
    """A connection of its own that asks the server about other sessions.

    It blocks meanwhile, for a millisecond, whatever the wait callback is.
    """

    def __init__(self, dsn: str) -> None:
        with blocking():
            self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()

    def count(self, condition: str, *values: object) -> int:
        """Count the other sessions for which *condition*, about pg_stat_activity, holds."""
        return self._select("", condition, values)

    def _select(self, column: str, condition: str, values: tuple[object, ...]) -> int:
        query = f"SELECT {column} FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition}"
        with blocking():
            self._cursor.execute(query, values)
        return int(self._cursor.rowcount)

    def executing(self, text: str) -> int:
        """Count the sessions that execute a query that contains *text*."""
        return self.count("state = 'active' AND strpos(query, %s) > 0", text)

    def waits_for_a_lock(self, pid: int) -> bool:
        """Tell whether the session with this process id waits for a lock."""
        return self.count("pid = %s AND wait_event_type = 'Lock'", pid) == 1

    def has_ended(self, pid: int) -> bool:
        """Tell whether the session with this process id is over."""
        return self.count("pid = %s", pid) == 0

    def terminate(self, text: str) -> None:
        """End the sessions whose present or last query contains *text*."""
        self._select("pg_terminate_backend(pid)", "strpos(query, %s) > 0", (text,))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
