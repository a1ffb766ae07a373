"""A process exits while a task is parked."""

import asyncio
import os

import psycopg2
from hubs.on_asyncio import event_loops

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()
loop = event_loops().new_event_loop()
connection = loop.run_until_complete(spawn(psycopg2.connect, os.environ["DSN"]))
for _ in range(2):
    loop.run_until_complete(spawn(connection.cursor().execute, "SELECT 1"))
task = loop.create_task(spawn(connection.cursor().execute, "SELECT pg_sleep(1)"))
loop.run_until_complete(asyncio.sleep(0.01))
task._log_destroy_pending = False
print("ends")
