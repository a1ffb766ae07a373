"""COPY on green connections has the outcome of psycopg2's without a wait callback."""

import io

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import errors, extensions, sql
from support.server_state import blocking

TABLE = "CREATE TEMPORARY TABLE items (id int PRIMARY KEY, name text CHECK (name <> 'bad'))"
ROWS = b"1\tone\n2\ttwo\n3\tthree\n"


def prepared(connection):
    with connection.cursor() as cursor:
        cursor.execute(TABLE)
        cursor.execute('CREATE TEMPORARY TABLE "we""ird\'table" ("a b" int, "select" text, ü text)')
        cursor.execute("INSERT INTO \"we\"\"ird'table\" VALUES (1, 'x', 'ü'), (2, NULL, '')")
    connection.commit()


def filled(connection):
    prepared(connection)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO items SELECT n, 'name ' || n FROM generate_series(1, 100) n")
    connection.commit()


def loaded(cursor):
    cursor.execute("SELECT * FROM items ORDER BY id")
    return cursor.fetchall()


class Reader:
    """A file that returns *pieces*, one for each read(), and ignores the size."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.sizes = []

    def read(self, size):
        self.sizes.append(size)
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece


class Writer:
    """A file that keeps the pieces that it gets, and raises *exc* at piece number *fails*."""

    def __init__(self, fails=None, exc=None):
        self.pieces = []
        self.fails = fails
        self.exc = exc

    def write(self, data):
        self.pieces.append(data)
        if len(self.pieces) == self.fails:
            raise self.exc


class TextWriter(Writer, io.TextIOBase):
    pass


IN = {
    "bytes": lambda c: c.copy_from(io.BytesIO(ROWS), "items"),
    "text": lambda c: c.copy_from(io.StringIO(ROWS.decode()), "items"),
    "nothing": lambda c: c.copy_from(io.BytesIO(), "items"),
    "keywords": lambda c: c.copy_from(
        file=io.BytesIO(b"1,-\n"), table="items", sep=",", null="-", size=3, columns=None
    ),
    "positions": lambda c: c.copy_from(io.BytesIO(b"1,-\n"), "items", ",", "-", 3, ["id", "name"]),
    "columns": lambda c: c.copy_from(io.BytesIO(b"1\n2\n"), "items", columns=("id",)),
    "columns reordered": lambda c: c.copy_from(io.BytesIO(b"x\t1\n"), "items", columns=iter(["name", "id"])),
    "columns as bytes": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns=[b"id"]),
    "columns of a string": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns="id"),
    "columns not iterable": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns=3),
    "columns not names": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns=[1]),
    "columns that fail": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns=(1 / n for n in [0])),
    "unknown column": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", columns=["nix"]),
    "unknown table": lambda c: c.copy_from(io.BytesIO(b"1\n"), "nix"),
    "table with a schema": lambda c: c.copy_from(io.BytesIO(b"1\n"), "pg_temp.items"),
    "table with a column list": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items (id)"),
    "odd names": lambda c: c.copy_from(io.StringIO("5\tü\n"), "we\"ird'table", columns=["a b", "ü"]),
    "empty name": lambda c: c.copy_from(io.BytesIO(b"1\n"), ""),
    "quote as separator": lambda c: c.copy_from(io.BytesIO(b"1'x\n"), "items", sep="'"),
    "long separator": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", sep=",,"),
    "backslash as separator": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items", sep="\\"),
    "null with quotes": lambda c: c.copy_from(io.BytesIO(b"1\to'\\\\clock\n"), "items", null="o'\\\\clock"),
    "null not ASCII": lambda c: c.copy_from(io.BytesIO("1\tü\n".encode()), "items", null="ü"),
    "size zero": lambda c: c.copy_from(io.BytesIO(ROWS), "items", size=0),
    "size negative": lambda c: c.copy_from(io.BytesIO(ROWS), "items", size=-1),
    "size not a number": lambda c: c.copy_from(io.BytesIO(ROWS), "items", size="8"),
    "table not a string": lambda c: c.copy_from(io.BytesIO(ROWS), 3),
    "table as bytes": lambda c: c.copy_from(io.BytesIO(ROWS), b"items"),
    "table with NUL": lambda c: c.copy_from(io.BytesIO(ROWS), "it\0ems"),
    "separator None": lambda c: c.copy_from(io.BytesIO(ROWS), "items", sep=None),
    "not a file": lambda c: c.copy_from(object(), "items"),
    "only writable": lambda c: c.copy_from(Writer(), "items"),
    "violated key": lambda c: c.copy_from(io.BytesIO(b"1\ta\n1\tb\n"), "items"),
    "violated check": lambda c: c.copy_from(io.BytesIO(b"1\ta\n2\tbad\n"), "items"),
    "not an integer": lambda c: c.copy_from(io.BytesIO(b"1\ta\nx\tb\n"), "items"),
    "missing column": lambda c: c.copy_from(io.BytesIO(b"1\n"), "items"),
    "early end of data": lambda c: c.copy_from(io.BytesIO(b"1\ta\n\\.\n2\tb\n"), "items"),
    "not UTF-8": lambda c: c.copy_from(io.BytesIO(b"1\t\xff\n"), "items"),
    "surrogates": lambda c: c.copy_from(io.StringIO("1\t\ud800\n"), "items"),
    "pieces": lambda c: c.copy_from(Reader(b"1", b"\ta", b"\n", "2\tü\n"), "items"),
    "pieces of wrong type": lambda c: c.copy_from(Reader(b"1\ta\n", bytearray(b"2\tb\n")), "items"),
    "None": lambda c: c.copy_from(Reader(b"1\ta\n", None), "items"),
    "failing read": lambda c: c.copy_from(Reader(b"1\ta\n", ZeroDivisionError("why")), "items"),
    "failing read, odd text": lambda c: c.copy_from(Reader(b"1\ta\n", ValueError("ü' %s\n\\")), "items"),
    "failing read, long text": lambda c: c.copy_from(Reader(b"1\ta\n", ValueError("x" * 5000)), "items"),
    "failing read of psycopg2": lambda c: c.copy_from(Reader(psycopg2.OperationalError("why")), "items"),
    "many": lambda c: c.copy_from(io.BytesIO(b"".join(b"%d\tx\n" % n for n in range(50000))), "items"),
    "many, then failing": lambda c: c.copy_from(
        Reader(*[b"%d\tx\n" % n for n in range(20000)], KeyError("x")), "items"
    ),
    "a long row": lambda c: c.copy_from(io.BytesIO(b"1\t" + b"x" * 3_000_000 + b"\n"), "items", size=10_000_000),
    "expert": lambda c: c.copy_expert("COPY items FROM STDIN", io.BytesIO(ROWS)),
    "expert, keywords": lambda c: c.copy_expert(sql="COPY items FROM STDIN", file=io.BytesIO(ROWS), size=2),
    "expert, bytes": lambda c: c.copy_expert(b"COPY items FROM STDIN", io.BytesIO(ROWS)),
    "expert, composed": lambda c: c.copy_expert(
        sql.SQL("COPY {} FROM STDIN").format(sql.Identifier("items")), io.BytesIO(ROWS)
    ),
    "expert, CSV": lambda c: c.copy_expert(
        "COPY items FROM STDIN (FORMAT csv, HEADER true)", io.StringIO('id,name\n1,"a,""b"""\n')
    ),
    "expert, per cent": lambda c: c.copy_expert("COPY items FROM STDIN DELIMITER '%'", io.BytesIO(b"1%x\n")),
    "expert, binary garbage": lambda c: c.copy_expert("COPY items FROM STDIN (FORMAT binary)", io.BytesIO(ROWS)),
    "expert, then an error": lambda c: c.copy_expert("COPY items FROM STDIN; SELECT 1/0", io.BytesIO(ROWS)),
    "expert, after an error": lambda c: c.copy_expert("SELECT 1/0; COPY items FROM STDIN", io.BytesIO(ROWS)),
    "expert, after a query": lambda c: c.copy_expert("SELECT 1; COPY items FROM STDIN", io.BytesIO(ROWS)),
    "expert, only writable": lambda c: c.copy_expert("COPY items FROM STDIN", Writer()),
    "expert, no file": lambda c: c.copy_expert("COPY items FROM STDIN", None),
    "expert, no COPY": lambda c: c.copy_expert("SELECT 1 AS x", io.BytesIO(ROWS)),
    "expert, no COPY, no result": lambda c: c.copy_expert("SET TimeZone = 'UTC'", io.BytesIO(ROWS)),
    "expert, file of the server": lambda c: c.copy_expert("COPY items FROM '/nix'", io.BytesIO(ROWS)),
    "expert, bad syntax": lambda c: c.copy_expert("COPY COPY", io.BytesIO(ROWS)),
    "expert, empty": lambda c: c.copy_expert("", io.BytesIO(ROWS)),
    "expert, blank": lambda c: c.copy_expert(" ", io.BytesIO(ROWS)),
    "expert, None": lambda c: c.copy_expert(None, io.BytesIO(ROWS)),
    "expert, a number": lambda c: c.copy_expert(3, io.BytesIO(ROWS)),
    "expert, surrogates": lambda c: c.copy_expert("COPY \ud800 FROM STDIN", io.BytesIO(ROWS)),
}


@pytest.mark.parametrize("case", IN)
def test_copy_in_does_as_blocking(case, compare):
    def copy(cursor):
        IN[case](cursor)
        return loaded(cursor.connection.cursor())

    seen = compare(copy, prepared)
    if case == "bytes":
        assert seen["returned"] == [(1, "one"), (2, "two"), (3, "three")]


def written(cursor, file, *args, **kwargs):
    cursor.copy_to(file, *args, **kwargs)
    return file.getvalue() if hasattr(file, "getvalue") else file.pieces


def expert(cursor, query, file):
    cursor.copy_expert(query, file)
    return file.getvalue() if hasattr(file, "getvalue") else file.pieces


OUT = {
    "bytes": lambda c: written(c, io.BytesIO(), "items"),
    "text": lambda c: written(c, io.StringIO(), "items"),
    "pieces": lambda c: written(c, Writer(), "items"),
    "text pieces": lambda c: written(c, TextWriter(), "items"),
    "keywords": lambda c: written(c, io.BytesIO(), table="items", sep=",", null="-", columns=["id"]),
    "positions": lambda c: written(c, io.BytesIO(), "items", ",", "-", ["name", "id"]),
    "odd names": lambda c: written(c, io.StringIO(), "we\"ird'table", columns=("a b", "select", "ü")),
    "null not ASCII": lambda c: written(c, io.StringIO(), "we\"ird'table", null="ü"),
    "unknown table": lambda c: written(c, io.BytesIO(), "nix"),
    "table with a schema": lambda c: written(c, io.BytesIO(), "pg_temp.items"),
    "columns that fail": lambda c: written(c, io.BytesIO(), "items", columns=(1 / n for n in [0])),
    "not a file": lambda c: c.copy_to(object(), "items"),
    "only readable": lambda c: c.copy_to(Reader(), "items"),
    "failing write": lambda c: written(c, Writer(7, ZeroDivisionError("why")), "items"),
    "failing first write": lambda c: written(c, Writer(1, ZeroDivisionError("why")), "items"),
    "failing last write": lambda c: written(c, Writer(100, ZeroDivisionError("why")), "items"),
    "failing write of psycopg2": lambda c: written(c, Writer(7, psycopg2.DataError("why")), "items"),
    "expert": lambda c: expert(c, "COPY items TO STDOUT", io.BytesIO()),
    "expert, query": lambda c: expert(c, "COPY (SELECT 'ü', NULL, 'a\nb') TO STDOUT", TextWriter()),
    "expert, nothing": lambda c: expert(c, "COPY (SELECT 1 WHERE false) TO STDOUT", Writer()),
    "expert, empty rows": lambda c: expert(c, "COPY (SELECT FROM generate_series(1, 3)) TO STDOUT", Writer()),
    "expert, binary": lambda c: expert(c, "COPY items TO STDOUT (FORMAT binary)", Writer()),
    "expert, binary as text": lambda c: expert(c, "COPY (SELECT 65535) TO STDOUT (FORMAT binary)", TextWriter()),
    "expert, many": lambda c: expert(c, "COPY (SELECT generate_series(1, 50000)) TO STDOUT", Writer()),
    "expert, many, failing": lambda c: expert(
        c, "COPY (SELECT generate_series(1, 50000)) TO STDOUT", Writer(30000, KeyError("x"))
    ),
    "expert, long rows": lambda c: expert(
        c, "COPY (SELECT repeat('x', 300000) FROM generate_series(1, 9)) TO STDOUT", TextWriter()
    ),
    "expert, late error": lambda c: expert(
        c, "COPY (SELECT 1 / (n - 30000) FROM generate_series(1, 50000) n) TO STDOUT", Writer()
    ),
    "expert, late error after failing write": lambda c: expert(
        c, "COPY (SELECT 1 / (n - 30000) FROM generate_series(1, 50000) n) TO STDOUT", Writer(3, KeyError("x"))
    ),
    "expert, then an error": lambda c: expert(c, "COPY items TO STDOUT; SELECT 1/0", Writer()),
    "expert, only readable": lambda c: c.copy_expert("COPY items TO STDOUT", Reader()),
}


@pytest.mark.parametrize("case", OUT)
def test_copy_out_does_as_blocking(case, compare):
    seen = compare(OUT[case], filled)
    if case == "pieces":
        assert len(seen["returned"]) == 100


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
@pytest.mark.parametrize("direction", ["in", "in, as text", "in, failing", "out", "out, as text", "names"])
def test_client_encodings_do_as_blocking(encoding, direction, compare):
    def prepare(connection):
        prepared(connection)
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO items VALUES (7, 'ü'), (8, '日本')")
        connection.commit()
        connection.set_client_encoding(encoding)

    def copy(cursor):
        if direction == "in":
            cursor.copy_from(io.BytesIO(b"1\t\xfc\n"), "items")
        elif direction == "in, as text":
            cursor.copy_from(io.StringIO("1\tü\n"), "items")
        elif direction == "in, failing":
            cursor.copy_from(Reader(b"1\tx\n", ValueError("why")), "items")
        elif direction == "out":
            return written(cursor, Writer(), "items")
        elif direction == "out, as text":
            return written(cursor, TextWriter(), "items")
        else:
            return written(cursor, Writer(), "we\"ird'table", columns=["ü"])

    compare(copy, prepare)


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_quoting_follows_standard_conforming_strings(conforming, compare):
    def prepare(connection):
        prepared(connection)
        with connection.cursor() as cursor:
            cursor.execute(f"SET standard_conforming_strings = {conforming}")
        connection.commit()

    compare(lambda c: c.copy_from(io.BytesIO(b"1\t\\x\n"), "items", null="\\x"), prepare)


def test_an_empty_list_of_columns_is_a_syntax_error(hub, connect):
    connection = connect()
    prepared(connection)
    with pytest.raises(errors.SyntaxError):
        hub.run(lambda: connection.cursor().copy_from(io.BytesIO(), "items", columns=[]))


def test_read_gets_the_size(hub, connect):
    connection = connect()
    prepared(connection)
    default, other = Reader(b"1\ta\n"), Reader(b"2\tb\n")
    hub.run(connection.cursor().copy_from, default, "items")
    hub.run(connection.cursor().copy_expert, "COPY items FROM STDIN", other, 123)
    assert set(default.sizes) == {8192}
    assert set(other.sizes) == {123}


@pytest.mark.parametrize(
    "factory",
    [psycopg2.extras.DictCursor, psycopg2.extras.RealDictCursor, psycopg2.extras.NamedTupleCursor],
    ids=lambda factory: factory.__name__,
)
def test_cursors_of_factories_copy(factory, compare):
    def copy(cursor):
        assert isinstance(cursor, factory)
        cursor.copy_from(io.BytesIO(ROWS), "items")
        out = io.StringIO()
        cursor.copy_to(out, "items")
        cursor.execute("SELECT id, name FROM items ORDER BY id")
        return out.getvalue(), cursor.fetchall()

    compare(copy, prepared, cursor={"cursor_factory": factory})


def test_overridden_methods_of_a_cursor_are_called(hub, connect):
    called = []

    class Cursor(extensions.cursor):
        def copy_expert(self, sql, file, size=8192):
            called.append(sql)
            super().copy_expert(sql, file, size)

        def execute(self, query, vars=None):
            called.append("execute")  # psycopg2's own COPY does not call execute()
            super().execute(query, vars)

    connection = connect(cursor_factory=Cursor)
    out = io.BytesIO()
    hub.run(connection.cursor().copy_expert, "COPY (SELECT 1) TO STDOUT", out)
    assert called == ["COPY (SELECT 1) TO STDOUT"]
    assert out.getvalue() == b"1\n"


def test_a_named_cursor_copies_as_any_other(hub, connect):
    # psycopg2 copies with a named cursor as with any other.
    connection = connect()
    prepared(connection)
    cursor = connection.cursor("name")
    out = io.BytesIO()
    hub.run(cursor.copy_from, io.BytesIO(ROWS), "items")
    hub.run(cursor.copy_to, out, "items")
    assert out.getvalue() == ROWS


def test_a_closed_cursor_does_as_blocking(compare):
    def copy(cursor):
        cursor.close()
        cursor.copy_from(io.BytesIO(ROWS), "items")

    compare(copy, prepared)


def test_a_closed_connection_does_as_blocking(compare):
    def copy(cursor):
        cursor.connection.close()
        cursor.copy_to(io.BytesIO(), "items")

    compare(copy, prepared)


def test_a_prepared_transaction_refuses_copy(hub, connect):
    connection = connect()
    connection.tpc_begin("psycogreen")
    try:
        connection.tpc_prepare()
    except psycopg2.Error:
        pytest.skip("the server has no two-phase transactions")
    for copy in (
        lambda c: c.copy_from(io.BytesIO(), "items"),
        lambda c: c.copy_to(io.BytesIO(), "items"),
        lambda c: c.copy_expert("COPY items TO STDOUT", io.BytesIO()),
    ):
        with pytest.raises(psycopg2.ProgrammingError, match="copy_.* cannot be used with a prepared two-phase"):
            hub.run(copy, connection.cursor())
    connection.tpc_rollback()


@pytest.mark.parametrize("how", ["autocommit", "serializable", "read only", "in a transaction", "in a failed one"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_transaction_ends_as_blocking(how, fails, compare):
    def prepare(connection):
        prepared(connection)
        if how == "autocommit":
            connection.autocommit = True
        elif how == "serializable":
            connection.set_session(isolation_level="SERIALIZABLE", deferrable=True)
        elif how == "read only":
            connection.set_session(readonly=True)
        elif how == "in a transaction":
            connection.cursor().execute("INSERT INTO items VALUES (9, 'nine')")
        else:
            with pytest.raises(errors.DivisionByZero):
                connection.cursor().execute("SELECT 1/0")

    def copy(cursor):
        data = b"1\tone\n1\tagain\n" if fails else b"1\tone\n"
        before = cursor.connection.status
        try:
            cursor.copy_from(io.BytesIO(data), "items")
        finally:
            statuses.append((before, cursor.connection.status, cursor.connection.get_transaction_status()))
        cursor.execute("SHOW transaction_isolation")
        level = cursor.fetchone()
        cursor.connection.commit()
        return level, loaded(cursor)

    statuses = []
    compare(copy, prepare)
    assert statuses[0] == statuses[1]


def test_with_blocks_commit_and_roll_back_a_copy(compare):
    def copy(cursor):
        with cursor.connection, cursor.connection.cursor() as inner:
            inner.copy_from(io.BytesIO(ROWS), "items")
        with pytest.raises(errors.UniqueViolation), cursor.connection:
            cursor.copy_from(io.BytesIO(ROWS), "items")
        cursor.connection.rollback()
        return loaded(cursor)

    assert len(compare(copy, prepared)["returned"]) == 3


def test_notices_and_notifications_arrive(compare):
    def prepare(connection):
        prepared(connection)
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION pg_temp.say() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE NOTICE 'row %', NEW.id; RETURN NEW; END $$"
            )
            cursor.execute("CREATE TRIGGER say BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION pg_temp.say()")
            cursor.execute("LISTEN psycogreen")
            cursor.execute("NOTIFY psycogreen, 'hello'")
        connection.commit()

    def copy(cursor):
        cursor.copy_from(io.BytesIO(ROWS), "items")
        return [(n.channel, n.payload) for n in cursor.connection.notifies]

    assert len(compare(copy, prepare)["notices"]) == 3


def test_the_error_of_read_is_the_cause_of_the_copys(hub, connect):
    connection = connect()
    prepared(connection)
    why = ZeroDivisionError("why")
    with pytest.raises(errors.QueryCanceled, match="ZeroDivisionError why") as caught:
        hub.run(connection.cursor().copy_from, Reader(b"1\ta\n", why), "items")
    assert caught.value.__cause__ is why


def test_two_copies_in_a_statement_raise(hub, connect):
    # psycopg2's own copy_expert() would never return.
    connection = connect()
    filled(connection)
    for first, second in [("FROM STDIN", "TO STDOUT"), ("TO STDOUT", "FROM STDIN"), ("TO STDOUT", "TO STDOUT")]:
        with pytest.raises(psycopg2.ProgrammingError, match="more than one COPY"):
            hub.run(connection.cursor().copy_expert, f"COPY items {first}; COPY items {second}", io.BytesIO())
        connection.rollback()
    assert len(loaded(connection.cursor())) == 100


def test_without_a_wait_callback_psycopg2_copies(hub, connect):
    connection = connect()
    prepared(connection)
    with blocking():
        cursor = connection.cursor()
        cursor.copy_from(io.BytesIO(ROWS), "items")
        assert (cursor.rowcount, cursor.statusmessage) == (3, "")
        with pytest.raises(errors.UndefinedTable):
            cursor.copy_to(io.BytesIO(), "nix")


def test_a_thread_without_a_hub_copies(hub, connect):
    connection = connect()
    prepared(connection)
    rows = b"".join(b"%d\tx\n" % n for n in range(100000))

    def copy():
        out = io.BytesIO()
        connection.cursor().copy_from(io.BytesIO(rows), "items")
        connection.cursor().copy_to(out, "items")
        return out.getvalue()

    assert hub.run_in_thread(copy) == rows


def test_copy_raises_with_libpq_out_of_reach(hub, connect, monkeypatch):
    from psycogreen import _libpq

    monkeypatch.setitem(_libpq._PROTOTYPES, "PQnix", (None, []))
    _libpq.libpq.cache_clear()
    try:
        connection = connect()
        with pytest.raises(psycopg2.NotSupportedError, match="install a psycopg2 that loads libpq as a shared library"):
            hub.run(connection.cursor().copy_to, io.BytesIO(), "pg_class")
        cursor = connection.cursor()
        hub.run(cursor.execute, "SELECT 1")
        assert cursor.fetchall() == [(1,)]
    finally:
        monkeypatch.undo()
        _libpq.libpq.cache_clear()
