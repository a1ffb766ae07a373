"""Several event loops in one process: one after the other, in turns, in other greenlets and threads."""

import asyncio
import functools
import gc
import threading
import time
import weakref

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import set_wait_callback
from support.leaks import count_descriptors, objects
from support.processes import run_program
from support.waiting import PATIENCE, until, wait_until

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)

import greenlet
from hubs.on_asyncio import event_loops
from support.coroutines import query, warm

import psycogreen.asyncio
from psycogreen.asyncio import spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


def test_loops_that_come_and_go_leave_nothing_behind(hub, green, dsn):
    async def main():
        connection = await spawn(psycopg2.connect, dsn)
        await asyncio.gather(spawn(query, connection, "SELECT pg_sleep(0.001)"), asyncio.sleep(0))
        await warm(connection)
        loops.add(asyncio.get_running_loop())
        connection.close()

    def several():
        for _ in range(5):
            event_loops().run(main())

    loops = weakref.WeakSet()
    hub.run_in_thread(several)
    workers = objects("_Worker")  # of the loop of the test
    before, threads = count_descriptors(), threading.active_count()
    hub.run_in_threads(4, several)
    hub.run_in_thread(several)
    assert count_descriptors() == before
    assert threading.active_count() == threads
    gc.collect()
    assert not loops
    assert objects("_Worker") <= workers


def test_loops_that_take_turns_get_their_answers(hub, connect):
    def turns():
        loops = [event_loops().new_event_loop() for _ in range(2)]
        connections = [loop.run_until_complete(spawn(connect)) for loop in loops]
        for loop, connection in zip(loops, connections, strict=True):
            loop.run_until_complete(warm(connection))
        tasks = [
            loop.create_task(spawn(query, connection, f"SELECT {n} FROM pg_sleep(0.1)"))
            for n, (loop, connection) in enumerate(zip(loops, connections, strict=True))
        ]
        for _ in range(3):
            for loop in loops:
                loop.run_until_complete(asyncio.sleep(0.01))
        answers = [loop.run_until_complete(task) for loop, task in zip(loops, tasks, strict=True)]
        for loop in loops:
            loop.close()
        return answers

    assert hub.run_in_thread(turns) == [0, 1]


def test_a_loop_can_go_on_in_another_greenlet(hub, connect):
    def main():
        loop = event_loops().new_event_loop()
        connection = loop.run_until_complete(spawn(connect))
        loop.run_until_complete(warm(connection))
        answers = []
        for seconds in 0, 0.01, 0.05, 0.01:
            task = loop.create_task(spawn(several, connection, seconds))
            for _ in range(3):
                greenlet.greenlet(loop.run_until_complete).switch(asyncio.sleep(seconds / 3))
            answers.append(loop.run_until_complete(task))
        loop.close()
        return answers

    def several(connection, seconds):
        return [query(connection, f"SELECT {n} FROM pg_sleep({seconds})") for n in range(3)]

    assert hub.run_in_thread(main) == [[0, 1, 2]] * 4


@pytest.mark.parametrize("limit", ["None", "50", "0.2"], ids=["known", "limited", "timed_out"])
def test_a_loop_can_go_on_in_another_greenlet_in_mid_query(limit, dsn):
    assert run_program("asyncio_loop_in_another_greenlet", limit, DSN=dsn) == "[0, 1, 2]"


def test_loops_that_take_turns_in_mid_query_get_their_answers(hub, connect):
    def several(connection):
        # After the first query the reactor knows the connection. The next ones park in the reactor.
        return [query(connection, f"SELECT {n} FROM pg_sleep({n // 3 * 0.2})") for n in range(4)]

    def turns():
        loops = [event_loops().new_event_loop() for _ in range(2)]
        tasks = []
        for loop in loops:
            connection = loop.run_until_complete(spawn(connect))
            loop.run_until_complete(warm(connection))
            tasks.append(loop.create_task(spawn(several, connection)))
            loop.run_until_complete(asyncio.sleep(0.1))
        deadline = time.monotonic() + PATIENCE
        while not all(task.done() for task in tasks) and time.monotonic() < deadline:
            for loop in loops:
                loop.run_until_complete(asyncio.sleep(0.01))
        done = [task.done() and task.result() for task in tasks]
        for loop in loops:
            loop.close()
        return done

    assert hub.run_in_thread(turns) == [[0, 1, 2, 3]] * 2


def test_another_thread_can_go_on_with_a_loop(hub, connect):
    loop = event_loops().new_event_loop()
    connection = hub.run_in_thread(loop.run_until_complete, spawn(connect))
    for number in range(3):
        hub.run_in_thread(loop.run_until_complete, warm(connection))
        text = f"SELECT {number} FROM pg_sleep(0.01)"
        assert hub.run_in_thread(loop.run_until_complete, spawn(query, connection, text)) == number
    hub.run_in_thread(loop.close)


def test_another_thread_can_go_on_with_a_loop_in_mid_query(dsn):
    assert run_program("asyncio_loop_in_another_thread", DSN=dsn) == "3"


@pytest.mark.parametrize("state", ["known", "unknown", "limited"])
def test_closing_a_loop_ends_its_queries(state, hub, connect, executing, recwarn):
    text = f"/* {state} to the reactor of a closed loop */"

    def fn(connection):
        try:
            query(connection, f"SELECT pg_sleep(50) {text}")
        except BaseException as exc:
            ends.append(exc)
            raise

    def main():
        loop = event_loops().new_event_loop()
        connection = loop.run_until_complete(spawn(connect))
        if state != "unknown":
            loop.run_until_complete(warm(connection))
        if state == "limited":
            limited = functools.partial(psycogreen.asyncio.asyncio_wait_callback, timeout=50)
            set_wait_callback(limited)
        task = loop.create_task(spawn(fn, connection))
        while not executing(text):
            loop.run_until_complete(asyncio.sleep(0.01))
        references.append(weakref.ref(loop))
        task._log_destroy_pending = False
        loop.close()
        assert connection.closed
        assert [type(exc) for exc in ends] == [asyncio.CancelledError]
        ends.clear()
        wait_until(lambda: not executing(text))

    ends, references = [], []
    before = count_descriptors()
    hub.run_in_thread(main)
    # A request to cancel that the loop had not begun goes on in a native thread.
    wait_until(lambda: count_descriptors() <= before)
    assert references[0]() is None


def test_a_query_cancelled_last_ends_in_the_server(hub, green, dsn, executing):
    async def main():
        connection = await spawn(psycopg2.connect, dsn)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(spawn(query, connection, "SELECT pg_sleep(50) /* the last */"), 0.1)

    def run():
        event_loops().run(main())
        wait_until(lambda: not executing("/* the last */"))

    hub.run_in_thread(run)


def test_the_queries_of_a_loop_that_ends_end_in_the_server(hub, green, dsn, executing):
    async def main():
        connections = [await spawn(psycopg2.connect, dsn) for _ in range(5)]
        main.tasks = [asyncio.create_task(spawn(query, c, "SELECT pg_sleep(50) /* left over */")) for c in connections]
        await until(lambda: executing("/* left over */") == 5)
        return connections

    def run():
        connections = event_loops().run(main())
        assert all(connection.closed for connection in connections)
        wait_until(lambda: not executing("/* left over */"))

    hub.run_in_thread(run)


def test_the_child_of_a_fork_can_wait(dsn):
    assert run_program("asyncio_fork", DSN=dsn) == "7"


def test_a_process_with_parked_greenlets_exits_without_output(dsn):
    assert run_program("asyncio_ends_while_parked", DSN=dsn) == "ends"
