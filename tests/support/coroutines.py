"""Queries of coroutines."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg2

from psycogreen.asyncio import spawn


def query(connection: Any, sql: str = "SELECT 1") -> Any:
    """Execute *sql*; return the first column of the first row."""
    cursor = connection.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


async def warm(connection: Any) -> None:
    """Execute a query on a connection: then the reactor, if there is one, knows the connection."""
    for _ in range(2):
        await spawn(query, connection)


async def cancel_at_random(run: Callable[..., Any], dsn: str, turns: int, queries: int) -> None:
    """Cancel every other of eight tasks at random moments; each connection must then be usable or closed.

    *run* makes a coroutine of a call. In each of *turns* it is called for *queries*
    queries on each connection.
    """

    def several(connection: Any) -> None:
        for number in range(queries):
            assert query(connection, f"SELECT {number}") == number

    connections = [await run(psycopg2.connect, dsn) for _ in range(8)]
    for turn in range(turns):
        tasks = [asyncio.create_task(run(several, connection)) for connection in connections]
        for place, task in enumerate(tasks):
            for _ in range((turn * 7 + place * 3) % 11):
                await asyncio.sleep(0)
            if place % 2:
                task.cancel()
        await asyncio.wait(tasks)
        for place, task in enumerate(tasks):
            if place % 2 == 0 or not task.cancelled():
                task.result()
            if connections[place].closed:
                assert place % 2
                connections[place] = await run(psycopg2.connect, dsn)
            else:
                assert await run(query, connections[place]) == 1
    for connection in connections:
        connection.close()
