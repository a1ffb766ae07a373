"""Every call on a connection and its cursors, and its outcome while another greenlet uses the connection.

As a program, it makes the calls and prints the outcome of each, one JSON object a
line. The test that reads them ends the program if a call freezes it:

    python tests/freeze_table.py DSN SITUATION [CALL ...]
"""

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from support.network import deaf
from support.outcomes import caught
from support.tickers import clock, hide_from_collector

# Outcomes of a call.
ANSWERS = "answers"
UNDERWAY = "ProgrammingError: {} cannot be used while an asynchronous query is underway"
REFUSED = f"{UNDERWAY}: another greenlet executes a query on this connection"


class Call(NamedTuple):
    name: str
    outcome: str
    # Makes the call.
    fn: Callable[["Situation"], Any]
    # The outcome of the other greenlet's query.
    query: str = "answers"


CALLS: list[Call] = []


def call(name: str, outcome: str, fn: Callable[["Situation"], Any], query: str = "answers", what: str = "") -> None:
    CALLS.append(Call(name, outcome.format(what or name.split("(")[0].split(" ")[0]), fn, query))


# fmt: off
for attribute in (
    "closed encoding notices notifies dsn async async_ status cursor_factory string_types binary_types"
    " protocol_version server_version autocommit isolation_level readonly deferrable info pgconn_ptr"
    " Error Warning InterfaceError DatabaseError InternalError OperationalError ProgrammingError IntegrityError"
    " DataError NotSupportedError"
).split():
    call(f"connection.{attribute}", ANSWERS, lambda s, name=attribute: getattr(s.conn, name))
for attribute in (
    "dbname user password host port options dsn_parameters status transaction_status protocol_version server_version"
    " error_message socket backend_pid needs_password used_password ssl_in_use ssl_attribute_names"
).split():
    call(f"connection.info.{attribute}", ANSWERS, lambda s, name=attribute: getattr(s.conn.info, name))
call("connection.info.parameter_status", ANSWERS, lambda s: s.conn.info.parameter_status("TimeZone"))
call("connection.info.ssl_attribute", ANSWERS, lambda s: s.conn.info.ssl_attribute("protocol"))
call("repr(connection)", ANSWERS, lambda s: repr(s.conn))

call("autocommit = True", REFUSED, lambda s: setattr(s.conn, "autocommit", True))
call("isolation_level = 3", REFUSED, lambda s: setattr(s.conn, "isolation_level", 3))
call("readonly = True", REFUSED, lambda s: setattr(s.conn, "readonly", True))
call("deferrable = True", REFUSED, lambda s: setattr(s.conn, "deferrable", True))
call("connection.cursor_factory = None", ANSWERS, lambda s: setattr(s.conn, "cursor_factory", None))
call("connection.notices = []", ANSWERS, lambda s: setattr(s.conn, "notices", []))
call("connection.notifies = []", ANSWERS, lambda s: setattr(s.conn, "notifies", []))

call("commit()", REFUSED, lambda s: s.conn.commit())
call("rollback()", REFUSED, lambda s: s.conn.rollback())
call("reset()", REFUSED, lambda s: s.conn.reset())
call("set_session()", REFUSED, lambda s: s.conn.set_session(isolation_level=3, readonly=True, deferrable=True))
call("set_isolation_level()", REFUSED, lambda s: s.conn.set_isolation_level(0))
call("set_client_encoding()", REFUSED, lambda s: s.conn.set_client_encoding("LATIN1"))
call("tpc_begin()", REFUSED, lambda s: s.conn.tpc_begin(s.xid))
call("tpc_prepare()", REFUSED, lambda s: s.conn.tpc_prepare())
call("tpc_commit()", REFUSED, lambda s: s.conn.tpc_commit())
call("tpc_commit(xid)", REFUSED, lambda s: s.conn.tpc_commit(s.xid))
call("tpc_rollback()", REFUSED, lambda s: s.conn.tpc_rollback())
call("tpc_rollback(xid)", REFUSED, lambda s: s.conn.tpc_rollback(s.xid))
call("tpc_recover()", REFUSED, lambda s: s.conn.tpc_recover())
call("poll()", ANSWERS, lambda s: s.conn.poll())
call("with connection", REFUSED, lambda s: enter(s.conn), what="commit")
call("__exit__() after an error", REFUSED, lambda s: s.conn.__exit__(ValueError, ValueError(), None), what="rollback")
call("connection.__enter__()", ANSWERS, lambda s: s.conn.__enter__())
call("connection.xid()", ANSWERS, lambda s: s.conn.xid(1, "a", "b"))
call("connection.cursor()", ANSWERS, lambda s: s.conn.cursor())
call("connection.cursor(name)", ANSWERS, lambda s: s.conn.cursor("other"))
call("connection.cursor(cursor_factory=)", ANSWERS, lambda s: s.conn.cursor(cursor_factory=s.extras.DictCursor))
call("connection.get_transaction_status()", ANSWERS, lambda s: s.conn.get_transaction_status())
call("connection.get_parameter_status()", ANSWERS, lambda s: s.conn.get_parameter_status("TimeZone"))
call("connection.get_dsn_parameters()", ANSWERS, lambda s: s.conn.get_dsn_parameters())
call("connection.get_backend_pid()", ANSWERS, lambda s: s.conn.get_backend_pid())
call("connection.get_native_connection()", ANSWERS, lambda s: s.conn.get_native_connection())
call("connection.fileno()", ANSWERS, lambda s: s.conn.fileno())
call("connection.isexecuting()", ANSWERS, lambda s: s.conn.isexecuting())
call("connection.cancel()", ANSWERS, lambda s: s.conn.cancel(), query="QueryCanceled")
call("connection.close()", ANSWERS, lambda s: s.close(), query="InterfaceError: connection closed by another greenlet")
call("connection.lobject()", "ProgrammingError: *lobject *", lambda s: s.conn.lobject())

call("register_hstore(connection)", UNDERWAY, lambda s: s.extras.register_hstore(s.conn), what="execute")
call("register_composite(connection)", UNDERWAY, lambda s: s.extras.register_composite("t", s.conn), what="execute")
call("encrypt_password(connection)", REFUSED, lambda s: s.extensions.encrypt_password("x", "y", s.conn))
call("encrypt_password(cursor, algorithm)", ANSWERS,
     lambda s: s.extensions.encrypt_password("x", "y", s.cursor, "md5"))
call("register_type(connection)", ANSWERS, lambda s: s.extensions.register_type(s.extensions.UNICODE, s.conn))
call("quote_ident(connection)", ANSWERS, lambda s: s.extensions.quote_ident("x", s.conn))
call("Binary.prepare(connection)", ANSWERS, lambda s: quote(s.extensions.Binary(b"\\'"), s.conn))
call("QuotedString.prepare(connection)", ANSWERS, lambda s: quote(s.extensions.QuotedString("\\'"), s.conn))
call("SQL.as_string(connection)", ANSWERS, lambda s: s.sql.SQL("a {}").format(s.sql.Identifier("x")).as_string(s.conn))

for attribute in (
    "rowcount arraysize itersize description lastrowid rownumber connection name statusmessage query row_factory"
    " tzinfo_factory typecaster string_types binary_types closed withhold scrollable pgresult_ptr"
).split():
    call(f"cursor.{attribute}", ANSWERS, lambda s, name=attribute: getattr(s.cursor, name))
    call(f"the query's cursor.{attribute}", ANSWERS, lambda s, name=attribute: getattr(s.busy, name))
call("execute()", UNDERWAY, lambda s: s.cursor.execute("SELECT 1"))
call("executemany()", REFUSED, lambda s: s.cursor.executemany("SELECT %s", [(1,)]))
call("executemany() that began before", REFUSED, lambda s: s.begun())
call("callproc()", UNDERWAY, lambda s: s.cursor.callproc("now"))
call("cursor.fetchone()", ANSWERS, lambda s: s.cursor.fetchone())
call("cursor.fetchmany()", ANSWERS, lambda s: s.cursor.fetchmany(2))
call("cursor.fetchall()", ANSWERS, lambda s: s.cursor.fetchall())
call("next(cursor)", ANSWERS, lambda s: next(s.cursor))
call("iter(cursor)", ANSWERS, lambda s: iter(s.cursor))
call("cursor.scroll()", ANSWERS, lambda s: s.cursor.scroll(1))
call("cursor.mogrify()", ANSWERS, lambda s: s.cursor.mogrify("%s %s", (b"x", "\\")))
call("cursor.cast()", ANSWERS, lambda s: s.cursor.cast(23, "1"))
call("cursor.setinputsizes()", ANSWERS, lambda s: s.cursor.setinputsizes([]))
call("cursor.setoutputsize()", ANSWERS, lambda s: s.cursor.setoutputsize(1))
call("cursor.nextset()", "NotSupportedError: not supported by PostgreSQL", lambda s: s.cursor.nextset())
call("cursor.close()", ANSWERS, lambda s: s.cursor.close())
call("with cursor", ANSWERS, lambda s: enter(s.cursor))
call("repr(cursor)", ANSWERS, lambda s: repr(s.cursor))
call("copy_from()", "ProgrammingError: copy_from cannot be used *", lambda s: s.cursor.copy_from(s.file, "t"))
call("copy_to()", "ProgrammingError: copy_to cannot be used *", lambda s: s.cursor.copy_to(s.file, "t"))
call("copy_expert()", "ProgrammingError: copy_expert cannot be used *",
     lambda s: s.cursor.copy_expert("COPY t FROM STDIN", s.file))
call("execute_values(cursor)", UNDERWAY, lambda s: s.extras.execute_values(s.cursor, "VALUES %s", [(1,)]),
     what="execute")
call("the query's cursor.mogrify()", ANSWERS, lambda s: s.busy.mogrify("%s", ("\\",)))
call("the query's cursor.fetchone()", "ProgrammingError: no results to fetch", lambda s: s.busy.fetchone())
call("the query's cursor.executemany()", REFUSED, lambda s: s.busy.executemany("SELECT %s", [(1,)]), what="executemany")
call("the query's cursor.close()", ANSWERS, lambda s: s.busy.close(), query="InterfaceError: cursor already closed")
call("named.fetchone()", UNDERWAY, lambda s: s.named.fetchone(), what="fetchone")
call("named.fetchmany()", UNDERWAY, lambda s: s.named.fetchmany(2), what="fetchmany")
call("named.fetchall()", UNDERWAY, lambda s: s.named.fetchall(), what="fetchall")
call("next(named)", UNDERWAY, lambda s: next(s.named), what="next")
call("named.scroll()", UNDERWAY, lambda s: s.named.scroll(1), what="scroll")
call("named.close()", UNDERWAY, lambda s: s.named.close(), what="close_named")
call("named.withhold = True", ANSWERS, lambda s: setattr(s.named, "withhold", True))
call("named.scrollable = True", ANSWERS, lambda s: setattr(s.named, "scrollable", True))
call("named, dropped", ANSWERS, lambda s: s.drop())
call("not yet executed named.close()", UNDERWAY, lambda s: s.fresh.close(), what="close_named")
call("not yet executed named.execute()", UNDERWAY, lambda s: s.fresh.execute("SELECT 1"), what="execute")
# fmt: on


def enter(manager: Any) -> None:
    with manager:
        pass


def quote(adapter: Any, conn: Any) -> bytes:
    adapter.prepare(conn)
    return adapter.getquoted()


class Killed(Exception):
    """Ends a greenlet."""


class Situation:
    """A connection on which a greenlet waits, and a second greenlet that makes the calls."""

    def __init__(self, hub: Any, dsn: str) -> None:
        import io

        import psycopg2
        from psycopg2 import extensions, extras, sql

        self.hub, self.dsn = hub, dsn
        self.psycopg2, self.extensions, self.extras, self.sql = psycopg2, extensions, extras, sql
        self.file = io.StringIO("")

    def begin(self) -> None:
        """Bring the connection into the situation."""
        raise NotImplementedError

    def make(self, fn: Callable[["Situation"], Any]) -> str:
        """Make a call; return its outcome."""
        return outcome(fn, self)

    def end(self) -> str:
        """End the situation; return the outcome of the first greenlet's query."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection. When close() returns, it is closed and no greenlet uses it."""
        self.conn.close()
        assert self.conn.closed == 1
        assert self.task.done

    def drop(self) -> None:
        """Drop the named cursor."""
        del self.named

    def begun(self) -> None:
        """Go on with an executemany() that began before the query."""
        self.between.append(None)
        self.hub.wait_until(lambda: self.many.done)
        self.many.get()


class Query(Situation):
    """The greenlet waits for an advisory lock."""

    autocommit: bool

    def __init__(self, hub: Any, dsn: str) -> None:
        super().__init__(hub, dsn)
        self.keeper = self.psycopg2.connect(dsn)
        self.keeper.autocommit = True
        self.lock = self.keeper.cursor()
        self.lock.execute("SELECT pg_advisory_lock(1)")

    def begin(self) -> None:
        self.conn = self.psycopg2.connect(self.dsn)
        self.xid = self.conn.xid(1, "a", "b")
        self.conn.autocommit = self.autocommit
        self.cursor = self.conn.cursor()
        self.cursor.execute("SELECT generate_series(1, 5)")
        self.named = self.conn.cursor("named", withhold=True)
        self.named.execute("SELECT generate_series(1, 5)")
        self.fresh = self.conn.cursor("fresh", withhold=True)
        self.between: list[None] = []
        self.many = self.hub.spawn(self.conn.cursor().executemany, "SELECT %s", self.items())
        self.hub.sleep(0)
        self.busy = self.conn.cursor()
        self.task = self.hub.spawn(self.query)
        self.hub.wait_until(self.waits, 10)

    def items(self) -> Any:
        self.hub.wait_until(lambda: self.between)
        yield (1,)

    def query(self) -> int:
        self.busy.execute("SELECT pg_advisory_lock(1), 42")
        return self.busy.fetchone()[1]

    def waits(self) -> bool:
        self.lock.execute("SELECT FROM pg_locks WHERE NOT granted AND pid = %s", (self.conn.info.backend_pid,))
        return self.lock.rowcount == 1

    def end(self) -> str:
        self.lock.execute("SELECT pg_advisory_unlock(1)")
        try:
            return outcome(self.task.wait, 10)
        finally:
            self.between.append(None)
            self.many.join()
            self.conn.close()
            self.lock.execute("SELECT pg_advisory_lock(1)")


class Autocommit(Query):
    autocommit = True


class Transaction(Query):
    autocommit = False


class Kill(Query):
    """A kill of the greenlet is due in the hub's next turn."""

    autocommit = True

    def make(self, fn: Callable[[Situation], Any]) -> str:
        self.hub.call_soon(self.task.greenlet.throw, Killed("killed"))
        return super().make(fn)


class Dying(Query):
    """The greenlet itself makes the call, while it handles its kill."""

    autocommit = False

    def begin(self) -> None:
        self.call: Any = None
        super().begin()

    def query(self) -> int:
        try:
            return super().query()
        except Killed:
            self.made = super().make(self.call)
            raise

    def make(self, fn: Callable[[Situation], Any]) -> str:
        self.call = fn
        self.hub.call_soon(self.task.greenlet.throw, Killed("killed"))
        self.hub.wait_until(lambda: self.task.done, 10)
        return self.made

    def close(self) -> None:
        self.conn.close()
        assert self.conn.closed == 1


class Connect(Situation):
    """The greenlet waits for a server that accepts connections and is silent."""

    def begin(self) -> None:
        situation = self

        class Leaking(self.psycopg2.extensions.connection):
            """A connection that others can reach before it is connected."""

            def __init__(self, dsn: str) -> None:
                situation.conn = self
                super().__init__(dsn)

        def connect() -> None:
            with deaf() as port:
                self.psycopg2.connect(host="127.0.0.1", port=port, user="x", connection_factory=Leaking)

        self.conn = None
        self.task = self.hub.spawn(connect)
        self.hub.wait_until(lambda: self.conn is not None and self.conn.info.socket is not None, 10)
        self.hub.sleep(0.01)
        self.xid = self.extensions.Xid(1, "a", "b")
        from psycogreen._psycopg2.cursor import DefaultCursor

        self.cursor = self.busy = self.fresh = self.named = DefaultCursor(self.conn)

    def begun(self) -> None:
        self.cursor.executemany("SELECT %s", [(1,)])

    def end(self) -> str:
        self.conn.close()
        return outcome(self.task.wait, 10)


SITUATIONS = {
    "autocommit": Autocommit,
    "transaction": Transaction,
    "kill": Kill,
    "dying": Dying,
    "connect": Connect,
}


def outcome(fn: Callable[..., Any], *args: Any) -> str:
    result = caught(fn, *args)
    return f"{type(result).__name__}: {result}".strip() if isinstance(result, Exception) else ANSWERS


def main(dsn: str, name: str, *wanted: str) -> None:
    warnings.simplefilter("ignore")  # about eventlet's deprecation
    from hubs import make_hub

    hub = make_hub()
    hub.adapter.make_psycopg_green()
    hub.program(make_calls, hub, dsn, name, wanted)


def make_calls(hub: Any, dsn: str, name: str, wanted: tuple[str, ...]) -> None:
    situation = SITUATIONS[name](hub, dsn)
    hide_from_collector()
    for call in CALLS:
        if wanted and call.name not in wanted:
            continue
        situation.begin()
        with hub.ticker(0.002) as ticker:
            began = clock()
            result = situation.make(call.fn)
            took = clock() - began
            hub.sleep(0.003)
        report = {"call": call.name, "outcome": result, "took": took, "gap": ticker.longest_gap}
        report["query"] = situation.end()
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
