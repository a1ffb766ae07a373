"""Executes a query in a task; prints how an interrupt ended the query, and the program."""

import os

import psycopg2
from hubs.on_asyncio import event_loops

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()


def query(connection):
    try:
        connection.cursor().execute("SELECT pg_sleep(50) /* interrupted */")
    except BaseException as exc:
        print(type(exc).__name__, connection.closed, flush=True)
        raise


async def main():
    connection = await spawn(psycopg2.connect, os.environ["DSN"])
    await spawn(query, connection)


try:
    event_loops().run(main())
except KeyboardInterrupt:
    print("KeyboardInterrupt")
