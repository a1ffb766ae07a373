"""Queries of coroutines."""

from typing import Any

from psycogreen.asyncio import spawn


def query(connection: Any, sql: str = "SELECT 1") -> Any:
    """Execute *sql*; return the first column of the first row."""
    cursor = connection.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


async def warm(connection: Any) -> None:
    """Use a connection, so that the reactor knows it, if there is one."""
    for _ in range(2):
        await spawn(query, connection)
