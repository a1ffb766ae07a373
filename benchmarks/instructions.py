"""Instructions per query, counted by callgrind.

User-space instructions of the client: the slope between a short round and a
long one, in one process and after a round to warm up, so that neither start-up
nor connecting nor the spawning of greenlets is in it. "Overhead" is what a
green query costs above the same query blocking.

How the figures bear on reality: under valgrind the client runs some 50 times
slower while the server does not, so the answers are always there before the
client looks, and a hub finds as many connections ready at once as there are.
What is paid once for a batch (a turn of the hub's loop, its epoll_wait) is
shared out among more queries than it would be with a fast client or a slow
server. The row with one connection shows the other end, where each query pays
for a turn of its own; reality lies between the two. The kernel's share is not
in it at all: see syscalls.py and cputime.py.

The figures repeat to a fraction of a percent on one machine, and are comparable
between machines only with the packages of requirements.txt and the same
CPython build. valgrind shows every program the same CPU (with or without AVX2,
as the host has it), and AVX2 is hidden from the C library here, so its choice
of memcpy and the like does not depend on the machine; what remains is the C
library's own version.
"""

import argparse
import pathlib
import re
import tempfile

from driver import BLOCKING, HUBS, LOOPS, Client, evenly, server, variants

# Queries in the short and in the long round.
SHORT, LONG = 1000, 3000
WARM_UP = 320


def instructions(variant, dsn, tree, connections):
    """Return the instructions per query of *variant*."""
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out"
        valgrind = [
            "valgrind",
            "-q",
            "--tool=callgrind",
            f"--callgrind-out-file={out}",
            "--dump-before=getpgrp",
        ]
        rounds = [evenly(n, connections) for n in (WARM_UP, SHORT, LONG)]
        with Client(variant, dsn, tree, connections, valgrind) as client:
            for queries in rounds:
                client.round(queries)
        # Dump 1 ends before the first round, 2 with it, 3 before the second...
        short, long = (total(f"{out}.{2 * n}") for n in (2, 3))
    return (long - short) / (rounds[2] - rounds[1])


def total(path):
    """Return the instructions in one of callgrind's dumps."""
    text = pathlib.Path(path).read_text()
    (count,) = re.findall(r"^(?:totals|summary): (\d+)$", text, re.MULTILINE)[-1:]
    return int(count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", default=".", help="source tree with psycogreen 2, built in place")
    parser.add_argument("--connections", type=int, nargs="+", default=[16])
    parser.add_argument("--hubs", nargs="+", choices=HUBS, default=HUBS)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    args = parser.parse_args()

    print(f"{'connections':>11}  {'variant':20} {'of 1.0.2':>8} {'overhead':>9} {'instructions per query':>23}")
    with server() as dsn:
        for connections in args.connections:
            blocking = instructions(BLOCKING, dsn, args.tree, connections)
            print(f"{connections:11}  {'blocking':20} {'':8} {'':9} {blocking:23,.0f}")
            stock = {}
            for variant in variants(args.loops, args.hubs):
                each = instructions(variant, dsn, args.tree, connections)
                overhead = each - blocking
                if variant.loop == "1.0.2":
                    stock[variant.hub] = overhead
                of_stock = f"{overhead / stock[variant.hub]:8.1%}" if variant.hub in stock else ""
                print(f"{connections:11}  {variant!s:20} {of_stock:8} {overhead:9,.0f} {each:23,.0f}", flush=True)


if __name__ == "__main__":
    main()
