"""Instructions per query, counted by callgrind.

User-space instructions of the client: the slope between short rounds and long
ones, in one process and after a round to warm up, so that neither start-up nor
connecting nor the spawning of greenlets is in it. Of several rounds of either
length the least counts: a busy machine can only add turns of the hub.
"Overhead" is what a green query costs above the same query blocking.

How the figures bear on reality: the client sleeps a moment before each query,
so the answers to the others are there before it looks, and the hub finds nearly
all connections ready at once: how large the batches are must not depend on the
speed of the machine. What is paid once for a batch (a turn of the hub's loop,
its epoll_wait) is shared out among more queries than it would be with a fast
client or a slow server. The row with one connection shows the other end, where
each query pays for a turn of its own; reality lies between the two (syscalls.py
shows where). The kernel's part is not in it at all: see syscalls.py and
cputime.py.

The figures repeat to a fraction of a percent on one machine. Between machines
they compare only with the packages of requirements.txt. The processor does not
matter, as long as it has AVX2: valgrind shows every program the same one, and
so the C library picks the same memcpy. (It obeys GLIBC_TUNABLES under valgrind,
but without AVX2 the copying of the C stack alone takes 1,000 instructions
more.) What remains is the build of CPython, of the extension (the compiler and
its flags) and of the C library.
"""

import pathlib
import re
import sys
import tempfile

from driver import BLOCKING, Client, evenly, main, variants

# Queries in a round, and rounds of either length.
SHORT, LONG, ROUNDS = 320, 960, 5
# Seconds. Its own instructions are in all variants' queries, so in no overhead.
PAUSE = 0.0005


def instructions(variant, dsn, tree, connections, work=None, lengths=(SHORT, LONG)):
    """Return the instructions of *variant* per query, or for each time that it does *work*."""
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/out"
        callgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-before=getpgrp"]
        short, long = (evenly(length, connections) for length in lengths)
        with Client(variant, dsn, tree, connections, callgrind, pause=PAUSE, work=work) as client:
            for queries in [short] + ROUNDS * [short, long]:
                client.round(queries)
        # Dump 1 was made when the first round, to warm up, began and 2 when it ended; 4 has the next...
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
