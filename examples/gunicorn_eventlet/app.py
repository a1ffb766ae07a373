"""A page that sits 0.3 s in PostgreSQL: plain blocking code that knows nothing of greenlets.

With a gunicorn before release 26, in this folder, where it finds gunicorn.conf.py by itself::

    DATABASE_URL=postgresql:///postgres gunicorn app:application

With ``--preload`` the master imports this module, once for all workers.
"""

import os

import psycopg2


def application(environ, start_response):
    conn = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT pg_backend_pid() FROM pg_sleep(0.3)")
            (backend,) = cur.fetchone()
    finally:
        conn.close()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"worker {os.getpid()} slept in backend {backend}\n".encode()]
