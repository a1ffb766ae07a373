"""Fail when the compiled loop has become more expensive.

Counts instructions for a query with 16 connections (see instructions.py), a connect
and a transaction (see works.py). The overhead above blocking may be 5 % more than
recorded.json says, and that of eventlet's connect and transaction 12 %: a turn of its hub
takes 15,000 instructions, and how many turns a work takes depends on which answers arrive
together. Runs of the same code on one day differed by that much. After a change that is
worth its price, or an improvement, record it anew:

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
TOLERANCE = 0.05
TOLERANCES = {"eventlet, connect": 0.12, "eventlet, transaction": 0.12}


def measure(dsn, tree):
    """Return the overhead of each work on each hub."""

    def query(variant):
        return instructions(variant, dsn, tree, CONNECTIONS)

    def work(name):
        return lambda variant: cost(variant, dsn, tree, name)

    overhead = {}
    for name, count in ("query", query), ("connect", work("connect")), ("transaction", work("transaction")):
        blocking = count(BLOCKING)
        for hub in HUBS:
            overhead[f"{hub}, {name}"] = round(count(Variant("compiled", hub)) - blocking)
    return overhead


def main():
    command = parser(__doc__.splitlines()[0])
    command.add_argument("--record", action="store_true", help="make today's figures the recorded ones")
    args = command.parse_args()

    with server() as dsn:
        overhead = measure(dsn, args.tree)
    python = {"Python": platform.python_version(), "C library": platform.libc_ver()[1]}
    now = {"overhead": overhead, "versions": {**python, **versions()}}
    if args.record:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
    recorded = json.loads(RECORD.read_text())

    grown = False
    print(f"{'change':>7}  {'overhead':>9} {'recorded':>9}  instructions above blocking")
    for what, figure in overhead.items():
        change = figure / recorded["overhead"][what] - 1
        print(f"{change:+7.1%}  {figure:9,} {recorded['overhead'][what]:9,}  {what}")
        grown |= change > TOLERANCES.get(what, TOLERANCE)
    for name, version in recorded["versions"].items():
        here = now["versions"].get(name)
        if here != version:
            print(f"{name}: {here} here, {version} when recorded; the figures may not compare")
    if grown:
        sys.exit("grown by more than is allowed: see benchmarks/check.py")


if __name__ == "__main__":
    main()
