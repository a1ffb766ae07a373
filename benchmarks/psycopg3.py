"""Instructions and CPU time per query of psycopg 3.

"patched" is psycopg's own way: gevent's monkey-patching, without psycogreen. On
eventlet, psycopg's own way stops the hub. For instructions and "overhead" see
instructions.py. The CPU time is compared to that of "patched", in interleaved pairs:
see cputime.py.
"""

import sys

from cputime import PAIRS, ROUND, compare
from driver import HUBS, Client, Variant, main
from instructions import instructions

CONNECTIONS = 16

BLOCKING = Variant(driver="psycopg")
PATCHED = Variant("patched", "gevent", driver="psycopg")

HEADER = f"{'variant':18} {'overhead':>9} {'instructions':>13}  {'CPU time':>8}  {'quartiles':>13}"


def rows(args, dsn):
    blocking = instructions(BLOCKING, dsn, args.tree, CONNECTIONS)
    yield {"variant": str(BLOCKING), "instructions": blocking, "overhead": 0}
    for variant in PATCHED, *(Variant(loop, hub, driver="psycopg") for hub in HUBS for loop in ("pure", "compiled")):
        each = instructions(variant, dsn, args.tree, CONNECTIONS)
        row = {"variant": str(variant), "instructions": each, "overhead": each - blocking}
        if variant != PATCHED:
            clients = [Client(each, dsn, args.tree, CONNECTIONS) for each in (variant, PATCHED)]
            with clients[0] as a, clients[1] as b:
                row |= compare((a, ROUND), (b, ROUND), PAIRS)
        yield row


def line(row):
    text = f"{row['variant']:18} {row['overhead']:9,.0f} {row['instructions']:13,.0f}"
    if "ratio" in row:
        low, high = row["quartiles"]
        text += f"  {row['ratio']:8.3f}  {low:6.3f} {high:6.3f}"
    return text


if __name__ == "__main__":
    main(sys.modules[__name__])
