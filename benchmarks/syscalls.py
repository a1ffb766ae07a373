"""System calls per query, counted by strace and, at full speed, by perf.

The figures are the slope between short and long rounds, as in instructions.py. strace
stops the client at each call, which gives the server time to answer. So batches are
larger than without strace, and more queries share the calls of a batch (epoll_wait).
perf costs the client nearly nothing, but counts the kernel's trace points only where
the system allows it, mostly for root. There the table shows perf's count too, which
depends on other programs on the machine.
"""

import collections
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from driver import BLOCKING, Client, evenly, main, variants

# Queries in a round, and rounds of each length.
SHORT, LONG, ROUNDS = 320, 960, 3
# Queries for perf, which counts from the start of the process to its end.
PERF_SHORT, PERF_LONG = 1920, 21120


def syscalls(variant, dsn, tree, connections):
    """Return the calls per query of *variant*, by the name of the call."""
    with tempfile.TemporaryDirectory() as scratch:
        log = pathlib.Path(scratch) / "log"
        short, long = evenly(SHORT, connections), evenly(LONG, connections)
        with Client(variant, dsn, tree, connections, ["strace", "-f", "-qq", "-o", str(log)]) as client:
            for queries in [short] + ROUNDS * [short, long]:
                client.round(queries)
        between = [collections.Counter()]
        # "<thread> <call>(...". A call that another thread's call interrupts has two lines, one of this form.
        for call in re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE):
            if call == "getpgrp":
                between.append(collections.Counter())
            else:
                between[-1][call] += 1
    # Leave out the calls between the rounds, and the first round, which is a warm-up.
    in_short, in_long = between[3::4], between[5::4]
    calls = {}
    for name in set().union(*in_long):
        medians = [statistics.median(counts[name] for counts in rounds) for rounds in (in_short, in_long)]
        calls[name] = (medians[1] - medians[0]) / (long - short)
    return {name: each for name, each in sorted(calls.items(), key=lambda call: -call[1]) if each > 0}


def at_full_speed(variant, dsn, tree, connections):
    """Return the calls per query of *variant*, or None where perf can't count them."""
    if not shutil.which("perf") or subprocess.run([*PERF, "true"], check=False, capture_output=True).returncode:
        return None
    counts = []
    for queries in (PERF_SHORT, PERF_LONG):
        with tempfile.NamedTemporaryFile() as out:
            with Client(variant, dsn, tree, connections, [*PERF, "-o", out.name]) as client:
                client.round(evenly(queries, connections))
            counts.append(int(re.search(rb"^(\d+),", out.read(), re.MULTILINE)[1]))
    return (counts[1] - counts[0]) / (evenly(PERF_LONG, connections) - evenly(PERF_SHORT, connections))


PERF = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter"]

HEADER = f"{'connections':>11}  {'variant':18} {'calls':>6} {'at full speed':>14}  of these (strace)"


def rows(args, dsn):
    for connections in args.connections:
        for variant in [BLOCKING, *variants(args.hubs, args.loops)]:
            calls = syscalls(variant, dsn, args.tree, connections)
            yield {
                "variant": str(variant),
                "connections": connections,
                "calls": sum(calls.values()),
                "at full speed": at_full_speed(variant, dsn, args.tree, connections),
                "by name": calls,
            }


def line(row):
    fast = f"{row['at full speed']:.2f}" if row["at full speed"] else "-"
    names = ", ".join(f"{name} {each:.2f}" for name, each in row["by name"].items() if each >= 0.005)
    return f"{row['connections']:11}  {row['variant']:18} {row['calls']:6.2f} {fast:>14}  {names}"


if __name__ == "__main__":
    main(sys.modules[__name__])
