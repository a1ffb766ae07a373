"""What is particular to asyncio: tasks, their cancellation, and loops that come and go.

A test that is a coroutine runs on a loop of its own: asyncio's, or uvloop's
where PSYCOGREEN_TEST_LOOP=uvloop. See fix_hub.py.
"""

import asyncio
import contextvars
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import psycopg2
import pytest
from fix_hub import NAME, event_loops
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, get_wait_callback, set_wait_callback

if NAME != "asyncio":
    pytest.skip("for the hub asyncio", allow_module_level=True)

import greenlet

import psycogreen.asyncio
from psycogreen.asyncio import spawn

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

PATIENCE = 20


def query(connection, sql="SELECT 1"):
    cursor = connection.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


def in_query(connection):
    return connection.get_transaction_status() == TRANSACTION_STATUS_ACTIVE


async def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not hold within {PATIENCE} s"
        await asyncio.sleep(0.002)


async def warm(connection):
    """Have the reactor know it, if there is one."""
    for _ in range(2):
        await spawn(query, connection)


@pytest.fixture
def active(dsn):
    """Tell how many sessions execute a query that contains a text; nothing runs meanwhile."""
    watch = psycopg2.connect(dsn)
    watch.autocommit = True
    cursor = watch.cursor()

    def active(text):
        callback = get_wait_callback()
        set_wait_callback(None)
        try:
            cursor.execute(
                "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()",
                [f"%{text}%"],
            )
        finally:
            set_wait_callback(callback)
        return cursor.rowcount

    yield active
    watch.close()


def ended(active, text):
    """Wait, the whole process with it, until the server executes nothing with *text*."""
    deadline = time.monotonic() + PATIENCE
    while active(text):
        assert time.monotonic() < deadline, f"{text} runs on"
        time.sleep(0.01)


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# What spawn() does


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


async def test_arguments_and_result():
    def fn(*args, **kwargs):
        return args, kwargs

    assert await spawn(fn, 1, 2, fn=3, args=4) == ((1, 2), {"fn": 3, "args": 4})


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, greenlet.GreenletExit, GeneratorExit])
@pytest.mark.parametrize("when", ["at once", "after a wait"])
async def test_exceptions(kind, when, connect):
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


async def test_an_exception_that_a_coroutine_can_not_raise():
    def fn():
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await spawn(fn)


def test_without_a_loop(hub, recwarn):
    with pytest.raises(RuntimeError, match="no running event loop"):
        hub.run_in_thread(lambda: spawn(int).send(None))


async def test_context_variables(connect):
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


async def test_the_loop_keeps_nobodys_context(connect):
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
        found.extend([weakref.ref(connection), weakref.ref(greenlet.getcurrent())])
        query(connection, "SELECT pg_sleep(0.01)")
        if error:
            raise ValueError

    gc.collect()
    gc.disable()  # not even a cycle
    try:
        for error in False, True:
            found = []
            try:
                await spawn(fn, error)
            except ValueError:
                pass
            await asyncio.sleep(0)
            assert [ref() for ref in found] == [None, None]
    finally:
        gc.enable()


# Outside of it


async def test_outside_of_spawn(connect, dsn):
    connections = [await spawn(connect) for _ in range(3)]
    await warm(connections[1])
    refused = pytest.raises(RuntimeError, match=r"psycogreen\.asyncio\.spawn\(")
    with refused:
        query(connections[0])
    with refused:
        query(connections[1])  # of which the reactor knows
    with refused:
        psycopg2.connect(dsn)
    with refused:
        psycopg2.connect(psycopg2.extensions.make_dsn("", host="localhost", port=1))
    with refused:  # in a greenlet of somebody else's, who would get it back from the wait
        greenlet.greenlet(query).switch(connections[2])
    # What does not wait is fine.
    connections[0].close()
    assert not connections[2].autocommit


async def test_a_query_that_is_refused_ends_in_the_server(connect, active):
    connection = await spawn(connect)
    with pytest.raises(RuntimeError):
        query(connection, "SELECT pg_sleep(50) /* refused */")
    assert connection.closed
    await until(lambda: not active("/* refused */"))


async def test_a_coroutine_closes_what_a_greenlet_uses(connect):
    connection = await spawn(connect)
    task = asyncio.create_task(spawn(query, connection, "SELECT pg_sleep(20)"))
    await until(lambda: in_query(connection))
    with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
        connection.commit()
    connection.close()
    assert connection.closed
    with pytest.raises(psycopg2.InterfaceError, match="closed by another greenlet"):
        await task


async def test_a_coroutine_cancels_what_a_greenlet_executes(connect, active):
    connection = await spawn(connect)
    task = asyncio.create_task(spawn(query, connection, "SELECT pg_sleep(20) /* to be cancelled */"))
    await until(lambda: active("/* to be cancelled */"))
    connection.cancel()
    with pytest.raises(psycopg2.extensions.QueryCanceledError):
        await task
    assert not connection.closed


async def test_a_thread_without_a_loop(connect):
    connection = await spawn(connect)
    began = time.monotonic()
    waits = asyncio.gather(*[asyncio.to_thread(query, connection, "SELECT 5 FROM pg_sleep(0.2)")])
    ticks = 0
    while not waits.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await waits == [5]
    assert ticks > 5 and time.monotonic() - began < 2


async def test_a_reader_of_the_users_own(connect):
    # It has the connection's descriptor, of which the loop takes but one reader.
    connection, other = [await spawn(connect) for _ in range(2)]
    connection.autocommit = other.autocommit = True
    await warm(connection)
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(connection.fileno(), readable.set)
    await spawn(connection.cursor().execute, "LISTEN psycogreen")
    # Waits by other ways than the reactor.
    set_wait_callback(functools.partial(psycogreen.asyncio.asyncio_wait_callback, timeout=9))
    assert await spawn(query, connection, "SELECT 6 FROM pg_sleep(0.05)") == 6
    readable.clear()
    await spawn(other.cursor().execute, "NOTIFY psycogreen")
    await asyncio.wait_for(readable.wait(), PATIENCE)
    asyncio.get_running_loop().remove_reader(connection.fileno())
    connection.poll()
    assert [notify.channel for notify in connection.notifies] == ["psycogreen"]


# Cancellation


async def test_cancellation_is_a_kill(connect, active):
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
    await until(lambda: active("/* cancelled */"))
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert [type(exc) for exc in seen] == [asyncio.CancelledError]
    assert seen[0].args == ("why",)
    assert task.cancelled()
    assert connection.closed
    await until(lambda: not active("/* cancelled */"))
    del caught


async def test_cancelled_while_connecting(connect, fake_server):
    await warm(await spawn(connect))
    silent = fake_server(lambda client, number: silent.over.wait())
    before = descriptors()
    task = asyncio.create_task(spawn(psycopg2.connect, f"host=127.0.0.1 port={silent.port} user=x dbname=x"))
    await until(lambda: silent.accepted)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    assert descriptors() <= before + 1  # the server's end


async def test_cancelled_before_it_starts():
    ran = []
    task = asyncio.create_task(spawn(ran.append, 1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ran


async def test_cancelled_while_it_runs(connect):
    """It learns of it where it waits next."""
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


async def test_cancelled_as_it_ends(connect):
    """The cancellation wins, and nothing is broken."""
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


async def test_cancelled_twice_and_refused(connect):
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


async def test_timeouts(connect, active):
    connection, other = [await spawn(connect) for _ in range(2)]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(spawn(query, connection, "SELECT pg_sleep(50) /* limited */"), 0.1)
    assert connection.closed
    if hasattr(asyncio, "timeout"):  # from 3.11 on
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await spawn(query, other, "SELECT pg_sleep(50) /* limited */")
        assert other.closed
    await until(lambda: not active("/* limited */"))


async def test_a_coroutine_that_is_closed(connect):
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


async def test_a_coroutine_that_is_closed_by_another_greenlet(connect):
    connection = await spawn(connect)
    coroutine = spawn(query, connection, "SELECT pg_sleep(20)")
    coroutine.send(None)
    await spawn(coroutine.close)
    await until(lambda: connection.closed)


async def test_random_cancellations(connect, dsn):
    """Whenever it comes, a connection is whole or closed afterwards."""

    def fn(connection):
        for number in range(50):
            cursor = connection.cursor()
            cursor.execute("SELECT %s", [number])
            assert cursor.fetchone() == (number,)

    connections = [await spawn(connect) for _ in range(8)]
    for turn in range(22):
        tasks = [asyncio.create_task(spawn(fn, connection)) for connection in connections]
        for place, task in enumerate(tasks):
            for _ in range((turn * 7 + place * 3) % 11):
                await asyncio.sleep(0)
            if place % 2:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for place, outcome in enumerate(outcomes):
            if place % 2 == 0:
                assert outcome is None
            else:
                assert outcome is None or type(outcome) is asyncio.CancelledError
                if connections[place].closed:
                    connections[place] = await spawn(psycopg2.connect, dsn)
                else:
                    assert await spawn(query, connections[place]) == 1
    for connection in connections:
        connection.close()


# Loops


def test_loops_that_come_and_go(hub, green, dsn):
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
    before, threads = descriptors(), threading.active_count()
    workers = [threading.Thread(target=several) for _ in range(4)]
    for worker in workers:
        worker.start()
    hub.wait_until(lambda: not any(worker.is_alive() for worker in workers))
    for worker in workers:
        worker.join()
    hub.run_in_thread(several)
    assert descriptors() == before
    assert threading.active_count() == threads
    gc.collect()
    assert not loops


def test_loops_that_take_turns(hub, connect):
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


def test_a_loop_that_goes_on_in_another_greenlet(hub, connect):
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
def test_a_loop_that_goes_on_in_another_greenlet_in_mid_query(limit, run_script, dsn):
    script = """
        import asyncio, functools, greenlet, os, psycopg2
        from fix_hub import event_loops
        from psycogreen.asyncio import asyncio_wait_callback, make_psycopg_green, spawn
        make_psycopg_green()
        LIMIT = {limit}

        def several(connection):
            cursor, answers = connection.cursor(), []
            for number in range(3):
                cursor.execute(f"SELECT {number} FROM pg_sleep(0.1)")
                answers.append(cursor.fetchone()[0])
            return answers

        def work():
            try:
                connection.cursor().execute("SELECT pg_sleep(%s)", (20 if LIMIT == 0.2 else 0.2,))
            except TimeoutError:
                assert LIMIT == 0.2
            return several(other)

        async def in_query():
            while connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_ACTIVE:
                await asyncio.sleep(0.002)

        loop = event_loops().new_event_loop()
        connection, other = (loop.run_until_complete(spawn(psycopg2.connect, "{dsn}")) for _ in range(2))
        for known in connection, other:
            loop.run_until_complete(spawn(several, known))
        if LIMIT:
            psycopg2.extensions.set_wait_callback(functools.partial(asyncio_wait_callback, timeout=LIMIT))
        task = loop.create_task(spawn(work))
        greenlet.greenlet(loop.run_until_complete).switch(in_query())
        # The first that this one sees of the query is its end.
        print(greenlet.greenlet(loop.run_until_complete).switch(task), flush=True)
        os._exit(0)  # without a word of what is left if it is not the answers
    """
    assert run_script(script, dsn=dsn, limit=limit) == "[0, 1, 2]"


def test_loops_that_take_turns_in_mid_query(hub, connect):
    def several(connection):
        # The reactor knows it, then it is parked there.
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


def test_a_loop_that_another_thread_goes_on_with(hub, connect):
    loop = event_loops().new_event_loop()
    connection = hub.run_in_thread(loop.run_until_complete, spawn(connect))
    for number in range(3):
        hub.run_in_thread(loop.run_until_complete, warm(connection))
        text = f"SELECT {number} FROM pg_sleep(0.01)"
        assert hub.run_in_thread(loop.run_until_complete, spawn(query, connection, text)) == number
    hub.run_in_thread(loop.close)


def test_a_loop_that_another_thread_goes_on_with_in_mid_query(run_script, dsn):
    script = """
        import asyncio, os, psycopg2, threading
        from fix_hub import event_loops
        from psycogreen.asyncio import make_psycopg_green, spawn
        make_psycopg_green()

        def query(connection, sql):
            cursor = connection.cursor()
            for _ in range(2):
                cursor.execute(sql)
            return cursor.fetchone()[0]

        async def in_query():
            while connections[0].get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_ACTIVE:
                await asyncio.sleep(0.002)

        def first():
            for connection in connections:
                loop.run_until_complete(spawn(query, connection, "SELECT 1"))
            tasks.append(loop.create_task(spawn(query, connections[0], "SELECT 2 FROM pg_sleep(20)")))
            loop.run_until_complete(in_query())
            there.set()
            over.wait()  # what it leaves behind lives as long

        loop, tasks, there, over = event_loops().new_event_loop(), [], threading.Event(), threading.Event()
        connections = [loop.run_until_complete(spawn(psycopg2.connect, "{dsn}")) for _ in range(2)]
        thread = threading.Thread(target=first, daemon=True)
        thread.start()
        there.wait()
        print(loop.run_until_complete(spawn(query, connections[1], "SELECT 3 FROM pg_sleep(0.05)")), flush=True)
        os._exit(0)
    """
    assert run_script(script, dsn=dsn) == "3"


@pytest.mark.parametrize("state", ["known", "unknown", "limited"])
def test_a_loop_that_is_closed_with_parked_greenlets(state, hub, connect, active, recwarn):
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
        while not active(text):
            loop.run_until_complete(asyncio.sleep(0.01))
        found.append(weakref.ref(loop))
        task._log_destroy_pending = False
        loop.close()
        assert connection.closed
        assert [type(exc) for exc in ends] == [asyncio.CancelledError]
        ends.clear()
        ended(active, text)

    ends, found = [], []
    before = descriptors()
    hub.run_in_thread(main)
    assert descriptors() <= before
    assert found[0]() is None


def test_a_loop_that_ends_right_after_a_cancellation(hub, green, dsn, active):
    async def main():
        connection = await spawn(psycopg2.connect, dsn)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(spawn(query, connection, "SELECT pg_sleep(50) /* the last */"), 0.1)

    def run():
        event_loops().run(main())
        ended(active, "/* the last */")

    hub.run_in_thread(run)


def test_a_loop_that_ends_with_tasks(hub, green, dsn, active):
    async def main():
        connections = [await spawn(psycopg2.connect, dsn) for _ in range(5)]
        main.tasks = [asyncio.create_task(spawn(query, c, "SELECT pg_sleep(50) /* left over */")) for c in connections]
        await until(lambda: active("/* left over */") == 5)
        return connections

    def run():
        connections = event_loops().run(main())
        assert all(connection.closed for connection in connections)
        ended(active, "/* left over */")

    hub.run_in_thread(run)


def test_an_interrupt(dsn, active, hub):
    script = """
import asyncio, sys, psycopg2
from fix_hub import event_loops
from psycogreen.asyncio import make_psycopg_green, spawn
make_psycopg_green()

def query(connection):
    try:
        connection.cursor().execute("SELECT pg_sleep(50) /* interrupted */")
    except BaseException as exc:
        print(type(exc).__name__, connection.closed, flush=True)
        raise

async def main():
    connection = await spawn(psycopg2.connect, sys.argv[1])
    await spawn(query, connection)

try:
    event_loops().run(main())
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script, dsn]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            hub.wait_until(lambda: active("/* interrupted */"))
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert errors == ""
    assert printed.split("\n")[0] in ("CancelledError 2", "KeyboardInterrupt 2")
    assert printed.split("\n")[1] == "KeyboardInterrupt"
    hub.wait_until(lambda: not active("/* interrupted */"))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 brings eager tasks")
async def test_eager_tasks(connect):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    connections = [await spawn(connect) for _ in range(2)]

    def outer():
        # Its first step runs in this greenlet.
        inner = asyncio.get_running_loop().create_task(spawn(query, connections[1], "SELECT 3 FROM pg_sleep(0.01)"))
        return inner, query(connections[0], "SELECT 4 FROM pg_sleep(0.02)")

    inner, answer = await spawn(outer)
    assert answer == 4
    assert await inner == 3


def test_the_child_of_a_fork(run_script, dsn):
    script = """
        import asyncio, os, psycopg2
        from fix_hub import event_loops
        from psycogreen.asyncio import make_psycopg_green, spawn
        make_psycopg_green()

        def query(connection, sql):
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchone()[0]

        async def childs():
            connection = await spawn(psycopg2.connect, "{dsn}")
            return await asyncio.gather(*[spawn(query, connection, "SELECT 3 FROM pg_sleep(0.01)")])

        async def main():
            connection = await spawn(psycopg2.connect, "{dsn}")
            await spawn(query, connection, "SELECT 1")
            parked = asyncio.create_task(spawn(query, connection, "SELECT 7 FROM pg_sleep(0.3)"))
            await asyncio.sleep(0.05)
            loop = asyncio.get_running_loop()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    asyncio._set_running_loop(None)
                    assert event_loops().run(childs()) == [3]
                    code = 0
                finally:
                    os._exit(code)
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
            print(await parked)

        event_loops().run(main())
    """
    assert run_script(script, dsn=dsn) == "7"


def test_without_greenlet(run_script):
    script = """
        import sys
        sys.modules["greenlet"] = None
        try:
            import psycogreen.asyncio
        except ImportError as exc:
            print(exc)
    """
    assert "pip install psycogreen[asyncio]" in run_script(script)


def test_a_process_that_ends_with_parked_greenlets(run_script, dsn):
    script = """
        import asyncio, psycopg2
        from fix_hub import event_loops
        from psycogreen.asyncio import make_psycopg_green, spawn
        make_psycopg_green()
        loop = event_loops().new_event_loop()
        connection = loop.run_until_complete(spawn(psycopg2.connect, "{dsn}"))
        for _ in range(2):
            loop.run_until_complete(spawn(connection.cursor().execute, "SELECT 1"))
        task = loop.create_task(spawn(connection.cursor().execute, "SELECT pg_sleep(1)"))
        loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        print("ends")
    """
    assert run_script(script, dsn=dsn) == "ends"
