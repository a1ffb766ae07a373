"""The benchmarks of one variant, for pyperf; speed.py runs it for each variant.

"loop alone" is the wait callback with a fake connection on a real pair of sockets, which
is ready after one park. It includes sending and receiving one byte. "SELECT 1" is a
whole query, in several greenlets.
"""

import functools
import importlib
import itertools
import socket
import time

import pyperf
from load import green, one_after_the_other, run

POLL_OK, POLL_READ = 0, 1
GREENLETS = (1, 16, 64)


class OneParkConnection:
    """A fake connection that asks for one wait and is then done."""

    def __init__(self, sock):
        self.fileno = sock.fileno
        self._receive = sock.recv
        self._asked = False

    def poll(self):
        if self._asked:
            self._receive(1)
        self._asked = not self._asked
        return POLL_READ if self._asked else POLL_OK


def loop_alone(loops, callback):
    ours, other = socket.socketpair()
    conn = OneParkConnection(ours)
    start = time.perf_counter()
    for _ in itertools.repeat(None, loops):
        other.send(b"x")
        callback(conn)
    return time.perf_counter() - start


def select_1(loops, join_all, cursors):
    start = time.perf_counter()
    join_all(run, cursors(), "SELECT 1", loops)
    return time.perf_counter() - start


def main():
    def pass_on(command, args):
        command += [args.hub, "--dsn", args.dsn]

    runner = pyperf.Runner(processes=3, values=5, add_cmdline_args=pass_on)
    runner.argparser.add_argument("hub", choices=["none", "gevent", "eventlet"])
    runner.argparser.add_argument("--dsn", required=True)
    args = runner.parse_args()
    join_all = one_after_the_other if args.hub == "none" else green(args.hub, {})

    @functools.cache  # pyperf runs this script for each benchmark: connect only for that one
    def cursors(number):
        import psycopg2

        connections = [psycopg2.connect(args.dsn) for _ in range(number)]
        for conn in connections:
            conn.autocommit = True
        return [conn.cursor() for conn in connections]

    if args.hub != "none":
        adapter = importlib.import_module(f"psycogreen.{args.hub}")
        callback = getattr(adapter, f"{args.hub}_wait_callback")
        runner.bench_time_func(f"{args.hub}, loop alone", loop_alone, callback)
    for number in GREENLETS:
        name = f"{args.hub}, SELECT 1, {number} greenlets"
        runner.bench_time_func(name, select_1, join_all, functools.partial(cursors, number), inner_loops=number)


if __name__ == "__main__":
    main()
