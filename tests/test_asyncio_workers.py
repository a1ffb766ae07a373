"""The greenlets in which spawn() runs functions, and how it wakes the tasks that await them."""

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest
from hubs import NAME

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)

import greenlet
import psycopg2
from hubs.on_asyncio import event_loops
from support.coroutines import query, warm
from support.processes import run_program

from psycogreen.asyncio import _MOST_IDLE, _adapter, _Job, spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


async def test_functions_run_in_the_same_greenlet_one_after_the_other(green, connect):
    connection = await spawn(connect)

    def fn():
        query(connection, "SELECT 1")
        return greenlet.getcurrent()

    first = await spawn(fn)
    assert await spawn(fn) is first
    assert await asyncio.create_task(spawn(fn)) is first


async def test_functions_at_once_run_in_greenlets_of_their_own():
    switch = asyncio.get_running_loop().create_future()

    def fn():
        _adapter.wait_for(_adapter.current(), switch)
        return greenlet.getcurrent()

    tasks = [asyncio.create_task(spawn(fn)) for _ in range(3 * _MOST_IDLE)]
    await asyncio.sleep(0)
    switch.set_result(None)
    greenlets = await asyncio.gather(*tasks)
    assert len(set(greenlets)) == 3 * _MOST_IDLE
    assert sum(not worker.dead for worker in greenlets) == _MOST_IDLE
    assert len(_adapter.current().workers) == _MOST_IDLE


async def test_a_spawn_within_another_has_another_greenlet():
    async def inner():
        return await spawn(greenlet.getcurrent)

    def outer():
        loop_state = _adapter.current()
        return _adapter.wait_for(loop_state, loop_state.loop.create_task(inner())), greenlet.getcurrent()

    one, other = await spawn(outer)
    assert one is not other


async def test_an_idle_greenlet_keeps_no_context():
    class Value:
        pass

    variable = contextvars.ContextVar("variable")

    async def set_and_spawn():
        variable.set(Value())
        return weakref.ref(await spawn(variable.get))

    value = await asyncio.create_task(set_and_spawn())
    await asyncio.sleep(0)
    gc.collect()
    assert value() is None


async def test_each_function_sees_the_variables_of_its_own_caller():
    variable = contextvars.ContextVar("variable", default=0)

    def add():
        variable.set(variable.get() + 1)
        return variable.get()

    async def caller(start):
        variable.set(start)
        await spawn(add)
        await spawn(add)
        return variable.get()

    tasks = [asyncio.create_task(caller(10 * n)) for n in range(5)]
    assert await asyncio.gather(*tasks) == [10 * n + 2 for n in range(5)]
    assert variable.get() == 0


@pytest.mark.parametrize("how", ["switch", "throw"])
async def test_who_disturbs_an_idle_greenlet_does_no_harm(how, green, connect):
    connection = await spawn(connect)
    idle = await spawn(greenlet.getcurrent)
    if how == "switch":
        idle.switch()
    else:
        with pytest.raises(ValueError):
            idle.throw(ValueError)
    assert await spawn(query, connection, "SELECT 3") == 3
    assert await asyncio.gather(*[spawn(greenlet.getcurrent) for _ in range(3)])


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_an_event_loop_that_nobody_closes_is_freed(hub):
    async def use():
        return await asyncio.gather(*[spawn(greenlet.getcurrent) for _ in range(3)])

    def run():
        loop = event_loops().new_event_loop()
        loop.run_until_complete(use())
        reference = weakref.ref(loop)
        del loop
        gc.collect()
        return reference()

    assert hub.run_in_thread(run) is None


def test_the_next_event_loop_has_greenlets_of_its_own(hub, green, connect):
    async def use():
        connection = await spawn(connect)
        value = await spawn(query, connection, "SELECT 4")
        connection.close()
        return value, await spawn(greenlet.getcurrent)

    def run():
        (one, first), (other, second) = (event_loops().run(use()) for _ in range(2))
        return one, other, first is second

    assert hub.run_in_thread(run) == (4, 4, False)


async def test_tasks_go_on_in_the_order_in_which_their_functions_end(green, connect):
    connections = [await spawn(connect) for _ in range(8)]
    ended, gone_on = [], []

    def fn(n):
        warm_query = query(connections[n], f"SELECT {n} FROM pg_sleep({n % 4} * 0.01)")
        ended.append(n)
        return warm_query

    async def task(n):
        for _ in range(5):
            assert await spawn(fn, n) == n
            gone_on.append(n)

    for connection in connections:
        await warm(connection)
    await asyncio.gather(*map(task, range(8)))
    assert gone_on == ended


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_tasks_go_on_after_another_has_ended_the_event_loop(error, hub, green, connect):
    async def interrupted(connection):
        await spawn(query, connection, "SELECT pg_sleep(0.05)")
        raise error

    async def start():
        first, *others = [await spawn(connect) for _ in range(5)]
        ending = asyncio.create_task(interrupted(first))
        return ending, [asyncio.create_task(spawn(query, each, "SELECT 5 FROM pg_sleep(0.05)")) for each in others]

    async def finish(tasks):
        return await asyncio.gather(*tasks)

    def run():
        loop = event_loops().new_event_loop()
        try:
            ending, tasks = loop.run_until_complete(start())
            with pytest.raises(error):
                loop.run_until_complete(asyncio.wait({ending}))
            assert isinstance(ending.exception(), error)
            return loop.run_until_complete(finish(tasks))
        finally:
            loop.close()

    assert hub.run_in_thread(run) == [5] * 4


def test_tasks_go_on_where_an_event_loop_runs_within_them(dsn):
    assert run_program("asyncio_nested", DSN=dsn) == str([[7, 0, 1, 2, 8]] * 4)


def test_jobs_end_after_system_exit_in_a_greenlet_and_in_a_task_of_one_batch(dsn):
    assert run_program("asyncio_system_exit", DSN=dsn) == "ends"


async def test_an_exception_after_the_first_step_ends_the_function(green, connect, monkeypatch):
    connection = await spawn(connect)
    start = _Job.start

    def interrupted_start(job, context):
        start(job, context)
        raise KeyError("as of a signal handler")

    monkeypatch.setattr(_Job, "start", interrupted_start)
    with pytest.raises(KeyError):
        await spawn(query, connection, "SELECT pg_sleep(60)")
    assert connection.closed


async def test_a_task_whose_wake_up_was_lost_can_be_cancelled(monkeypatch):
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon
    lost = []

    def interrupted_call_soon(callback, *args, **kwargs):
        if getattr(callback, "__func__", None) is _Job.wake and not lost:
            lost.append(callback)
            raise KeyError("as of a signal handler")
        return call_soon(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon", interrupted_call_soon)
    loop.set_exception_handler(lambda *args: None)
    task = asyncio.create_task(spawn(_adapter.pause))
    while not lost:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


def test_a_coroutine_closed_in_another_thread_ends_its_query_in_the_next_run(green, hub, dsn):
    def run():
        loop = event_loops().new_event_loop()
        connection = loop.run_until_complete(spawn(psycopg2.connect, dsn))
        outcomes = []

        def fn():
            try:
                query(connection, "SELECT pg_sleep(60)")
            except greenlet.GreenletExit:
                outcomes.append("ended")
                raise

        coroutine = spawn(fn)

        async def begin():
            coroutine.send(None)

        loop.run_until_complete(begin())
        thread = threading.Thread(target=coroutine.close)
        thread.start()
        thread.join()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return outcomes, connection.closed

    assert hub.run_in_thread(run) == (["ended"], 2)
