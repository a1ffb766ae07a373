"""psycopg2 in the greenlets of SQLAlchemy's asyncio extension."""

import asyncio
import gc
import io
import time

import psycopg2
import pytest
from hubs import NAME
from support.server_state import in_query
from support.waiting import until

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)
pytest.importorskip("sqlalchemy")

from hubs.on_asyncio import event_loops
from sqlalchemy import create_engine, select
from sqlalchemy import func as sql
from sqlalchemy.util import await_only, greenlet_spawn
from support.coroutines import cancel_at_random, query

from psycogreen.asyncio import spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


async def connections(connect, count):
    """Return *count* connections that have executed a query."""
    made = [await greenlet_spawn(connect) for _ in range(count)]
    for connection in made * 2:
        await greenlet_spawn(query, connection)
    return made


async def test_waits_overlap(connect):
    made = await connections(connect, 20)
    began = time.monotonic()
    tasks = [greenlet_spawn(query, connection, "SELECT 7 FROM pg_sleep(0.2)") for connection in made]
    assert await asyncio.gather(*tasks) == [7] * 20
    assert time.monotonic() - began < 1.5


async def test_many_queries_answer_beside_spawned_ones(connect):
    def several(connection):
        return [query(connection, f"SELECT {number}") for number in range(100)]

    made = await connections(connect, 10)
    tasks = [(spawn if place % 2 else greenlet_spawn)(several, connection) for place, connection in enumerate(made)]
    assert await asyncio.gather(*tasks) == [list(range(100))] * 10


async def test_other_awaits_work_between_and_within_queries(connect):
    class File:
        """A file whose read() awaits."""

        chunks = [b"1\n", b"2\n", b""]

        def read(self, size):
            return await_only(asyncio.sleep(0.01, self.chunks.pop(0)))

    def fn(connection):
        assert await_only(asyncio.sleep(0.01, "slept")) == "slept"
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE copied (n int)")
        cursor.copy_expert("COPY copied FROM STDIN", File())
        assert asyncio.current_task() is task
        assert await_only(asyncio.sleep(0.01, "slept")) == "slept"
        return query(connection, "SELECT sum(n) FROM copied")

    (connection,) = await connections(connect, 1)
    task = asyncio.create_task(greenlet_spawn(fn, connection))
    assert await task == 3


async def test_copy_and_large_objects_work(connect):
    def fn(connection):
        out = io.StringIO()
        connection.cursor().copy_expert("COPY (SELECT generate_series(1, 1000)) TO STDOUT", out)
        large = connection.lobject(0, "wb")
        large.write(b"x" * 100_000)
        large.seek(0)
        data = connection.lobject(large.oid, "rb").read()
        connection.rollback()
        return len(out.getvalue().split()), len(data)

    (connection,) = await connections(connect, 1)
    assert await greenlet_spawn(fn, connection) == (1000, 100_000)


@pytest.mark.parametrize("used", [True, False])
async def test_cancellation_ends_the_query(used, connect, executing):
    connection = (await connections(connect, 1))[0] if used else await greenlet_spawn(connect)
    text = f"/* {used} of SQLAlchemy's */"
    task = asyncio.create_task(greenlet_spawn(query, connection, f"SELECT pg_sleep(50) {text}"))
    await until(lambda: executing(text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.closed
    await until(lambda: not executing(text))


async def test_connect_timeout_raises(green, fake_server):
    silent = fake_server(lambda client, number: silent.over.wait())
    with pytest.raises(psycopg2.OperationalError, match="timeout expired"):
        await greenlet_spawn(psycopg2.connect, f"host=127.0.0.1 port={silent.port} user=x dbname=x connect_timeout=2")


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("who", ["a coroutine", "spawned", "SQLAlchemy's"])
async def test_close_by_another_task_ends_the_query(who, used, connect):
    connection = (await connections(connect, 1))[0] if used else await greenlet_spawn(connect)
    task = asyncio.create_task(greenlet_spawn(query, connection, "SELECT pg_sleep(20)"))
    await until(lambda: in_query(connection))
    if who == "a coroutine":
        connection.close()
    elif who == "spawned":
        await spawn(connection.close)
        assert connection.closed
    else:
        await greenlet_spawn(connection.close)
        assert connection.closed
    with pytest.raises(psycopg2.InterfaceError, match="closed by another greenlet"):
        await task
    assert connection.closed


async def test_close_by_another_task_ends_a_copy_whose_file_awaits(connect):
    class File:
        def read(self, size):
            reads.append(await_only(asyncio.sleep(0.1, b"1\n")))
            return reads[-1]

    def fn():
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE copied (n int)")
        cursor.copy_expert("COPY copied FROM STDIN", File())

    reads = []
    (connection,) = await connections(connect, 1)
    task = asyncio.create_task(greenlet_spawn(fn))
    await until(lambda: reads)
    connection.close()
    await spawn(connection.close)
    assert connection.closed
    with pytest.raises(psycopg2.InterfaceError, match="closed by another greenlet"):
        await task


async def test_closing_the_coroutine_closes_the_connection(connect):
    (connection,) = await connections(connect, 1)
    coroutine = greenlet_spawn(query, connection, "SELECT pg_sleep(20)")
    coroutine.send(None)
    coroutine.close()
    assert connection.closed


async def test_a_connection_is_usable_or_closed_after_random_cancellations(green, dsn):
    await cancel_at_random(greenlet_spawn, dsn, turns=11, queries=20)


@pytest.mark.parametrize("run", [greenlet_spawn, spawn])
async def test_tasks_share_the_pool_of_an_engine(run, green, dsn):
    # The pool uses locks of threads. So no greenlet may wait for a connection in the
    # pool, and the first connection, made under a lock, must be made alone.
    engine = create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), pool_size=3, max_overflow=0, pool_timeout=0
    )
    free = asyncio.Semaphore(3)

    def ask(number):
        with engine.begin() as connection:
            connection.execute(select(sql.pg_sleep(0.02)))
            return connection.scalar(select(number))

    async def ask_in_turn(number):
        async with free:
            return await run(ask, number)

    await ask_in_turn(0)
    assert await asyncio.gather(*[ask_in_turn(number) for number in range(12)]) == list(range(12))
    assert engine.pool.checkedin() == 3
    engine.dispose()


def test_closing_the_loop_closes_the_connection(hub, connect, executing):
    def main():
        loop = event_loops().new_event_loop()
        (connection,) = loop.run_until_complete(connections(connect, 1))
        task = loop.create_task(greenlet_spawn(query, connection, "SELECT pg_sleep(50) /* bridged */"))
        while not executing("/* bridged */"):
            loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        loop.close()
        assert connection.closed
        del task
        gc.collect()  # the greenlet can end only in this thread

    hub.run_in_thread(main)
