"""The cancellation of a task ends its wait, and its query in the server."""

import asyncio
import signal
import subprocess

import psycopg2
import pytest
from hubs import NAME
from support.leaks import count_descriptors
from support.processes import PROGRAMS, PYTHON, child_environment, running
from support.server_state import in_query
from support.waiting import PATIENCE, until

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)

import greenlet
from support.coroutines import cancel_at_random, query, warm

from psycogreen.asyncio import spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


async def test_cancellation_is_a_kill(connect, executing):
    connection = await spawn(connect)
    await warm(connection)
    seen = []

    def fn():
        try:
            query(connection, "SELECT pg_sleep(50) /* cancelled */")
        except BaseException as exc:
            seen.append(exc)
            raise

    task = asyncio.create_task(spawn(fn))
    await until(lambda: executing("/* cancelled */"))
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert [type(exc) for exc in seen] == [asyncio.CancelledError]
    assert seen[0].args == ("why",)
    assert task.cancelled()
    assert connection.closed
    await until(lambda: not executing("/* cancelled */"))
    del caught


async def test_a_task_cancelled_while_connecting_leaves_no_descriptor(connect, fake_server):
    await warm(await spawn(connect))
    silent = fake_server(lambda client, number: silent.over.wait())
    before = count_descriptors()
    task = asyncio.create_task(spawn(psycopg2.connect, f"host=127.0.0.1 port={silent.port} user=x dbname=x"))
    await until(lambda: silent.accepted)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    assert count_descriptors() <= before + 1  # the fake server's socket


async def test_a_task_cancelled_before_it_starts_never_runs():
    ran = []
    task = asyncio.create_task(spawn(ran.append, 1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ran


async def test_a_task_cancelled_while_its_greenlet_runs_raises_at_the_next_wait(connect):
    """The function gets the CancelledError in its next wait."""
    connection = await spawn(connect)
    await warm(connection)

    def fn():
        query(connection)
        task.cancel()
        steps.append("runs on")
        query(connection, "SELECT pg_sleep(20)")
        steps.append("not reached")

    steps = []
    task = asyncio.create_task(spawn(fn))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["runs on"]
    assert connection.closed


async def test_a_task_cancelled_as_it_ends_loses_only_the_result(connect):
    """The task gets the CancelledError instead of the result, and the connection stays usable."""
    connection = await spawn(connect)
    await warm(connection)

    def fn():
        query(connection)
        task.cancel()
        return "lost"

    task = asyncio.create_task(spawn(fn))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.closed
    assert await spawn(query, connection) == 1


async def test_a_greenlet_can_swallow_cancellations(connect):
    first, second, third = [await spawn(connect) for _ in range(3)]
    for connection in first, second, third:
        await warm(connection)

    def fn():
        for connection in first, second:
            try:
                query(connection, "SELECT pg_sleep(20)")
            except asyncio.CancelledError:
                caught.append(connection)
        return query(third, "SELECT 'done' FROM pg_sleep(0.01)")

    caught = []
    task = asyncio.create_task(spawn(fn))
    for connection in first, second:
        await until(lambda c=connection: c.closed or in_query(c))
        task.cancel()
        await until(lambda c=connection: c in caught)
    assert await task == "done"
    assert first.closed and second.closed and not third.closed


async def test_timeouts_end_the_query(connect, executing):
    connection, other = [await spawn(connect) for _ in range(2)]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(spawn(query, connection, "SELECT pg_sleep(50) /* limited */"), 0.1)
    assert connection.closed
    if hasattr(asyncio, "timeout"):  # from 3.11 on
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await spawn(query, other, "SELECT pg_sleep(50) /* limited */")
        assert other.closed
    await until(lambda: not executing("/* limited */"))


async def test_closing_the_coroutine_kills_its_greenlet(connect):
    connection = await spawn(connect)
    ends = []

    def fn():
        try:
            query(connection, "SELECT pg_sleep(20)")
        except BaseException as exc:
            ends.append(type(exc))
            raise

    coroutine = spawn(fn)
    coroutine.send(None)
    coroutine.close()
    assert ends == [greenlet.GreenletExit]
    assert connection.closed


async def test_closing_the_coroutine_in_another_greenlet_kills_its_greenlet(connect):
    connection = await spawn(connect)
    coroutine = spawn(query, connection, "SELECT pg_sleep(20)")
    coroutine.send(None)
    await spawn(coroutine.close)
    await until(lambda: connection.closed)


async def test_a_connection_is_usable_or_closed_after_random_cancellations(green, dsn):
    await cancel_at_random(spawn, dsn, turns=22, queries=50)


def test_an_interrupt_ends_the_query(dsn, executing, hub):
    command = [*PYTHON, PROGRAMS / "asyncio_interrupted.py"]
    with running(command, stderr=subprocess.PIPE, env=child_environment(DSN=dsn)) as process:
        hub.wait_until(lambda: executing("/* interrupted */"))
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE)
    assert errors == ""
    assert printed.split("\n")[0] in ("CancelledError 2", "KeyboardInterrupt 2")
    assert printed.split("\n")[1] == "KeyboardInterrupt"
    hub.wait_until(lambda: not executing("/* interrupted */"))
