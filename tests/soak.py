"""Everything goes wrong at full load: does a call hang, a result lie, or anything stay behind?

    python tests/soak.py --minutes 30

The program starts a server, poolers in front of it and a bad network. For each of
{gevent, eventlet, asyncio} x {compiled, pure}, one after the other,
programs/soak_client.py keeps connections busy on all of these routes, and kills
greenlets. Meanwhile this program ends sessions and queries, stops the server's
processes for a while, kills them, and restarts the server.

At the end it prints a table. The status is 0 if no call hung, no result was wrong, no
exception was of a class that blocking psycopg2 would not raise, committed work is in
the server, work that was rolled back is not, and nothing stayed behind. Otherwise it
is 1. ``--picture FILE`` draws memory and descriptors over time.

--seed sets the random numbers. The order of events also depends on the machine's speed.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console
from rich.live import Live
from rich.table import Table
from support.cluster import Cluster
from support.network import free_port
from support.postgres import bouncer_program
from support.processes import PROGRAMS, child_environment, leash, serving
from support.waiting import wait_until

COMBINATIONS = [f"{loop} on {hub}" for hub in ("gevent", "eventlet", "asyncio") for loop in ("compiled", "pure")]

# Faults of the network a second, and of the server a second, on average.
NETWORK_FAULTS = 10.0


@dataclass
class Result:
    """The result of one combination."""

    title: str
    #: The states that the client printed, one a second.
    states: list[dict[str, Any]] = field(default_factory=list)
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    status: int | None = None
    #: Failures, in words.
    wrong: list[str] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        """The newest state."""
        return self.states[-1] if self.states else {}

    def all_faults(self) -> int:
        return sum(self.faults.values()) + sum(self.state.get("faults", {}).values())


class Server:
    """A server on a unix socket and on TCP with TLS, and a pooler in front of it."""

    def __init__(self, directory: Path, started: contextlib.ExitStack) -> None:
        self.cluster = Cluster(directory / "data")
        self.cluster.create()
        self.directory, self.port = directory, free_port()
        self._make_certificate()
        self.cluster.configure(
            listen_addresses="127.0.0.1",
            port=self.port,
            unix_socket_directories=directory,
            ssl="on",
            ssl_cert_file=directory / "cert.pem",
            ssl_key_file=directory / "key.pem",
            max_connections=120,
            restart_after_crash="on",
        )
        self.cluster.start()
        started.callback(self.cluster.stop)
        self.bouncer_port = free_port()
        self._start_bouncer(started)

    def _make_certificate(self) -> None:
        import trustme

        certificate = trustme.CA().issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(self.directory / "cert.pem"))
        for name in "key.pem", "cert.pem":
            (self.directory / name).chmod(0o600)
            if self.cluster.as_postgres:
                os.chown(self.directory / name, self.directory.stat().st_uid, self.directory.stat().st_gid)

    def _start_bouncer(self, started: contextlib.ExitStack) -> None:
        program = bouncer_program()
        assert program, "no PgBouncer: apt-get install pgbouncer"
        server = f"host=127.0.0.1 port={self.port} dbname=postgres user=postgres"
        ini = self.directory / "bouncer.ini"
        ini.write_text(
            f"[databases]\nsession = {server} pool_mode=session\ntransaction = {server} pool_mode=transaction\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.bouncer_port}\nauth_type = any\n"
            "unix_socket_dir =\ndefault_pool_size = 20\nserver_login_retry = 1\nmax_client_conn = 500\n"
            "ignore_startup_parameters = application_name\n"
        )
        bouncer = subprocess.Popen([*self.cluster.as_postgres, program, "-q", ini], stderr=subprocess.DEVNULL)
        started.callback(bouncer.wait)
        started.callback(bouncer.kill)

    def dsn(self, host: object, port: int | None = None, database: str = "postgres") -> str:
        return f"host={host} port={port or self.port} dbname={database} user=postgres"

    def connect(self) -> Any:
        """Return a connection in autocommit mode; wait for the server's recovery, if need be."""

        def attempt() -> Any:
            with contextlib.suppress(psycopg2.OperationalError):
                return psycopg2.connect(self.dsn(self.directory), application_name="soak")

        connection = wait_until(attempt)
        connection.autocommit = True
        return connection

    def query(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        """Execute *query* on a connection of its own."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query, args or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return rows


class Vandal:
    """Harms the server, in a thread, until the end of its block."""

    def __init__(self, server: Server, seed: str) -> None:
        self.server, self.random = server, random.Random(seed)
        self.count: collections.Counter[str] = collections.Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Vandal":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        deeds = {
            self.terminate: 1000,
            self.cancel: 1000,
            self.stop_processes: 8,
            self.kill_process: 4,
            self.restart: 2,
        }
        while not self._over.wait(self.random.expovariate(NETWORK_FAULTS)):
            (deed,) = self.random.choices(list(deeds), list(deeds.values()))
            # The server may be down because of the action before.
            with contextlib.suppress(psycopg2.Error, subprocess.CalledProcessError, OSError):
                deed()
                self.count[deed.__name__] += 1

    def _victim(self, names: tuple[str, ...]) -> int | None:
        rows = self.server.query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = ANY(%s) ORDER BY random() LIMIT 1", list(names)
        )
        return rows[0][0] if rows else None

    def terminate(self) -> None:
        """End a session."""
        self.server.query("SELECT pg_terminate_backend(%s)", self._victim((*DIRECT, "")))

    def cancel(self) -> None:
        """End a query."""
        self.server.query("SELECT pg_cancel_backend(%s)", self._victim(DIRECT))

    def stop_processes(self) -> None:
        """Stop all processes of the server for a while, as on a machine that swaps."""
        stopped = self.server.cluster.processes()
        try:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(self.random.random())
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill_process(self) -> None:
        """Kill the process of one session: the server then ends all sessions."""
        if (pid := self._victim(DIRECT)) is not None:
            os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server at once, and start it."""
        self.server.cluster.stop()
        self.server.cluster.start()


#: The names of the routes without a pooler.
DIRECT = "socket", "TLS", "bad network"


@contextlib.contextmanager
def bad_network(server: Server, seed: str, result: Result) -> Iterator[int]:
    """Run programs/faulty_proxy.py; yield its port. Its faults are added to those of *result*."""
    with serving("faulty_proxy", "127.0.0.1", str(server.port), seed, str(NETWORK_FAULTS)) as (port, process):
        yield int(port)
        assert process.stdin and process.stdout
        process.stdin.close()
        result.faults.update(json.loads(process.stdout.read()))


def soak(server: Server, title: str, seconds: float, connections: int, seed: str, shown: "Shown") -> Result:
    """Run one combination."""
    loop, hub = title.split(" on ")
    result = Result(title)
    shown.add(result)
    server.query("DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (entry text)")
    with bad_network(server, seed, result) as proxy_port, Vandal(server, seed) as vandal:
        routes = [
            {"name": "socket", "dsn": server.dsn(server.directory), "session": True, "cancelled": True},
            {
                "name": "TLS",
                "dsn": server.dsn("127.0.0.1") + " sslmode=require",
                "session": True,
                "cancelled": True,
            },
            {
                "name": "bad network",
                "dsn": server.dsn("127.0.0.1", proxy_port) + " sslmode=disable",
                "session": True,
                "cancelled": True,
            },
            {
                "name": "pooled session",
                "dsn": server.dsn("127.0.0.1", server.bouncer_port, "session"),
                "session": False,
                "cancelled": False,
            },
            {
                "name": "pooled transactions",
                "dsn": server.dsn("127.0.0.1", server.bouncer_port, "transaction"),
                "session": False,
                "cancelled": False,
            },
        ]
        command = [*leash(), sys.executable, PROGRAMS / "soak_client.py", hub, seconds, connections, seed]
        environment = child_environment(PSYCOGREEN_NO_EXTENSIONS="1" if loop == "pure" else "")
        with subprocess.Popen(
            [*map(str, command), *map(json.dumps, routes)], stdout=subprocess.PIPE, text=True, env=environment
        ) as client:
            assert client.stdout
            ends = threading.Timer(seconds * 1.2 + 120, client.kill)
            ends.start()
            for line in client.stdout:
                result.states.append(json.loads(line))
                result.faults = collections.Counter(vandal.count)
                shown.update()
            ends.cancel()
        result.status = client.returncode
    judge(result, {entry for (entry,) in server.query("SELECT entry FROM ledger")})
    shown.update()
    return result


def judge(result: Result, entries: set[str]) -> None:
    """Record the failures; *entries* is the content of the ledger's table."""
    if result.status != 0:
        meaning = {2: "a wrong result", 3: "something hung"}.get(result.status or 0, "")
        result.wrong.append(f"the client ended with status {result.status} {meaning}")
        return
    known = result.state["ledger"]
    lost = [entry for entry, outcome in known.items() if outcome == "committed" and entry not in entries]
    undead = [entry for entry, outcome in known.items() if outcome == "rolled back" and entry in entries]
    if lost or undead:
        result.wrong.append(f"{len(lost)} committed lines are not there, {len(undead)} are that were rolled back")
    if result.state["left"]:
        result.wrong.append(f"left behind: {result.state['left']}")
    result.wrong += result.state["wrong"]


class Shown:
    """The table of results, updated live on a terminal."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.console = Console()
        self._live = Live(console=self.console, refresh_per_second=2, transient=True)
        self._printed = time.monotonic()

    def __enter__(self) -> "Shown":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        self.console.print(self.table())

    def add(self, result: Result) -> None:
        self.results.append(result)

    def update(self) -> None:
        """Show the newest state."""
        if self.console.is_terminal:
            self._live.update(self.table())
        elif time.monotonic() - self._printed > 10:
            self._printed = time.monotonic()
            result = self.results[-1]
            print(f"{result.title}: {result.state['queries']:,} queries, {result.all_faults():,} faults", flush=True)

    def table(self) -> Table:
        columns = "queries", "faults", "errors", "out of time", "unexpected", "longest pause", "MB", "descriptors", ""
        table = Table("", *columns)
        for result in self.results:
            state = result.state
            if not state:
                continue
            names = collections.Counter(state["errors"]).most_common(3)
            verdict = "runs" if result.status is None else "WRONG" if result.wrong else "right"
            table.add_row(
                result.title,
                f"{state['queries']:,}",
                f"{result.all_faults():,}",
                ", ".join(f"{name} {count:,}" for name, count in names),
                f"{state['out of time']:,}",
                str(state["unexpected"]),
                f"{state['longest_gap'] * 1000:.0f} ms",
                f"{state['megabytes']:.0f}",
                str(state["descriptors"]),
                verdict,
            )
        return table


def draw(results: list[Result], path: str) -> None:
    """Draw memory and descriptors over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, sharex=True, figsize=(8, 6), layout="constrained")
    for name, label, axis in zip(("megabytes", "descriptors"), ("MB resident", "descriptors"), axes, strict=True):
        for result in results:
            axis.plot([state[name] for state in result.states], label=result.title, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    axes[1].set_xlabel("seconds")
    figure.savefig(path)


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="of all combinations together")
    parser.add_argument("--only", metavar="TITLE", action="append", choices=COMBINATIONS, help="one combination")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--json", metavar="FILE", help="write all that is known there")
    options = parser.parse_args()
    titles = options.only or COMBINATIONS
    seconds = options.minutes * 60 / len(titles)
    directory = Path(tempfile.mkdtemp(prefix="psycogreen-soak-"))
    directory.chmod(0o755)
    with contextlib.ExitStack() as started:
        started.callback(subprocess.run, ["rm", "-rf", directory], check=False)
        server = Server(directory, started)
        with Shown() as shown:
            for title in titles:
                soak(server, title, seconds, options.connections, options.seed, shown)
    if options.picture:
        draw(shown.results, options.picture)
    if options.json:
        results = [
            {"title": each.title, "faults": each.faults, "wrong": each.wrong, **each.state} for each in shown.results
        ]
        Path(options.json).write_text(json.dumps([{**each, "ledger": None} for each in results], indent=1))
    for result in shown.results:
        print(f"{result.title}: {result.all_faults():,} faults: {dict(result.faults)}, {result.state.get('faults')}")
        for each in result.wrong:
            print(f"{result.title}: {each}")
    return int(any(result.wrong for result in shown.results))


if __name__ == "__main__":
    sys.exit(main())
