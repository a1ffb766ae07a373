"""Forks while greenlets wait in the middle of an operation, between its queries; prints the errors.

With an argument "early", another library's at-fork handler runs the hub in the child
before psycogreen's handlers do.
"""

import os
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp

PARENT = os.getpid()
handlers = []
if "early" in sys.argv:
    os.register_at_fork(after_in_child=lambda: [handler() for handler in handlers])

import psycopg2  # noqa: E402  # after the handler is registered
from support.forks import fork_often  # noqa: E402
from unpatched import DSN, fork, sleep, spawn  # noqa: E402

handlers.append(lambda: sleep(0.1))
directory = Path(mkdtemp())
wrong, done, ended = [], {}, []


class Slow:
    """A file of 500 times *number*, whose read() waits."""

    def __init__(self, number):
        self.parts = [f"{number}\n" * 50] * 10

    def read(self, size):
        sleep(0.003)
        return self.parts.pop() if self.parts else ""


def slowly(number):
    for _ in range(10):
        sleep(0.003)
        yield (number,)


def copies(me, connection):
    cursor = connection.cursor()
    cursor.execute("CREATE TEMPORARY TABLE items (n int)")
    connection.commit()
    while not ended:
        cursor.copy_expert("COPY items FROM STDIN", Slow(me))
        cursor.execute("SELECT count(*), min(n), max(n) FROM items")
        yield cursor.fetchone() == (500, me, me)
        connection.rollback()


def executes(me, connection):
    cursor = connection.cursor()
    cursor.execute("CREATE TEMPORARY TABLE items (n int)")
    connection.commit()
    while not ended:
        cursor.executemany("INSERT INTO items VALUES (%s)", slowly(me))
        cursor.execute("SELECT count(*), min(n), max(n) FROM items")
        yield cursor.fetchone() == (10, me, me)
        connection.rollback()


def objects(me, connection):
    source, copy = directory / f"{me}", directory / f"{me}copy"
    source.write_bytes(b"%d" % me * 500_000)
    while not ended:
        connection.lobject(0, "w", 0, str(source)).export(str(copy))
        yield copy.read_bytes() == source.read_bytes()
        connection.rollback()


def connects(me, connection):
    while not ended:
        psycopg2.connect(DSN).close()
        yield True


def run(kind, me):
    try:
        for right in kind(me, psycopg2.connect(DSN)):
            done[kind] = done.get(kind, 0) + 1
            if not right:
                wrong.append(f"{kind.__name__} {me}")
    except BaseException as exc:
        wrong.append(f"{kind.__name__} {me}: {exc!r}")


def child():
    signal.alarm(20)
    code = 1
    try:
        sleep(0.1)
        connection = psycopg2.connect(DSN)
        cursor = connection.cursor()
        cursor.execute("SELECT 3 FROM pg_sleep(0.01)")
        assert cursor.fetchone() == (3,)
        mine = directory / f"child{os.getpid()}"
        mine.write_bytes(b"child")
        connection.lobject(0, "w", 0, str(mine)).export(f"{mine}copy")
        assert Path(f"{mine}copy").read_bytes() == b"child"
        code = 0 if not wrong else 2
    finally:
        os._exit(code)


kinds = [copies, executes, objects, connects]
for me in range(12):
    spawn(run, kinds[me % 4], me)
sleep(0.3)
wrong += fork_often(6, child, fork, sleep)
before = dict(done)
sleep(0.7)
wrong += [f"{kind.__name__} stands still" for kind in kinds if done.get(kind) == before.get(kind)]
print(len(wrong), wrong[:5], flush=True)
os._exit(0)
