"""COPY beside blocking psycopg2: time of a million rows, pauses of a 5 ms ticker, growth of memory.

Blocking and green runs alternate in one process for each hub. (The script is
not called copy.py, because that would hide a module of Python's library.)
"""

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import time

from driver import HERE, HUBS, Variant, environment, server

ROWS = 1_000_000
QUERY = f"COPY (SELECT n, 'row number ' || n FROM generate_series(0, {ROWS - 1}) n) TO STDOUT"


class Lines:
    """A file that returns one row for each read."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def read(self, size):
        return self.file.readline()


CASES = {
    "in": lambda cursor, data: cursor.copy_from(io.BytesIO(data), "t"),
    "in, row by row": lambda cursor, data: cursor.copy_from(Lines(data), "t"),
    "out": lambda cursor, data: cursor.copy_expert(QUERY, io.BytesIO()),
    "out, as text": lambda cursor, data: cursor.copy_expert(QUERY, io.StringIO()),
}


class Generated:
    """A file of rows made up as they are read."""

    def __init__(self, megabytes):
        self.rows = (b"1" * 79 + b"\n") * 100
        self.left = megabytes * 125

    def read(self, size):
        self.left -= 1
        return b"" if self.left < 0 else self.rows

    def write(self, data):
        pass


class Ticker:
    def __init__(self, sleep):
        self.sleep = sleep
        self.longest = 0.0

    def run(self):
        last = time.perf_counter()
        while True:
            self.sleep(0.005)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


def spawner(hub):
    """Return the functions of *hub* that spawn and sleep, and make psycopg2 green."""
    if hub == "gevent":
        import gevent

        import psycogreen.gevent

        psycogreen.gevent.make_psycopg_green()
        return gevent.spawn, gevent.sleep
    import eventlet

    import psycogreen.eventlet

    psycogreen.eventlet.make_psycopg_green()
    return eventlet.spawn, eventlet.sleep


def measure_time(hub, dsn, repeats):
    """Time the cases in this process; print them as JSON."""
    import psycopg2
    from psycopg2.extensions import get_wait_callback, set_wait_callback

    spawn, sleep = spawner(hub)
    callback = get_wait_callback()
    data = "".join(f"{n}\trow number {n}\n" for n in range(ROWS)).encode()
    times = {case: {"blocking": [], "green": []} for case in CASES}
    longest = dict.fromkeys(CASES, 0.0)
    for _ in range(repeats):
        for case, copy in CASES.items():
            for kind in "blocking", "green":
                set_wait_callback(callback if kind == "green" else None)
                connection = psycopg2.connect(dsn)
                cursor = connection.cursor()
                cursor.execute("CREATE TEMPORARY TABLE t (n int, name text)")
                ticker = Ticker(sleep)
                task = spawn(ticker.run) if kind == "green" else None
                sleep(0.01)
                ticker.longest = 0.0
                start = time.perf_counter()
                copy(cursor, data)
                times[case][kind].append(time.perf_counter() - start)
                if task is not None:
                    sleep(0.006)
                    task.kill()
                    longest[case] = max(longest[case], ticker.longest)
                assert cursor.rowcount == ROWS
                connection.close()
    print(json.dumps({"times": times, "longest": longest}))


def peak():
    """Return the peak of this process's resident memory in KB; getrusage() would include the parent's before exec()."""
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])


def measure_memory(hub, dsn, megabytes, direction):
    """Copy *megabytes* in this process; print by how many KB its peak grew."""
    import psycopg2

    spawner(hub)
    cursor = psycopg2.connect(dsn).cursor()
    cursor.execute("CREATE TEMPORARY TABLE t (line text)")

    def copy(megabytes):
        file = Generated(megabytes)
        if direction == "in":
            cursor.copy_expert("COPY t FROM STDIN WHERE false", file)
        else:
            rows = megabytes * 12_500
            cursor.copy_expert(f"COPY (SELECT repeat('1', 79) FROM generate_series(1, {rows})) TO STDOUT", file)

    copy(1)
    before = peak()
    copy(megabytes)
    print(json.dumps(peak() - before))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", default=HERE.parent, help="source tree with psycogreen 2, built in place")
    parser.add_argument("--hubs", nargs="+", choices=HUBS, default=HUBS)
    parser.add_argument("--loops", nargs="+", choices=["pure", "compiled"], default=["compiled"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=2000, help="for memory")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        what, hub, dsn, *rest = args.inside
        if what == "time":
            measure_time(hub, dsn, args.repeats)
        else:
            measure_memory(hub, dsn, args.megabytes, *rest)
        return
    with server() as dsn:
        for hub in args.hubs:
            for loop in args.loops:
                variant = Variant(loop, hub)

                def inside(*arguments, variant=variant):
                    command = [sys.executable, __file__, "--repeats", str(args.repeats)]
                    command += ["--megabytes", str(args.megabytes), "--inside", *arguments]
                    env = environment(variant, args.tree)
                    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)

                answer = inside("time", hub, dsn)
                print(f"{variant}: {'':13} blocking    green  green / blocking   longest pause")
                for case, times in answer["times"].items():
                    blocking, green = (statistics.median(times[kind]) for kind in ("blocking", "green"))
                    pairs = statistics.median(g / b for b, g in zip(times["blocking"], times["green"], strict=True))
                    pause = answer["longest"][case] * 1000
                    print(f"  {case:20} {blocking:9.3f} s {green:7.3f} s {pairs:12.2f} {pause:13.1f} ms", flush=True)
                for direction in "in", "out":
                    grown = inside("memory", hub, dsn, direction) / 1024
                    print(f"  {args.megabytes} MB {direction}: peak memory grew by {grown:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
