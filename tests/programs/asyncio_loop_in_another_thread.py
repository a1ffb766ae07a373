"""Another thread goes on with a loop in mid-query."""

import os
import threading

import psycopg2
from hubs.on_asyncio import event_loops
from support.server_state import in_query
from support.waiting import until

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()


def query(connection, sql):
    cursor = connection.cursor()
    for _ in range(2):
        cursor.execute(sql)
    return cursor.fetchone()[0]


def first():
    for connection in connections:
        loop.run_until_complete(spawn(query, connection, "SELECT 1"))
    tasks.append(loop.create_task(spawn(query, connections[0], "SELECT 2 FROM pg_sleep(20)")))
    loop.run_until_complete(until(lambda: in_query(connections[0])))
    there.set()
    over.wait()  # keeps this thread's objects alive


loop, tasks, there, over = event_loops().new_event_loop(), [], threading.Event(), threading.Event()
connections = [loop.run_until_complete(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2)]
thread = threading.Thread(target=first, daemon=True)
thread.start()
there.wait()
print(loop.run_until_complete(spawn(query, connections[1], "SELECT 3 FROM pg_sleep(0.05)")), flush=True)
os._exit(0)
