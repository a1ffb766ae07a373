"""The greenlet of each request keeps its connection between queries, and notices when the server ends it."""

from patched import spawn, start_ticker, wait
from with_django import pooled

# isort: split
from django.db import close_old_connections, connection, transaction
from support.outcomes import caught

ticker = start_ticker()


def request(n):
    # As Django's handlers do. Each greenlet has its own connection.
    close_old_connections()
    try:
        pids = set()
        for _ in range(3):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid(), pg_sleep(0.01)")
                pids.add(cursor.fetchone()[0])
            close_old_connections()  # with CONN_MAX_AGE the connection stays
        assert len(pids) == 1 or pooled
        with connection.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 5000)")
            assert len(cursor.fetchmany(3000)) == 3000
        # The server ends the session, and the health check notices.
        caught(lambda: connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())"))
        close_old_connections()
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s", [n])
            return cursor.fetchone()[0]
    finally:
        connection.close()


assert [wait(g) for g in [spawn(request, n) for n in range(20)]] == list(range(20))
assert ticker.longest_gap < 0.05, ticker.longest_gap
