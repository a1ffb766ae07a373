"""While rows of a large result are converted, other greenlets get their turns."""

import gc
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras

ROWS = 300_000
QUERY = f"SELECT i AS a, i::text AS b FROM generate_series(1, {ROWS}) i"


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Run without the garbage collector, which would stop everything for longer than a time slice."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.one_loop
@pytest.mark.parametrize(
    ("method", "name", "factory"),
    [
        ("fetchall", None, None),
        ("fetchall", None, extras.DictCursor),
        ("fetchall", "named", extras.NamedTupleCursor),
        ("fetchmany", None, extras.NamedTupleCursor),
        ("fetchmany", "named", None),
        ("fetchmany", "named", extras.DictCursor),
        ("__iter__", None, None),
        ("__iter__", None, extras.DictCursor),
    ],
)
def test_other_greenlets_run_during_a_long_fetch(
    hub: Hub, connect: Any, no_collector: None, method: str, name: Any, factory: Any
) -> None:
    cursor = connect().cursor(name, cursor_factory=factory)
    hub.run(cursor.execute, QUERY)
    with hub.ticker(0.002) as ticker:
        if method == "__iter__":
            rows = hub.run(list, cursor)
        else:
            rows = hub.run(getattr(cursor, method), *[ROWS] * (method == "fetchmany"))
    assert type(rows) is list
    assert len(rows) == ROWS
    assert (tuple(rows[0]), tuple(rows[-1])) == ((1, "1"), (ROWS, str(ROWS)))
    assert (cursor.rowcount, cursor.rownumber) == (ROWS, ROWS)
    assert ticker.longest_gap < 0.05


def slow(value: Any, cursor: Any) -> Any:
    """A typecaster that takes so long that the fetch pauses after some rows."""
    return sum(range(2000))


def test_a_fetch_during_another_greenlets_fetch_raises(hub: Hub, connect: Any) -> None:
    cursor = connect().cursor()
    extensions.register_type(extensions.new_type((23,), "SLOW", slow), cursor)
    hub.run(cursor.execute, "SELECT generate_series(1, 5000)")
    task = hub.spawn(cursor.fetchall)
    hub.wait_until(lambda: cursor.rownumber > 0)
    assert cursor.rownumber < 5000
    hub.run(cursor.execute, "SELECT 1")
    with pytest.raises(psycopg2.ProgrammingError, match="fetchall cannot go on"):
        task.wait()
    assert cursor.fetchone() == (slow(1, cursor),)


def test_another_cursor_works_during_a_long_fetch(hub: Hub, connect: Any) -> None:
    connection = connect()
    cursor, other = connection.cursor(), connection.cursor()
    extensions.register_type(extensions.new_type((23,), "SLOW", slow), cursor)
    hub.run(cursor.execute, "SELECT generate_series(1, 5000)")
    task = hub.spawn(cursor.fetchall)
    hub.wait_until(lambda: cursor.rownumber > 0)
    hub.run(other.execute, "SELECT 2")
    assert other.fetchone() == (2,)
    assert len(task.wait()) == 5000


def test_a_long_fetch_does_not_pause_where_waiting_is_impossible(hub: Hub, connect: Any) -> None:
    cursor = connect().cursor()
    hub.run(cursor.execute, QUERY)
    assert len(hub.run_in_hub(cursor.fetchmany, ROWS // 2)) == ROWS // 2
    assert len(hub.run_in_thread(cursor.fetchall)) == ROWS // 2
