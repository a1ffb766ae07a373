"""Everything goes wrong at full load: does a call hang, a result lie, or anything stay behind?

    python tests/soak.py --minutes 30
    python tests/soak.py --queries 1000000 --faults 10000 --at-once 2
    python tests/soak.py --minutes 18 --witnesses

The program starts a server, poolers in front of it and a bad network. For each of
{gevent, eventlet, asyncio} x {compiled, pure}, programs/soak_client.py keeps connections
busy on all of these routes, and kills greenlets. Meanwhile this program ends sessions and
queries, stops the server's processes for a while, kills them, and restarts the server.

At the end it prints a table. The status is 0 if no call hung, no result was wrong, no
exception was of a class that blocking psycopg2 would not raise, committed work is in
the server, work that was rolled back is not, and nothing stayed behind. Otherwise it
is 1. ``--picture FILE`` draws memory and descriptors over time.

With ``--witnesses`` the same happens to release 1.0.2 and to eventlet's own patch. A witness
that freezes is killed, and another one started. What it did is shown, and is no failure.

--seed sets the random numbers. The order of events also depends on the machine's speed.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.old_release import old_release
from support.pooled_server import PooledServer
from support.processes import PROGRAMS, child_environment, leash, serving
from support.soak_results import WRONG_RESULT, Result, Shown, draw, write_markdown
from support.vandal import Vandal
from support.waiting import wait_until

COMBINATIONS = [f"{loop} on {hub}" for hub in ("gevent", "eventlet", "asyncio") for loop in ("compiled", "pure")]
_OLD = ["1.0.2 on gevent", "1.0.2 on eventlet", "own patch on eventlet"]
# Without them no witness lives long: a close() of a connection in use freezes it for ever.
WITHOUT_CLOSE = ", nobody closes"
WITNESSES = [title + closes for closes in ("", WITHOUT_CLOSE) for title in _OLD]

# Faults of the network a second, and of the server a second, on average.
NETWORK_FAULTS = 8.0
SERVER_FAULTS = 4.0
#: The names of the routes without a pooler.
DIRECT = "socket", "TLS", "bad network"
# Seconds. A client prints its state every second. One that is silent for so long is frozen.
FROZEN = 30.0
#: Set by Ctrl-C: all that runs comes to its end, and is judged.
interrupted = threading.Event()
# What a client's status means.
ENDS = {2: WRONG_RESULT, 3: "a call hung"}


class Goal:
    """When a combination has run enough."""

    def __init__(self, queries: int, faults: int, seconds: float) -> None:
        self.queries, self.faults, self.seconds = queries, faults, seconds
        self._begun = time.monotonic()

    def reached(self, result: Result) -> bool:
        if interrupted.is_set():
            return True
        if self.seconds:
            return time.monotonic() >= self._begun + self.seconds
        return result.number("queries") >= self.queries and result.all_faults().total() >= self.faults


@contextlib.contextmanager
def bad_network(server: PooledServer, seed: str, faults: "collections.Counter[str]") -> Iterator[int]:
    """Run programs/faulty_proxy.py; yield its port. Its faults are counted."""
    with serving("faulty_proxy", "127.0.0.1", str(server.port), seed, str(NETWORK_FAULTS)) as (port, process):
        assert process.stdout
        output = process.stdout

        def count() -> None:
            for line in output:
                faults[line.strip()] += 1

        counting = threading.Thread(target=count)
        counting.start()
        yield int(port)
        assert process.stdin
        process.stdin.close()
        counting.join()


def routes(server: PooledServer, proxy_port: int) -> list[dict[str, Any]]:
    direct = {
        "socket": server.dsn(server.directory),
        "TLS": server.dsn("127.0.0.1") + " sslmode=require",
        "bad network": server.dsn("127.0.0.1", proxy_port) + " sslmode=disable",
    }
    databases = "session", "transaction"
    pooled = {f"pooled {name}": server.dsn("127.0.0.1", server.bouncer_port, name) for name in databases}
    return [
        *({"name": name, "dsn": dsn, "session": True, "cancelled": True} for name, dsn in direct.items()),
        *({"name": name, "dsn": dsn, "session": False, "cancelled": False} for name, dsn in pooled.items()),
    ]


def soak(server: PooledServer, title: str, goal: Goal, options: argparse.Namespace, shown: Shown) -> Result:
    """Run one combination or witness."""
    way, hub = title.removesuffix(WITHOUT_CLOSE).split(" on ")
    result = Result(title, witness=title in WITNESSES)
    shown.add(result)
    begun = time.monotonic()
    server.query("DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (entry text)")
    ledger = server.directory / f"ledger of {title}"
    with (
        bad_network(server, options.seed, result.faults) as proxy_port,
        Vandal(server, DIRECT, SERVER_FAULTS, options.seed, result.faults),
    ):
        what = {
            "hub": hub,
            "way": way,
            "connections": options.connections,
            "warm_up": max(2.0, goal.seconds / 20) if goal.seconds else 10.0,
            "closes": not title.endswith(WITHOUT_CLOSE),
            "ledger": str(ledger),
            "routes": routes(server, proxy_port),
        }
        life = 0
        while not life or (result.witness and not goal.reached(result)):
            life += 1
            run_client({**what, "seed": f"{options.seed}.{life}"}, result, goal, shown, server.directory / "errors")
            if result.witness and not goal.reached(result):
                result.begin_anew()
        judge_server(server, result)
    result.seconds = time.monotonic() - begun
    judge(result, ledger, {entry for (entry,) in server.query("SELECT entry FROM ledger")})
    if result.witness:
        result.wrong = []
    result.over = True
    shown.update()
    return result


def run_client(what: dict[str, Any], result: Result, goal: Goal, shown: Shown, errors: Path) -> None:
    """Run one client until the goal is reached, or it ends or freezes."""
    environment = child_environment(
        PSYCOGREEN_NO_EXTENSIONS="1" if what["way"] == "pure" else "",
        **({"PYTHONPATH": str(old_release(errors.parent))} if result.witness else {}),
    )
    command = [*leash(), sys.executable, PROGRAMS / "soak_client.py", json.dumps(what)]
    frozen = threading.Event()
    begun = time.monotonic()
    with (
        open(errors, "w+") as output,
        subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output if result.witness else None,
            text=True,
            env=environment,
            start_new_session=True,  # Linux shares the processor out by sessions
        ) as client,
    ):
        assert client.stdin and client.stdout

        def end_frozen() -> None:
            frozen.set()
            client.send_signal(signal.SIGUSR1)  # prints where it is
            time.sleep(1)
            client.kill()

        watchdog = threading.Timer(FROZEN, end_frozen)
        watchdog.start()
        for line in client.stdout:
            watchdog.cancel()
            watchdog = threading.Timer(FROZEN, end_frozen)
            watchdog.start()
            result.add_state(json.loads(line), result.seconds + time.monotonic() - begun)
            shown.update()
            if goal.reached(result) and not client.stdin.closed:
                client.stdin.close()
        watchdog.cancel()
        status = client.wait()
        output.seek(0)
        said = output.read()
    result.seconds += time.monotonic() - begun
    if frozen.is_set():
        result.ends[f"frozen in {where(said)}()"] += 1
    elif status:
        result.ends[ENDS.get(status, f"status {status}")] += 1
        if result.witness:
            print(f"{result.title}: {said[-2000:]}")


def where(said: str) -> str:
    """Return the function of the client in which a traceback of faulthandler ends."""
    frames: list[str] = re.findall(r'File ".*soak_client.py", line \d+ in (\w+)', said)
    return frames[0] if frames else "?"


def judge_server(server: PooledServer, result: Result) -> None:
    """Record which sessions outlive their client. Those of the pooler may."""
    names = list(DIRECT)

    def gone() -> bool:
        return not server.query("SELECT 1 FROM pg_stat_activity WHERE application_name = ANY(%s)", names)

    try:
        wait_until(gone)
    except AssertionError:
        result.wrong.append("sessions are left in the server")


def judge(result: Result, ledger: Path, entries: set[str]) -> None:
    """Record the failures. *ledger* is what the client knows, *entries* the content of the server's table."""
    known = dict(line.split("\t") for line in ledger.read_text().splitlines())
    lost = [entry for entry, outcome in known.items() if outcome == "committed" and entry not in entries]
    undead = [entry for entry, outcome in known.items() if outcome == "rolled back" and entry in entries]
    result.wrong_lines = len(lost) + len(undead)
    if lost or undead:
        result.wrong.append(f"{len(lost)} committed lines are not there, {len(undead)} are that were rolled back")
    result.wrong += [f"{count} times: {end}" for end, count in result.ends.items()]
    if result.memory_grows():
        result.wrong.append("memory grows")
    if "left" not in result.state:
        result.wrong.append("the client did not come to its end")
        return
    if result.state["left"]:
        result.wrong.append(f"left behind: {result.state['left']}")
    result.wrong += result.state["wrong"]


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="of all combinations together")
    parser.add_argument("--queries", type=int, default=0, help="of each combination, instead of a time")
    parser.add_argument("--faults", type=int, default=0, help="of each combination, instead of a time")
    parser.add_argument("--only", metavar="TITLE", action="append", choices=COMBINATIONS + WITNESSES)
    parser.add_argument("--witnesses", action="store_true", help="release 1.0.2 and eventlet's own patch instead")
    parser.add_argument("--at-once", metavar="N", type=int, default=1, help="combinations, on a server each")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there")
    parser.add_argument("--json", metavar="FILE", help="write all that is known there")
    options = parser.parse_args()
    titles = options.only or (WITNESSES if options.witnesses else COMBINATIONS)
    seconds = 0.0 if options.queries or options.faults else options.minutes * 60 / len(titles) * options.at_once
    with contextlib.ExitStack() as started, Shown() as shown:
        servers: queue.Queue[PooledServer] = queue.Queue()
        for _ in range(options.at_once):
            directory = Path(tempfile.mkdtemp(prefix="psycogreen-soak-"))
            directory.chmod(0o755)
            started.callback(subprocess.run, ["rm", "-rf", directory], check=False)
            servers.put(PooledServer(directory, started, options.connections))

        def run(title: str) -> None:
            if interrupted.is_set():
                return
            server = servers.get()
            try:
                soak(server, title, Goal(options.queries, options.faults, seconds), options, shown)
            finally:
                servers.put(server)
            write(shown.results, options)

        def interrupt(*args: object) -> None:
            interrupted.set()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGINT, interrupt)
        with concurrent.futures.ThreadPoolExecutor(options.at_once) as threads:
            list(threads.map(run, titles))
    for result in shown.results:
        faults = result.all_faults()
        print(f"{result.title}: {faults.total():,} faults: {dict(faults)}; ends: {dict(result.ends)}")
        print(f"{result.title}: provoked: {dict(result.counter('provoked'))}; actions: {result.state.get('actions')}")
        for each in result.wrong:
            print(f"{result.title}: {each}")
    return int(any(result.wrong for result in shown.results))


def write(results: list[Result], options: argparse.Namespace) -> None:
    """Write what the options ask for, with what is known by now."""
    if options.picture:
        draw(results, options.picture)
    if options.markdown:
        write_markdown(results, options.markdown)
    if options.json:
        Path(options.json).write_text(json.dumps([result.record() for result in results], indent=1))


if __name__ == "__main__":
    sys.exit(main())
