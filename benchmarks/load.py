"""The client whose cost is measured: one process, one hub, one psycogreen.

driver.py runs it, with the psycogreen to be measured on PYTHONPATH. It reads numbers
of queries from standard input. For each number it runs a round: it spreads the queries
evenly over its connections, each with a greenlet of its own, and answers with a line
of JSON. Without a hub, it uses one connection after the other. With ``--work`` it does
a work (WORKS in driver.py) instead of a query.

Before and after each round the client calls getpgrp(), and nowhere else. callgrind and
strace recognise a round by these calls.
"""

import argparse
import gc
import importlib
import itertools
import json
import os
import resource
import sys
import time

from driver import WORKS

# The times at which each greenlet had done its share of the round.
ends = []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hub", choices=["none", "gevent", "eventlet", "asyncio", "uvloop"])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--driver", choices=["psycopg2", "psycopg"], default="psycopg2")
    parser.add_argument("--patched", action="store_true", help="no psycogreen, but the hub's own patch")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--query", default="SELECT 1")
    parser.add_argument("--work", choices=WORKS)
    parser.add_argument("--greenlets", type=int, help="for work that leaves the open connections alone")
    parser.add_argument("--pause", type=float, default=0, help="seconds to block before each query")
    args = parser.parse_args()

    about = {"python": sys.version.split()[0]}
    if args.hub == "none":
        join_all = one_after_the_other
    else:
        join_all = green(args.hub, about, args.patched)
    driver = importlib.import_module(args.driver)

    connections = [driver.connect(args.dsn) for _ in range(args.connections)]
    cursors = []
    for conn in connections:
        conn.autocommit = not args.work
        cursors.append(conn.cursor())
    workers = connections * (args.greenlets or 1)
    about["server"] = connections[0].info.parameter_status("server_version")
    answer(about)

    for line in sys.stdin:
        share, rest = divmod(int(line), args.greenlets or len(cursors))
        if rest:
            sys.exit(f"{line.strip()} queries can't be shared out evenly over {args.greenlets or len(cursors)}")
        # The cost of a round includes the collection of its own garbage, but of no older garbage.
        gc.collect()
        gc.freeze()
        ends.clear()
        if args.work:
            times = measured(join_all, repeat, workers, WORKS[args.work], args.dsn, share, args.pause)
        else:
            times = measured(join_all, run, cursors, args.query, share, args.pause)
        first = (min(ends) - times["began"]) / times["wall"] if ends else 1
        answer({**times, "first": first, "megabytes": most_memory()})


def measured(function, *args):
    """Call *function*; return the seconds that it took, and when it began."""
    cpu, user, began = time.process_time(), user_time(), time.perf_counter()
    os.getpgrp()
    function(*args)
    os.getpgrp()
    wall, user, cpu = time.perf_counter() - began, user_time() - user, time.process_time() - cpu
    return {"cpu": cpu, "user": user, "wall": wall, "began": began}


def run(cursor, query, times, pause):
    for _ in itertools.repeat(None, times):
        if pause:
            time.sleep(pause)
        cursor.execute(query)
        cursor.fetchone()
    ends.append(time.perf_counter())


def repeat(connection, work, dsn, times, pause):
    for _ in itertools.repeat(None, times):
        if pause:
            time.sleep(pause)
        work(connection, dsn)


def one_after_the_other(function, cursors, *args):
    for cursor in cursors:
        function(cursor, *args)


def green(hub, about, patched):
    """Make the drivers green on *hub*; return a function that runs another in greenlets.

    With *patched*, the driver waits without psycogreen: on gevent only the standard library is
    patched, for psycopg 3, and on eventlet only psycopg2.
    """
    if hub == "gevent":
        import gevent

        if patched:
            import gevent.monkey

            gevent.monkey.patch_all()
        else:
            from psycogreen.gevent import patch_psycopg

        about["loop"] = type(gevent.get_hub().loop).__module__

        def join_all(function, cursors, *args):
            gevent.joinall([gevent.spawn(function, cursor, *args) for cursor in cursors], raise_error=True)
    elif hub == "eventlet":
        import eventlet
        import eventlet.hubs

        if patched:
            eventlet.monkey_patch(psycopg=True)
        else:
            from psycogreen.eventlet import patch_psycopg

        about["loop"] = type(eventlet.hubs.get_hub()).__module__

        def join_all(function, cursors, *args):
            for task in [eventlet.spawn(function, cursor, *args) for cursor in cursors]:
                task.wait()
    else:
        from psycogreen.asyncio import patch_psycopg, spawn

        loop = event_loop(hub)
        about["loop"] = type(loop).__module__
        join_all = in_tasks(loop, spawn)

    if patched:
        return join_all
    import psycogreen

    about["psycogreen"] = psycogreen.__file__
    about["version"] = psycogreen.__version__
    about["implementation"] = getattr(psycogreen, "implementation", "1.0.2")
    patch_psycopg()
    return join_all


def event_loop(hub):
    """Return a new loop of asyncio or uvloop."""
    return importlib.import_module(hub).new_event_loop()


def in_tasks(loop, start):
    """Return a function that runs another in tasks of *loop*; *start* is called with it, and returns a coroutine."""
    import asyncio

    async def gather(function, cursors, *args):
        await asyncio.gather(*[start(function, cursor, *args) for cursor in cursors])

    def join_all(*args):
        loop.run_until_complete(gather(*args))

    return join_all


def user_time():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def answer(what):
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
