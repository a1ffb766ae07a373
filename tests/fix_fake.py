"""Peers and connections that do on command what real ones do only by accident."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class FakeServer:
    """A TCP server on a free port of 127.0.0.1, in native threads."""

    def __init__(self, handle: Callable[[socket.socket, int], None]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: Set when the test is over.
        self.over = threading.Event()
        #: How many clients it accepted.
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._threads = [self._thread]
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(client, self.accepted), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, number: int) -> None:
        try:
            self._handle(client, number)
        except OSError:
            pass  # the client went
        finally:
            client.close()

    def close(self) -> None:
        self.over.set()
        # close() alone does not end an accept() or recv() in another thread.
        for sock in self._listener, *self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def fake_server() -> Iterator[Callable[[Callable[[socket.socket, int], None]], FakeServer]]:
    """Start a server that calls *handle* with each client's socket and its number, from 1."""
    servers = []

    def start(handle: Callable[[socket.socket, int], None]) -> FakeServer:
        server = FakeServer(handle)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def to_server(dsn: str) -> Callable[[], socket.socket]:
    """Open a bare socket to the server of *dsn*."""
    import psycopg2

    connection = psycopg2.connect(dsn)
    host, port = connection.info.host, connection.info.port
    connection.close()

    def dial() -> socket.socket:
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{host}/.s.PGSQL.{port}")
        return sock

    return dial


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for sock in source, target:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    back = threading.Thread(target=carry, args=(other, one), daemon=True)
    back.start()
    carry(one, other)
    back.join()
    other.close()


class FakeConnection:
    """A connection with a real socket, whose poll() follows a script.

    Each step of *script* is a poll result, an exception to raise, or a
    function to call for either. When the script ends it goes on with POLL_OK.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.polls = 0
        self.socket, self.peer = socket.socketpair()

    def poll(self) -> Any:
        self.polls += 1
        step = self.script.pop(0) if self.script else 0
        if callable(step):
            step = step()
        if isinstance(step, BaseException):
            raise step
        return step

    def fileno(self) -> int:
        return self.socket.fileno()

    def answer(self) -> None:
        """Make the socket readable."""
        self.peer.send(b"x")

    def drain(self) -> None:
        """Take what made it readable."""
        self.socket.recv(65536)

    def fill(self) -> None:
        """Make the socket not writable."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.send(bytes(65536))
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


@pytest.fixture
def fake_connection() -> Iterator[Callable[..., FakeConnection]]:
    """Make a FakeConnection; its sockets are closed after the test."""
    connections = []

    def make(*script: Any) -> FakeConnection:
        connection = FakeConnection(*script)
        connections.append(connection)
        return connection

    yield make
    for connection in connections:
        connection.close()
