"""Hubs come and go, with queries in each; prints what is left behind: descriptors, native threads and
objects of psycogreen's and psycopg2's.

The first argument is how often. The second is where: in one thread, where a hub takes another's place, or in
native threads that each have a hub of their own, eight at a time, and hand the connections on.
"""

import gc
import os
import queue
import sys
import threading

import psycopg2
from support.leaks import count_descriptors
from support.server_state import in_query
from unpatched import DSN, NAME, query, replace, sleep, spawn, wait

from psycogreen import _cancel

if NAME == "eventlet":
    import eventlet.hubs
elif NAME == "asyncio":
    import asyncio

    from hubs.on_asyncio import event_loops

    from psycogreen.asyncio import spawn as coroutine

AT_ONCE = 8


def work(number, kept):
    """Make queries on the connection *kept* and on a new one, and end the new one in some other way each time."""
    for _ in range(3):
        assert query(kept, f"SELECT {number} FROM pg_sleep(0.0005)", 1) == number
    connection = psycopg2.connect(DSN)
    assert query(connection) == 1
    if number % 3 == 0:
        kill(connection)
    elif number % 3 == 1:
        connection.close()


def kill(connection):
    def wait_and_close():
        while not in_query(connection):
            pause()
        connection.close()

    closer = spawn_beside(wait_and_close)
    try:
        query(connection, "SELECT pg_sleep(30)")
    except psycopg2.InterfaceError:
        pass
    else:
        raise AssertionError("nothing ended the query")
    join(closer)
    while _cancel._pending:
        pause()


if NAME == "asyncio":
    from psycogreen.asyncio import _adapter

    def pause():
        _adapter.pause()

    def spawn_beside(fn):
        return asyncio.ensure_future(coroutine(fn))

    def join(task):
        while not task.done():
            pause()

    def in_a_hub(number, kept):
        event_loops().run(coroutine(work, number, kept))

else:

    def pause():
        sleep(0)

    spawn_beside, join = spawn, wait

    def in_a_hub(number, kept):
        wait(spawn(work, number, kept))
        if NAME == "eventlet":
            eventlet.hubs.get_hub().abort(wait=True)
        replace()


def one_after_another(times):
    for number in range(times):
        in_a_hub(number, kept)


def in_threads(times):
    connections = queue.SimpleQueue()
    for connection in handed_on:
        connections.put(connection)
    numbers = iter(range(times))
    failures = []

    def one():
        connection = connections.get(timeout=30)
        try:
            in_a_hub(next(numbers), connection)
        except BaseException as exc:
            failures.append(exc)
        connections.put(connection)

    for _ in range(times // AT_ONCE):
        threads = [threading.Thread(target=one) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures


def counts():
    """Return the numbers of descriptors, native threads and objects. gevent leaves objects of its own behind."""
    fds = count_descriptors()  # it collects garbage
    ours = sum(str(type(each).__module__).startswith(("psycogreen", "psycopg2")) for each in gc.get_objects())
    return fds, len(os.listdir("/proc/self/task")), ours


kept = psycopg2.connect(DSN)
handed_on = [psycopg2.connect(DSN) for _ in range(AT_ONCE - 2)]
times, where = int(sys.argv[1]), {"one": one_after_another, "several": in_threads}[sys.argv[2]]
where(max(times // 10, AT_ONCE))  # what is made once is made by now
before = counts()
where(times)
print([after - earlier for earlier, after in zip(before, counts(), strict=True)])
os._exit(0)
