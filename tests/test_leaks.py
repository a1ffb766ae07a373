"""Nothing is left behind: after many queries, kills and timeouts, all counts are as before."""

import asyncio
import functools
import gc
import os
import sys

import psycopg2
import psycopg2.extensions
import pytest
from hubs import NAME
from psycopg2.extensions import set_wait_callback
from support.leaks import descriptors, forget_eventlets_cancelled_timers
from support.server_state import in_query

from psycogreen import _cancel

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(200)]

AT_ONCE = 20

# The server checks often whether the client is still connected. So queries can
# be long enough for a slow machine, and no backend outlives its client.
CHECK_CLIENT = "-c client_connection_check_interval=10"


class Killed(Exception):
    pass


def counts(hub):
    hub.wait_until(lambda: not _cancel._pending)
    for _ in range(3):
        hub.sleep(0.05)
        forget_cancelled_timers()
        gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "blocks of memory": sys.getallocatedblocks(),
        "descriptors": len(descriptors()),
        "threads": len(os.listdir("/proc/self/task")),
        "watched": hub.watched(),
    }


def forget_cancelled_timers():
    """Make the hub drop its cancelled timers. eventlet and asyncio otherwise keep them until they are due."""
    if NAME == "eventlet":
        forget_eventlets_cancelled_timers()
    elif NAME == "asyncio":
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's have none
            loop._scheduled[:] = sorted(timer for timer in loop._scheduled if not timer.cancelled())
            loop._timer_cancelled_count = 0


def assert_nothing_is_left(hub, work, times):
    """Run *work* in greenlets side by side, *times* in all, and count before and after.

    What is created only once, by whatever part of the process, shows in one round. A leak shows in each.
    """
    run(hub, work, times // 2)
    for _ in range(3):
        before = counts(hub)
        run(hub, work, times)
        after = counts(hub)
        left = {what: after[what] - before[what] for what in before}
        # One block left by each greenlet would be *times*. The interpreter's free lists keep some.
        left["blocks of memory"] = max(0, left["blocks of memory"] - times // 2)
        if not any(left.values()):
            return
    assert left == dict.fromkeys(left, 0)


def run(hub, work, times):
    for _ in range(times // AT_ONCE):
        tasks = [hub.spawn(work) for _ in range(AT_ONCE)]
        for task in tasks:
            task.wait(timeout=None)


def test_queries_leave_nothing_behind(connect, hub):
    idle = [connect() for _ in range(AT_ONCE)]

    def query():
        connection = idle.pop()
        cursor = connection.cursor()
        for i in range(10):
            cursor.execute("SELECT %s", [i])
            assert cursor.fetchall() == [(i,)]
        cursor.close()
        idle.append(connection)

    assert_nothing_is_left(hub, query, 1_000)


def test_connections_leave_nothing_behind(green, dsn, hub):
    def query():
        connection = psycopg2.connect(dsn)
        connection.cursor().execute("SELECT 1")
        connection.close()

    assert_nothing_is_left(hub, query, 500)


def test_kills_in_mid_query_leave_nothing_behind(green, dsn, hub):
    def query(connections):
        connection = psycopg2.connect(dsn, options=CHECK_CLIENT)
        connections.append(connection)
        with pytest.raises(Killed):
            connection.cursor().execute("SELECT pg_sleep(20)")

    def kill():
        connections = []
        task = hub.spawn(query, connections)
        hub.wait_until(lambda: connections and in_query(connections[0]))
        task.kill(Killed())
        task.wait(timeout=None)

    assert_nothing_is_left(hub, kill, 500)


def test_timeouts_of_the_hub_leave_nothing_behind(green, dsn, hub):
    def query():
        connection = psycopg2.connect(dsn, options=CHECK_CLIENT)
        with pytest.raises(hub.Timeout), hub.Timeout(0.01):
            connection.cursor().execute("SELECT pg_sleep(20)")

    assert_nothing_is_left(hub, query, 500)


@pytest.mark.skipif(NAME == "eventlet", reason="eventlet's callback only accepts a timeout")
def test_timeouts_of_the_callback_leave_nothing_behind(green, dsn, hub):
    limited = functools.partial(hub.wait_callback, timeout=0.01)

    def query():
        # The callback is set for the whole process, and connecting takes longer.
        connection = psycopg2.connect(dsn, options=CHECK_CLIENT, connection_factory=Connection)
        connection.limited = True
        with pytest.raises(TimeoutError):
            connection.cursor().execute("SELECT pg_sleep(20)")

    class Connection(psycopg2.extensions.connection):
        limited = False

    set_wait_callback(lambda connection: (limited if connection.limited else hub.wait_callback)(connection))
    assert_nothing_is_left(hub, query, 500)
