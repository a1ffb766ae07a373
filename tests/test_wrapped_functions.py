"""Functions of psycopg2 that other libraries wrap, before or after make_psycopg_green()."""

import functools
import importlib
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions

from psycogreen._psycopg2.connection import GreenConnection


class Proxy:
    """A proxy like those of tracing libraries: its ``__class__`` is that of the wrapped object."""

    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


@pytest.fixture
def restored(monkeypatch: Any) -> None:
    """Restore psycopg2's functions after the test."""
    for module, name in (psycopg2, "_connect"), (psycopg2, "connect"), (extensions, "encrypt_password"):
        monkeypatch.setattr(module, name, getattr(module, name))


def original(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize("algorithm", [None, "md5"])
@pytest.mark.parametrize("of", ["connection", "cursor"])
def test_encrypt_password_calls_the_earlier_wrapper(
    hub: Hub, connect: Any, restored: None, of: str, algorithm: Any
) -> None:
    function = original(extensions.encrypt_password)
    seen = []

    def traced(password: Any, user: Any, scope: Any = None, algorithm: Any = None) -> Any:
        seen.append(algorithm)
        return function(password, user, getattr(scope, "__wrapped__", scope), algorithm)

    extensions.encrypt_password = traced
    hub.adapter.make_psycopg_green()
    connection = connect()
    scope = Proxy(connection if of == "connection" else connection.cursor())
    assert hub.run(extensions.encrypt_password, "secret", "me", scope, algorithm)
    assert seen and seen[0] in ("md5", "scram-sha-256")


def test_connect_calls_the_earlier_wrapper(hub: Hub, connect: Any, restored: None) -> None:
    function = original(psycopg2._connect)
    seen = []

    def traced(dsn: str, connection_factory: Any = None, **kwargs: Any) -> Any:
        seen.append(connection_factory)
        return function(dsn, connection_factory=connection_factory, **kwargs)

    psycopg2._connect = traced
    hub.adapter.make_psycopg_green()
    assert isinstance(hub.run(connect), GreenConnection)
    assert seen == [GreenConnection]


@pytest.mark.parametrize("by_wraps", [True, False], ids=["by_wraps", "unknown"])
def test_a_later_wrapper_causes_no_recursion(hub: Hub, connect: Any, restored: None, by_wraps: bool) -> None:
    ours = psycopg2._connect
    calls = []

    def traced(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return ours(*args, **kwargs)

    psycopg2._connect = functools.wraps(ours)(traced) if by_wraps else traced
    hub.adapter.make_psycopg_green()
    assert isinstance(hub.run(connect), GreenConnection)
    assert len(calls) == 1


def test_the_next_call_repairs_a_reload(hub: Hub, dsn: str, green: None, restored: None) -> None:
    importlib.reload(psycopg2)
    assert type(hub.run(psycopg2.connect, dsn)) is extensions.connection
    hub.adapter.make_psycopg_green()
    connection = hub.run(psycopg2.connect, dsn)
    assert isinstance(connection, GreenConnection)
    connection.close()
