"""SQLAlchemy's pool on green connections."""

from typing import Any

import pytest

pytestmark = pytest.mark.heavy


@pytest.mark.timeout(60)
def test_work(run_with: Any) -> None:
    run_with(
        "sqlalchemy",
        """
    # More greenlets than connections.
    assert sorted(wait(g) for g in [spawn(query, n) for n in range(40)]) == list(range(40))
    assert engine.pool.checkedout() == 0

    # A server that ended its sessions: the ping finds out.
    with monitor.connect() as conn:
        conn.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                          " WHERE pid <> pg_backend_pid() AND application_name = 'psycogreen'"))
    assert sorted(wait(g) for g in [spawn(query, n) for n in range(10)]) == list(range(10))

    # Rows from the server bit by bit, and many rows at once.
    with engine.begin() as conn:
        rows = conn.execution_options(stream_results=True).execute(text("SELECT generate_series(1, 3000)"))
        assert len(rows.fetchall()) == 3000
    with engine.begin() as conn:
        table = sqlalchemy.Table("t", sqlalchemy.MetaData(), sqlalchemy.Column("x", sqlalchemy.Integer),
                                 prefixes=["TEMPORARY"])
        table.create(conn)
        conn.execute(table.insert(), [{"x": n} for n in range(2000)])
        assert conn.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)) == 2000
    assert ticker.longest < 0.05, ticker.longest
    """,
    )


@pytest.mark.timeout(60)
def test_kills(run_with: Any) -> None:
    run_with(
        "sqlalchemy",
        """
    def sleeper():
        with engine.begin() as conn:
            conn.execute(text("SELECT pg_sleep(60) /* kill */"))

    greenlets = [spawn(caught, sleeper) for _ in range(10)]
    until(lambda: active("%/* kill */") == 10)
    for greenlet in greenlets:
        kill(greenlet, Killed())
    for greenlet in greenlets:
        assert isinstance(wait(greenlet), Killed), wait(greenlet)
    until(lambda: active("%/* kill */") == 0)
    assert engine.pool.checkedout() == 0
    assert sorted(wait(g) for g in [spawn(query, n) for n in range(20)]) == list(range(20))
    assert ticker.longest < 0.05, ticker.longest
    """,
    )


@pytest.mark.timeout(60)
def test_in_mid_query(run_with: Any) -> None:
    run_with(
        "sqlalchemy",
        """
    conns = []

    def sleeper(words, seconds):
        with engine.connect() as conn:
            conns.append(conn)
            return conn.scalar(text(f"SELECT 1 + 0 * length(pg_sleep({seconds})::text) /* {words} */"))

    # dispose() closes what is idle, and lets the others finish.
    wait(spawn(query, 1))
    greenlets = [spawn(caught, sleeper, "dispose", 0.3) for _ in range(5)]
    until(lambda: active("%/* dispose */") == 5)
    engine.dispose()
    assert engine.pool.checkedin() == 0
    assert [wait(g) for g in greenlets] == [1] * 5

    # invalidate() closes a connection on which another greenlet waits.
    conns.clear()
    greenlet = spawn(caught, sleeper, "invalidate", 60)
    until(lambda: active("%/* invalidate */") == 1)
    conns[0].invalidate()
    error = wait(greenlet)
    assert isinstance(error, exc.InterfaceError), error
    assert "connection closed by another greenlet" in str(error)
    until(lambda: active("%/* invalidate */") == 0)

    # close() means rollback, which is refused, and so the pool throws the connection away.
    conns.clear()
    greenlet = spawn(caught, sleeper, "close", 60)
    until(lambda: active("%/* close */") == 1)
    caught(conns[0].close)
    error = wait(greenlet)
    assert "connection closed by another greenlet" in str(error), error
    until(lambda: active("%/* close */") == 0)

    assert wait(spawn(query, 5)) == 5
    assert engine.pool.checkedout() == 0
    assert ticker.longest < 0.05, ticker.longest
    """,
    )
