"""CPU time per query of PostgreSQL drivers on asyncio, side by side.

    python -m venv .venvs/drivers
    .venvs/drivers/bin/pip install -r benchmarks/asyncio_drivers.txt
    .venvs/drivers/bin/python setup.py -q build_ext --inplace
    .venvs/drivers/bin/python benchmarks/asyncio_drivers.py

Each driver runs in a process of its own, with 16 connections in autocommit and a
task for each connection. A task executes one query after the other and fetches the
row, as the driver's documentation shows. The drivers take turns in short rounds
(A B C D A B C D ...) on one server, because times on a shared machine drift from
second to second. Only the ratios to psycogreen count. The table shows their medians
over the rounds, and the quartiles, which show how far to trust them. CPU time is user
and system time of the client.

"psycogreen" runs blocking code that makes all of a task's queries in one
`spawn()`; "psycogreen, spawn each" has a `spawn()` for each query. These two use
psycopg2; "psycogreen, psycopg 3" uses the synchronous API of psycopg 3, with one `spawn()`
for each task; "psycopg 3" is its AsyncConnection.
"""

import argparse
import asyncio
import gc
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from driver import server

DRIVERS = ("psycogreen", "psycogreen, spawn each", "psycogreen, psycopg 3", "psycopg 3", "asyncpg", "aiopg")
LOOPS = ("asyncio", "uvloop")
QUERIES = {
    "SELECT 1": "SELECT 1",
    "20 rows of 3 columns": "SELECT n, n * 1.5::float8, 'text ' || n FROM generate_series(1, 20) n",
}
CONNECTIONS = 16
PAIRS = 21
# Queries in a round: a fifth of a second.
ROUND = 3200


# The clients. Each gets a DSN and returns, for each of its connections, a coroutine function that runs a query
# so many times.


async def psycogreen(dsn, query, each=False, driver="psycopg2"):
    from psycogreen import implementation
    from psycogreen.asyncio import make_psycopg_green, spawn

    assert implementation == "cython", "build psycogreen in place: see above"
    make_psycopg_green()

    connect_blocking = importlib.import_module(driver).connect

    def connect():
        conn = connect_blocking(dsn)
        conn.autocommit = True
        return conn.cursor()

    def once(cursor):
        cursor.execute(query)
        cursor.fetchall()

    def many(cursor, times):
        for _ in range(times):
            cursor.execute(query)
            cursor.fetchall()

    async def run(cursor, times):
        if each:
            for _ in range(times):
                await spawn(once, cursor)
        else:
            await spawn(many, cursor, times)

    return [(run, await spawn(connect)) for _ in range(CONNECTIONS)]


async def psycopg(dsn, query):
    from psycopg import AsyncConnection, pq

    assert pq.__impl__ != "python"

    async def run(conn, times):
        for _ in range(times):
            cursor = await conn.execute(query)
            await cursor.fetchall()

    return [(run, await AsyncConnection.connect(dsn, autocommit=True)) for _ in range(CONNECTIONS)]


async def asyncpg(dsn, query):
    import asyncpg

    async def run(conn, times):
        for _ in range(times):
            await conn.fetch(query)

    return [(run, await asyncpg.connect(dsn)) for _ in range(CONNECTIONS)]


async def aiopg(dsn, query):
    import aiopg

    async def run(cursor, times):
        for _ in range(times):
            await cursor.execute(query)
            await cursor.fetchall()

    return [(run, await (await aiopg.connect(dsn)).cursor()) for _ in range(CONNECTIONS)]


async def client(driver, dsn, query):
    """For each line of standard input, run that number of queries and print their CPU time."""
    if driver == "psycogreen, psycopg 3":
        tasks = await psycogreen(dsn, query, driver="psycopg")
    elif driver.startswith("psycogreen"):
        tasks = await psycogreen(dsn, query, driver != "psycogreen")
    else:
        tasks = await {"psycopg 3": psycopg, "asyncpg": asyncpg, "aiopg": aiopg}[driver](dsn, query)
    print("ready", flush=True)
    for line in sys.stdin:
        times = int(line) // CONNECTIONS
        gc.collect()
        gc.freeze()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[run(connection, times) for run, connection in tasks])
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - began]), flush=True)


class Process:
    """A running client."""

    def __init__(self, driver, loop, dsn, query, tree):
        environment = {**os.environ, "PYTHONPATH": str(tree), "PSYCOGREEN_NO_EXTENSIONS": "0"}
        command = [sys.executable, __file__, "--client", driver, "--loops", loop, "--dsn", dsn, "--query", query]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout.readline() == "ready\n"

    def round(self):
        self._process.stdin.write(f"{ROUND}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.kill()  # some take long to close
        self._process.communicate()


def compare(loop, dsn, query, tree, drivers):
    """Print a row for each driver."""
    clients = {driver: Process(driver, loop, dsn, query, tree) for driver in drivers}
    for running in clients.values():
        running.round()  # a warm-up
    rounds = [{driver: running.round() for driver, running in clients.items()} for _ in range(PAIRS)]
    for running in clients.values():
        running.close()
    for driver in drivers:
        ratios = [each[driver][0] / each["psycogreen"][0] for each in rounds]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        cpu, wall = (statistics.median(each[driver][n] for each in rounds) / ROUND * 1e6 for n in (0, 1))
        print(f"{ratio:6.2f}  {low:6.2f} {high:6.2f}  {cpu:7.1f} {wall:7.1f}  {driver}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", default=pathlib.Path(__file__).resolve().parent.parent, help="psycogreen's sources")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--drivers", nargs="+", choices=DRIVERS, default=DRIVERS)
    parser.add_argument("--client", choices=DRIVERS, help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--query", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        importlib.import_module(args.loops[0]).run(client(args.client, args.dsn, args.query))
        return
    with server() as dsn:
        print(f"load of the machine: {os.getloadavg()[0]:.1f}; {os.cpu_count()} processors")
        for loop in args.loops:
            for name, query in QUERIES.items():
                print(f"\n{name}, {CONNECTIONS} connections, {loop}")
                print(f"{'ratio':>6}  {'quartiles':>13}  {'CPU':>7} {'wall':>7}  microseconds per query")
                compare(loop, dsn, query, args.tree, args.drivers)
        print(f"\nload of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
