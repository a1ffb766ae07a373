"""Django's connections on green ones."""

from typing import Any

import pytest

pytestmark = pytest.mark.heavy


@pytest.mark.timeout(60)
def test_requests(run_with: Any) -> None:
    run_with(
        "django",
        """
    def request(n):
        # What Django's handlers do: a greenlet has its own connection.
        close_old_connections()
        try:
            pids = set()
            for _ in range(3):
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid(), pg_sleep(0.01)")
                    pids.add(cursor.fetchone()[0])
                close_old_connections()  # CONN_MAX_AGE: it stays
            assert len(pids) == 1
            with connection.chunked_cursor() as cursor:
                cursor.execute("SELECT generate_series(1, 5000)")
                assert len(cursor.fetchmany(3000)) == 3000
            # The server ends the session: the health check finds out.
            caught(lambda: connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())"))
            close_old_connections()
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s", [n])
                return cursor.fetchone()[0]
        finally:
            connection.close()

    assert [wait(g) for g in [spawn(request, n) for n in range(20)]] == list(range(20))
    assert ticker.longest < 0.05, ticker.longest
    """,
    )


@pytest.mark.timeout(60)
def test_close_and_kill_in_mid_query(run_with: Any) -> None:
    run_with(
        "django",
        """
    wrappers = []

    def sleeper(words):
        connection.inc_thread_sharing()
        wrappers.append(django.db.connections["default"])
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_sleep(60) /* {words} */")
        except Killed:
            # The next query connects anew.
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.close()
            raise

    greenlet = spawn(caught, sleeper, "close")
    until(lambda: active("%/* close */") == 1)
    wrappers[0].close()
    error = wait(greenlet)
    assert isinstance(error, django.db.InterfaceError), repr(error)
    assert "connection closed by another greenlet" in str(error), error
    until(lambda: active("%/* close */") == 0)

    wrappers.clear()
    greenlet = spawn(caught, sleeper, "old")
    until(lambda: active("%/* old */") == 1)
    close_old_connections()  # those of this greenlet
    wrappers[0].close_at = 0
    error = caught(wrappers[0].close_if_unusable_or_obsolete)
    assert error is None, error
    kill(greenlet, Killed())
    assert isinstance(wait(greenlet), (Killed, django.db.Error))
    until(lambda: active("%/* old */") == 0)

    greenlets = [spawn(caught, sleeper, "kill") for _ in range(10)]
    until(lambda: active("%/* kill */") == 10)
    for greenlet in greenlets:
        kill(greenlet, Killed())
    for greenlet in greenlets:
        assert isinstance(wait(greenlet), Killed), wait(greenlet)
    until(lambda: active("%/* kill */") == 0)
    assert ticker.longest < 0.05, ticker.longest
    """,
    )
