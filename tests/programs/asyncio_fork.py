"""A process forks while a task is parked. Parent and child both go on with queries."""

import asyncio
import os

import psycopg2
from hubs.on_asyncio import event_loops
from support.coroutines import query

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()


async def childs():
    connection = await spawn(psycopg2.connect, os.environ["DSN"])
    return await asyncio.gather(*[spawn(query, connection, "SELECT 3 FROM pg_sleep(0.01)")])


async def main():
    connection = await spawn(psycopg2.connect, os.environ["DSN"])
    await spawn(query, connection, "SELECT 1")
    parked = asyncio.create_task(spawn(query, connection, "SELECT 7 FROM pg_sleep(0.3)"))
    await asyncio.sleep(0.05)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio._set_running_loop(None)
            assert event_loops().run(childs()) == [3]
            code = 0
        finally:
            os._exit(code)
    assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
    print(await parked)


event_loops().run(main())
