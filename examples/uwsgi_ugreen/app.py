"""A page that waits 0.3 s for PostgreSQL and takes its text from a COPY, on uGreen.

See uwsgi.ini for how to run it. In async mode, uWSGI ends workers without waiting for
their requests, even for a reload that it calls graceful (SIGHUP). The thread below
makes each worker answer its requests before it ends.
"""

import io
import os
import select
import signal
import threading
import time

import psycopg2
import uwsgi

import psycogreen
from psycogreen.uwsgi import make_psycopg_green

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


def reload_when_touched():
    """Wait until this file is touched; then accept no more requests, and end when all are answered."""
    loaded = os.stat(__file__).st_mtime
    while os.stat(__file__).st_mtime == loaded:
        time.sleep(0.5)
    for number in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{number}").endswith("[eventpoll]"):
            with open(f"/proc/self/fdinfo/{number}") as info:
                watched = {int(line.split()[1]) for line in info if line.startswith("tfd:")}
            if watched.issuperset(uwsgi.sockets):  # the epoll instance of uWSGI's loop
                with select.epoll.fromfd(os.dup(int(number))) as loop:
                    for listening in uwsgi.sockets:
                        loop.unregister(listening)
    time.sleep(0.1)  # for a request that is just being accepted
    while uwsgi.workers()[uwsgi.worker_id() - 1]["status"] != b"idle":
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGHUP)  # uWSGI then starts a new worker


threading.Thread(target=reload_when_touched, daemon=True).start()
