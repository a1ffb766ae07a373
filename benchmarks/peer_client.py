"""The client of peers.py: one process, one hub, one driver; it measures works and their latencies.

It is like load.py, but its works may be coroutines. It reads requests from standard input,
each a work and how many times each connection does it, in JSON. For each it runs a round,
and answers with a line of JSON. It runs in the environment of what is measured, so it
imports nothing else but the standard library, and asyncio only where that is measured.
"""

import argparse
import array
import gc
import inspect
import itertools
import json
import os
import re
import sys
import time

from driver import versions
from load import answer, event_loop, green, in_tasks, measured
from peer_works import DRIVERS

NAMES = ("psycogreen", "psycopg2-binary", "psycopg", "aiopg", "asyncpg", "gevent", "eventlet", "greenlet", "uvloop")

# The seconds that each work of the round took.
latencies = array.array("d")
errors = []


def repeat(connection, work, times):
    try:
        for _ in itertools.repeat(None, times):
            began = time.perf_counter()
            work(connection)
            latencies.append(time.perf_counter() - began)
    except Exception as exc:  # raised in a greenlet, it would be printed
        errors.append(exc)


async def repeat_async(connection, work, times):
    try:
        for _ in itertools.repeat(None, times):
            began = time.perf_counter()
            await work(connection)
            latencies.append(time.perf_counter() - began)
    except Exception as exc:
        errors.append(exc)


def in_threads(number):
    """Return a function that runs another in threads, which are kept from one round to the next."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(number)

    def join_all(function, connections, *args):
        for task in [pool.submit(function, connection, *args) for connection in connections]:
            task.result()

    return join_all


def call(function, *args):
    return function(*args)


def spawning(work):
    """Return a coroutine function that runs *work* in a spawn() of its own."""
    from psycogreen.asyncio import spawn

    async def spawned(connection):
        await spawn(work, connection)

    return spawned


def resident():
    """Return the resident memory of this process in MB."""
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hub", choices=["threads", "gevent", "eventlet", "asyncio", "uvloop"])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--driver", choices=DRIVERS, required=True)
    parser.add_argument("--patched", action="store_true")
    parser.add_argument("--spawn-each", action="store_true")
    parser.add_argument("--connections", type=int, required=True)
    args = parser.parse_args()

    about = {"versions": versions(NAMES)}
    repeat_work = repeat
    asynchronous = inspect.iscoroutinefunction(DRIVERS[args.driver].open)
    if args.hub == "threads":
        join_all = in_threads(args.connections)
    elif not asynchronous:
        join_all = green(args.hub, about, args.patched)
    if asynchronous or args.spawn_each:
        loop = event_loop(args.hub)
        join_all, repeat_work = in_tasks(loop, call), repeat_async

    driver = DRIVERS[args.driver](args.dsn)  # after the patches
    connections = [driver.open() for _ in range(args.connections)]
    if asynchronous:
        connections = [loop.run_until_complete(connection) for connection in connections]
    answer(about)

    for line in sys.stdin:
        name, times = json.loads(line)
        work = getattr(driver, name)
        if args.spawn_each:
            work = spawning(work)
        del latencies[:], errors[:]
        # As in load.py: the cost of a round includes the collection of its own garbage, but of no older garbage.
        gc.collect()
        gc.freeze()
        seconds = measured(join_all, repeat_work, connections, work, times)
        if errors:
            if type(errors[0]).__name__ != "ProgrammingError":
                raise errors[0]
            answer({"refused": str(errors[0]).strip()})  # psycopg2 does not offer this here
            continue
        done = sorted(latencies)
        p50, p99 = (done[int(len(done) * part)] for part in (0.5, 0.99))
        answer({**seconds, "works": len(done), "p50": p50, "p99": p99, "megabytes": resident()})
    os._exit(0)  # Some drivers take long to close their connections, or warn.


if __name__ == "__main__":
    main()
