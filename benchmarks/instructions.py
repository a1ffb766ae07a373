"""Instructions per query, counted by callgrind.

The figures are user-space instructions of the client: the slope between short and long
rounds, in one process and after a warm-up, so that they include neither start-up nor
connecting nor the spawning of greenlets. The cheapest of several rounds of each length
counts, because a busy machine can only add turns of the hub. "Overhead" is the cost of
a green query above that of the same query blocking.

How the figures relate to reality: the size of the batches must not depend on the speed
of the machine. So the client sleeps a moment before each query. By then the answers to
the other queries have arrived, and the hub finds nearly all connections ready at once.
The costs of a batch (a turn of the hub's loop, its epoll_wait) are shared by more
queries than with a fast client or a slow server. The row with one connection shows the
other extreme, where each query pays for a turn of its own. Reality lies between the
two; syscalls.py shows where. The kernel's instructions are not included: see
syscalls.py and cputime.py.

The figures repeat to a fraction of a percent on one machine. Figures of two machines
compare only with the packages of requirements.txt, and with the same builds of CPython,
of the extension (the compiler and its flags) and of the C library. The processor does
not matter if it has AVX2: valgrind shows every program the same processor, so the C
library chooses the same memcpy. (The C library obeys GLIBC_TUNABLES under valgrind, but
without AVX2 the copying of the C stack alone takes 1,000 instructions more.)
"""

import pathlib
import re
import sys
import tempfile

from driver import BLOCKING, Client, evenly, main, variants

# Queries in a round, and rounds of each length.
SHORT, LONG, ROUNDS = 320, 960, 5
# Seconds. All variants pay the instructions of the pause, so no overhead includes them.
PAUSE = 0.0005


def instructions(variant, dsn, tree, connections, work=None, lengths=(SHORT, LONG)):
    """Return the instructions of *variant* for a query, or for *work*."""
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/out"
        callgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-before=getpgrp"]
        short, long = (evenly(length, connections) for length in lengths)
        with Client(variant, dsn, tree, connections, callgrind, pause=PAUSE, work=work) as client:
            for queries in [short] + ROUNDS * [short, long]:
                client.round(queries)
        # callgrind dumps at the beginning and the end of each round: dumps 1 and 2 belong to the warm-up,
        # and dump 4 holds the next round.
        totals = [total(f"{out}.{n}") for n in range(4, 4 + 4 * ROUNDS, 2)]
    return (min(totals[1::2]) - min(totals[::2])) / (long - short)


def total(path):
    """Return the instructions in one of callgrind's dumps."""
    return int(re.findall(r"^(?:totals|summary): (\d+)$", pathlib.Path(path).read_text(), re.MULTILINE)[-1])


HEADER = f"{'connections':>11}  {'variant':18} {'of 1.0.2':>9} {'overhead':>9} {'instructions':>13}"


def rows(args, dsn):
    for connections in args.connections:
        blocking = instructions(BLOCKING, dsn, args.tree, connections)
        yield {"variant": str(BLOCKING), "connections": connections, "instructions": blocking, "overhead": 0}
        stock = {}
        for variant in variants(args.hubs, args.loops):
            each = instructions(variant, dsn, args.tree, connections)
            row = {"variant": str(variant), "connections": connections, "instructions": each}
            row["overhead"] = each - blocking
            if variant.loop == "1.0.2":
                stock[variant.hub] = row["overhead"]
            if variant.hub in stock:
                row["of 1.0.2"] = row["overhead"] / stock[variant.hub]
            yield row


def line(row):
    ratio = f"{row['of 1.0.2']:.3f}" if "of 1.0.2" in row else ""
    return (
        f"{row['connections']:11}  {row['variant']:18} {ratio:>9} {row['overhead']:9,.0f} {row['instructions']:13,.0f}"
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
