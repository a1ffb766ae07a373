"""Greenlets are killed in their queries: the pool throws the connections away."""

from patched import Killed, executing, kill, spawn, start_ticker, until, wait
from with_sqlalchemy import engine, query

# isort: split
from sqlalchemy import text
from support.outcomes import caught

ticker = start_ticker()


def sleeper():
    with engine.begin() as conn:
        conn.execute(text("SELECT pg_sleep(60) /* kill */"))


greenlets = [spawn(caught, sleeper) for _ in range(10)]
until(lambda: executing("/* kill */") == 10)
for greenlet in greenlets:
    kill(greenlet, Killed())
for greenlet in greenlets:
    assert isinstance(wait(greenlet), Killed), wait(greenlet)
until(lambda: executing("/* kill */") == 0)
assert engine.pool.checkedout() == 0
assert sorted(wait(g) for g in [spawn(query, n) for n in range(20)]) == list(range(20))
assert ticker.longest_gap < 0.05, ticker.longest_gap
