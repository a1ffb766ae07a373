"""System calls per query, counted by strace.

The slope between a short round and a long one, as in instructions.py. strace
stops the client at each system call, which gives the server time to answer:
batches are larger than in a run without it, and what is paid once for a batch
(epoll_wait) is shared out among more queries. With one connection every query
is a batch of its own: that is the other end.
"""

import argparse
import collections
import pathlib
import re
import tempfile

from driver import BLOCKING, HUBS, LOOPS, Client, evenly, server, variants

SHORT, LONG = 500, 1500
WARM_UP = 320


def syscalls(variant, dsn, tree, connections):
    """Return the calls per query of *variant*, by the call's name."""
    with tempfile.TemporaryDirectory() as scratch:
        log = pathlib.Path(scratch) / "log"
        strace = ["strace", "-f", "-qq", "-o", str(log)]
        rounds = [evenly(n, connections) for n in (WARM_UP, SHORT, LONG)]
        with Client(variant, dsn, tree, connections, strace) as client:
            for queries in rounds:
                client.round(queries)
        between = [collections.Counter()]
        for line in log.read_text().splitlines():
            # "<pid> <call>(..."; a call of one thread that another interrupted
            # is there once more as "<... call resumed>".
            if match := re.match(r"\d+ +(\w+)\(", line):
                if match[1] == "getpgrp":
                    between.append(collections.Counter())
                else:
                    between[-1][match[1]] += 1
    _, _, _, short, _, long, _ = between
    queries = rounds[2] - rounds[1]
    calls = {name: (long[name] - short[name]) / queries for name in long}
    return {name: each for name, each in sorted(calls.items(), key=lambda call: -call[1]) if each >= 0.001}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", default=".", help="source tree with psycogreen 2, built in place")
    parser.add_argument("--connections", type=int, nargs="+", default=[16])
    parser.add_argument("--hubs", nargs="+", choices=HUBS, default=HUBS)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    args = parser.parse_args()

    print(f"{'connections':>11}  {'variant':20} {'calls per query':>15}  of these")
    with server() as dsn:
        for connections in args.connections:
            for variant in [BLOCKING, *variants(args.loops, args.hubs)]:
                calls = syscalls(variant, dsn, args.tree, connections)
                names = ", ".join(f"{name} {each:.2f}" for name, each in calls.items())
                print(f"{connections:11}  {variant!s:20} {sum(calls.values()):15.2f}  {names}", flush=True)


if __name__ == "__main__":
    main()
