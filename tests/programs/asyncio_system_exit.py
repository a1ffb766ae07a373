"""In one batch, a greenlet raises SystemExit and a task does; then the event loop runs again."""

import asyncio
import contextlib
import os
import time

import greenlet
import psycopg2
from hubs.on_asyncio import event_loops
from support.coroutines import query

from psycogreen.asyncio import _adapter, make_psycopg_green, spawn


def leave(connection):
    query(connection, "SELECT pg_sleep(0.05)")
    raise SystemExit


async def leaver(connection):
    await spawn(query, connection, "SELECT pg_sleep(0.02)")
    raise SystemExit


async def both(one, other):
    task = asyncio.ensure_future(leaver(one))
    loop.call_soon(lambda: greenlet.greenlet(leave).switch(other))
    await asyncio.sleep(0.01)
    time.sleep(0.2)  # both queries end, the task's first
    await task


make_psycopg_green()
loop = event_loops().new_event_loop()
connections = [loop.run_until_complete(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2)]
for connection in connections:
    for _ in range(2):
        loop.run_until_complete(spawn(query, connection, "SELECT 1"))
loop.set_exception_handler(lambda *args: None)
for run in lambda: both(*connections), lambda: asyncio.sleep(0), lambda: asyncio.sleep(0):
    with contextlib.suppress(SystemExit):
        loop.run_until_complete(run())
# A job that waits for anything but PostgreSQL ends outside of the reactor's callback.
loop.run_until_complete(asyncio.wait_for(spawn(_adapter.pause), 5))
print("ends")
os._exit(0)
