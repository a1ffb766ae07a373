"""Green psycopg2 returns and raises the same as blocking psycopg2."""

import hashlib

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import get_wait_callback, set_wait_callback
from support.outcomes import outcome

MB = 1024 * 1024


def state(connection):
    return connection.closed, connection.status, connection.get_transaction_status()


def seen(cursor):
    rows = cursor.fetchall() if cursor.description else None
    columns = [tuple(column) for column in cursor.description] if cursor.description else None
    return rows, columns, cursor.rowcount, cursor.statusmessage, cursor.rownumber


def execute(connection, query, *args):
    cursor = connection.cursor()
    try:
        cursor.execute(query, *args)
        return seen(cursor)
    finally:
        cursor.close()


def one_row(connection):
    return execute(connection, "SELECT 1 AS one, 'two' AS two, NULL, ARRAY[1, 2], '{\"a\": 1}'::jsonb")


def zero_rows(connection):
    return execute(connection, "SELECT 1 AS one WHERE false")


def hundred_thousand_rows(connection):
    rows, *rest = execute(connection, "SELECT g, md5(g::text) FROM generate_series(1, 100000) g")
    assert len(rows) == 100_000
    return hashlib.sha256(repr(rows).encode()).digest(), rest


def fifty_megabytes_in_one_row(connection):
    rows, *rest = execute(connection, "SELECT repeat('0123456789', 5 * 1024 * 1024)")
    assert len(rows[0][0]) == 50 * MB
    return hashlib.sha256(rows[0][0].encode()).digest(), rest


def fifty_megabytes_in_many_rows(connection):
    rows, *rest = execute(connection, "SELECT g, repeat('x', 1024) FROM generate_series(1, 50 * 1024) g")
    return hashlib.sha256(repr(rows).encode()).digest(), rest


def fifty_megabytes_sent(connection):
    text = "0123456789" * (5 * MB)
    return execute(connection, "SELECT length(x), md5(x) FROM (SELECT %s AS x) AS sent", (text,))


def bytes_sent_and_returned(connection):
    data = bytes(range(256)) * 4096
    rows, *_ = execute(connection, "SELECT %s", (psycopg2.Binary(data),))
    assert bytes(rows[0][0]) == data
    return len(data)


def syntax_error(connection):
    return outcome(execute, connection, "SELEKT 1"), state(connection)


def error_in_mid_query(connection):
    failed = outcome(execute, connection, "SELECT 1 / (50000 - g) FROM generate_series(1, 100000) g")
    after = outcome(execute, connection, "SELECT 1"), state(connection)
    connection.rollback()
    return failed, after, execute(connection, "SELECT 1"), state(connection)


def unique_violation(connection):
    # Not a temporary table: the error would show its schema, whose name differs.
    execute(connection, "CREATE TABLE rolled_back (id int PRIMARY KEY)")
    execute(connection, "INSERT INTO rolled_back VALUES (1)")
    return outcome(execute, connection, "INSERT INTO rolled_back VALUES (1)"), state(connection)


def statement_timeout(connection):
    execute(connection, "SET statement_timeout = 50")
    return outcome(execute, connection, "SELECT pg_sleep(5)"), state(connection)


def empty_query(connection):
    return outcome(execute, connection, ""), state(connection)


def wrong_arguments(connection):
    def refused(*args):
        with pytest.raises((TypeError, IndexError, psycopg2.Error)) as caught:
            execute(connection, *args)
        return caught.type, str(caught.value)

    return refused("SELECT %s", ()), refused("SELECT %s", (object(),)), refused(42), state(connection)


def several_statements(connection):
    return execute(connection, "CREATE TEMP TABLE t (id int); INSERT INTO t VALUES (1), (2); SELECT * FROM t")


def row_counts(connection):
    statements = [
        "CREATE TEMP TABLE t (id int, v text)",
        "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 100) g",
        "UPDATE t SET v = 'y' WHERE id > 40",
        "DELETE FROM t WHERE id > 90 RETURNING id",
        "SELECT count(*) FROM t",
    ]
    return [execute(connection, statement) for statement in statements]


def notices(connection):
    execute(connection, "DO $$ BEGIN FOR i IN 1..70 LOOP RAISE NOTICE 'notice %', i; END LOOP; END $$")
    assert len(connection.notices) == 50
    return connection.notices


def named_cursor(connection):
    with connection.cursor("mine") as cursor:
        cursor.itersize = 7
        cursor.execute("SELECT g FROM generate_series(1, 100) g")
        first = cursor.fetchone(), cursor.fetchmany(10), cursor.rownumber
        return first, list(cursor), cursor.rowcount


def scrollable_cursor(connection):
    with connection.cursor("mine", scrollable=True) as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 10) g")
        cursor.scroll(5)
        fifth = cursor.fetchone()
        cursor.scroll(-3)
        return fifth, cursor.fetchall(), outcome(cursor.scroll, -100, "absolute")


def cursor_that_outlives_its_transaction(connection):
    with connection.cursor("mine", withhold=True) as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 10) g")
        connection.commit()
        return cursor.fetchmany(3), cursor.fetchall()


def transactions(connection):
    states = [state(connection)]
    execute(connection, "CREATE TEMP TABLE t (id int)")
    connection.commit()
    for end in connection.commit, connection.rollback:
        execute(connection, "INSERT INTO t VALUES (1)")
        states.append(state(connection))
        end()
        states.append(state(connection))
    try:
        with connection:
            execute(connection, "INSERT INTO t VALUES (2)")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    with connection:
        execute(connection, "INSERT INTO t VALUES (3)")
    return states, execute(connection, "SELECT * FROM t")


def autocommit(connection):
    connection.autocommit = True
    failed = outcome(execute, connection, "SELECT 1 / 0")
    states = [state(connection)]
    execute(connection, "SELECT 1")
    states.append(state(connection))
    in_transaction = outcome(lambda: setattr(connection, "autocommit", False))
    return failed, states, in_transaction, execute(connection, "SELECT 1"), state(connection)


def session_settings(connection):
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    settings = [
        execute(connection, f"SHOW {name}")[0]
        for name in ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
    ]
    refused = outcome(execute, connection, "CREATE TABLE t (id int)")
    connection.rollback()
    connection.set_client_encoding("latin1")
    return settings, refused, connection.encoding, execute(connection, "SELECT chr(228)")


def reset(connection):
    execute(connection, "SET statement_timeout = 1234")
    connection.reset()
    return execute(connection, "SHOW statement_timeout"), state(connection)


def many_at_once(connection):
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE t (id int)")
    cursor.executemany("INSERT INTO t VALUES (%s)", [(i,) for i in range(20)])
    psycopg2.extras.execute_batch(cursor, "INSERT INTO t VALUES (%s)", [(i,) for i in range(20)], page_size=7)
    psycopg2.extras.execute_values(cursor, "INSERT INTO t VALUES %s", [(i,) for i in range(20)])
    cursor.callproc("abs", (-3,))
    return cursor.fetchall(), execute(connection, "SELECT count(*), sum(id) FROM t")


def dictionaries(connection):
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute("SELECT g AS a, g * 2 AS b FROM generate_series(1, 3) g")
        return [dict(row) for row in cursor]


def killed_by_the_server(connection):
    failed = outcome(execute, connection, "SELECT pg_terminate_backend(pg_backend_pid())")
    return failed, connection.closed, outcome(execute, connection, "SELECT 1")


def used_after_close(connection):
    cursor = connection.cursor()
    connection.close()
    return outcome(cursor.execute, "SELECT 1"), outcome(connection.commit), outcome(connection.cursor)


SCENARIOS = [
    one_row,
    zero_rows,
    hundred_thousand_rows,
    fifty_megabytes_in_one_row,
    bytes_sent_and_returned,
    syntax_error,
    error_in_mid_query,
    unique_violation,
    statement_timeout,
    empty_query,
    wrong_arguments,
    several_statements,
    row_counts,
    notices,
    named_cursor,
    scrollable_cursor,
    cursor_that_outlives_its_transaction,
    transactions,
    autocommit,
    session_settings,
    reset,
    many_at_once,
    dictionaries,
    used_after_close,
]
CORE = {one_row, zero_rows, hundred_thousand_rows, error_in_mid_query, transactions, named_cursor}


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(s, marks=pytest.mark.core if s in CORE else (), id=s.__name__) for s in SCENARIOS],
)
def test_the_outcome_equals_blocking_psycopg2s(scenario, connect, blocking_dsn_connect, hub):
    with blocking_dsn_connect() as connection:
        expected = scenario(connection)
    connection = connect()
    assert hub.run(scenario, connection) == expected
    if not connection.closed:
        connection.rollback()
        assert one_row(connection)


def test_a_session_killed_by_the_server_raises_as_blocking(connect, hub):
    # Blocking psycopg2 raises AdminShutdown. With any wait callback it does not, so
    # psycopg2's own wait callback is the comparison here.
    ours = get_wait_callback()
    set_wait_callback(psycopg2.extras.wait_select)
    expected = killed_by_the_server(connect())
    set_wait_callback(ours)
    assert hub.run(killed_by_the_server, connect()) == expected


@pytest.mark.parametrize("scenario", [fifty_megabytes_in_many_rows, fifty_megabytes_sent], ids=lambda s: s.__name__)
def test_a_large_transfer_ends_as_blocking_while_others_run(scenario, connect, blocking_dsn_connect, hub):
    with blocking_dsn_connect() as connection:
        expected = scenario(connection)
    connection = connect()
    with hub.ticker(0.005) as ticker:
        assert hub.run(scenario, connection) == expected
    assert ticker.ticks >= 5


def test_notifications_arrive(connect, hub):
    listener, sender = connect(), connect()
    for connection in listener, sender:
        connection.autocommit = True
    execute(listener, "LISTEN channel")
    execute(sender, "NOTIFY channel, 'first'")
    # A query on the listener's connection collects notifications.
    hub.wait_until(lambda: execute(listener, "SELECT 1") and listener.notifies)
    assert [(n.pid, n.channel, n.payload) for n in listener.notifies] == [(sender.info.backend_pid, "channel", "first")]
    del listener.notifies[:]

    # Users wait for notifications with the hub's own functions.
    def listen():
        while not listener.notifies:
            hub.wait_readable(listener.fileno())
            listener.poll()
        return listener.notifies.pop().payload

    for payload in "second", "third":
        task = hub.spawn(listen)
        hub.sleep(0.02)
        assert not task.done
        execute(sender, f"NOTIFY channel, '{payload}'")
        assert task.wait() == payload
        assert execute(listener, "SELECT 1")
