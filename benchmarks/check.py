"""Fail when the compiled loop has become more expensive.

Counts instructions for a query with 16 connections (see instructions.py), a connect
and a transaction (see works.py). The overhead above blocking may be 8 % more than
recorded.json says, and that of eventlet's connect and transaction 12 %: a turn of its hub
takes 15,000 instructions, and how many turns a work takes depends on which answers arrive
together. Runs of the same code on one day differed by that much. A figure that is too high
is counted twice more, and the least counts: what runs beside it can only add turns. After
a change that is worth its price, or an improvement, record it anew:

    pip install -r benchmarks/requirements.txt
    python setup.py build_ext --inplace
    python benchmarks/check.py --record
"""

import json
import platform
import sys

from driver import BLOCKING, HERE, HUBS, Variant, parser, server, versions
from instructions import instructions
from works import cost

RECORD = HERE / "recorded.json"
CONNECTIONS = 16
TOLERANCE = 0.08
TOLERANCES = {"eventlet, connect": 0.12, "eventlet, transaction": 0.12}
# How often a figure is counted at most.
ATTEMPTS = 3


def count(variant, work, dsn, tree):
    """Return the instructions that *variant* takes for *work*."""
    return instructions(variant, dsn, tree, CONNECTIONS) if work == "query" else cost(variant, dsn, tree, work)


def measure(dsn, tree, enough):
    """Return the overhead of each work on each hub, the least of up to ATTEMPTS counts.

    *enough* tells by the name and the figure whether to leave it at that.
    """
    overhead = {}
    for work in "query", "connect", "transaction":
        blocking = count(BLOCKING, work, dsn, tree)
        for hub in HUBS:
            name = f"{hub}, {work}"
            for _ in range(ATTEMPTS):
                figure = round(count(Variant("compiled", hub), work, dsn, tree) - blocking)
                overhead[name] = min(figure, overhead.get(name, figure))
                if enough(name, overhead[name]):
                    break
    return overhead


def main():
    command = parser(__doc__.splitlines()[0])
    command.add_argument("--record", action="store_true", help="make today's figures the recorded ones")
    args = command.parse_args()
    recorded = json.loads(RECORD.read_text())

    def is_allowed(name, figure):
        return figure <= recorded["overhead"][name] * (1 + TOLERANCES.get(name, TOLERANCE))

    with server() as dsn:
        overhead = measure(dsn, args.tree, enough=lambda *figure: not args.record and is_allowed(*figure))
    python = {"Python": platform.python_version(), "C library": platform.libc_ver()[1]}
    now = {"overhead": overhead, "versions": {**python, **versions()}}
    if args.record:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
        recorded = now

    print(f"{'change':>7}  {'overhead':>9} {'recorded':>9}  instructions above blocking")
    for name, figure in overhead.items():
        change = figure / recorded["overhead"][name] - 1
        print(f"{change:+7.1%}  {figure:9,} {recorded['overhead'][name]:9,}  {name}")
    for name, version in recorded["versions"].items():
        here = now["versions"].get(name)
        if here != version:
            print(f"{name}: {here} here, {version} when recorded; the figures may not compare")
    if not all(is_allowed(*figure) for figure in overhead.items()):
        sys.exit("grown by more than is allowed: see benchmarks/check.py")


if __name__ == "__main__":
    main()
