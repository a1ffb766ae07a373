"""The process ends while something waits for the server. It prints "ends" and the time before that.

The first argument names what waits, the second how the process ends.
"""

import os
import signal
import sys
import threading
import time

import psycopg2
from support import network
from support.server_state import in_query
from support.waiting import wait_until
from unpatched import DSN, NAME, call_soon, connect, known_connection, query, sleep, spawn, wait

PAUSE = "SELECT pg_sleep(30)"
ENDLESS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT n FROM numbers"


def in_a_query():
    spawn(query, connection, PAUSE, 1)
    wait_for(in_query, connection)


def in_queries():
    for each in [connect() for _ in range(5)]:
        spawn(for_ever, query, each)


def in_a_fetch():
    def fetch():
        cursor = connection.cursor("named")
        cursor.execute("SELECT pg_sleep(n * 30) FROM generate_series(0, 1) n")
        cursor.fetchall()

    spawn(fetch)
    wait_for(in_query, connection)


def in_a_connect():
    opened.append(network.deaf())
    spawn(psycopg2.connect, f"host=127.0.0.1 port={opened[0].__enter__()} user=x")
    sleep(0.05)


def in_a_copy_to():
    class File:
        def write(self, data):
            written.append(data)

    def copy():
        connection.cursor().copy_expert(f"COPY ({ENDLESS}) TO STDOUT", File())

    written = []
    spawn(copy)
    wait_for(lambda: len(written) > 1000)


def in_a_copy_from():
    copy_from(lambda: b"1\n" * 10, reads=1000)


def in_a_files_wait():
    copy_from(lambda: sleep(30), reads=1)


def copy_from(data, reads):
    """Begin a COPY from a file whose read() calls *data*; return after so many reads have begun."""

    class File:
        def read(self, size):
            begun.append(size)
            return data()

    def copy():
        connection.cursor().execute("CREATE TEMPORARY TABLE items (n int)")
        connection.cursor().copy_from(File(), "items")

    begun = []
    spawn(copy)
    wait_for(lambda: len(begun) >= reads)


def in_a_large_object():
    def use():
        large = connection.lobject(0, "rw")
        large.write(b"x" * 1000000)
        for_ever(lambda: (large.seek(0), large.read(), done.append(1)))

    done = []
    spawn(use)
    wait_for(lambda: len(done) > 2)


def in_a_psycopg_3_query():
    import psycopg

    third = wait(spawn(psycopg.connect, DSN))
    spawn(third.execute, PAUSE)
    wait_for(lambda: third.pgconn.transaction_status == 1)


def in_a_thread():
    def work():
        query(connection, PAUSE, 1)

    threading.Thread(target=work, daemon=True).start()
    wait_for(in_query, connection)


def in_a_thread_with_a_hub():
    def work():
        if NAME == "asyncio":
            import asyncio

            from psycogreen.asyncio import spawn as coroutine

            asyncio.run(coroutine(query, connection, PAUSE, 1))
        else:
            wait(spawn(query, connection, PAUSE, 1))

    threading.Thread(target=work, daemon=True).start()
    wait_for(in_query, connection)


def killed_just_before():
    task = spawn(query, connection, PAUSE, 1)
    wait_for(in_query, connection)
    task.cancel() if NAME == "asyncio" else task.kill()


def for_ever(fn, *args):
    while True:
        fn(*args)


def wait_for(condition, *args):
    wait_until(lambda: condition(*args), pause=lambda: sleep(0.005))


def leave(*args):
    returns()
    sys.exit(3)


def returns():
    print("ends", time.monotonic(), flush=True)


def exits_in_a_greenlet():
    task = spawn(leave)
    wait(task)
    sleep(20)


def exits_in_the_hub():
    call_soon(leave)
    sleep(20)


def exits_in_a_signal_handler():
    signal.signal(signal.SIGUSR1, leave)
    os.kill(os.getpid(), signal.SIGUSR1)
    sleep(20)


def exits_in_a_wait():
    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    if NAME == "asyncio":
        wait(spawn(query, other, PAUSE, 1))
    else:
        query(other, PAUSE, 1)


opened = []
connection, other = known_connection(), known_connection()
globals()[sys.argv[1]]()
globals()[sys.argv[2]]()
