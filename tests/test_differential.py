"""Blocking and green psycopg2 do the same: one table of statements and calls, run on both.

A case is a list of steps. A step that is a string is executed as a statement, and
its rows are fetched. A step that is a function is called with the `Session`. Three
more steps follow each case and show the state that it left behind. The test compares
`Session.state()` after each step; `accepted()` removes the differences that are
accepted, each by its name.
"""

import contextlib
import datetime
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras, sql
from support.server_state import blocking

PREPARED = """
    SET client_min_messages TO warning;
    CREATE TEMPORARY TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 5) i;
    CREATE TEMPORARY TABLE parents (id int PRIMARY KEY);
    CREATE TEMPORARY TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION pg_temp.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
    CREATE FUNCTION pg_temp.fails(n int) RETURNS int LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''fails %'', n; END';
    SET client_min_messages TO notice
"""

# The lowest OID that a type made by a user can have.
USER_TYPE = 16384

Step = str | Callable[["Session"], Any]


class Session:
    """One connection, its cursor, and objects that one step leaves to the next."""

    def __init__(self, connection: Any) -> None:
        self.conn = connection
        self.cur = connection.cursor()
        self.cur.execute(PREPARED)
        connection.commit()
        self.other: Any = None  # a second cursor, or a large object, for later steps
        self.out: Any = None  # a file, for later steps

    def run(self, step: Step) -> list[Any]:
        """Return the result or the error of *step*, and the state that it leaves."""
        try:
            result = self.query(step) if isinstance(step, str) else step(self)
            outcome: tuple[Any, ...] = ("returned", plain(result))
        except Exception as exc:
            cause = getattr(exc, "pgcode", None)
            outcome = ("raised", type(exc).__name__, cause, anonymous(str(exc)))
        return [outcome, self.state()]

    def query(self, text: str) -> Any:
        self.cur.execute(text)
        return self.cur.fetchall() if self.cur.description else None

    def state(self) -> dict[str, Any]:
        """Return what users can see of the connection and its cursor."""
        conn, cur = self.conn, self.cur
        state: dict[str, Any] = {
            "closed": conn.closed,
            "status": conn.status,
            "autocommit": conn.autocommit,
            "notices": [anonymous(notice) for notice in conn.notices],
            "notifies": [(notify.channel, notify.payload) for notify in conn.notifies],
            "cursor.closed": cur.closed,
            "description": cur.description
            and [(column.name, min(column.type_code, USER_TYPE)) for column in cur.description],
            "rowcount": cur.rowcount,
            "rownumber": cur.rownumber,
            "statusmessage": cur.statusmessage,
            "query": cur.query,
        }
        if not conn.closed:
            state["transaction status"] = conn.get_transaction_status()
            state["encoding"] = conn.encoding
            state["isolation level"] = conn.isolation_level
            state["readonly"] = conn.readonly
        return state


def plain(value: Any) -> Any:
    """Return *value* as an object that compares by value and prints well."""
    if isinstance(value, (extensions.connection, extensions.cursor, extensions.lobject)):
        return "<object>"
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value if isinstance(value, (str, bytes, int, type(None))) else anonymous(repr(value))


def anonymous(text: str) -> str:
    """Replace addresses, numbers and names that differ from one session to the next."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    return re.sub(r"\b(process|PID|pg_temp_|large object) ?\d+", r"\1", text)


# -- what steps do -------------------------------------------------------------------------------


def call(method: str, *args: Any, **kwargs: Any) -> Step:
    """Call a method of the connection."""
    return lambda s: getattr(s.conn, method)(*args, **kwargs)


def on_cursor(method: str, *args: Any, **kwargs: Any) -> Step:
    """Call a method of the cursor."""
    return lambda s: getattr(s.cur, method)(*args, **kwargs)


def put(name: str, value: Any) -> Step:
    """Set an attribute of the connection."""
    return lambda s: setattr(s.conn, name, value)


def use(*args: Any, **kwargs: Any) -> Step:
    """Replace the cursor by one made with these arguments."""

    def step(s: Session) -> None:
        s.cur = s.conn.cursor(*args, **kwargs)

    return step


def lobject(*args: Any, **kwargs: Any) -> Step:
    def step(s: Session) -> Any:
        s.other = s.conn.lobject(*args, **kwargs)
        return s.other.mode, s.other.closed

    return step


def on_lobject(method: str, *args: Any) -> Step:
    return lambda s: getattr(s.other, method)(*args)


def copy_in(query: str, data: str | bytes, **kwargs: Any) -> Step:
    file = io.StringIO if isinstance(data, str) else io.BytesIO
    return lambda s: s.cur.copy_expert(query, file(data), **kwargs)  # type: ignore[arg-type]


def copy_out(query: str, text: bool = True) -> Step:
    def step(s: Session) -> Any:
        out: Any = io.StringIO() if text else io.BytesIO()
        s.cur.copy_expert(query, out)
        return out.getvalue()

    return step


class Fails:
    """A file that raises."""

    def read(self, size: int) -> str:
        raise ZeroDivisionError("read")

    def write(self, data: str) -> None:
        raise ZeroDivisionError("write")


def broken_iterator() -> Iterator[tuple[int]]:
    yield (7,)
    raise ZeroDivisionError("items")


def iterate(s: Session) -> list[Any]:
    return list(s.cur)


def failing_cast(value: Any, cursor: Any) -> Any:
    if value == "3":
        raise ZeroDivisionError("cast")
    return value


def with_block(*steps: Step, fails: bool = False) -> Step:
    """Run the steps in `with connection:`."""

    def step(s: Session) -> Any:
        with s.conn:
            for inner in steps:
                s.query(inner) if isinstance(inner, str) else inner(s)
            if fails:
                raise ZeroDivisionError("block")

    return step


XID = "psycogreen-differential"


def tpc_begin(s: Session) -> None:
    s.conn.tpc_begin(XID)


# -- the table -----------------------------------------------------------------------------------

SERVER_ENDS_IT = "SELECT pg_terminate_backend(pg_backend_pid())"

STATEMENTS = {
    # One statement a case.
    "select": "SELECT 1 AS one, 'x'::text AS name",
    "select_no_rows": "SELECT 1 WHERE false",
    "select_no_columns": "SELECT",
    "select_many": "SELECT i, i::text FROM generate_series(1, 5000) i",
    "insert": "INSERT INTO items VALUES (6, 'six')",
    "insert_returning": "INSERT INTO items VALUES (6, 'six'), (7, 'seven') RETURNING id",
    "insert_duplicate": "INSERT INTO items VALUES (1, 'again')",
    "update": "UPDATE items SET name = upper(name) WHERE id > 2",
    "update_nothing": "UPDATE items SET name = '' WHERE false",
    "delete": "DELETE FROM items",
    "truncate": "TRUNCATE items",
    "values": "VALUES (1, 'a'), (2, 'b')",
    "with": "WITH gone AS (DELETE FROM items RETURNING id) SELECT count(*) FROM gone",
    "empty": "",
    "blank": "   ",
    "semicolon": ";",
    "comment": "-- nothing",
    "syntax_error": "SELEC 1",
    "error_at_the_end": "SELECT 1 FROM",
    "no_such_table": "SELECT * FROM nowhere",
    "no_such_column": "SELECT nothing FROM items",
    "division_by_zero": "SELECT 1 / 0",
    "division_by_zero_in_the_last_row": "SELECT 1 / (3000 - i) FROM generate_series(1, 3000) i",
    "bad_cast": "SELECT 'x'::int",
    "several_selects": "SELECT 1; SELECT 2, 3",
    "several_with_an_error": "SELECT 1; SELECT 1 / 0; SELECT 3",
    "several_with_a_late_syntax_error": "SELECT 1; SELEC 2",
    "several_that_end_empty": "SELECT 1;;",
    "insert_then_select": "INSERT INTO items VALUES (8, 'eight'); SELECT count(*) FROM items",
    "select_then_insert": "SELECT count(*) FROM items; INSERT INTO items VALUES (8, 'eight')",
    "several_with_commit": "INSERT INTO items VALUES (8, 'eight'); COMMIT; SELECT count(*) FROM items",
    "several_with_rollback": "INSERT INTO items VALUES (8, 'eight'); ROLLBACK; SELECT count(*) FROM items",
    "begin_by_hand": "BEGIN",
    "commit_by_hand": "COMMIT",
    "rollback_by_hand": "ROLLBACK",
    "do_block": "DO $$ BEGIN PERFORM 1; END $$",
    "do_block_that_fails": "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P4242', HINT = 'a hint'; END $$",
    "do_block_with_notices": "DO $$ BEGIN FOR i IN 1..60 LOOP RAISE NOTICE 'n %', i; END LOOP; END $$",
    "notice_and_error": "DO $$ BEGIN RAISE NOTICE 'before'; RAISE EXCEPTION 'after'; END $$",
    "warning": "DO $$ BEGIN RAISE WARNING 'careful'; END $$",
    "set": "SET search_path TO pg_catalog",
    "set_local": "SET LOCAL work_mem TO '5MB'",
    "set_unknown": "SET nonsense TO 1",
    "show": "SHOW server_encoding",
    "explain": "EXPLAIN (COSTS off) SELECT 1",
    "create_table": "CREATE TEMPORARY TABLE made (n int)",
    "create_table_as": "CREATE TEMPORARY TABLE made AS SELECT 1 AS n",
    "drop_missing": "DROP TABLE IF EXISTS missing",
    "vacuum_in_a_transaction": "VACUUM",
    "prepare_and_execute": "PREPARE p (int) AS SELECT $1 + 1; EXECUTE p (4)",
    "execute_unprepared": "EXECUTE missing",
    "declare_and_fetch": "DECLARE c CURSOR FOR SELECT * FROM items; FETCH 2 FROM c",
    "move": "DECLARE c CURSOR FOR SELECT * FROM items; MOVE 2 FROM c",
    "lock": "LOCK TABLE items",
    "statement_timeout": "SET LOCAL statement_timeout TO 20; SELECT pg_sleep(20)",
    "notify_itself": "LISTEN differential; NOTIFY differential, 'hello'",
    "listen": "LISTEN differential",
    "unlisten": "UNLISTEN *",
    "json": """SELECT '{"a": [1, null]}'::json, '[true]'::jsonb""",
    "arrays": "SELECT ARRAY[1, 2], ARRAY['a', NULL], ARRAY[]::int[], ARRAY[[1], [2]]",
    "ranges": "SELECT int4range(1, 5), daterange('2020-01-01', NULL), 'empty'::numrange",
    "bytea": r"SELECT '\x00ff'::bytea, ''::bytea",
    "numbers": "SELECT 1.50::numeric, 'NaN'::float8, 2::int8, 3::int2, 1e300::float8",
    "times": "SELECT '2020-02-29'::date, '12:00'::time, '2020-01-01 00:00+02'::timestamptz, '1 day 2 hours'::interval",
    "time_out_of_range": "SELECT '12345-01-01'::date",
    "null_and_bool": "SELECT NULL, true, false",
    "uuid_and_net": "SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '10.0.0.1'::inet",
    "record": "SELECT ROW(1, 'x'), items FROM items LIMIT 1",
    "large_value": "SELECT repeat('x', 1000000)",
    "unicode": "SELECT 'žluťoučký', U&'\\0061'",
    "same_name_twice": "SELECT 1 AS a, 2 AS a",
    "copy_from_stdin": "COPY items FROM STDIN",
    "copy_to_stdout": "COPY items TO STDOUT",
    "copy_much_to_stdout": "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 5000)) TO STDOUT",
    "copy_from_stdin_that_fails": "COPY nowhere FROM STDIN",
    "copy_to_stdout_that_fails": "COPY (SELECT 1 / (100 - i) FROM generate_series(1, 100) i) TO STDOUT",
    "copy_after_a_select": "SELECT 1; COPY items FROM STDIN",
    "copy_before_a_select": "COPY items TO STDOUT; SELECT 1",
    "copy_before_an_insert": "COPY items TO STDOUT; INSERT INTO items VALUES (9, 'nine')",
    "copy_before_an_error": "COPY items TO STDOUT; SELECT 1 / 0",
    "copy_twice": "COPY items TO STDOUT; COPY items TO STDOUT",
    "copy_out_and_in": "COPY items TO STDOUT; COPY items FROM STDIN",
    "copy_between_others": "SELECT 1; COPY items FROM STDIN; SELECT 2",
    "copy_and_commit": "COPY items TO STDOUT; COMMIT",
    "copy_in_a_savepoint": "SAVEPOINT a; COPY items FROM STDIN",
    "copy_with_notices": "DO $$ BEGIN RAISE NOTICE 'first'; END $$; COPY items TO STDOUT",
    "terminated": SERVER_ENDS_IT,
}

CASES: dict[str, list[Step]] = {name: [statement] for name, statement in STATEMENTS.items()}

# The same statements in autocommit mode, where they need no transaction.
CASES |= {
    f"autocommit_{name}": [put("autocommit", True), STATEMENTS[name]]
    for name in (
        "select insert insert_duplicate empty syntax_error several_selects several_with_an_error insert_then_select"
        " begin_by_hand do_block_that_fails set set_local prepare_and_execute notify_itself statement_timeout"
        " copy_from_stdin copy_to_stdout copy_after_a_select copy_before_a_select copy_before_an_error copy_out_and_in"
        " terminated"
    ).split()
}

CASES |= {
    # execute() and what it takes
    "parameters": [on_cursor("execute", "SELECT %s, %s, %s", (1, "o'clock", None)), on_cursor("fetchone")],
    "named_parameters": [on_cursor("execute", "SELECT %(a)s", {"a": [1, 2]}), on_cursor("fetchone")],
    "too_few_parameters": [on_cursor("execute", "SELECT %s, %s", (1,))],
    "too_many_parameters": [on_cursor("execute", "SELECT %s", (1, 2))],
    "unknown_type": [on_cursor("execute", "SELECT %s", (object,))],
    "composable": [on_cursor("execute", sql.SQL("SELECT {}").format(sql.Literal(7))), on_cursor("fetchone")],
    "bytes": [on_cursor("execute", b"SELECT 1"), on_cursor("fetchall")],
    "no_string": [on_cursor("execute", 7)],
    "surrogate": [on_cursor("execute", "SELECT '\udc80'")],
    "null_character": [on_cursor("execute", "SELECT %s", ("a\0b",))],
    "json_parameter": [on_cursor("execute", "SELECT %s::json", (extras.Json({"a": 1}),)), on_cursor("fetchone")],
    "binary_parameter": [on_cursor("execute", "SELECT %s", (psycopg2.Binary(b"\0\xff"),)), on_cursor("fetchone")],
    "date_parameter": [on_cursor("execute", "SELECT %s", (datetime.date(2020, 2, 29),)), on_cursor("fetchone")],
    "mogrify": [on_cursor("mogrify", "SELECT %s, %s", ("ž", [1])), on_cursor("mogrify", "SELECT %s", ())],
    "cast": [on_cursor("cast", 23, "7"), on_cursor("cast", 16, "t")],
    # fetching
    "fetch_before_execute": [on_cursor("fetchone"), on_cursor("fetchall"), on_cursor("fetchmany"), iterate],
    "fetch_after_insert": ["INSERT INTO items VALUES (6, 'six')", on_cursor("fetchall"), on_cursor("fetchone")],
    "fetchone": [on_cursor("execute", "SELECT * FROM items"), *[on_cursor("fetchone")] * 6],
    "fetchmany": [
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        on_cursor("fetchmany"),
        on_cursor("fetchmany", 3),
        on_cursor("fetchmany", size=700),
        on_cursor("fetchmany", None),
        on_cursor("fetchmany", -1),
        on_cursor("fetchmany", 500),
        on_cursor("fetchmany", "x"),
    ],
    "fetchall_twice": [on_cursor("execute", "SELECT generate_series(1, 1000)"), *[on_cursor("fetchall")] * 2],
    "iteration": [on_cursor("execute", "SELECT * FROM items"), iterate, iterate],
    "iteration_and_fetchall": [
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        lambda s: next(s.cur),
        on_cursor("fetchall"),
    ],
    "scroll": [
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        on_cursor("scroll", 500),
        on_cursor("fetchone"),
        on_cursor("scroll", 2, mode="absolute"),
        on_cursor("fetchmany", 400),
        on_cursor("scroll", 5000),
        on_cursor("scroll", -5000),
        on_cursor("scroll", 1, mode="nonsense"),
        on_cursor("fetchall"),
    ],
    "cast_that_fails_in_the_middle": [
        lambda s: extensions.register_type(extensions.new_type((23,), "FAILS", failing_cast), s.cur),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        on_cursor("fetchall"),
        on_cursor("fetchall"),
        on_cursor("scroll", 0, mode="absolute"),
        on_cursor("fetchmany", 900),
        on_cursor("fetchone"),
    ],
    "nextset": [on_cursor("execute", "SELECT 1; SELECT 2"), on_cursor("nextset")],
    "closed_cursor": [
        on_cursor("close"),
        on_cursor("execute", "SELECT 1"),
        on_cursor("fetchall"),
        on_cursor("fetchmany", 500),
        on_cursor("executemany", "SELECT %s", [(1,)]),
        on_cursor("copy_expert", "COPY items TO STDOUT", io.StringIO()),
        on_cursor("close"),
    ],
    # executemany(), callproc() and what extras makes of them
    "executemany": [
        on_cursor("executemany", "INSERT INTO items VALUES (%s, %s)", [(i, "x") for i in range(10, 20)]),
        "SELECT count(*) FROM items",
    ],
    "executemany_nothing": [on_cursor("executemany", "INSERT INTO items VALUES (%s)", [])],
    "executemany_select": [on_cursor("executemany", "SELECT %s", [(1,), (2,)]), on_cursor("fetchall")],
    "executemany_duplicate": [on_cursor("executemany", "INSERT INTO items VALUES (%s)", [(10,), (1,), (11,)])],
    "executemany_broken_iterator": [
        lambda s: s.cur.executemany("INSERT INTO items VALUES (%s)", broken_iterator()),
        "SELECT count(*) FROM items",
    ],
    "executemany_no_iterable": [on_cursor("executemany", "SELECT %s", 7)],
    "executemany_copy_from": [on_cursor("executemany", "COPY items FROM STDIN", [(), ()])],
    "executemany_copy_to": [on_cursor("executemany", "COPY items TO STDOUT", [(), ()])],
    "callproc": [on_cursor("callproc", "pg_temp.twice", [21]), on_cursor("fetchall")],
    "callproc_named": [on_cursor("callproc", "pg_temp.twice", {"n": 21}), on_cursor("fetchall")],
    "callproc_missing": [on_cursor("callproc", "pg_temp.nothing", [])],
    "callproc_fails": [on_cursor("callproc", "pg_temp.fails", [3])],
    "callproc_void": [on_cursor("callproc", "pg_sleep", [0]), on_cursor("fetchall")],
    "execute_values": [
        lambda s: extras.execute_values(s.cur, "INSERT INTO items VALUES %s", [(i, "v") for i in range(10, 350)]),
        lambda s: extras.execute_values(
            s.cur, "INSERT INTO items VALUES %s RETURNING id", [(i, "v") for i in range(350, 600)], fetch=True
        ),
        lambda s: extras.execute_values(s.cur, "INSERT INTO items VALUES %s", [(1, "v")]),
    ],
    "execute_batch": [
        lambda s: extras.execute_batch(s.cur, "INSERT INTO items VALUES (%s)", [(i,) for i in range(10, 350)]),
        lambda s: extras.execute_batch(s.cur, "INSERT INTO items VALUES (%s)", [(400,), (1,)]),
    ],
    # cursors of every kind
    "named": [use("c"), on_cursor("execute", "SELECT generate_series(1, 1000)"), on_cursor("fetchall")],
    "named_fetches": [
        use("c"),
        on_cursor("execute", "SELECT generate_series(1, 2000)"),
        on_cursor("fetchone"),
        on_cursor("fetchmany", 3),
        on_cursor("fetchmany", 700),
        on_cursor("fetchmany"),
        on_cursor("fetchall"),
        on_cursor("fetchall"),
        on_cursor("fetchmany", 700),
        on_cursor("fetchone"),
        on_cursor("close"),
    ],
    "named_iteration": [
        use("c"),
        lambda s: setattr(s.cur, "itersize", 300),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        lambda s: next(s.cur),
        on_cursor("fetchmany", 200),
        lambda s: next(s.cur),
        on_cursor("fetchall"),
        iterate,
    ],
    "named_backwards": [
        use("c", scrollable=True),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        on_cursor("fetchmany", 900),
        on_cursor("scroll", -800),
        on_cursor("fetchmany", 5),
        on_cursor("scroll", 10, mode="absolute"),
        on_cursor("fetchone"),
        on_cursor("fetchmany", -3),
        on_cursor("scroll", 5000),
        on_cursor("fetchone"),
    ],
    "named_not_scrollable": [
        use("c", scrollable=False),
        on_cursor("execute", "SELECT generate_series(1, 10)"),
        on_cursor("fetchmany", 3),
        on_cursor("scroll", -2),
    ],
    "named_withhold": [
        use("c", withhold=True),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        call("commit"),
        on_cursor("fetchmany", 2),
        on_cursor("fetchall"),
        on_cursor("close"),
    ],
    "named_after_commit": [
        use("c"),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        call("commit"),
        on_cursor("fetchall"),
        on_cursor("fetchmany", 500),
    ],
    "named_in_autocommit": [put("autocommit", True), use("c"), on_cursor("execute", "SELECT 1")],
    "named_before_execute": [use("c"), on_cursor("fetchall"), on_cursor("fetchmany", 500), on_cursor("close")],
    "named_twice": [use("c"), on_cursor("execute", "SELECT 1"), on_cursor("execute", "SELECT 2")],
    "named_executemany": [use("c"), on_cursor("executemany", "SELECT %s", [(1,)])],
    "named_callproc": [use("c"), on_cursor("callproc", "pg_temp.twice", [1]), on_cursor("fetchall")],
    "named_copy": [use("c"), on_cursor("execute", "COPY items TO STDOUT")],
    "named_insert": [use("c"), on_cursor("execute", "INSERT INTO items VALUES (6)")],
    "named_error": [
        use("c"),
        on_cursor("execute", "SELECT 1 / (900 - i) FROM generate_series(1, 1000) i"),
        on_cursor("fetchmany", 500),
        on_cursor("fetchall"),
    ],
    "named_cast_that_fails": [
        use("c"),
        lambda s: extensions.register_type(extensions.new_type((23,), "FAILS", failing_cast), s.cur),
        on_cursor("execute", "SELECT generate_series(1, 1000)"),
        on_cursor("fetchall"),
        on_cursor("fetchone"),
    ],
    "named_with_a_quote": [use('a"b'), on_cursor("execute", "SELECT 1"), on_cursor("fetchall")],
    "scrollable_without_a_name": [use(scrollable=True), on_cursor("execute", "SELECT 1")],
    "dict_cursor": [use(cursor_factory=extras.DictCursor), "SELECT i AS a FROM generate_series(1, 300) i"],
    "real_dict_cursor": [use(cursor_factory=extras.RealDictCursor), "SELECT i AS a FROM generate_series(1, 300) i"],
    "named_tuple_cursor": [
        use(cursor_factory=extras.NamedTupleCursor),
        "SELECT i AS a FROM generate_series(1, 3) i",
        "SELECT i AS b FROM generate_series(1, 300) i",
        on_cursor("scroll", 0, mode="absolute"),
        on_cursor("fetchmany", 200),
        on_cursor("fetchone"),
        on_cursor("executemany", "SELECT %s", [(1,)]),
        on_cursor("fetchall"),
    ],
    "named_dict_cursor": [
        use("c", cursor_factory=extras.DictCursor),
        on_cursor("execute", "SELECT i AS a FROM generate_series(1, 600) i"),
        on_cursor("fetchmany", 200),
        on_cursor("fetchall"),
    ],
    "named_named_tuple_cursor": [
        use("c", cursor_factory=extras.NamedTupleCursor),
        on_cursor("execute", "SELECT i AS a FROM generate_series(1, 600) i"),
        on_cursor("fetchmany", 200),
        on_cursor("fetchall"),
    ],
    "bad_cursor_factory": [use(cursor_factory=dict)],
    # transactions
    "commit": ["INSERT INTO items VALUES (6)", call("commit"), "SELECT count(*) FROM items"],
    "commit_of_nothing": [call("commit"), call("commit")],
    "commit_that_fails": ["INSERT INTO children VALUES (1)", call("commit"), "SELECT count(*) FROM children"],
    "commit_after_an_error": ["SELECT 1 / 0", call("commit")],
    "rollback": ["INSERT INTO items VALUES (6)", call("rollback"), "SELECT count(*) FROM items"],
    "after_an_error": ["SELECT 1 / 0", "SELECT 1", call("rollback"), "SELECT 1"],
    "savepoint": ["SAVEPOINT a", "SELECT 1 / 0", "ROLLBACK TO a", "SELECT 1", "RELEASE a"],
    "with": [with_block("INSERT INTO items VALUES (6)"), "SELECT count(*) FROM items"],
    "with_that_fails": [with_block("INSERT INTO items VALUES (6)", fails=True), "SELECT count(*) FROM items"],
    "with_an_error": [with_block("SELECT 1 / 0"), "SELECT count(*) FROM items"],
    "with_a_copy": [with_block("COPY items FROM STDIN"), "SELECT count(*) FROM items"],
    "with_cursor": [lambda s: s.cur.__enter__().execute("SELECT 1"), lambda s: s.cur.__exit__(None, None, None)],
    "autocommit_in_a_transaction": ["SELECT 1", put("autocommit", True), call("rollback"), put("autocommit", True)],
    "set_session": [
        call("set_session", isolation_level="SERIALIZABLE", readonly=True, deferrable=True),
        "SHOW transaction_isolation",
        "INSERT INTO items VALUES (6)",
    ],
    "set_session_in_a_transaction": ["SELECT 1", call("set_session", readonly=True)],
    "set_session_nonsense": [call("set_session", isolation_level="nonsense"), call("set_session", 77)],
    "isolation_levels": [
        step
        for level in range(5)
        for step in (put("isolation_level", level), "SHOW transaction_isolation", call("rollback"))
    ],
    "bad_isolation_level": [put("isolation_level", 77), call("set_isolation_level", 77)],
    "readonly": [put("readonly", True), "INSERT INTO items VALUES (6)", call("rollback"), put("readonly", None)],
    "set_client_encoding": [
        call("set_client_encoding", "LATIN1"),
        "SELECT 'é'",
        call("rollback"),
        call("set_client_encoding", "nonsense"),
        "SELECT 'ž'",
    ],
    "reset": ["SET search_path TO pg_catalog", call("reset"), "SHOW search_path"],
    "tpc": [tpc_begin, "SELECT 1", call("tpc_rollback"), "SELECT 1"],
    "tpc_in_a_transaction": ["SELECT 1", tpc_begin],
    "tpc_without_begin": [call("tpc_prepare"), call("tpc_commit"), call("tpc_rollback")],
    "tpc_commit_in_tpc": [tpc_begin, call("commit"), call("rollback"), call("tpc_commit")],
    "tpc_prepare_refused": [tpc_begin, "SELECT count(*) FROM items", call("tpc_prepare"), call("tpc_rollback")],
    "tpc_recover": [call("tpc_recover")],
    "tpc_copy": [tpc_begin, "COPY items FROM STDIN", call("tpc_rollback")],
    # COPY by the methods for it
    "copy_from": [
        lambda s: s.cur.copy_from(io.StringIO("8\teight\n9\t\\N\n"), "items"),
        "SELECT * FROM items WHERE id > 7 ORDER BY id",
    ],
    "copy_from_columns": [
        lambda s: s.cur.copy_from(io.StringIO("8\n"), "items", columns=["id"]),
        lambda s: s.cur.copy_from(io.StringIO("8|x\n"), "items", sep="|", null="x", columns=("id", "name")),
    ],
    "copy_from_bad_data": [lambda s: s.cur.copy_from(io.StringIO("x\ty\n"), "items")],
    "copy_from_nowhere": [lambda s: s.cur.copy_from(io.StringIO("x\n"), "nowhere")],
    "copy_from_no_file": [on_cursor("copy_from", 7, "items"), on_cursor("copy_expert", "COPY items FROM STDIN", 7)],
    "copy_from_file_that_fails": [lambda s: s.cur.copy_from(Fails(), "items"), call("rollback"), "SELECT 1"],
    "copy_to": [
        lambda s: (lambda out: (s.cur.copy_to(out, "items"), out.getvalue()))(io.StringIO()),
        lambda s: (lambda out: (s.cur.copy_to(out, "items", sep="|", columns=["id"]), out.getvalue()))(io.BytesIO()),
        on_cursor("copy_to", io.StringIO(), "nowhere"),
    ],
    "copy_to_file_that_fails": [lambda s: s.cur.copy_to(Fails(), "items"), call("rollback"), "SELECT 1"],
    "copy_expert_in": [copy_in("COPY items FROM STDIN WITH CSV", "8,eight\n"), "SELECT count(*) FROM items"],
    "copy_expert_bytes": [copy_in("COPY items FROM STDIN", b"8\teight\n", size=3)],
    "copy_expert_empty": [copy_in("COPY items FROM STDIN", "")],
    "copy_expert_duplicate": [copy_in("COPY items FROM STDIN", "1\tone\n"), copy_in("COPY items FROM STDIN", "")],
    "copy_expert_out": [copy_out("COPY items TO STDOUT"), copy_out("COPY items TO STDOUT BINARY", text=False)],
    "copy_expert_out_fails": [copy_out("COPY (SELECT 1 / (50 - i) FROM generate_series(1, 90) i) TO STDOUT")],
    "copy_expert_no_copy": [copy_in("SELECT 1", ""), copy_in("INSERT INTO items VALUES (9)", "")],
    "copy_expert_syntax_error": [copy_in("COPY items FORM STDIN", "")],
    "copy_expert_empty_query": [copy_in("", "")],
    "copy_expert_after_a_statement": [
        copy_in("DELETE FROM items; COPY items FROM STDIN", "8\teight\n"),
        "SELECT * FROM items",
    ],
    "copy_expert_before_an_insert": [
        copy_in("COPY items FROM STDIN; INSERT INTO items VALUES (9), (10)", "8\teight\n"),
        "SELECT count(*) FROM items",
    ],
    "copy_expert_before_a_select": [copy_in("COPY items FROM STDIN; SELECT 1, 2", "8\teight\n"), on_cursor("fetchall")],
    "copy_expert_before_an_error": [copy_in("COPY items FROM STDIN; SELECT 1 / 0", "8\teight\n")],
    "copy_expert_out_before_a_select": [copy_out("COPY items TO STDOUT; SELECT 1"), on_cursor("fetchall")],
    "copy_expert_in_autocommit": [
        put("autocommit", True),
        copy_in("COPY items FROM STDIN", "1\tone\n"),
        copy_out("COPY items TO STDOUT"),
    ],
    # large objects
    "lobject": [
        lobject(0, "wb"),
        on_lobject("write", b"0123456789"),
        on_lobject("tell"),
        on_lobject("seek", 3),
        on_lobject("truncate", 8),
        lambda s: lobject(s.other.oid, "rb")(s),
        on_lobject("read", 4),
        on_lobject("read"),
        on_lobject("seek", -2, 2),
        on_lobject("read"),
        on_lobject("seek", -1, 7),
        on_lobject("close"),
        on_lobject("read"),
    ],
    "lobject_text": [
        lobject(0, "w"),
        on_lobject("write", "žluť"),
        lambda s: lobject(s.other.oid)(s),
        on_lobject("read"),
    ],
    "lobject_unlink": [lobject(0), on_lobject("unlink"), lambda s: s.conn.lobject(s.other.oid)],
    "lobject_missing": [lobject(4242424242), "SELECT 1"],
    "lobject_bad_mode": [lobject(0, "x"), lobject(0, 7), lobject("x")],
    "lobject_read_only": [lobject(0, "n"), lambda s: lobject(s.other.oid, "r")(s), on_lobject("write", "x")],
    "lobject_after_commit": [lobject(0, "wb"), call("commit"), on_lobject("write", b"x"), on_lobject("close")],
    "lobject_in_autocommit": [put("autocommit", True), lobject(0, "wb")],
    "lobject_bad_factory": [lobject(lobject_factory=dict)],
    "lobject_missing_file": [lobject(0, "wb", 0, "/nonexistent/file")],
    "lobject_export_nowhere": [lobject(0, "wb"), on_lobject("export", "/nonexistent/file"), "SELECT 1"],
    # the connection
    "close": [call("close"), "SELECT 1", call("commit"), call("rollback"), call("close"), call("cursor")],
    "close_in_a_transaction": ["INSERT INTO items VALUES (6)", call("close"), on_cursor("fetchall")],
    "terminated_then_used": [SERVER_ENDS_IT, "SELECT 1", call("rollback"), call("close"), lobject(0)],
    "terminated_in_copy": [SERVER_ENDS_IT, copy_out("COPY items TO STDOUT")],
    "cancel_of_nothing": [call("cancel"), "SELECT 1"],
    "poll_of_nothing": [call("poll"), "LISTEN differential", "NOTIFY differential", call("commit"), call("poll")],
    "encrypt_password": [lambda s: extensions.encrypt_password("secret", "me", s.conn, "md5")],
    "quote_ident": [lambda s: extensions.quote_ident('a"b', s.cur)],
    "register_json": [
        lambda s: extras.register_default_json(s.conn, loads=lambda text: json.loads(text) and "read"),
        "SELECT '[1]'::json",
    ],
    "register_hstore_missing": [lambda s: extras.register_hstore(s.conn)],
    "register_composite": [lambda s: extras.register_composite("items", s.cur).name, "SELECT items FROM items"],
    "parameter_status": [call("get_parameter_status", "server_encoding"), call("get_parameter_status", "nonsense")],
}

AFTERWARDS: list[Step] = ["SELECT 42", call("rollback"), "SELECT 43"]

# The differences that are accepted.
ENDED_AT_ONCE = "A COPY that execute() refuses, or whose file raises, ends at once and not in the next query."
OWN_STATUS = "statusmessage is that of the COPY or of the statement behind it; psycopg2 leaves it empty."
ROWS_BEHIND_COPY = "The rows of a SELECT behind a COPY can be fetched."
FATAL = "Beside any wait callback, psycopg2 also says what the server said before it ended the session."
BAD_FACTORY = "A factory of large objects that is no subclass of lobject is not called before it is refused."

STILL_IN_COPY = {"copy_to_file_that_fails"}
SELECT_BEHIND_COPY = {"copy_expert_before_a_select", "copy_expert_out_before_a_select"}


def accepted(name: str, blocking: Any, green: Any) -> tuple[Any, Any]:
    """Return both outcomes; where they differ in an accepted way, the reason stands in both."""
    (outcome, state), (green_outcome, green_state) = blocking, green
    reasons: dict[str, str] = {}
    if name.startswith("copy") and state["statusmessage"] == "":
        reasons["statusmessage"] = OWN_STATUS
    refused = outcome[0] == "raised" and "can't execute COPY" in outcome[3]
    active = state.get("transaction status") == extensions.TRANSACTION_STATUS_ACTIVE
    if active and (refused or name in STILL_IN_COPY):
        assert green_state["transaction status"] != extensions.TRANSACTION_STATUS_ACTIVE
        reasons["transaction status"] = ENDED_AT_ONCE
    if name in SELECT_BEHIND_COPY:
        reasons |= dict.fromkeys(["description", "rowcount", "rownumber", "statusmessage"], ROWS_BEHIND_COPY)
        if "no results to fetch" in outcome:
            outcome = green_outcome = ROWS_BEHIND_COPY
    if "server closed the connection unexpectedly" in str(outcome):
        assert green_outcome[:2] == outcome[:2]
        outcome = green_outcome = FATAL
    if "terminated" in name:
        reasons["statusmessage"] = FATAL  # green: that of the statement before; blocking: empty
    if name == "lobject_bad_factory" and outcome[0] == "raised":
        assert green_outcome[:2] == outcome[:2]
        outcome = green_outcome = BAD_FACTORY
    return [outcome, state | reasons], [green_outcome, green_state | reasons]


def run(connect: Callable[[], Any], steps: list[Step]) -> list[Any]:
    connection = connect()
    with contextlib.closing(connection):
        session = Session(connection)
        return [session.run(step) for step in [*steps, *AFTERWARDS]]


@pytest.mark.parametrize("name", CASES)
def test_green_does_what_blocking_does(name: str, hub: Hub, green: None, dsn: str) -> None:
    steps = CASES[name]
    with blocking():
        blocked = run(lambda: extensions.connection(dsn), steps)
    waited = hub.run(run, lambda: psycopg2.connect(dsn), steps)
    for number, (expected, seen) in enumerate(zip(blocked, waited, strict=True)):
        expected, seen = accepted(name, expected, seen)
        assert seen == expected, f"step {number} of {name}"
