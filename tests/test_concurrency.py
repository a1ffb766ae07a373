"""While one greenlet waits for the server, the others run."""

import time

import pytest
from support.server_state import in_query

pytestmark = pytest.mark.hub


@pytest.mark.core
def test_queries_overlap(connect, hub):
    connections = [connect() for _ in range(20)]

    def sleep(connection):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_sleep(0.2)")
        return cursor.rowcount

    with hub.ticker(0.01) as ticker:
        started = time.monotonic()
        tasks = [hub.spawn(sleep, connection) for connection in connections]
        assert [task.wait() for task in tasks] == [1] * 20
        took = time.monotonic() - started
    assert 0.2 <= took < 1  # one after the other: 4 s
    assert ticker.ticks >= 10
    assert ticker.longest_gap < 0.05


def test_connecting_overlaps(connect, hub):
    with hub.ticker(0.01) as ticker:
        started = time.monotonic()
        # The setting takes whole seconds.
        tasks = [hub.spawn(lambda: connect(options="-c post_auth_delay=1")) for _ in range(10)]
        for task in tasks:
            task.wait()
        took = time.monotonic() - started
    assert 1 <= took < 3
    assert ticker.ticks >= 50
    assert ticker.longest_gap < 0.05


def test_shorter_queries_end_earlier(connect, hub):
    done = []

    def sleep(seconds):
        connect().cursor().execute("SELECT pg_sleep(%s)", [seconds])
        done.append(seconds)

    tasks = [hub.spawn(sleep, seconds) for seconds in (0.6, 0.4, 0.2)]
    for task in tasks:
        task.wait()
    assert done == [0.2, 0.4, 0.6]


def test_many_short_queries_get_their_own_answers(connect, hub):
    def work(number):
        cursor = connect().cursor()
        for i in range(100):
            cursor.execute("SELECT %s, %s", (number, i))
            assert cursor.fetchall() == [(number, i)]
        return number

    tasks = [hub.spawn(work, number) for number in range(30)]
    assert [task.wait() for task in tasks] == list(range(30))


def test_a_large_result_does_not_delay_a_quick_query(connect, hub):
    large, quick = connect(), connect()

    def fetch():
        cursor = large.cursor("large", withhold=True)
        cursor.execute("SELECT repeat('x', 1000000) FROM generate_series(1, 50)")
        cursor.itersize = 1
        return sum(len(row[0]) for row in cursor)

    task = hub.spawn(fetch)
    answered = 0
    while not task.done:
        cursor = quick.cursor()
        cursor.execute("SELECT 1")
        answered += 1
        hub.sleep(0)
    assert task.wait() == 50_000_000
    assert answered >= 20


def test_another_greenlet_can_cancel_a_query(connect, hub, observer):
    import psycopg2

    connection = connect()
    connection.autocommit = True

    def sleep():
        connection.cursor().execute("SELECT pg_sleep(20)")

    task = hub.spawn(sleep)
    # Wait until the query is in the server: an earlier cancel request has no effect.
    pid = connection.info.backend_pid
    hub.wait_until(lambda: observer.count("pid = %s AND state = 'active'", pid))
    connection.cancel()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        task.wait()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_a_second_query_on_a_waiting_connection_raises(connect, hub):
    import psycopg2

    connection = connect()
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(0.2)")
    hub.wait_until(lambda: in_query(connection))
    with pytest.raises(psycopg2.ProgrammingError):
        connection.cursor().execute("SELECT 1")
    task.wait()


@pytest.mark.core
def test_the_main_greenlet_may_wait(connect):
    cursor = connect().cursor()
    cursor.execute("SELECT pg_sleep(0.01)")
    assert cursor.rowcount == 1


def test_the_hub_runs_while_a_query_is_its_only_event_source(connect, hub):
    # No timer, no other greenlet: the hub must neither end nor raise.
    connection = connect()
    assert hub.run(lambda: connection.cursor().execute("SELECT pg_sleep(0.1)")) is None
