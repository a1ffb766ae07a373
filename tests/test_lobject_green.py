"""Large objects of green connections, where they do more than psycopg2's own."""

import re

import psycopg2
import pytest
from psycopg2 import extensions

UNUSED = 4_000_000_000  # the identifier of no object


def test_a_green_object_is_a_psycopg2_lobject(hub, connect):
    lobject = hub.run(connect().lobject)
    assert isinstance(lobject, extensions.lobject)
    pattern = r"<lobject object at 0x[0-9a-f]+; closed: %d>"
    assert re.fullmatch(pattern % 0, repr(lobject))
    assert re.fullmatch(pattern % 0, str(lobject))
    hub.run(lobject.close)
    assert re.fullmatch(pattern % 1, repr(lobject))


def test_a_factory_makes_the_object(hub, connect):
    class Logged(extensions.lobject):
        def __init__(self, conn, *args):
            self.arguments = args
            super().__init__(conn, *args)

        def read(self, *args):
            return "<" + super().read(*args) + ">"

    class Untouched(extensions.lobject):
        def __init__(self, *args):
            pass

    def run():
        connection = connect()
        lobject = connection.lobject(0, "w", UNUSED, lobject_factory=Logged)
        assert isinstance(lobject, Logged)
        assert type(lobject).__name__ == "Logged"
        assert lobject.arguments == (0, "w", UNUSED)
        lobject.write("abc")
        lobject.seek(0)
        assert lobject.read() == "<abc>"
        again = connection.lobject(lobject.oid, lobject_factory=Logged)
        assert type(again) is type(lobject)
        assert again.arguments == (UNUSED, "", 0)
        with pytest.raises(psycopg2.OperationalError):
            connection.lobject(mode=None, new_file="/nonexistent/file", lobject_factory=Logged)
        connection.rollback()

        untouched = connection.lobject(lobject_factory=Untouched)
        assert (untouched.oid, untouched.mode, untouched.closed) == (0, None, True)
        with pytest.raises(psycopg2.InterfaceError, match="lobject already closed"):
            untouched.read()

    hub.run(run)


def test_users_typecasters_and_factories_are_not_used(hub, connect):
    def fail(*args):
        raise AssertionError("used")

    class Cursor(extensions.cursor):
        def execute(self, *args):
            fail()

    def run():
        connection = connect(cursor_factory=Cursor)
        for oids, name in ((20, 23, 26), "numbers"), ((17,), "bytea"):
            extensions.register_type(extensions.new_type(oids, name, fail), connection)
        lobject = connection.lobject()
        lobject.write("abc")
        assert lobject.seek(0) == 0
        assert lobject.read() == "abc"
        lobject.unlink()
        assert connection.notices == []

    hub.run(run)


def test_functions_of_another_schema_are_not_called(hub, connect):
    """A user may have functions of the same names."""

    def run():
        connection = connect()
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE SCHEMA mine;"
                " CREATE FUNCTION mine.loread(int, int) RETURNS bytea LANGUAGE sql AS $$ SELECT 'no'::bytea $$;"
                " SET search_path = mine, pg_catalog"
            )
        lobject = connection.lobject()
        lobject.write("abc")
        lobject.seek(0)
        assert lobject.read() == "abc"

    hub.run(run)


def test_a_server_without_the_64_bit_functions_works(hub, connect):
    class Old(extensions.connection):
        server_version = 90200

    def run():
        lobject = connect(connection_factory=Old).lobject()
        lobject.write(b"some data")
        assert lobject.seek(-4, 2) == 5
        assert lobject.tell() == 5
        assert lobject.read() == "data"
        assert lobject.truncate(4) is None
        for offset in 1 << 31, -(1 << 31) - 1:
            with pytest.raises(
                psycopg2.NotSupportedError, match=rf"offset out of range \({offset}\): server version 90200"
            ):
                lobject.seek(offset)
        with pytest.raises(psycopg2.NotSupportedError, match=r"len out of range \(2147483648\)"):
            lobject.truncate(1 << 31)
        assert lobject.seek(0, 2) == 4

    hub.run(run)


def test_read_past_the_end_returns_nothing(hub, connect):
    """Blocking psycopg2 raises MemoryError."""

    def run():
        lobject = connect().lobject()
        lobject.seek(100)
        assert lobject.read() == ""
        assert lobject.tell() == 100

    hub.run(run)


def test_lobject_raises_with_libpq_out_of_reach(hub, connect, monkeypatch):
    def libpq():
        raise psycopg2.NotSupportedError("the libpq inside psycopg2 can't be reached")

    def run():
        connection = connect()
        with pytest.raises(psycopg2.NotSupportedError, match="can't be reached"):
            connection.lobject()
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    monkeypatch.setattr("psycogreen._libpq.binary_query.libpq", libpq)
    hub.run(run)


def test_without_a_wait_callback_psycopg2s_own_lobject_is_used(connect, blocking_dsn_connect):
    connect()
    with blocking_dsn_connect() as connection:
        assert type(connection.lobject()) is extensions.lobject


def test_lobject_of_an_asynchronous_connection_raises(connect, dsn):
    from psycopg2.extras import wait_select

    connection = psycopg2.connect(dsn, async_=True)
    wait_select(connection)
    with pytest.raises(psycopg2.ProgrammingError, match="asynchronous"):
        connection.lobject()
    connection.close()
