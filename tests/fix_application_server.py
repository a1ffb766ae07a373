"""Application servers that use psycogreen, for the tests of the examples.

A server is a process of its own. Native threads of the tests' process send the
requests.
"""

import os
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from support.network import answers, free_port
from support.processes import ROOT, child_environment, leash
from support.server_state import Observer
from support.waiting import PATIENCE, wait_until

#: The variables that choose the loop of the server's process, by `psycogreen.implementation`.
LOOPS = {"cython": {"PSYCOGREEN_NO_EXTENSIONS": ""}, "python": {"PSYCOGREEN_NO_EXTENSIONS": "1"}}


class Server:
    """A server's process. Its sessions in PostgreSQL have an application_name of their own."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], dsn: str) -> None:
        #: The port on 127.0.0.1. It replaces ``{port}`` in the command's arguments.
        self.port = free_port()
        #: The application_name of its sessions.
        self.name = f"psycogreen-{uuid.uuid4().hex[:12]}"
        self._dsn = dsn
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*leash(), *(argument.replace("{port}", str(self.port)) for argument in command)],
            cwd=cwd,
            env=child_environment(DATABASE_URL=dsn, PGAPPNAME=self.name, PYTHONUNBUFFERED="1", **environment),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def log(self) -> str:
        """Return the server's output until now."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_for(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until *condition* returns something true; return that.

        Raises:
            AssertionError: *condition* did not hold within *timeout* seconds, or the
                server ended before.
        """

        def held() -> Any:
            assert self.process.poll() is None, f"the server ended with status {self.process.poll()}"
            return condition()

        try:
            return wait_until(held, timeout)
        except AssertionError as exc:
            raise AssertionError(f"{exc}:\n{self.log()}") from exc

    def answers(self) -> bool:
        """Return whether something listens on the port."""
        return answers(self.port)

    def ask(self, path: str = "/") -> str:
        """Send a request on a connection of its own; return the page.

        Raises:
            OSError, http.client.HTTPException: No complete answer came.
            AssertionError: The answer's status is not 200.
        """
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as conn:
            conn.request("GET", path, headers={"Connection": "close"})
            answer = conn.getresponse()
            page = answer.read().decode()
            assert answer.status == 200, f"{answer.status} {answer.reason}: {page}"
            return page

    def ask_at_once(self, number: int, path: str = "/") -> list[str]:
        """Send *number* requests at the same time; return the pages."""
        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(self.ask, [path] * number))

    def load(self, clients: int, path: str = "/") -> "Load":
        """Return a context manager in which *clients* send one request after the other."""
        return Load(self, clients, path)

    def sessions(self, query: str = "%") -> int:
        """Count the server's sessions in PostgreSQL whose current or last query is LIKE *query*."""
        return self._count("query LIKE %s", query)

    def at_once(self) -> int:
        """Count the server's sessions in PostgreSQL that execute ``pg_sleep()`` now."""
        return self._count("wait_event = 'PgSleep'")

    def _count(self, condition: str, *values: str) -> int:
        with closing(Observer(self._dsn)) as observer:
            return observer.count(f"application_name = %s AND {condition}", self.name, *values)

    def send_signal(self, number: int) -> None:
        """Send a signal to the server's first process."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """End the server by signal *number*; return its exit status.

        Raises:
            AssertionError: The server did not end within *timeout* seconds, or its
                sessions in PostgreSQL did not end.
        """
        self.send_signal(number)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end within {timeout} s:\n{self.log()}") from None
        wait_until(lambda: self.sessions() == 0)
        return status

    def kill(self) -> None:
        """Kill the server and its workers."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._log.close()


class Load:
    """Clients that send requests to a server, each on a new connection."""

    def __init__(self, server: Server, clients: int, path: str) -> None:
        #: The pages, in the order of their arrival.
        self.pages: list[str] = []
        #: The exceptions of failed requests.
        self.failures: list[Exception] = []
        self._server = server
        self._path = path
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Wait until each client has the answer to its last request."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.pages.append(self._server.ask(self._path))
            except Exception as exc:
                self.failures.append(exc)


@pytest.fixture
def serve(dsn: str) -> Iterator[Callable[..., Server]]:
    """Start *command* in the directory *cwd*; return the Server when its port answers.

    The port replaces ``{port}`` in the command. With *ready*, wait for that text in the
    server's output instead of for the port. DATABASE_URL in the server's environment is
    the DSN of the tests' PostgreSQL server; *environment* is added. A test should stop
    its server; after the test a server that still runs is killed.
    """
    servers: list[Server] = []

    def start(
        command: Sequence[str], cwd: Path = ROOT, environment: Mapping[str, str] | None = None, ready: str | None = None
    ) -> Server:
        server = Server(command, cwd, environment or {}, dsn)
        servers.append(server)
        server.wait_for(server.answers if ready is None else lambda: ready in server.log())
        return server

    yield start
    for server in servers:
        server.kill()
