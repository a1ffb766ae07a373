"""Connections without a server, for tests of the wait callbacks. Their sockets are real."""

import socket
from typing import Any


class FakeConnection:
    """A connection with a real socket, whose poll() follows a script.

    Each step of *script* is a poll result, an exception to raise, or a function that
    returns a poll result or raises. After the script, poll() returns POLL_OK.
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
        """Read the data that made the socket readable."""
        self.socket.recv(65536)

    def fill(self) -> None:
        """Fill the socket's buffer, so that it is not writable."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.send(bytes(65536))
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


class Pipe:
    """A connection made of a pair of sockets. Its query ends when answer() has written to it."""

    def __init__(self) -> None:
        self.mine, self.theirs = socket.socketpair()
        self.mine.setblocking(False)
        self.fd = self.mine.fileno()
        self.polls = 0

    def fileno(self) -> int:
        return self.fd

    def poll(self) -> int:
        self.polls += 1
        try:
            return 0 if self.mine.recv(1) else 1
        except BlockingIOError:
            return 1

    def answer(self) -> None:
        """End its query."""
        self.theirs.send(b"x")

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()
