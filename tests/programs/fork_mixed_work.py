"""Forks at random moments beside 50 greenlets of mixed work; prints the errors of the parent and of each child."""

import io
import os
import random
import signal
import sys
import time

import psycopg2
from unpatched import DSN, NAME, fork, sleep, spawn

FORKS = int(sys.argv[1])


def kill(task):
    task.kill(ValueError("killed"), **({"block": False} if NAME == "gevent" else {}))


PARENT = os.getpid()
wrong, done, ended = [], [0] * 5, []
# In a child, let every greenlet run that is due.
os.register_at_fork(after_in_child=lambda: sleep(0.01))


def check(condition, what):
    if not condition:
        wrong.append(what)


def queries(me):
    connection = psycopg2.connect(DSN)
    cursor, number = connection.cursor(), 0
    while not ended:
        number += 1
        size = random.choice([1, 1, 1, 2000])
        cursor.execute(
            "SELECT %s, %s, repeat('x', 100) FROM pg_sleep(0.002), generate_series(1, %s)", (me, number, size)
        )
        rows = cursor.fetchall()
        check(len(rows) == size and all(row[:2] == (me, number) for row in rows), f"rows of {me}")
        done[0] += 1


def connects(me):
    while not ended:
        connection = psycopg2.connect(DSN)
        cursor = connection.cursor()
        cursor.execute("SELECT %s", (me,))
        check(cursor.fetchone() == (me,), f"connect of {me}")
        connection.close()
        done[1] += 1


def copies(me):
    cursor = psycopg2.connect(DSN).cursor()
    while not ended:
        file = io.StringIO()
        cursor.copy_expert(f"COPY (SELECT {me} FROM pg_sleep(0.002), generate_series(1, 500)) TO STDOUT", file)
        check(file.getvalue() == f"{me}\n" * 500, f"copy of {me}")
        done[2] += 1


def objects(me):
    connection = psycopg2.connect(DSN)
    while not ended:
        large = connection.lobject(0, "wb")
        large.write(b"%d" % me * 1000)
        large.seek(0)
        check(large.read() == b"%d" % me * 1000, f"large object of {me}")
        connection.rollback()
        done[3] += 1


def killed(me):
    while not ended:
        try:
            psycopg2.connect(DSN).cursor().execute("SELECT pg_sleep(20)")
        except ValueError:
            done[4] += 1
            if os.getpid() != PARENT:
                return


def guarded(work, me):
    try:
        work(me)
    except BaseException as exc:
        wrong.append(f"{work.__name__} {me}: {type(exc).__name__}: {exc}")


def child():
    signal.alarm(20)
    code = 1
    try:
        for _ in range(2):
            cursor = psycopg2.connect(DSN).cursor()
            cursor.execute("SELECT 3 FROM pg_sleep(0.01)")
            assert cursor.fetchone() == (3,)
        code = 0
    finally:
        os._exit(code)


works = [queries] * 20 + [connects] * 8 + [copies] * 8 + [objects] * 8 + [killed] * 6
tasks = [spawn(guarded, work, me) for me, work in enumerate(works)]
children = []


def in_handler(*_):
    pid = os.fork()
    if pid == 0:
        child()
    children.append(pid)


signal.signal(signal.SIGUSR1, in_handler)
sleep(0.5)
for number in range(FORKS):
    sleep(random.random() * 0.05)
    victim = random.choice(tasks[-6:])
    if number % 5 == 4 and NAME == "eventlet":
        os.kill(PARENT, signal.SIGUSR1)  # the handler runs in whichever greenlet is running
    else:
        pid = fork()
        if pid == 0:
            child()
        children.append(pid)
    kill(victim)
    while len(children) > 8:
        pid, status = os.waitpid(children[0], os.WNOHANG)
        if pid:
            check(status == 0, f"a child ended with {status}")
            children.pop(0)
        sleep(0.005)
limit = time.monotonic() + 30
while children and time.monotonic() < limit:
    pid, status = os.waitpid(children[0], os.WNOHANG)
    if pid:
        check(status == 0, f"a child ended with {status}")
        children.pop(0)
    sleep(0.005)
check(not children, "children left")
before = list(done)
sleep(0.7)
check(all(done[kind] > before[kind] for kind in range(4)), f"a kind of work stands still: {before} {done}")
ended.append(True)
print(len(wrong), wrong[:5], flush=True)
os._exit(0)
