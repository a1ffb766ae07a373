"""Programs unregister the wait callback for a while, as they had to for COPY, and register it again."""

import io
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from support.server_state import blocking

from psycogreen._psycopg2.connection import GreenConnection

# More than a socket buffer holds.
BIG = b"0123456789" * 1_000_000


def test_large_object_from_before_the_pause_works_in_it_and_after(hub: Hub, connect: Any, tmp_path: Any) -> None:
    connection = connect()
    whole = hub.run(connection.lobject, 0, "wb")
    with blocking():
        assert whole.write(BIG) == len(BIG)
        assert whole.seek(0) == 0
        assert whole.read() == BIG
        whole.export(str(tmp_path / "exported"))
        whole.seek(5)
    assert (tmp_path / "exported").read_bytes() == BIG
    assert hub.run(whole.read, 3) == b"567"
    hub.run(whole.unlink)
    hub.run(connection.commit)


def test_large_object_from_the_pause_is_green_after_it(hub: Hub, connect: Any) -> None:
    connection = connect()
    with blocking():
        whole = connection.lobject(0, "wb")
        whole.write(BIG)
    with hub.ticker(0.005) as ticker:
        hub.run(whole.seek, 0)
        assert hub.run(whole.read) == BIG
    assert ticker.longest_gap < 0.2
    hub.run(whole.unlink)


def test_connection_from_the_pause_is_green_after_it(hub: Hub, connect: Any) -> None:
    with blocking():
        connection = connect()
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE items (text text)")
        cursor.copy_expert("COPY items FROM STDIN", io.BytesIO(b"0123456789\n" * 1_000_000))
        assert cursor.rowcount == 1_000_000
    assert isinstance(connection, GreenConnection)
    out = io.BytesIO()
    with hub.ticker(0.005) as ticker:
        hub.run(cursor.copy_expert, "COPY items TO STDOUT", out)
        hub.run(cursor.copy_expert, "COPY items FROM STDIN", io.BytesIO(out.getvalue()))
    assert ticker.longest_gap < 0.2
    assert cursor.rowcount == 1_000_000
    task = hub.spawn(cursor.execute, "SELECT pg_sleep(0.5)")
    hub.sleep(0.1)
    with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
        hub.run(connection.commit)
    task.wait()


def test_cancel_in_the_pause_works(hub: Hub, connect: Any) -> None:
    connection = connect()
    with blocking():
        hub.run(connection.cancel)
    assert hub.run(connection.cursor().execute, "SELECT 1") is None


@pytest.mark.parametrize("statement", ["COPY items FROM STDIN", "COPY (SELECT generate_series(1, 3000)) TO STDOUT"])
def test_rollback_after_the_pause_cures_a_copy_refused_in_it(hub: Hub, connect: Any, statement: str) -> None:
    connection = connect()
    cursor = connection.cursor()
    hub.run(cursor.execute, "CREATE TEMPORARY TABLE items (n int)")
    hub.run(connection.commit)
    with blocking(), pytest.raises(psycopg2.ProgrammingError, match="can't execute COPY"):
        cursor.execute(statement)
    hub.run(connection.rollback)
    hub.run(cursor.execute, "SELECT 42")
    assert cursor.fetchone() == (42,)
