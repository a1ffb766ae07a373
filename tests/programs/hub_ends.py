"""gevent's hub ends by itself after one of these situations. The argument names it."""

import sys
import time

import gevent
import greenlet
import psycopg2
from support.server_state import in_query
from unpatched import DSN, connect, known_connection, make_psycopg_green, query, sleep, spawn


def unused_connection():
    return connect()


def idle_connection():
    return known_connection()


def kill_and_error_in_the_dispatch():
    spoilt = known_connection()
    task = spawn(query, spoilt, "SELECT pg_sleep(30)")
    sleep(0.05)
    task.kill()

    def fail():
        query(connection, "SELECT pg_sleep(0.05)", 1)
        failed.append(True)
        raise ValueError

    connection, failed, hub = known_connection(), [], gevent.get_hub()
    hub.NOT_ERROR += (ValueError,)  # so that the hub does not print it
    hub.loop.run_callback(greenlet.greenlet(fail, hub).switch)
    while not failed:
        sleep(0.01)
    return spoilt, connection


def kill_that_nothing_follows():
    connection = known_connection()
    make_psycopg_green(cancel=False)
    task = spawn(query, connection, "SELECT pg_sleep(30)", 1)
    while not in_query(connection):
        sleep(0.01)
    task.kill()
    assert connection.closed
    return connection


connections = globals()[sys.argv[1]]()
begun = time.monotonic()
assert gevent.wait(timeout=20)
assert gevent.get_hub().join(timeout=20)
assert time.monotonic() - begun < 10
# A single parked greenlet does not raise LoopExit.
assert query(psycopg2.connect(DSN), "SELECT 5 FROM pg_sleep(0.1)") == 5
