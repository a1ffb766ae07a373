"""psycopg2.extras, and other uses of connections: green connections do the same as blocking ones."""

import copy
import datetime
import decimal
import functools
import ipaddress
import json
import pickle
import re
import uuid
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg2
import pytest
from hubs.contract import Hub
from psycopg2 import extensions, extras, sql
from support.outcomes import outcome


def fetch(conn: Any, query: Any, args: Any = None, **kwargs: Any) -> Any:
    with conn.cursor(**kwargs) as cur:
        cur.execute(query, args)
        return cur.fetchall()


def hstore(conn: Any) -> Any:
    conn.autocommit = True
    fetch(conn, "SET client_min_messages TO error; CREATE EXTENSION IF NOT EXISTS hstore; SELECT 1")
    conn.autocommit = False
    extras.register_hstore(conn)
    rows = fetch(conn, "SELECT %s, 'a=>1, b=>NULL'::hstore, ARRAY['a=>1'::hstore]", ({"x": "y", "z": None},))
    with conn.cursor() as cur:
        extras.register_hstore(cur)
    return rows, extras.HstoreAdapter.get_oids(conn)


def json_typecasters(conn: Any) -> Any:
    def loads(text: str) -> Any:
        return json.loads(text, parse_float=decimal.Decimal)

    extras.register_json(conn, loads=loads)
    extras.register_default_json(conn, loads=loads)
    extras.register_default_jsonb(conn, loads=loads)
    return fetch(conn, "SELECT '[1.5]'::json, '{\"a\": 2.5}'::jsonb, %s, ARRAY['1'::jsonb]", (extras.Json([1]),))


def composite(conn: Any) -> Any:
    with conn.cursor() as cur:
        cur.execute("CREATE TYPE pg_temp.card AS (value int, suit text)")
        cur.execute("SELECT 'pg_temp'::regnamespace::text")
        (schema,) = cur.fetchone()
        caster = extras.register_composite(f"{schema}.card", cur)
        cur.execute("SELECT (8, 'hearts')::pg_temp.card, ARRAY[(1, 'a,b')::pg_temp.card]")
        row = cur.fetchone()
    return caster.attnames, repr(row), caster.type._fields


def no_composite(conn: Any) -> Any:
    extras.register_composite("there_is_no_such_type", conn)


def uuids_and_addresses(conn: Any) -> Any:
    extras.register_uuid(conn_or_curs=conn)
    extras.register_ipaddress(conn)
    value = uuid.UUID(int=5)
    network = ipaddress.ip_network("10.0.0.0/8")
    address = ipaddress.ip_interface("127.0.0.1/32")
    rows = fetch(conn, "SELECT %s, %s, %s, ARRAY[%s]", (value, network, address, value))
    return rows, [type(item) for item in rows[0]]


def inet(conn: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # register_inet() is deprecated
        extras.register_inet(conn_or_curs=conn)
    return repr(fetch(conn, "SELECT '10.1.2.3/8'::inet, %s", (extras.Inet("127.0.0.1"),)))


def ranges(conn: Any) -> Any:
    with conn.cursor() as cur:
        cur.execute("CREATE TYPE pg_temp.textrange AS RANGE (subtype = text)")
        cur.execute("SELECT 'pg_temp'::regnamespace::text")
        (schema,) = cur.fetchone()
        caster = extras.register_range(f"{schema}.textrange", "TextRange", cur)
        cur.execute("SELECT %s, pg_temp.textrange('a', 'c'), int4range(1, 5)", (extras.DateRange(empty=True),))
        return repr(cur.fetchone()), caster.range.__name__


def values(conn: Any) -> Any:
    with conn.cursor() as cur:
        cur.execute("CREATE TEMPORARY TABLE t (n int, s text) ON COMMIT DROP")
        rows = [(n, f"%s {n}") for n in range(500)]
        returned = extras.execute_values(cur, "INSERT INTO t VALUES %s RETURNING n", rows, page_size=90, fetch=True)
        extras.execute_batch(cur, "UPDATE t SET s = %s WHERE n = %s", [(f"<{n}>", n) for n in range(0, 500, 7)])
        cur.execute("SELECT count(*), count(*) FILTER (WHERE s LIKE '<%%'), min(s) FROM t")
        return len(returned), returned[-1], cur.fetchone(), cur.rowcount


def wrong_values(conn: Any) -> Any:
    with conn.cursor() as cur:
        extras.execute_values(cur, "SELECT %s FROM no_such_table", [(1,)])


def composed(conn: Any) -> Any:
    query = sql.SQL("SELECT {} AS {}").format(sql.Literal("it's"), sql.Identifier('a "b"'))
    with conn.cursor() as cur:
        cur.execute(query)
        return query.as_string(conn), query.as_string(cur), cur.description[0].name, cur.mogrify(query)


def dictionaries(conn: Any) -> Any:
    query = "SELECT n, n * 2 AS twice FROM generate_series(1, 5) n"
    outcomes = []
    for factory in extras.DictCursor, extras.RealDictCursor, extras.NamedTupleCursor:
        for name in None, "named":
            rows = fetch(conn, query, cursor_factory=factory, name=name)
            outcomes.append((repr(rows), pickle.loads(pickle.dumps(rows)) == rows if name is None else None))
            conn.rollback()
    return outcomes


def adapters_and_types(conn: Any) -> Any:
    class Point:
        pass

    extensions.register_adapter(Point, lambda point: extensions.AsIs("'(1,2)'"))
    try:
        (oid,) = fetch(conn, "SELECT 'point'::regtype::oid")[0]
        extensions.register_type(extensions.new_type((oid,), "POINT", lambda value, cur: f"point {value}"), conn)
        return fetch(conn, "SELECT %s::point, %s, now() IS NULL", (Point(), datetime.date(2020, 1, 2)))
    finally:
        extensions.adapters.pop((Point, extensions.ISQLQuote))


def client_encoding(conn: Any) -> Any:
    conn.set_client_encoding("LATIN1")
    return conn.encoding, fetch(conn, "SELECT %s, chr(233)", ("é",))


def info(conn: Any) -> Any:
    own = "backend_pid", "socket"
    names = [name for name in dir(conn.info) if not name.startswith("_") and name not in own]
    values = {name: getattr(conn.info, name) for name in names if not callable(getattr(conn.info, name))}
    return values, conn.info.parameter_status("server_encoding"), conn.info.ssl_attribute("protocol"), conn.dsn


def attributes(conn: Any) -> Any:
    with conn.cursor() as cur:
        cur.execute("SELECT 1 AS a, 2::numeric(5, 2) AS b")
        of_cursor = list(cur.description), cur.query, cur.statusmessage, cur.arraysize, cur.itersize
        shown = re.sub("0x[0-9a-f]+|-?\\d+", "N", repr(cur)), cur.scrollable, cur.withhold, cur.name, cur.lastrowid
    names = "autocommit", "closed", "deferrable", "encoding", "isolation_level", "readonly", "status", "server_version"
    return of_cursor, shown, [getattr(conn, name) for name in names], conn.protocol_version, conn.async_, conn.notices


def weak(conn: Any) -> Any:
    import weakref

    return weakref.ref(conn)() is conn, weakref.ref(conn.cursor())() is None, hash(conn) == hash(conn), bool(conn)


def two_phases(conn: Any) -> Any:
    xid = conn.xid(7, "global", "branch")
    conn.tpc_begin(xid)
    fetch(conn, "SELECT 1")
    conn.tpc_rollback()
    return str(xid), conn.status, conn.tpc_recover()


def with_blocks(conn: Any) -> Any:
    with conn, conn.cursor() as cur:
        cur.execute("CREATE TEMPORARY TABLE kept (n int)")
    try:
        with conn, conn.cursor() as cur:
            cur.execute("INSERT INTO kept VALUES (1)")
            raise LookupError
    except LookupError:
        pass
    return fetch(conn, "SELECT count(*) FROM kept"), conn.closed


def scrolled(conn: Any) -> Any:
    cur = conn.cursor("scrolled", scrollable=True)
    cur.itersize = 7
    cur.execute("SELECT generate_series(1, 50)")
    rows = [cur.fetchone(), cur.fetchmany(3), next(cur)]
    cur.scroll(-2)
    rows.append(cur.fetchmany(2))
    cur.scroll(20, mode="absolute")
    rows.append((cur.rownumber, [row for (row,) in cur]))
    cur.close()
    return rows


def procedure(conn: Any) -> Any:
    with conn.cursor() as cur:
        arguments = cur.callproc("repeat", ["ab", 3])
        return arguments, cur.fetchone(), cur.callproc("generate_series", {"start": 1, "stop": 2}) is None


def no_copies(conn: Any) -> Any:
    outcomes = []
    for what in conn, conn.cursor(), conn.info:
        for way in copy.copy, copy.deepcopy, pickle.dumps:
            try:
                outcomes.append(way(what) is None)
            except TypeError as exc:
                outcomes.append(str(exc).replace("GreenConnection", "connection").replace("DefaultCursor", "cursor"))
    return [re.sub("psycopg2[.a-z]*\\.", "", what) if isinstance(what, str) else what for what in outcomes]


def pickled_error(conn: Any) -> Any:
    try:
        fetch(conn, "SELECT nothing")
    except psycopg2.Error as exc:
        again = pickle.loads(pickle.dumps(exc))
        return type(again), str(again), again.pgcode, again.pgerror, again.cursor


RECIPES = [
    hstore, json_typecasters, composite, no_composite, uuids_and_addresses, inet, ranges, values, wrong_values,
    composed, dictionaries, adapters_and_types, client_encoding, info, attributes, weak, two_phases,
    with_blocks, scrolled, procedure, no_copies, pickled_error,
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_the_outcome_equals_blocking_psycopg2s(recipe: Callable[[Any], Any], both_ways: Callable[..., Any]) -> None:
    both_ways(functools.partial(outcome, recipe))


def test_greenlets_take_turns_at_a_named_cursor(hub: Hub, connect: Callable[..., Any]) -> None:
    conn = connect()
    cur = conn.cursor("shared")
    cur.itersize = 10
    cur.execute("SELECT generate_series(1, 100), pg_sleep(0.001)")
    numbers: list[int] = []

    def take(count: int) -> None:
        for (n, _), _ in zip(cur, range(count), strict=False):
            numbers.append(n)
            if len(numbers) == count:
                return

    for count in 25, 50, 75, 100:
        hub.run(take, count)
    assert numbers == list(range(1, 101))
    cur.close()


def test_a_busy_cursor_raises_in_other_greenlets(hub: Hub, connect: Callable[..., Any]) -> None:
    # While one greenlet is in the query, the others get an error, and no row is lost or doubled.
    conn = connect()
    cur = conn.cursor("shared")
    cur.execute("SELECT n FROM generate_series(1, 30) n, pg_sleep(0.005)")
    numbers, refused = [], []

    def take() -> None:
        while True:
            try:
                row = cur.fetchone()
            except psycopg2.ProgrammingError as exc:
                refused.append(str(exc))
                hub.sleep(0)
                continue
            if row is None:
                return
            numbers.append(row[0])

    with hub.ticker():
        for task in [hub.spawn(take) for _ in range(3)]:
            task.wait()
    assert sorted(numbers) == list(range(1, 31))
    assert set(refused) == {"fetchone cannot be used while an asynchronous query is underway"}


def test_pandas_reads_as_blocking(
    hub: Hub,
    connect: Callable[..., Any],
    blocking_dsn_connect: Callable[..., AbstractContextManager[Any]],
) -> None:
    pandas = pytest.importorskip("pandas")
    query = "SELECT n, n * 1.5 AS x, now()::date AS day, md5(n::text) AS name FROM generate_series(1, 1000) n"

    def read(conn: Any, chunksize: int | None = None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas warns: it was tested with SQLAlchemy only
            read = pandas.read_sql(query, conn, index_col="n", chunksize=chunksize)
            return read if chunksize is None else pandas.concat(read)

    with blocking_dsn_connect() as conn:
        expected = read(conn)
    assert len(expected) == 1000
    conns = [connect() for _ in range(4)]
    for task in [hub.spawn(read, conn, size) for conn, size in zip(conns, [None, 100, 1, 5000], strict=True)]:
        pandas.testing.assert_frame_equal(task.wait(), expected)
