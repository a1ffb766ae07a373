"""The duration of queries as metrics for Prometheus, and a log of slow queries.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server.
"""

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402
import psycopg2  # noqa: E402
from prometheus_client import Histogram, generate_latest  # noqa: E402

from psycogreen.gevent import make_psycopg_green  # noqa: E402
from psycogreen.tracing import Wait, log_wait, trace_waits  # noqa: E402

SLOW = 0.2  # seconds

WAITS = Histogram("postgresql_wait_seconds", "Waits for PostgreSQL", ["purpose", "outcome"])


def observe(wait: Wait) -> None:
    """Count *wait*; log it if it was slow."""
    outcome = "ok" if wait.error is None else type(wait.error).__name__
    WAITS.labels(wait.purpose, outcome).observe(wait.seconds)
    if wait.seconds > SLOW:
        log_wait(wait)


def query(seconds: float) -> None:
    conn = psycopg2.connect("")
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT pg_sleep(%s)", (seconds,))
    finally:
        conn.close()


make_psycopg_green()
trace_waits(observe)

if __name__ == "__main__":
    gevent.joinall([gevent.spawn(query, seconds) for seconds in (0, 0.1, 0.3)], raise_error=True)
    with gevent.Timeout(0.1, False):
        query(30)
    print(generate_latest().decode())
