"""dispose(), invalidate() and close() while other greenlets are in queries."""

import logging

from patched import executing, spawn, start_ticker, until, wait
from with_sqlalchemy import engine, query

# isort: split
from sqlalchemy import exc, text
from support.outcomes import caught

# Otherwise the pool logs the refused rollback.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
ticker = start_ticker()
conns = []


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
assert isinstance(error, exc.InterfaceError), error
assert "connection closed by another greenlet" in str(error)
until(lambda: executing("/* invalidate */") == 0)

# close() rolls back, which raises, and so the pool drops the connection.
conns.clear()
greenlet = spawn(caught, sleeper, "close", 60)
until(lambda: executing("/* close */") == 1)
caught(conns[0].close)
error = wait(greenlet)
assert "connection closed by another greenlet" in str(error), error
until(lambda: executing("/* close */") == 0)

assert wait(spawn(query, 5)) == 5
assert engine.pool.checkedout() == 0
assert ticker.longest_gap < 0.05, ticker.longest_gap
