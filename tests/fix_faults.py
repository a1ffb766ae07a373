"""Servers that misbehave, names that resolve to them, and how blocking libpq fares."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fix_hub import Hub
from pgpair import PRIMARY, STANDBY, bouncer_program
from pgserver import system_server


@contextlib.contextmanager
def deaf(address: str, port: int = 0) -> Iterator[int]:
    """Listen and accept (the kernel does), but never answer; yield the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        yield listener.getsockname()[1]


@contextlib.contextmanager
def blackhole(address: str, port: int = 0) -> Iterator[int]:
    """Drop every packet of who connects, by a backlog that is full; yield the port."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        while True:
            filler = opened.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()[1]


class Answering:
    """Answer whatever comes first on each connection with *answer*, then close it."""

    def __init__(self, answer: bytes, address: str, port: int = 0) -> None:
        self._answer = answer
        self._listener = socket.create_server((address, port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Answering":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.recv(1024)
                peer.sendall(self._answer)


def error_response(sqlstate: str, message: str) -> bytes:
    """Return a server's ErrorResponse: see "Message Formats" in PostgreSQL's documentation."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


class Proxy:
    """Pass bytes on to *target* until told to stall."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        #: Bytes that the client may still send; then it is as if the network were cut.
        self.allowance = float("inf")
        #: Bytes that clients sent.
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for opened in self._open:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def refuse(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._open += client, server
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    self.sent += len(data)
                    if self.sent > self.allowance:
                        return
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Pair:
    """A primary, a standby, a pooler and what is broken, on one port of several addresses."""

    port: int
    #: Directory of the primary's unix socket.
    socket: str


REFUSING, BLACKHOLE, DEAF, STARTING, HANGING_UP = (f"127.0.2.{i}" for i in range(11, 16))

#: What the names of the tests resolve to.
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
    program = Path(__file__).with_name("pgpair.py")
    process = subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        port, directory = process.stdout.readline().split()
        starting = error_response("57P03", "the database system is starting up")
        with (
            blackhole(BLACKHOLE, int(port)),
            deaf(DEAF, int(port)),
            Answering(starting, STARTING, int(port)),
            Answering(b"", HANGING_UP, int(port)),
        ):
            yield Pair(int(port), directory)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@dataclass
class Outcome:
    """What became of connecting."""

    #: Address of the server that was reached, or none.
    server: str | None
    #: Class and message of the exception, or none.
    error: list[str] | None
    seconds: float


def outcome(connect: Callable[[], Any]) -> Outcome:
    """Call *connect*, see what comes of it, and close the connection."""
    import psycopg2

    begun = time.monotonic()
    try:
        connection = connect()
    except psycopg2.Error as exc:
        return Outcome(None, [type(exc).__name__, str(exc)], time.monotonic() - begun)
    seconds = time.monotonic() - begun
    with contextlib.closing(connection), socket.socket(fileno=os.dup(connection.fileno())) as peer:
        server = peer.getpeername()
        return Outcome(server[0] if isinstance(server, tuple) else server, None, seconds)


_BLOCKING = """
import dataclasses, json, os, sys
sys.path.insert(0, sys.argv[1])
import psycopg2
from fix_faults import outcome
for request in sys.stdin:
    dsn, environment = json.loads(request)
    if os.fork() == 0:
        os.environ.clear()
        os.environ.update(environment)
        print(json.dumps(dataclasses.asdict(outcome(lambda: psycopg2.connect(dsn)))), flush=True)
        os._exit(0)
    os.wait()
"""


class Blocking:
    """How blocking libpq fares, in a process of its own that knows NAMES."""

    def __init__(self, directory: Path) -> None:
        # Only root can give a process an /etc/hosts of its own.
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
            [*enter, sys.executable, "-c", _BLOCKING, Path(__file__).parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self, dsn: str) -> Callable[[], Outcome]:
        """Begin to connect; return a function that waits for the outcome."""
        if not self._has_names and ".test" in dsn + os.environ.get("PGHOST", ""):
            pytest.skip("only root can have blocking libpq resolve the names of the tests")
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([dsn, dict(os.environ)]) + "\n")
        self._process.stdin.flush()
        return lambda: Outcome(**json.loads(self._process.stdout.readline()))

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
    """The addresses of names."""

    #: How long each lookup takes.
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

    def getaddrinfo(host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        hub.sleep(known.seconds)
        if host not in known:
            return real(host, port, *args, **kwargs)
        return found(host)

    async def getaddrinfo_of_asyncio(host: str, port: Any, **kwargs: Any) -> list[Any]:
        await asyncio.sleep(known.seconds)
        if host not in known:
            return await real(host, port, **kwargs)
        return found(host)

    def found(host: str) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(patched, "getaddrinfo", getaddrinfo_of_asyncio if hub.name == "asyncio" else getaddrinfo)
    return known
