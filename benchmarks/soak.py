"""Full load with everything going wrong at once, for minutes: does anything stay behind?

    python benchmarks/soak.py --hub eventlet --minutes 10

Each of many greenlets has a connection and checks every result that it gets.
Meanwhile greenlets are killed, queries run into the hub's timeouts,
connections are closed or dropped, the server terminates some and notifies
others, and the garbage collector runs. In the end all greenlets must have
ended within half a minute, and what there is of descriptors, threads,
greenlets and connections must be what there was after the warm-up.

The random numbers come from --seed; what happens when does not, it depends on
the server's time. PSYCOGREEN_TEST_DSN names a server; else one is started.
"""

import argparse
import collections
import gc
import os
import random
import resource
import sys
import time

import psycopg2
from driver import HUBS, server

PATIENCE = 30


def gevent_hub():
    import gevent

    from psycogreen.gevent import make_psycopg_green

    make_psycopg_green()

    def kill(task):
        task.kill(block=False)

    return gevent.spawn, gevent.sleep, gevent.Timeout, kill, lambda task: task.dead


def eventlet_hub():
    import eventlet

    from psycogreen.eventlet import make_psycopg_green

    make_psycopg_green()
    return eventlet.spawn, eventlet.sleep, eventlet.Timeout, lambda task: task.kill(), lambda task: task.dead


class Worker:
    """A greenlet after the other on a connection after the other."""

    def __init__(self, soak, seed):
        self.soak = soak
        self.random = random.Random(seed)
        self.connection = self.pid = None

    def start(self):
        self.task = self.soak.spawn(self.run)

    def run(self):
        while not self.soak.over:
            action = self.random.choices(list(ACTIONS), ACTIONS.values())[0]
            try:
                if self.connection is None or self.connection.closed:
                    self.connect()
                action(self)
                self.soak.count[action.__name__] += 1
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as exc:
                # The server was told to end this connection: at any time, also while connecting.
                self.soak.count[type(exc).__name__] += 1
                self.connection = None

    def connect(self):
        self.connection = self.pid = None
        connection = psycopg2.connect(self.soak.dsn)
        connection.autocommit = True
        self.connection, self.pid = connection, connection.info.backend_pid
        self.execute("LISTEN soak")

    def execute(self, query, *args):
        cursor = self.connection.cursor()
        cursor.execute(query, args or None)
        return cursor

    def small(self):
        number = self.random.randrange(10**9)
        for n in range(number, number + 10):
            expect(self.execute("SELECT %s, md5(%s::text)", n, n).fetchone()[0], n)

    def rows(self):
        count = self.random.randrange(1, 3000)
        expect([row[0] for row in self.execute("SELECT generate_series(1, %s)", count)], list(range(1, count + 1)))

    def large(self):
        size = self.random.randrange(5_000_000)
        expect(len(self.execute("SELECT repeat('x', %s)", size).fetchone()[0]), size)

    def parameter(self):
        # More than a socket takes at once: this one waits to write.
        text = "y" * self.random.randrange(1_000_000)
        expect(self.execute("SELECT length(%s)", text).fetchone()[0], len(text))

    def slow(self):
        expect(self.execute("SELECT 7 FROM pg_sleep(%s)", self.random.random() / 20).fetchone()[0], 7)

    def error(self):
        try:
            self.execute("SELECT 1 / 0")
        except psycopg2.errors.DivisionByZero:
            return
        raise AssertionError("no error")

    def transaction(self):
        self.connection.autocommit = False
        self.execute("CREATE TEMPORARY TABLE soaked (n int) ON COMMIT DROP")
        self.execute("INSERT INTO soaked SELECT generate_series(1, 50)")
        expect(self.execute("SELECT sum(n) FROM soaked").fetchone()[0], 1275)
        self.connection.rollback() if self.random.random() < 0.5 else self.connection.commit()
        self.connection.autocommit = True

    def timeout(self):
        limit = self.soak.timeout(self.random.random() / 20)
        try:
            self.execute("SELECT pg_sleep(%s)", self.random.random() / 20)
        except self.soak.timeout as exc:
            if exc is not limit:
                raise
            expect(self.connection.closed, 2)
        finally:
            limit.cancel()

    def close(self):
        self.connection.close()

    def drop(self):
        self.connection = None

    def idle(self):
        self.soak.sleep(self.random.random() / 20)


# How often each is done, in proportion.
ACTIONS = {
    Worker.small: 60,
    Worker.rows: 10,
    Worker.large: 1,
    Worker.parameter: 2,
    Worker.slow: 10,
    Worker.error: 5,
    Worker.transaction: 5,
    Worker.timeout: 5,
    Worker.close: 2,
    Worker.drop: 2,
    Worker.idle: 8,
}


def expect(found, wanted):
    if found != wanted:
        print(f"WRONG RESULT: {found!r:.200}, not {wanted!r:.200}", flush=True)
        os._exit(2)


class Soak:
    def __init__(self, hub, dsn, seed):
        self.spawn, self.sleep, self.timeout, self.kill, self.dead = hub
        self.dsn, self.seed = dsn, seed
        self.random = random.Random(seed)
        self.count = collections.Counter()
        self.over = False

    def run(self, connections, seconds):
        """Soak for *seconds*; return what there is when all have ended."""
        self.over = False
        workers = [Worker(self, f"{self.seed} {n}") for n in range(connections)]
        for worker in workers:
            worker.start()
        chaos = self.spawn(self.chaos, workers)
        self.sleep(seconds)
        self.over = True
        deadline = time.monotonic() + PATIENCE
        tasks = [chaos] + [worker.task for worker in workers]
        while not all(map(self.dead, tasks)):
            if time.monotonic() > deadline:
                hanging = [task for task in tasks if not self.dead(task)]
                print(f"HANGING: {hanging}", flush=True)
                os._exit(3)
            self.sleep(0.05)
        del workers, worker, chaos, tasks
        for _ in range(3):
            self.sleep(0.05)
            gc.collect()
        return what_there_is()

    def chaos(self, workers):
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        cursor = connection.cursor()
        while not self.over:
            self.sleep(0.01)
            worker = self.random.choice(workers)
            deed = self.random.randrange(10)
            if self.dead(worker.task):
                worker.start()
            elif deed < 3:
                self.kill(worker.task)
                worker.start()
                self.count["killed"] += 1
            elif deed < 5 and worker.pid:
                cursor.execute("SELECT pg_terminate_backend(%s)", (worker.pid,))
                self.count["terminated"] += 1
            elif deed < 8:
                cursor.execute("NOTIFY soak")
                self.count["notified"] += 1
            else:
                gc.collect(self.random.randrange(3))
                self.count["collected"] += 1
        connection.close()


KINDS = ("Reactor", "Socket", "Bell", "Forget", "Greenlet", "GreenThread", "greenlet", "connection", "cursor")


def what_there_is():
    kinds = collections.Counter(type(found).__name__ for found in gc.get_objects())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        **{kind: kinds[kind] for kind in KINDS},
    }


def main():
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--hub", choices=HUBS, default="gevent")
    command.add_argument("--minutes", type=float, default=10)
    command.add_argument("--connections", type=int, default=64)
    command.add_argument("--seed", type=int, default=1)
    args = command.parse_args()

    hub = {"gevent": gevent_hub, "eventlet": eventlet_hub}[args.hub]()
    with server() as dsn:
        soak = Soak(hub, dsn, args.seed)
        seconds = args.minutes * 60
        before = soak.run(args.connections, max(2, seconds / 10))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        soak.count.clear()
        after = soak.run(args.connections, seconds)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(", ".join(f"{name} {number:,}" for name, number in soak.count.most_common()))
    print(f"the most memory ever used: {memory // 1024} MB after the warm-up, {grown // 1024} MB more at the end")
    left = {name: (before[name], number) for name, number in after.items() if number > before[name]}
    print("left behind:", ", ".join(f"{name} {then} -> {now}" for name, (then, now) in left.items()) or "nothing")
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
