"""Fail when the compiled loop has become more expensive.

Counts instructions per query (see instructions.py) with 16 connections, and
compares the overhead above blocking with what recorded.json says: 5 % more
fails. After a change that is worth its price, or an improvement, record anew:

    pip install -r benchmarks/requirements.txt
    python setup.py build_ext --inplace
    python benchmarks/check.py --record
"""

import json
import platform
import sys

from driver import BLOCKING, HERE, HUBS, Variant, parser, server, versions
from instructions import instructions

RECORD = HERE / "recorded.json"
CONNECTIONS = 16
TOLERANCE = 0.05


def main():
    command = parser(__doc__.splitlines()[0])
    command.add_argument("--record", action="store_true", help="make today's figures the recorded ones")
    args = command.parse_args()

    with server() as dsn:
        blocking = instructions(BLOCKING, dsn, args.tree, CONNECTIONS)
        overhead = {
            hub: round(instructions(Variant("compiled", hub), dsn, args.tree, CONNECTIONS) - blocking) for hub in HUBS
        }
    python = {"Python": platform.python_version(), "C library": platform.libc_ver()[1]}
    now = {"overhead": overhead, "versions": {**python, **versions()}}
    if args.record:
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
    recorded = json.loads(RECORD.read_text())

    grown = False
    print(f"{'change':>7}  {'overhead':>9} {'recorded':>9}  instructions per query above blocking")
    for hub, figure in overhead.items():
        change = figure / recorded["overhead"][hub] - 1
        print(f"{change:+7.1%}  {figure:9,} {recorded['overhead'][hub]:9,}  {hub}")
        grown |= change > TOLERANCE
    for name, version in recorded["versions"].items():
        here = now["versions"].get(name)
        if here != version:
            print(f"{name}: {here} here, {version} when recorded; the figures may not compare")
    if grown:
        sys.exit(f"grown by more than {TOLERANCE:.0%}: see benchmarks/check.py")


if __name__ == "__main__":
    main()
