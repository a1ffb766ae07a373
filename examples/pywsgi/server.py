"""gevent's own WSGI server, with a page that waits 0.3 s for PostgreSQL and takes its text from a COPY.

Serve it at port 8000 of this machine::

    DATABASE_URL=postgresql:///postgres python server.py 8000

After SIGTERM it accepts no more requests, answers those that it has accepted, and ends.
"""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import make_psycopg_green  # noqa: E402

make_psycopg_green()

import io  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
import psycopg2  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

import psycogreen  # noqa: E402


def application(environ, start_response):
    conn = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT pg_sleep(0.3)")
            page = io.BytesIO()
            cur.copy_expert(
                f"COPY (SELECT {os.getpid()} AS worker, pg_backend_pid() AS backend) TO STDOUT WITH CSV HEADER", page
            )
    finally:
        conn.close()
    start_response("200 OK", [("Content-Type", "text/csv")])
    return [page.getvalue()]


# With a pool, the server waits for the pool's greenlets before it ends.
server = WSGIServer(("127.0.0.1", int(sys.argv[1])), application, spawn=Pool(1000))
gevent.signal_handler(signal.SIGTERM, server.close)
print(f"Worker {os.getpid()}: psycopg2 is green ({psycogreen.implementation} loop)", flush=True)
server.serve_forever(stop_timeout=30)  # seconds until it kills greenlets that still run; the default is 1
