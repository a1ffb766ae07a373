"""A server of notes on asyncio: a line for each request, ``add TEXT``, ``export`` or ``digest SECONDS``.

    DATABASE_URL=postgresql:///postgres python notes_on_asyncio.py

It prints its port; ``nc 127.0.0.1 PORT`` talks to it. docs/asyncio.md shows how
notes_on_eventlet.py became this program.
"""

import asyncio
import contextlib
import os

import notes
import psycopg2

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()


class Pool:
    """A pool that lends each connection to one task at a time."""

    def __init__(self, size):
        self._free = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    @contextlib.asynccontextmanager
    async def connection(self):
        conn = await self._free.get()
        try:
            if conn is None or conn.closed:
                conn = await spawn(psycopg2.connect, os.environ.get("DATABASE_URL", ""))
            yield conn
        finally:
            self._free.put_nowait(conn)


async def answer(pool, added, line):
    command, _, argument = line.strip().partition(" ")
    async with pool.connection() as conn:
        if command == "add":
            number = await spawn(notes.add, conn, argument)
            added.put_nowait(number)
            return f"{number}\n"
        if command == "digest":
            try:
                return f"{await asyncio.wait_for(spawn(notes.digest, conn, float(argument)), 1)} notes\n"
            except asyncio.TimeoutError:
                return "too slow\n"
        return await spawn(notes.export, conn)


async def log(added):
    while True:
        print("added", await added.get(), flush=True)


async def main():
    pool, added = Pool(5), asyncio.Queue()

    async def serve(reader, writer):
        with contextlib.closing(writer):
            async for line in reader:
                writer.write((await answer(pool, added, line.decode())).encode())
                await writer.drain()

    async with pool.connection() as conn:
        await spawn(notes.prepare, conn)
    logging = asyncio.create_task(log(added))
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.gather(server.serve_forever(), logging)


asyncio.run(main())
