"""trace_waits() reports waits, and changes nothing else."""

import functools
import io
import subprocess
import sys
import time

import psycopg2
import pytest
from psycopg2.extensions import get_wait_callback, parse_dsn, set_wait_callback
from support.processes import ROOT, child_environment

import psycogreen
from psycogreen.tracing import trace_waits

pytestmark = pytest.mark.library


@pytest.fixture
def waits(green):
    waits = []
    trace_waits(waits.append)
    return waits


def test_a_wait_has_its_purpose_connection_and_time(waits, connect, hub):
    connection = hub.run(connect)
    assert {wait.purpose for wait in waits} == {"connect"}
    assert all(wait.connection is connection for wait in waits)
    waits.clear()
    with hub.ticker(0.01) as ticker:
        hub.run(connection.cursor().execute, "SELECT pg_sleep(0.2)")
    assert ticker.ticks >= 4
    begin, query = waits  # psycopg2 begins a transaction first
    assert begin.purpose == query.purpose == "query"
    # The query was sent, and the server began to sleep, before the wait began.
    assert query.seconds > 0.15 > begin.seconds
    assert query.error is None
    waits.clear()
    hub.run(connection.cursor().copy_expert, "COPY (SELECT 1) TO STDOUT", io.StringIO())
    assert [wait.purpose for wait in waits] == ["COPY"]


def test_connections_stay_green(waits, connect):
    assert "green" in repr(connect())
    assert psycogreen.status().connections


def test_an_exception_that_ends_a_wait_is_reported(waits, connect, executing, hub):
    connection = hub.run(connect)
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(30), 'traced'")
    hub.wait_until(lambda: executing("traced"))
    task.kill()
    task.join()
    assert isinstance(waits[-1].error, hub.Kill)
    hub.wait_until(lambda: not executing("traced"))


def test_short_waits_are_not_reported(green, connect, hub):
    waits = []
    trace_waits(waits.append, threshold=0.1)
    cursor = hub.run(connect).cursor()
    hub.run(cursor.execute, "SELECT 1")
    hub.run(cursor.execute, "SELECT pg_sleep(0.5)")
    # On a busy machine, other waits may take long too.
    assert waits[-1].purpose == "query"
    assert all(wait.seconds >= 0.1 for wait in waits)


def test_the_log_has_the_waits(green, connect, hub, caplog):
    trace_waits()
    hub.run(connect)
    assert "connect took 0." in caplog.text
    assert "<green connection object at" in caplog.text
    assert {record.name for record in caplog.records} == {"psycogreen"}


def test_a_hook_that_fails_is_logged_and_the_query_is_answered(green, connect, hub, caplog):
    connection = hub.run(connect)
    trace_waits(lambda wait: 1 / 0)
    cursor = connection.cursor()
    hub.run(cursor.execute, "SELECT 1")
    assert cursor.fetchone() == (1,)
    assert "ZeroDivisionError" in caplog.text


def test_ending_the_trace_restores_the_callback(green, hub):
    set_wait_callback(limited := functools.partial(hub.wait_callback, timeout=None))
    trace_waits()
    trace_waits(print)
    trace_waits(None)
    assert get_wait_callback() is limited


def test_tracing_keeps_the_timeout(hub, dsn, waits):
    trace_waits(None)
    set_wait_callback(None)
    hub.adapter.make_psycopg_green(timeout=0.3)
    connection = hub.run(psycopg2.connect, dsn)
    trace_waits(waits.append)
    with pytest.raises(TimeoutError):
        hub.run(connection.cursor().execute, "SELECT pg_sleep(30)")
    assert isinstance(waits[-1].error, TimeoutError)


def test_tracing_without_a_callback_raises():
    with pytest.raises(RuntimeError, match=r"call make_psycopg_green\(\) first"):
        trace_waits()


@pytest.mark.once
def test_the_example_counts_waits_for_prometheus(dsn):
    pytest.importorskip("prometheus_client")
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    environment = {names[name]: value for name, value in parse_dsn(dsn).items()}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "examples/metrics/app.py"],
        env=child_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - begun < 30
    assert done.returncode == 0, done.stderr
    assert 'postgresql_wait_seconds_count{outcome="ok",purpose="query"}' in done.stdout
    assert 'postgresql_wait_seconds_count{outcome="Timeout",purpose="query"} 1.0' in done.stdout
    assert "query took 0." in done.stderr
