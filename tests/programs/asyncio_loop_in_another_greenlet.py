"""A loop goes on in another greenlet in mid-query. The argument is the query's timeout in seconds, or None."""

import functools
import os
import sys

import greenlet
import psycopg2
from hubs.on_asyncio import event_loops
from support.server_state import in_query
from support.waiting import until

from psycogreen.asyncio import asyncio_wait_callback, make_psycopg_green, spawn

make_psycopg_green()
LIMIT = None if sys.argv[1] == "None" else float(sys.argv[1])
EXPIRES = LIMIT == 0.2


def several(connection):
    cursor, answers = connection.cursor(), []
    for number in range(3):
        cursor.execute(f"SELECT {number} FROM pg_sleep(0.1)")
        answers.append(cursor.fetchone()[0])
    return answers


def work():
    try:
        connection.cursor().execute("SELECT pg_sleep(%s)", (20 if EXPIRES else 0.2,))
    except TimeoutError:
        assert EXPIRES
    return several(other)


loop = event_loops().new_event_loop()
connection, other = (loop.run_until_complete(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2))
for known in connection, other:
    loop.run_until_complete(spawn(several, known))
if LIMIT:
    psycopg2.extensions.set_wait_callback(functools.partial(asyncio_wait_callback, timeout=LIMIT))
task = loop.create_task(spawn(work))
greenlet.greenlet(loop.run_until_complete).switch(until(lambda: in_query(connection)))
# This greenlet runs the loop only for the end of the query.
print(greenlet.greenlet(loop.run_until_complete).switch(task), flush=True)
os._exit(0)  # without warnings of pending tasks
