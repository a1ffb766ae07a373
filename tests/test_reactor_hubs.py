"""Hubs that are created, replaced and ended, and threads with hubs of their own."""

import json
import os

import greenlet
import pytest
from hubs import EVENTLET_ON_ASYNCIO, NAME, ON_ASYNCIO_LOOP
from support.leaks import descriptors, objects
from support.processes import run_program

import psycogreen

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]

# How many hubs come and go; 1000 for a thorough run.
HUBS = os.environ.get("PSYCOGREEN_TEST_HUBS", "80")


def test_threads_with_hubs_of_their_own_leave_no_reactor(hub, connect):
    def one_thread():
        if NAME == "gevent":
            import gevent

            run = lambda fn: gevent.spawn(fn).get()  # noqa: E731
            leave = lambda: gevent.get_hub().destroy(destroy_loop=True)  # noqa: E731
        elif NAME == "asyncio":
            import asyncio

            run = lambda fn: asyncio.run(hub.adapter.spawn(fn))  # noqa: E731
            leave = lambda: None  # noqa: E731
        else:
            import eventlet
            import eventlet.hubs

            run = lambda fn: eventlet.spawn(fn).wait()  # noqa: E731
            leave = lambda: eventlet.hubs.get_hub().abort(wait=True)  # noqa: E731

        def query():
            connection = connect()
            cursor = connection.cursor()
            for number in range(5):
                cursor.execute("SELECT %s, pg_sleep(0.001)", (number,))
                assert cursor.fetchone()[0] == number
            connection.close()
            return True

        try:
            return run(query)
        finally:
            leave()

    results = hub.run_in_threads(5, one_thread)
    before = objects("Reactor"), len(descriptors())
    for _ in range(3):
        results += hub.run_in_threads(5, one_thread)
    assert results == [True] * 20
    assert objects("Reactor") <= before[0]
    if not EVENTLET_ON_ASYNCIO:  # eventlet does not close its loops
        assert len(descriptors()) <= before[1]


def test_a_connection_answers_in_one_thread_after_another(hub, connect):
    def query(connection, number):
        cursor = connection.cursor()
        cursor.execute("SELECT %s, pg_sleep(0.002)", (number,))
        return cursor.fetchone()[0]

    connection = hub.run(connect)
    for number in range(10):
        assert hub.run(query, connection, number) == number
        assert hub.run_in_thread(query, connection, number) == number


@pytest.mark.skipif(NAME != "gevent", reason="this hub does not end by itself")
@pytest.mark.parametrize(
    "situation",
    ["unused_connection", "idle_connection", "kill_and_error_in_the_dispatch", "kill_that_nothing_follows"],
)
def test_the_hub_ends_by_itself(situation, dsn):
    run_program("hub_ends", situation, DSN=dsn)


@pytest.mark.parametrize("last", ["idle", "parked"])
def test_a_process_exits_without_output(last, dsn):
    run_program("process_ends", last, DSN=dsn)


@pytest.mark.skipif(EVENTLET_ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced")
def test_queries_answer_in_one_hub_after_another(dsn):
    assert run_program("replaced_hub", DSN=dsn) == "used"


@pytest.mark.heavy
@pytest.mark.parametrize("where", ["one", "several"])
@pytest.mark.skipif(EVENTLET_ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced")
def test_hubs_that_come_and_go_leave_nothing_behind(where, dsn):
    """In one thread, or in several that hand connections on."""
    descriptors, threads, objects = json.loads(run_program("hubs_made_anew", HUBS, where, DSN=dsn))
    assert (descriptors, threads) == (0, 0)
    assert objects < int(HUBS) / 10


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub's own wait does not survive the hub")
@pytest.mark.skipif(ON_ASYNCIO_LOOP, reason="a loop ends its greenlets when it is closed")
@pytest.mark.skipif(os.environ.get("GEVENT_LOOP", "").endswith("cffi"), reason="it tells of watchers that outlive it")
def test_a_kill_in_a_replaced_hub_ends_the_query(dsn):
    run_program("kill_in_replaced_hub", DSN=dsn)


def test_waiting_in_the_hubs_own_greenlet_raises_as_the_hub_does(hub, pipe):
    silent = pipe()

    def error(*call):
        with pytest.raises(BaseException) as raised:
            hub.run_in_hub(*call)
        return raised.type, str(raised.value)

    assert error(hub.wait_callback, silent) == error(hub.wait_readable, silent.fd)


@pytest.mark.skipif(NAME == "asyncio", reason="asyncio's loop has no hooks")
def test_the_switch_out_hook_of_a_greenlet_is_called(hub, connect):
    class Hooked(greenlet.greenlet):
        def switch_out(self):
            switched.append(self)

    def several():
        cursor = connection.cursor()
        for _ in range(4):
            cursor.execute("SELECT pg_sleep(0.01)")
        done.append(True)

    connection, switched, done = hub.run(connect), [], []
    hub.run(several)  # in a greenlet without the hook
    done.clear()
    hub.call_soon(Hooked(several, hub.run_in_hub(greenlet.getcurrent)).switch)
    hub.wait_until(lambda: done)
    assert len(switched) >= 4
