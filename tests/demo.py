"""Forty queries of 100 ms each: one after another, then green on gevent and on eventlet.

``make demo`` runs it. DATABASE_URL or libpq's own variables (PGHOST,
PGSERVICE...) name the server; without them the demo starts one of its own
and removes it at the end.

Each of the three ways runs in a process of its own, because psycopg2 has one
wait callback for a whole process: ``demo.py gevent`` is such a process.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

import psycopg2

QUERIES = 40
SECONDS = 0.1
WAYS = ("blocking", "gevent", "eventlet")


# What each process does


def query(conn):
    """Plain blocking code, without greenlets."""
    start = time.monotonic()
    with conn.cursor() as cur:
        cur.execute("SELECT pg_sleep(%s)", (SECONDS,))
    print(json.dumps([start, time.monotonic()]), flush=True)


def run_blocking():
    print(json.dumps("psycopg2's own wait"), flush=True)
    for conn in connections():
        query(conn)


def run_gevent():
    import gevent

    import psycogreen
    from psycogreen.gevent import make_psycopg_green

    make_psycopg_green()
    print(json.dumps(f"{psycogreen.implementation} loop, gevent {gevent.__version__}"), flush=True)
    gevent.joinall([gevent.spawn(query, conn) for conn in connections()], raise_error=True)


def run_eventlet():
    import eventlet

    import psycogreen
    from psycogreen.eventlet import make_psycopg_green

    make_psycopg_green()
    print(json.dumps(f"{psycogreen.implementation} loop, eventlet {eventlet.__version__}"), flush=True)
    for task in [eventlet.spawn(query, conn) for conn in connections()]:
        task.wait()


def connections():
    """Return a connection for each query. All three ways connect like this, before the clock starts."""
    return [psycopg2.connect(os.environ["DEMO_DSN"]) for _ in range(QUERIES)]


# The output


class Run(NamedTuple):
    way: str
    loop: str
    spans: list[tuple[float, float]]  # of each query, in seconds since the first one began

    @property
    def seconds(self):
        return max(end for _, end in self.spans)


def show(dsn):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(highlight=False)
    console.print(f"{QUERIES} times SELECT pg_sleep({SECONDS}), each on a connection of its own")
    console.print(f"Server: {server_name(dsn)}", soft_wrap=True)
    columns = TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    runs = []
    with Progress(*columns, console=console) as progress:
        for way in WAYS:
            task = progress.add_task(way, total=QUERIES)
            runs.append(run(way, dsn, lambda task=task: progress.advance(task)))
    console.print()
    timeline(console, runs)
    table(console, runs)


def server_name(dsn):
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        version = conn.info.parameter_status("server_version")
        return f"PostgreSQL {version} at {conn.info.host}"


def run(way, dsn, on_query):
    command = [sys.executable, "-W", "ignore", __file__, way]
    spans = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "DEMO_DSN": dsn}) as process:
        loop = ""
        for line in process.stdout:
            message = json.loads(line)
            if isinstance(message, str):
                loop = message
            else:
                spans.append(message)
                on_query()
    if process.returncode != 0:
        sys.exit(f"demo: the {way} run failed; its message is above")
    zero = min(start for start, _ in spans)
    return Run(way, loop, sorted((start - zero, end - zero) for start, end in spans))


def timeline(console, runs):
    """Draw each query as a line of dots, four queries to a row of text, time running to the right."""
    from rich.text import Text

    columns = min(console.width, 100) - 10
    scale = (2 * columns - 1) / max(run.seconds for run in runs)
    for run in runs:
        for first in range(0, QUERIES, 4):
            # A character of Braille is 2 dots wide and 4 high; its code has a bit for each dot.
            row = [0] * columns
            rows = (0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)
            for dots, (start, end) in zip(rows, run.spans[first : first + 4], strict=True):
                for x in range(int(start * scale), int(end * scale) + 1):
                    row[x // 2] |= dots[x % 2]
            label = run.way if first == 0 else ""
            console.print(Text(f"{label:10}" + "".join(chr(0x2800 + bits) for bits in row).rstrip("\u2800")))
        console.print()
    end = f"{max(run.seconds for run in runs):.1f} s"
    console.print(" " * 10 + "0 s" + end.rjust(columns - 3))


def table(console, runs):
    from rich import box
    from rich.table import Table

    table = Table("", "time", "speed-up", "waited in", box=box.SIMPLE)
    for run in runs:
        table.add_row(run.way, f"{run.seconds:.2f} s", f"{runs[0].seconds / run.seconds:.1f} x", run.loop)
    console.print(table)


def main():
    if len(sys.argv) > 1:
        way = sys.argv[1]
        {"blocking": run_blocking, "gevent": run_gevent, "eventlet": run_eventlet}[way]()
        return
    from support.postgres import database

    with database() as dsn:
        show(dsn)


if __name__ == "__main__":
    try:
        main()
    except psycopg2.Error as exc:
        sys.exit(f"demo: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)
