"""Writing and reading a large object: green and blocking psycopg2 take turns in one process.

``python benchmarks/lobject.py [gevent|eventlet] [megabytes]`` prints the medians, their
ratio, and the longest pause of a 5 ms ticker: in wall time, and in CPU time of this
process, which other programs on the machine do not disturb.
"""

import argparse
import importlib
import os
import statistics
import time

import psycopg2
from driver import server
from psycopg2 import extensions

ROUNDS = 7
TARGET, PAUSE = 1.5, 0.05

# How many bytes or characters each call writes or reads.
WAYS = {"whole": None, "by 1 MB": 1 << 20, "by 64 kB": 1 << 16}


def transfer(connect, data, mode, size):
    """Write *data* and read it back; return the seconds for each."""
    connection = connect()
    start = time.perf_counter()
    lobject = connection.lobject(0, "w" + mode)
    for at in range(0, len(data), size or len(data)):
        lobject.write(data[at : at + (size or len(data))])
    lobject.close()
    written = time.perf_counter()
    lobject = connection.lobject(lobject.oid, "r" + mode)
    if size is None:
        length = len(lobject.read())
    else:
        length = 0
        while piece := lobject.read(size):
            length += len(piece)
    read = time.perf_counter()
    assert length == len(data)
    connection.rollback()
    connection.close()
    return written - start, read - written


class Ticker:
    def __init__(self, sleep):
        self.sleep = sleep
        self.clock = self.cpu = 0.0
        self.running = True

    def run(self):
        clock, cpu = time.monotonic(), time.process_time()
        while self.running:
            self.sleep(0.005)
            clock, before = time.monotonic(), clock
            cpu, used = time.process_time(), cpu
            self.clock = max(self.clock, clock - before)
            self.cpu = max(self.cpu, cpu - used)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hub", nargs="?", choices=["gevent", "eventlet"], default="gevent")
    parser.add_argument("megabytes", nargs="?", type=int, default=100)
    args = parser.parse_args()
    hub = importlib.import_module(args.hub)
    adapter = importlib.import_module(f"psycogreen.{args.hub}")
    wait = (lambda task: task.get()) if args.hub == "gevent" else (lambda task: task.wait())
    length = args.megabytes * 1_000_000
    payloads = {"b": os.urandom(length), "t": "0123456789" * (length // 10)}

    with server() as dsn:

        def connect():
            return psycopg2.connect(dsn)

        for mode, data in payloads.items():
            for name, size in WAYS.items():
                if mode == "t" and size:
                    continue
                seconds = {"blocking": [], "green": []}
                ticker = Ticker(hub.sleep)
                for _ in range(ROUNDS):
                    extensions.set_wait_callback(None)
                    seconds["blocking"].append(transfer(connect, data, mode, size))
                    adapter.make_psycopg_green()
                    ticker.running = True
                    ticking = hub.spawn(ticker.run)
                    seconds["green"].append(wait(hub.spawn(transfer, connect, data, mode, size)))
                    ticker.running = False
                    wait(ticking)
                medians = {
                    way: [statistics.median(part) for part in zip(*rounds, strict=True)]
                    for way, rounds in seconds.items()
                }
                total = {way: statistics.median(map(sum, rounds)) for way, rounds in seconds.items()}
                ratio = total["green"] / total["blocking"]
                (w1, r1), (w2, r2) = medians["blocking"], medians["green"]
                print(
                    f"{args.hub} {'text' if mode == 't' else 'bytes'} {name:8}: written {w2:.2f} s (blocking {w1:.2f}),"
                    f" read {r2:.2f} s ({r1:.2f}): {ratio:.2f} of blocking's time (target {TARGET});"
                    f" pause {ticker.clock * 1e3:.0f} ms, {ticker.cpu * 1e3:.0f} ms of CPU (target {PAUSE * 1e3:.0f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
