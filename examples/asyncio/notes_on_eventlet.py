"""A server of notes on eventlet: a line for each request, ``add TEXT``, ``export`` or ``digest SECONDS``.

    DATABASE_URL=postgresql:///postgres python notes_on_eventlet.py

It prints its port; ``nc 127.0.0.1 PORT`` talks to it. docs/asyncio.md shows how to
port it to asyncio; the result is notes_on_asyncio.py.
"""

import eventlet

eventlet.monkey_patch(psycopg=False)

import os  # noqa: E402

import eventlet.pools  # noqa: E402
import notes  # noqa: E402
import psycopg2  # noqa: E402

from psycogreen.eventlet import make_psycopg_green  # noqa: E402

make_psycopg_green()

pool = eventlet.pools.Pool(max_size=5, create=lambda: psycopg2.connect(os.environ.get("DATABASE_URL", "")))
added = eventlet.Queue()


def answer(conn, line):
    command, _, argument = line.strip().partition(" ")
    if command == "add":
        number = notes.add(conn, argument)
        added.put(number)
        return f"{number}\n"
    if command == "digest":
        with eventlet.Timeout(1, False):
            return f"{notes.digest(conn, float(argument))} notes\n"
        return "too slow\n"
    return notes.export(conn)


def serve(client, address):
    with client, client.makefile("rw") as stream:
        for line in stream:
            conn = pool.get()
            try:
                stream.write(answer(conn, line))
                stream.flush()
            finally:
                # A connection whose query a Timeout ended is closed.
                pool.put(pool.create() if conn.closed else conn)


def log():
    while True:
        print("added", added.get(), flush=True)


with pool.item() as conn:
    notes.prepare(conn)
eventlet.spawn(log)
listener = eventlet.listen(("127.0.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
eventlet.serve(listener, serve)
