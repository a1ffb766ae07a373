"""Greenlets are killed in their queries: the pool drops their connections."""

from patched import kill_ten, spawn, start_ticker, wait
from with_sqlalchemy import engine, query

# isort: split
from sqlalchemy import text

ticker = start_ticker()


def sleeper():
    with engine.begin() as conn:
        conn.execute(text("SELECT pg_sleep(60) /* kill */"))


kill_ten(sleeper, "/* kill */")
assert engine.pool.checkedout() == 0
assert sorted(wait(g) for g in [spawn(query, n) for n in range(20)]) == list(range(20))
assert ticker.longest_gap < 0.05, ticker.longest_gap
