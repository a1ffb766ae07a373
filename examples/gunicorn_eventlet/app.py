"""A page that waits 0.3 s for PostgreSQL and takes its text from a COPY, in plain blocking code.

With a gunicorn before release 26, in this folder, where it finds gunicorn.conf.py by itself::

    DATABASE_URL=postgresql:///postgres gunicorn app:application

With ``--preload`` the master imports this module, once for all workers.
"""

import io
import os

import psycopg2


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
