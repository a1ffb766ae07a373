"""The beginning of programs that run on a hub without monkey-patching: psycopg2 made green, the hub's functions.

The environment variable DSN names the server.
"""

import os
from contextlib import contextmanager

import psycopg2
from support.tickers import sleep_takes

NAME = os.environ.get("PSYCOGREEN_TEST_HUB", "gevent")
DSN = os.environ["DSN"]

if NAME == "gevent":
    import gevent
    import gevent.os

    from psycogreen.gevent import make_psycopg_green

    spawn, sleep, fork = gevent.spawn, gevent.sleep, gevent.os.fork_gevent

    def wait(task):
        return task.get()

    def call_soon(fn, *args):
        gevent.get_hub().loop.run_callback(fn, *args)

    def renew():
        """Prepare the hub for use in a child process. gevent does so itself."""

    def replace():
        gevent.get_hub().destroy(destroy_loop=True)

elif NAME == "eventlet":
    import eventlet
    import eventlet.hubs

    from psycogreen.eventlet import make_psycopg_green

    spawn, sleep, fork = eventlet.spawn, eventlet.sleep, os.fork

    def wait(task):
        return task.wait()

    def call_soon(fn, *args):
        eventlet.hubs.get_hub().schedule_call_global(0, fn, *args)

    def renew():
        """Replace the parent's hub by a new one."""
        eventlet.hubs.use_hub()

    replace = renew

else:
    import asyncio

    from hubs.on_asyncio import event_loops

    from psycogreen.asyncio import make_psycopg_green
    from psycogreen.asyncio import spawn as coroutine

    loop, fork = event_loops().new_event_loop(), os.fork

    def spawn(*args):
        return loop.create_task(coroutine(*args))

    def sleep(seconds):
        loop.run_until_complete(asyncio.sleep(seconds))

    def wait(task):
        return loop.run_until_complete(task)

    def call_soon(fn, *args):
        loop.call_soon(fn, *args)

    def renew():
        """Replace the parent's loop by a new one."""
        global loop
        loop = event_loops().new_event_loop()

    replace = renew


make_psycopg_green()


def connect():
    """Connect in a greenlet; return the connection."""
    return wait(spawn(psycopg2.connect, DSN))


def query(connection, sql="SELECT 1", times=3):
    """Execute *sql*; return the first column. After the first time the reactor has a record of the connection."""
    cursor = connection.cursor()
    for _ in range(times):
        cursor.execute(sql)
    return cursor.fetchone()[0]


def known_connection():
    """Return a connection of which the reactor has a record."""
    connection = connect()
    wait(spawn(query, connection))
    return connection


@contextmanager
def held_by_a_child():
    """Fork a child that keeps its copies of all descriptors until the block ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    yield
    os.close(writing)
    os.waitpid(child, 0)


def sleep_in_a_child(connection):
    """Fork beside a parked greenlet. The child, in which nothing is due, prints the CPU time of its sleep."""
    task = spawn(query, connection, "SELECT 7 FROM pg_sleep(0.1)", 1)
    sleep(0.05)
    child = fork()
    if child == 0:
        renew()
        sleep(0.1)
        print(sleep_takes(sleep), flush=True)
        os._exit(0)
    os.waitpid(child, 0)  # meanwhile the answer waits in the socket
    assert wait(task) == 7
