"""CPU and wall time per query, in interleaved pairs.

CPU time is user and system time of the client. On a shared machine it drifts from
second to second. So two clients take turns in short rounds (A B A B ...) on one
server, and only their ratio counts: the median over the pairs, with the quartiles,
which show how far to trust it. "user" is the same ratio for the user time alone, on
which the wait loop has all its influence. "kernel" is the system time of each client.
Most of it sends the query and wakes the server, which no wait loop can avoid: it
limits how low the ratio can be.
"""

import statistics
import sys

from driver import BLOCKING, Client, Variant, evenly, main

LIBUV = (("GEVENT_LOOP", "libuv-cffi"),)
PAIRS = 41
# Queries in a round: about a tenth of a second.
ROUND = 6400

# 100 MB, in many rows or in few.
MANY_ROWS = "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"
FEW_ROWS = "SELECT repeat('x', 1000000) FROM generate_series(1, 100)"


def compare(a, b, pairs, what="cpu"):
    """Compare two clients, each a pair of a client and the number of queries in its rounds.

    Returns:
        "ratio" (the first over the second), its "quartiles", "user" (the ratio
        of the user times), "each" (microseconds per query, for each client) and
        "kernel" (the part of them that is system time).
    """
    for client, queries in (a, b):
        client.round(queries)  # a warm-up
    times = [[client.round(queries) for client, queries in (a, b)] for _ in range(pairs)]
    each = [[time[what] / queries * 1e6 for time, (_, queries) in zip(pair, (a, b), strict=True)] for pair in times]
    low, median, high = statistics.quantiles((first / second for first, second in each), n=4)
    # The kernel measures the user time of single rounds only roughly.
    user, cpu = (
        [sum(pair[n][key] for pair in times) / queries / pairs * 1e6 for n, (_, queries) in enumerate((a, b))]
        for key in ("user", "cpu")
    )
    return {
        "ratio": median,
        "quartiles": [low, high],
        "user": user[0] / user[1],
        "each": [statistics.median(column) for column in zip(*each, strict=True)],
        "kernel": [cpu[n] - user[n] for n in (0, 1)],
        "of": what,
    }


def loops(variant, stock, connections, what="cpu"):
    """Compare two variants."""

    def run(dsn, tree):
        queries = evenly(ROUND, connections)
        with Client(variant, dsn, tree, connections) as a, Client(stock, dsn, tree, connections) as b:
            return compare((a, queries), (b, queries), PAIRS, what)

    return run


def growth(variant, many, few):
    """Compare *many* connections to *few*."""

    def run(dsn, tree):
        with Client(variant, dsn, tree, many) as a, Client(variant, dsn, tree, few) as b:
            # A round includes spawning the greenlets: each does enough queries to make that small.
            return compare((a, 50 * many), (b, evenly(5 * ROUND, few)), 7)

    return run


def large(variant, query):
    """Compare fetching a large result to fetching it blocking."""

    def run(dsn, tree):
        with Client(variant, dsn, tree, query=query) as a, Client(BLOCKING, dsn, tree, query=query) as b:
            return compare((a, 1), (b, 1), PAIRS)

    return run


def comparisons(hub):
    """Return all comparisons on *hub*, by name."""
    variant, stock = Variant("compiled", hub), Variant("1.0.2", hub)
    todo = {f"{n} connections: compiled / 1.0.2": loops(variant, stock, n) for n in (16, 64)}
    if hub == "gevent":
        libuv = Variant("compiled", hub, LIBUV), Variant("1.0.2", hub, LIBUV)
        todo["16 connections on libuv: compiled / 1.0.2"] = loops(*libuv, 16)
    todo["1 connection, wall time: compiled / 1.0.2"] = loops(variant, stock, 1, "wall")
    for each in (variant, stock):
        todo[f"{each.loop}: 1,000 connections / 16"] = growth(each, 1000, 16)
        todo[f"100 MB in 100,000 rows: {each.loop} / blocking"] = large(each, MANY_ROWS)
        todo[f"100 MB in 100 rows: {each.loop} / blocking"] = large(each, FEW_ROWS)
    return todo


HEADER = f"{'ratio':>6}  {'quartiles':>13}  {'user':>6}  {'microseconds per query':>23}  {'kernel':>23}  what"


def rows(args, dsn):
    for hub in args.hubs:
        for name, run in comparisons(hub).items():
            yield {"what": f"{hub}, {name}", **run(dsn, args.tree)}


def line(row):
    low, high = row["quartiles"]
    each = "  ".join(f"{a:11,.1f} {b:11,.1f}" for a, b in (row["each"], row["kernel"]))
    return f"{row['ratio']:6.3f}  {low:6.3f} {high:6.3f}  {row['user']:6.3f}  {each}  {row['what']}"


if __name__ == "__main__":
    main(sys.modules[__name__])
