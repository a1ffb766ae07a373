"""A page that waits 0.3 s for PostgreSQL and takes its text from a COPY, on uWSGI's gevent loop.

See uwsgi.ini for how to run it. uWSGI patches the standard library before it loads
this module.
"""

import io
import os

import psycopg2

import psycogreen
from psycogreen.gevent import make_psycopg_green

make_psycopg_green()
print(f"psycopg2 is green ({psycogreen.implementation} loop)", flush=True)


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
