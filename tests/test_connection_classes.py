"""Users' connection and cursor classes become green, in all the ways that users write them."""

import io
import os
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras

from psycogreen._psycopg2.connection import GreenConnection
from psycogreen._psycopg2.cursor import GreenCursor


class Cursor(extensions.cursor):
    def executemany(self, query: Any, vars_list: Any) -> None:
        extensions.cursor.executemany(self, query, vars_list)


class AttributeOfTheClass(extensions.connection):
    cursor_factory = Cursor


class InitByFullName(extensions.connection):
    def __init__(self, dsn: str) -> None:
        extensions.connection.__init__(self, dsn)


class NewByFullName(extensions.connection):
    def __new__(cls, *args: Any) -> Any:
        return extensions.connection.__new__(cls, *args)


class FactoryBeforeInit(extensions.connection):
    def __init__(self, dsn: str) -> None:
        self.cursor_factory = Cursor
        super().__init__(dsn)


class CursorByFullName(extensions.connection):
    def cursor(self, *args: Any) -> Any:
        return extensions.connection.cursor(self, *args, cursor_factory=extras.DictCursor)


class MethodsByFullName(extensions.connection):
    def commit(self) -> None:
        extensions.connection.commit(self)

    def set_session(self, *args: Any) -> None:
        extensions.connection.set_session(self, *args)


def made_by_a_function(dsn: str) -> Any:
    return MethodsByFullName(dsn)


def with_a_factory_of_its_own(dsn: str) -> Any:
    connection = MethodsByFullName(dsn)
    connection.cursor_factory = Cursor
    return connection


@pytest.mark.parametrize(
    "factory",
    [
        AttributeOfTheClass,
        InitByFullName,
        NewByFullName,
        FactoryBeforeInit,
        CursorByFullName,
        MethodsByFullName,
        made_by_a_function,
        with_a_factory_of_its_own,
    ],
)
def test_a_changed_class_refuses_and_copies_as_any_green_connection(factory: Any, hub: Hub, connect: Any) -> None:
    connection = hub.run(lambda: connect(connection_factory=factory))
    assert isinstance(connection, GreenConnection)
    busy, other = connection.cursor(), connection.cursor()
    assert isinstance(other, GreenCursor)
    out = io.StringIO()
    hub.run(other.copy_expert, "COPY (SELECT 1) TO STDOUT", out)
    assert out.getvalue() == "1\n"

    task = hub.spawn(busy.execute, "SELECT pg_sleep(1)")
    hub.wait_until(lambda: connection.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE)
    for call in (
        lambda: other.executemany("SELECT %s", [(1,)]),
        connection.commit,
        lambda: connection.set_session("SERIALIZABLE"),
    ):
        with pytest.raises(psycopg2.ProgrammingError, match="another greenlet"):
            hub.run(call)
    task.wait()


def test_users_see_the_factory_that_they_set(hub: Hub, connect: Any) -> None:
    assert connect(connection_factory=AttributeOfTheClass).cursor_factory is Cursor
    assert connect(connection_factory=FactoryBeforeInit).cursor_factory is Cursor
    assert connect(connection_factory=with_a_factory_of_its_own).cursor_factory is Cursor
    assert connect(connection_factory=InitByFullName).cursor_factory is None


def test_a_connection_that_connects_again_in_its_init_uses_its_new_socket(
    hub: Hub, dsn: str, connect: Callable[..., Any]
) -> None:
    """As with blocking psycopg2, which forgets the old socket without closing it."""

    def use() -> Any:
        connection = connect()
        connection.cursor().execute("SELECT 1")
        old = connection.fileno()
        connection.__init__(dsn)
        os.close(old)
        cursor = connection.cursor()
        cursor.execute("SELECT 2 FROM pg_sleep(0.05)")
        with pytest.raises(psycopg2.ProgrammingError, match="COPY"):
            cursor.execute("COPY (SELECT 1) TO STDOUT")
        connection.rollback()
        cursor.execute("SELECT 3 FROM pg_sleep(0.05)")
        return cursor.fetchone()

    with hub.ticker(0.01) as ticker:
        assert hub.run(use) == (3,)
    assert ticker.ticks
