"""spawn(), and waits outside of it, on asyncio.

A test that is a coroutine runs on an event loop of its own: asyncio's, or with
PSYCOGREEN_TEST_LOOP=uvloop, uvloop's. See fix_hub.py.
"""

import asyncio
import contextvars
import functools
import gc
import sys
import time
import weakref

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import set_wait_callback
from support.processes import run_script
from support.server_state import in_query
from support.waiting import PATIENCE, until

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)

import greenlet
from support.coroutines import query, warm

import psycogreen.asyncio
from psycogreen.asyncio import spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


async def test_waits_overlap(green, dsn):
    def ask():
        connection = psycopg2.connect(dsn)
        try:
            return query(connection, "SELECT 7 FROM pg_sleep(0.2)")
        finally:
            connection.close()

    await spawn(ask)
    began = time.monotonic()
    assert await asyncio.gather(*[spawn(ask) for _ in range(20)]) == [7] * 20
    assert time.monotonic() - began < 1.5  # instead of 4


async def test_arguments_and_result_are_passed_on():
    def fn(*args, **kwargs):
        return args, kwargs

    assert await spawn(fn, 1, 2, fn=3, args=4) == ((1, 2), {"fn": 3, "args": 4})


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, greenlet.GreenletExit, GeneratorExit])
@pytest.mark.parametrize("when", ["at once", "after a wait"])
async def test_exceptions_are_passed_on(kind, when, connect):
    connection = await spawn(connect)
    await warm(connection)
    raised = kind("raised")

    def fn():
        if when == "after a wait":
            query(connection)
        raise raised

    with pytest.raises(kind) as caught:
        await spawn(fn)
    assert caught.value is raised
    assert await spawn(query, connection) == 1


async def test_stop_iteration_becomes_a_runtime_error():
    def fn():
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await spawn(fn)


def test_spawn_without_a_loop_raises(hub, recwarn):
    with pytest.raises(RuntimeError, match="no running event loop"):
        hub.run_in_thread(lambda: spawn(int).send(None))


async def test_greenlets_use_the_context_of_their_task(connect):
    variable = contextvars.ContextVar("variable", default="unset")
    connection = await spawn(connect)

    def fn(name):
        assert variable.get() == f"before {name}"
        variable.set(f"set {name}")
        for _ in range(5):
            query(connections[name], "SELECT pg_sleep(0.001)")
            assert variable.get() == f"set {name}"
        variable.set(f"after {name}")

    async def task(name):
        variable.set(f"before {name}")
        await spawn(fn, name)
        assert variable.get() == f"after {name}"

    connections = [connection, await spawn(connect), await spawn(connect)]
    await asyncio.gather(*[asyncio.create_task(task(n)) for n in range(3)])
    assert variable.get() == "unset"


async def test_the_loop_keeps_no_context_alive(connect):
    class Value:
        pass

    variable = contextvars.ContextVar("variable")
    connection = await spawn(connect)

    async def first():
        variable.set(Value())
        await warm(connection)
        return weakref.ref(variable.get())

    value = await asyncio.create_task(first())
    await asyncio.sleep(0)
    gc.collect()
    assert value() is None


async def test_no_reference_is_left(dsn, green):
    class Connection(psycopg2.extensions.connection):
        pass

    def fn(error):
        connection = psycopg2.connect(dsn, connection_factory=Connection)
        references.append(weakref.ref(connection))
        query(connection, "SELECT pg_sleep(0.01)")
        if error:
            raise ValueError

    gc.collect()
    gc.disable()  # a reference cycle counts as a leak too
    try:
        for error in False, True:
            references = []
            try:
                await spawn(fn, error)
            except ValueError:
                pass
            await asyncio.sleep(0)
            assert [ref() for ref in references] == [None]
    finally:
        gc.enable()


async def test_a_wait_outside_of_spawn_raises(connect, dsn):
    connections = [await spawn(connect) for _ in range(3)]
    await warm(connections[1])
    refused = pytest.raises(RuntimeError, match=r"psycogreen\.asyncio\.spawn\(")
    with refused:
        query(connections[0])
    with refused:
        query(connections[1])  # the reactor knows this connection
    with refused:
        psycopg2.connect(dsn)
    with refused:
        psycopg2.connect(psycopg2.extensions.make_dsn("", host="localhost", port=1))
    with refused:  # in another library's greenlet: its switch() would return in the middle of the wait
        greenlet.greenlet(query).switch(connections[2])
    # Calls that do not wait are allowed.
    connections[0].close()
    assert not connections[2].autocommit


async def test_a_query_whose_wait_raises_ends_in_the_server(connect, executing):
    connection = await spawn(connect)
    with pytest.raises(RuntimeError):
        query(connection, "SELECT pg_sleep(50) /* refused */")
    assert connection.closed
    await until(lambda: not executing("/* refused */"))


async def test_a_coroutine_can_close_a_connection_that_a_greenlet_uses(connect):
    connection = await spawn(connect)
    task = asyncio.create_task(spawn(query, connection, "SELECT pg_sleep(20)"))
    await until(lambda: in_query(connection))
    with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
        connection.commit()
    connection.close()
    assert connection.closed
    with pytest.raises(psycopg2.InterfaceError, match="closed by another greenlet"):
        await task


async def test_a_coroutine_can_cancel_the_query_of_a_greenlet(connect, executing):
    connection = await spawn(connect)
    task = asyncio.create_task(spawn(query, connection, "SELECT pg_sleep(20) /* to be cancelled */"))
    await until(lambda: executing("/* to be cancelled */"))
    connection.cancel()
    with pytest.raises(psycopg2.extensions.QueryCanceledError):
        await task
    assert not connection.closed


async def test_a_thread_without_a_loop_blocks_only_itself(connect):
    connection = await spawn(connect)
    began = time.monotonic()
    waits = asyncio.gather(*[asyncio.to_thread(query, connection, "SELECT 5 FROM pg_sleep(0.2)")])
    ticks = 0
    while not waits.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await waits == [5]
    assert ticks > 5 and time.monotonic() - began < 2


async def test_a_reader_that_the_user_added_stays(connect):
    # The user's reader is on the connection's descriptor, and an event loop has one reader for each descriptor.
    connection, other = [await spawn(connect) for _ in range(2)]
    connection.autocommit = other.autocommit = True
    await warm(connection)
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(connection.fileno(), readable.set)
    await spawn(connection.cursor().execute, "LISTEN psycogreen")
    # A wait with a timeout does not use the reactor.
    set_wait_callback(functools.partial(psycogreen.asyncio.asyncio_wait_callback, timeout=9))
    assert await spawn(query, connection, "SELECT 6 FROM pg_sleep(0.05)") == 6
    readable.clear()
    await spawn(other.cursor().execute, "NOTIFY psycogreen")
    await asyncio.wait_for(readable.wait(), PATIENCE)
    asyncio.get_running_loop().remove_reader(connection.fileno())
    connection.poll()
    assert [notify.channel for notify in connection.notifies] == ["psycogreen"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brings eager tasks")
async def test_eager_tasks_can_wait(connect):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    connections = [await spawn(connect) for _ in range(2)]

    def outer():
        # The first step of the eager task runs in this greenlet.
        inner = asyncio.get_running_loop().create_task(spawn(query, connections[1], "SELECT 3 FROM pg_sleep(0.01)"))
        return inner, query(connections[0], "SELECT 4 FROM pg_sleep(0.02)")

    inner, answer = await spawn(outer)
    assert answer == 4
    assert await inner == 3


def test_without_greenlet_the_import_says_what_to_install():
    script = """
        import sys
        sys.modules["greenlet"] = None
        try:
            import psycogreen.asyncio
        except ImportError as exc:
            print(exc)
    """
    assert "pip install psycogreen[asyncio]" in run_script(script)
