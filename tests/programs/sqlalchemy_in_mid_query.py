"""dispose(), invalidate() and close() while other greenlets are in queries."""

import logging

from patched import executing, spawn, start_ticker, until, wait
from with_sqlalchemy import driver, engine, query

# isort: split
from sqlalchemy import exc, text
from support.outcomes import caught

# Otherwise the pool logs the refused rollback.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
ticker = start_ticker()
conns = []
CLOSED, WORDS = {
    "psycopg2": (exc.InterfaceError, "connection closed by another greenlet"),
    "psycopg": (exc.OperationalError, "the connection is closed"),
}[driver.__name__]


def sleeper(words, seconds):
    with engine.connect() as conn:
        conns.append(conn)
        return conn.scalar(text(f"SELECT 1 + 0 * length(pg_sleep({seconds})::text) /* {words} */"))


# dispose() closes idle connections, and lets the queries of others finish.
wait(spawn(query, 1))
greenlets = [spawn(caught, sleeper, "dispose", 0.3) for _ in range(5)]
until(lambda: executing("/* dispose */") == 5)
engine.dispose()
assert engine.pool.checkedin() == 0
assert [wait(g) for g in greenlets] == [1] * 5

# invalidate() closes a connection on which another greenlet waits.
conns.clear()
greenlet = spawn(caught, sleeper, "invalidate", 60)
until(lambda: executing("/* invalidate */") == 1)
conns[0].invalidate()
error = wait(greenlet)
assert isinstance(error, CLOSED) and WORDS in str(error), error
until(lambda: executing("/* invalidate */") == 0)

conns.clear()
if driver.__name__ == "psycopg2":
    # close() rolls back, which raises, and so the pool drops the connection.
    greenlet = spawn(caught, sleeper, "close", 60)
    until(lambda: executing("/* close */") == 1)
    caught(conns[0].close)
    error = wait(greenlet)
    assert WORDS in str(error), error
else:
    # close() rolls back, and psycopg's rollback() waits for the query.
    greenlet = spawn(caught, sleeper, "close", 0.3)
    until(lambda: executing("/* close */") == 1)
    conns[0].close()
    assert wait(greenlet) == 1
until(lambda: executing("/* close */") == 0)

assert wait(spawn(query, 5)) == 5
assert engine.pool.checkedout() == 0
assert ticker.longest_gap < 0.05, ticker.longest_gap
