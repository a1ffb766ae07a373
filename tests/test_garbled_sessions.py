"""A recorded session, cut at every byte and with each message changed: every call ends, and as without psycogreen."""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from hubs.contract import Hub
from psycopg2.extensions import make_dsn, set_wait_callback
from support.network import FakeServer, message
from support.server_state import blocking

pytestmark = pytest.mark.heavy

QUERY = "SELECT 'the answer', 42"
# A call that takes so many seconds hangs: each server here has long closed the connection.
LIMIT = 10
# Seconds for which a hub may stop. 5,000 notices take some.
AT_ONCE = 0.1
FLOOD = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mhi\0\0") * 5000

# The server's answers: to the start-up packet, and to the query. None: the server has closed the connection.
Session = tuple[bytes, bytes | None]


def messages(answer: bytes) -> list[bytes]:
    """Split an answer into messages: a type, a length and the rest (see "Message Formats" in PostgreSQL's docs)."""
    parts = []
    while answer:
        end = 1 + int.from_bytes(answer[1:5], "big")
        parts.append(answer[:end])
        answer = answer[end:]
    return parts


def read_answer(server: socket.socket) -> bytes:
    """Read up to and including ReadyForQuery, whose last byte is the state of the transaction."""
    answer = b""
    while not (answer[-6:-1] == b"Z\0\0\0\5" and answer[-1:] in b"ITE"):
        data = server.recv(65536)
        assert data
        answer += data
    return answer


@pytest.fixture
def session(to_server: Callable[[], socket.socket]) -> tuple[bytes, bytes]:
    """What the server says in a session with one query."""
    packet = struct.pack("!I", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
    with to_server() as server:
        server.sendall(message(b"", packet))
        start = read_answer(server)
        server.sendall(message(b"Q", QUERY.encode() + b"\0"))
        return start, read_answer(server)


def cut(answer: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the answer cut at every byte."""
    for n in range(len(answer)):
        yield f"cut at {n}", answer[:n]


def changed(answer: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the answer with one message changed, missing, repeated or behind a flood of notices."""
    parts = messages(answer)
    for i, part in enumerate(parts):
        kind, length, rest = part[:1], int.from_bytes(part[1:5], "big"), part[5:]
        variants = {f"length {n}": kind + struct.pack("!i", n) + rest for n in (0, 3, -1, -(2**31), 2**31 - 1)}
        variants |= {f"length by {n}": kind + struct.pack("!i", length + n) + rest for n in (-1, 1, 1000)}
        variants |= {f"type {kind!r}": kind + part[1:] for kind in (b"?", b"\0", b"\xff")}
        variants |= {"missing": b"", "repeated": part * 2, "notices": FLOOD + part}
        for what, variant in variants.items():
            yield f"{part[:1]!r}, {i}: {what}", b"".join([*parts[:i], variant, *parts[i + 1 :]])


class Garbler:
    """A server that plays a session to each client, and then closes the connection."""

    def __init__(self, session: Session) -> None:
        self.session: Session = session
        self.server = FakeServer(self._serve)

    def _serve(self, client: socket.socket, number: int) -> None:
        start, answer = self.session
        client.recv(65536)
        client.sendall(start)
        if answer is not None:
            client.recv(65536)
            client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    @property
    def dsn(self) -> str:
        return make_dsn(
            host="127.0.0.1", port=self.server.port, user="postgres", sslmode="disable", gssencmode="disable"
        )


def outcome(connect: Callable[[str], Any], dsn: str) -> tuple[Any, ...]:
    """Connect and make a query; return the rows, or how far it came and the class of the exception."""
    did = "connecting"
    try:
        connection = connect(dsn)
        try:
            connection.autocommit = True
            did = "querying"
            with connection.cursor() as cursor:
                cursor.execute(QUERY)
                return did, cursor.fetchall()
        finally:
            connection.close()
    except Exception as exc:
        return did, type(exc)


def with_wait_select(fn: Callable[..., Any], *args: Any) -> Any:
    """Call *fn* with psycopg2's own wait callback, which blocks."""
    with blocking():
        set_wait_callback(psycopg2.extras.wait_select)
        return fn(*args)


def without_callback(fn: Callable[..., Any], *args: Any) -> Any:
    with blocking():
        return fn(*args)


@pytest.mark.parametrize("garble", [cut, changed])
@pytest.mark.parametrize("which", [0, 1], ids=["start-up", "query"])
def test_each_call_ends_as_without_psycogreen(which: int, garble: Any, green: None, hub: Hub, session: Any) -> None:
    """As in blocking psycopg2, or as beside psycopg2's own wait callback, which goes another way through psycopg2."""
    garbler = Garbler(session)
    wrong = []
    try:
        assert hub.run(outcome, psycopg2.connect, garbler.dsn) == ("querying", [("the answer", 42)])
        for what, answer in garble(session[which]):
            garbler.session = (answer, None) if which == 0 else (session[0], answer)
            with hub.ticker() as ticker:
                got = hub.run(outcome, psycopg2.connect, garbler.dsn, timeout=LIMIT)
            if ticker.longest_gap > AT_ONCE:
                wrong.append(f"{what}: the hub stopped for {ticker.longest_gap:.2f} s")
            expected = without_callback(outcome, psycopg2.extensions.connection, garbler.dsn)
            if got != expected:
                beside = with_wait_select(outcome, psycopg2.extensions.connection, garbler.dsn)
                if got != beside:
                    wrong.append(f"{what}: {got}, blocking {expected}, with wait_select {beside}")
    finally:
        garbler.server.close()
    assert not wrong, "\n".join(wrong)
