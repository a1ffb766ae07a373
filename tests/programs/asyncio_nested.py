"""Run the event loop within tasks, by nest_asyncio, as notebooks do; print what the tasks get."""

import asyncio
import os

import nest_asyncio
import psycopg2
from support.coroutines import query

from psycogreen.asyncio import make_psycopg_green, spawn


async def nested(connection):
    return [await spawn(query, connection, f"SELECT {n} FROM pg_sleep(0.01)") for n in range(3)]


async def task(outer, inner):
    first = await spawn(query, outer, "SELECT 7")
    answers = asyncio.get_running_loop().run_until_complete(nested(inner))
    return [first, *answers, await spawn(query, outer, "SELECT 8")]


async def main():
    connections = [await spawn(psycopg2.connect, os.environ["DSN"]) for _ in range(8)]
    for connection in connections:
        await spawn(query, connection, "SELECT 1")
    nest_asyncio.apply()
    for _ in range(5):
        answers = await asyncio.gather(*[task(*connections[n : n + 2]) for n in range(0, 8, 2)])
    return answers


make_psycopg_green()
print(asyncio.run(main()))
