"""Servers on loopback addresses that fail on command."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dial(host: str, port: int | str) -> socket.socket:
    """Open a socket to a PostgreSQL server; *host* may be the directory of its unix socket."""
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"{host}/.s.PGSQL.{port}")
    return sock


@contextmanager
def deaf(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Listen but never answer, while the kernel accepts connections; yield the port."""
    with socket.create_server((address, port), backlog=128) as listener:
        yield listener.getsockname()[1]


@contextmanager
def blackhole(address: str, port: int = 0) -> Iterator[int]:
    """Listen with a full backlog, so that the kernel drops the packets of new clients; yield the port."""
    with socket.create_server((address, port), backlog=0) as listener, full_backlog(*listener.getsockname()) as port:
        yield port


@contextmanager
def full_backlog(address: str, port: int) -> Iterator[int]:
    """Fill the backlog of a listener that does not accept; yield the port."""
    with ExitStack() as opened:
        while True:
            filler = opened.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect((address, port))
            except TimeoutError:
                break
        yield port


class FakeServer:
    """A TCP server in native threads. It calls *handle* with each client's socket and number, which counts from 1."""

    def __init__(
        self,
        handle: Callable[[socket.socket, int], None],
        address: str = "127.0.0.1",
        port: int = 0,
        backlog: int = 128,
    ) -> None:
        self._handle = handle
        self._listener = socket.create_server((address, port), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]
        #: Set when the test is over.
        self.over = threading.Event()
        #: How many clients it accepted.
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

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
        with closing(client), suppress(OSError):  # the client has closed its socket
            self._handle(client, number)

    def refuse(self) -> None:
        """Stop to accept connections."""
        # close() alone does not wake a thread in accept() or recv().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """Stop the server, and close its clients' connections."""
        self.over.set()
        self.refuse()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def answering(answer: bytes) -> Callable[[socket.socket, int], None]:
    """Return a *handle* for FakeServer: it sends *answer* after the client's first bytes and closes the connection."""

    def handle(client: socket.socket, number: int) -> None:
        client.recv(65536)
        client.sendall(answer)

    return handle


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message: see "Message Formats" in PostgreSQL's documentation. A start-up packet has an empty *kind*."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def error_response(sqlstate: str, text: str) -> bytes:
    """Return an ErrorResponse."""
    return message(b"E", f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0".encode())


STARTING_UP = error_response("57P03", "the database system is starting up")


def relay(client: socket.socket, server: socket.socket, passes: Callable[[bytes], None] = lambda data: None) -> None:
    """Pass bytes on in both directions until one side ends. Call *passes* with each piece from the client."""

    def carry(source: socket.socket, target: socket.socket, passes: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                passes(data)
                target.sendall(data)
        for sock in source, target:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=carry, args=(server, client, lambda data: None), daemon=True)
    back.start()
    carry(client, server, passes)
    back.join()
    server.close()


class Proxy(FakeServer):
    """A TCP proxy for a PostgreSQL server. It can stop passing bytes on."""

    def __init__(self, host: str, port: int | str, backlog: int = 128) -> None:
        #: Bytes that clients may still send. Then nothing passes in either direction, as if the network were cut.
        self.allowance = float("inf")
        #: Bytes that clients have sent.
        self.sent = 0
        super().__init__(lambda client, number: relay(client, dial(host, port), self._pass), backlog=backlog)

    def _pass(self, data: bytes) -> None:
        self.sent += len(data)
        if self.sent > self.allowance:
            self.over.wait()
