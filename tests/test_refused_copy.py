"""A COPY passed to execute() by mistake, and a COPY beside a callback that is not ours."""

import io
import socket
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras
from psycopg2.extensions import get_wait_callback, set_wait_callback
from support.network import message

MUCH = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"


def refuse(connection: Any, statement: str) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match="can't execute COPY"):
        connection.cursor().execute(statement)


def usable(connection: Any) -> bool:
    connection.rollback()
    cursor = connection.cursor()
    cursor.execute("SELECT 42")
    return bool(cursor.fetchone() == (42,))


def test_rows_of_a_refused_copy_are_dropped_beside_other_greenlets(hub: Hub, connect: Any) -> None:
    connection = connect()
    with hub.ticker(0.005) as ticker:
        hub.run(refuse, connection, MUCH)
    assert ticker.longest_gap < 0.2
    assert hub.run(usable, connection)


def test_a_kill_while_a_refused_copy_ends_closes_the_connection(hub: Hub, connect: Any, monkeypatch: Any) -> None:
    connection = connect()
    task = hub.spawn(refuse, connection, f"{MUCH}; SELECT pg_sleep(60)")
    hub.wait_until(lambda: "_green_poll" in vars(connection))
    task.kill()
    with pytest.raises(hub.Kill):
        task.wait()
    assert connection.closed
    assert "_green_poll" not in vars(connection)


@pytest.mark.parametrize("statement", ["COPY pg_temp.items FROM STDIN", "COPY pg_temp.items TO STDOUT"])
def test_a_refused_copy_raises_beside_a_callback_that_is_not_ours(hub: Hub, connect: Any, statement: str) -> None:
    connection = connect()
    hub.run(connection.cursor().execute, "CREATE TEMPORARY TABLE items (n int); COMMIT")
    ours = get_wait_callback()
    set_wait_callback(extras.wait_select)
    try:
        refuse(connection, statement)
        assert usable(connection)
    finally:
        set_wait_callback(ours)
    assert hub.run(usable, connection)


def test_copy_works_beside_a_callback_that_is_not_ours(hub: Hub, connect: Any) -> None:
    connection = connect()
    cursor = connection.cursor()
    hub.run(cursor.execute, "CREATE TEMPORARY TABLE items (text text)")
    rows = b"".join(b"row %d\n" % n for n in range(100_000))
    ours = get_wait_callback()
    set_wait_callback(extras.wait_select)
    try:
        cursor.copy_expert("COPY items FROM STDIN", io.BytesIO(rows))
        out = io.BytesIO()
        cursor.copy_expert("COPY items TO STDOUT", out)
    finally:
        set_wait_callback(ours)
    assert out.getvalue() == rows
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_INTRANS


def test_a_refused_copy_that_turns_into_copy_both_raises(hub: Hub, green: None, fake_server: Any) -> None:
    """libpq returns the result of a COPY BOTH for ever, and a server that goes wrong may begin one in a COPY."""

    def serve(client: socket.socket, number: int) -> None:
        client.recv(65536)
        client.sendall(message(b"R", bytes(4)) + message(b"S", b"client_encoding\0UTF8\0") + message(b"Z", b"I"))
        while b"COPY" not in (sent := client.recv(65536)):
            assert sent
            client.sendall(message(b"C", b"SET\0") + message(b"Z", b"I"))
        client.sendall(message(b"H", bytes(3)) + message(b"W", bytes(3)))
        server.over.wait()

    server = fake_server(serve)
    dsn = f"host=127.0.0.1 port={server.port} user=x sslmode=disable gssencmode=disable"
    connection = hub.run(psycopg2.connect, dsn)
    connection.autocommit = True
    hub.run(refuse, connection, "COPY items TO STDOUT")
    with pytest.raises(psycopg2.OperationalError):
        hub.run(connection.cursor().execute, "SELECT 1")
    connection.close()


def test_a_refused_copy_closes_the_connection_where_libpq_is_out_of_reach(
    hub: Hub, connect: Any, monkeypatch: Any
) -> None:
    from psycogreen import _libpq

    monkeypatch.setitem(_libpq._PROTOTYPES, "PQnix", (None, []))
    _libpq.libpq.cache_clear()
    try:
        connection = connect()
        hub.run(refuse, connection, "COPY pg_class TO STDOUT")
        assert connection.closed  # so that a pool drops it
    finally:
        monkeypatch.undo()
        _libpq.libpq.cache_clear()
