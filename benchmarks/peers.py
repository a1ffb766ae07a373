"""psycogreen beside every alternative, each in an environment of its own, on one server.

    make bench-peers
    make bench-peers PEERS="--only gevent asyncpg --works select_1 row_by_key --connections 16 --rounds 3"

make builds an environment in .venvs/peers for each file of requirements in benchmarks/peers.
The contenders take turns in short rounds (A B C ... C A B ...), because times on a shared
machine drift, and the order is another one in each round. A round lasts a fifth of a second,
at 256 connections twice as long; each connection has a greenlet, task or thread of its own,
which does one work after the other. The figures are those of the client's process: CPU time is
user and system time. The server shares the processors with the client, so it limits the
queries a second and adds to the latencies.

Connecting is measured with 64 connections at most: then the server's forks are what takes the
time. COPY is measured with one, which keeps a processor busy; for all contenders, 16 at once took minutes a round.
"""

import argparse
import dataclasses
import os
import random
import shlex
import subprocess
import time

import measure
import peers_report
import psycopg2
from driver import HERE, Client, Variant, server
from peer_works import TABLES, WORKS
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ENVIRONMENTS = HERE.parent / ".venvs" / "peers"
CONNECTIONS = (1, 16, 64, 256)
MOST_CONNECTIONS = {"connect": 64, "copy_in": 1, "copy_out": 1}
# The clients of all contenders stay open while the server has room for their connections. With more, each round
# needs new clients.
ROOM = 2000
# Rounds that take many times their measure: of new clients, and of COPY in pure Python.
FEW_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way of waiting for PostgreSQL.

    *spawn_each* is for psycogreen on asyncio: each work in a spawn() of its own, and not all
    works of a connection in one.
    """

    environment: str
    variant: Variant
    spawn_each: bool = False

    @property
    def product(self):
        if self.spawn_each:
            return "psycogreen, spawn() for each"
        return {
            "psycogreen": f"psycogreen, {self.variant.loop}",
            "psycogreen-1.0.2": "psycogreen 1.0.2",
            "eventlet": "eventlet's own patch",
            "threads": "psycopg2 in threads",
            "psycopg": "psycopg 3, async" if self.variant.driver == "psycopg async" else "psycopg 3",
        }.get(self.environment, self.environment)

    @property
    def driver(self):
        return {"psycopg": "psycopg 3", "psycopg async": "psycopg 3", "aiopg": "psycopg2"}.get(
            self.variant.driver, self.variant.driver
        )

    def __str__(self):
        return f"{self.product}, {self.variant.hub}, {self.driver}"


def psycogreens():
    for driver in "psycopg2", "psycopg":
        for hub in "gevent", "eventlet", "asyncio", "uvloop":
            yield Contender("psycogreen", Variant("compiled", hub, driver=driver))
            if driver == "psycopg2" and hub in ("asyncio", "uvloop"):
                yield Contender("psycogreen", Variant("compiled", hub, driver=driver), spawn_each=True)
            if hub != "uvloop":
                yield Contender("psycogreen", Variant("pure", hub, driver=driver))


CONTENDERS = [
    *psycogreens(),
    Contender("psycogreen-1.0.2", Variant("1.0.2", "gevent")),
    Contender("psycogreen-1.0.2", Variant("1.0.2", "eventlet")),
    Contender("eventlet", Variant("patched", "eventlet")),
    Contender("threads", Variant("blocking", "threads")),
    Contender("psycopg", Variant("patched", "gevent", driver="psycopg")),
    *[
        Contender(environment, Variant("blocking", hub, driver=driver))
        for environment, driver in (("psycopg", "psycopg async"), ("aiopg", "aiopg"), ("asyncpg", "asyncpg"))
        for hub in ("asyncio", "uvloop")
    ],
]


class PeerClient(Client):
    """A running peer_client.py."""

    def __init__(self, contender, dsn, connections):
        self.connections = connections
        self._times = {}
        variant = contender.variant
        command = [str(ENVIRONMENTS / contender.environment / "bin" / "python"), str(HERE / "peer_client.py")]
        command += [variant.hub, "--dsn", dsn, "--driver", variant.driver, "--connections", str(connections)]
        command += ["--patched"] if variant.loop == "patched" else []
        command += ["--spawn-each"] if contender.spawn_each else []
        self._start(command, variant, None)

    def round(self, work, seconds):
        """Do *work* for about so many seconds; return the figures, or {"refused": why}."""
        if work not in self._times:
            # The first times import, fill caches and prepare statements, psycopg 3 the sixth time. The last tell
            # how long a work takes.
            for times in 1, 7, 50:
                warm_up = self._ask((work, times))
                if "refused" in warm_up:
                    return warm_up
                if warm_up["wall"] > seconds / 3:
                    break
            self._times[work] = max(1, round(times * seconds / warm_up["wall"]))
        answer = self._ask((work, self._times[work]))
        return {
            "rate": answer["works"] / answer["wall"],
            "cpu": answer["cpu"] / answer["works"] * 1e6,
            "p50": answer["p50"] * 1e3,
            "p99": answer["p99"] * 1e3,
            "megabytes": answer["megabytes"],
        }


def turns(contenders, works, connections, rounds):
    """Yield (contender, work, whether the contender's client is needed again) in the order of measuring."""
    works = [work for work in works if connections <= MOST_CONNECTIONS.get(work, connections)]
    room = connections * len(contenders) <= ROOM
    for each_of in [[work] for work in works] if room else [works]:
        few = not room or each_of[0].startswith("copy")
        for number in range(min(rounds, FEW_ROUNDS) if few else rounds):
            for contender in random.Random(number).sample(contenders, len(contenders)):
                for work in each_of:
                    yield contender, work, room or work != each_of[-1]


def compare(plan, connections, seconds, dsn, advance):
    """Measure these turns; return the rows of the record, and each environment's versions."""
    rows, versions, clients = {}, {}, {}
    try:
        for contender, work, again in plan:
            if contender not in clients:
                clients[contender] = PeerClient(contender, dsn, connections)
                versions[contender.environment] = clients[contender].about["versions"]
            figures = clients[contender].round(work, seconds)
            if not again:
                clients.pop(contender).close()
            row = rows.setdefault(
                (contender, work),
                {
                    "product": contender.product,
                    "hub": contender.variant.hub,
                    "driver": contender.driver,
                    "work": work,
                    "connections": connections,
                },
            )
            if "refused" in figures:
                row.update(figures)
            else:
                for name, figure in figures.items():
                    row.setdefault(name, []).append(float(f"{figure:.4g}"))
            advance(work)
    finally:
        for client in clients.values():
            client.close()
    return list(rows.values()), versions


def about(args, parser, dsn):
    chosen = {name: getattr(args, name) for name in ("only", "works", "connections", "rounds", "seconds")}
    options = []
    for name, value in chosen.items():
        if value != parser.get_default(name):
            options += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    described = measure.about(args, dsn)
    keys = ("processor", "kernel", "Python", "PostgreSQL")
    return {
        "command": "make bench-peers" + (f' PEERS="{shlex.join(options)}"' if options else ""),
        "date": time.strftime("%-d %B %Y"),
        **{key: described[key] for key in keys},
        "commit": package_commit(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "load before": round(os.getloadavg()[0], 1),
    }


def package_commit():
    """Return the last commit that changed the package; its name is the same after later commits of figures."""

    def git(*command):
        return subprocess.run(["git", "-C", HERE.parent, *command], capture_output=True, text=True).stdout.strip()

    return git("log", "-1", "--format=%h", "--", "psycogreen") + ("-dirty" if git("status", "-s", "psycogreen") else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose names have one of these in them")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a round")
    parser.add_argument("--json", help="where to write the record")
    parser.add_argument("--picture", help="where to draw the picture")
    parser.add_argument("--tree", default=HERE.parent, help=argparse.SUPPRESS)
    args = parser.parse_args()

    contenders = [each for each in CONTENDERS if any(word in str(each) for word in args.only)]
    console = peers_report.new_console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with server() as dsn:
        with psycopg2.connect(dsn) as conn:
            conn.cursor().execute(TABLES)
        conn.close()
        run = about(args, parser, dsn)
        record = {"runs": [run], "versions": {}, "rows": []}
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            plans = {number: list(turns(contenders, args.works, number, args.rounds)) for number in args.connections}
            task = progress.add_task("", total=sum(map(len, plans.values())))
            for connections, plan in plans.items():

                def advance(work, connections=connections):
                    progress.update(task, advance=1, description=f"{connections:3} connections, {WORKS[work]}")

                # A round includes starting the greenlets: each does enough works to make that small.
                seconds = args.seconds * (2 if connections > 100 else 1)
                rows, versions = compare(plan, connections, seconds, dsn, advance)
                record["rows"] += rows
                record["versions"].update(versions)
                run["load after"] = round(os.getloadavg()[0], 1)
                if args.json:
                    peers_report.write(record, args.json)
    peers_report.show(record, console)
    if args.picture:
        peers_report.draw(record, args.picture)


if __name__ == "__main__":
    main()
