"""Forks beside psycopg 3's queries, COPYs, connects and turns at a lock; prints the errors.

Each child uses connections of its own, and runs the hub, which wakes the copies of its
parent's greenlets.
"""

import os
import signal
from functools import partial

import psycopg
from support.forks import fork_often
from unpatched import DSN, fork, sleep, spawn

wrong, done, ended = [], {}, []
shared = psycopg.connect(DSN, autocommit=True)


def queries(me, conn):
    return conn.execute("SELECT %s::int, pg_sleep(random() * 0.01)", [me]).fetchone()[0] == me


def copies(me, conn):
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE TEMP TABLE t (n int)")
        with conn.cursor() as cursor:
            with cursor.copy("COPY t FROM STDIN") as copy:
                for _ in range(10):
                    copy.write(f"{me}\n" * 5000)
            return cursor.execute("SELECT count(*), min(n), max(n) FROM t").fetchone() == (50_000, me, me)


def turns(me, conn):
    return queries(me, shared)


def connects(me, conn):
    with psycopg.connect(DSN) as conn:
        return queries(me, conn)


def run(kind, me):
    try:
        conn = psycopg.connect(DSN, autocommit=True)
        while not ended:
            if not kind(me, conn):
                wrong.append(f"{kind.__name__} {me}")
            done[kind] = done.get(kind, 0) + 1
    except BaseException as exc:
        wrong.append(f"{kind.__name__} {me}: {exc!r}")


def child():
    signal.alarm(20)
    code = 1
    try:
        sleep(0.05)
        with psycopg.connect(DSN) as conn:
            assert all(queries(n, conn) for n in range(5))
        code = 0 if not wrong else 2
    finally:
        os._exit(code)


kinds = [queries, copies, turns, connects]
for me in range(12):
    spawn(partial(run, kinds[me % 4], me))
sleep(0.3)
wrong += fork_often(8, child, fork, sleep)
before = dict(done)
sleep(0.5)
wrong += [f"{kind.__name__} stands still" for kind in kinds if done.get(kind) == before.get(kind)]
print(len(wrong), wrong[:5], flush=True)
os._exit(0)
