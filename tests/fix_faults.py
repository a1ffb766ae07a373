"""Servers that misbehave, names that resolve to them, and the outcome of blocking libpq."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hubs.contract import Hub
from support.attempts import Attempt
from support.network import STARTING_UP, FakeServer, answering, blackhole, deaf
from support.postgres import PRIMARY, STANDBY, bouncer_program, system_server
from support.processes import PROGRAMS, child_environment, serving


@dataclass(frozen=True)
class Pair:
    """A primary, a standby, a pooler and broken servers, on the same port of several addresses."""

    port: int
    #: The directory of the primary's unix socket.
    socket: str


REFUSING, BLACKHOLE, DEAF, STARTING, HANGING_UP = (f"127.0.2.{i}" for i in range(11, 16))

#: The addresses to which the names in the tests resolve.
NAMES = {
    "good.test": [PRIMARY],
    "dead-live.test": [REFUSING, PRIMARY],
    "dropping-live.test": [BLACKHOLE, PRIMARY],
    "deaf-live.test": [DEAF, PRIMARY],
    "dead.test": [REFUSING, BLACKHOLE],
    "standby-primary.test": [STANDBY, PRIMARY],
    "primary-standby.test": [PRIMARY, STANDBY],
    "starting-live.test": [STARTING, PRIMARY],
    "hanging-up-live.test": [HANGING_UP, PRIMARY],
}


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """See Pair."""
    if system_server() is None or bouncer_program() is None:
        pytest.skip("no PostgreSQL server or no PgBouncer of the system: apt-get install postgresql pgbouncer")
    with serving("pgpair") as (where, _):
        place, directory = where.split()
        port = int(place)
        with (
            blackhole(BLACKHOLE, port),
            deaf(DEAF, port),
            contextlib.closing(FakeServer(answering(STARTING_UP), STARTING, port)),
            contextlib.closing(FakeServer(answering(b""), HANGING_UP, port)),
        ):
            yield Pair(port, directory)


class Blocking:
    """Connecting with blocking libpq, in a process of its own that can resolve NAMES."""

    def __init__(self, directory: Path) -> None:
        # Only root can give a process its own /etc/hosts.
        self._has_names = os.geteuid() == 0 and shutil.which("unshare") is not None
        enter = []
        if self._has_names:
            hosts = directory / "hosts"
            hosts.write_text(
                "127.0.0.1 localhost\n"
                + "".join(f"{address} {name}\n" for name, addresses in NAMES.items() for address in addresses)
            )
            enter = ["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
        self._process = subprocess.Popen(
            [*enter, sys.executable, PROGRAMS / "blocking_connects.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    def connect(self, dsn: str) -> Callable[[], Attempt]:
        """Start to connect; return a function that waits for the outcome."""
        if not self._has_names and ".test" in dsn + os.environ.get("PGHOST", ""):
            pytest.skip("only root can have blocking libpq resolve the names of the tests")
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([dsn, dict(os.environ)]) + "\n")
        self._process.stdin.flush()
        return lambda: Attempt(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="session")
def blocking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    """See Blocking."""
    blocking = Blocking(tmp_path_factory.mktemp("blocking"))
    yield blocking
    blocking.close()


class Names(dict[str, list[str]]):
    """The addresses to which names resolve."""

    #: The seconds that each lookup takes.
    seconds = 0.0


@pytest.fixture
def names(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Names:
    """What the hub's resolver knows beside what it really does: NAMES, to begin with."""
    known = Names(NAMES)
    patched: Any
    if hub.name == "gevent":
        import gevent.socket as patched
    elif hub.name == "asyncio":
        patched = hub.make_current()
    else:
        import eventlet.green.socket as patched
    real = patched.getaddrinfo
    if hub.name != "asyncio":
        hub.run(real, "127.0.0.1", 0)  # the first lookup imports the resolver, and the hub stops meanwhile

    def getaddrinfo(host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        hub.sleep(known.seconds)
        if host not in known:
            return real(host, port, *args, **kwargs)
        return addresses(host)

    async def getaddrinfo_of_asyncio(host: str, port: Any, **kwargs: Any) -> list[Any]:
        await asyncio.sleep(known.seconds)
        if host not in known:
            return await real(host, port, **kwargs)
        return addresses(host)

    def addresses(host: str) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(patched, "getaddrinfo", getaddrinfo_of_asyncio if hub.name == "asyncio" else getaddrinfo)
    return known
