"""Instructions of everyday work: connecting, a transaction, a named cursor.

Counted like the instructions of a query in instructions.py. The works are in driver.py.
"""

import sys

from driver import BLOCKING, WORKS, main, variants
from instructions import instructions

CONNECTIONS = 4
# How often a work is done in a round of each length. A work costs as much as several queries.
LENGTHS = 80, 240

HEADER = f"{'work':14}  {'variant':18} {'of 1.0.2':>9} {'overhead':>9} {'instructions':>13}"


def cost(variant, dsn, tree, work):
    """Return the instructions that *variant* takes for *work*."""
    return instructions(variant, dsn, tree, CONNECTIONS, work, LENGTHS)


def rows(args, dsn):
    for work in WORKS:
        blocking = cost(BLOCKING, dsn, args.tree, work)
        yield {"work": work, "variant": str(BLOCKING), "instructions": blocking, "overhead": 0}
        stock = {}
        for variant in variants(args.hubs, args.loops):
            each = cost(variant, dsn, args.tree, work)
            row = {"work": work, "variant": str(variant), "instructions": each, "overhead": each - blocking}
            if variant.loop == "1.0.2":
                stock[variant.hub] = row["overhead"]
            if variant.hub in stock:
                row["of 1.0.2"] = row["overhead"] / stock[variant.hub]
            yield row


def line(row):
    ratio = f"{row['of 1.0.2']:.3f}" if "of 1.0.2" in row else ""
    return f"{row['work']:14}  {row['variant']:18} {ratio:>9} {row['overhead']:9,.0f} {row['instructions']:13,.0f}"


if __name__ == "__main__":
    main(sys.modules[__name__])
