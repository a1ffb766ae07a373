"""The client of soak.py: full load on one hub while everything goes wrong, in a process of its own.

``soak_client.py OPTIONS``: a JSON object, with among others the routes: each has a name, a
DSN and the abilities of its server. Once a second the program prints its state as JSON.
When standard input ends, it ends its greenlets and prints what they left behind.

Each of many greenlets uses one connection after the other and checks every result:
each row names the greenlet that asked for it. A timeout ends a call that takes longer
than BOUND seconds. Meanwhile greenlets are killed, other greenlets close connections,
queries are cancelled, connections dropped, no descriptors are free, and the garbage
collector runs. The program ends with status 2 after a wrong result, and with 3 if a
call hung.
"""

import collections
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import psycopg2
from hubs.contract import Hub
from psycopg2 import errors
from support.leaks import count_descriptors, objects
from support.tickers import hide_from_collector

import psycogreen

# Seconds. The hub's own timeout ends each action after BOUND. An action that has not
# ended HANGS later hangs.
BOUND = 5.0
HANGS = 10.0
# Many small queries end after SHORT: on a busy machine, or through a slow network, they would take longer than BOUND.
SHORT = 3.0
KINDS = ("Reactor", "Socket", "Greenlet", "GreenThread", "greenlet", "GreenConnection", "DefaultCursor", "_Request")


class Killed(BaseException):
    """Kills greenlets. Code that catches Exception does not catch it."""


class Worker:
    """A sequence of greenlets, one at a time, on a sequence of connections."""

    def __init__(self, soak: "Soak", number: int, route: dict[str, Any]) -> None:
        self.soak, self.route = soak, route
        self.random = random.Random(f"{soak.seed} {number}")
        self.asker = f"{soak.seed}-{number}"
        self.connection: Any = None
        #: When the present action began, and its name.
        self.since = time.monotonic()
        self.action = ""

    def start(self) -> None:
        self.since = time.monotonic()
        self.task = self.soak.hub.spawn(self.run)

    def run(self) -> None:
        while not self.soak.over:
            session = self.route["session"]
            left_out = self.soak.left_out if session else self.soak.left_out | IN_SESSIONS
            possible = {each: weight for each, weight in ACTIONS.items() if each not in left_out}
            (action,) = self.random.choices(list(possible), list(possible.values()))
            self.action, self.since = action.__name__, time.monotonic()
            limit = self.soak.hub.Timeout(BOUND)
            try:
                with limit:
                    if self.connection is None or self.connection.closed:
                        self.connect()
                    action(self)
                self.soak.count[action.__name__] += 1
            except self.soak.hub.Timeout as exc:
                if exc is not limit:
                    raise
                self.soak.count["out of time"] += 1
                self.connection = None
            except psycopg2.Error as exc:
                self.failed(exc)

    def failed(self, exc: psycopg2.Error) -> None:
        name = type(exc).__name__
        self.soak.errors[name] += 1
        self.soak.note_provoked(exc)
        stray_cancel = (
            isinstance(exc, errors.QueryCanceled) and "user request" in str(exc) and not self.route["cancelled"]
        )
        expected = psycopg2.OperationalError, psycopg2.InterfaceError, errors.IdleInTransactionSessionTimeout
        if stray_cancel or not isinstance(exc, expected):
            out = io.StringIO()
            traceback.print_exception(exc, file=out)
            self.soak.unexpected.append(f"{self.route['name']}, {self.action}: {out.getvalue()}")
        connection = self.connection
        if connection is not None and not connection.closed and isinstance(exc, psycopg2.OperationalError):
            # As programs do: roll back after an error of the server, and go on with the connection.
            try:
                connection.rollback()
                connection.autocommit = True
            except psycopg2.Error:
                self.connection = None
        else:
            self.connection = None
        self.soak.hub.sleep(0.01)  # actions that fail at once, as without descriptors, would let no other greenlet run

    def connect(self) -> None:
        self.connection = None
        connection = psycopg2.connect(self.route["dsn"], connect_timeout=3, application_name=self.route["name"])
        connection.autocommit = True
        self.connection = connection

    def execute(self, query: str, *args: Any) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(query, args or None)
        self.soak.queries += 1
        return cursor

    def expect(self, seen: Any, wanted: Any) -> None:
        if seen != wanted:
            print(f"WRONG RESULT in {self.action}: {seen!r:.300}, not {wanted!r:.300}", file=sys.stderr, flush=True)
            os._exit(2)

    def small(self) -> None:
        enough = time.monotonic() + SHORT
        for n in range(200):
            if time.monotonic() > enough:
                break
            self.expect(self.execute("SELECT %s, %s::int", self.asker, n).fetchone(), (self.asker, n))

    def rows(self) -> None:
        count = self.random.randrange(1, 1000)
        seen = self.execute("SELECT %s, generate_series(1, %s)", self.asker, count).fetchall()
        self.expect(seen, [(self.asker, n) for n in range(1, count + 1)])

    def large(self) -> None:
        size = self.random.randrange(2_000_000)
        self.expect(len(self.execute("SELECT repeat('x', %s)", size).fetchone()[0]), size)

    def parameter(self) -> None:
        # More than a socket buffer holds, so that this greenlet waits to write.
        text = self.asker * self.random.randrange(30_000)
        self.expect(self.execute("SELECT length(%s)", text).fetchone()[0], len(text))

    def slow(self) -> None:
        seconds = self.random.random() / 20
        self.expect(self.execute("SELECT %s FROM pg_sleep(%s)", self.asker, seconds).fetchone()[0], self.asker)

    def refused(self) -> None:
        try:
            self.execute("SELECT 1 / 0")
        except errors.DivisionByZero:
            return
        raise AssertionError("no error")

    def statement_timeout(self) -> None:
        try:
            self.execute("SET LOCAL statement_timeout = 10; SELECT pg_sleep(1)")
        except errors.QueryCanceled as exc:
            self.soak.provoked["statement timeout"] += 1
            if "statement timeout" not in str(exc) and not self.route["cancelled"]:
                raise

    def temp_file_limit(self) -> None:
        try:
            self.execute(
                "SET LOCAL temp_file_limit = '100kB'; SET LOCAL work_mem = '64kB';"
                "SELECT count(*) FROM (SELECT n FROM generate_series(1, 20000) n ORDER BY random()) s"
            )
        except errors.ConfigurationLimitExceeded:
            self.soak.provoked["temporary file limit"] += 1

    def deadlock(self) -> None:
        keys = self.random.sample(range(2), 2)
        self.connection.autocommit = False
        try:
            with self.connection:
                for key in keys:
                    self.execute("SET LOCAL deadlock_timeout = '20ms'; SELECT pg_advisory_xact_lock(%s)", key)
                    self.soak.hub.sleep(0.01)
        except errors.DeadlockDetected:
            self.soak.provoked["deadlock"] += 1
        self.connection.autocommit = True

    def notices(self) -> None:
        self.execute("DO $$BEGIN FOR i IN 1..500 LOOP RAISE NOTICE 'number %', i; END LOOP; END$$")
        self.soak.provoked["flood of notices"] += 1

    def ledger(self) -> None:
        """Insert a line, and either commit it or roll it back; write down which."""
        self.soak.count["entries"] += 1
        entry = f"{self.asker} {self.soak.count['entries']}"
        self.outcome(entry, "rolled back")
        self.connection.autocommit = False
        self.execute("INSERT INTO ledger VALUES (%s)", entry)
        if self.random.random() < 0.3:
            self.connection.rollback()
        else:
            self.outcome(entry, "unknown")
            self.connection.commit()
            self.outcome(entry, "committed")
        self.connection.autocommit = True

    def outcome(self, entry: str, outcome: str) -> None:
        """Write down the outcome of a line as it is known now. The last one counts."""
        # In a file: in a million queries a dict would grow as memory does that leaks.
        self.soak.ledger.write(f"{entry}\t{outcome}\n")

    def idle_in_transaction(self) -> None:
        self.connection.autocommit = False
        self.execute("SET LOCAL idle_in_transaction_session_timeout = 10; SELECT 1")
        self.soak.hub.sleep(0.05)
        self.connection.rollback()
        self.connection.autocommit = True

    def copy(self) -> None:
        count = self.random.randrange(5_000)
        lines = "".join(f"{self.asker}\t{n}\n" for n in range(count))
        self.connection.autocommit = False
        self.execute("CREATE TEMPORARY TABLE copied (asker text, n int) ON COMMIT DROP")
        cursor = self.connection.cursor()
        cursor.copy_expert("COPY copied FROM STDIN", io.StringIO(lines))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM copied ORDER BY n) TO STDOUT", out)
        self.expect(out.getvalue(), lines)
        self.connection.rollback()
        self.connection.autocommit = True

    def large_object(self) -> None:
        self.connection.autocommit = False
        obj = self.connection.lobject(0, "wb")
        obj.write(self.asker.encode() * 100)
        obj.seek(0)
        self.expect(obj.read(), self.asker.encode() * 100)
        self.connection.rollback()
        self.connection.autocommit = True

    def named_cursor(self) -> None:
        self.connection.autocommit = False
        with self.connection.cursor("named") as cursor:
            cursor.itersize = 50
            cursor.execute("SELECT %s, generate_series(1, 200)", (self.asker,))
            self.expect(list(cursor), [(self.asker, n) for n in range(1, 201)])
        self.connection.rollback()
        self.connection.autocommit = True

    def crowd(self) -> None:
        """Open more connections than the server allows."""
        crowd = []
        try:
            for _ in range(40):
                crowd.append(psycopg2.connect(self.route["dsn"], connect_timeout=3))
        except psycopg2.OperationalError as exc:
            self.soak.note_provoked(exc)
            self.soak.errors[type(exc).__name__] += 1
        finally:
            for connection in crowd:
                connection.close()

    def cancel(self) -> None:
        connection = self.connection
        task = self.soak.hub.spawn(connection.cancel)
        try:
            self.execute("SELECT pg_sleep(%s)", self.random.random() / 50)
        except errors.QueryCanceled:
            pass
        finally:
            task.join(BOUND)

    def close(self) -> None:
        self.connection.close()

    def drop(self) -> None:
        self.connection = None

    def idle(self) -> None:
        self.soak.hub.sleep(self.random.random() / 20)


# The relative frequency of each action.
ACTIONS = {
    Worker.small: 120,
    Worker.rows: 6,
    Worker.large: 1,
    Worker.parameter: 2,
    Worker.slow: 5,
    Worker.refused: 4,
    Worker.statement_timeout: 2,
    Worker.temp_file_limit: 1,
    Worker.deadlock: 2,
    Worker.notices: 1,
    Worker.ledger: 8,
    Worker.idle_in_transaction: 1,
    Worker.copy: 1,
    Worker.large_object: 1,
    Worker.named_cursor: 2,
    Worker.crowd: 0.1,
    Worker.cancel: 2,
    Worker.close: 2,
    Worker.drop: 1,
    Worker.idle: 5,
}
# Not through a pooler in transaction mode, where a late cancel request could end the
# query of another client.
IN_SESSIONS = {Worker.cancel}
# psycopg2 refuses them while any wait callback is set: witnesses have none of that.
PSYCOGREENS = {Worker.copy, Worker.large_object}
# Words of errors that the clients ask for, wherever they meet them.
PROVOKED = {
    "too many clients": "out of connections",
    "remaining connection slots": "out of connections",
    "Too many open files": "connect without descriptors",
    "idle-in-transaction timeout": "idle in transaction timeout",
}


class Soak:
    def __init__(self, hub: Hub, options: dict[str, Any]) -> None:
        self.hub, self.routes, self.seed = hub, options["routes"], options["seed"]
        self.connections = options["connections"]
        self.random = random.Random(self.seed)
        #: Whether connections are closed while another greenlet uses them.
        self.closes = options["closes"]
        #: Whether psycogreen is at work, and not a witness.
        self.psycogreen = is_psycogreen(options)
        self.left_out = set() if self.psycogreen else PSYCOGREENS
        self.queries = 0
        self.count: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.unexpected: list[str] = []
        #: Errors that the clients asked for, and connects that were refused.
        self.provoked: collections.Counter[str] = collections.Counter()
        #: The outcome of each line of the ledger, as its writer saw it.
        self.ledger = open(options["ledger"], "a", buffering=1)
        self.over = False
        self.longest_gap = 0.0

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Keep the connections busy while *goes_on* returns true; return when all greenlets have ended."""
        self.over = False
        workers = [Worker(self, n, self.routes[n % len(self.routes)]) for n in range(self.connections)]
        for worker in workers:
            worker.start()
        chaos = self.hub.spawn(self.chaos, workers)
        with self.hub.ticker(0.005) as ticker:
            while goes_on():
                self.hub.sleep(1)
                self.longest_gap = max(self.longest_gap, ticker.longest_gap)
                self.report()
                self.look_for_hangs(workers)
            self.over = True
            while not all(task.done for task in [chaos, *(worker.task for worker in workers)]):
                self.hub.sleep(0.1)
                self.report()
                self.look_for_hangs(workers)

    def look_for_hangs(self, workers: list[Worker]) -> None:
        now = time.monotonic()
        for worker in workers:
            if not worker.task.done and now - worker.since > BOUND + HANGS:
                print(
                    f"HANGING for {now - worker.since:.1f} s: {worker.route['name']}, {worker.action}", file=sys.stderr
                )
                if getattr(worker.task.greenlet, "gr_frame", None):
                    traceback.print_stack(worker.task.greenlet.gr_frame)
                os._exit(3)

    def chaos(self, workers: list[Worker]) -> None:
        while not self.over:
            self.hub.sleep(0.01)
            worker = self.random.choice(workers)
            deed = self.random.randrange(100)
            if worker.task.done:
                self.revive(worker)
            elif deed < 20:
                worker.task.kill(Killed())
                self.count["kill"] += 1
            elif deed < 25 and worker.connection is not None and self.closes:
                self.hub.spawn(close_quietly, worker.connection)
                self.count["close from elsewhere"] += 1
            elif deed < 26:
                self.no_descriptors()
            elif deed < 36:
                gc.collect(self.random.randrange(3))
            else:
                for each in workers:
                    if each.task.done:
                        self.revive(each)

    def revive(self, worker: Worker) -> None:
        try:
            worker.task.get()
        except (Killed, self.hub.Kill):
            pass
        except BaseException as exc:  # noqa: BLE001
            out = io.StringIO()
            traceback.print_exception(exc, file=out)
            self.unexpected.append(f"{worker.route['name']}, {worker.action}: {out.getvalue()}")
        worker.connection = None
        if not self.over:
            worker.start()

    def no_descriptors(self) -> None:
        """Make the system refuse new descriptors for a moment."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        self.count["no descriptors"] += 1
        try:
            self.hub.sleep(0.005)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def note_provoked(self, exc: psycopg2.Error) -> None:
        for words, name in PROVOKED.items():
            if words in str(exc):
                self.provoked[name] += 1
                return

    def report(self, **more: Any) -> None:
        try:
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * resource.getpagesize()
            descriptors = len(os.listdir("/proc/self/fd"))
        except OSError:
            return  # no descriptor is free at present
        state = {
            "queries": self.queries,
            "faults": {name: self.count[name] for name in ("kill", "close from elsewhere", "no descriptors")},
            "errors": self.errors,
            "provoked": self.provoked,
            "out of time": self.count["out of time"],
            "unexpected": len(self.unexpected),
            "megabytes": resident / 1e6,
            "descriptors": descriptors,
            "longest_gap": self.longest_gap,
            **more,
        }
        print(json.dumps(state), flush=True)

    def what_there_is(self) -> dict[str, int]:
        """Return how many objects, descriptors and threads exist after all greenlets have ended."""
        if self.psycogreen:
            from psycogreen import _cancel

            # Behind a silent network, the requests of the last kills end only after their time.
            with contextlib.suppress(AssertionError):
                self.hub.wait_until(lambda: not _cancel._pending, _cancel.CANCEL_TIMEOUT + BOUND)
        for _ in range(10):
            self.hub.sleep(0.1)
            gc.collect()
        there = {name: objects(name) for name in KINDS}
        return {**there, "descriptors": count_descriptors(), "threads": len(os.listdir("/proc/self/task"))}


def start_threads(hub: Hub) -> None:
    """Start the threads of the hub's pool now, because gevent's cannot start one without descriptors."""
    for task in [hub.spawn(hub.adapter._adapter.run_in_thread, time.sleep, 0.1) for _ in range(20)]:
        task.wait()


def close_quietly(connection: Any) -> None:
    try:
        connection.close()
    except psycopg2.Error:
        pass


def is_psycogreen(options: dict[str, Any]) -> bool:
    return options["way"] in ("compiled", "pure")


def make_green(hub: Hub, way: str) -> None:
    """Make psycopg2 green: by psycogreen, by its release 1.0.2, or by eventlet's own patch."""
    if way == "own patch":
        import eventlet

        eventlet.monkey_patch(psycopg=True)
    else:
        assert way == "1.0.2" or psycogreen.implementation == {"compiled": "cython", "pure": "python"}[way]
        getattr(hub.adapter, "patch_psycopg" if way == "1.0.2" else "make_psycopg_green")()


def stdin_is_open() -> bool:
    return not select.select([sys.stdin], [], [], 0)[0]


def main(arguments: str) -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    options = json.loads(arguments)
    hub: Hub = importlib.import_module(f"hubs.on_{options['hub']}").make()
    make_green(hub, options["way"])

    def program() -> None:
        if is_psycogreen(options):
            start_threads(hub)
        soak = Soak(hub, options)
        hide_from_collector()
        warm = time.monotonic() + options["warm_up"]
        soak.run(lambda: time.monotonic() < warm)
        before = soak.what_there_is()
        soak.longest_gap = 0.0
        soak.run(stdin_is_open)
        after = soak.what_there_is()
        left = {name: (before[name], number) for name, number in after.items() if number > before[name]}
        soak.report(left=left, actions=soak.count, wrong=soak.unexpected[:20])

    hub.program(program)
    hub.end()


if __name__ == "__main__":
    main(sys.argv[1])
