"""What can go wrong when parks do not go through the hub.

Each test stands for a way in which a reactor can lose, mix up or starve its
greenlets. They hold for the pure loop as well, which has no reactor.
"""

import contextlib
import copy
import gc
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time

import greenlet
import psycopg2
import pytest
from fix_hub import NAME
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, set_wait_callback

import psycogreen
from psycogreen._implementation import wait_callback

ON_ASYNCIO = NAME == "eventlet" and os.environ.get("EVENTLET_HUB") == "asyncio"

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]


class Pipe:
    """A connection of two sockets: ready when it is written to."""

    def __init__(self):
        self.mine, self.theirs = socket.socketpair()
        self.mine.setblocking(False)
        self.fd = self.mine.fileno()
        self.polls = 0

    def fileno(self):
        return self.fd

    def poll(self):
        self.polls += 1
        try:
            return 0 if self.mine.recv(1) else 1
        except BlockingIOError:
            return 1

    def answer(self):
        self.theirs.send(b"x")


@pytest.fixture
def pipe(hub):
    """Make pipes that the reactor knows: their first wait has ended well."""
    pipes = []

    def make():
        pipes.append(Pipe())
        for _ in range(2):
            task = hub.spawn(hub.wait_callback, pipes[-1])
            hub.sleep(0)
            pipes[-1].answer()
            task.wait()
        pipes[-1].polls = 0
        return pipes[-1]

    yield make
    for made in pipes:
        made.mine.close()
        made.theirs.close()


# Seconds of the processor that a sleep of 0.4 s may take. One that is woken
# again and again takes ten times as much, also where others want the processor.
SLEEP_TAKES = 0.02


def sleep_takes(hub):
    """Return the seconds of the processor that this process takes while all wait for 0.4 s."""
    begun = time.process_time()
    hub.sleep(0.4)
    return time.process_time() - begun


@pytest.fixture
def quick_collections():
    """What is there before the test is not looked at by gc.collect(), which it calls often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.core
@pytest.mark.skipif(psycogreen.implementation == "python" or sys.platform != "linux", reason="no reactor here")
def test_a_query_does_not_go_through_the_hubs_wait_functions(hub, connect):
    waits = []

    class Counting(type(hub.adapter._adapter)):
        def wait_read(self, fd, timeout):
            waits.append(fd)
            super().wait_read(fd, timeout)

    set_wait_callback(wait_callback(Counting())(hub.wait_callback.__wrapped__))
    cursor = hub.run(connect).cursor()
    assert waits  # it was connecting
    waits.clear()
    for _ in range(3):
        hub.run(cursor.execute, "SELECT pg_sleep(0.01)")
    assert not waits


def test_a_parked_greenlet_that_nobody_else_refers_to(hub, connect, quick_collections):
    results = []

    def query():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.1), 'answer'")
        results.append(cursor.fetchone()[1])

    connection = hub.run(connect)
    hub.call_soon(greenlet.greenlet(query, hub.run_in_hub(greenlet.getcurrent)).switch)
    for _ in range(20):
        hub.sleep(0)
        gc.collect()
    hub.wait_until(lambda: results)
    assert results == ["answer"]


def test_a_descriptor_that_is_used_again(hub, connect):
    def old_and_new():
        old = connect()
        query(old)
        fd = old.fileno()
        old.close()
        new = connect()
        assert new.fileno() == fd
        query(new)
        return old, new

    def query(connection):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_sleep(0.01)")

    old, new = hub.run(old_and_new)
    for cell in connect.__closure__:
        if isinstance(cell.cell_contents, list):
            cell.cell_contents.remove(old)
    task = hub.spawn(query, new)
    hub.sleep(0.005)
    del old  # while the new one is parked
    gc.collect()
    task.wait()


def test_the_descriptor_may_change_while_connecting(hub, green, fake_server, tcp_dsn):
    # libpq itself goes on to the next host: green connections try one at a time.
    hub.adapter.make_psycopg_green(connections=False)

    def not_yet(client, number):
        client.recv(1000)
        fields = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
        client.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)

    given = psycopg2.extensions.parse_dsn(tcp_dsn)
    starting = fake_server(not_yet)
    given.update(host="127.0.0.1,127.0.0.1", hostaddr="127.0.0.1,127.0.0.1", port=f"{starting.port},{given['port']}")

    def use():
        connection = psycopg2.connect(**given)
        cursor = connection.cursor()
        for number in range(3):
            cursor.execute("SELECT %s, pg_sleep(0.001)", (number,))
            assert cursor.fetchone()[0] == number
        connection.close()

    for _ in range(10):
        for task in [hub.spawn(use) for _ in range(5)]:
            task.wait()
    assert starting.accepted == 50


def test_an_idle_connection_that_the_server_closes(hub, connect):
    idle, other = hub.run(connect), hub.run(connect)

    def pid(connection):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

    doomed = hub.run(pid, idle)
    hub.run(lambda: other.cursor().execute("SELECT pg_terminate_backend(%s)", (doomed,)))
    hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
    assert sleep_takes(hub) < SLEEP_TAKES
    with pytest.raises(psycopg2.OperationalError):
        hub.run(pid, idle)


def test_an_idle_connection_that_is_notified(hub, connect, monkeypatch):
    ended = []
    monkeypatch.setattr(hub.adapter._Watch, "stop", ended.append)
    idle, other = hub.run(connect), hub.run(connect)
    idle.autocommit = other.autocommit = True

    def execute(connection, query):
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor

    for _ in range(3):
        hub.run(execute, idle, "LISTEN quiet")
    for _ in range(3):
        hub.run(execute, other, "NOTIFY quiet")
        hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
        assert sleep_takes(hub) < SLEEP_TAKES
        # The user's own wait for notifications stands beside the reactor.
        hub.run(hub.wait_readable, idle.fileno(), 5)
        assert hub.run(execute, idle, "SELECT pg_sleep(0.01), 7").fetchone()[1] == 7
        assert len(idle.notifies) == 1
        del idle.notifies[:]
    assert not ended  # the reactor had no need to begin anew


def test_an_idle_connection_that_is_notified_while_another_waits(hub, connect):
    idle, waiting, other = (hub.run(connect) for _ in range(3))

    def execute(connection, query, times=1):
        connection.autocommit = True
        for _ in range(times):
            connection.cursor().execute(query)

    for connection in idle, waiting:
        hub.run(execute, connection, "LISTEN quiet", 3)
    hub.run(execute, waiting, "UNLISTEN quiet")
    task = hub.spawn(execute, waiting, "SELECT pg_sleep(1)")
    # From a thread, so that it is the only event for this hub's reactor.
    hub.run_in_thread(execute, other, "NOTIFY quiet")
    hub.wait_until(lambda: select.select([idle], [], [], 0)[0])
    assert sleep_takes(hub) < SLEEP_TAKES
    task.wait()


def test_an_event_of_a_socket_that_was_replaced_in_the_same_batch(hub, pipe):
    first, second, third = pipe(), pipe(), pipe()

    def replace():
        hub.wait_callback(first)
        # The event of the second is fetched already. Its descriptor becomes a
        # silent one, for which this greenlet waits.
        os.dup2(third.fd, second.fd)
        third.fd = second.fd
        hub.wait_callback(third)

    task = hub.spawn(replace)
    hub.sleep(0)
    first.answer()
    second.answer()
    hub.wait_until(lambda: third.polls)
    for _ in range(5):
        hub.sleep(0)
    assert third.polls == 1
    third.answer()
    task.wait()
    assert third.polls == 2


def test_connections_that_another_greenlet_of_the_batch_frees(hub, green, dsn, quick_collections):
    def use(number):
        for _ in range(20):
            try:
                cursor = psycopg2.connect(dsn).cursor()
                for _ in range(3):
                    cursor.execute("SELECT pg_sleep(0.001)")
                if number % 2:
                    tasks[number - 1].kill(psycopg2.InterfaceError("killed"))
                del cursor
                gc.collect()
            except psycopg2.InterfaceError:
                pass

    tasks = [hub.spawn(use, number) for number in range(8)]
    for number, task in enumerate(tasks):
        task.join()
        if number % 2:
            task.wait()


def test_a_greenlet_that_dies_in_the_dispatch(hub, pipe, capfd):
    pipes = [pipe() for _ in range(6)]
    woken = []

    def run(number):
        hub.wait_callback(pipes[number])
        woken.append(number)
        if number % 2:
            raise ValueError(f"from number {number}")

    loop = hub.run_in_hub(greenlet.getcurrent)
    for number in range(6):
        hub.call_soon(greenlet.greenlet(run, loop).switch, number)
    hub.sleep(0.01)
    for ready in pipes:
        ready.answer()
    hub.wait_until(lambda: len(woken) == 6)
    reported = capfd.readouterr().err
    assert [number for number in range(6) if f"from number {number}" in reported] == [1, 3, 5]
    # And the reactor goes on.
    task = hub.spawn(hub.wait_callback, pipes[0])
    hub.sleep(0)
    pipes[0].answer()
    task.wait()


def test_large_results_leave_the_others_their_turn(hub, connect):
    def read():
        cursor = connect().cursor()
        cursor.execute("SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
        return sum(len(row[0]) for row in cursor)

    with hub.ticker(0.005) as ticker:
        tasks = [hub.spawn(read) for _ in range(4)]
        assert [task.wait() for task in tasks] == [50_000_000] * 4
    assert ticker.ticks > 20


# In gevent's debug mode: a loop that is destroyed takes with it the watchers that nobody can close any more.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function watcher.__del__")
def test_threads_with_hubs_of_their_own(hub, connect):
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
            results.append(run(query))
        finally:
            leave()

    def generation():
        threads = [threading.Thread(target=one_thread) for _ in range(5)]
        for thread in threads:
            thread.start()
        hub.wait_until(lambda: not any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()

    results = []
    generation()
    before = objects("Reactor"), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        generation()
    assert results == [True] * 20
    assert objects("Reactor") <= before[0]
    if not ON_ASYNCIO:  # eventlet does not close its loops
        assert len(os.listdir("/proc/self/fd")) <= before[1]


def objects(kind):
    """Return how many objects there are of a type with this name."""
    gc.collect()
    return sum(type(found).__name__ == kind for found in gc.get_objects())


@pytest.mark.skipif(psycogreen.implementation == "python" or sys.platform != "linux", reason="no reactor here")
def test_the_record_of_a_connection_goes_with_it(hub, green, dsn):
    connections = [psycopg2.connect(dsn) for _ in range(5)]
    for connection in connections:
        hub.run(connection.cursor().execute, "SELECT 1")
    with_them = objects("Socket")
    del connections, connection
    hub.wait_until(lambda: objects("Socket") <= with_them - 3)  # the reactor keeps the last ones


def script(body, **environ):
    """Run *body* in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(body)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout


PREPARE = {
    "gevent": """
        import gevent, gevent.os
        from psycogreen.gevent import make_psycopg_green
        spawn, sleep, fork = gevent.spawn, gevent.sleep, gevent.os.fork_gevent
        def wait(task): return task.get()
        def renew(): pass
    """,
    "eventlet": """
        import eventlet, eventlet.hubs
        from psycogreen.eventlet import make_psycopg_green
        spawn, sleep, fork = eventlet.spawn, eventlet.sleep, os.fork
        def wait(task): return task.wait()
        def renew(): eventlet.hubs.use_hub()
    """,
    "asyncio": """
        import asyncio, os
        from psycogreen.asyncio import make_psycopg_green, spawn as spawned
        if os.environ.get("PSYCOGREEN_TEST_LOOP") == "uvloop":
            from uvloop import new_event_loop
        else:
            from asyncio import new_event_loop
        loop, fork = new_event_loop(), os.fork
        def spawn(*args): return loop.create_task(spawned(*args))
        def sleep(seconds): loop.run_until_complete(asyncio.sleep(seconds))
        def wait(task): return loop.run_until_complete(task)
        def renew():
            global loop
            loop = new_event_loop()
    """,
}
COMMON = """
    import os, sys, time, gc, greenlet, psycopg2, select
    {}
    make_psycopg_green()
    def query(connection, sql="SELECT 1", times=3):
        cursor = connection.cursor()
        for _ in range(times):
            cursor.execute(sql)
        return cursor.fetchone()[0]
"""


def prepared(body):
    head = textwrap.dedent(COMMON).format(textwrap.dedent(PREPARE[NAME]))
    return head + textwrap.dedent(body)


@pytest.mark.skipif(NAME != "gevent", reason="this hub does not end by itself")
def test_the_hub_ends_beside_idle_connections(dsn):
    script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            begun = time.monotonic()
            assert gevent.wait(timeout=20)
            assert gevent.get_hub().join(timeout=20)
            assert time.monotonic() - begun < 10
            # A single greenlet that is parked is no reason for LoopExit.
            connection = psycopg2.connect(os.environ["DSN"])
            assert query(connection, "SELECT 5 FROM pg_sleep(0.1)") == 5
        """),
        DSN=dsn,
    )


@pytest.mark.skipif(NAME != "gevent", reason="this hub does not end by itself")
def test_the_hub_ends_beside_a_connection_that_was_never_used(dsn):
    script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            begun = time.monotonic()
            assert gevent.wait(timeout=20)
            assert gevent.get_hub().join(timeout=20)
            assert time.monotonic() - begun < 10
        """),
        DSN=dsn,
    )


@pytest.mark.skipif(ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced")
def test_fork(dsn):
    printed = script(
        prepared("""
            connections = [wait(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(5)]
            for connection in connections:
                wait(spawn(query, connection))
            parked = spawn(query, connections[0], "SELECT 7 FROM pg_sleep(0.5)", 1)
            sleep(0.1)
            child = fork()
            if child == 0:
                code = 1
                try:
                    renew()
                    # One that the parent leaves to it, and one that the parent goes on to use.
                    assert wait(spawn(query, connections.pop(), "SELECT 3 FROM pg_sleep(0.01)")) == 3
                    connection = None
                    connections.pop()
                    gc.collect()
                    for _ in range(3):
                        connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
                        assert wait(spawn(query, connection, "SELECT 3 FROM pg_sleep(0.01)")) == 3
                        connection.close()
                        gc.collect()
                    code = 0
                finally:
                    os._exit(code)
            connection = None
            given = connections.pop()
            assert wait(parked) == 7
            for connection in connections:
                assert wait(spawn(query, connection, "SELECT 4 FROM pg_sleep(0.01)")) == 4
            while True:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    break
                sleep(0.01)
            for connection in connections:
                assert wait(spawn(query, connection, "SELECT 4 FROM pg_sleep(0.01)")) == 4
            print("child", status)
        """),
        DSN=dsn,
    )
    assert printed == "child 0\n"


# The child, in which nothing is due, prints what CPU time its sleep took.
FORK_BESIDE_A_PARKED_GREENLET = """\
task = spawn(query, connection, "SELECT 7 FROM pg_sleep(0.1)", 1)
sleep(0.05)
child = fork()
if child == 0:
    renew()
    sleep(0.1)
    begun = time.process_time()
    sleep(0.4)
    print(time.process_time() - begun, flush=True)
    os._exit(0)
os.waitpid(child, 0)  # the answer waits meanwhile
assert wait(task) == 7
"""


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub's watchers are in its child too")
@pytest.mark.skipif(ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced")
def test_a_child_is_not_woken_by_what_comes_for_the_parent(dsn):
    printed = script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            FORK
        """).replace("FORK", FORK_BESIDE_A_PARKED_GREENLET),
        DSN=dsn,
    )
    assert float(printed) < SLEEP_TAKES


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub's watchers are in its child too")
@pytest.mark.skipif(NAME == "asyncio" or ON_ASYNCIO, reason="no loop of asyncio's runs in the child of a fork")
def test_a_child_of_a_process_with_several_hubs(dsn):
    printed = script(
        prepared("""
            import threading
            def other_hub():
                connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
                wait(spawn(query, connection))
                there.set()
                os.read(reading, 1)  # it keeps its hub
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            reading, writing = os.pipe()
            there, threads = threading.Event(), []
            for _ in range(2):
                there.clear()
                threads.append(threading.Thread(target=other_hub))
                threads[-1].start()
                there.wait()
            FORK
            os.write(writing, b"xx")
            for thread in threads:
                thread.join()
        """).replace("FORK", FORK_BESIDE_A_PARKED_GREENLET),
        DSN=dsn,
    )
    assert float(printed) < SLEEP_TAKES


@pytest.mark.skipif(sys.platform != "linux", reason="no epoll here")
def test_the_epoll_instances_of_a_child(dsn):
    script(
        prepared("""
            def instances():
                found = {}
                for fd in map(int, os.listdir("/proc/self/fd")):
                    if os.path.lexists(f"/proc/self/fd/{fd}") and "eventpoll" in os.readlink(f"/proc/self/fd/{fd}"):
                        found[fd] = os.get_inheritable(fd)
                return found
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            before = instances()
            child = os.fork()
            if child == 0:
                after = instances()
                os._exit(after.keys() > before.keys() or any(after.values()))
            assert os.waitpid(child, 0)[1] == 0
        """),
        DSN=dsn,
    )


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub's own wait does not survive the hub")
@pytest.mark.skipif(NAME == "asyncio" or ON_ASYNCIO, reason="a loop ends its greenlets when it is closed")
@pytest.mark.skipif(os.environ.get("GEVENT_LOOP", "").endswith("cffi"), reason="it tells of watchers that outlive it")
def test_a_kill_in_a_hub_that_was_replaced(dsn):
    replace = {
        "gevent": "gevent.get_hub().destroy(destroy_loop=True)",
        "eventlet": "eventlet.hubs.use_hub()",
    }[NAME]
    script(
        prepared("""
            def parked():
                try:
                    query(connection, "SELECT pg_sleep(0.3)", 1)
                except BaseException as exc:
                    ended.append(exc)
            ended, thrown = [], ValueError("killed")
            make_psycopg_green(cancel=False)
            connection, other = (wait(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2))
            for known in (connection, other):
                wait(spawn(query, known))
            task = spawn(parked)
            while connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_ACTIVE:
                sleep(0.01)
            REPLACE
            wait(spawn(query, other))
            task.parent = greenlet.getcurrent()
            greenlet.greenlet.throw(task, thrown)
            assert ended == [thrown], ended
            assert connection.closed
            assert wait(spawn(query, other)) == 1
        """).replace("REPLACE", replace),
        DSN=dsn,
    )


def test_a_descriptor_that_a_child_still_holds(dsn):
    printed = script(
        prepared("""
            held, other = (wait(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2))
            pid = wait(spawn(query, held, "SELECT pg_backend_pid()"))
            wait(spawn(query, other))
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os.close(reading)
            fd = held.fileno()
            held.close()  # the server answers by closing its end
            replacement = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            for _ in range(3):
                assert wait(spawn(query, replacement, "SELECT 8 FROM pg_sleep(0.02)")) == 8
            assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.01)")) == 9
            begun = time.process_time()
            sleep(0.4)
            print(time.process_time() - begun)
            for connection in (other, replacement):
                assert wait(spawn(query, connection, "SELECT 9 FROM pg_sleep(0.01)")) == 9
            os.close(writing)
            os.waitpid(child, 0)
        """),
        DSN=dsn,
    )
    assert float(printed) < SLEEP_TAKES


def test_a_closed_descriptor_that_has_a_duplicate(hub, connect):
    def query(connection):
        for _ in range(2):
            connection.cursor().execute("SELECT pg_sleep(0.01)")

    held, other = hub.run(connect), hub.run(connect)
    hub.run(query, held)
    hub.run(query, other)
    before = hub.watched(), len(os.listdir("/proc/self/fd"))
    duplicate = os.dup(held.fileno())
    held.close()  # the server answers by closing its end
    hub.wait_until(lambda: select.select([duplicate], [], [], 0)[0])
    assert sleep_takes(hub) < SLEEP_TAKES
    hub.run(query, other)
    # The reactor began anew, and nothing of what it was is left.
    assert (hub.watched(), len(os.listdir("/proc/self/fd"))) == before
    os.close(duplicate)


@pytest.mark.skipif(ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced")
def test_a_hub_that_is_replaced(dsn):
    replace = {
        "gevent": "gevent.get_hub().destroy(destroy_loop=True)",
        "eventlet": "eventlet.hubs.use_hub()",
        "asyncio": "renew()",
    }[NAME]
    printed = script(
        prepared("""
            import threading
            def use():
                connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
                for connection in [connection, kept]:
                    assert wait(spawn(query, connection, "SELECT 6 FROM pg_sleep(0.01)")) == 6
                    assert query(connection, "SELECT 6 FROM pg_sleep(0.01)") == 6
            kept = psycopg2.connect(os.environ["DSN"])
            use()
            for _ in range(3):
                REPLACE
                use()
            print("used")
        """).replace("REPLACE", replace),
        DSN=dsn,
    )
    assert printed == "used\n"


def test_a_connection_that_moves_between_threads(hub, connect):
    def query(connection, number):
        cursor = connection.cursor()
        cursor.execute("SELECT %s, pg_sleep(0.002)", (number,))
        return cursor.fetchone()[0]

    connection = hub.run(connect)
    for number in range(10):
        assert hub.run(query, connection, number) == number
        assert hub.run_in_thread(query, connection, number) == number


def test_twice_the_same_socket(hub, pipe):
    one = pipe()
    two = copy.copy(one)
    for waited in (two, one, two, one):
        task = hub.spawn(hub.wait_callback, waited)
        hub.sleep(0)
        one.answer()
        task.wait()


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
def test_a_reactor_that_is_replaced_in_its_own_dispatch(dsn):
    later = {
        "gevent": "gevent.get_hub().loop.run_callback",
        "eventlet": "(lambda end: eventlet.hubs.get_hub().schedule_call_global(0, end))",
    }[NAME]
    printed = script(
        prepared("""
            def end():
                print("ended", flush=True)
                os._exit(0)
            class Done:
                def poll(self):
                    return 0
            def in_the_dispatch():
                query(connection, "SELECT pg_sleep(0.1)")
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                else:
                    LATER(end)
                    renew()
                    spawn(int)
                    psycopg2.extensions.get_wait_callback()(Done())
                    gc.collect()
                    # Here the hub takes up the dispatch that it was in.
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            wait(spawn(in_the_dispatch))
        """).replace("LATER", later),
        DSN=dsn,
        PYTHONMALLOC="debug",
    )
    assert printed == "ended\n"


@pytest.mark.skipif(NAME == "asyncio" or ON_ASYNCIO, reason="no loop of asyncio's runs in the child of a fork")
def test_a_child_that_waits_in_the_dispatch_of_its_parent(dsn):
    printed = script(
        prepared("""
            def in_the_dispatch():
                query(connection, "SELECT pg_sleep(0.1)")
                child = fork()
                if child == 0:
                    code = 1
                    try:
                        renew()
                        assert query(given, "SELECT 3 FROM pg_sleep(0.01)") == 3
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
                return query(connection, "SELECT 4 FROM pg_sleep(0.01)")
            connection, given = (wait(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2))
            for known in (connection, given):
                wait(spawn(query, known))
            print(wait(spawn(in_the_dispatch)))
        """),
        DSN=dsn,
    )
    assert printed == "4\n"


@pytest.mark.skipif(psycogreen.implementation == "python", reason="no batches here")
@pytest.mark.skipif(NAME == "asyncio" or ON_ASYNCIO, reason="no loop of asyncio's runs in the child of a fork")
def test_a_child_does_not_wake_who_waits_in_its_parent(dsn):
    later = {
        "gevent": "gevent.get_hub().loop.run_callback",
        "eventlet": "(lambda *call: eventlet.hubs.get_hub().schedule_call_global(0, *call))",
    }[NAME]
    printed = script(
        prepared("""
            import socket
            class Pipe:
                def __init__(self):
                    self.mine, self.theirs = socket.socketpair()
                    self.mine.setblocking(False)
                    self.polls = 0
                def fileno(self):
                    return self.mine.fileno()
                def poll(self):
                    self.polls += 1
                    try:
                        return 0 if self.mine.recv(1) else 1
                    except BlockingIOError:
                        return 1
            def forks():
                wait_callback(pipes[0])
                child = os.fork()
                if child:
                    return os.waitpid(child, 0)[1]
                LATER(os._exit, 0)
                # Here the child goes on in the batch, in which the other is, too.
            def other():
                wait_callback(pipes[1])
                if os.getpid() != parent:
                    os._exit(1)
                return "woken"
            wait_callback = psycopg2.extensions.get_wait_callback()
            parent = os.getpid()
            pipes = [Pipe() for _ in range(2)]
            for pipe in pipes:
                for _ in range(2):
                    task = spawn(wait_callback, pipe)
                    sleep(0)
                    pipe.theirs.send(b"x")
                    wait(task)
                pipe.polls = 0
            tasks = [spawn(forks), spawn(other)]
            while not all(pipe.polls for pipe in pipes):
                sleep(0)
            for pipe in pipes:
                pipe.theirs.send(b"x")
            assert wait(tasks[0]) == 0
            print(wait(tasks[1]))
        """).replace("LATER", later),
        DSN=dsn,
    )
    assert printed == "woken\n"


@pytest.mark.skipif(NAME != "gevent", reason="this hub does not end by itself")
def test_the_hub_ends_after_a_query_that_was_cut_short(dsn):
    script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            task = spawn(query, connection, "SELECT pg_sleep(30)")
            sleep(0.05)
            task.kill()
            def fail():
                query(connection, "SELECT pg_sleep(0.05)", 1)
                failed.append(True)
                raise ValueError
            connection, failed, hub = wait(spawn(psycopg2.connect, os.environ["DSN"])), [], gevent.get_hub()
            wait(spawn(query, connection))
            hub.NOT_ERROR += (ValueError,)  # it need not say so
            hub.loop.run_callback(greenlet.greenlet(fail, hub).switch)
            while not failed:
                sleep(0.01)
            begun = time.monotonic()
            assert gevent.wait(timeout=20)
            assert hub.join(timeout=20)
            assert time.monotonic() - begun < 10
        """),
        DSN=dsn,
    )


@pytest.mark.skipif(NAME != "gevent", reason="this hub does not end by itself")
def test_the_hub_ends_after_a_kill_that_nothing_follows(dsn):
    script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            make_psycopg_green(cancel=False)
            task = spawn(query, connection, "SELECT pg_sleep(30)", 1)
            while connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_ACTIVE:
                sleep(0.01)
            task.kill()
            assert connection.closed
            begun = time.monotonic()
            assert gevent.wait(timeout=20)
            assert gevent.get_hub().join(timeout=20)
            assert time.monotonic() - begun < 10
        """),
        DSN=dsn,
    )


@pytest.mark.parametrize("last", ["wait(task)", "sleep(0.05)"], ids=["idle", "parked"])
def test_a_process_ends_in_silence(last, dsn):
    script(
        prepared("""
            connection = wait(spawn(psycopg2.connect, os.environ["DSN"]))
            wait(spawn(query, connection))
            task = spawn(query, connection, "SELECT pg_sleep(0.2)", 1)
            LAST
        """).replace("LAST", last),
        DSN=dsn,
    )


def test_two_greenlets_that_wait_for_one_connection(hub, pipe, connect):
    # The first of the two to poll would take the other's answer.
    shared = pipe()
    task = hub.spawn(hub.wait_callback, shared)
    hub.wait_until(lambda: shared.polls)
    with pytest.raises(psycopg2.ProgrammingError, match="^the wait callback cannot be used while another greenlet"):
        hub.run(hub.wait_callback, shared)
    shared.answer()
    task.wait()

    # And the query under way goes on.
    connection = hub.run(connect)
    for _ in range(2):  # before and after the reactor knows it
        cursor = connection.cursor()
        task = hub.spawn(cursor.execute, "SELECT pg_sleep(0.2), 'answer'")
        hub.wait_until(lambda: connection.get_transaction_status() == TRANSACTION_STATUS_ACTIVE)
        with pytest.raises(psycopg2.ProgrammingError):
            hub.run(hub.wait_callback, connection)
        task.wait()
        assert cursor.fetchone()[1] == "answer"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_signal_handler_that_raises_in_the_hub(kind, hub, connect, monkeypatch, capfd):
    if (ON_ASYNCIO or NAME == "asyncio") and kind is KeyboardInterrupt:
        pytest.skip("an interrupt ends asyncio's loop")
    hold = hub.adapter._Watch.set_ref
    due = []

    def struck(watch, awaited):
        hold(watch, awaited)
        if not awaited and due:
            due.clear()
            raise kind("from a signal handler")

    monkeypatch.setattr(hub.adapter._Watch, "set_ref", struck)

    def query():
        cursor = connection.cursor()
        for number in range(3):
            cursor.execute("SELECT %s, pg_sleep(0.01)", (number,))
            hub.sleep(0)
        return cursor.fetchone()[0]

    connection = hub.run(connect)
    hub.run(query)
    due.append(True)
    # Here, where the hub has nothing else to wait for.
    if kind is KeyboardInterrupt and psycogreen.implementation == "cython":
        with pytest.raises(KeyboardInterrupt):  # the hub hands it on to the main greenlet
            query()
    else:
        query()
    assert query() == 2
    assert not due or psycogreen.implementation == "python"
    capfd.readouterr()  # the hub's report


def test_a_connection_that_goes_on_with_another_socket_under_the_same_number(hub, pipe):
    moving, other = pipe(), pipe()
    os.dup2(other.mine.fileno(), moving.fd)
    task = hub.spawn(hub.wait_callback, moving)
    hub.sleep(0)
    other.answer()
    task.wait()


@pytest.mark.skipif(psycogreen.implementation == "python", reason="libev, which then does the same, gives up")
@pytest.mark.skipif(os.environ.get("PSYCOGREEN_TEST_LOOP") == "uvloop", reason="uvloop needs descriptors to run at all")
def test_no_descriptor_is_free_when_the_reactor_begins_anew(dsn):
    # A child holds a closed connection, of which epoll goes on to tell.
    printed = script(
        prepared("""
            import resource
            held, other = (wait(spawn(psycopg2.connect, os.environ["DSN"])) for _ in range(2))
            wait(spawn(query, held))
            wait(spawn(query, other))
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            task = spawn(query, other, "SELECT 9 FROM pg_sleep(0.3)", 1)
            sleep(0.1)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            held.close()
            assert wait(task) == 9
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.1)")) == 9
            os.close(writing)
            os.waitpid(child, 0)
            print("answered")
        """),
        DSN=dsn,
    )
    assert printed == "answered\n"


def test_many_large_results_leave_the_others_their_turn(hub, pipe):
    def read_on():
        # There is always more.
        return 1 if time.process_time() < end else 0

    pipes = [pipe() for _ in range(40)]
    for large in pipes:
        large.poll = read_on
        large.answer()
    end = time.process_time() + 0.5  # of this process alone, whoever else is on the machine
    with hub.ticker(0.001) as ticker:
        for task in [hub.spawn(hub.wait_callback, large) for large in pipes]:
            task.wait()
    # 12 if each had a turn of its own.
    assert ticker.ticks > 30


class Large(Pipe):
    """A pipe whose answer comes in many pieces, one a poll."""

    def __init__(self):
        super().__init__()
        #: Polls that found nothing to read.
        self.futile = 0
        #: What to call at each poll.
        self.each = lambda: None

    def poll(self):
        self.polls += 1
        self.each()
        try:
            return 0 if self.mine.recv(1) == b"x" else 1
        except BlockingIOError:
            self.futile += 1
            return 1

    def piece(self, count=1):
        self.theirs.send(b"." * count)


@pytest.fixture
def large(hub, pipe, monkeypatch):
    """A large result that is under way: its greenlet is parked."""
    monkeypatch.setitem(globals(), "Pipe", Large)
    result = pipe()
    task = hub.spawn(hub.wait_callback, result)
    hub.wait_until(lambda: result.polls)
    result.polls = result.futile = 0
    yield result
    result.each = lambda: None
    result.answer()
    task.wait()


def read_by(hub, large, polls):
    """Wait until *large* was polled so often and has parked again."""
    hub.wait_until(lambda: large.polls >= polls and not select.select([large], [], [], 0)[0])


def test_polls_of_a_large_result_that_find_nothing(hub, large):
    for _ in range(10):
        # One that has gone well for long is not asked any more whether there is more, for a while.
        polls = large.polls
        large.piece(1000)
        read_by(hub, large, polls + 1000)
        assert large.futile <= 7
        # But the next time it is, at first.
        for pieces, futile in (1, 0), (2, 1):
            large.futile = 0
            polls = large.polls
            large.piece(pieces)
            read_by(hub, large, polls + pieces)
            assert large.futile <= futile
        large.futile = 0


def test_polls_of_a_large_result_after_its_turn(hub, large):
    def take_the_turn():
        begun = time.monotonic()
        while time.monotonic() - begun < 0.002:
            pass

    for _ in range(3):
        polls = large.polls
        large.each = take_the_turn
        large.piece(2)
        read_by(hub, large, polls + 2)
        large.each = lambda: None
        large.futile = 0
        large.piece()
        read_by(hub, large, polls + 3)
        assert large.futile == 0


def test_slow_polls_leave_the_others_their_turn(hub, large):
    in_turns = [0]

    def note():
        in_turns[-1] += 1
        begun = time.monotonic()
        while time.monotonic() - begun < 0.002:
            pass

    large.each = note
    large.piece(50)
    while large.polls < 50:
        hub.sleep(0)
        in_turns.append(0)
    assert max(in_turns) <= 2


@pytest.mark.skipif(psycogreen.implementation == "python", reason="it parks for each piece")
def test_a_large_result_is_read_on(hub, large):
    turns = 0
    seen = []
    large.each = lambda: seen.append(turns)
    # When other processes have the processor meanwhile its time is over sooner.
    for turn in range(50):
        polls = large.polls
        seen.clear()
        large.piece(20)
        while large.polls < polls + 20:
            hub.sleep(0)
            turns += 1
        if turn and len(set(seen[:20])) == 1:
            break
        read_by(hub, large, polls + 20)
    else:
        pytest.fail("each piece had a turn of its own")


def test_in_the_hubs_own_greenlet(hub, pipe):
    silent = pipe()

    def error(*call):
        with pytest.raises(BaseException) as raised:
            hub.run_in_hub(*call)
        return raised.type, str(raised.value)

    assert error(hub.wait_callback, silent) == error(hub.wait_readable, silent.fd)


@pytest.mark.parametrize("when", ["set_ref", "switch"])
def test_a_signal_handler_that_waits_where_its_greenlet_is_about_to(when, hub, connect, monkeypatch):
    if when == "switch" and NAME == "asyncio":
        pytest.skip("its greenlets switch to the loop directly")
    # So may a __del__. Its wait must not use up what wakes the greenlet.
    connection, other = hub.run(connect), hub.run(connect)
    due = []

    def query(connection, sql):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute(sql)
        return cursor.fetchone()[0]

    def struck(*args):
        if due:
            due.clear()
            assert query(other, "SELECT 2 FROM pg_sleep(0.05)") == 2
        return real(*args)

    def waiting():
        due.append(True)
        return query(connection, "SELECT 1")

    hub.run(query, connection, "SELECT 1")
    hub.run(query, other, "SELECT 1")
    target = hub.adapter._Watch if when == "set_ref" else type(hub.adapter._adapter)
    real = getattr(target, when)
    monkeypatch.setattr(target, when, struck)
    if when == "set_ref":
        assert hub.run(waiting) == 1
    else:  # in the main greenlet, which switches to the hub in the hub's own way
        assert hub.program(waiting) == 1
    assert not due or psycogreen.implementation == "python"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_signal_handler_that_raises_while_the_hub_reports(kind, hub, pipe, monkeypatch, capfd):
    if (ON_ASYNCIO or NAME == "asyncio") and kind is KeyboardInterrupt:
        pytest.skip("an interrupt ends asyncio's loop")

    def struck(*args):
        monkeypatch.undo()
        raise kind("from a signal handler")

    def fail():
        hub.wait_callback(failing)
        failed.append(True)
        raise ZeroDivisionError

    failing, other, failed = pipe(), pipe(), []
    monkeypatch.setattr(type(hub.adapter._adapter), "handle_error", struck)
    hub.call_soon(greenlet.greenlet(fail, hub.run_in_hub(greenlet.getcurrent)).switch)
    hub.sleep(0.01)
    failing.answer()
    with contextlib.suppress(KeyboardInterrupt):  # the hub hands it on to the main greenlet
        hub.wait_until(lambda: failed)
        hub.sleep(0.01)
    task = hub.spawn(hub.wait_callback, other)
    hub.sleep(0.01)
    other.answer()
    task.wait()
    capfd.readouterr()  # the hub's report


@pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub knows descriptors by their numbers alone")
def test_a_descriptor_that_is_anothers_when_its_waiter_is_killed(hub, pipe):
    old = pipe()
    killed = hub.spawn(hub.wait_callback, old)
    hub.wait_until(lambda: old.polls)
    # As when a greenlet closes the connection for which another waits.
    old.mine.close()
    new = pipe()
    assert new.fd == old.fd
    task = hub.spawn(hub.wait_callback, new)
    hub.wait_until(lambda: new.polls)
    killed.kill(psycopg2.InterfaceError("killed"))
    with pytest.raises(psycopg2.InterfaceError):
        killed.wait()
    new.answer()
    task.wait()


def ends_of_watches(hub, monkeypatch):
    """Return a list of the watches that end from now on."""
    stop, ended = hub.adapter._Watch.stop, []

    def stopped(watch):
        ended.append(watch)
        stop(watch)

    monkeypatch.setattr(hub.adapter._Watch, "stop", stopped)
    return ended


def test_a_killed_query_whose_descriptor_has_a_duplicate(hub, green, dsn, monkeypatch):
    # Alone, without the cancel request: the server's answer comes to the duplicate.
    hub.adapter.make_psycopg_green(connections=False)
    connections = [hub.run(psycopg2.connect, dsn) for _ in range(2)]

    def query(connection, seconds):
        connection.cursor().execute("SELECT pg_sleep(%s)", (seconds,))

    for connection in connections:
        for _ in range(2):
            hub.run(query, connection, 0.001)
    killed, other = connections
    duplicate = os.dup(killed.fileno())
    ended = ends_of_watches(hub, monkeypatch)
    task = hub.spawn(query, killed, 0.1)
    hub.wait_until(lambda: killed.get_transaction_status() == TRANSACTION_STATUS_ACTIVE)
    task.kill(psycopg2.InterfaceError("killed"))
    with pytest.raises(psycopg2.InterfaceError):
        task.wait()
    assert killed.closed
    hub.wait_until(lambda: select.select([duplicate], [], [], 0)[0])
    for _ in range(5):
        hub.run(query, other, 0.001)
    os.close(duplicate)
    other.close()
    assert not ended  # the reactor had no need to begin anew


@pytest.mark.skipif(
    psycogreen.implementation == "python" and NAME == "eventlet", reason="eventlet refuses a second reader"
)
def test_one_socket_for_which_two_wait_at_once(hub, pipe):
    one = pipe()
    two = copy.copy(one)
    task = hub.spawn(hub.wait_callback, two)
    hub.sleep(0)
    one.answer()
    task.wait()
    one.polls = two.polls = 0
    tasks = [hub.spawn(hub.wait_callback, waited) for waited in (one, two)]
    hub.wait_until(lambda: one.polls and two.polls)
    for _ in tasks:
        one.answer()
    for task in tasks:
        task.wait()


@pytest.mark.skipif(psycogreen.implementation == "python", reason="no reactor here")
def test_a_waiter_of_a_closed_socket_when_the_reactor_begins_anew(hub, pipe):
    lost, held = pipe(), pipe()
    task = hub.spawn(hub.wait_callback, lost)
    hub.wait_until(lambda: lost.polls)
    duplicate = os.dup(held.fd)
    lost.mine.close()
    held.mine.close()
    held.answer()  # of which epoll goes on to tell
    with pytest.raises(OSError, match="Bad file descriptor"):
        task.wait()
    os.close(duplicate)


def test_sockets_that_are_closed_in_the_batch_that_tells_of_them(hub, pipe, monkeypatch):
    ended = ends_of_watches(hub, monkeypatch)
    waited, other = pipe(), pipe()

    def wait_and_close(closed):
        hub.wait_callback(waited)
        closed.mine.close()

    for _ in range(4):
        waited.polls, closed = 0, pipe()
        task = hub.spawn(wait_and_close, closed)
        hub.wait_until(lambda: waited.polls)
        waited.answer()
        closed.answer()
        task.wait()
        # And one of which there is nothing to be said.
        other.polls = 0
        task = hub.spawn(hub.wait_callback, other)
        hub.wait_until(lambda: other.polls)
        other.answer()
        task.wait()
    assert not ended  # the reactor had no need to begin anew


@pytest.mark.skipif(NAME == "asyncio", reason="asyncio's loop has no hooks")
def test_a_greenlet_with_the_hook_of_hubs(hub, connect):
    class Hooked(greenlet.greenlet):
        def switch_out(self):
            switched.append(self)

    def several():
        cursor = connection.cursor()
        for _ in range(4):
            cursor.execute("SELECT pg_sleep(0.01)")
        done.append(True)

    connection, switched, done = hub.run(connect), [], []
    hub.run(several)  # in a greenlet without it
    done.clear()
    hub.call_soon(Hooked(several, hub.run_in_hub(greenlet.getcurrent)).switch)
    hub.wait_until(lambda: done)
    assert len(switched) >= 4
