"""More greenlets than connections, sessions that the server ended, and many rows."""

from patched import spawn, start_ticker, wait
from with_sqlalchemy import engine, monitor, query

# isort: split
import sqlalchemy
from sqlalchemy import text

ticker = start_ticker()
# More greenlets than connections.
assert sorted(wait(g) for g in [spawn(query, n) for n in range(40)]) == list(range(40))
assert engine.pool.checkedout() == 0

# After the server has ended the sessions, the pool's ping notices.
with monitor.connect() as conn:
    conn.execute(
        text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND application_name = 'psycogreen'"
        )
    )
assert sorted(wait(g) for g in [spawn(query, n) for n in range(10)]) == list(range(10))

# Fetch rows in parts, and insert many rows at once.
with engine.begin() as conn:
    rows = conn.execution_options(stream_results=True).execute(text("SELECT generate_series(1, 3000)"))
    assert len(rows.fetchall()) == 3000
with engine.begin() as conn:
    table = sqlalchemy.Table(
        "t", sqlalchemy.MetaData(), sqlalchemy.Column("x", sqlalchemy.Integer), prefixes=["TEMPORARY"]
    )
    table.create(conn)
    conn.execute(table.insert(), [{"x": n} for n in range(2000)])
    assert conn.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)) == 2000
assert ticker.longest_gap < 0.05, ticker.longest_gap
